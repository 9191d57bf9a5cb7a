"""Likelihoods that are made where somebody asks for them: a tensor of the right kind that knows its source of bits.

A fused entropy model returns them. Their shape, dtype, device and gradient are those of the tensor; the operators take
the source instead, and nothing is made. Any other operation of PyTorch makes the tensor, once, and sees it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..sources import Flat, Source, is_eager
from . import written
from .cells import symbol_bits
from .packed import CHANNELS, Concatenated, Pieces, detached, parts_of, put_together


class StaleSourceError(RuntimeError):
    """A tensor that likelihoods were to be made of has been written into."""


class _Held:
    """What tensors that share their memory share: the source, until somebody may have written into the memory."""

    def __init__(self, source: Source) -> None:
        self._source, self._opened = source, False
        self._versions = [(part, part._version) for _, part in source._parts() if not part.is_inference()]
        self._made: Tensor | None = None

    @property
    def source(self) -> Source | None:
        return None if self._opened else self._checked()

    def _checked(self) -> Source:
        if any(part._version != version for part, version in self._versions):
            raise StaleSourceError(
                "likelihoods must be used before the scales, means or weights that they are made of are written into; "
                "use them sooner, write into a copy, or run the model outside of bitrate_ext.fuse"
            )
        return self._source

    def unchanged(self) -> Source | None:
        """Return the source; None once what it is made of has been written into."""
        try:
            return self._checked()
        except StaleSourceError:
            return None

    @torch.inference_mode(False)
    @torch.no_grad()
    def tensor(self, opened: bool) -> Tensor:
        """Return the likelihoods; ``opened``: to one who may write into them, or give their memory to others."""
        if self._made is None:
            parts = [_likelihoods(part.flat()) for part in parts_of(self._checked())]
            self._made = parts[0] if len(parts) == 1 else torch.cat(parts, CHANNELS)
        self._opened |= opened
        return self._made


def _likelihoods(flat: Flat) -> Tensor:
    return torch.exp2(-symbol_bits(flat)).to(flat.tensors[0].dtype)


class DeferredLikelihoods(Tensor):
    """Likelihoods ``[N, C, h, w]`` that are made of their source where somebody asks for them; see the module."""

    _held: _Held

    @staticmethod
    def __new__(cls, held: _Held, like: Source | Tensor) -> DeferredLikelihoods:
        made: DeferredLikelihoods = Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, device=like.device)
        made._held = held
        return made

    # Operators are seen below autograd, which records them as those of any tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is torch.ops.aten.detach.default:
            return cls(args[0]._held, args[0])
        if func is torch.ops.aten.cat.default:
            joined = _concatenated(*args, **kwargs or {})
            if joined is not None:
                return cls(_Held(joined), joined)
        own: dict[int, DeferredLikelihoods] = {}
        # An operator that returns a view, or that writes, leaves memory open to writers that nobody sees.
        opens = any(one.alias_info is not None for one in (*func._schema.returns, *func._schema.arguments))

        def made(one: DeferredLikelihoods) -> Tensor:
            tensor = one._held.tensor(opens)
            own[id(tensor)] = one
            return tensor

        origin = _origin_of_write(args) if func is torch.ops.aten.copy_.default else None
        args, kwargs = tree_map_only(DeferredLikelihoods, made, (tuple(args), dict(kwargs or {})))
        result = func(*args, **kwargs)
        if origin is not None:
            written.note(args[0], origin)
        return own.get(id(result), result)

    @property
    def source(self) -> Source | None:
        """The source of these likelihoods' bits; None once the tensor may have been written into."""
        return _simple(self._held.source, self.requires_grad)

    def tensor(self) -> Tensor:
        """Return the likelihoods as a tensor of PyTorch's own kind, with their gradient."""
        return self.view(self.shape)

    def numpy(self, *, force: bool = False) -> Any:
        """Return an array, as tensors do."""
        return self.tensor().numpy(force=force)

    def tolist(self) -> Any:
        """Return nested lists, as tensors do."""
        return self.tensor().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(self.tensor(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.tensor().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return repr(self.tensor())


def _simple(source: Source | None, recorded: bool) -> Source | None:
    """Return a source in one piece, or of channels that follow each other, which no gradient passes unless asked."""
    if isinstance(source, Pieces):
        source = source.merged()
    return source if source is None or recorded else detached(source)


def _origin_of_write(args: Any) -> _Held | None:
    """Return what likelihoods are made of that ``args`` write into a plain tensor, as they are."""
    target, values = args[:2]
    if type(target) is not Tensor or not isinstance(values, DeferredLikelihoods):
        return None
    same = (target.shape, target.dtype, target.device) == (values.shape, values.dtype, values.device)
    return values._held if same and values._held.source is not None else None


def _concatenated(tensors: Any, dim: int = 0) -> Source | None:
    """Return the source of parts of a latent put together along a dimension; None of anything else."""
    if not all(isinstance(one, DeferredLikelihoods) for one in tensors):
        return None
    sources, dim = [one._held.source for one in tensors], dim % 4
    if any(one is None for one in sources):
        return None
    kinds = {(one.dtype, one.device, *(one.shape[:dim] + one.shape[dim + 1 :])) for one in sources}
    if len(kinds) > 1:
        return None
    if dim == CHANNELS and not any(isinstance(one, Pieces) for one in sources):
        return Concatenated(tuple(part for one in sources for part in parts_of(one)))
    placed, shape = [], list(sources[0].shape)
    shape[dim] = 0
    for one in sources:
        shape[dim] += one.shape[dim]
        box = [range(side) for side in one.shape]
        box[dim] = range(shape[dim] - one.shape[dim], shape[dim])
        placed.append((tuple(box), one))
    return put_together(placed, torch.Size(shape))


class _Defer(torch.autograd.Function):
    """Likelihoods of a source's tensors, none of which is read before the likelihoods are."""

    @staticmethod
    def forward(ctx: Any, source: Source, flat: Flat, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.flat = flat._replace(tensors=[])
        return DeferredLikelihoods(_Held(source), source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        wanted = [one for one, needed in zip(tensors, ctx.needs_input_grad[2:], strict=True) if needed]
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            likelihoods = _likelihoods(ctx.flat._replace(tensors=list(tensors)))
            found = iter(torch.autograd.grad(likelihoods, wanted, grad, create_graph=recorded))
        return None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[2:])


def defer(source: Source) -> Tensor:
    """Return the likelihoods of a source, made where somebody asks for them; at once in a compiler or a transform."""
    flat = source.flat()
    if not is_eager([source]):
        return _likelihoods(flat)
    deferred: Tensor = _Defer.apply(source, flat, *flat.tensors)
    return deferred


def _source_of(values: Any) -> Source | None:
    """Return the source of likelihoods that have one."""
    if isinstance(values, DeferredLikelihoods):
        return values.source
    if not written.noted or type(values) is not Tensor:
        return None
    return _simple(written.source_of(values), values.requires_grad)


def sources_of(latents: Mapping[str, Any]) -> dict[str, Source]:
    """Return the sources of bits of those likelihoods that have one, by latent.

    Raises:
        StaleSourceError: a tensor that they are made of has been written into.
    """
    sources = {name: _source_of(one) for name, one in latents.items()}
    return {name: source for name, source in sources.items() if source is not None}


def known_source(values: Any) -> Any:
    """Return the source of likelihoods that have one, or what has been made of them; anything else as it is."""
    source = _source_of(values)
    if source is not None:
        return source
    return values.tensor() if isinstance(values, DeferredLikelihoods) else values
