"""Banded matrices: what the kernels and the reference apply along each axis of a grid."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Band:
    """A banded matrix ``[pixels, cells]``: pixel ``p`` weighs cells ``start[p] ... start[p] + taps - 1``.

    Args:
        start: int32 ``[pixels]``, the first cell that each pixel reads; ``start + taps <= cells``.
        weight: float64 ``[taps, pixels]``; zero where a pixel reads fewer cells.
        cells: number of columns.
    """

    start: Tensor
    weight: Tensor
    cells: int

    @property
    def pixels(self) -> int:
        """Number of rows."""
        return self.start.shape[0]

    @property
    def taps(self) -> int:
        """Cells that a pixel reads at most."""
        return self.weight.shape[0]

    def dense(self) -> Tensor:
        """Return the matrix itself, float64 ``[pixels, cells]``; for small tests and for looking at."""
        matrix = self.weight.new_zeros(self.pixels, self.cells)
        pixel = torch.arange(self.pixels, device=self.start.device)
        for tap in range(self.taps):
            matrix[pixel, self.start.long() + tap] += self.weight[tap]
        return matrix

    def transposed(self) -> Band:
        """Return the matrix with cells and pixels exchanged, as backward reads it."""
        start, weight = self.start.cpu().numpy().astype(np.int64), self.weight.cpu().numpy()
        tap, pixel = np.nonzero(weight)
        cell = start[pixel] + tap
        first = np.full(self.cells, self.pixels, dtype=np.int64)
        last = np.full(self.cells, -1, dtype=np.int64)
        np.minimum.at(first, cell, pixel)
        np.maximum.at(last, cell, pixel)
        taps = int(max(1, (last - first + 1).max(initial=1))) if self.pixels else 0
        first = np.clip(np.minimum(first, self.pixels - taps), 0, None)
        turned = np.zeros((taps, self.cells))
        turned[pixel - first[cell], cell] = weight[tap, pixel]
        return band_of(first, turned, self.pixels).to(self.start.device)

    def part(self, first: int, last: int) -> tuple[Band, int]:
        """Return the rows of some pixels over no more cells than they read, and the first of these cells."""
        start = self.start[first:last]
        low, high = (int(start.min()), int(start.max()) + self.taps) if last > first else (0, 0)
        weight = self.weight[:, first:last].contiguous()
        return Band(start - low, weight, high - low), low

    def to(self, device: torch.device) -> Band:
        """Return the band on another device, in memory that outlives the caller's modes.

        A thread of its own has none of them: neither inference mode, nor the private pool into which ``torch.compile``
        with CUDA graphs leads this thread's allocations, and which it takes for its own.
        """
        if device == self.start.device:
            return self
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: Band(self.start.to(device), self.weight.to(device), self.cells)).result()


def band_of(start: Integers, weight: Floats, cells: int) -> Band:
    """Return the band of first cells ``[pixels]`` and weights ``[taps, pixels]``; it may keep their memory."""
    with torch.inference_mode(False):  # bands outlive the caller's mode, and autograd refuses inference tensors
        return Band(
            torch.from_numpy(np.ascontiguousarray(start, dtype=np.int32)),
            torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float64)),
            cells,
        )
