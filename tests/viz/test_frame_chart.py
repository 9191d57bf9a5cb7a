"""The chart below a video: what its bars, its cursor and its scale show, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

from bitrate_ext.viz.frame_chart import GROUND, HEADROOM, LATENT_COLOURS, FrameChart

EMPTY = tuple(c + 14 for c in GROUND)


def bars(chart: FrameChart) -> np.ndarray:
    """The part of the chart that has the bars, without a cursor."""
    box = chart._bars
    return chart._draw_bars()[box.top : box.bottom, box.left : box.right]


def heights(chart: FrameChart, colour: tuple[int, int, int]) -> np.ndarray:
    """Pixels of that colour in each column."""
    return (bars(chart) == colour).all(axis=-1).sum(axis=0)


def test_bars_are_as_high_as_their_bits() -> None:
    chart = FrameChart(800, 4)
    for y, z in ((300, 100), (200, 0), (0, 50), (100, 300)):
        chart.add({"y": y, "z": z})
    room, width = bars(chart).shape[:2]
    column = [(2 * k + 1) * width // 8 for k in range(4)]  # the middle of each bar
    assert heights(chart, LATENT_COLOURS[0])[column].tolist() == [round(room * y / 400) for y in (300, 200, 0, 100)]
    assert heights(chart, LATENT_COLOURS[1])[column].tolist() == [
        round(room * (y + z) / 400) - round(room * y / 400) for y, z in ((300, 100), (200, 0), (0, 50), (100, 300))
    ]
    first = bars(chart)[:, column[0]]
    assert tuple(first[-1]) == LATENT_COLOURS[0]  # the first latent stands at the bottom
    assert tuple(first[0]) == LATENT_COLOURS[1]


def test_bars_share_the_width() -> None:
    chart = FrameChart(640, 7)
    for k in range(7):
        chart.add({"y": 10.0 if k % 2 else 20.0})
    tall = heights(chart, LATENT_COLOURS[0])
    assert (tall > 0).all()
    edges = np.flatnonzero(np.diff(tall)) + 1
    assert edges.tolist() == [k * len(tall) // 7 for k in range(1, 7)]


def test_axes_grow() -> None:
    """Where a bar outgrows the one, and where there are more frames than the other has room for."""
    chart = FrameChart(700)
    for k in range(150):
        chart.add({"y": k + 1.0, **({"motion.y": 300.0} if k == 2 else {})})
    tall = heights(chart, LATENT_COLOURS[0])
    assert chart.latents == ["y", "motion.y"]
    assert np.flatnonzero(tall).max() == 150 * len(tall) // 256 - 1
    assert heights(chart, LATENT_COLOURS[1]).max() == pytest.approx(300 / 378.75 * len(bars(chart)), abs=1)
    assert tall.max() == pytest.approx(150 / 378.75 * len(bars(chart)), abs=1)


def test_a_pixel_of_many_frames_shows_the_costliest() -> None:
    chart = FrameChart(300, 5000)
    for k in range(5000):
        chart.add({"y": 1000.0 if k == 2500 else 10.0})
    tall = heights(chart, LATENT_COLOURS[0])
    assert (tall == round(bars(chart).shape[0] / HEADROOM)).sum() == 1
    assert tall.argmax() == 2500 * len(tall) // 5000


def test_what_is_not_finite_counts_as_nothing() -> None:
    chart = FrameChart(400, 3)
    for y in (100.0, np.inf, np.nan):
        chart.add({"y": y})
    tall = heights(chart, LATENT_COLOURS[0])
    assert tall[0] == bars(chart).shape[0]
    assert tall[-1] == 0
    assert tuple(bars(chart)[0, -1]) == EMPTY
    nothing = FrameChart(400, 1)
    nothing.add({"y": 0.0})
    assert (bars(nothing) == EMPTY).all()


def test_the_cursor_marks_its_frame_and_leaves_no_trace() -> None:
    chart = FrameChart(500, 10)
    for _ in range(10):
        chart.add({"y": 10.0})
    box = chart._bars
    drawn = [chart.draw(k, "words", 1.0)[box.bottom - 1, box.left : box.right] for k in range(10)]
    assert np.array_equal(chart.draw(3, "words", 1.0)[box.bottom - 1, box.left : box.right], drawn[3])
    for k, row in enumerate(drawn):
        marked = np.flatnonzero((row != LATENT_COLOURS[0]).any(axis=-1))
        width = len(row)
        assert (marked[0], marked[-1] + 1) == (k * width // 10, (k + 1) * width // 10)


@pytest.mark.parametrize("width", [200, 360, 1281, 7680])
def test_nothing_is_written_past_the_chart(width: int) -> None:
    chart = FrameChart(width, 2)
    chart.add({"keyframe.y": 1e9, "keyframe.z": 1.0})
    chart.add({"motion.y": 1e3})
    pixels = chart.draw(1, "frame 2 of 2    0.040 s    1,000 bits    0.001 bits per pixel", 123.456)
    assert pixels.shape == (chart.height, width, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[0] == GROUND).all()


def test_words_and_scale_change_the_chart() -> None:
    chart = FrameChart(800, 1)
    chart.add({"y": 1.0})
    one = chart.draw(0, "words", 1.0)
    assert not np.array_equal(one, chart.draw(0, "other words", 1.0))
    assert not np.array_equal(one, chart.draw(0, "words", 2.0))
    assert np.array_equal(one, chart.draw(0, "words", 1.0))
    box = chart._scale
    ramp = one[box.top, box.left : box.right].astype(int).sum(axis=-1)
    assert (np.diff(ramp) >= -2).all()  # from dark to bright
    assert ramp[-1] - ramp[0] > 500
