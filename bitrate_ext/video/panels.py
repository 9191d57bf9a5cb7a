"""The frames of a result: the source's frame and its map, side by side or one over the other, and the chart below."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..viz.colormap import apply_colormap, overlay_bits
from ..viz.frame_chart import GROUND, FrameChart
from .record import FrameRow

LEAST_WIDTH = 360  # of a result, pixels: small frames are enlarged
MOST_ZOOM = 6


class PanelPainter:
    """Draws frames of ``width`` x ``height`` pixels, into buffers that take turns.

    Args:
        size: (H, W) of the source's frames, pixels.
        view: ``"side"``, ``"overlay"`` or ``"map"``.
        device: where frames and maps are.
        buffers: how many; a frame lasts until so many have been drawn after it.
        count: of the frames, as far as it is known.
        rows: those that the chart shows from the first frame on; others it gets as they are drawn.
    """

    def __init__(
        self,
        size: tuple[int, int],
        view: str,
        device: torch.device,
        *,
        buffers: int,
        count: int | None,
        rows: Iterable[FrameRow] = (),
    ) -> None:
        self._view = view
        height, width = size[0], size[1] * (2 if view == "side" else 1)
        self._zoom = min(MOST_ZOOM, -(-LEAST_WIDTH // width))
        self.width = max(LEAST_WIDTH, self._zoom * width)
        self._chart = FrameChart(self.width, count)
        self._charted = 0  # frames
        for row in rows:
            self._add(row)
        self.height = self._zoom * height + self._chart.height
        self._buffers = np.zeros((buffers, self.height, self.width, 3), dtype=np.uint8)
        self._panels = torch.empty((height, width, 3), dtype=torch.uint8, device=device)

    def draw(self, frame: Tensor, bits: Tensor, limit: float, row: FrameRow, count: int | None) -> NDArray[np.uint8]:
        """Return uint8 ``[height, width, 3]``, in one of the buffers.

        Args:
            frame: uint8 ``[H, W, 3]``.
            bits: ``[H, W]``, bits per pixel, on the same device.
            limit: upper end of the colours, bits per pixel.
            row: what the frame costs.
            count: of all frames, where it is said.
        """
        if row.index >= self._charted:
            self._add(row)
        width = frame.shape[1]
        panels = self._panels
        if self._view == "side":
            panels[:, :width] = frame
            apply_colormap(bits, limit, out=panels[:, width:])
        elif self._view == "overlay":
            overlay_bits(frame, bits, limit, out=panels)
        else:
            apply_colormap(bits, limit, out=panels)
        if self._zoom > 1:
            panels = panels.repeat_interleave(self._zoom, 0).repeat_interleave(self._zoom, 1)
        pixels: NDArray[np.uint8] = self._buffers[row.index % len(self._buffers)]
        pixels[: panels.shape[0], panels.shape[1] :] = GROUND
        torch.from_numpy(pixels)[: panels.shape[0], : panels.shape[1]] = panels
        pixels[panels.shape[0] :] = self._chart.draw(row.index, _describe(row, count), limit)
        return pixels

    def _add(self, row: FrameRow) -> None:
        self._chart.add(row.latent_bits)
        self._charted += 1


def _describe(row: FrameRow, count: int | None) -> str:
    of = f" of {count}" if count else ""
    kind = "" if row.kind == "image" else f"    {row.kind}"
    bits = f"{row.total_bits:,.0f} bits    {row.bpp:.3f} bits per pixel" if math.isfinite(row.bpp) else "infinite bits"
    return f"frame {row.index + 1}{of}    {row.time:.3f} s{kind}    {bits}"
