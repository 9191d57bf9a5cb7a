"""Guides of pictures in tiles: made as rows of the reconstruction come, and summed for each cell at its last.

Rows of the picture and of the guide stay only as long as something below needs them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..models.padding import Crop, Size
from ..ops import guided, library
from ..ops.band import Integers
from ..ops.dispatch import MapGeometry
from ..ops.projection import Axis, Projection, transposed_axis_band
from ..ops.strips import ROWS
from ..receptive_field.guide import REACH, Guide

CPU = torch.device("cpu")
FEATURE_COPIES = 14  # of the rows that a guide is made of at once, while it is made


class GuideRows:
    """One guide of the latents whose projections share it.

    Args:
        guide: what makes it.
        projections: of these latents.
        grids: (h, w) of them, cells.
        canvas: (H, W), pixels.
        crop: the picture on it.
    """

    def __init__(
        self,
        guide: Guide,
        projections: Mapping[str, Projection],
        grids: Mapping[str, Size],
        canvas: Size,
        crop: Crop,
    ) -> None:
        self._guide, self._projections, self._canvas, self._crop = guide, projections, canvas, crop
        self._native = not library.why_absent(CPU)
        self._reach: dict[str, tuple[Integers, Integers]] = {}  # of each row of cells: from and up to which rows
        for name, projection in projections.items():
            axis = Axis(grids[name][0], canvas[0], 0, canvas[0])
            bands = [transposed_axis_band(term.along(0), axis, CPU) for term in projection.terms]
            first = np.min([band.start.numpy() for band in bands], axis=0)
            last = np.max([band.start.numpy() + band.taps for band in bands], axis=0)
            self._reach[name] = np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(last)
        self.done = dict.fromkeys(projections, 0)  # rows of cells that have their sums
        self.sums = {name: torch.ones(1, *grids[name], dtype=torch.float64) for name in projections}
        self.outside = {name: torch.zeros(1, *grids[name], dtype=torch.float64) for name in projections}
        self._picture, self._seen = torch.empty(0), 0  # its last rows, and how many there were in all
        self._rows, self._first = torch.empty(1, 1, 0, canvas[1]), 0  # of the guide, and the number of the first

    @property
    def most_rows(self) -> int:
        """Rows of the guide that a row of cells needs, at most."""
        return max(int((last - first).max(initial=0)) for first, last in self._reach.values())

    def add(self, picture: Tensor) -> None:
        """Take the next rows of the reconstruction, ``[1, C, rows, W]`` on the canvas."""
        for rows in torch.split(picture.detach().float(), ROWS, dim=2):
            self._extend(rows)
            for name in self._projections:
                self._sum(name)

    def rows(self, first: int, count: int) -> Tensor:
        """Return rows of the guide under the picture, ``[1, 1, count, width]``; rows above them will not be needed."""
        top, left, _, width = self._crop
        starts = [
            int(reach[self.done[name]]) for name, (reach, _) in self._reach.items() if self.done[name] < len(reach)
        ]
        kept = max(self._first, min([top + first, *starts]))
        self._rows, self._first = self._rows[:, :, kept - self._first :], kept
        return self._rows[:, :, top + first - kept : top + first + count - kept, left : left + width]

    def _extend(self, rows: Tensor) -> None:
        above = self._picture.shape[2] if self._seen else 0
        picture = torch.cat((self._picture, rows), dim=2) if above else rows
        begin, self._seen = self._seen - above, self._seen + rows.shape[2]
        made = self._first + self._rows.shape[2]
        end = self._seen if self._seen == self._canvas[0] else max(made, self._seen - REACH)
        if end > made:
            guide = self._guide(picture, (begin, 0))[:, :, made - begin : end - begin]
            self._rows = torch.cat((self._rows, guided.bounded(guide)), dim=2)
        self._picture = picture[:, :, max(0, end - REACH - begin) :].clone()

    def _sum(self, name: str) -> None:
        """Sum the guide for the rows of cells that now have all of it."""
        begins, ends = self._reach[name]
        first = self.done[name]
        last = int(np.searchsorted(ends, self._first + self._rows.shape[2], side="right"))
        if last <= first:
            return
        begin, end = int(begins[first]), int(ends[last - 1])
        whole = self._window_sums(name, (begin, 0, end - begin, self._canvas[1]))[:, first:last]
        top, left, height, width = self._crop
        if (height, width) != self._canvas:
            low, high = max(begin, top), min(end, top + height)
            inside = self._window_sums(name, (low, left, max(0, high - low), width))[:, first:last]
            self.outside[name][:, first:last] = guided.share_left(whole, inside)
        self.sums[name][:, first:last] = torch.where(whole == 0, 1, whole)
        self.done[name] = last

    def _window_sums(self, name: str, window: Crop) -> Tensor:
        top, left, height, width = window
        part = self._rows[:, :, top - self._first : top - self._first + height, left : left + width]
        keys = [term.key for term in self._projections[name].terms]
        geometry = MapGeometry(self._canvas, window, keys, True, (0.0, 0.0))
        grid = self.sums[name].shape[1:]
        return guided.sum_guide(part, (grid[0], grid[1]), geometry, self._native)


def guides_in_tiles(
    projections: Mapping[str, Projection], grids: Mapping[str, Size], canvas: Size, crop: Crop
) -> dict[str, GuideRows]:
    """Return the guide of each latent that has one, shared by those of the same."""
    groups: dict[int, dict[str, Projection]] = {}
    for name, projection in projections.items():
        if projection.guide is not None:
            groups.setdefault(id(projection.guide), {})[name] = projection
    found: dict[str, GuideRows] = {}
    for group in groups.values():
        guide = next(iter(group.values())).guide
        assert isinstance(guide, Guide)
        found |= dict.fromkeys(group, GuideRows(guide, group, grids, canvas, crop))
    return found


def guide_bytes(guides: Mapping[str, GuideRows], window: Size, canvas: Size, channels: int) -> int:
    """Return the memory that guides take while rows of tiles of that window are run, with the picture's."""
    rows = sum(one.most_rows + window[0] + ROWS for one in {id(one): one for one in guides.values()}.values())
    return 4 * canvas[1] * (rows * 2 + FEATURE_COPIES * ROWS + channels * (window[0] + 2 * ROWS)) if guides else 0
