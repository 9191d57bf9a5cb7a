"""Animations of maps: one scale of colours, what each frame shows, files that give every pixel back."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch

from bitrate_ext.viz.animation import animation_frames, save_animation
from bitrate_ext.viz.colormap import colour_limit
from bitrate_ext.viz.map_figure import legend, overlay, scale_ticks

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
HEIGHT, WIDTH = 40, 60


@pytest.fixture
def ramp() -> np.ndarray:
    return np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.random((HEIGHT, WIDTH, 3), dtype=np.float32)


def panel(frame: Any, width: int, view: str) -> np.ndarray:
    """Pixels of a frame's panels: below the words, above the legend, between the margins."""
    pixels = np.asarray(frame)
    left = (pixels.shape[1] - width) // 2
    below = legend(pixels.shape[1], 1.0, laid_over=view == "overlay").height
    scale = (width - 10) // 2 // WIDTH if view == "side" else width // WIDTH
    return pixels[-below - scale * HEIGHT : -below, left : left + width]


def drawn(images: Any, maps: Any, view: str, **more: Any) -> list[np.ndarray]:
    frames = animation_frames(images, maps, ["a"] * len(maps), view=view, **more)
    width = 12 * WIDTH if view != "side" else 2 * 6 * WIDTH + 10
    return [panel(frame, width, view) for frame in frames]


def test_maps_are_in_one_scale_and_the_root_of_bits_is_even(ramp: np.ndarray, image: np.ndarray) -> None:
    full, quarter = drawn([image] * 2, [ramp, ramp / 4], "map", limit=1.0)
    assert full.shape == quarter.shape == (12 * HEIGHT, 12 * WIDTH, 3)
    # A quarter of the bits has the colour that stands half way up the scale.
    column = 12 * (WIDTH - 1)
    same = 12 * int(np.argmin(abs(ramp[0] - 0.25)))
    assert abs(quarter[0, column].astype(int) - full[0, same].astype(int)).max() <= 3
    brightness = full[0].astype(int).sum(axis=1)
    assert (np.diff(brightness) >= -2).all()


def test_the_costliest_map_sets_the_scale(ramp: np.ndarray, image: np.ndarray) -> None:
    maps = [ramp, 3 * ramp]
    by_itself, given = (drawn([image] * 2, maps, "map", **more) for more in ({}, {"limit": colour_limit(3 * ramp)}))
    np.testing.assert_array_equal(by_itself, given)
    beside = ramp.copy()
    beside[:, -1] = 100.0  # what is beside padding sets none
    without, within = (drawn([image], [beside], "map", rim=(0, 0, 0, right)) for right in (0, 1))
    assert (without[0] != within[0]).any()


def test_each_view_shows_its_panels(ramp: np.ndarray, image: np.ndarray) -> None:
    (laid,) = drawn([image], [ramp], "overlay", limit=1.0)
    expected = np.asarray(overlay(image, np.sqrt(ramp), limit=1.0)).repeat(12, axis=0).repeat(12, axis=1)
    np.testing.assert_array_equal(laid, expected)
    (both,) = drawn([image], [ramp], "side", limit=1.0)
    photograph = np.rint(255 * image).astype(np.uint8).repeat(6, axis=0).repeat(6, axis=1)
    np.testing.assert_array_equal(both[:, : 6 * WIDTH], photograph)
    assert (both[:, 6 * WIDTH : 6 * WIDTH + 10] == 255).all()
    (alone,) = drawn([image], [ramp], "map", limit=1.0)
    np.testing.assert_array_equal(both[:, 6 * WIDTH + 10 :], alone[::2, ::2])


def test_tensors_and_broken_pixels_are_taken(ramp: np.ndarray, image: np.ndarray) -> None:
    bits = torch.from_numpy(ramp)[None, None].clone()
    x = torch.from_numpy(image).permute(2, 0, 1)[None].bfloat16().requires_grad_()
    bits[..., 0, 0], bits[..., 0, 1], bits[..., 0, 2] = float("nan"), float("inf"), -1.0
    (shown,) = drawn([x], [bits], "map", limit=1.0)
    assert set(shown[0, 0]) == {140}  # grey
    assert shown[0, 12].astype(int).sum() > 500
    assert shown[0, 24].astype(int).sum() < 10
    assert len(drawn([x * float("nan")], [bits], "side", limit=1.0)) == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 4000), (2500, 2), (1200, 1800)])
def test_maps_of_any_size(size: tuple[int, int]) -> None:
    bits = np.ones(size, dtype=np.float32)
    for view in ("side", "overlay", "map"):
        frames = animation_frames([np.ones((*size, 3))] * 2, [bits, bits / 9], ["x" * 500, "y"], view=view)
        assert frames[0].size == frames[1].size
        assert max(frames[0].size) < 2100


def test_files_give_every_pixel_back(ramp: np.ndarray, image: np.ndarray) -> None:
    for maps in ([ramp], [ramp, ramp / 2, ramp / 2]):
        frames = animation_frames([image] * len(maps), maps, [str(n) for n in range(len(maps))], subtitle="cat.png")
        file = io.BytesIO()
        save_animation(frames, file)
        with Image.open(file) as read:
            assert read.format == "PNG"
            assert read.n_frames == len(maps)
            for index, frame in enumerate(frames):
                read.seek(index)
                np.testing.assert_array_equal(np.asarray(read.convert("RGB")), np.asarray(frame))


def test_what_cannot_be_drawn_is_said(ramp: np.ndarray, image: np.ndarray) -> None:
    for images, maps, captions, said in (
        ([], [], [], "and a map at least; got 0 maps, 0 images, 0 captions"),
        ([image], [ramp, ramp], ["a", "b"], "got 2 maps, 1 images, 2 captions"),
        ([image] * 2, [ramp, ramp[1:]], ["a", "b"], "maps must be of one size, got [40, 60], [39, 60]"),
        ([image[1:]], [ramp], ["a"], "image must be [H, W, 3] of [40, 60] pixels, got [39, 60, 3]"),
        ([image], [ramp[0]], ["a"], "bits must be a map [H, W]"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            animation_frames(images, maps, captions)
    with pytest.raises(ValueError, match="view must be one of 'side', 'overlay', 'map', got 'both'"):
        animation_frames([image], [ramp], ["a"], view="both")


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("limit", [1e-9, 0.0317, 0.94, 1.0, 1.94, 7.03, 1234.5])
def test_a_scale_has_numbers_at_its_ends_and_room_between(limit: float, power: float) -> None:
    ticks = scale_ticks(limit, power, 0.06)
    assert (ticks[0], ticks[-1]) == (0.0, limit)
    places = np.array(ticks) ** power / limit**power
    assert (np.diff(places) > 0.06).all()
    assert len(ticks) > 4
