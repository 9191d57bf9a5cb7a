"""Padding, sizes and arguments as large as the image, alike wherever a model is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from block_codecs import BlockCodec
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import BitrateMapper, FrameMapper
from bitrate_ext.choices import PADDING_SIDES, PADDINGS
from bitrate_ext.models.adapter import ModelAdapter

WAYS = [(mode, side) for mode in PADDINGS for side in PADDING_SIDES]


class Windows(nn.Module):
    """A codec of stride 16 that wants multiples of 128 pixels, with a decoder, and a quality map if it is given one."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(3, 4, 16, stride=16)
        self.decode = nn.ConvTranspose2d(4, 3, 16, stride=16)

    def forward(self, x: Tensor, quality: Tensor | None = None) -> dict[str, Any]:
        if x.shape[-2] % 128 or x.shape[-1] % 128:
            raise RuntimeError(f"{tuple(x.shape)} cannot be cut into windows")
        y = self.encode(x if quality is None else x * quality)
        return {"x_hat": self.decode(y), "likelihoods": {"y": torch.exp(-y.abs())}}


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, 90, 150)


@pytest.mark.parametrize(("mode", "side"), WAYS)
def test_frames(x: Tensor, mode: str, side: str) -> None:
    way = {"padding": mode, "padding_side": side}
    expected = BitrateMapper(BlockCodec().eval(), **way)(x)
    (found,) = FrameMapper(BlockCodec().eval(), **way)([x[0]])
    assert torch.equal(found.map, expected.map)
    assert torch.equal(found.padding_bits, expected.padding_bits)
    assert found.rim == expected.rim
    (found,) = FrameMapper(ModelAdapter(BlockCodec().eval(), **way))([x[0]])
    assert torch.equal(found.map, expected.map)


@pytest.mark.parametrize(("mode", "side"), WAYS)
def test_tiles(mode: str, side: str, tmp_path: Path) -> None:
    x = torch.randint(0, 256, (3, 200, 330), dtype=torch.uint8)
    mapper = BitrateMapper(BlockCodec().eval(), padding=mode, padding_side=side)
    expected = mapper(x[None].float() / 255)
    bitrate_ext.map_picture(mapper, x, tmp_path / "a.npz", tile=64)
    with np.load(tmp_path / "a.npz") as arrays:
        torch.testing.assert_close(torch.from_numpy(arrays["map"]), expected.map[0, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("padding", PADDINGS)
def test_attribution(x: Tensor, padding: str) -> None:
    model = Windows().eval()
    expected = BitrateMapper(model, padding=padding)(x)
    found = bitrate_ext.attribute(model, x, passes=4, padding=padding)
    total = found.map.double().sum() + found.padding.sum()
    torch.testing.assert_close(total, expected.total_bits.sum(), rtol=1e-5, atol=0)
    again = bitrate_ext.attribute(ModelAdapter(model, padding=padding), x, passes=4)
    assert torch.equal(found.map, again.map)


def test_window_models_everywhere(x: Tensor, tmp_path: Path) -> None:
    model = Windows().eval()
    expected = BitrateMapper(model, multiple=128)(x)
    assert torch.equal(BitrateMapper(model)(x).map, expected.map)
    (frame,) = FrameMapper(model, channels_last=False)([x[0]])
    torch.testing.assert_close(frame.map, expected.map)
    field = bitrate_ext.calibrate(model, samples=2, cache=False)
    assert field.reach == ((0, 15), (0, 15))
    by_field = BitrateMapper(model, projection=field)(x)
    torch.testing.assert_close(by_field.total_bits, expected.total_bits)
    picture = bitrate_ext.map_picture(model, x, tmp_path / "a.npz", tile=128)
    assert picture.total_bits == pytest.approx(float(expected.total_bits), rel=1e-6)


def test_a_quality_map_everywhere(x: Tensor, tmp_path: Path) -> None:
    model, quality = Windows().eval(), torch.rand(1, 1, 90, 150)
    mapper = BitrateMapper(model)
    expected = mapper(x, quality=quality)
    (top, left, height, width), size = mapper.adapter.pad(x)[1], (128, 256)
    pads = (left, size[1] - width - left, top, size[0] - height - top)
    with torch.no_grad():
        bits = -model(F.pad(x, pads), F.pad(quality, pads))["likelihoods"]["y"].double().log2().sum()
    torch.testing.assert_close(expected.total_bits[0], bits, rtol=1e-9, atol=0)

    (frame,) = FrameMapper(model, channels_last=False, forward_kwargs={"quality": quality})([x[0]])
    torch.testing.assert_close(frame.map, expected.map)
    picture = bitrate_ext.map_picture(model, x, tmp_path / "a.npz", tile=128, quality=quality)
    assert picture.total_bits == pytest.approx(float(bits), rel=1e-6)
    followed = bitrate_ext.attribute(model, x, passes=4, quality=quality)
    total = float(followed.map.double().sum() + followed.padding.sum())
    assert total == pytest.approx(float(bits), rel=1e-5)
    two = torch.cat([x, x.flip(3)]), torch.cat([quality, 1 - quality])
    each = bitrate_ext.attribute(model, two[0], passes=4, quality=two[1])
    torch.testing.assert_close(each.map[:1].sum(), followed.map.sum())
    both = mapper(two[0], quality=two[1])
    torch.testing.assert_close(both.map[:1], expected.map)
    with torch.no_grad():
        assert bitrate_ext.calibrate(model, samples=2, cache=False, quality=0.5).reach == ((0, 15), (0, 15))  # type: ignore[arg-type]


def test_channels(x: Tensor) -> None:
    model = Windows().eval()
    result = BitrateMapper(model, channels=True)(x)
    each = [result.channel_map("y", k) for k in range(4)]
    torch.testing.assert_close(torch.stack(each).sum(dim=0), result.map)
    torch.testing.assert_close(result.channel_map("y", slice(None)), result.map)
    torch.testing.assert_close(result.channel_map("y", [0, -1]), each[0] + each[3])
    name, costliest = result.costliest_channel()
    assert (name, costliest) == ("y", int(result.channel_bits["y"].sum(dim=0).argmax()))
    assert torch.equal(result.channel_map(), each[costliest])
    with pytest.raises(ValueError, match="channel of latent 'y' must be from 0 to 3, got 4"):
        result.channel_map("y", 4)
    with pytest.raises(ValueError, match=r"latent must be one of those .* 'y', got 'z'"):
        result.channel_map("z", 0)
    with pytest.raises(ValueError, match=r"BitrateMapper\(model, channels=True\)"):
        BitrateMapper(model)(x).channel_map("y", 0)
