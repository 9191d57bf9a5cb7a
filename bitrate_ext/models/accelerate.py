"""Networks that run faster and cost every symbol the same: copies in another memory format, precision, or compiled.

A model's entropy models keep float32 whatever the rest computes in: float16 turns CompressAI's smallest likelihood,
1e-9, into zero, and bfloat16 does not tell likelihoods near one apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..memory import is_out_of_memory
from .adapter import ModelAdapter
from .copies import copy_model
from .fuse import entropy_models
from .trace import ModelTrace

REDUCED = (torch.bfloat16, torch.float16)


def accelerate(
    model: nn.Module,
    *,
    channels_last: bool = True,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Copy a model into one that runs faster; the model itself is left as it is.

    Args:
        model: in eval mode.
        channels_last: convolutions in that memory format; about twice as fast on many CPUs.
        dtype: bfloat16 or float16: the copy is to be run under ``torch.autocast`` of that type. Its entropy models
            are given float32 and compute in it. Latents, and so bits, are then those of the coarser network.

    Raises:
        TypeError: ``dtype`` is another one.
        ValueError: ``dtype`` is given for a model without one of CompressAI's entropy models, whose likelihoods
            would be computed in it; or the model cannot be copied.
    """
    if dtype is not None and dtype not in REDUCED:
        raise TypeError(f"dtype must be None, torch.bfloat16 or torch.float16, got {dtype!r}")
    network = copy_model(model)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if dtype is not None:
        found = [module for _, module in entropy_models(network)]
        if not found:
            raise ValueError(
                f"dtype {dtype} needs a model built on CompressAI's entropy models, which keep float32; "
                f"{type(model).__name__} has none"
            )
        for module in found:
            module.forward = partial(_in_float32, module.forward)  # which a copy binds to its own module
    return network


def compile_parts(network: nn.Module) -> None:
    """Put the largest parts without an entropy model under ``torch.compile``; that happens at their next call.

    What the entropy models compute stays as it is, to the last bit.
    """
    if not any(entropy_models(network)):
        network.compile(dynamic=False)
        return
    for child in network.children():
        compile_parts(child)


def skip_synthesis(adapter: ModelAdapter, x: Tensor, forward_kwargs: dict[str, Any]) -> ModelAdapter:
    """Copy a model into one whose synthesis transforms return black images: no symbol's cost depends on them.

    That none does is seen by trying, on copies: where the likelihoods of ``x`` change, no synthesis transform is found,
    or the model cannot be copied or run so, it is returned itself, in its adapter.

    Args:
        adapter: of an image model, in eval mode.
        x: ``[1, C, H, W]`` in [0, 1], of any size; small ones will do.
        forward_kwargs: for the model's ``forward``.
    """
    try:
        run = ModelTrace(adapter.with_model(copy_model(adapter.module, parameters=False)), x, forward_kwargs)
        blacks, prepared = _blacks(run), run.adapter.with_model(adapter.module)
        with torch.no_grad():
            likelihoods = _without(prepared, blacks).run(run.padded, forward_kwargs)[1]
        same = blacks and all(torch.equal(likelihoods[name], p) for name, p in run.likelihoods.items())
        return _without(prepared, blacks) if same else adapter
    except Exception as error:  # of whatever other parts of the model do without the real one; it saves time alone
        if is_out_of_memory(error):
            raise
        return adapter


def _blacks(run: ModelTrace) -> dict[str, nn.Module]:
    """Return a stand-in for each synthesis transform that a run has shown, by its name."""
    blacks: dict[str, nn.Module] = {}
    for latent in run.likelihoods:
        try:
            found = run.synthesis(latent)
        except ValueError:  # a latent that no module takes to the image's size
            continue
        with torch.no_grad():
            channels = found.transform(found.inputs.clone()).shape[1]
        blacks[found.name] = _Black(run.adapter.strides[latent], channels)
    return blacks


def _without(adapter: ModelAdapter, blacks: dict[str, nn.Module]) -> ModelAdapter:
    """Copy a model into one with stand-ins in the place of modules."""
    copied = copy_model(adapter.module, parameters=False)
    for name, black in blacks.items():
        parent, _, child = name.rpartition(".")
        setattr(copied.get_submodule(parent), child, black)
    return adapter.with_model(copied)


class _Black(nn.Module):
    """A stand-in for a synthesis transform."""

    def __init__(self, stride: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.stride, self.channels = stride, channels

    def forward(self, y: Tensor, *_: Any, **__: Any) -> Tensor:
        return y.new_zeros(len(y), self.channels, y.shape[2] * self.stride[0], y.shape[3] * self.stride[1])


def _in_float32(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run an entropy model's ``forward`` outside of autocast, on float32."""
    device = next((value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), "cpu")
    with torch.autocast(device, enabled=False):
        return forward(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in REDUCED else value
