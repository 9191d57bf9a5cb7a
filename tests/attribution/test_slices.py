"""Bits and quality slice by slice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext.cells.quality import measure_psnr

pytest.importorskip("compressai")
from compressai.entropy_models import EntropyBottleneck, GaussianConditional


class Slices(nn.Module):
    """Latents z, coded whole, and y, in slices of 2, 3 and 3 channels."""

    GROUPS = (2, 3, 3)

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Conv2d(3, 8, 8, stride=8), nn.ConvTranspose2d(8, 3, 8, stride=8)
        self.z, self.y = EntropyBottleneck(4), GaussianConditional(None)
        self.hyper = nn.Conv2d(8, 4, 4, stride=4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = 10 * self.encode(x)
        _, z_likelihoods = self.z(self.hyper(y))
        parts = [self.y(part, torch.ones_like(part) * 2) for part in y.split(self.GROUPS, dim=1)]
        y_hat, likelihoods = (torch.cat(one, dim=1) for one in zip(*parts, strict=True))
        return {"x_hat": self.decode(y_hat / 10), "likelihoods": {"y": likelihoods, "z": z_likelihoods}}


@pytest.fixture
def codec() -> Slices:
    torch.manual_seed(3)
    return Slices().eval()


def test_slices_add_up_and_end_with_the_reconstruction(codec: Slices) -> None:
    x = torch.rand(2, 3, 50, 70)
    slices = bitrate_ext.follow_slices(codec, x)
    assert [(one.first, one.end) for one in slices] == [(0, 2), (2, 5), (5, 8)]
    result = bitrate_ext.BitrateMapper(codec, channels=True)(x)
    torch.testing.assert_close(slices[-1].bits, result.total_bits)
    z = result.channel_bits["z"].sum(dim=1)
    torch.testing.assert_close(slices[0].bits, z + result.channel_bits["y"][:, :2].sum(dim=1))
    torch.testing.assert_close(slices[1].slice_bits, result.channel_bits["y"][:, 2:5].sum(dim=1))
    assert result.x_hat is not None
    for k in (0, 1):
        psnr = measure_psnr(result.x_hat[k], x[k])
        assert float(slices[-1].psnr_db[k]) == pytest.approx(psnr, abs=1e-4)


def test_slices_have_true_values(codec: Slices) -> None:
    with torch.no_grad():
        codec.encode.weight.mul_(1000)
    x = torch.rand(1, 3, 64, 64)
    floored, expected = (bitrate_ext.BitrateMapper(codec, sources=known)(x).total_bits for known in (False, True))
    assert expected > 1.1 * floored
    torch.testing.assert_close(bitrate_ext.follow_slices(codec, x)[-1].bits, expected)


def test_groups_of_one_s_own(codec: Slices) -> None:
    x = torch.rand(1, 3, 64, 64)
    by_channel = bitrate_ext.follow_slices(codec, x, [1] * 8)
    by_slice = bitrate_ext.follow_slices(codec, x)
    assert torch.equal(by_channel[4].psnr_db, by_slice[1].psnr_db)
    torch.testing.assert_close(by_channel[1].bits, by_slice[0].bits)
    with pytest.raises(ValueError, match=r"groups must add up to the 8 channels of latent 'y', got \[4, 5\]"):
        bitrate_ext.follow_slices(codec, x, [4, 5])
    with pytest.raises(ValueError, match="latent"):
        bitrate_ext.follow_slices(codec, x, latent="w")


def test_a_latent_that_is_coded_whole(codec: Slices) -> None:
    codec.GROUPS = (8,)
    with pytest.raises(ValueError, match=r"groups must be given: latent 'y' is not coded .* its 8 channels"):
        bitrate_ext.follow_slices(codec, torch.rand(1, 3, 64, 64))
