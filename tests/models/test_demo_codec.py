"""The main job, end to end: the bundled photograph through the bundled codec to a map that adds up to its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from commands import in_new_process

import bitrate_ext
from bitrate_ext.choices import DEMO_QUALITIES
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import DATA, at_level, demo_photograph, lean_codec, load_demo_forward
from bitrate_ext.models.zoo import build

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


@pytest.mark.parametrize(("quality", "shape"), [(1, (2, 3, 64, 192)), (5, (1, 3, 320, 448)), (8, (1, 3, 320, 448))])
def test_the_forward_pass_alone_is_the_same_to_the_last_bit(
    photograph: torch.Tensor, quality: int, shape: tuple[int, ...]
) -> None:
    x = torch.rand(shape) if shape[0] > 1 else F.pad(photograph, (0, -3, 0, 20))
    theirs_of = bitrate_ext.load_demo_codec(quality)
    with torch.no_grad(), bitrate_ext.fuse(theirs_of):
        theirs, ours = theirs_of(x), load_demo_forward(quality)(x)
    assert torch.equal(ours["x_hat"], theirs["x_hat"])
    assert list(ours["likelihoods"]) == list(theirs["likelihoods"])
    for name, p in theirs["likelihoods"].items():
        assert torch.equal(bitrate_ext.latent_bits(ours["likelihoods"][name]), bitrate_ext.latent_bits(p))
        assert torch.equal(ours["likelihoods"][name], p)


@pytest.mark.medium
def test_each_quality_costs_more_is_better_and_adds_up_to_its_file(photograph: torch.Tensor) -> None:
    x = F.pad(photograph, (0, -photograph.shape[-1] % 64, 0, -photograph.shape[-2] % 64))
    rates, errors = [], []
    for quality in DEMO_QUALITIES:
        codec = bitrate_ext.load_demo_codec(quality)
        result = bitrate_ext.BitrateMapper(codec)(x)
        with torch.inference_mode():
            strings = codec.compress(x)["strings"]
        coded = 8 * sum(len(string) for latent in strings for string in latent)
        estimated = float(result.total_bits)
        assert abs(float(result.map.sum(dtype=torch.float64)) - estimated) <= 6e-8 * estimated
        assert abs(coded - estimated) <= 0.01 * estimated + 2 * 64  # the end of two strings
        rates.append(estimated / x[0, 0].numel())
        errors.append(float((result.x_hat - x).square().mean()))
    assert rates == sorted(rates)
    assert errors == sorted(errors, reverse=True)
    assert rates[0] < 0.15
    assert rates[-1] > 0.6


@pytest.mark.parametrize("quality", [0, 9, -1, 2.5, "5", None])
def test_another_quality_is_refused(quality: object) -> None:
    for load in (bitrate_ext.load_demo_codec, load_demo_forward):
        with pytest.raises(ValueError, match=r"quality must be one of 1, 2, 3, 4, 5, 6, 7, 8, got"):
            load(quality)  # type: ignore[operator]


def test_gains_fold_into_the_layers_beside_them() -> None:
    torch.manual_seed(0)
    plain = lean_codec(8, 12).eval()
    gains = torch.rand(2, 3, 12) + 0.5
    weights = {**{name: p.detach() for name, p in plain.named_parameters()}, "gains": gains}
    x = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        y = plain.g_a(x)
        z_hat, z_likelihoods = plain.entropy_bottleneck(plain.h_a(y))
        scales, means = plain.h_s(z_hat).chunk(2, 1)
        for level, (before, after) in enumerate(gains[..., None, None].transpose(0, 1)):
            _, likelihoods = plain.gaussian_conditional(y * before, scales * before, means=means * before)
            y_hat = (((y - means) * before).round() + means * before) * after
            folded = build(lean_codec, at_level(weights, level), (8, 12)).eval()(x)
            torch.testing.assert_close(folded["x_hat"], plain.g_s(y_hat))
            torch.testing.assert_close(folded["likelihoods"]["y"], likelihoods)
            torch.testing.assert_close(folded["likelihoods"]["z"], z_likelihoods)
    assert weights["gains"] is gains  # what was given is as it was


@pytest.mark.medium
def test_the_command_maps_with_it_without_compressai(tmp_path: Path) -> None:
    printed = in_new_process(f"""
        import sys
        from bitrate_ext.cli.main import main
        assert main(["map", {str(demo_photograph())!r}, "-o", {str(tmp_path)!r}]) == 0
        print([name for name in ("compressai", "torchvision", "torch_geometric", "scipy") if name in sys.modules])
    """)
    assert printed.splitlines()[-1] == "[]"


def test_what_ships_is_small_and_described() -> None:
    assert (DATA / "demo_codec.safetensors").stat().st_size <= 4_000_000
    card = (DATA / "demo_codec.md").read_text()
    for word in ("licence", "seed", "time", "data", "PSNR", "bpp"):
        assert word in card, word
