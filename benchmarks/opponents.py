"""What people use instead, each in one place; benchmarks check their answers before they are timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import bitrate_ext
from bitrate_ext.bench import CHANNELS, STRIDE, recipe

__all__ = ["IMAGES", "copy_of_same_bytes", "fused", "make_likelihoods", "recipe"]

IMAGES = {"kodak": (512, 768), "1080p": (1088, 1920), "4k": (2160, 3840), "8k": (4320, 7680)}  # (H, W), pixels


def fused(likelihoods: Tensor, out: Tensor | None = None) -> Tensor:
    return bitrate_ext.bitrate_map(likelihoods, scale_factor=STRIDE, out=out)


def copy_of_same_bytes(likelihoods: Tensor, out: Tensor) -> Callable[[], Tensor]:
    """A memory copy that reads and writes, together, as many bytes as the likelihoods and the map have."""
    half = (likelihoods.nbytes + out.nbytes) // 2
    source, target = torch.ones(half, dtype=torch.uint8), torch.ones(half, dtype=torch.uint8)
    return lambda: target.copy_(source)


def make_likelihoods(image: str, dtype: torch.dtype = torch.float32, channels: int = CHANNELS) -> Tensor:
    """``[1, C, h, w]`` in (0, 1]: most symbols nearly certain, some costly, as codecs give them."""
    height, width = IMAGES[image]
    generator = torch.Generator().manual_seed(1)
    shape = (1, channels, height // STRIDE, width // STRIDE)
    return torch.rand(shape, generator=generator).pow_(0.3).clamp_(min=1e-9).to(dtype)
