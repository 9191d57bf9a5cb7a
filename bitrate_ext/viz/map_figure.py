"""Figures of bitrate maps: the map with a colour bar, and the map laid over its image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .colormap import (
    DIFFERENCES,
    LEVELS,
    NO_RIM,
    PERCENTILE,
    Rim,
    colour_limit,
    colour_map,
    inside_rim,
    overlay_bits,
    overlay_colours,
)
from .figure import PixelFigure

if TYPE_CHECKING:
    from PIL import Image

LARGEST = np.finfo(np.float32).max
RIM_NOTE = "dotted: beside padding"
TICK_ROOM = 2.8  # em between two numbers of a scale
LONG_SIDE = (720, 1600)  # shortest and longest a panel's long side gets, pixels


def map_figure(
    bits: NDArray[Any] | Tensor,
    *,
    title: str = "",
    subtitle: str = "",
    limit: float | None = None,
    signed: bool = False,
    ends: tuple[str, str] | None = None,
    rim: Rim = NO_RIM,
) -> Image.Image:
    """Draw the map with a colour bar in bits per pixel and a title.

    Args:
        bits: ``[H, W]`` or ``[1, 1, H, W]``, bits per pixel. Infinite values get the last colour, NaN is grey.
        title: cut in its middle where it is wider than the figure.
        subtitle: one smaller line below.
        limit: upper end of the colour scale, bits per pixel. Default: ``colour_limit`` of the map inside the rim.
        signed: a difference: red above zero, blue below, white at zero.
        ends: what the lower and the upper end of the scale stand for.
        rim: pixels at the top, bottom, left and right that are beside padding, ``result.rim``: a dotted line is drawn.

    Returns:
        An RGB image. The panel has the map's aspect; small maps are enlarged by whole numbers, large ones reduced.
    """
    values = checked_map(bits)
    height, width = panel_size(*values.shape)
    em = max(15.0, max(height, width) / 60)
    below = width >= 1.9 * height  # where a bar beside the panel would be a stub
    bar_length = max(width if below else height, 9 * em)

    margin, head = 1.2 * em, 6.0 * em if title or subtitle else 1.2 * em
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

    figure = PixelFigure(full_width, full_height, em)
    panel = figure.add_axes(round(left), round(figure.height - head - height), width, height)
    chosen = limit
    if limit is None:
        measure = inside_rim(values, rim)
        limit = colour_limit(np.abs(measure) if signed else measure)
    least = -limit if signed else 0.0
    shown = np.where(np.isnan(values), np.nan, np.clip(values, -LARGEST if signed else 0.0, LARGEST))
    colours = colour_map(DIFFERENCES) if signed else colour_map()
    drawn = panel.imshow(shown, cmap=colours, vmin=least, vmax=limit, aspect="auto")
    panel.set_axis_off()
    if any(rim):
        mark_rim(panel, values.shape, rim, em, "0.2" if signed else "white")

    scale = figure.figure.colorbar(
        drawn,
        cax=figure.add_axes(*bar),
        orientation="horizontal" if below else "vertical",
        extend=extension(shown, least, limit),
        extendfrac=1.1 * em / bar_length,
    )
    notes = [note for note, told in (("grey: not a number", np.isnan(values).any()), (RIM_NOTE, any(rim))) if told]
    label = "bits per pixel" + (f" ({'; '.join(notes)})" if notes and not ends else "")
    scale.set_label(label, size=em, color="0.15", labelpad=0.5 * em)
    figure.style_ticks(scale.ax)
    scale.outline.set_linewidth(0.0)
    if ends:
        figure.write_ends(scale, ends)
    if title or subtitle:
        note = scale_note(shown, limit, measured=chosen is None, rim=rim)
        texts = (title, "   ".join([subtitle, *(notes if ends else ())]), note)
        figure.write_head(texts, margin, (2.25, 3.8, 5.2))
    return figure.to_image()


def legend(width: int, limit: float, *, laid_over: bool = True, power: float = 1.0, about: str = "") -> Image.Image:
    """Draw what the colours of an overlay mean, on parts of the image from dark to light; both ends have a number.

    Args:
        width: of the overlay, pixels.
        limit: upper end of the colour scale, bits per pixel.
        laid_over: its colours; else those of the map alone.
        power: of bits per pixel that colours are even in; below 1 the low end has more of them.
        about: more words on the scale.

    Returns:
        An RGB image, as wide as the overlay where there is room for the numbers.
    """
    em = min(max(11.0, width / 50), 30.0)
    figure = PixelFigure(max(width, 22 * em), 5.5 * em, em)
    length = figure.width - 2.4 * em
    bar = figure.add_axes(1.2 * em, 3.3 * em, length, 1.8 * em)
    colours = overlay_colours() if laid_over else colour_map()(np.arange(LEVELS))[None]
    bar.imshow(colours, aspect="auto", origin="lower", extent=(0, limit**power, 0, 1), interpolation="bilinear")
    bar.set_yticks([])
    ticks = scale_ticks(limit, power, TICK_ROOM * em / length)
    bar.set_xticks([one**power for one in ticks], [f"{one:.3g}" for one in ticks])
    notes = ["bits per pixel", *["over dark (below) to light parts of the image"] * laid_over, *[about] * bool(about)]
    bar.set_xlabel(", ".join(notes), size=em, color="0.15")
    figure.style_ticks(bar)
    for side in bar.spines.values():
        side.set_visible(False)
    return figure.to_image()


def scale_ticks(limit: float, power: float, room: float) -> list[float]:
    """Return numbers below a scale, its two ends among them, that leave one another a share of it as room."""
    from matplotlib.ticker import MaxNLocator

    decades = 10.0 ** np.arange(math.floor(math.log10(limit)) - 4, 6)
    even: Any = ()
    for bins in range(9, 1, -1):  # as many as leave one another room
        even = MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]).tick_values(0, limit)
        if even[1] - even[0] > room * limit:
            break
    between = even if power == 1.0 else np.outer(decades, (1, 2, 5)).ravel()
    ticks = [limit]
    for one in sorted((one for one in between if 0 < one < limit), reverse=True):
        if min(ticks[-1] ** power - one**power, one**power) > room * limit**power:
            ticks.append(float(one))
    return [0.0, *reversed(ticks)]


def with_legend(laid: Image.Image, limit: float) -> Image.Image:
    """Return an overlay with its legend below; its pixels stay where they are."""
    from PIL import Image

    below = legend(laid.width, limit)
    whole = Image.new("RGB", (max(laid.width, below.width), laid.height + below.height), "white")
    whole.paste(laid, (0, 0))
    whole.paste(below, (0, laid.height))
    return whole


def overlay_figure(
    image: NDArray[Any] | Tensor, bits: NDArray[Any] | Tensor, *, limit: float | None = None, rim: Rim = NO_RIM
) -> Image.Image:
    """Lay the map over its image as ``overlay`` does, with a legend below."""
    values = checked_map(bits)
    limit = colour_limit(inside_rim(values, rim)) if limit is None else limit
    return with_legend(overlay(image, values, limit=limit), limit)


def overlay(
    image: NDArray[Any] | Tensor, bits: NDArray[Any] | Tensor, *, limit: float | None = None, rim: Rim = NO_RIM
) -> Image.Image:
    """Lay the map over its image, pixel for pixel, as ``overlay_bits`` does.

    Args:
        image: ``[H, W, 3]`` or ``[1, 3, H, W]`` in [0, 1].
        bits: ``[H, W]`` or ``[1, 1, H, W]``, bits per pixel. Pixels that are not a number show the image in grey.
        limit: upper end of the colour scale, bits per pixel. Default: ``colour_limit`` of the bits inside the rim.
        rim: pixels at the top, bottom, left and right that are beside padding, ``result.rim``.

    Returns:
        An RGB image of ``W`` x ``H`` pixels.
    """
    from PIL import Image

    values = checked_map(bits)
    levels = as_levels(image, values.shape)
    limit = colour_limit(inside_rim(values, rim)) if limit is None else limit
    return Image.fromarray(overlay_bits(levels, torch.from_numpy(values), limit).numpy())


def as_levels(image: NDArray[Any] | Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return an image ``[H, W, 3]`` or ``[1, 3, H, W]`` in [0, 1] as uint8 ``[H, W, 3]``.

    Raises:
        ValueError: it is not of that shape (H, W).
    """
    pixels = np.asarray(image.detach().float().cpu() if isinstance(image, Tensor) else image, dtype=np.float32)
    if pixels.ndim == 4 and pixels.shape[0] == 1:
        pixels = pixels[0].transpose(1, 2, 0)
    if pixels.shape != (*shape, 3):
        raise ValueError(f"image must be [H, W, 3] of {list(shape)} pixels, got {list(pixels.shape)}")
    return torch.from_numpy(np.rint(255 * np.nan_to_num(pixels).clip(0, 1)).astype(np.uint8))


def scale_note(shown: NDArray[Any], limit: float, *, measured: bool, rim: Rim = NO_RIM, of: str = "") -> str:
    """Say where the scale of colours ends, and what lies above; ``of`` which maps that was measured."""
    sizes = np.abs(shown[~np.isnan(shown)])
    above = float((sizes > limit).mean()) if sizes.size else 0.0
    end = f"the scale ends at {limit:.3g}" + (f", the {PERCENTILE}th percentile{of}" if measured else "")
    end += " away from padding" if measured and any(rim) else ""
    if not above:
        return f"{end}; no pixel is beyond"
    share = f"{100 * above:.1f} %" if above >= 0.0005 else "few"
    largest = sizes.max()
    return f"{end}; {share} of the pixels are beyond, up to {'infinity' if largest >= LARGEST else f'{largest:.3g}'}"


def mark_rim(panel: Any, shape: tuple[int, ...], rim: Rim, em: float, colour: str) -> None:
    """Draw a line between the rim and the rest of the map, on the sides that have one."""
    (height, width), (top, bottom, left, right) = shape[-2:], rim
    box = (left - 0.5, width - right - 0.5), (top - 0.5, height - bottom - 0.5)
    sides = [
        (top, box[0], (box[1][0],) * 2),
        (bottom, box[0], (box[1][1],) * 2),
        (left, (box[0][0],) * 2, box[1]),
        (right, (box[0][1],) * 2, box[1]),
    ]
    style = {"color": colour, "linestyle": (0, (1, 3)), "linewidth": 0.08 * em, "alpha": 0.7}
    for wide, xs, ys in sides:
        if wide:
            panel.plot(xs, ys, scalex=False, scaley=False, **style)


def checked_map(bits: NDArray[Any] | Tensor) -> NDArray[np.float32]:
    """Return a map ``[H, W]`` of what may be a tensor or ``[1, 1, H, W]``; raises ``ValueError`` of another shape."""
    values = bits.detach().cpu().numpy() if isinstance(bits, Tensor) else np.asarray(bits)
    if values.ndim == 4 and values.shape[:2] == (1, 1):
        values = values[0, 0]
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"bits must be a map [H, W] or [1, 1, H, W], got shape {list(values.shape)}")
    return values.astype(np.float32, copy=False)


def panel_size(height: int, width: int, *, beside: int = 1) -> tuple[int, int]:
    """Return the size that a map is drawn at, (height, width): a whole enlargement, or reduced to fit.

    So many of one size are ``beside`` each other.
    """
    shortest, longest = LONG_SIDE
    long = max(height, beside * width)
    scale = max(1.0, -(-shortest // long)) if long <= longest else longest / long
    return max(1, round(height * scale)), max(1, round(width * scale))


def extension(shown: NDArray[Any], least: float, limit: float) -> str:
    """Tell at which ends the colour bar goes on, in matplotlib's words."""
    below, above = np.nanmin(shown, initial=0.0) < least, np.nanmax(shown, initial=0.0) > limit
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get((below, above), "both")
