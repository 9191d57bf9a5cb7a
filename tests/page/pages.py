"""Pictures by hand for pages: cells of chance, laid out in every way, on a canvas with padding."""

from __future__ import annotations

from typing import Any

import torch

from bitrate_ext.cells.picture import CellGrid, PictureBits
from bitrate_ext.ops.projection import Projection, get_projection

CANVAS, CROP = (64, 80), (7, 9, 45, 62)
SIZE = CROP[2:]


class TwoTerms(Projection):
    """Evenly over cells and along lines between them, as a measured projection has several terms."""

    name = "two terms"

    def __init__(self, share: float = 1.0, parts: tuple[Projection, ...] = ()) -> None:
        self.share, self.parts = share, parts

    @property
    def terms(self) -> tuple[Projection, ...]:
        return self.parts or (self,)

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Any:
        return get_projection("bilinear" if self.share == 0.25 else "area").rows(
            cells, pixels, cells_per_pixel, conserve
        )


PARTS = TwoTerms(0.25), TwoTerms(0.75)
BOTH = TwoTerms(1.0, PARTS)


def random_bits(seed: int, *, raster: bool = False, **more: Any) -> PictureBits:
    """Latents y and z, a third by two terms, and one under a guide; a picture and what is decoded of it."""
    chance = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=chance, dtype=torch.float64)

    cells = 5 * rand(6, 8, 10)
    grids = {
        "y": CellGrid(cells.sum(0), get_projection("bilinear")),
        "z": CellGrid(20 * rand(3, 4), get_projection("area")),
        "w": CellGrid(9 * rand(8, 10), BOTH),
    }
    if raster:
        grids["g"] = CellGrid(30 * rand(4, 5), get_projection("bilinear"), rand(1, 1, *CANVAS) + 0.1)
    picture = (255 * rand(1, 3, *SIZE)).round() / 255
    decoded = (picture + 0.1 * rand(1, 3, *SIZE) - 0.05).clamp(0, 1)
    given: dict[str, Any] = {
        "name": f"codec {seed}",
        "elsewhere": {"headers": 24.0},
        "picture": picture.float(),
        "reconstruction": decoded.float(),
        "channel_bits": {"y": cells.sum((1, 2))},
        "symbol_bits": {"y": cells},
        "beside": {
            "expected": {"y": cells.sum(0) + rand(8, 10), "z": 20 * rand(3, 4)},
            "estimated": {name: grid.bits + rand(*grid.bits.shape) for name, grid in grids.items()},
            "escapes": {"y": (3 * rand(8, 10)).floor()},
        },
    }
    return PictureBits(grids, CANVAS, CROP, **(given | more))


def flat_bits(bits: float, **more: Any) -> PictureBits:
    """The same bits in each of 4 x 4 cells of 8 x 8 pixels."""
    grid = CellGrid(torch.full((4, 4), bits, dtype=torch.float64))
    return PictureBits({"y": grid}, (32, 32), (0, 0, 32, 32), **more)
