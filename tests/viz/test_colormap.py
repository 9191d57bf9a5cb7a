"""Colours of maps as tensors: the same bytes as the definition, on any device."""

from __future__ import annotations

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
    light = (image @ np.array([0.2126, 0.7152, 0.0722]) / 255)[:, :, None]
    share = np.clip(bits, 0, 1)[:, :, None]
    colour = colormap.colour_map()(share[:, :, 0])[:, :, :3]
    opacity = 0.8 * share
    expected = 255 * ((1 - opacity) * light + opacity * colour * (0.45 + 0.55 * light))
    found = colormap.overlay_bits(torch.from_numpy(image).to(device), torch.from_numpy(bits).to(device), 1.0)
    assert np.abs(found.cpu().numpy() - expected).max() < 2.5  # 256 levels of bits, and of light


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
