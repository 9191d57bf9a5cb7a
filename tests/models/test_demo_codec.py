"""The main job, end to end: the bundled photograph through the bundled codec to a map that adds up to its file."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import DATA, demo_photograph

pytest.importorskip("compressai")


@pytest.fixture(scope="module")
def codec() -> torch.nn.Module:
    return bitrate_ext.load_demo_codec()


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    return load_image(demo_photograph())


def test_the_map_adds_up_and_the_picture_is_good(codec: torch.nn.Module, photograph: torch.Tensor) -> None:
    result = bitrate_ext.BitrateMapper(codec)(photograph)
    assert result.map.shape == (1, 1, *photograph.shape[-2:])
    total, mapped = float(result.total_bits), float(result.map.sum(dtype=torch.float64) + result.padding_bits)
    assert abs(mapped - total) <= 6e-8 * total
    assert 0.2 < float(result.bpp) < 0.8
    assert -10 * float((result.x_hat.clamp(0, 1) - photograph).square().mean().log10()) > 30  # dB
    # Fur costs more than the blurred background on the right.
    assert result.map[..., 60:200, 120:260].mean() > 2 * result.map[..., 20:200, 400:430].mean()


def test_the_coders_strings_are_as_long_as_the_map_says(codec: torch.nn.Module, photograph: torch.Tensor) -> None:
    height, width = photograph.shape[-2:]
    x = F.pad(photograph, (0, -width % 64, 0, -height % 64))
    with torch.inference_mode():
        strings = codec.compress(x)["strings"]
    coded = 8 * sum(len(string) for latent in strings for string in latent)
    estimated = float(bitrate_ext.BitrateMapper(codec)(x).total_bits)
    assert estimated < coded < 1.02 * estimated + 2 * 64  # rounded scales and tables, and the end of two strings


def test_what_ships_is_small_and_described() -> None:
    assert (DATA / "demo_codec.safetensors").stat().st_size <= 4_000_000
    card = (DATA / "demo_codec.md").read_text()
    for word in ("licence", "seed", "time", "data", "PSNR", "bpp"):
        assert word in card, word
