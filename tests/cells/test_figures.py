"""Figures of picture bits: what stands in their panels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bitrate_ext
from bitrate_ext.cells.figures import grid_figure
from bitrate_ext.cells.picture import CellGrid, PictureBits

pytest.importorskip("matplotlib")
CROP = (0, 0, 24, 32)


def made(name: str = "codec", factor: float = 1.0, channels: int = 3, **more: Any) -> PictureBits:
    torch.manual_seed(0)
    grids = {latent: CellGrid(factor * torch.rand(4, 4)) for latent in ("y", "z")}
    picture = torch.full((1, channels, 24, 32), 0.5)
    return PictureBits(grids, (32, 32), CROP, name=name, picture=picture, reconstruction=picture + 0.1, **more)


def texts(figure: Any) -> list[str]:
    return [one.get_text() for one in figure.texts]


def test_a_picture_and_its_map() -> None:
    bits = made()
    figure, axes = bits.figure(width=4)
    assert len(axes) == 2
    assert texts(figure)[:4] == [
        "picture",
        "32 \N{MULTIPLICATION SIGN} 24 pixels",
        "codec",
        f"{bits.bpp:.3f} bpp, 20.00 dB",
    ]
    assert axes[1].images[0].get_array().max() == pytest.approx(float(bits.map().max()), rel=0.01)
    assert figure.get_size_inches()[0] == 4
    assert len(axes[1].lines) == 1  # the rim, beside the padding below


def test_a_map_for_each_latent() -> None:
    bits = made(channels=1)
    figure, axes = bits.figure(["y", "z"])
    assert len(axes) == 3
    each = {name: f"{bits.latent_bits[name] / 768:.3f} bpp" for name in ("y", "z")}
    assert texts(figure)[2:6] == ["latent y", each["y"], "latent z", each["z"]]
    with pytest.raises(ValueError, match="latents must be among 'y', 'z', got 'x'"):
        bits.figure("x")


def test_without_a_picture_the_reconstruction_or_nothing_is_shown() -> None:
    bits = made()
    figure, _ = PictureBits(bits.grids, bits.canvas, CROP, reconstruction=bits.reconstruction).figure()
    assert texts(figure)[:3:2] == ["reconstruction", "estimated bits"]
    _, axes = PictureBits(bits.grids, bits.canvas, CROP).figure()
    assert len(axes) == 1


def test_a_grid_has_one_scale_and_names_each() -> None:
    rows = [[made(f"{model} {quality}", quality) for quality in (1, 2, 8)] for model in ("a", "b")]
    figure, axes = grid_figure(rows)
    assert axes.shape == (2, 3)
    assert len({one.images[0].get_clim() for one in axes.flat}) == 1
    assert [text for text in texts(figure) if text[0] in "ab"][:7] == [
        "a 1",
        "a 2",
        "a 8",
        "b 1",
        "b 2",
        "b 8",
        "bits per pixel",
    ]
    assert figure.get_size_inches()[0] == 7
    figure, axes = grid_figure([rows[0][:1], rows[1][:1]], "y", picture=True, width="column")
    assert axes.shape == (2, 2)
    assert axes[1, 1] is None
    assert "a 1, latent y" in texts(figure)
    with pytest.raises(ValueError, match="rows must each hold a panel"):
        grid_figure([])


@pytest.mark.medium
def test_of_one_image_of_a_result() -> None:
    x = torch.rand(2, 3, 50, 70)
    result = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec())(x)
    figure, axes = result.figure(number=1, name="demo", picture=x[1:], limit=3.0)
    assert axes[1].images[0].get_clim() == (0.0, 3.0)
    assert f"{float(result.bpp[1]):.3f} bpp" in " ".join(texts(figure))
