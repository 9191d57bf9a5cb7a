"""Sources made of others: a prior as it was when asked, slices and boxes put together; without floor or gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..sources import FACTORIZED, Flat, Source

CHANNELS = 1  # the dimension of [N, C, h, w] along which slices of a latent are put together
Box = tuple[range, ...]  # a part of [N, C, h, w]


@dataclass(frozen=True, eq=False, repr=False)
class Packed(Source):
    """Code each value by a factorised prior whose parameters are kept as they were, whatever becomes of the module."""

    values: Tensor
    parameters: Tensor  # [C, P], as ``Flat`` has them
    filters: tuple[int, ...]
    floor: float | None = None
    family = FACTORIZED

    def flat(self) -> Flat:
        return Flat(self.family, [self.values, self.parameters], -math.inf, self.floor or 0.0, self.filters)

    def _parts(self) -> list[tuple[str, Tensor]]:
        return [("values", self.values), ("parameters", self.parameters)]


@dataclass(frozen=True, eq=False, repr=False)
class Concatenated(Source):
    """Code the channels of a latent by several sources, one after the other."""

    parts: tuple[Source, ...]
    family: ClassVar[int] = -1

    @property
    def shape(self) -> torch.Size:
        batch, _, *grid = self.parts[0].shape
        return torch.Size((batch, sum(part.shape[CHANNELS] for part in self.parts), *grid))

    @property
    def values(self) -> Tensor:  # type: ignore[override]
        return self.parts[0].values

    def check_values(self, what: str) -> None:
        for index, part in enumerate(self.parts):
            part.check_values(f"{what}[{index}]")

    def _parts(self) -> list[tuple[str, Tensor]]:
        return [named for part in self.parts for named in part._parts()]


class _Merge(torch.autograd.Function):
    """Tensors of boxes, with K components each, put together: one ``[N, K, C, h, w]``."""

    @staticmethod
    def forward(ctx: Any, shape: Sequence[int], boxes: Sequence[Any], *tensors: Tensor) -> Tensor:
        ctx.boxes = boxes
        merged = tensors[0].new_empty(shape)
        for box, one in zip(boxes, tensors, strict=True):
            merged[box] = one
        return merged

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = zip(ctx.boxes, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(grad[box] if wanted else None for box, wanted in needed)


@dataclass(frozen=True, eq=False, repr=False)
class Pieces(Source):
    """Code the boxes that a latent is made of by sources of one kind; made by ``put_together``."""

    boxes: tuple[Box, ...]
    parts: tuple[Source, ...]
    whole: torch.Size
    family: ClassVar[int] = -1

    @property
    def shape(self) -> torch.Size:
        return self.whole

    @property
    def values(self) -> Tensor:  # type: ignore[override]
        return self.parts[0].values

    def flat(self) -> Flat:
        return self.merged().flat()

    def _parts(self) -> list[tuple[str, Tensor]]:
        return [named for part in self.parts for named in part._parts()]

    def merged(self) -> Source:
        """Return one source of the whole latent, which gradients pass."""
        batch, channels, *grid = self.whole
        boxes = [(first, slice(None), *rest) for first, *rest in map(_slices, self.boxes)]

        def merge(name: str) -> Tensor:
            tensors = [getattr(part, name).unflatten(1, (-1, part.shape[1])) for part in self.parts]
            merged: Tensor = _Merge.apply((batch, tensors[0].shape[1], channels, *grid), boxes, *tensors)
            return merged.flatten(1, 2)

        names = dict.fromkeys(name for name, _ in self.parts[0]._parts() if name != "parameters")
        return replace(self.parts[0], **{name: merge(name) for name in names})  # type: ignore[type-var]


def put_together(placed: Sequence[tuple[Box, Source]], shape: torch.Size) -> Pieces | None:
    """Return the source of a latent of sources in boxes; None where these are not of a kind, or not the whole."""
    flat = [
        (tuple(outer[own.start : own.stop : own.step] for outer, own in zip(box, inner, strict=True)), part)
        for box, source in placed
        for inner, part in _boxes_of(source)
    ]
    if not flat or len({_kind(part) for _, part in flat}) > 1:
        return None
    first, covered = flat[0][1], np.zeros(shape, dtype=bool)
    if isinstance(first, Packed) and not all(
        part.shape[CHANNELS] == shape[CHANNELS] and torch.equal(part.parameters, first.parameters)
        for _, part in flat
        if isinstance(part, Packed)
    ):
        return None
    for box, _ in flat:
        covered[_slices(box)] = True
    if not covered.all() or sum(part.shape.numel() for _, part in flat) != covered.size:
        return None
    return Pieces(tuple(box for box, _ in flat), tuple(part for _, part in flat), shape)


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(one.start, one.stop, one.step) for one in box)


def _kind(part: Source) -> tuple[Any, ...]:
    """Return what sources that are put together must share."""
    widths = tuple((name, tensor.shape[1] // part.shape[1]) for name, tensor in part._parts() if tensor.dim() == 4)
    return type(part), part.dtype, part.device, part.floor, getattr(part, "scale_bound", None), widths


def _boxes_of(source: Source) -> Iterator[tuple[Box, Source]]:
    """Return the simple sources that a source is made of, and where they lie in it."""
    if isinstance(source, Pieces):
        yield from zip(source.boxes, source.parts, strict=True)
        return
    first = 0
    for part in parts_of(source):
        batch, channels, *grid = part.shape
        yield (range(batch), range(first, first + channels), *map(range, grid)), part
        first += channels


def parts_of(source: Source) -> tuple[Source, ...]:
    """Return the sources that a latent's channels are coded by, one after the other; most often one."""
    return source.parts if isinstance(source, Concatenated) else (source,)


def without_floor(source: Source) -> Source:
    """Return a source whose symbols cost what they are worth, however unlikely."""
    if isinstance(source, Concatenated):
        return Concatenated(tuple(map(without_floor, source.parts)))
    return replace(source, floor=None)  # type: ignore[type-var]


def detached(source: Source) -> Source:
    """Return a source that no gradient passes."""
    if isinstance(source, Concatenated):
        return Concatenated(tuple(map(detached, source.parts)))
    return replace(source, **{name: part.detach() for name, part in source._parts()})  # type: ignore[type-var]
