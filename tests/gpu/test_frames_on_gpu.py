"""Frames on a GPU: uploaded while others are computed, mapped, coloured; the same as on the CPU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import scaled
from machine import on_a_side_stream
from torch import nn

from bitrate_ext import FrameMapper

FRAMES = scaled(100)
ROWS, COLUMNS = 270, 480


class Codec(nn.Module):
    """Likelihoods that follow the picture, in whole steps, so that no rounding of a sum can tell devices apart."""

    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.tensor(0.05))  # tells which device the codec is on

    def forward(self, x):
        y, z = (F.max_pool2d(x, stride).mul(0.9).add(self.offset) for stride in (16, 64))
        return {"likelihoods": {"y": y, "z": z}, "x_hat": x}


def clip(rng, count):
    base = rng.integers(0, 256, (ROWS, COLUMNS + 4 * count, 3), dtype=np.uint8)
    return [np.ascontiguousarray(base[:, 4 * k : 4 * k + COLUMNS]) for k in range(count)]


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_frames_are_those_of_the_cpu(device, rng, prefetch, batch):
    """Whatever is uploaded while earlier frames are computed, each map is of its own frame."""
    frames = clip(rng, FRAMES)
    expected = [r.map.clone() for r in FrameMapper(Codec().eval(), prefetch=0)(frames)]
    mapper = FrameMapper(Codec().eval().to(device), batch=batch, prefetch=prefetch, reconstruction=True)
    wrong = 0
    for result, one, frame in zip(mapper(frames), expected, frames, strict=True):
        assert result.map.device.type == device.type
        wrong += not torch.equal(result.map.cpu(), one)
        wrong += not torch.equal(result.frame.cpu(), torch.from_numpy(frame))
    assert wrong == 0


def test_frames_on_a_side_stream(device, rng):
    frames = clip(rng, 8)
    expected = [r.map.clone() for r in FrameMapper(Codec().eval(), prefetch=0)(frames)]
    mapper = FrameMapper(Codec().eval().to(device))
    with on_a_side_stream(device, busy=20):
        found = [r.map.clone() for r in mapper(frames)]
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


def test_colours_are_the_same_bytes(device, rng):
    pytest.importorskip("matplotlib")
    from bitrate_ext.viz.colormap import apply_colormap, overlay_bits

    bits = torch.from_numpy(rng.gamma(2.0, 0.4, (ROWS, COLUMNS)).astype(np.float32))
    bits[::7, ::5] = torch.nan
    bits[::11, ::3] = torch.inf
    photograph = torch.from_numpy(rng.integers(0, 256, (ROWS, COLUMNS, 3), dtype=np.uint8))
    for limit in (0.3, 1.0, 7.7):
        assert torch.equal(apply_colormap(bits.to(device), limit).cpu(), apply_colormap(bits, limit))
        there = overlay_bits(photograph.to(device), bits.to(device), limit)
        assert torch.equal(there.cpu(), overlay_bits(photograph, bits, limit))
