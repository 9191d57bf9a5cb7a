"""What of the bits of cells falls outside of an image, and the rim of pixels beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..models.padding import Crop, Size
from ..ops import guided
from ..ops.projection import Axis, Projection, outside_share


def rim_of(grids: Iterable[Size], canvas: Size, crop: Crop) -> tuple[int, int, int, int]:
    """Return how wide the rim is on each side: one cell of the finest latent, where there is padding."""
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    wide = [min(canvas[axis] // finest[axis], crop[2 + axis]) for axis in (0, 1)]
    after = [canvas[axis] - crop[axis] - crop[2 + axis] for axis in (0, 1)]
    return (
        wide[0] if crop[0] else 0,
        wide[0] if after[0] else 0,
        wide[1] if crop[1] else 0,
        wide[1] if after[1] else 0,
    )


def outside_bits(
    bits: Tensor, projection: Projection, size: Sequence[int], crop: Crop, guide: Tensor | None = None
) -> Tensor:
    """Return the bits, float64 ``[N]``, of the cells ``[N, h, w]`` that the projection puts outside the crop.

    From each cell's own shares and not from the map, so the two check each other. A cell leaves the image across
    its rows, its columns or both.
    """
    grid, canvas = (bits.shape[-2], bits.shape[-1]), (size[0], size[1])
    if guide is not None:
        return share_of(bits, guided.outside_share(guide, projection, grid, canvas, crop))
    return share_of(bits, _outside_shares(projection, grid, canvas, crop).to(bits.device))


def share_of(bits: Tensor, share: Tensor) -> Tensor:
    """Return the bits, float64 ``[N]``, of shares of cells; none of a cell whose share is none, infinite or not."""
    return torch.where(share > 0, share * bits, 0).sum(dim=(1, 2))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for calls that record gradients, too
def _outside_shares(projection: Projection, grid: tuple[int, int], size: tuple[int, int], crop: Crop) -> Tensor:
    """Return the part of each cell's bits that falls outside the crop, float64 ``[h, w]``."""
    (top, left, height, width), (h, w) = crop, grid
    share = torch.zeros(h, w, dtype=torch.float64)
    for term in projection.terms:
        rows = outside_share(term.along(0), Axis(h, size[0], top, height))[:, None]
        columns = outside_share(term.along(1), Axis(w, size[1], left, width))
        share += rows + (term.along(0).share - rows) * columns
    return share
