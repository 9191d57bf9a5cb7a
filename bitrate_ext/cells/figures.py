"""Figures of several pictures' bits: qualities by models, in one scale of colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..viz.animation import POWER
from ..viz.print_figure import Panel, print_figure
from .picture import PictureBits


def grid_figure(
    rows: Sequence[Sequence[PictureBits]],
    latents: str | Iterable[str] | None = None,
    *,
    picture: bool = False,
    width: str | float = "page",
    power: float = POWER,
    **options: Any,
) -> tuple[Any, Any]:
    """Draw a grid of maps for print, such as qualities by models, each with its name, bits per pixel and PSNR.

    One scale of colours is for all. Rates of one codec are a factor of ten apart and more, so colours are even in the
    root of bits per pixel, unless ``power`` is 1.

    Args:
        rows: of the grid, such as the qualities of a model each; a shorter row ends earlier.
        latents: the bits of these alone. Default: of all.
        picture: show the first one's picture before all others.
        width, power, options: ``limit`` and ``notes`` among them, as ``print_figure`` has them.

    Returns:
        Matplotlib's figure and its axes ``[rows, columns]``.

    Raises:
        ValueError: no bits, or none in some row; another width.

    Example:
        >>> figure, axes = bitrate_ext.grid_figure([[bits, bits]], picture=True)
        >>> axes.shape
        (1, 3)
    """
    panels = [[_panel(bits, latents) for bits in row] for row in rows]
    first = rows[0][0].picture_panel() if picture and panels and panels[0] else None
    if first is not None:
        panels[0].insert(0, first)
    return print_figure(panels, width=width, power=power, **options)


def _panel(bits: PictureBits, latents: str | Iterable[str] | None) -> Panel:
    """Return a panel that is called after what made the bits, whichever latents' they are."""
    panel = bits.panel(latents)
    return replace(panel, title=", ".join(part for part in (bits.name, panel.title) if part)) if latents else panel
