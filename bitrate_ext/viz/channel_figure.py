"""Picture of the bits of a latent's channels: largest first, and the share that the first so many have."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .map_figure import _placed, _write

if TYPE_CHECKING:
    from PIL import Image

WIDTH, HEIGHT, EM = 340, 220, 15.0  # of a panel and of its letters, pixels
BARS, SHARE = "#1f5fa8", "#b8375b"


def channel_figure(
    accounts: Mapping[str, Mapping[str, Sequence[Any]]], *, title: str = "", subtitle: str = ""
) -> Image.Image:
    """A panel for each latent: bits of each channel, largest first, as bars; their cumulated share as a line.

    Args:
        accounts: for each latent ``"bits"``, falling, and ``"share"``, rising to one; None where not finite.
        title: cut in its middle where it is wider than the picture.
        subtitle: one smaller line below.

    Returns:
        An RGB image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    left, right, between, foot, head = 5.0 * EM, 4.6 * EM, 9.4 * EM, 4.0 * EM, 6.8 * EM
    full_width = math.ceil(left + len(accounts) * WIDTH + (len(accounts) - 1) * between + right)
    full_height = math.ceil(foot + HEIGHT + head)
    figure = Figure(figsize=(full_width / 72, full_height / 72), dpi=72, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for number, (latent, account) in enumerate(accounts.items()):
        box = (left + number * (WIDTH + between), foot, WIDTH, HEIGHT)
        _draw(figure.add_axes(_placed(box, full_width, full_height)), latent, account)
    lines = ((title, 1.3, "bold", "0.1", 1.9), (subtitle, 1.0, "normal", "0.3", 3.4))
    for text, size, weight, colour, line in lines:
        place = EM / full_width, 1 - line * EM / full_height
        written = figure.text(*place, "", size=size * EM, weight=weight, color=colour)
        _write(written, text, full_width - 2 * EM, canvas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def _draw(panel: Any, latent: str, account: Mapping[str, Sequence[Any]]) -> None:
    bits, share = (np.array([math.nan if one is None else one for one in account[key]]) for key in ("bits", "share"))
    place = np.arange(1, len(bits) + 1)
    panel.stairs(bits, np.arange(len(bits) + 1) + 0.5, fill=True, color=BARS)
    panel.set_xlim(0.5, len(bits) + 0.5)
    panel.set_title(f"latent {latent}: {len(bits)} channels", size=EM, color="0.15", pad=0.5 * EM)
    panel.set_xlabel("channels, most bits first", size=EM, color="0.15")
    panel.set_ylabel("bits", size=EM, color=BARS)
    beside = panel.twinx()
    beside.plot(place, 100 * share, color=SHARE, linewidth=2.0)
    beside.set_ylim(0, 105)
    beside.set_ylabel("cumulated share, %", size=EM, color=SHARE)
    for axes in (panel, beside):
        axes.tick_params(labelsize=0.9 * EM, colors="0.15", length=0.3 * EM)
        axes.spines["top"].set_visible(False)
