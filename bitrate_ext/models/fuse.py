"""Run CompressAI's entropy models through the operator: their interface stays, likelihoods are made when asked for.

A fused entropy model is of a class made for it, which derives from its own: its ``forward`` quantises as CompressAI
does, and returns likelihoods that know their source of bits (``ops.rate.deferred``). All else is CompressAI's own code.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import SimpleNamespace, TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..ops.rate.deferred import DeferredLikelihoods, defer
from ..ops.rate.packed import Packed
from ..ops.sources import Factorized, Gaussian, GaussianMixture, Source
from ..ops.torch_internals import dispatch_modes, in_function_transform

HOME = "compressai.entropy_models"
DTYPES = (torch.float32, torch.float64)
Made = tuple[Tensor, Source]  # outputs of an entropy model, and what their likelihoods are made of
Forward = Callable[..., Made | None]  # of an entropy model; None: as CompressAI computes it


class Fused:
    """A model whose entropy models compute through the operator, until ``undo``; made by ``fuse``.

    Example:
        >>> fused = bitrate_ext.fuse(model)
        >>> fused.names
        ('entropy_bottleneck', 'gaussian_conditional')
        >>> fused.undo()
    """

    def __init__(self, model: nn.Module) -> None:
        found = dict(_entropy_models(model))
        self.left: dict[str, str] = {}  # names of entropy models that stay as they are, and why
        self._fused: list[nn.Module] = []
        for name, module in found.items():
            reason = _left_because(model, name, module)
            if reason:
                self.left[name] = reason
        self.names = tuple(name for name in found if name not in self.left)  # of those that are fused
        self._fused = [found[name] for name in self.names]
        for module in self._fused:
            _enter(module)

    def undo(self) -> None:
        """Make the model what it was; a second call changes nothing."""
        while self._fused:
            _leave(self._fused.pop())

    def __enter__(self) -> Fused:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        left = "".join(f"; {name} left alone: {reason}" for name, reason in self.left.items())
        return f"<Fused: {', '.join(self.names) or 'nothing'}{left}>"


def fuse(model: nn.Module) -> Fused:
    """Let CompressAI's entropy models in a model compute through the operator, without tensors of likelihoods.

    Of ``EntropyBottleneck``, ``GaussianConditional``, ``GaussianMixtureConditional`` and ``EntropyBottleneckVbr``,
    wherever they are in the model, ``forward`` still returns ``(outputs, likelihoods)``. The outputs are CompressAI's,
    to the last bit and with the same noise in train mode. The likelihoods are a tensor that has not been made yet:
    ``bitrate_map``, ``latent_bits``, ``rate`` and ``RateLoss`` take the latent and its distribution from it, slices put
    together by ``torch.cat`` included, and parts that the model writes into a tensor of its own, box by box. Whatever
    else is done to it makes the tensor, the floor and the gradient of CompressAI's ``LowerBound`` included: exact
    values, rounded once.

    ``with fuse(model): ...`` fuses for a block; ``fused = fuse(model)`` until ``fused.undo()``. Either leaves the model
    as it was found. Blocks may be nested, also in several threads, which share the model: it is fused until the last
    has ended. Copies and pickles of a fused model are not fused. ``fused.names`` are the entropy models that are fused,
    ``fused.left`` says of the others why not: a subclass that computes likelihoods its own way is left alone, as is
    what ``torch.compile`` runs. Latents that are not ``[N, C, h, w]``, or not float32 or float64, are CompressAI's own
    affair, too.

    Args:
        model: any module with CompressAI's entropy models in it, in train mode or not.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: there is no entropy model in it.

    Example:
        >>> with bitrate_ext.fuse(model), torch.no_grad():
        ...     bits = bitrate_ext.rate(model(x)["likelihoods"])  # no likelihoods are made
        >>> bits.shape
        torch.Size([1])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if not _entropy_models(model):
        raise ValueError(
            f"model must have one of CompressAI's entropy models in it, got {type(model).__name__} with none; give "
            "latents and their distributions to bitrate_ext.rate yourself, as bitrate_ext.Gaussian and its kin"
        )
    return Fused(model)


def fuse_quietly(model: object) -> contextlib.AbstractContextManager[object]:
    """Fuse what can be for a block, of any model, or module whose method it is."""
    owner = getattr(model, "__self__", model)
    return Fused(owner) if isinstance(owner, nn.Module) else contextlib.nullcontext()


def why_unseen(model: object, values: Mapping[str, Any], known: Collection[str]) -> dict[str, str]:
    """Return of the latents that are not known to have a source why not, as far as can be told from outside."""
    reasons: dict[str, str] = {}
    if len(known) == len(values):
        return reasons
    owner = getattr(model, "__self__", model)
    found = _entropy_models(owner) if isinstance(owner, nn.Module) else []
    left = "; ".join(f"{name} is left alone: {why}" for name, one in found if (why := _left_because(owner, name, one)))
    for name, p in values.items():
        if name in known:
            continue
        if not found:
            reasons[name] = "the model has none of CompressAI's entropy models in it"
        elif isinstance(p, DeferredLikelihoods):
            reasons[name] = "the model writes into what its entropy model returns, or takes a view of it"
        elif p.dim() != 4 or p.dtype not in DTYPES:
            reasons[name] = f"sources are [N, C, h, w] in float32 or float64, and these {p.dtype} {list(p.shape)}"
        else:
            reasons[name] = left or "the model computes them of what its entropy models take or return"
    return reasons


def _entropy_models(model: nn.Module) -> list[tuple[str, nn.Module]]:
    theirs = sys.modules.get(HOME)  # not imported: no model is built on it
    if theirs is None:
        return []
    kinds = (theirs.EntropyModel, theirs.EntropyBottleneckVbr)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _own_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module as it was found."""
    return getattr(type(module), "_fuses", type(module))


def _kind(module: nn.Module) -> tuple[type[nn.Module], Forward, tuple[str, ...]] | None:
    """Return the class of CompressAI's that a module is of, its fused forward, and the methods that must be theirs."""
    theirs = sys.modules[HOME]
    kinds: list[tuple[str, Forward, tuple[str, ...]]] = [
        ("GaussianMixtureConditional", _mixture, ("_likelihood", "_standardized_cumulative")),
        ("GaussianConditional", _gaussian, ("_likelihood", "_standardized_cumulative")),
        ("EntropyBottleneck", _bottleneck, ("_likelihood", "_logits_cumulative")),
        ("EntropyBottleneckVbr", _bottleneck_vbr, ("_likelihood", "_likelihood_variable", "_logits_cumulative")),
    ]
    for name, forward, methods in kinds:
        kind = getattr(theirs, name, None)
        if kind is not None and isinstance(module, kind):
            return kind, forward, ("forward", *methods)
    return None


def _left_because(model: Any, name: str, module: nn.Module) -> str:
    return _why_not(module) or _compiled_above(model, name)


def _why_not(module: nn.Module) -> str:
    """Return why a module's likelihoods are not known to be CompressAI's; empty where they are."""
    kind = _kind(module)
    if kind is None:
        return f"{type(module).__name__} is no kind of entropy model that has a source"
    own = _own_class(module)
    for name in kind[2]:
        method = inspect.getattr_static(own, name)
        theirs = method is inspect.getattr_static(kind[0], name) and method.__module__.startswith(HOME)
        if name in vars(module) or not theirs:
            return f"{own.__name__} has a {name} of its own"
    bounds = ("lower_bound_scale", "likelihood_lower_bound")
    lower_bound = sys.modules["compressai.ops"].LowerBound
    for name in bounds:
        if type(getattr(module, name, None)) not in (type(None), lower_bound):
            return f"its {name} is no LowerBound of CompressAI's"
    return ""


def _compiled_above(model: nn.Module, name: str) -> str:
    """Return a reason where a module, or one that it is in, runs compiled; empty elsewhere."""
    parts = name.split(".") if name else []
    for depth in range(len(parts) + 1):
        above = model.get_submodule(".".join(parts[:depth]))
        if hasattr(above, "_orig_mod") or getattr(above, "_compiled_call_impl", None) is not None:
            return "torch.compile runs it"
    return ""


_lock = threading.Lock()
_blocks: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # in which a module is fused
_classes: weakref.WeakKeyDictionary[type[nn.Module], type[nn.Module]] = weakref.WeakKeyDictionary()


def _enter(module: nn.Module) -> None:
    with _lock:
        blocks = _blocks[module] = _blocks.get(module, 0) + 1
        if blocks == 1:
            module.__class__ = _fused_class(module)


def _leave(module: nn.Module) -> None:
    with _lock:
        _blocks[module] -= 1
        if not _blocks[module]:
            del _blocks[module]
            module.__class__ = _own_class(module)


def _fused_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a fused entropy model: its own, with another ``forward``."""
    own, kind = type(module), _kind(module)
    assert kind is not None
    if own not in _classes:
        _classes[own] = type(
            own.__name__, (_FusedForward, own), {"_fuses": own, "_kind_forward": staticmethod(kind[1])}
        )
        _classes[own].__module__, _classes[own].__qualname__ = own.__module__, own.__qualname__
    return _classes[own]


class _FusedForward(nn.Module):
    """What fused classes have before their own."""

    _fuses: type[nn.Module]
    _kind_forward: Forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own = self._fuses.forward
        if torch.compiler.is_compiling() or in_function_transform() or dispatch_modes():
            return own(self, *args, **kwargs)
        found = self._kind_forward(self, *args, **kwargs)
        if found is None:
            return own(self, *args, **kwargs)
        outputs, source = found
        return outputs, defer(source)

    def __reduce_ex__(self, _: Any) -> Any:
        """Return what makes a copy, of the class that the module was found with: as protocol 1 does, for any class."""
        make, arguments, *rest = cast("tuple[Any, ...]", super().__reduce_ex__(1))
        return make, tuple(self._fuses if one is type(self) else one for one in arguments), *rest


def _number(bound: Any) -> float:
    """Return the value of a ``LowerBound``; of one on a GPU it is kept, for a look waits for the device."""
    buffer: Tensor = bound.bound
    if buffer.device.type == "cpu" or buffer.is_inference():
        return float(buffer)
    version, value = _numbers.get(bound, (None, 0.0))
    key = (buffer.data_ptr(), buffer._version)
    if version != key:
        value = float(buffer)
        _numbers[bound] = (key, value)
    return value


_numbers: weakref.WeakKeyDictionary[nn.Module, tuple[Any, float]] = weakref.WeakKeyDictionary()


def _floor(module: Any) -> float | None:
    return _number(module.likelihood_lower_bound) or None if module.use_likelihood_bound else None


def _suits(values: Any, *others: Any) -> bool:
    """Return whether tensors are of one kind that sources take."""
    if not isinstance(values, Tensor) or values.dim() != 4 or values.dtype not in DTYPES:
        return False
    plain = all(type(one) in (Tensor, nn.Parameter) for one in (values, *others))
    return plain and all((one.dtype, one.device) == (values.dtype, values.device) for one in others)


def _mode(module: Any, training: bool | None) -> str:
    return "noise" if (module.training if training is None else training) else "dequantize"


def _kept(part: Tensor) -> Tensor:
    """Return the tensor; in inference mode a copy, for there nothing tells that it has been written into."""
    return part.clone() if part.is_inference() else part


def _gaussian(
    self: Any, inputs: Tensor, scales: Tensor, means: Tensor | None = None, training: bool | None = None
) -> Made | None:
    given = [scales] if means is None else [scales, means]
    shape = inputs.shape
    if not _suits(inputs, *given) or not all(_broadcasts(one.shape, shape) for one in given):
        return None
    outputs = self.quantize(inputs, _mode(self, training), means)
    parts = [_kept(one.expand(shape)) for one in given]
    bound, values = _number(self.lower_bound_scale), outputs.clone()  # for the model may write into its outputs
    return outputs, Gaussian(values, *parts, scale_bound=bound, floor=_floor(self))


def _broadcasts(one: torch.Size, shape: torch.Size) -> bool:
    sides = zip(reversed(one), reversed(shape), strict=False)
    return len(one) <= len(shape) and all(own in (1, full) for own, full in sides)


def _mixture(
    self: Any, inputs: Tensor, scales: Tensor, means: Tensor, weights: Tensor, training: bool | None = None
) -> Made | None:
    given = (scales, means, weights)
    if not _suits(inputs, *given):
        return None
    batch, channels, *grid = inputs.shape
    if any(one.shape != (batch, self.K * channels, *grid) for one in given):
        return None
    outputs = self.quantize(inputs, _mode(self, training), means=None)
    bound, values = _number(self.lower_bound_scale), outputs.clone()
    return outputs, GaussianMixture(values, *map(_kept, given), scale_bound=bound, floor=_floor(self))


def _bottleneck(self: Any, x: Tensor, training: bool | None = None) -> Made | None:
    def quantized(values: Tensor) -> Tensor:
        return self.quantize(values, _mode(self, training), self._get_medians())  # type: ignore[no-any-return]

    return _factorized(self, x, quantized)


def _bottleneck_vbr(
    self: Any, x: Tensor, training: bool | None = None, qs: Tensor | None = None, ste: bool | None = False
) -> Made | None:
    def quantized(values: Tensor) -> Tensor:
        medians = self._get_medians()
        if qs is None:
            return self.quantize(values, _mode(self, training), medians)  # type: ignore[no-any-return]
        mode = _mode(self, training) if ste is False else "ste"
        return self.quantize_variable(values, mode, medians, qs)  # type: ignore[no-any-return]

    # The step goes where CompressAI has "stop_gradient", and is no step there.
    return _factorized(self, x, quantized, still=qs is not None)


def _factorized(self: Any, x: Tensor, quantized: Callable[[Tensor], Tensor], still: bool = False) -> Made | None:
    if not _suits(x, _prior(self).matrices[0]) or x.shape[1] != self.channels:
        return None
    turned = x.transpose(0, 1).contiguous()  # as CompressAI has it, for the order of its noise
    outputs = quantized(turned.reshape(self.channels, 1, -1)).reshape(turned.shape).transpose(0, 1).contiguous()
    source = packed(self, outputs.clone())
    return outputs, replace(source, parameters=source.parameters.detach()) if still else source


def _prior(module: Any) -> Any:
    """Return the parameters of a factorised prior as ``Factorized`` reads them."""
    if hasattr(module, "matrices"):
        return module
    layers = len(module.filters) + 1
    names = {"matrices": ("_matrix", layers), "biases": ("_bias", layers), "factors": ("_factor", layers - 1)}
    lists = {name: [getattr(module, f"{own}{k}") for k in range(count)] for name, (own, count) in names.items()}
    return SimpleNamespace(filters=module.filters, quantiles=module.quantiles, **lists)


def packed(module: Any, values: Tensor, step: Any = None) -> Packed:
    """Return values beside a factorised prior as it is now.

    With a quantisation ``step`` a symbol ``v`` costs ``-log2(CDF(v + step / 2) - CDF(v - step / 2))``: the values, and
    where whole ones lie, are divided by it, and the first layer of the prior is multiplied.
    """
    flat = Factorized(_prior(module), values)._flat(step)
    values, parameters = flat.tensors
    return Packed(values, parameters, flat.filters, _floor(module))
