"""Likelihoods that a model writes, box by box, into a tensor that it has made: what is known of the tensor's source.

Models whose entropy model runs cell by cell, or row by row, put its likelihoods together like that. The tensor stays a
plain one, and is written as the model says. Beside it is noted which source each box came from, for as long as nobody
else writes into it: a tensor counts its writers.
"""

from __future__ import annotations

import weakref
from typing import Protocol

import torch
from torch import Tensor

from ..sources import Source
from .packed import Box, Pieces, put_together


class Origin(Protocol):
    """What likelihoods are made of."""

    def unchanged(self) -> Source | None:
        """Return the source; None once what it is made of has been written into."""


class _Writes:
    def __init__(self) -> None:
        self.version = -1  # of the tensor after the last write
        self.origins: dict[Box, Origin] = {}


noted: dict[int, _Writes] = {}  # by the tensor's id, while it lives; most often there is none


def note(target: Tensor, origin: Origin) -> None:
    """Note that likelihoods are being written into a tensor or a view of one; called before the write is counted."""
    base = target if target._base is None else target._base
    box = None if base.is_inference() else _box(target, base)
    if box is None:
        return
    if id(base) not in noted:
        noted[id(base)] = _Writes()
        weakref.finalize(base, noted.pop, id(base), None)
    writes = noted[id(base)]
    if writes.version != base._version:  # somebody else has written
        writes.origins.clear()
    writes.version = base._version + 1
    writes.origins[box] = origin


def source_of(values: Tensor) -> Pieces | None:
    """Return the source of a tensor that nothing but likelihoods has been written into, all over."""
    writes = None if torch.compiler.is_compiling() else noted.get(id(values))
    if writes is None or writes.version != values._version:
        return None
    placed = [(box, origin.unchanged()) for box, origin in writes.origins.items()]
    known = [(box, source) for box, source in placed if source is not None]
    return put_together(known, values.shape) if len(known) == len(placed) else None


def _box(view: Tensor, base: Tensor) -> Box | None:
    """Return where a view ``[n, c, h, w]`` lies in ``[N, C, h, w]``; None of what is no box, every so many places."""
    if view.dim() != 4 or base.dim() != 4 or not view.numel() or not base.is_contiguous():
        return None
    box, offset = [], int(view.storage_offset() - base.storage_offset())
    for size, count, stride, own in zip(base.shape, view.shape, base.stride(), view.stride(), strict=True):
        step, rest = divmod(own, stride) if count > 1 else (1, 0)
        first, offset = divmod(offset, stride) if size > 1 else (0, offset)
        if rest or step < 1 or not 0 <= first <= size - 1 - (count - 1) * step:
            return None
        box.append(range(first, first + (count - 1) * step + 1, step))
    return tuple(box) if offset == 0 else None
