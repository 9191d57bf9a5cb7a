"""Figures for print: sizes in inches, one scale for all maps, text that stays text."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

import matplotlib

from bitrate_ext.viz.colormap import colour_limit
from bitrate_ext.viz.print_figure import SMALL, Panel, in_rows, print_figure, rate_words

RIM = (0, 5, 0, 0)


@pytest.fixture
def ramp() -> np.ndarray:
    return np.linspace(0, 4, 2400, dtype=np.float32).reshape(40, 60)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, 40, 60)


def texts(figure: Any) -> list[str]:
    return [one.get_text() for one in figure.texts]


def size(figure: Any) -> tuple[float, float]:
    width, height = figure.get_size_inches()
    return float(width), float(height)


@pytest.mark.parametrize(("width", "inches"), [("column", 3.4), ("page", 7.0), (5.25, 5.25), ("2", 2.0)])
def test_a_figure_has_the_width_that_was_asked_for(
    ramp: np.ndarray, image: torch.Tensor, width: str | float, inches: float
) -> None:
    figure, axes = print_figure([[Panel(image, "picture"), Panel(ramp, "map", "1 bpp")]], width=width)
    assert size(figure)[0] == pytest.approx(inches)
    assert axes.shape == (1, 2)
    for one in axes.flat:  # pixels are square
        box = one.get_window_extent()
        assert box.width / box.height == pytest.approx(60 / 40)
    page = io.BytesIO()
    figure.write(page, "pdf")
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", page.getvalue())
    assert box is not None
    assert float(box[1]) == pytest.approx(72 * inches, abs=0.01)


def test_all_maps_have_one_scale_that_of_the_costliest(ramp: np.ndarray, image: torch.Tensor) -> None:
    figure, axes = print_figure([[Panel(image), Panel(ramp)], [Panel(3 * ramp), Panel(ramp / 2)]])
    limit = colour_limit(3 * ramp)
    drawn = [one.images[0] for one in axes.flat[1:]]
    assert {one.get_clim() for one in drawn} == {(0.0, limit)}
    assert [one.images[0].get_array().max() for one in axes.flat[1:]] == pytest.approx([4.0, limit, 2.0])
    bar = figure.axes[-1]
    assert bar.get_xticklabels()[0].get_text() == "0"
    assert bar.get_xticklabels()[-1].get_text() == f"{limit:.3g}"
    assert "bits per pixel" in texts(figure)
    note = " ".join(texts(figure))
    assert f"The scale ends at {limit:.3g}, the 99.5th percentile of the costliest map; 0.2 % of the pixels" in note
    given, axes = print_figure([[Panel(ramp)]], limit=8.0, power=0.5, notes=False)
    assert axes[0, 0].images[0].get_clim() == (0.0, 8**0.5)
    assert not [text for text in texts(given) if "ends" in text]


def test_differences_have_two_ends(ramp: np.ndarray) -> None:
    figure, axes = print_figure([[Panel(ramp - 3)]], signed=True, ends=("a spends more", "b spends more"))
    low, high = axes[0, 0].images[0].get_clim()
    assert low == -high < 0
    assert axes[0, 0].images[0].get_cmap().name == "RdBu_r"
    said = [one for one in figure.texts if one.get_text().endswith("more")]
    assert [one.get_ha() for one in said] == ["left", "right"]
    labels = [one.get_text() for one in figure.axes[-1].get_xticklabels()]
    assert [one.replace("\N{MINUS SIGN}", "") for one in labels] == [
        *reversed(labels[-(len(labels) // 2) :]),
        *labels[len(labels) // 2 :],
    ]
    assert labels[len(labels) // 2] == "0"


def test_what_is_left_out_is_told(ramp: np.ndarray) -> None:
    ramp[3, 3], ramp[0, 0] = np.nan, np.inf
    figure, axes = print_figure([[Panel(ramp, rim=RIM)]])
    note = " ".join(texts(figure))
    assert "Dotted: beside padding. Grey: not a number. The scale ends at" in note
    assert "away from padding" in note
    assert "infinity" in note
    assert len(axes[0, 0].lines) == 1
    for one in figure.texts:
        assert one.get_window_extent().x1 <= figure.bbox.x1


def test_text_stays_text_and_settings_stay_as_they_were(ramp: np.ndarray, image: torch.Tensor, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figure, _ = print_figure([[Panel(image, "a $ photograph", "60 x 40"), Panel(ramp, "codec", rate_words(0.5, 30))]])
    figure.savefig(tmp_path / "a.svg")
    written = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "a.svg").read_text())
    assert {"a $ photograph", "60 x 40", "codec", "0.500 bpp, 30.00 dB", "bits per pixel"} <= set(written)
    assert (tmp_path / "a.svg").read_text().count("<image") == 3  # picture, map and the colours of the bar
    figure.savefig(tmp_path / "a.pdf")
    fonts = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in fonts
    assert b"/Type3" not in fonts
    for kind in ("png", "svg", "pdf"):
        pair = [io.BytesIO(), io.BytesIO()]
        for file in pair:
            figure.write(file, kind)
        assert pair[0].getvalue() == pair[1].getvalue()
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
    labels = [one for axes in figure.axes for one in axes.get_xticklabels()]
    assert min(one.get_size() for one in [*figure.texts, *labels]) >= SMALL


@pytest.mark.parametrize("shape", [(400, 3), (3, 400), (1, 1)])
def test_any_shape_fits_on_a_page(shape: tuple[int, int]) -> None:
    figure, axes = print_figure([[Panel(np.ones(shape), "t" * 300)]] * 2, width="page")
    assert size(figure)[1] <= 9.6
    low = min(one.get_window_extent().y0 for one in figure.texts)
    assert low >= 0
    bottoms = [one.get_window_extent().y0 for one in axes.flat]
    assert bottoms[0] > bottoms[1]


def test_rows_of_panels(ramp: np.ndarray) -> None:
    panels = [Panel(ramp, str(number)) for number in range(9)]
    assert [len(row) for row in in_rows(panels)] == [3, 3, 3]
    assert [len(row) for row in in_rows(panels[:7])] == [3, 3, 1]
    assert [len(row) for row in in_rows(panels[:3])] == [3]
    _, axes = print_figure(in_rows(panels[:7]), width="page")
    assert axes.shape == (3, 3)
    assert axes[2, 1] is axes[2, 2] is None


def test_what_cannot_be_drawn_is_said(ramp: np.ndarray) -> None:
    for width in ("wide", 1.0, 61, float("nan")):
        with pytest.raises(ValueError, match=f"width must be 'column', 'page' or inches from 1.5 to 60, got {width!r}"):
            print_figure([[Panel(ramp)]], width=width)
    with pytest.raises(ValueError, match=r"rows must each hold a panel at least, got \[1, 0\] panels"):
        print_figure([[Panel(ramp)], []])
    with pytest.raises(ValueError, match=r"image must be \[H, W, 3\]"):
        print_figure([[Panel(np.ones((4, 5, 2)))]])


def test_a_figure_can_be_of_pictures_alone(image: torch.Tensor) -> None:
    figure, _ = print_figure([[Panel(image, "picture")]])
    assert len(figure.axes) == 1
    assert texts(figure) == ["picture"]
