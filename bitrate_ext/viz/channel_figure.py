"""Figure of the bits of a latent's channels: largest first, and the share that the first so many have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figure import PixelFigure

if TYPE_CHECKING:
    from PIL import Image

WIDTH, HEIGHT, EM = 340, 220, 15.0  # of a panel and of its letters, pixels
NAMED = 10  # channels whose numbers stand in a panel that has no room for all
BARS, SHARE = "#1f5fa8", "#b8375b"
_NAMES: dict[str, Any] = {"ha": "right", "va": "center", "size": 0.9 * EM, "color": "0.15", "linespacing": 1.4}
_NAMES["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.0}


def channel_figure(
    accounts: Mapping[str, Mapping[str, Sequence[Any]]], *, title: str = "", subtitle: str = ""
) -> Image.Image:
    """Draw a panel for each latent: bits of each channel, largest first, as bars; their cumulated share as a line.

    Args:
        accounts: for each latent ``"bits"``, falling, and ``"share"``, rising to one; None where not finite; and
            ``"channel"``, their numbers, of which as many are written as there is room for.
        title: cut in its middle where it is wider than the figure.
        subtitle: one smaller line below.

    Returns:
        An RGB image.
    """
    left, right, between, foot, head = 5.0 * EM, 4.6 * EM, 9.4 * EM, 4.0 * EM, 6.8 * EM
    width = left + len(accounts) * WIDTH + (len(accounts) - 1) * between + right
    figure = PixelFigure(width, foot + HEIGHT + head, EM)
    for number, (latent, account) in enumerate(accounts.items()):
        _draw(figure, figure.add_axes(left + number * (WIDTH + between), foot, WIDTH, HEIGHT), latent, account)
    figure.write_head((title, subtitle), EM, (1.9, 3.4))
    return figure.to_image()


def _draw(figure: PixelFigure, panel: Any, latent: str, account: Mapping[str, Sequence[Any]]) -> None:
    bits, share = (np.array([math.nan if one is None else one for one in account[key]]) for key in ("bits", "share"))
    place = np.arange(1, len(bits) + 1)
    panel.stairs(bits, np.arange(len(bits) + 1) + 0.5, fill=True, color=BARS)
    panel.set_xlim(0.5, len(bits) + 0.5)
    panel.set_title(f"latent {latent}: {len(bits)} channels", size=EM, color="0.15", pad=0.5 * EM)
    panel.set_xlabel("channels, most bits first", size=EM, color="0.15")
    numbers = [str(one) for one in account["channel"]]
    if len(numbers) * EM <= WIDTH:
        panel.set_xticks(place, numbers, rotation=90 * (len(numbers) * 1.8 * EM > WIDTH))
    else:
        half = [", ".join(numbers[start : start + NAMED // 2]) for start in (0, NAMED // 2)]
        panel.text(0.97, 0.5, "most bits in\n{},\n{}, …".format(*half), transform=panel.transAxes, **_NAMES)
    panel.set_ylabel("bits", size=EM, color=BARS)
    beside = panel.twinx()
    beside.plot(place, 100 * share, color=SHARE, linewidth=2.0)
    beside.set_ylim(0, 105)
    beside.set_ylabel("cumulated share, %", size=EM, color=SHARE)
    for axes in (panel, beside):
        figure.style_ticks(axes)
        axes.spines["top"].set_visible(False)
