"""Average images that come in strips, down to a size that people look at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LONG_SIDE = 4096  # of reduced images, at most, pixels


def downsampled_size(shape: tuple[int, ...], long_side: int = LONG_SIDE) -> tuple[int, tuple[int, int]]:
    """Return the side of the squares of pixels that are averaged, and (h, w) of what results."""
    factor = -(-max(shape) // long_side)
    return factor, (-(-shape[0] // factor), -(-shape[1] // factor))


class Downsampler:
    """An image that comes in strips, averaged over squares of pixels so that no side is longer than ``long_side``.

    Squares at the right and lower border average the pixels that they have.

    Args:
        shape: (H, W), pixels.
        channels: of strips ``[rows, W, channels]``; 0 for strips ``[rows, W]``.
    """

    def __init__(self, shape: tuple[int, ...], channels: int = 0, long_side: int = LONG_SIDE) -> None:
        self.factor, reduced = downsampled_size(shape, long_side)
        self._width = shape[1]
        size = (*reduced, *([channels] if channels else []))
        self.pixels = np.zeros(size, np.float32)
        self._sums = np.zeros(size[1:])  # of the rows of the present squares
        self._row = 0

    def add(self, strip: NDArray[Any]) -> None:
        """Take the next rows."""
        starts = np.arange(0, self._width, self.factor)
        while len(strip):
            part = strip[: self.factor - self._row % self.factor]
            strip = strip[len(part) :]
            self._sums += np.add.reduceat(part.sum(axis=0, dtype=np.float64), starts, axis=0)
            self._row += len(part)
            self._settle()

    def _settle(self) -> None:
        """Put down the mean of what the present squares hold so far."""
        at = (self._row - 1) // self.factor
        rows = self._row - at * self.factor
        columns = np.diff(np.append(np.arange(0, self._width, self.factor), self._width))
        self.pixels[at] = self._sums / (rows * columns).reshape(-1, *[1] * (self.pixels.ndim - 2))
        if rows == self.factor:
            self._sums[:] = 0
