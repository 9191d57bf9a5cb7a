"""Figures for print: panels of pictures and maps under one scale of colours, text as text, sizes in inches.

Lengths are points, of which an inch has 72. Nothing is drawn smaller than 6.5 points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..choices import inches_of
from .colormap import DIFFERENCES, NO_RIM, Rim, colour_limit, colour_map, inside_rim
from .figure import PRINT, PixelFigure
from .map_figure import LARGEST, RIM_NOTE, as_levels, checked_map, extension, mark_rim, scale_note, scale_ticks

TALLEST = 9.2  # inches; what is taller is drawn smaller
EM, SMALL = 7.5, 6.5  # of letters and of small ones, points
SLACK = 0.97  # of the room for a text: at other resolutions letters are up to 3 % wider
FOOT = 4.8  # em below the panels that the colour bar takes
GAP, LINE = 5.0, 1.3  # between panels, points; from one line of text to the next, of its letters
TICK_ROOM, SHORTEST = 3.2, 12.0  # em between two numbers of a scale; of the colour bar, where the figure has them
INK, FAINT = "0.1", "0.3"
TICKS: dict[str, Any] = {"labelsize": SMALL, "labelfontfamily": "sans-serif", "labelcolor": INK, "color": INK}


@dataclass(frozen=True, eq=False)
class Panel:
    """A map or a picture with what stands above it.

    Args:
        pixels: of a map ``[H, W]`` or ``[1, 1, H, W]``, bits per pixel; of a picture ``[H, W, 3]`` or
            ``[1, 3, H, W]`` in [0, 1].
        title, subtitle: a line each, cut in their middle where they are wider than the panel.
        rim: of a map: pixels at the top, bottom, left and right that are beside padding, ``result.rim``.
    """

    pixels: NDArray[Any] | Tensor
    title: str = ""
    subtitle: str = ""
    rim: Rim = NO_RIM

    @property
    def is_map(self) -> bool:
        shape = self.pixels.shape
        return len(shape) == 2 or tuple(shape[:2]) == (1, 1)

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)``, pixels."""
        height, width = self.pixels.shape[-2:] if self.is_map or len(self.pixels.shape) == 4 else self.pixels.shape[:2]
        return int(height), int(width)


def print_figure(
    rows: Sequence[Sequence[Panel]],
    *,
    width: str | float = "column",
    limit: float | None = None,
    signed: bool = False,
    ends: tuple[str, str] = ("", ""),
    power: float = 1.0,
    notes: bool = True,
) -> tuple[Any, NDArray[np.object_]]:
    """Draw rows of panels with one colour bar in bits per pixel below; return matplotlib's figure and axes.

    Save it by ``figure.savefig("name.pdf")``, which keeps text as text; maps and pictures are embedded with 300 pixels
    an inch, or ``dpi=``.

    Args:
        rows: of panels, maps among them; a shorter row ends earlier.
        width: "column", 3.4 inches, "page", 7 inches, or inches.
        limit: upper end of the colours, bits per pixel. Default: that of the costliest map, see ``colour_limit``.
        signed: of differences: red above zero, blue below, white at zero.
        ends: what the lower and the upper end of the colours mean.
        power: of bits per pixel that colours are even in; below 1 the low end has more of them.
        notes: say below what dotted lines and grey are, where the colours end and what is beyond.

    Returns:
        The figure, and its axes ``[rows, columns]``, None where a row has ended.

    Raises:
        ValueError: no panel, or another width.
    """
    if not rows or not all(rows):
        raise ValueError(f"rows must each hold a panel at least, got {[len(row) for row in rows]} panels")
    across = 72 * inches_of(width)
    maps = [panel for row in rows for panel in row if panel.is_map]
    values = [checked_map(panel.pixels) for panel in maps]
    scale = _Scale.of(values, [panel.rim for panel in maps], limit, signed, power)
    written = wrapped(". ".join(scale.notes(maps, values)), across - 2, SMALL) if notes and maps else []
    foot = FOOT * EM * bool(maps) + LINE * SMALL * (len(written) + 0.3)

    columns = max(map(len, rows))
    side = (across - 2 - GAP * (columns - 1)) / columns
    heads = [LINE * max(EM * bool(p.title) + SMALL * bool(p.subtitle) for p in row) + 0.3 * EM for row in rows]
    tall = [side * max(panel.size[0] / panel.size[1] for panel in row) for row in rows]
    room = 72 * TALLEST - foot - sum(heads) - GAP * (len(rows) - 1)
    shrink = min(1.0, room / sum(tall))
    slot, side, tall = side + GAP, shrink * side, [shrink * one for one in tall]
    figure = PixelFigure(across, sum(tall) + sum(heads) + GAP * (len(rows) - 1) + foot, EM, PRINT)

    axes = np.full((len(rows), columns), None, dtype=object)
    top = figure.height
    for number, row in enumerate(rows):
        top -= heads[number]
        for column, panel in enumerate(row):
            x, height = 1 + column * slot, side * panel.size[0] / panel.size[1]
            axes[number, column] = _draw(figure, panel, (x, top - height, side, height), scale)
            _write_head(figure, panel, x, top + heads[number], slot - GAP)
        top -= tall[number] + GAP
    if maps:
        first = min(column for row in rows for column, panel in enumerate(row) if panel.is_map)
        x = 1 + first * slot
        x = 1.0 if any(ends) or across - 1 - x < SHORTEST * EM else x
        room = across - 1 - x
        scale.draw(figure, (x + 1.2 * EM, foot - 1.7 * EM, room - 2.4 * EM, 0.8 * EM), values, ends)
    for line, text in enumerate(written):
        place = 1.0, LINE * SMALL * (len(written) - line - 0.7)
        figure.write(place, text, math.inf, size=SMALL, color=FAINT)
    return figure.figure, axes


def in_rows(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    """Return panels in rows: up to three in one, more in a grid as high as wide or wider."""
    columns = len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def rate_words(bpp: float, psnr_db: float | None = None) -> str:
    """Return what stands above a map: bits per pixel, and PSNR where it is known."""
    return f"{bpp:.3f} bpp" + ("" if psnr_db is None else f", {psnr_db:.2f} dB")


def wrapped(text: str, room: float, size: float) -> list[str]:
    """Break a text into lines that are at most ``room`` points wide."""
    scratch = PixelFigure(room, room, size, PRINT)
    measure = scratch.write((0, 0), "", math.inf, size=size)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and scratch.width_of(measure, longer) <= SLACK * room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@dataclass(frozen=True)
class _Scale:
    """The colours of all maps of a figure."""

    limit: float  # bits per pixel
    measured: bool  # on the maps, and not given
    signed: bool
    power: float

    @staticmethod
    def of(
        values: Sequence[NDArray[Any]], rims: Sequence[Rim], limit: float | None, signed: bool, power: float
    ) -> _Scale:
        measures = (inside_rim(one, rim) for one, rim in zip(values, rims, strict=True))
        limits = (colour_limit(np.abs(one) if signed else one) for one in measures)
        return _Scale(max(limits, default=1.0) if limit is None else limit, limit is None, signed, power)

    @property
    def least(self) -> float:
        return -self.limit if self.signed else 0.0

    def even(self, bits: Any) -> Any:
        """Return what colours are even in."""
        return np.sign(bits) * np.abs(bits) ** self.power

    def mappable(self) -> dict[str, Any]:
        colours = colour_map(DIFFERENCES) if self.signed else colour_map()
        return {"cmap": colours, "vmin": self.even(self.least), "vmax": self.even(self.limit)}

    def notes(self, maps: Sequence[Panel], values: Sequence[NDArray[Any]]) -> Iterator[str]:
        """Yield what is to be said of the colours."""
        shown = np.concatenate([one.clip(-LARGEST if self.signed else 0, LARGEST).ravel() for one in values])
        if any(any(panel.rim) for panel in maps):
            yield RIM_NOTE[0].upper() + RIM_NOTE[1:]
        if np.isnan(shown).any():
            yield "Grey: not a number"
        rim = next((panel.rim for panel in maps if any(panel.rim)), NO_RIM)
        of = "" if len(maps) == 1 else " of the costliest map"
        note = scale_note(shown, self.limit, measured=self.measured, rim=rim, of=of)
        root = "the square root of" * (self.power == 0.5) or f"the power {self.power:g} of"
        if self.power != 1:
            yield f"Colours are even in {root} bits per pixel"
        yield note[0].upper() + note[1:]

    def draw(
        self,
        figure: PixelFigure,
        place: tuple[float, float, float, float],
        values: Sequence[NDArray[Any]],
        ends: tuple[str, str],
    ) -> None:
        """Draw the bar at a place (left, bottom, width, height), and what it means below."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        left, bottom, width, height = place
        mappable = self.mappable()
        colours = ScalarMappable(Normalize(mappable["vmin"], mappable["vmax"]), mappable["cmap"])
        extends = {extension(one, self.least, self.limit) for one in values}
        both = "both" if "both" in extends or {"min", "max"} <= extends else max(extends, key=len)
        bar = figure.figure.colorbar(
            colours,
            cax=figure.add_axes(*place),
            orientation="horizontal",
            extend=both if both != "neither" else next((one for one in ("min", "max") if one in extends), "neither"),
            extendfrac=height / width,
        )
        solids: Any = bar.solids
        solids.set(rasterized=True, edgecolor="face")
        bar.outline.set_linewidth(0.0)
        ticks = scale_ticks(self.limit, self.power, (1 + self.signed) * TICK_ROOM * EM / width)
        if self.signed:
            ticks = [-one for one in reversed(ticks[1:])] + ticks
        bar.set_ticks(
            [self.even(one) for one in ticks], labels=[f"{one:.3g}".replace("-", "\N{MINUS SIGN}") for one in ticks]
        )
        bar.minorticks_off()
        bar.ax.tick_params(length=2, width=0.5, pad=1.5, **TICKS)
        for x, text, side in (
            (left, ends[0], "left"),
            (left + width / 2, "bits per pixel", "center"),
            (left + width, ends[1], "right"),
        ):
            if text:
                figure.write((x, bottom - 2.6 * EM), text, width, size=EM, color=INK, ha=side)


def _draw(figure: PixelFigure, panel: Panel, place: tuple[float, float, float, float], scale: _Scale) -> Any:
    axes = figure.add_axes(*place)
    if panel.is_map:
        values = checked_map(panel.pixels)
        shown = scale.even(np.where(np.isnan(values), np.nan, values.clip(scale.least, scale.limit)))
        axes.imshow(shown, aspect="auto", interpolation_stage="data", **scale.mappable())
    else:
        axes.imshow(as_levels(panel.pixels, panel.size).numpy(), aspect="auto")
    axes.set_axis_off()
    if any(panel.rim):
        mark_rim(axes, panel.size, panel.rim, EM, "0.2" if scale.signed else "white")
    return axes


def _write_head(figure: PixelFigure, panel: Panel, x: float, top: float, room: float) -> None:
    """Write what stands above a panel, from the top down."""
    for text, size, colour in ((panel.title, EM, INK), (panel.subtitle, SMALL, FAINT)):
        if text:
            top -= LINE * size
            figure.write((x, top + 0.25 * size), text, SLACK * room, size=size, color=colour)
