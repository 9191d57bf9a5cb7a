"""The chart below a video: bits of each frame by latent, with a cursor, what the frame costs, and the scale of its map.

Drawn in pixels, with NumPy and Pillow, because it is drawn anew for every frame; bars are kept while none is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .colormap import colour_map

if TYPE_CHECKING:
    from PIL import ImageDraw

GROUND, INK, FAINT, CURSOR = (18, 18, 20), (235, 235, 235), (150, 150, 155), (255, 255, 255)
LATENT_COLOURS = (
    *((78, 121, 167), (242, 142, 43), (89, 161, 79), (225, 87, 89)),
    *((118, 183, 178), (237, 201, 72), (176, 122, 161), (156, 117, 95)),
)
LINES = 9.0  # height of the chart, in em
FIRST_COUNT = 64  # bars that there is room for where the number of frames is not known
HEADROOM = 1.25  # of the axis, where a bar has outgrown it
SCALE_WIDTH = 11.0  # of the map's scale, em


class FrameChart:
    """A chart of ``width`` x ``height`` pixels; the height follows from the width.

    Args:
        width: pixels, at least 200.
        count: of the frames, as far as it is known; more may come.
    """

    def __init__(self, width: int, count: int | None = None) -> None:
        self.width = width
        self.em = max(9, round(width / 90))
        self.height = round(LINES * self.em)
        self._count = count or FIRST_COUNT
        self._bits: list[Mapping[str, float]] = []
        self._names: list[str] = []
        self._top = 0.0  # of the axis, bits
        em = self.em
        self._bars = _Box(em, round(2.4 * em), round(width - (SCALE_WIDTH + 3) * em), round(LINES * em - 1.8 * em))
        self._scale = _Box(round(width - (SCALE_WIDTH + 1) * em), round(3.6 * em), width - em, round(4.8 * em))
        self._ground: NDArray[np.uint8] | None = None  # the chart with its bars alone, while none is added

    @property
    def latents(self) -> list[str]:
        """Names in the order in which they came, which is that of the bars from the bottom up."""
        return self._names

    def add(self, bits: Mapping[str, float]) -> None:
        """Add the next frame's bits by latent; what is not finite counts as nothing."""
        finite = {name: value if np.isfinite(value) and value > 0 else 0.0 for name, value in bits.items()}
        total = sum(finite.values())
        if total > self._top:
            self._top = total * (HEADROOM if self._top else 1.0)
        self._names += [name for name in finite if name not in self._names]
        self._bits.append(finite)
        while len(self._bits) > self._count:
            self._count *= 2
        self._ground = None

    def draw(self, index: int, words: str, limit: float) -> NDArray[np.uint8]:
        """Draw the chart with its cursor at frame ``index``.

        Args:
            index: of a frame that has been added.
            words: what is said of the frame, one line.
            limit: upper end of the map's colours, bits per pixel.

        Returns:
            uint8 ``[height, width, 3]``.
        """
        from PIL import Image, ImageDraw

        if self._ground is None:
            self._ground = self._draw_bars()
        ground = self._ground.copy()
        box = self._bars
        left, right = self._column(index), max(self._column(index) + 1, self._column(index + 1))
        cursor = ground[box.top : box.bottom, left:right]
        cursor[:] = cursor // 2 + np.array(CURSOR, dtype=np.uint8) // 2
        image = Image.fromarray(ground)
        draw = ImageDraw.Draw(image)
        em = self.em
        self._write(draw, (em, 0.5 * em), words, 1.1, INK)
        self._write(draw, (box.left, box.bottom + 0.4 * em), "bits of each frame:", 0.9, FAINT)
        x = box.left + self._length("bits of each frame:", 0.9) + em
        for name, colour in zip(self._names, _colours(len(self._names)), strict=True):
            draw.rectangle((x, box.bottom + 0.55 * em, x + 0.7 * em, box.bottom + 1.25 * em), fill=colour)
            self._write(draw, (x + em, box.bottom + 0.4 * em), name, 0.9, INK)
            x += 2 * em + self._length(name, 0.9)
        self._write(draw, (box.left + 0.3 * em, box.top), _bits(self._top), 0.8, FAINT)
        self._draw_scale(draw, limit)
        pixels = np.asarray(image).copy()
        pixels[self._scale.top : self._scale.bottom, self._scale.left : self._scale.right] = _gradient(
            self._scale.right - self._scale.left
        )
        return pixels

    def _draw_scale(self, draw: ImageDraw.ImageDraw, limit: float) -> None:
        box, em = self._scale, self.em
        self._write(draw, (box.left, box.top - 1.5 * em), "map: bits per pixel", 0.9, INK)
        below = box.bottom + 0.2 * em
        for share, text in ((0.0, "0"), (0.5, f"{limit / 2:.3g}"), (1.0, f"{limit:.3g}")):
            x = box.left + share * (box.right - box.left - self._length(text, 0.9))
            self._write(draw, (x, below), text, 0.9, INK)

    def _column(self, index: Any) -> Any:
        box = self._bars
        return box.left + index * (box.right - box.left) // self._count

    def _draw_bars(self) -> NDArray[np.uint8]:
        """Return the chart with its bars. Of more frames than pixels, each pixel shows its costliest."""
        box, frames = self._bars, len(self._bits)
        ground = np.full((self.height, self.width, 3), GROUND, dtype=np.uint8)
        ground[box.top : box.bottom, box.left : box.right] = [c + 14 for c in GROUND]
        bits = np.array([[one.get(name, 0.0) for one in self._bits] for name in self._names])  # [latents, frames]
        starts = self._column(np.arange(frames))
        end = min(box.right, max(self._column(frames - 1) + 1, self._column(frames)))
        order = np.argsort(bits.sum(axis=0), kind="stable")
        costliest = np.zeros(self.width, dtype=int)
        costliest[starts[order]] = order  # where several begin at one pixel, the last that is assigned stays
        columns = np.arange(box.left, end)
        shown = costliest[starts[np.searchsorted(starts, columns, side="right") - 1]]
        room = box.bottom - box.top
        tops = np.rint(np.cumsum(bits, axis=0) / max(self._top, 1e-300) * room).astype(int)[:, shown]
        area, row = ground[box.top : box.bottom, box.left : end], np.arange(room)[::-1, None]  # pixels above the axis
        below = np.zeros(len(columns), dtype=int)
        for top, colour in zip(tops, _colours(len(self._names)), strict=True):
            area[(row >= below) & (row < top)] = colour
            below = top
        return ground

    def _write(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: float, colour: Any) -> None:
        draw.text(at, text, font=_font(round(size * self.em)), fill=colour)

    def _length(self, text: str, size: float) -> float:
        return float(_font(round(size * self.em)).getlength(text))


class _Box:
    """A rectangle in pixels, the last row and column not included."""

    def __init__(self, left: int, top: int, right: int, bottom: int) -> None:
        self.left, self.top, self.right, self.bottom = left, top, max(right, left + 1), bottom


def _colours(count: int) -> Sequence[tuple[int, int, int]]:
    return [LATENT_COLOURS[k % len(LATENT_COLOURS)] for k in range(count)]


def _bits(value: float) -> str:
    for size, unit in ((1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} bits"


@lru_cache(maxsize=16)
def _gradient(width: int) -> NDArray[np.uint8]:
    return np.asarray(np.rint(255 * colour_map()(np.linspace(0, 1, width))[:, :3]), np.uint8)


@lru_cache(maxsize=16)
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), max(6, size))
