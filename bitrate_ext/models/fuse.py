"""Run CompressAI's entropy models through the operator: their interface stays, likelihoods are made when asked for.

A fused entropy model is of a class made for it, which derives from its own: its ``forward`` quantises as CompressAI
does, and returns likelihoods that know their source of bits (``ops.rate.deferred``). All else is CompressAI's own code.

Models bring CompressAI along, of any version, under its name or another. So entropy models are known by the names of
their classes, and fused where they compute what the operator does: each class is held to it once, on random latents.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..memory import is_out_of_memory
from ..ops.rate.deferred import DeferredLikelihoods, defer
from ..ops.rate.packed import Packed
from ..ops.sources import Factorized, Gaussian, GaussianMixture, Source
from ..ops.torch_internals import dispatch_modes, in_function_transform
from .copies import copy_model

TABLES = ("_quantized_cdf", "_cdf_length", "_offset")  # of the coder: what has them is an entropy model
SETTINGS = {str, int, float, bool, tuple}  # types of attributes that code may branch on
DTYPES = (torch.float32, torch.float64)
Orders = tuple[tuple[int, ...], tuple[int, ...]]
CHANNELS_FIRST: Orders = ((1, 0, 2, 3), (1, 0, 2, 3))  # in which CompressAI's prior draws its noise, and back
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
        found = dict(entropy_models(model))
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
    what ``torch.compile`` runs. Copies in other packages and older versions are fused where they compute the same.
    Latents that are not ``[N, C, h, w]``, or not float32 or float64, are CompressAI's own affair, too.

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
    if not any(entropy_models(model)):
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
    found = list(entropy_models(owner)) if isinstance(owner, nn.Module) else []
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


def entropy_models(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the entropy models of a model, by name: what has tables for a coder, as CompressAI's have."""
    for name, part in model.named_modules():
        own = TABLES[0] in part._buffers or TABLES[0] in vars(part)  # looked for first: hasattr takes its time
        if own and all(hasattr(part, one) for one in TABLES):
            yield name, part


def _own_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module as it was found."""
    return getattr(type(module), "_fuses", type(module))


class Kind(NamedTuple):
    """An entropy model of CompressAI's, of a version or in a copy."""

    base: type[nn.Module]
    forwards: tuple[Forward, ...]  # fused, of versions that differ
    methods: tuple[str, ...]  # that must be the base's
    trial: Callable[[Any], list[tuple[Any, ...]]]  # arguments of ``forward`` to hold a module to the operator with


def _kind(module: nn.Module) -> Kind | None:
    for name, (forwards, methods, trial) in _KINDS.items():
        bases = [one for one in type(module).__mro__ if one.__name__ == name]
        if bases:
            return Kind(bases[-1], forwards, ("forward", *methods), trial)
    return None


def _left_because(model: Any, name: str, module: nn.Module) -> str:
    return _why_not(module) or _compiled_above(model, name)


def _why_not(module: nn.Module) -> str:
    """Return why a module's likelihoods are not known to be CompressAI's; empty where they are."""
    kind = _kind(module)
    own = _own_class(module)
    if kind is None:
        return f"{own.__name__} is no kind of entropy model that has a source"
    for name in kind.methods:
        method, theirs = (inspect.getattr_static(one, name, None) for one in (own, kind.base))
        if name in vars(module) or method is not theirs or _package(method) != _package(kind.base):
            return f"{own.__name__} has a {name} of its own"
    for name in ("lower_bound_scale", "likelihood_lower_bound"):
        if type(getattr(module, name, None)).__name__ not in ("NoneType", "LowerBound"):
            return f"its {name} is no LowerBound of CompressAI's"
    return _trial(module, kind)[0]


def _trial(module: nn.Module, kind: Kind) -> tuple[str, Forward | None]:
    """Return the fused forward that a module computes as, or why there is none; tried once for a class and settings."""
    own = _own_class(module)
    settings = [one for one in vars(module).items() if type(one[1]) in SETTINGS and one[0] != "training"]
    key = repr(settings)
    tried = _tried.setdefault(own, {})
    if key not in tried:
        if dispatch_modes() or in_function_transform():
            return "it cannot be compared with CompressAI's in here", None
        compared = [_unlike(module, own, kind, forward) for forward in kind.forwards]
        like = [forward for forward, why in zip(kind.forwards, compared, strict=True) if not why]
        tried[key] = ("", like[0]) if like else (compared[0], None)
    return tried[key]


_tried: weakref.WeakKeyDictionary[type[nn.Module], dict[str, tuple[str, Forward | None]]] = weakref.WeakKeyDictionary()


def _package(one: Any) -> str:
    return str(getattr(one, "__module__", "")).rpartition(".")[0]


@torch.inference_mode(False)
@torch.no_grad()
def _unlike(module: nn.Module, own: type[nn.Module], kind: Kind, forward: Forward) -> str:
    """Return in what a copy of a module computes otherwise, in float64, with random parameters; empty for nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            one: Any = copy_model(module).to("cpu", torch.float64)
            for parameter in one.parameters():
                torch.nn.init.uniform_(parameter, -0.5, 0.5)
            for given, mode in ((given, mode) for given in kind.trial(one) for mode in ("eval", "train")):
                one.train(mode == "train")
                state = torch.get_rng_state()
                theirs, likelihoods = own.forward(one, *given)
                torch.set_rng_state(state)
                found = forward(one, *given)
                if found is None or not torch.equal(theirs, found[0]):
                    return f"{own.__name__} quantises in another way than CompressAI's in {mode} mode"
                if not torch.allclose(likelihoods, defer(found[1]) + 0, rtol=1e-6, atol=1e-12):
                    return f"{own.__name__} has other likelihoods than CompressAI's in {mode} mode"
        except Exception as error:  # of code that is not known
            if is_out_of_memory(error):
                raise
            return f"{own.__name__} cannot be compared with CompressAI's: {type(error).__name__}: {error}"
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
_classes: weakref.WeakKeyDictionary[type[nn.Module], dict[Forward, type[nn.Module]]] = weakref.WeakKeyDictionary()


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
    forward = _trial(module, kind)[1]
    assert forward is not None
    made = _classes.setdefault(own, {})
    if forward not in made:
        names = {"_fuses": own, "_kind_forward": staticmethod(forward), "__module__": own.__module__}
        made[forward] = type(own.__name__, (_FusedForward, own), {**names, "__qualname__": own.__qualname__})
    return made[forward]


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


def _bottleneck(self: Any, x: Tensor, training: bool | None = None, images_last: bool = False) -> Made | None:
    def quantized(values: Tensor) -> Tensor:
        medians = self._get_medians() if hasattr(self, "_get_medians") else self._medians()  # of an older CompressAI
        return self.quantize(values, _mode(self, training), medians)  # type: ignore[no-any-return]

    return _factorized(self, x, quantized, orders=((1, 2, 3, 0), (3, 0, 1, 2)) if images_last else CHANNELS_FIRST)


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


def _factorized(
    self: Any, x: Tensor, quantized: Callable[[Tensor], Tensor], still: bool = False, orders: Orders = CHANNELS_FIRST
) -> Made | None:
    if not _suits(x, _prior(self).matrices[0]) or x.shape[1] != self.channels:
        return None
    turned = x.permute(orders[0]).contiguous()
    outputs = quantized(turned.reshape(self.channels, 1, -1)).reshape(turned.shape).permute(orders[1]).contiguous()
    source = packed(self, outputs.clone())
    return outputs, replace(source, parameters=source.parameters.detach()) if still else source


def _prior(module: Any) -> Any:
    """Return the parameters of a factorised prior as ``Factorized`` reads them."""
    if hasattr(module, "matrices"):
        return module
    layers = len(module.filters) + 1
    names = {"matrices": ("_matrix", layers), "biases": ("_bias", layers), "factors": ("_factor", layers - 1)}
    if hasattr(module, "_matrices"):
        lists = {name: list(getattr(module, f"_{name}")) for name in names}
    else:
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


def _spread(*shape: int) -> Tensor:
    return 4 * torch.randn(shape, dtype=torch.float64)


def _scales(*shape: int) -> Tensor:
    return torch.exp(2 * torch.randn(shape, dtype=torch.float64))  # some below any bound


def _gaussian_trial(_: Any) -> list[tuple[Any, ...]]:
    shape = (2, 3, 4, 5)
    return [(_spread(*shape), _scales(*shape)), (_spread(*shape), _scales(*shape), _spread(*shape))]


def _mixture_trial(module: Any) -> list[tuple[Any, ...]]:
    shape = (2, 3 * module.K, 4, 5)
    return [(_spread(2, 3, 4, 5), _scales(*shape), _spread(*shape), torch.softmax(_spread(*shape), 1))]


def _prior_trial(module: Any) -> list[tuple[Any, ...]]:
    return [(_spread(2, module.channels, 2, 3),)]


_KINDS: dict[str, tuple[tuple[Forward, ...], tuple[str, ...], Callable[[Any], list[tuple[Any, ...]]]]] = {
    "GaussianMixtureConditional": ((_mixture,), ("_likelihood", "_standardized_cumulative"), _mixture_trial),
    "GaussianConditional": ((_gaussian,), ("_likelihood", "_standardized_cumulative"), _gaussian_trial),
    "EntropyBottleneck": (
        (_bottleneck, partial(_bottleneck, images_last=True)),
        ("_likelihood", "_logits_cumulative"),
        _prior_trial,
    ),
    "EntropyBottleneckVbr": (
        (_bottleneck_vbr,),
        ("_likelihood", "_likelihood_variable", "_logits_cumulative"),
        _prior_trial,
    ),
}
