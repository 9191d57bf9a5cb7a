"""Sources of bits made into the bits of cells, which all else takes as bits that are given.

``bitrate_ext::cell_bits`` and its backward take the tensors of several sources at once and keep nothing but those. What
they cannot do the reference does: float64, other shapes of a factorised prior's network, mixtures of many parts, and
what runs under ``torch.func`` or in forward mode. Second derivatives are the reference's, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import library
from ..sources import FACTORIZED, FILTERS, MIXTURE, Flat, Source
from ..torch_internals import BelowAutograd, are_eager, in_forward_mode, in_function_transform
from . import reference
from .packed import parts_of

MOST_COMPONENTS = 8  # of a mixture: kMostComponents of csrc/core/sources.h


class Kinds(NamedTuple):
    """The arguments of the operators that are not tensors, one of each for a source."""

    families: Sequence[int]
    bounds: Sequence[float]
    floors: Sequence[float]

    def split(self, tensors: Sequence[Any]) -> list[Sequence[Any]]:
        """Return what belongs to each source."""
        found, at = [], 0
        for family in self.families:
            count = {MIXTURE: 4, FACTORIZED: 2}.get(family, 3)
            found.append(tensors[at : at + count])
            at += count
        return found

    def sources(self, tensors: Sequence[Tensor]) -> list[Flat]:
        """Return the sources again."""
        return [
            Flat(family, list(own), bound, floor, FILTERS)
            for family, bound, floor, own in zip(*self, self.split(tensors), strict=True)
        ]


def _has_kernel(source: Flat) -> bool:
    values = source.tensors[0]
    if values.dtype == torch.float64 or library.why_absent(values.device):
        return False
    if source.family == FACTORIZED:
        return source.filters == FILTERS
    return source.family != MIXTURE or 0 < source.tensors[1].shape[1] <= MOST_COMPONENTS * values.shape[1]


def cells_of(latents: Mapping[str, Tensor | Source], native: bool) -> dict[str, Tensor]:
    """Return latents with each source replaced by the bits of its cells, float64 ``[N, h, w]``."""
    flat = {
        (name, index): part.flat()
        for name, latent in latents.items()
        if isinstance(latent, Source)
        for index, part in enumerate(parts_of(latent))
    }
    cells = _cells(flat, native)
    sums: dict[str, Tensor] = {}
    for name, index in flat:  # the channels' sources in their order, whoever has served them
        sums[name] = sums[name] + cells[name, index] if index else cells[name, index]
    return {name: latent if isinstance(latent, Tensor) else sums[name] for name, latent in latents.items()}


def symbol_bits(source: Flat) -> Tensor:
    """Return what each symbol costs, float64 ``[N, C, h, w]``, in bits: cells of one channel each."""
    values = source.tensors[0]
    if not _has_kernel(source) or not values.numel():
        return reference.symbol_bits(source)
    batch, channels, *grid = values.shape
    if source.family == FACTORIZED:
        priors = zip(torch.split(values, 1, 1), torch.split(source.tensors[1], 1), strict=True)
        singles = {at: source._replace(tensors=[part.contiguous() for part in own]) for at, own in enumerate(priors)}
        return torch.stack(list(_cells(singles, True).values()), 1)

    def apart(part: Tensor) -> Tensor:
        """Fold channels into the batch, with the components of a mixture in their place."""
        return part.reshape(batch, -1, channels, *grid).transpose(1, 2).reshape(batch * channels, -1, *grid)

    single = source._replace(tensors=[apart(part) for part in source.tensors])
    return _cells({"": single}, True)[""].reshape(values.shape)


def _cells(flat: Mapping[Any, Flat], native: bool) -> dict[Any, Tensor]:
    if in_forward_mode() or (not torch.compiler.is_compiling() and in_function_transform()):
        native = False
    fast = {name: source for name, source in flat.items() if native and _has_kernel(source)}
    cells = {name: reference.cell_bits(source) for name, source in flat.items() if name not in fast}
    if fast:
        kinds = [list(kind) for kind in zip(*[(s.family, s.bound, s.floor) for s in fast.values()], strict=True)]
        tensors = [tensor for source in fast.values() for tensor in source.tensors]
        call = _autograd if are_eager(tensors) else torch.ops.bitrate_ext.cell_bits
        cells.update(zip(fast, call(tensors, *kinds), strict=True))
    return cells


def _new_cells(tensors: Sequence[Tensor], *kinds: Any) -> list[Tensor]:
    values = [own[0] for own in Kinds(*kinds).split(tensors)]
    return [v.new_empty((v.shape[0], *v.shape[2:]), dtype=torch.float64) for v in values]


def _cell_bits(tensors: Sequence[Tensor], *kinds: Any) -> list[Tensor]:
    cells = _new_cells(tensors, *kinds)
    torch.ops.bitrate_ext._cell_bits(tensors, *kinds, cells)
    return cells


def _new_gradients(grads: Sequence[Tensor], tensors: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    """Return a tensor for each gradient, empty where it is not wanted; dense, as a tensor may be one value for all."""
    new = {4: torch.empty_like, 2: torch.zeros_like}  # parameters' are sums, of nothing where there are no values
    return [new[t.dim()](t) if wanted else t.new_empty(0) for t, wanted in zip(tensors, rest[3], strict=True)]


def _cell_bits_backward(grads: Sequence[Tensor], tensors: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    gradients = _new_gradients(grads, tensors, *rest)
    dense = [grad.contiguous() for grad in grads]
    torch.ops.bitrate_ext._cell_bits_backward(dense, tensors, *rest[:3], gradients)
    return gradients


def _below_autograd(name: str, *arguments: Any) -> list[Tensor]:
    """Run an operator's implementation; by the dispatcher where a mode or a compiler wants to see it."""
    if are_eager(arguments[0]):
        return (_cell_bits if name == "cell_bits" else _cell_bits_backward)(*arguments)
    with BelowAutograd():
        return list(getattr(torch.ops.bitrate_ext, name)(*arguments))


class _CellBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kinds: Kinds, *tensors: Tensor) -> Any:
        ctx.kinds = kinds
        ctx.save_for_backward(*tensors)
        return tuple(_below_autograd("cell_bits", tensors, *kinds))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = list(ctx.needs_input_grad[1:])
        call = _backward_autograd if are_eager(grads) else torch.ops.bitrate_ext.cell_bits_backward
        gradients = call(grads, ctx.saved_tensors, *ctx.kinds, wanted)
        return None, *[g if needed else None for g, needed in zip(gradients, wanted, strict=True)]


class _CellBitsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kinds: Kinds, wanted: list[bool], *tensors: Tensor) -> Any:
        ctx.kinds, ctx.wanted = kinds, wanted
        ctx.save_for_backward(*tensors)
        sources = len(kinds.families)
        return tuple(_below_autograd("cell_bits_backward", tensors[:sources], tensors[sources:], *kinds, wanted))

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate the reference's gradient along the directions."""
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            grads, tensors = leaves[: len(ctx.kinds.families)], leaves[len(ctx.kinds.families) :]
            cells = [reference.cell_bits(source) for source in ctx.kinds.sources(tensors)]
            inner = [t for t, wanted in zip(tensors, ctx.wanted, strict=True) if wanted]
            gradients = torch.autograd.grad(cells, inner, grads, create_graph=True)
            along = [d for d, wanted in zip(directions, ctx.wanted, strict=True) if wanted]
            second = torch.autograd.grad(gradients, leaves, along, allow_unused=True)
        return None, None, *second


def _recorded(tensors: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _autograd(tensors: Sequence[Tensor], *kinds: Any) -> list[Tensor]:
    if _recorded(tensors):
        return list(_CellBits.apply(Kinds(*kinds), *tensors))
    return _below_autograd("cell_bits", tensors, *kinds)


def _backward_autograd(grads: Sequence[Tensor], tensors: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    if _recorded([*grads, *tensors]):
        return list(_CellBitsBackward.apply(Kinds(*rest[:3]), rest[3], *grads, *tensors))
    return _below_autograd("cell_bits_backward", grads, tensors, *rest)


def _register() -> None:
    """Attach everything to the operators that the compiled library has declared."""
    for name, run, fake, gradient in (
        ("cell_bits", _cell_bits, _new_cells, _autograd),
        ("cell_bits_backward", _cell_bits_backward, _new_gradients, _backward_autograd),
    ):
        for key in ("CPU", "CUDA") if library.cuda_absent_because is None else ("CPU",):
            torch.library.impl(f"bitrate_ext::{name}", key)(run)
        torch.library.impl(f"bitrate_ext::{name}", "Autograd")(gradient)
        torch.library.register_fake(f"bitrate_ext::{name}")(fake)


if library.absent_because is None:
    _register()
