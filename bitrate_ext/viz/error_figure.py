"""Figure of errors for print: squared error, SSIM, and what cells spend against what they gain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..choices import inches_of
from .colormap import colour_limit, colour_map
from .figure import PRINT, PixelFigure
from .map_figure import extension
from .print_figure import EM, GAP, INK, LINE, TALLEST, TICKS

LEAST_WIDTH, LEAST_HEIGHT = 5, 9  # inches; of the cells' panel, em
SPENT, NOTHING = "#1f5fa8", "#b8375b"  # cells that gain something for their bits, and that gain nothing


def error_figure(
    error: NDArray[Any],
    ssim: NDArray[Any],
    bits: NDArray[Any],
    gain_db: NDArray[Any],
    *,
    block: int,
    width: str | float = "page",
) -> tuple[Any, NDArray[np.object_]]:
    """Draw two maps of error and a point for each cell; return matplotlib's figure and its three axes.

    Args:
        error: ``[H, W]``, squared error of each pixel, of values in [0, 1].
        ssim: SSIM of each block of ``block`` x ``block`` pixels of the same picture.
        bits: of each cell, ``[h, w]``.
        gain_db: decibels that they gain; what is not finite is left out.
        block: side of the blocks, pixels.
        width: "page" or inches from 5.

    Raises:
        ValueError: another width.
    """
    inches = inches_of(width)
    if inches < LEAST_WIDTH:
        raise ValueError(f"width must be at least {LEAST_WIDTH} inches, for maps and cells, got {width!r}")
    between = 5.2 * EM  # left of the last panel, for its numbers
    side = (72 * inches - 2 - GAP - between - 2) / 3
    head, foot = LINE * EM + 2, 4.8 * EM
    tall = min(side * error.shape[0] / error.shape[1], 72 * TALLEST - head - foot)
    height, wide = max(tall, LEAST_HEIGHT * EM), tall * error.shape[1] / error.shape[0]
    figure = PixelFigure(72 * inches, head + height + foot, EM, PRINT)
    places = [1.0, 1 + side + GAP, 1 + 2 * side + GAP + between]
    boxes = [(places[0], wide, tall), (places[1], wide, tall), (places[2], side, height)]
    axes = np.array([figure.add_axes(x, foot + height - high, w, high) for x, w, high in boxes], dtype=object)

    limit, least = colour_limit(error), float(min(np.nanmin(ssim, initial=0.99), 0.99))
    blocks = (-0.5, block * ssim.shape[1] - 0.5, block * ssim.shape[0] - 0.5, -0.5)
    of_error = {"cmap": colour_map(), "vmin": 0, "vmax": limit}
    of_ssim = {"cmap": colour_map().reversed(), "vmin": least, "vmax": 1, "extent": blocks}
    shown = axes[0].imshow(error.clip(0, limit), aspect="auto", interpolation_stage="data", **of_error)
    like = axes[1].imshow(ssim, aspect="auto", interpolation="nearest", **of_ssim)
    axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
    ends = extension(error, 0, limit)
    for panel, x, drawn, label, end in (
        (axes[0], places[0], shown, "squared error", ends),
        (axes[1], places[1], like, "SSIM", "neither"),
    ):
        panel.set_axis_off()
        _bar(figure, (x + 2 * EM, foot + height - tall - 1.7 * EM, side - 4 * EM, 0.8 * EM), drawn, label, end)
    _scatter(axes[2], bits.ravel(), gain_db.ravel())
    sized = f"blocks of {block} \N{MULTIPLICATION SIGN} {block} pixels"
    for x, title in zip(places, ("pixels", sized, "cells, against flat ones"), strict=True):
        figure.write((x, foot + height + 0.4 * EM), title, side, size=EM, color=INK)
    return figure.figure, axes


def _bar(figure: PixelFigure, place: tuple[float, float, float, float], drawn: Any, label: str, ends: str) -> None:
    lying: dict[str, Any] = {"orientation": "horizontal", "extend": ends, "extendfrac": 0.05}
    bar = figure.figure.colorbar(drawn, cax=figure.add_axes(*place), **lying)
    solids: Any = bar.solids
    solids.set(rasterized=True, edgecolor="face")
    bar.outline.set_linewidth(0.0)
    bar.ax.locator_params(nbins=3)
    bar.ax.tick_params(length=2, width=0.5, pad=1.5, **TICKS)
    figure.write((place[0] + place[2] / 2, place[1] - 2.6 * EM), label, place[2], size=EM, color=INK, ha="center")


def _scatter(axes: Any, bits: NDArray[Any], gain_db: NDArray[Any]) -> None:
    known = np.isfinite(gain_db) & np.isfinite(bits)
    for which, colour in ((known & (gain_db > 0), SPENT), (known & (gain_db <= 0), NOTHING)):
        axes.scatter(
            bits[which], gain_db[which], s=3, color=colour, alpha=0.6, linewidths=0, rasterized=which.sum() > 5000
        )
    axes.axhline(0, color="0.5", linewidth=0.5)
    axes.set_xlabel("bits of the cell", size=EM, color=INK, family="sans-serif", labelpad=2)
    axes.set_ylabel("gain, dB", size=EM, color=INK, family="sans-serif", labelpad=2)
    axes.tick_params(length=2, width=0.5, pad=1.5, **TICKS)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
