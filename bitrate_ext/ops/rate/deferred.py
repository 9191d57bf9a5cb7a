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
from .cells import symbol_bits
from .packed import CHANNELS, Concatenated, detached, parts_of


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

        args, kwargs = tree_map_only(DeferredLikelihoods, made, (tuple(args), dict(kwargs or {})))
        result = func(*args, **kwargs)
        return own.get(id(result), result)

    @property
    def source(self) -> Source | None:
        """The source of these likelihoods' bits; None once the tensor may have been written into."""
        source = self._held.source
        return source if source is None or self.requires_grad else detached(source)

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


def _concatenated(tensors: Any, dim: int = 0) -> Concatenated | None:
    """Return the source of slices of a latent put together along its channels; None of anything else."""
    if dim % 4 != CHANNELS or not all(isinstance(one, DeferredLikelihoods) for one in tensors):
        return None
    sources = [one._held.source for one in tensors]
    if any(one is None for one in sources):
        return None
    kinds = {(one.dtype, one.device, one.shape[0], one.shape[2:]) for one in sources}
    parts = tuple(part for one in sources for part in parts_of(one))
    return Concatenated(parts) if len(kinds) == 1 else None


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


def sources_of(latents: Mapping[str, Any]) -> dict[str, Source]:
    """Return the sources of bits of those likelihoods that have one, by latent.

    Raises:
        StaleSourceError: a tensor that they are made of has been written into.
    """
    sources = {name: one.source for name, one in latents.items() if isinstance(one, DeferredLikelihoods)}
    return {name: source for name, source in sources.items() if source is not None}


def known_source(values: Any) -> Any:
    """Return the source of deferred likelihoods, or what has been made of them; anything else as it is."""
    if not isinstance(values, DeferredLikelihoods):
        return values
    source = values.source
    return values.tensor() if source is None else source
