"""Cells of one latent of one picture, and how they are laid over its canvas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..models.padding import Crop, Size
from ..ops.functional import bitrate_map
from ..ops.projection import Projection, get_projection


@dataclass(frozen=True, eq=False)
class CellGrid:
    """Bits of one latent's cells, and how they are laid over the canvas.

    Args:
        bits: ``[h, w]`` (of N images ``[N, h, w]``), bits per cell, float64.
        projection: as for ``bitrate_map``; "nearest" lays a cell's bits evenly over its own pixels.
        guide: ``[1, 1, H, W]`` on the canvas (of N images ``[N, 1, H, W]``), which the bits follow; see
            ``bitrate_map``.

    Example:
        >>> grid = bitrate_ext.CellGrid(torch.tensor([[64.0, 128.0]]))
        >>> grid.map(canvas=(8, 16), crop=(0, 0, 8, 16))[0, ::8].tolist()
        [1.0, 2.0]
    """

    bits: Tensor
    projection: Projection = field(default_factory=lambda: get_projection("nearest"))
    guide: Tensor | None = None

    def of_image(self, number: int) -> CellGrid:
        """Return the grid of one of N images."""
        guide = None if self.guide is None else self.guide[number : number + 1].detach()
        return CellGrid(self.bits[number].detach(), self.projection, guide)

    def of_images(self, first: int, end: int) -> CellGrid:
        """Return the grids of some of N images, from the first to before the end."""
        guide = None if self.guide is None else self.guide[first:end]
        return CellGrid(self.bits[first:end], self.projection, guide)

    def on_own_squares(self) -> CellGrid:
        """Return the same bits, each cell's evenly over its own square of pixels."""
        return CellGrid(self.bits)

    def map(self, canvas: Size, crop: Crop) -> Tensor:
        """Lay the bits of one image out, float64 ``[H, W]`` of the crop, bits per pixel."""
        made: Tensor = bitrate_map(
            self.bits[None].double(),
            canvas,
            crop=crop,
            projection=self.projection,
            guide=self.guide,
            unit="bits",
            dtype=torch.float64,
        )
        return made[0, 0]

    def shares(self, weights: Tensor, canvas: Size, crop: Crop) -> Tensor:
        """Return how much of each cell's bits lies on pixels, float64 ``[h, w]``: what ``map`` does, the other way.

        Args:
            weights: ``[H, W]`` of the crop, 1 on the pixels that count and 0 elsewhere.
            canvas: ``(H, W)``, pixels.
            crop: ``(top, left, height, width)``, pixels.
        """
        with torch.inference_mode(False), torch.enable_grad():
            cells = torch.zeros_like(self.bits, dtype=torch.float64, requires_grad=True)
            guide = None if self.guide is None else self.guide.clone()
            laid = replace(self, bits=cells, guide=guide).map(canvas, crop)
            (found,) = torch.autograd.grad((laid * weights.to(laid)).sum(), cells)
        return found


Grids = Mapping[str, CellGrid]
