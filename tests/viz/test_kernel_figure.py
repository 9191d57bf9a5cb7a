"""The figure of a receptive field: what is where, whatever its shape."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from bitrate_ext import ReceptiveField
from bitrate_ext.ops.projection import Axis, axis_band, get_projection
from bitrate_ext.receptive_field.field import Term
from bitrate_ext.viz import kernel_figure

Reach = tuple[tuple[int, int], tuple[int, int]]


def one_pixel(stride: tuple[int, int], reach: Reach, row: int, column: int, rest: float = 0.0) -> ReceptiveField:
    """A kernel that has next to everything in one pixel, ``(row, column)`` from the cell's first."""
    parts = []
    for (first, last), place in zip(reach, (row, column), strict=True):
        part = np.full(last - first + 1, rest)
        part[place - first] = 1.0
        parts.append(part)
    return ReceptiveField(stride, reach, [Term(1.0, parts[0], parts[1])])


def near(pixels: np.ndarray, colour: object) -> np.ndarray:
    return (np.abs(pixels - 255 * np.asarray(to_rgb(colour))) <= 2).all(axis=-1)  # type: ignore[arg-type]


def box(where: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of what is true, ends included."""
    rows, columns = where.nonzero()
    return rows.min(), rows.max(), columns.min(), columns.max()


def panel_of(field: ReceptiveField) -> tuple[np.ndarray, int]:
    """The figure left of all that stands beside the panel, and how many of its pixels one of the kernel is wide."""
    view = kernel_figure._view(field)
    pixels = np.asarray(kernel_figure.kernel_figure(field)).astype(float)
    first, last = view.spans[1]
    return pixels[:, : round(6 * view.em) + view.width], view.width // (last - first)


def test_pixels_are_where_the_axes_say() -> None:
    """Rows down, columns to the right, counted from the cell's corner."""
    field = one_pixel((16, 20), ((-9, 30), (-5, 24)), row=-4, column=22)
    pixels, scale = panel_of(field)
    import matplotlib

    top, bottom, left, right = box(near(pixels, matplotlib.colormaps["inferno"](1.0)[:3]))
    own_top, own_bottom, own_left, own_right = box(near(pixels, kernel_figure.OWN))
    assert bottom - top + 1 == pytest.approx(scale, abs=1)
    assert right - left + 1 == pytest.approx(scale, abs=1)
    line = 4  # pixels that antialiased lines may differ by
    assert own_bottom - own_top == pytest.approx(16 * scale, abs=line)
    assert own_right - own_left == pytest.approx(20 * scale, abs=line)
    assert top - own_top == pytest.approx(-4 * scale, abs=line)
    assert left - own_left == pytest.approx(22 * scale, abs=line)


def test_centroid_and_center_are_marked() -> None:
    field = one_pixel((16, 16), ((-30, 41), (-20, 31)), row=-12, column=24)
    assert (field.center, field.centroid) == ((5.5, 5.5), (-12.0, 24.0))
    pixels, scale = panel_of(field)
    top, _, left, _ = box(near(pixels, kernel_figure.OWN))
    for row, column in (field.centroid, field.center):
        y, x = round(top + (row + 0.5) * scale), round(left + (column + 0.5) * scale)
        assert near(pixels[y, x], "white")
        beside = pixels[y - 12 : y + 13, x - 12 : x + 13]
        assert near(beside, "black").any()  # their outline
    other = pixels[round(top + 8 * scale) - 30, round(left + 8 * scale) + 40]
    assert not near(other, "white")


def test_four_decades_are_told_apart() -> None:
    """Four pixels, each a tenth of the one before, have four colours; what is below the scale has the darkest."""
    values = np.array([1.0, 0.1, 0.01, 0.001, 1e-6])
    field = ReceptiveField((1, 1), ((0, 0), (0, 4)), [Term(1.0, np.ones(1), values)])
    pixels, scale = panel_of(field)
    top, bottom, left, _ = box(near(pixels, kernel_figure.OWN))
    row = (3 * top + bottom) // 4  # clear of the marks
    shades = [pixels[row, left + round((column + 0.25) * scale)].sum() for column in range(5)]
    assert all(lighter > darker + 40 for lighter, darker in pairwise(shades))
    assert shades[-1] < 15


@pytest.mark.parametrize("stride", [1, 2, 5, 16, 64])
def test_bilinear_marginal_is_that_of_the_projection(stride: int) -> None:
    pixels = np.arange(-4 * stride, 5 * stride)
    shares = kernel_figure.bilinear_marginal(stride, pixels)
    band = axis_band(get_projection("bilinear"), Axis(9, 9 * stride, 0, 9 * stride), torch.device("cpu"))
    np.testing.assert_allclose(shares, band.dense()[:, 4].numpy(), rtol=0, atol=1e-12)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("stride", "reach"),
    [
        ((1, 1), ((0, 0), (0, 0))),
        ((16, 16), ((-30, 30), (-30, 30))),
        ((32, 32), ((4, 9), (20, 30))),
        ((4, 64), ((-10, 13), (-300, 400))),
        ((64, 4), ((-1000, 1100), (-8, 12))),
        ((128, 128), ((-900, 950), (-900, 950))),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_any_shape_fits(stride: tuple[int, int], reach: Reach) -> None:
    field = one_pixel(stride, reach, row=reach[0][1], column=reach[1][0], rest=1e-3)
    figure = kernel_figure.kernel_figure(field, model="m" * 500)
    assert figure.mode == "RGB"
    assert 600 < figure.width < 2400
    assert 600 < figure.height < 2400
    pixels = np.asarray(figure)
    assert (np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3)]) == 255).all()
    assert (np.concatenate([pixels[:, :3].reshape(-1, 3), pixels[:, -3:].reshape(-1, 3)]) == 255).all()
    (low, high), (first, last) = kernel_figure._view(field).spans
    assert low < min(reach[0][0], 0)
    assert high > max(reach[0][1] + 1, stride[0])
    assert first < min(reach[1][0], 0)
    assert last > max(reach[1][1] + 1, stride[1])


def test_numbers_are_written_below_the_title() -> None:
    field = one_pixel((4, 8), ((-2, 5), (-1, 8)), 1, 1, rest=0.5)
    assert kernel_figure._numbers(field).split("   ") == [
        "stride 4 \N{MULTIPLICATION SIGN} 8",
        "reach 8 \N{MULTIPLICATION SIGN} 10 pixels",
        "1 separable term",
    ]
    field.fit["separable_error"] = 0.0488
    assert kernel_figure._numbers(field).endswith("   1 separable term misplaces 4.9 % of the bits")
    kernel = [Term(0.5, field.kernel[0].vertical, field.kernel[0].horizontal)] * 2
    two = ReceptiveField(field.stride, field.reach, kernel, fit=field.fit)
    assert kernel_figure._numbers(two).endswith("   2 separable terms misplace 4.9 % of the bits")


def test_for_print_with_text_as_text(tmp_path: Path) -> None:
    field = ReceptiveField((4, 8), ((-2, 5), (-4, 11)), [Term(1.0, np.arange(1.0, 9.0), np.ones(16))])
    for width, inches in (("page", 7.0), (5.5, 5.5)):
        figure, axes = kernel_figure.field_figure(field, model="codec", width=width)
        assert figure.get_size_inches()[0] == pytest.approx(inches)
        panel, above, right, _ = axes
        assert panel.get_xlim() == above.get_xlim()
        assert panel.get_ylim() == right.get_ylim()
        box = panel.get_window_extent()
        rows, columns = (abs(np.diff(axis()).item()) for axis in (panel.get_ylim, panel.get_xlim))
        assert box.width / box.height == pytest.approx(columns / rows)
        labels = [axes.xaxis.label.get_window_extent(figure.canvas.get_renderer()) for axes in (panel, right)]
        assert labels[0].x1 < labels[1].x0
        texts = [
            *figure.texts,
            *figure.legends[0].texts,
            *(one for axes in figure.axes for one in axes.get_xticklabels()),
        ]
        assert min(one.get_size() for one in texts) >= 6.5
    figure.savefig(tmp_path / "field.svg")
    assert {"Receptive field of latent 'y'", "codec", "this kernel"} <= set(
        re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "field.svg").read_text())
    )
    with pytest.raises(
        ValueError, match=r"width must be at least 5\.5 inches, for kernel, profiles and words, got 'column'"
    ):
        kernel_figure.field_figure(field, width="column")
