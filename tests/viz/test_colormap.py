"""Colours of maps as tensors: the same bytes as the definition, on any device."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from bitrate_ext.viz import colormap


@pytest.mark.parametrize(
    ("bits", "limit"),
    [
        (np.linspace(0, 1, 1001)[None], 0.995),
        (np.array([[0.0, 0.0]]), 1.0),
        (np.array([[np.nan, np.inf]]), 1.0),
        (np.array([[np.nan, 2.0, np.inf, 2.0]]), 2.0),
        (np.concatenate([np.zeros(999), [3.0]])[None], 3.0),  # the percentile is zero
    ],
    ids=["ramp", "zeros", "nothing finite", "odd values", "one pixel"],
)
def test_colour_limit(bits: np.ndarray, limit: float) -> None:
    assert colormap.colour_limit(bits) == pytest.approx(limit, rel=1e-4)


def test_colours_are_matplotlib_s(device: torch.device) -> None:
    bits = torch.tensor([[0.0, 0.3, 0.999, 2.0, np.inf, -1.0, -np.inf, np.nan]], device=device)
    expected = colormap.colour_map()(np.clip(bits.cpu().numpy() / 0.8, 0, 1), bytes=True)[..., :3]
    assert np.abs(colormap.apply_colormap(bits, 0.8).cpu().numpy().astype(int) - expected).max() <= 1
    grey = [round(255 * c) for c in colormap.BROKEN]
    assert colormap.apply_colormap(bits, 0.8)[0, -1].tolist() == grey


def test_overlay_is_its_formula(device: torch.device, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    bits = rng.random((40, 50), dtype=np.float32) * 1.2
    luma = np.array([0.2126, 0.7152, 0.0722])
    light = image @ luma / 255
    colour = colormap.colour_map()(np.clip(bits, 0, 1))[:, :, :3]
    found = colormap.overlay_bits(torch.from_numpy(image).to(device), torch.from_numpy(bits).to(device), 1.0)
    found = found.cpu().numpy() / 255
    wanted = 0.35 * light + 0.65 * (colour @ luma)
    assert np.abs(found @ luma - wanted).max() < 2.5 / 255  # 256 levels of bits, and of light
    darker = wanted < colour @ luma
    assert 0.1 < darker.mean() < 0.9
    assert np.abs(np.cross(found, colour)[darker]).max() < 0.02  # mixed with black
    assert np.abs(np.cross(1 - found, 1 - colour)[~darker]).max() < 0.02  # mixed with white


def test_what_is_not_a_number_keeps_the_image(rng: np.random.Generator) -> None:
    grey = np.repeat(rng.integers(0, 256, (5, 7, 1), dtype=np.uint8), 3, axis=2)
    bits = torch.full((5, 7), torch.nan)
    assert torch.equal(colormap.overlay_bits(torch.from_numpy(grey), bits, 1.0), torch.from_numpy(grey))


def test_results_go_into_part_of_a_larger_picture(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    bits = torch.from_numpy(rng.random((6, 8), dtype=np.float32))
    canvas = torch.full((8, 20, 3), 7, dtype=torch.uint8)
    colormap.apply_colormap(bits, 1.0, out=canvas[1:7, 1:9])
    colormap.overlay_bits(image, bits, 1.0, out=canvas[1:7, 10:18])
    assert torch.equal(canvas[1:7, 1:9], colormap.apply_colormap(bits, 1.0))
    assert torch.equal(canvas[1:7, 10:18], colormap.overlay_bits(image, bits, 1.0))
    canvas[1:7, 1:9] = canvas[1:7, 10:18] = 7
    assert (canvas == 7).all()


@pytest.mark.parametrize("maps", [1, 40])
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (300, 400)])
def test_the_limit_of_a_clip(maps: int, shape: tuple[int, int], rng: np.random.Generator) -> None:
    clip_limit, seen = colormap.ClipLimit(), []
    for _ in range(maps):
        one = (rng.gamma(2.0, 0.3, shape) + 0.01).astype(np.float32)
        seen.append(one)
        clip_limit.add(torch.from_numpy(one))
    exact = np.percentile(np.stack(seen), 99.5)
    few = maps * shape[0] * shape[1] < 1000
    assert clip_limit.limit() == pytest.approx(exact, rel=0.3 if few else 0.03)


def test_the_limit_of_odd_clips() -> None:
    clip_limit = colormap.ClipLimit()
    assert clip_limit.limit() == 1.0
    clip_limit.add(torch.zeros(20, 20))
    assert clip_limit.limit() == 1.0
    clip_limit.add(torch.full((20, 20), math.inf))
    clip_limit.add(torch.full((20, 20), math.nan))
    assert clip_limit.limit() == 1.0
    one = torch.zeros(200, 200)
    one[0, 0] = 3.0
    clip_limit.add(one)
    assert clip_limit.limit() == 3.0  # the percentile is zero
