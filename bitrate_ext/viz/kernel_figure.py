"""Figure of a receptive field: where the bits of one latent cell go, beside what bilinear interpolation would do.

Positions in the panels are edges: pixel ``p`` of the kernel covers ``p`` to ``p + 1``, so that the lines between cells
fall on ticks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..choices import inches_of
from ..receptive_field.field import ReceptiveField
from .colormap import COLOURS
from .figure import PRINT, SCREEN, PixelFigure

if TYPE_CHECKING:
    from PIL import Image

DECADES = 4  # of the colour scale: it ends at 1e-4 of the kernel's maximum
LONG_SIDE = (640, 1600)  # least and most that the panel's long side gets, pixels
PRINT_EM, AROUND, LEAST_WIDTH = 7.5, 26.3, 5.5  # of letters in print, points; beside the panel, em; inches
NARROW = 6  # cells of fewer pixels in the figure get no borders, which would hide the kernel
SLENDER = 2.0  # a panel longer than this is widened, so that its labels have room
TIMES = "\N{MULTIPLICATION SIGN}"
TICKS = 9  # at most, along the panel's long side
OWN, OTHERS, FRAME = "#38d6f5", "0.7", "white"  # lines over the kernel's dark colours
KERNEL, BILINEAR = "#b8375b", "#1f5fa8"  # of the marginals, on white
Span = tuple[int, int]  # first and last edge along one axis, pixels relative to stride * i


@dataclass(frozen=True)
class _View:
    """What the panel shows, and how large."""

    spans: tuple[Span, Span]  # of rows and of columns
    ticks: tuple[list[int], list[int]]
    height: float  # of the panel, pixels, in print points
    width: float
    em: float  # size of the letters, likewise


def kernel_figure(field: ReceptiveField, *, model: str = "") -> Image.Image:
    """Draw the kernel in colours over four decades, its marginals beside it, and bilinear interpolation's.

    The panel shows the share of a cell's bits that each pixel gets, in pixels relative to ``stride * i``; below 1e-4 of
    the largest everything has the darkest colour. The curves are its sums over columns and over rows. The dashed ones
    are those of bilinear interpolation, a hat around the middle of the cell.

    Args:
        field: as ``calibrate`` returns it.
        model: what to call the model that it is of; left out where empty.

    Returns:
        An RGB image.
    """
    return _compose(field, model, _view(field), SCREEN)[0].to_image()


def field_figure(field: ReceptiveField, *, model: str = "", width: str | float = "page") -> tuple[Any, tuple[Any, ...]]:
    """Draw the kernel with its marginals for print; what is shown is that of ``kernel_figure``.

    Args:
        field: as ``calibrate`` returns it.
        model: what to call the model that it is of; left out where empty.
        width: "page", 7 inches, or inches from 5.5.

    Returns:
        Matplotlib's figure, and its axes: the kernel, its sums over columns, over rows, and the colour bar.
        ``figure.savefig("name.pdf")`` keeps text as text.

    Raises:
        ValueError: another width.

    Example:
        >>> figure, axes = bitrate_ext.field_figure(field, model="demo codec")
        >>> figure.savefig(folder / "kernel.pdf")
    """
    inches = inches_of(width)
    if inches < LEAST_WIDTH:
        raise ValueError(f"width must be at least {LEAST_WIDTH} inches, for kernel, profiles and words, got {width!r}")
    view = _view(field)
    (top, bottom), (left, right) = view.spans
    wide = 72 * inches - AROUND * PRINT_EM
    view = replace(view, height=wide * (bottom - top) / (right - left), width=wide, em=PRINT_EM)
    figure, axes = _compose(field, model, view, PRINT)
    return figure.figure, axes


def _compose(field: ReceptiveField, model: str, view: _View, dpi: int) -> tuple[PixelFigure, tuple[Any, ...]]:
    em, width, height = view.em, view.width, view.height
    margin, gap, side = 1.2 * em, 1.1 * em, 9.5 * em  # `side`: what a marginal rises to
    head = (6.3 if model else 4.9) * em
    left, bottom = margin + 4.8 * em, margin + 3.4 * em
    beside, over = left + width + gap, bottom + height + gap

    figure = PixelFigure(beside + side + 8.5 * em + margin, over + side + head, em, dpi)
    panel = figure.add_axes(left, bottom, width, height)
    drawn = _draw_kernel(figure, panel, field, view)
    above, right = figure.add_axes(left, over, width, side), figure.add_axes(beside, bottom, side, height)
    _draw_marginals(figure, above, right, field, view)
    bar = figure.add_axes(beside + side + 1.4 * em, bottom, 1.1 * em, height)
    _draw_bar(figure, bar, drawn)
    handles, words = _legend(em)
    figure.figure.legend(
        handles,
        words,
        loc="upper left",
        bbox_to_anchor=((beside + 0.3 * em) / figure.width, (over + side) / figure.height),
        fontsize=0.92 * em,
        labelcolor="0.15",
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        labelspacing=0.45,
        handlelength=2.2,
    )
    texts = (f"Receptive field of latent {field.latent!r}", model, _numbers(field))
    figure.write_head([text for text in texts if text], margin, (2.25, 3.8, 5.2))
    return figure, (panel, above, right, bar)


def bilinear_marginal(stride: int, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the shares of a cell's bits that bilinear interpolation gives rows, or columns, ``pixels``.

    They are counted from ``stride * i``.
    """
    shares: NDArray[np.float64] = np.maximum(0.0, 1 - np.abs(pixels - (stride - 1) / 2) / stride) / stride
    return shares


def _numbers(field: ReceptiveField) -> str:
    high, wide = (last - first + 1 for first, last in field.reach)
    several = len(field.kernel) > 1
    terms = f"{len(field.kernel)} separable term{'s' if several else ''}"
    if "separable_error" in field.fit:
        terms += f" misplace{'' if several else 's'} {100 * field.fit['separable_error']:.1f} % of the bits"
    return f"stride {field.stride[0]} {TIMES} {field.stride[1]}   reach {high} {TIMES} {wide} pixels   {terms}"


def _view(field: ReceptiveField) -> _View:
    """View the reach and the bilinear hat with a little room, enlarged by a whole number where that is possible."""
    spans = []
    for (first, last), stride in zip(field.reach, field.stride, strict=True):
        low, high = min(first, -stride / 2), max(last + 1, 1.5 * stride)
        room = 0.04 * (high - low)
        spans.append((math.floor(low - room), math.ceil(high + room)))
    long = max(high - low for low, high in spans)
    wider = [max(0, math.ceil(long / SLENDER) - (high - low) + 1) // 2 for low, high in spans]
    spans = [(low - more, high + more) for (low, high), more in zip(spans, wider, strict=True)]
    ticks = []
    ends = spans[0][1], math.floor(spans[1][1] - 0.03 * long)  # further right, numbers would meet the next panel's
    for (low, _), end, stride in zip(spans, ends, field.stride, strict=True):
        every = stride * max(1, math.ceil(long / stride / TICKS))
        ticks.append(list(range(math.ceil(low / every) * every, end + 1, every)))
    least, most = LONG_SIDE
    scale = math.ceil(least / long) if long <= most else most / long
    height, width = (round((high - low) * scale) for low, high in spans)
    return _View((spans[0], spans[1]), (ticks[0], ticks[1]), height, width, max(15.0, max(height, width) / 60))


def _draw_kernel(figure: PixelFigure, panel: Any, field: ReceptiveField, view: _View) -> Any:
    import matplotlib
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    colours, em, (rows, columns) = matplotlib.colormaps[COLOURS], view.em, view.spans
    (top, bottom), (left, right) = field.reach
    percent = 100 * field.dense()
    least, most = percent.max() * 10.0**-DECADES, percent.max()
    panel.set_facecolor(colours(0.0))
    drawn = panel.imshow(
        np.maximum(percent, least),
        norm=LogNorm(least, most),
        cmap=colours,
        extent=(left, right + 1, bottom + 1, top),
        interpolation="nearest",
        aspect="auto",
    )
    panel.set(xlim=columns, ylim=(rows[1], rows[0]))
    for span, stride, line in ((columns, field.stride[1], panel.axvline), (rows, field.stride[0], panel.axhline)):
        if stride * view.height < NARROW * (rows[1] - rows[0]):
            continue
        for cell in range(math.ceil(span[0] / stride), span[1] // stride + 1):
            line(cell * stride, color="white", alpha=0.28, linewidth=0.05 * em, zorder=2)
    reach = Rectangle((left, top), right + 1 - left, bottom + 1 - top, edgecolor=FRAME, linewidth=0.09 * em)
    reach.set_linestyle((0, (5, 3)))
    own = Rectangle((0, 0), field.stride[1], field.stride[0], edgecolor=OWN, linewidth=0.16 * em)
    for frame in (reach, own):
        frame.set(fill=False, zorder=3)
        panel.add_patch(frame)
    (y, x), (v, u) = field.center, field.centroid
    panel.plot(x + 0.5, y + 0.5, zorder=4, **_cross(em))
    panel.plot(u + 0.5, v + 0.5, zorder=5, **_dot(em))
    panel.set_xlabel(f"columns relative to {field.stride[1]} {TIMES} column of the cell", size=em, color="0.15")
    panel.set_ylabel(f"rows relative to {field.stride[0]} {TIMES} row of the cell", size=em, color="0.15")
    panel.set_xticks(view.ticks[1])
    panel.set_yticks(view.ticks[0])
    _style(figure, panel)
    return drawn


def _draw_marginals(figure: PixelFigure, above: Any, right: Any, field: ReceptiveField, view: _View) -> None:
    """Draw the percentages of each column, above, and of each row, at the right; both on the same scale."""
    kernel, em, (rows, columns) = field.dense(), view.em, view.spans
    most = 0.0
    for axes, axis, orientation in ((right, 0, "horizontal"), (above, 1, "vertical")):
        low, high = view.spans[axis]
        edges = np.arange(low, high + 1)
        shares, start = np.zeros(high - low), field.reach[axis][0] - low
        shares[start : start + kernel.shape[axis]] = kernel.sum(axis=1 - axis)
        hat = bilinear_marginal(field.stride[axis], edges[:-1])
        most = max(most, shares.max(), hat.max())
        line = {"orientation": orientation, "baseline": None, "linewidth": 0.11 * em}
        axes.stairs(100 * shares, edges, orientation=orientation, fill=True, color=KERNEL, alpha=0.3, linewidth=0)
        axes.stairs(100 * shares, edges, color=KERNEL, **line)
        axes.stairs(100 * hat, edges, color=BILINEAR, linestyle=(0, (4, 2)), **line)
        axes.grid(color="0.9", linewidth=0.05 * em)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        _style(figure, axes)
    above.set(xlim=columns, ylim=(0, 108 * most))
    right.set(xlim=(0, 108 * most), ylim=(rows[1], rows[0]))
    above.set_xticks(view.ticks[1], labels=[])
    right.set_yticks(view.ticks[0], labels=[])
    above.locator_params(axis="y", nbins=4)
    right.locator_params(axis="x", nbins=4)
    above.set_ylabel("% of its bits,\neach column", size=em, color="0.15")
    right.set_xlabel("% of its bits, each row", size=em, color="0.15")


def _draw_bar(figure: PixelFigure, axes: Any, drawn: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    em = figure.em
    scale = figure.figure.colorbar(drawn, cax=axes, format=FuncFormatter(lambda value, _: _plain(value)))
    scale.ax.yaxis.set_minor_formatter(NullFormatter())
    scale.set_label("% of its bits, each pixel", size=em, color="0.15", labelpad=0.4 * em)
    figure.style_ticks(scale.ax)
    scale.ax.tick_params(which="minor", length=0.15 * em, colors="0.15")
    scale.outline.set_linewidth(0.0)


def _plain(value: float) -> str:
    """Write a power of ten without an exponent."""
    return f"{value:.{max(0, -math.floor(math.log10(value) + 0.5))}f}"


def _style(figure: PixelFigure, axes: Any) -> None:
    figure.style_ticks(axes, width=0.05 * figure.em)
    for spine in axes.spines.values():
        spine.set(color="0.6", linewidth=0.05 * figure.em)


def _cross(em: float) -> dict[str, Any]:
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=0.32 * em, foreground="black")]
    return {"marker": "+", "ms": 1.1 * em, "mew": 0.16 * em, "color": "white", "ls": "", "path_effects": outline}


def _dot(em: float) -> dict[str, Any]:
    return {"marker": "o", "ms": 0.6 * em, "mew": 0.1 * em, "color": "white", "mec": "black", "ls": ""}


def _legend(em: float) -> tuple[list[Any], list[str]]:
    """Return handles and words; lines of the panel are shown on a bar of its darkest colour."""
    from matplotlib.lines import Line2D

    def over_dark(**line: Any) -> tuple[Any, Any]:
        dark = Line2D([], [], color="black", linewidth=0.85 * em, solid_capstyle="butt")
        return dark, Line2D([], [], **line)

    entries: dict[str, Any] = {
        "this cell": over_dark(color=OWN, linewidth=0.16 * em),
        "borders of other cells": over_dark(color=OTHERS, linewidth=0.07 * em),
        "reach: all it can touch": over_dark(color=FRAME, linewidth=0.09 * em, linestyle=(0, (4, 2.4))),
        "center of the reach": Line2D([], [], **_cross(em)),
        "centroid of its bits": Line2D([], [], **_dot(em)),
        "this kernel": Line2D([], [], color=KERNEL, linewidth=0.11 * em),
        "bilinear interpolation": Line2D([], [], color=BILINEAR, linewidth=0.11 * em, linestyle=(0, (4, 2))),
    }
    return list(entries.values()), list(entries)
