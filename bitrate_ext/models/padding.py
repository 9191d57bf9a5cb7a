"""Padding of images to a size that a model takes: which values, on which side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import PADDING_SIDES, PADDINGS, check_choice

Crop = tuple[int, int, int, int]  # top, left, height, width, pixels
Size = tuple[int, int]  # vertical, horizontal, pixels


@dataclass(frozen=True)
class Padding:
    """How images are padded.

    "zeros" and "centre" is what CompressAI's ``examples/codec.py`` and ``compressai.utils.eval_model`` do, with the odd
    pixel on the right and at the bottom.

    Args:
        mode: ``"zeros"``; ``"replicate"``, the pixels at the edge once more; or ``"reflect"``, mirrored about them.
        side: ``"centre"``, padded on all sides; or ``"end"``, on the right and at the bottom.

    Raises:
        ValueError: another mode or side.
    """

    mode: str = PADDINGS[0]
    side: str = PADDING_SIDES[0]

    def __post_init__(self) -> None:
        check_choice("padding", self.mode, PADDINGS)
        check_choice("padding_side", self.side, PADDING_SIDES)

    def crop(self, size: Size, canvas: Size) -> Crop:
        """Return where an image of a size lies on the padded canvas."""
        (height, width), centred = size, self.side == "centre"
        return centred * ((canvas[0] - height) // 2), centred * ((canvas[1] - width) // 2), height, width

    def pad(self, x: Tensor, canvas: Size, crop: Crop) -> Tensor:
        """Return images ``[..., height, width]`` on the padded canvas, ``[..., *canvas]``."""
        top, left, height, width = crop
        if self.mode == "zeros":
            return F.pad(x, (left, canvas[1] - width - left, top, canvas[0] - height - top))
        return self.read(cutter(x), (0, 0), canvas, crop)

    def read(self, cut: Callable[[int, int, int, int], Tensor], begin: Size, window: Size, crop: Crop) -> Tensor:
        """Return a window of the padded canvas, having read no more of the image than it shows.

        Args:
            cut: ``cut(top, left, height, width)`` returns ``[..., height, width]`` of the image.
            begin: of the window on the canvas.
            window: its size.
            crop: where the image lies on the canvas.
        """
        axes = list(zip(begin, window, crop[:2], crop[2:], strict=True))
        rows, columns = (self._sources(*axis) for axis in axes)
        (y, y_end), (x, x_end) = ((int(one.min()), int(one.max()) + 1) for one in (rows, columns))
        part = cut(y, x, y_end - y, x_end - x)
        for axis, wanted, first, end in ((-2, rows, y, y_end), (-1, columns, x, x_end)):
            if not torch.equal(wanted, torch.arange(first, end)):
                part = part.index_select(axis, (wanted - first).to(part.device))
        if self.mode != "zeros":
            return part
        at = [torch.arange(first, first + length) - offset for first, length, offset, _ in axes]
        inside = [(one >= 0) & (one < extent) for one, extent in zip(at, crop[2:], strict=True)]
        return torch.where((inside[0][:, None] & inside[1]).to(part.device), part, 0)

    def _sources(self, first: int, length: int, offset: int, extent: int) -> Tensor:
        """Return which of an image's rows each of so many rows of the canvas shows; of zeros, those nearest.

        Args:
            first: of these rows, on the canvas.
            length: how many.
            offset: of the image's first row on the canvas.
            extent: rows of the image.
        """
        rows = torch.arange(first, first + length) - offset
        if self.mode == "reflect" and extent > 1:
            period = 2 * (extent - 1)  # back and forth, as often as it takes
            rows = rows.remainder(period)
            return rows.minimum(period - rows)
        return rows.clamp(0, extent - 1)


def cutter(x: Tensor) -> Callable[[int, int, int, int], Tensor]:
    """Return what cuts ``[..., height, width]`` out of images, for ``Padding.read``."""
    return lambda top, left, height, width: x[..., top : top + height, left : left + width]
