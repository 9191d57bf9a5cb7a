"""Padding: which values, on which side; windows of the canvas are those of the padded whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitrate_ext import BitrateMapper
from bitrate_ext.choices import PADDING_SIDES, PADDINGS
from bitrate_ext.models.padding import Padding

SIZES = [((5, 7), (8, 8)), ((5, 7), (16, 32)), ((1, 1), (8, 8)), ((2, 9), (16, 16)), ((8, 8), (8, 8))]


@pytest.mark.parametrize("mode", PADDINGS)
@pytest.mark.parametrize("side", PADDING_SIDES)
@pytest.mark.parametrize(("size", "canvas"), SIZES)
def test_against_numpy(mode: str, side: str, size: tuple[int, int], canvas: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    padding = Padding(mode, side)
    top, left, *rest = crop = padding.crop(size, canvas)
    assert tuple(rest) == size
    assert (top, left) == ((0, 0) if side == "end" else ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    after = (canvas[0] - size[0] - top, canvas[1] - size[1] - left)
    names = {"zeros": "constant", "replicate": "edge", "reflect": "reflect"}
    edges = ((0, 0), (0, 0), (top, after[0]), (left, after[1]))
    expected = torch.from_numpy(np.pad(x.numpy(), edges, mode=names[mode]))  # type: ignore[call-overload]
    assert torch.equal(padding.pad(x, canvas, crop), expected)
    for begin in ((0, 0), (canvas[0] // 2, 0), (canvas[0] - 3, canvas[1] - 4)):
        window = padding.read(lambda y, x0, h, w: x[..., y : y + h, x0 : x0 + w], begin, (3, 4), crop)
        assert torch.equal(window, expected[..., begin[0] : begin[0] + 3, begin[1] : begin[1] + 4])


@pytest.mark.parametrize("mode", PADDINGS)
def test_gradients_reach_the_image(mode: str) -> None:
    x = torch.rand(1, 1, 5, 7, dtype=torch.float64, requires_grad=True)
    padding = Padding(mode)
    torch.autograd.gradcheck(lambda t: padding.pad(t, (8, 16), padding.crop((5, 7), (8, 16))), x)


def test_unknown_choices() -> None:
    with pytest.raises(ValueError, match="padding must be one of 'zeros', 'replicate', 'reflect', got 'circular'"):
        Padding("circular")
    with pytest.raises(ValueError, match="padding_side must be one of 'centre', 'end', got 'left'"):
        BitrateMapper(lambda x: {}, padding_side="left")


class WithMap:
    """A model with a quality map as large as the image, which it reads pixel by pixel."""

    def __init__(self) -> None:
        self.given: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, quality: Tensor, level: Tensor) -> dict[str, Any]:
        self.given.append((x, quality))
        assert quality.shape[-2:] == x.shape[-2:]
        assert level.shape == (4, 4)
        if quality.dim() == 4:
            assert len(quality) == len(x)
        return {"x_hat": x, "likelihoods": F.avg_pool2d(0.5 + 0.25 * (x[:, :1] + quality), 16)}


@pytest.mark.parametrize("mode", PADDINGS)
@pytest.mark.parametrize("shape", [(2, 1, 30, 41), (30, 41), (1, 30, 41)])
def test_arguments_as_large_as_the_image_go_with_it(mode: str, shape: tuple[int, ...]) -> None:
    x, quality, level = torch.rand(2, 3, 30, 41), torch.rand(shape), torch.zeros(4, 4)
    model = WithMap()
    mapper = BitrateMapper(model, padding=mode)
    result = mapper(x, quality=quality, level=level)
    padded, crop, _ = mapper.adapter.pad(x)
    given = model.given[-1]
    assert torch.equal(given[0], padded)
    assert torch.equal(given[1], mapper.adapter.padding.pad(quality, (32, 48), crop))
    assert not torch.equal(mapper(x, quality=1 - quality, level=level).map, result.map)


def test_the_rim_is_told_and_bits_are_conserved() -> None:
    def model(x: Tensor) -> dict[str, Any]:
        return {"likelihoods": {"y": F.avg_pool2d(x, 8).clamp(0.1, 1), "z": F.avg_pool2d(x, 32).clamp(0.1, 1)}}

    x = torch.rand(1, 3, 50, 64)
    for mode in PADDINGS:
        for side in PADDING_SIDES:
            result = BitrateMapper(model, padding=mode, padding_side=side)(x)
            total = result.map.double().sum() + result.padding_bits
            torch.testing.assert_close(total[0], result.total_bits[0], rtol=1e-6, atol=0)
            assert result.rim == ((8, 8, 0, 0) if side == "centre" else (0, 8, 0, 0))  # 14 rows of padding
    assert BitrateMapper(model)(torch.rand(1, 3, 64, 64)).rim == (0, 0, 0, 0)


def test_arguments_of_each_image() -> None:
    """A level for each image of the batch is no argument of one black image."""

    def model(x: Tensor, level: Tensor) -> dict[str, Any]:
        return {"likelihoods": torch.exp(-level.reshape(-1, 1, 1, 1) * F.avg_pool2d(x, 16))}

    x = torch.rand(3, 3, 30, 41)
    mapper = BitrateMapper(model)
    result = mapper(x, level=torch.tensor([1.0, 2.0, 3.0]))
    for k in range(3):
        torch.testing.assert_close(mapper(x[k : k + 1], level=torch.tensor([k + 1.0])).map, result.map[k : k + 1])
