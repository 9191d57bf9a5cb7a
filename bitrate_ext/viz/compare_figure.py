"""One figure of several codecs on one photograph: the photograph, their maps in one scale, and signed differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .colormap import DIFFERENCES, NO_RIM, Rim, colour_map
from .figure import PixelFigure
from .map_figure import RIM_NOTE, checked_map, extension, mark_rim, panel_size

if TYPE_CHECKING:
    from PIL import Image

HEAD, CAPTION, SCALES = 4.4, 3.8, 6.0  # em: above all, above each panel, and below all
COLUMN = 25  # em that captions have at least
Captions = tuple[str, str]  # a bold line and one below


def compare_figure(
    picture: NDArray[Any] | Tensor,
    maps: Mapping[str, NDArray[Any] | Tensor],
    differences: Mapping[str, NDArray[Any] | Tensor],
    captions: Mapping[str, Captions],
    *,
    title: str,
    limit: float,
    difference_limit: float,
    ends: tuple[str, str],
    rim: Rim = NO_RIM,
) -> Image.Image:
    """Draw maps of several codecs beside each other; above them the photograph and differences from the first map.

    Args:
        picture: ``[h, w, 3]`` or ``[1, C, h, w]`` in [0, 1], of any size.
        maps: ``[H, W]``, bits per pixel, by the letters of their codecs.
        differences: the same of all but the first, from the first.
        captions: two lines of each map.
        title: above all.
        limit: where the scale of the maps ends, bits per pixel.
        difference_limit: and that of differences.
        ends: what the lower and the upper end of the differences stand for.
        rim: pixels at the top, bottom, left and right that are beside padding: a dotted line is drawn.

    Returns:
        An RGB image.
    """
    values = {letter: checked_map(one) for letter, one in maps.items()}
    apart = {letter: checked_map(one) for letter, one in differences.items()}
    (first, shape), columns = next((letter, one.shape) for letter, one in values.items()), len(values)
    height, width = panel_size(*shape, beside=columns)
    em = max(13.0, columns * width / 75)
    column_width, margin = max(width, COLUMN * em), 1.2 * em
    row = CAPTION * em + height
    inside = columns * column_width + (columns - 1) * em
    figure = PixelFigure(inside + 2 * margin, (HEAD + SCALES) * em + 2 * row, em)
    size = f"{shape[1]} x {shape[0]} pixels" + (f"   {RIM_NOTE}" if any(rim) else "")
    figure.write_head((title, size), margin, (2.2, 3.8))

    def add(row_number: int, column: int, lines: Captions) -> Any:
        left = round(margin + column * (column_width + em))
        bottom = round(figure.height - HEAD * em - (row_number + 1) * row)
        for number, text in enumerate(lines):
            place = left, bottom + height + (1.9 - 1.4 * number) * em
            weight, colour = ("normal", "0.3") if number else ("bold", "0.1")
            figure.write(place, text, column_width, size=em, weight=weight, color=colour)
        panel = figure.add_axes(left, bottom, width, height)
        panel.set_axis_off()
        return panel

    add(0, 0, ("Photograph", "")).imshow(_as_picture(picture), aspect="auto")
    for number, panels in enumerate((apart, values)):
        least, most = (0.0, limit) if number else (-difference_limit, difference_limit)
        drawn: Any = None
        for column, (letter, one) in enumerate(panels.items(), start=columns - len(panels)):
            about = (
                captions[letter] if number else (f"{first.upper()} minus {letter.upper()}", "difference of the maps")
            )
            panel = add(number, column, about)
            colours = colour_map() if number else colour_map(DIFFERENCES)
            drawn = panel.imshow(one, cmap=colours, vmin=least, vmax=most, aspect="auto")
            if any(rim):
                mark_rim(panel, shape, rim, em, "white" if number else "0.2")
        extend = extension(np.concatenate([one.ravel() for one in panels.values()]), least, most)
        half = (inside - 2 * em) / 2
        axes = figure.add_axes(margin + (0 if number else half + 2 * em), 3.9 * em, half, em)
        scale = figure.figure.colorbar(drawn, cax=axes, orientation="horizontal", extend=extend, extendfrac=em / half)
        scale.set_label("bits per pixel of the maps" if number else "bits per pixel", size=em, color="0.15")
        figure.style_ticks(scale.ax)
        scale.outline.set_linewidth(0.0)
        if not number:
            figure.write_ends(scale, ends)
    return figure.to_image()


def _as_picture(picture: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Return a picture as Matplotlib shows it, ``[h, w, 3]`` in [0, 1]."""
    pixels = np.asarray(picture.detach().float().cpu() if isinstance(picture, Tensor) else picture)
    if pixels.ndim == 4:
        pixels = pixels[0].transpose(1, 2, 0)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels
