"""Attribution on the side of the encoder, by Captum: which pixels cause the bits, which features the rate hangs on.

Both need the rate as a differentiable function of the image, R(x): the bits of latents that are not rounded. Rounding
is taken out of the model while it runs, so that any model serves in eval mode.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..mapping.layout import true_values
from ..models.adapter import ModelAdapter, crop_canvas
from ..models.observe import watch_calls
from ..ops.functional import latent_bits
from ..optional import require
from .result import Attribution

LARGE_GAP = 0.05  # of completeness, from which on there is a warning
STEPS_AT_ONCE = 4  # of the path, to bound memory


class _Unrounded(TorchFunctionMode):
    """Inside, ``torch.round`` returns its input."""

    ROUNDING = (torch.round, torch.round_, Tensor.round, Tensor.round_)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if function in self.ROUNDING else function(*args, **(kwargs or {}))


def rate(adapter: ModelAdapter, padded: Tensor, forward_kwargs: dict[str, Any]) -> Tensor:
    """Return R(x), the bits ``[N]`` of padded images ``[N, C, H, W]`` whose latents are not rounded.

    True values where the entropy models' distributions are seen: no floor hides what unlikely symbols hang on.
    """
    with _Unrounded():
        _, likelihoods = adapter.run(padded, forward_kwargs, fused=True)
    values, _ = true_values(likelihoods)
    bits = torch.stack([latent_bits(p, unit=adapter.unit).sum(dim=(1, 2)) for p in values.values()]).sum(dim=0)
    if torch.is_grad_enabled() and not bits.requires_grad:
        raise ValueError(
            f"model must return likelihoods that have gradients for this method, got {', '.join(values)} without any; "
            "where forward() returns others too, choose them with ModelAdapter(model, likelihoods=...), or take "
            "method='jacobian'"
        )
    return bits


def integrated_gradients(
    adapter: ModelAdapter, x: Tensor, steps: int, baseline: Tensor | None, forward_kwargs: dict[str, Any]
) -> Attribution:
    """Attribute bits to the pixels of the input that cause them; see ``attribute``."""
    captum = require("captum.attr")
    if baseline is None:
        baseline = x.mean(dim=(2, 3), keepdim=True)
    baseline = _checked_baseline(baseline, x)
    padded, crop, arguments = adapter.pad(x, forward_kwargs)
    start = adapter.pad(baseline)[0]

    def bits(images: Tensor) -> Tensor:
        return rate(adapter, images, arguments)

    gradients = captum.IntegratedGradients(bits, multiply_by_inputs=True)
    spread = gradients.attribute(
        padded, start, n_steps=steps, method="gausslegendre", internal_batch_size=STEPS_AT_ONCE * len(x)
    )
    with torch.no_grad():
        total = (bits(padded) - bits(start)).double()
    one = spread.detach().sum(dim=1, keepdim=True)
    inside = crop_canvas(one, crop)
    everything = one.double().sum(dim=(1, 2, 3))
    error = (everything - total).abs() / total.abs().clamp_min(torch.finfo(torch.float64).tiny)
    if (error > LARGE_GAP).any():
        warnings.warn(
            f"integrated gradients of {steps} steps miss {100 * error.max().item():.0f} % of the bits above the "
            "baseline's; raise passes",
            stacklevel=3,
        )
    padding = everything - inside.double().sum(dim=(1, 2, 3))  # zero: both images are black there
    return Attribution(inside, "integrated-gradients", "bits per pixel", True, total, padding, error, {})


def grad_cam(adapter: ModelAdapter, x: Tensor, layer: str | None, forward_kwargs: dict[str, Any]) -> Attribution:
    """Map how sensitive the rate is to the features of a layer; see ``attribute``."""
    captum = require("captum.attr")
    padded, crop, arguments = adapter.pad(x, forward_kwargs)
    module = _layer(adapter, padded, layer, arguments)
    cam = captum.LayerGradCam(lambda images: rate(adapter, images, arguments), module)
    try:
        weights = cam.attribute(padded.clone().requires_grad_(), relu_attributions=True).detach()
    except RuntimeError as error:
        if "not have been used in the graph" not in str(error):
            raise
        name = next(name for name, one in adapter.module.named_modules() if one is module)
        raise ValueError(f"no bits hang on what layer {name!r} returns; name another as layer") from error
    one = F.interpolate(weights, size=padded.shape[2:], mode="bilinear", align_corners=False)
    inside = crop_canvas(one, crop)
    total, kept = (values.double().sum(dim=(1, 2, 3)) for values in (one, inside))
    return Attribution(inside, "grad-cam", "sensitivity", False, total, total - kept, None, {})


def _checked_baseline(baseline: Any, x: Tensor) -> Tensor:
    if not isinstance(baseline, Tensor) or not baseline.is_floating_point():
        got = baseline.dtype if isinstance(baseline, Tensor) else type(baseline).__name__
        raise TypeError(f"baseline must be a floating-point tensor that broadcasts to x, got {got}")
    try:
        return baseline.to(x).expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"baseline must broadcast to the shape of x, {list(x.shape)}, got {list(baseline.shape)}"
        ) from None


def _layer(adapter: ModelAdapter, padded: Tensor, named: str | None, forward_kwargs: dict[str, Any]) -> nn.Module:
    """Return the module of that name, or the outermost that takes the image to the grid of the first latent."""
    modules: dict[str, nn.Module] = {name: module for name, module in adapter.module.named_modules() if name}
    if named is not None:
        if named not in modules:
            raise ValueError(
                f"layer must name a module of the model, such as {next(iter(modules), '')!r}, got {named!r}"
            )
        return modules[named]
    latent, grid = next(iter(adapter.grids(padded.shape[2:]).items()))
    fitting: list[str] = []

    def after(name: str, _module: nn.Module, args: Any, _kwargs: Any, output: Any) -> None:
        given = args[0] if args else None
        shapes = [value.shape if isinstance(value, Tensor) else () for value in (given, output)]
        if shapes[0] == padded.shape and shapes[1][2:] == grid:
            fitting.append(name)

    with watch_calls(modules.items(), after), torch.no_grad():
        adapter.run(padded, forward_kwargs)
    if not fitting:
        raise ValueError(
            f"no analysis transform found: looked for a module that takes {list(padded.shape)} to a tensor "
            f"[N, C, {grid[0]}, {grid[1]}], the grid of latent {latent!r}; name one as layer"
        )
    return modules[min(fitting, key=list(modules).index)]
