"""Sources made of others: a prior as it was when asked, slices put together; without a floor, without a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..sources import FACTORIZED, Flat, Source

CHANNELS = 1  # the dimension of [N, C, h, w] along which slices of a latent are put together


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
