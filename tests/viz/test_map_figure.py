"""Figures of maps: sizes, colours, odd values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from bitrate_ext.viz import colormap, map_figure


def ramp(height: int = 60, width: int = 80) -> np.ndarray:
    """A map that grows from left to right, 0 to 1 bits per pixel."""
    return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))


def close_to(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(pixels.astype(int) - colour) <= 2).all(axis=-1)


@pytest.mark.medium
@pytest.mark.parametrize(
    "size", [(60, 80), (300, 451), (40, 900), (900, 40), (1, 1), (1, 3000), (3000, 2), (2160, 3840)]
)
def test_map_figure_follows_the_aspect_of_the_map(size: tuple[int, int]) -> None:
    figure = map_figure.map_figure(np.zeros(size, dtype=np.float32) + 1, title="t" * 500, subtitle="s")
    assert figure.mode == "RGB"
    height, width = map_figure.panel_size(*size)
    assert figure.height >= height
    assert figure.width >= width
    assert max(figure.size) < 2100
    if max(height, width) <= 8 * min(height, width):
        assert height / width == pytest.approx(size[0] / size[1], rel=0.02)
    pixels = np.asarray(figure)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 255).all()  # nothing runs over the edge, the long title neither


def test_every_map_pixel_is_a_square_of_its_colour() -> None:
    bits = np.random.default_rng(0).random((6, 11), dtype=np.float32)
    bits[0, 0] = 0.0
    pixels = np.asarray(map_figure.map_figure(bits))
    height, width = map_figure.panel_size(6, 11)
    scale = height // 6
    assert (height, width) == (6 * scale, 11 * scale)
    expected = (colormap.colour_map()(np.clip(bits / colormap.colour_limit(bits), 0, 1))[:, :, :3] * 255).round()
    black = np.argwhere(close_to(pixels, tuple(expected[0, 0].astype(int))))  # the first cell, and the bar's foot
    top, left = black[:, 0].min(), black[:, 1].min()
    centres = pixels[top + scale // 2 : top + height : scale, left + scale // 2 : left + width : scale]
    assert np.abs(centres.astype(int) - expected).max() <= 2


def test_odd_values_are_drawn() -> None:
    bits = ramp()
    bits[10:50, 10:30] = np.nan
    bits[0, 0] = np.inf
    bits[1, 1] = -np.inf
    pixels = np.asarray(map_figure.map_figure(bits))
    grey = tuple(round(255 * c) for c in colormap.BROKEN)
    scale = map_figure.panel_size(60, 80)[0] // 60
    assert close_to(pixels, grey).sum() == pytest.approx(40 * 20 * scale**2, rel=0.02)


def test_map_figure_takes_tensors() -> None:
    bits = ramp()
    tensor = torch.from_numpy(bits)[None, None].double().requires_grad_()
    assert map_figure.map_figure(tensor).tobytes() == map_figure.map_figure(bits).tobytes()


def luma(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(float) @ (np.array(colormap.LUMA) / sum(colormap.LUMA))


def test_overlay_has_the_size_of_the_image_and_shows_it_where_bits_are_unknown() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.float32) / 255
    bits = ramp()
    bits[:, :40] = 0.0
    bits[:30, :40] = np.nan
    figure = map_figure.overlay(photo, bits)
    assert (figure.mode, figure.size) == ("RGB", (80, 60))
    pixels = np.asarray(figure)[:, :40].astype(float)
    grey = 255 * (photo[:, :40] @ np.array([0.2126, 0.7152, 0.0722]))
    assert np.abs(pixels[:30] - grey[:30, :, None]).max() < 0.501  # rounded, not cut
    assert np.abs(luma(pixels[30:]) - colormap.PHOTOGRAPH * grey[30:]).max() < 2  # dimmed where nothing is spent


@pytest.mark.parametrize("light", [0.0, 0.02, 0.25, 0.5, 0.75, 0.98, 1.0])
def test_overlay_is_brighter_where_more_is_spent(light: float) -> None:
    """On dark and on light photographs alike, from black or nearly so to nearly white."""
    shade = luma(np.asarray(map_figure.overlay(np.full((1, 1024, 3), light, np.float32), ramp(1, 1024))))[0]
    assert (np.diff(shade) > -1).all()  # a level of rounding
    steps = shade[::64]
    assert (np.diff(steps) > 2).all()
    assert shade[-1] - shade[0] > 0.55 * 255


def test_a_little_more_bits_outweigh_the_photograph() -> None:
    """A pixel of half the limit is brighter over black than one of none over white."""
    dark, light = (
        luma(np.asarray(map_figure.overlay(np.full((1, 80, 3), grey, np.float32), ramp(1)))) for grey in (0.0, 1.0)
    )
    assert dark[0, 70] > light[0, 0]
    assert (light[0] - dark[0] > 60).all()  # lights and shades are there under any bits


def test_overlays_have_a_legend_below() -> None:
    photo, bits = np.full((60, 800, 3), 0.5, np.float32), 4 * ramp(60, 800)
    figure = np.asarray(map_figure.overlay_figure(photo, bits, limit=2.0))
    legend = map_figure.legend(800, 2.0)
    assert figure.shape == (60 + legend.height, 800, 3)
    assert np.array_equal(figure[:60], np.asarray(map_figure.overlay(photo, bits, limit=2.0)))
    assert np.array_equal(figure[60:], np.asarray(legend))
    assert np.asarray(legend).tobytes() != np.asarray(map_figure.legend(800, 3.0)).tobytes()  # numbers
    row = np.asarray(legend)[legend.height // 4]
    assert (np.diff(luma(row[40:760])) > -2).all()
    small = map_figure.overlay_figure(photo[:, :9], bits[:, :9])
    assert small.width > 200  # there is room for the numbers
    assert np.array_equal(np.asarray(small)[:60, :9], np.asarray(map_figure.overlay(photo[:, :9], bits[:, :9])))


def test_overlay_uses_the_figures_scale() -> None:
    """One extreme pixel, or one of infinite bits, darkens no other."""
    photo, bits = np.full((60, 80, 3), 0.5, np.float32), 4 * np.minimum(ramp(), 0.9)
    expected = np.asarray(map_figure.overlay(photo, bits))
    for extreme in (100.0, np.inf):
        bits[0, 0] = extreme
        figure = np.asarray(map_figure.overlay(photo, bits))
        np.testing.assert_array_equal(figure[1:], expected[1:])
        np.testing.assert_array_equal(figure[0, 0], expected[0, -1])


def test_overlay_takes_tensors_as_the_mapper_returns_them() -> None:
    photo, bits = torch.rand(1, 3, 60, 80), torch.from_numpy(ramp())[None, None]
    expected = map_figure.overlay(photo[0].permute(1, 2, 0).numpy(), ramp())
    assert map_figure.overlay(photo, bits).tobytes() == expected.tobytes()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"bits must be a map \[H, W\] or \[1, 1, H, W\], got shape \[2, 1, 4, 4\]"):
        map_figure.map_figure(np.zeros((2, 1, 4, 4)))
    with pytest.raises(ValueError, match=r"bits must be .* got shape \[0, 4\]"):
        map_figure.map_figure(np.zeros((0, 4)))
    with pytest.raises(ValueError, match=r"image must be \[H, W, 3\] of \[4, 5\] pixels, got \[4, 4, 3\]"):
        map_figure.overlay(np.zeros((4, 4, 3)), np.zeros((4, 5)))


def test_the_rim_is_marked_and_sets_no_scale(rng: np.random.Generator) -> None:
    bits = rng.random((90, 120)).astype(np.float32)
    bright = bits.copy()
    bright[:8], bright[:, -16:] = 50, 50
    rim = (8, 0, 0, 16)
    inside = colormap.inside_rim(bits, rim)
    assert np.array_equal(inside, bits[8:, :-16])
    limit = colormap.colour_limit(inside)
    assert colormap.colour_limit(colormap.inside_rim(bright, rim)) == limit < colormap.colour_limit(bright)
    image = rng.random((90, 120, 3)).astype(np.float32)
    assert (
        map_figure.overlay(image, bright, rim=rim).tobytes() == map_figure.overlay(image, bright, limit=limit).tobytes()
    )
    plain, marked = map_figure.map_figure(bright, limit=limit), map_figure.map_figure(bright, rim=rim)
    assert plain.size == marked.size
    different = (np.asarray(plain) != np.asarray(marked)).any(axis=2)
    panel = different[:, : int(0.8 * different.shape[1])]
    assert 0 < panel.mean() < 0.01  # a line, and nothing else in the panel
    assert colormap.inside_rim(bits, (50, 50, 0, 0)) is bits  # nothing would be left
    assert colormap.inside_rim(torch.from_numpy(bits), rim).shape == (82, 104)


def test_the_end_of_the_scale_is_told() -> None:
    bits = np.array([[0.0, 1.0, 2.0, map_figure.LARGEST], [np.nan, 1.0, 1.0, 4.0]], dtype=np.float32)
    note = map_figure.scale_note(bits, 2.0, measured=False)
    assert note == "the scale ends at 2; 28.6 % of the pixels are beyond, up to infinity"
    assert map_figure.scale_note(bits[:, :3], 2.0, measured=True) == (
        "the scale ends at 2, the 99.5th percentile; no pixel is beyond"
    )
    assert map_figure.scale_note(-bits[1:, 3:], 3.0, measured=False).endswith("beyond, up to 4")
