"""A figure whose lengths are pixels, or points in print, drawn with matplotlib's objects and no global state.

At 72 dots per inch a point is a pixel. Axes are placed by hand, so that an image's pixel can fall on whole pixels of
the figure. Letters are measured in em, the size of ordinary ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


SCREEN, PRINT = 72, 300  # dots per inch


class PixelFigure:
    """A white figure; lengths are rounded up to whole pixels, in print they stay as they are.

    Args:
        width, height: pixels; in print points, of which an inch has 72.
        em: size of its letters, likewise.
        dpi: ``SCREEN``, or another number in print.
    """

    def __init__(self, width: float, height: float, em: float, dpi: int = SCREEN) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        from .vector import VectorFigure

        whole = math.ceil if dpi == SCREEN else float
        self.width, self.height, self.em = whole(width), whole(height), em
        self.figure = VectorFigure(figsize=(self.width / 72, self.height / 72), dpi=dpi, facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)

    def add_axes(self, left: float, bottom: float, width: float, height: float) -> Any:
        """Add axes at a place in pixels, counted from the left and from below."""
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def write_head(self, texts: Sequence[str], margin: float, lines: Sequence[float]) -> None:
        """Write a title and smaller lines below it, each cut in its middle where it is too wide.

        Args:
            texts: the title first; without control characters and mathematics, as file names may hold anything.
            margin: at the left and at the right, pixels.
            lines: how far from the top each stands, em.
        """
        for number, (text, line) in enumerate(zip(texts, lines, strict=False)):
            size, weight, colour = (1.0, "normal", "0.3") if number else (1.3, "bold", "0.1")
            place = margin, self.height - line * self.em
            self.write(place, text, self.width - 2 * margin, size=size * self.em, weight=weight, color=colour)

    def write_ends(self, scale: Any, ends: tuple[str, str]) -> None:
        """Write what the two ends of a colour bar stand for, in the line of its label."""
        upright = scale.orientation == "vertical"
        label = (scale.ax.yaxis if upright else scale.ax.xaxis).label
        renderer = self._canvas.get_renderer()
        scale.ax.get_tightbbox(renderer)  # puts the label in its place
        inverse = self.figure.transFigure.inverted()
        (left, bottom), (right, top) = inverse.transform(label.get_window_extent(renderer))
        bar = scale.ax.get_position()
        for number, text in enumerate(ends):
            style = {"size": self.em, "color": "0.15", "rotation": 90 * upright}
            if upright:
                place = (left + right) / 2, (bar.y0, bar.y1)[number]
                style |= {"ha": "center", "va": ("bottom", "top")[number]}
            else:
                place = (bar.x0, bar.x1)[number], (bottom + top) / 2
                style |= {"ha": ("left", "right")[number], "va": "center"}
            self.figure.text(*place, text, **style)

    def write(self, place: tuple[float, float], text: str, room: float, **style: Any) -> Any:
        """Write a text at a place counted from the left and from below; cut in its middle to be ``room`` wide.

        Whatever stands in a file's name may be in it.
        """
        written = self.figure.text(place[0] / self.width, place[1] / self.height, "", family="sans-serif", **style)
        written.set_parse_math(False)
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)

        def fits(kept: int) -> bool:
            cut = text if kept == len(text) else f"{text[: kept - kept // 2]} … {text[len(text) - kept // 2 :]}"
            return self.width_of(written, cut) <= room

        if fits(len(text)):
            return written
        low, high = 0, len(text)  # what is known to fit, or is all there is to do, and what is too wide
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        fits(low)
        return written

    def width_of(self, written: Any, text: str) -> float:
        """Set a text, and return how wide it is."""
        written.set_text(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that the font lacks
            extent = written.get_window_extent(self._canvas.get_renderer())
        return float(extent.width) * 72 / self.figure.dpi

    def style_ticks(self, axes: Any, **more: Any) -> None:
        """Give ticks and their numbers the figure's size and colour."""
        axes.tick_params(labelsize=0.9 * self.em, colors="0.15", length=0.3 * self.em, **more)

    def to_image(self) -> Image.Image:
        """Draw everything; return an RGB image."""
        from PIL import Image

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
            self._canvas.draw()
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba())[:, :, :3])
