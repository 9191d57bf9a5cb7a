"""Pictures of bitrate maps: the map with a colour bar, and the map laid over the photograph.

Drawn with matplotlib's objects and no global state. Every length in a figure is in pixels: at 72 dots per inch a point
is a pixel. Panels are placed by hand, so that an image pixel falls on whole pixels of the picture wherever it can.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .colormap import DIFFERENCES, colour_limit, colour_map, overlay_bits

if TYPE_CHECKING:
    from PIL import Image

LONG_SIDE = (720, 1600)  # shortest and longest a panel's long side gets, pixels


def map_figure(
    bits: np.ndarray | Tensor,
    *,
    title: str = "",
    subtitle: str = "",
    limit: float | None = None,
    signed: bool = False,
) -> Image.Image:
    """The map with a colour bar in bits per pixel and a title.

    Args:
        bits: ``[H, W]`` or ``[1, 1, H, W]``, bits per pixel. Infinite values get the last colour, NaN is grey.
        title: cut in its middle where it is wider than the picture.
        subtitle: one smaller line below.
        limit: upper end of the colour scale, bits per pixel. Default: ``colour_limit`` of the map.
        signed: a difference: red above zero, blue below, white at zero.

    Returns:
        An RGB image. The panel has the map's aspect; small maps are enlarged, large ones reduced.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    values = _checked_map(bits)
    height, width = _panel_size(*values.shape)
    em = max(15.0, max(height, width) / 60)
    below = width >= 1.9 * height  # where a bar beside the panel would be a stub
    bar_length = max(width if below else height, 9 * em)

    margin, head = 1.2 * em, 4.6 * em if title or subtitle else 1.2 * em
    if below:
        full_width = max(bar_length, 30 * em) + 2 * margin
        full_height = head + height + 5.6 * em
        left, bar = (full_width - width) / 2, ((full_width - bar_length) / 2, 3.7 * em, bar_length, 1.1 * em)
    else:
        group = width + 7.2 * em  # the panel, the bar, its numbers and its label
        full_width = max(group, 26 * em) + 2 * margin
        full_height = head + bar_length + margin
        left = (full_width - group) / 2
        bar = (left + width + 1.2 * em, margin, 1.1 * em, bar_length)
    full_width, full_height = math.ceil(full_width), math.ceil(full_height)
    left, bottom = round(left), round(full_height - head - height)

    figure = Figure(figsize=(full_width / 72, full_height / 72), dpi=72, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panel = figure.add_axes(_placed((left, bottom, width, height), full_width, full_height))
    if limit is None:
        limit = colour_limit(np.abs(values) if signed else values)
    least, largest = (-limit if signed else 0.0), np.finfo(np.float32).max
    shown = np.where(np.isnan(values), np.nan, np.clip(values, -largest if signed else 0.0, largest))
    colours = colour_map(DIFFERENCES) if signed else colour_map()
    picture = panel.imshow(shown, cmap=colours, vmin=least, vmax=limit, aspect="auto")
    panel.set_axis_off()

    scale = figure.colorbar(
        picture,
        cax=figure.add_axes(_placed(bar, full_width, full_height)),
        orientation="horizontal" if below else "vertical",
        extend=_extended(shown, least, limit),
        extendfrac=1.1 * em / bar_length,
    )
    label = "bits per pixel" + (" (grey: not a number)" if np.isnan(values).any() else "")
    scale.set_label(label, size=em, color="0.15", labelpad=0.5 * em)
    scale.ax.tick_params(labelsize=0.9 * em, colors="0.15", length=0.3 * em)
    scale.outline.set_linewidth(0.0)

    room = full_width - 2 * margin
    for text, size, weight, colour, line in ((title, 1.3, "bold", "0.1", 2.25), (subtitle, 1.0, "normal", "0.3", 3.8)):
        written = figure.text(
            margin / full_width, 1 - line * em / full_height, "", size=size * em, weight=weight, color=colour
        )
        _write(written, text, room, canvas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def overlay(photograph: np.ndarray | Tensor, bits: np.ndarray | Tensor, *, limit: float | None = None) -> Image.Image:
    """The map laid over the photograph, pixel for pixel.

    The photograph in grey, tinted with the map's colours: the more bits a pixel costs, the more colour it gets. The
    colour is shaded by the photograph, so that it stays readable where the most bits are.

    Args:
        photograph: ``[H, W, 3]`` or ``[1, 3, H, W]`` in [0, 1].
        bits: ``[H, W]`` or ``[1, 1, H, W]``, bits per pixel. Pixels that are not a number get no colour.
        limit: upper end of the colour scale, bits per pixel. Default: ``colour_limit(bits)``.

    Returns:
        An RGB image of ``W`` x ``H`` pixels.
    """
    from PIL import Image

    values = _checked_map(bits)
    photo = np.asarray(photograph, dtype=np.float32)
    if photo.ndim == 4 and photo.shape[0] == 1:
        photo = photo[0].transpose(1, 2, 0)
    if photo.shape != (*values.shape, 3):
        raise ValueError(f"photograph must be [H, W, 3] of {list(values.shape)} pixels, got {list(photo.shape)}")
    levels = torch.from_numpy(np.rint(255 * photo.clip(0, 1)).astype(np.uint8))
    limit = colour_limit(values) if limit is None else limit
    return Image.fromarray(overlay_bits(levels, torch.from_numpy(values), limit).numpy())


def _checked_map(bits: np.ndarray | Tensor) -> np.ndarray:
    values = bits.detach().cpu().numpy() if isinstance(bits, Tensor) else np.asarray(bits)
    if values.ndim == 4 and values.shape[:2] == (1, 1):
        values = values[0, 0]
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"bits must be a map [H, W] or [1, 1, H, W], got shape {list(values.shape)}")
    return values.astype(np.float32, copy=False)


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) that a map of that size is drawn at: a whole enlargement, or reduced to fit."""
    shortest, longest = LONG_SIDE
    long = max(height, width)
    scale = max(1.0, -(-shortest // long)) if long <= longest else longest / long
    return max(1, round(height * scale)), max(1, round(width * scale))


def _extended(shown: np.ndarray, least: float, limit: float) -> str:
    """At which ends the colour bar goes on, in matplotlib's words."""
    below, above = np.nanmin(shown, initial=0.0) < least, np.nanmax(shown, initial=0.0) > limit
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get((below, above), "both")


def _placed(box: tuple[float, float, float, float], width: int, height: int) -> tuple[float, float, float, float]:
    """(left, bottom, width, height) from pixels to the fractions that matplotlib wants."""
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _write(written: Any, text: str, room: float, canvas: Any) -> None:
    """Set the text, without control characters, its middle left out as far as needed to be ``room`` pixels wide."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    written.set_parse_math(False)  # file names may hold dollar signs

    def fits(kept: int) -> bool:
        written.set_text(text if kept == len(text) else f"{text[: kept - kept // 2]} … {text[len(text) - kept // 2 :]}")
        return written.get_window_extent(canvas.get_renderer()).width <= room

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks
        if fits(len(text)):
            return
        low, high = 0, len(text)  # what is known to fit, or is all there is to do, and what is too wide
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        fits(low)
