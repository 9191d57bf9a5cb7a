"""PSNR, MS-SSIM and maps of errors: against numbers worked by hand, and against the library's own."""

from __future__ import annotations

import math

import pytest
import torch

from bitrate_ext.cells.quality import error_map, measure_ms_ssim, measure_psnr, squared_error, ssim_map, to_decibels

pytorch_msssim = pytest.importorskip("pytorch_msssim")


def pair(height: int, width: int, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    x = torch.rand(count, 3, height, width)
    return (x + 0.1 * torch.randn_like(x)), x


def test_psnr_by_hand() -> None:
    x = torch.zeros(1, 1, 2, 2)
    x_hat = torch.tensor([[[[0.5, 0], [0, -3.0]]]])  # cut to [0, 1]
    assert squared_error(x_hat, x) == 0.25
    assert measure_psnr(x_hat, x) == pytest.approx(-10 * math.log10(0.25 / 4))
    assert measure_psnr(x, x) is None


def test_the_mean_of_a_part_of_the_error_map_is_its_squared_error() -> None:
    x_hat, x = pair(20, 30)
    errors = error_map(x_hat, x)
    assert errors.shape == (1, 1, 20, 30)
    part = float(errors[..., 3:9, 5:25].mean())
    assert to_decibels(part) == pytest.approx(measure_psnr(x_hat[..., 3:9, 5:25], x[..., 3:9, 5:25]))


def test_ms_ssim_is_the_library_s() -> None:
    x_hat, x = pair(161, 170)
    assert measure_ms_ssim(x_hat, x) == pytest.approx(
        float(pytorch_msssim.ms_ssim(x_hat.clamp(0, 1), x, data_range=1)), abs=1e-6
    )
    assert measure_ms_ssim(x_hat[..., :160, :], x[..., :160, :]) is None


def test_blocks_of_ssim_have_the_mean_that_the_library_gives() -> None:
    x_hat, x = pair(43, 50, 2)
    blocks = ssim_map(x_hat, x, 8)
    assert blocks.shape == (2, 1, 6, 7)
    for image in range(2):  # blocks 1 to 3 and 1 to 4, with the five pixels around that their windows reach
        inside = [one[image : image + 1, :, 3:37, 3:45] for one in (x_hat.clamp(0, 1), x)]
        expected = float(pytorch_msssim.ssim(*inside, data_range=1))
        assert float(blocks[image, 0, 1:4, 1:5].mean()) == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(ssim_map(x, x, 8), torch.ones(()))
    assert ssim_map(x_hat[..., :3, :2], x[..., :3, :2]).shape == (2, 1, 1, 1)
