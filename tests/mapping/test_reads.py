"""How often a map reads the likelihoods that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import BitrateMapper, FrameMapper
from bitrate_ext.ops import library


class Fixed(nn.Module):
    """Latents y, 16 pixels a cell, and z, 64, of an image of 128 x 192 pixels; the same for every image."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.likelihoods = {
            name: torch.rand((1, channels, 128 // stride, 192 // stride), generator=random, dtype=dtype).clamp_min(1e-3)
            for name, channels, stride in (("y", 24, 16), ("z", 8, 64))
        }

    def forward(self, x: Tensor) -> dict[str, Any]:
        if x.shape[2:] == (128, 192):
            return {"likelihoods": self.likelihoods, "x_hat": x}
        return {
            "likelihoods": {
                n: x.new_full((1, 1, *(s // k for s in x.shape[2:])), 0.5) for n, k in (("y", 16), ("z", 64))
            }
        }


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fixed], dict[str, float]]:
    """Counts the elements that the kernel is given, as multiples of those that each latent has."""
    given: list[Tensor] = []
    kernel = library.project

    def watched(tensors: list[Tensor], *arguments: Any) -> Any:
        given.extend(tensors)
        return kernel(tensors, *arguments)

    monkeypatch.setattr(library, "project", watched)

    def counted(model: Fixed) -> dict[str, float]:
        storages = {p.untyped_storage().data_ptr(): name for name, p in model.likelihoods.items()}
        found = dict.fromkeys(model.likelihoods, 0.0)
        for tensor in given:
            name = storages.get(tensor.untyped_storage().data_ptr())
            if name is not None:
                found[name] += tensor.numel() / model.likelihoods[name].numel()
        return found

    return counted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mapper_reads_each_likelihood_once(reads: Callable[[Fixed], dict[str, float]], dtype: torch.dtype) -> None:
    model = Fixed(dtype)
    mapper = BitrateMapper(model.eval())
    x = torch.rand(1, 3, 120, 190, dtype=dtype)
    mapper.resolve(x, {})
    result = mapper(x)
    assert reads(model) == {"y": 1.0, "z": 1.0}
    expected = bitrate_ext.bitrate_map(model.likelihoods, (128, 192), crop=(4, 1, 120, 190))
    assert torch.equal(result.map, expected)  # byte for byte what the likelihoods themselves give
    for name, p in model.likelihoods.items():
        assert torch.equal(result.maps[name], bitrate_ext.bitrate_map(p, (128, 192), crop=(4, 1, 120, 190)))
    assert result.channel_bits == {}


def test_channels_are_read_where_they_are_asked_for(reads: Callable[[Fixed], dict[str, float]]) -> None:
    model = Fixed(torch.float32)
    result = BitrateMapper(model.eval(), channels=True)(torch.rand(1, 3, 128, 192))
    assert reads(model) == {"y": 2.0, "z": 2.0}
    for name, p in model.likelihoods.items():
        torch.testing.assert_close(result.channel_bits[name], -p.double().log2().sum(dim=(2, 3)), rtol=1e-6, atol=0)


def test_frames_read_each_likelihood_once(reads: Callable[[Fixed], dict[str, float]]) -> None:
    mapper = FrameMapper(Fixed(torch.float32).eval(), reconstruction=True, each_latent=True)
    (result,) = mapper([np.zeros((128, 192, 3), np.uint8)])
    model = mapper._adapters["image"].module
    assert isinstance(model, Fixed)
    assert reads(model) == {"y": 1.0, "z": 1.0}
    assert torch.equal(result.map, bitrate_ext.bitrate_map(model.likelihoods, (128, 192)))
