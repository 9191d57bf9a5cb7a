"""Figures in pixels: any text fits, and matplotlib stays as it was."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from bitrate_ext import ReceptiveField
from bitrate_ext.receptive_field.field import Term
from bitrate_ext.viz.channel_figure import channel_figure
from bitrate_ext.viz.figure import PixelFigure
from bitrate_ext.viz.kernel_figure import kernel_figure
from bitrate_ext.viz.map_figure import map_figure


@pytest.mark.parametrize(
    "text",
    [
        "cost $x^2 and $ more",
        "$\\frac{$",
        "back\\slash \\frac{",
        "new\nline\ttab",
        "日本語.png",
        "\udcff",
        "",
        "%d {}",
        "t" * 500,
    ],
)
def test_any_file_name_makes_a_title_that_fits(text: str) -> None:
    figure = PixelFigure(299.5, 80, 15.0)
    figure.write_head((text, text), 10, (1.9, 3.4))
    image = figure.to_image()
    assert (image.mode, image.size) == ("RGB", (300, 80))
    pixels = np.asarray(image)
    assert (np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]) == 255).all()
    assert (pixels < 128).any() == bool(text)


def test_figures_leave_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    field = ReceptiveField((4, 4), ((-2, 5), (-2, 5)), [Term(1.0, np.arange(1.0, 9.0), np.ones(8))])
    account = {"y": {"bits": [2, 1], "share": [0.7, 1.0], "channel": [1, 0]}}
    for draw in (lambda: map_figure(np.eye(9)), lambda: kernel_figure(field), lambda: channel_figure(account)):
        assert draw().tobytes() == draw().tobytes()
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
