"""The kernel that makes a guide of a picture, against its definition in receptive_field/guide.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import assert_same_bytes, need_native, scaled
from torch import Tensor

import bitrate_ext
from bitrate_ext.ops import guided, library
from bitrate_ext.receptive_field import guide as guides
from bitrate_ext.receptive_field.guide import Guide

CASES = scaled(300)
DTYPES = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)


def some_guide(rng: np.random.Generator, span: float = 0.8) -> Guide:
    stride = tuple(rng.integers(1, 20, 2))
    return Guide.of_arrays(rng.uniform(-span, span, guides.FEATURES), rng.uniform(-0.3, 0.3, stride))


def some_picture(rng: np.random.Generator, index: int) -> Tensor:
    """Any size, from one pixel to more than a block of columns; channels, dtype and strides; partly out of range."""
    height, width = (int(v) for v in rng.integers(1, 30 if index % 3 else 120, 2))
    width = int(rng.integers(2000, 2200)) if index % 25 == 0 else 1 if index % 25 == 1 else width
    channels = int(rng.choice([1, 3, 3, 3, 4]))
    picture = torch.from_numpy(rng.random((int(rng.integers(1, 3)), channels, height, width)) * 1.4 - 0.2)
    picture = picture.to(DTYPES[index % len(DTYPES)])
    if index % 4 == 1:
        picture = picture.to(memory_format=torch.channels_last)
    elif index % 4 == 2:
        picture = picture.mT.contiguous().mT
    elif index % 4 == 3:
        picture = torch.nn.functional.pad(picture, (3, 2, 1, 4))[..., 1:-4, 3:-2]
    return picture


def by_definition(guide: Guide, picture: Tensor) -> Tensor:
    picture = picture.double()
    weights, phases = picture.new_tensor(guide.weights), torch.from_numpy(guide.phases).to(picture)
    return guides._guide(guides.features(picture), weights, phases)


def test_the_definition(device: torch.device, rng: np.random.Generator) -> None:
    need_native(device)
    for index in range(CASES):
        guide, picture = some_guide(rng), some_picture(rng, index).to(device)
        made = guide(picture)
        assert made.dtype == torch.float32
        what = f"{picture.dtype} {list(picture.shape)} {picture.stride()}"
        torch.testing.assert_close(made.double(), by_definition(guide, picture), rtol=1.5e-5, atol=0, msg=what)


def test_the_same_bytes_everywhere(device: torch.device, rng: np.random.Generator) -> None:
    """Of each instruction set and number of threads, in any layout, and of a part."""
    need_native(device)
    sets, threads = torch.ops.bitrate_ext._choose_instruction_set(-1), torch.get_num_threads()
    for index in range(scaled(60)):
        guide, picture = some_guide(rng), some_picture(rng, index)
        made = guide(picture)
        assert_same_bytes(guide(picture.to(device)).cpu(), made, picture.shape)
        assert_same_bytes(guide(picture.float().contiguous()), made, picture.shape)
        for which in range(sets):
            torch.ops.bitrate_ext._choose_instruction_set(which)
            assert_same_bytes(guide(picture), made, (which, picture.shape))
        torch.ops.bitrate_ext._choose_instruction_set(-1)
        torch.set_num_threads(1 + index % 3)
        tall = picture.repeat(1, 1, 8, 1)
        whole = guide(tall)
        torch.set_num_threads(threads)
        assert_same_bytes(guide(tall), whole, picture.shape)
        top, left, reach = int(rng.integers(0, 8)), int(rng.integers(0, picture.shape[3])), guides.REACH
        part = guide(tall[..., top:, left:], origin=(top, left))
        assert_same_bytes(part[..., reach:, reach:], whole[..., top + reach :, left + reach :], picture.shape)


def test_large_guides_are_stored_past_the_caches(device: torch.device, rng: np.random.Generator) -> None:
    need_native(device)
    guide, picture = some_guide(rng), torch.from_numpy(rng.random((1, 3, 700, 1601))).float().to(device)
    whole = guide(picture)
    assert_same_bytes(guide(picture[..., :400, :700])[..., :-5, :-5], whole[..., :395, :695])


def test_nan_and_infinities(device: torch.device, rng: np.random.Generator) -> None:
    """NaN where the definition has it and no further; infinity is as bright as can be."""
    need_native(device)
    for height, width, row, column in ((1, 1, 0, 0), (1, 9, 0, 3), (30, 40, 12, 17), (30, 40, 0, 39), (12, 2, 6, 1)):
        guide, picture = some_guide(rng), torch.from_numpy(rng.random((1, 3, height, width))).float()
        picture[0, 1, row, column] = float("nan")
        expected = by_definition(guide, picture).isnan()
        assert expected[0, 0, row, column]
        assert torch.equal(guide(picture.to(device)).isnan().cpu(), expected)
        for value, nearest in ((float("inf"), 1.0), (-float("inf"), 0.0), (1e30, 1.0)):
            picture[0, 1, row, column] = value
            made = guide(picture.to(device))
            picture[0, 1, row, column] = nearest
            assert_same_bytes(made, guide(picture.to(device)))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_it_is_between_the_bounds(device: torch.device, rng: np.random.Generator, sign: float) -> None:
    """With the largest weights on the plainest and the roughest picture, which is what ``bounded`` relies on."""
    need_native(device)
    guide = Guide.of_arrays(np.full(4, sign * guides.MOST_WEIGHT), np.full((1, 1), sign * guides.MOST_WEIGHT))
    board = (torch.arange(40)[:, None] // 2 + torch.arange(40) // 2) % 2
    for picture in (torch.zeros(1, 3, 20, 20), torch.full((1, 3, 20, 20), 0.5), board.expand(1, 3, 40, 40).float()):
        made = guide(picture.to(device))
        torch.testing.assert_close(made.double(), by_definition(guide, picture.to(device)), rtol=1e-4, atol=0)
        assert float(made.min()) > guided.LEAST
        assert float(made.max()) < guided.MOST


def test_its_values_are_not_looked_at_until_they_change(monkeypatch: pytest.MonkeyPatch, rng: Any) -> None:
    need_native(torch.device("cpu"))
    looked: list[int] = []
    real = guided.value_range
    monkeypatch.setattr(guided, "value_range", lambda values: (looked.append(1), real(values))[1])
    made, cells = some_guide(rng)(torch.rand(1, 3, 32, 32)), torch.ones(1, 2, 2, dtype=torch.float64)

    def run() -> Tensor:
        found: Tensor = bitrate_ext.bitrate_map(cells, (32, 32), guide=made, unit="bits")
        return found

    run()
    assert not looked
    made[0, 0, 3, 3] = -1.0
    with pytest.raises(ValueError, match="guide must be positive, got values from -1 to"):
        run()
    with torch.inference_mode():
        made = some_guide(rng)(torch.rand(1, 3, 32, 32))
        run()
    assert len(looked) == 2


def test_the_definition_serves_where_the_kernel_does_not(monkeypatch: pytest.MonkeyPatch, rng: Any) -> None:
    """With gradients, in transforms, and without a library: float32 all the same."""
    guide, picture = some_guide(rng), torch.rand(2, 3, 20, 30)
    leaf = picture.clone().requires_grad_()
    recorded = guide(leaf)
    recorded.sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(recorded, guide(picture), rtol=2e-5, atol=0)
    mapped = torch.func.vmap(lambda one: guide(one[None]))(picture)
    torch.testing.assert_close(mapped[:, 0], guide(picture), rtol=2e-5, atol=0)
    monkeypatch.setattr(library, "absent_because", "for a test")
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert guide(picture.to(dtype)).dtype == torch.float32


def test_empty_pictures(device: torch.device, rng: np.random.Generator) -> None:
    for shape in ((0, 3, 4, 5), (1, 3, 0, 5), (1, 3, 4, 0)):
        if 0 not in shape[2:] or device.type == "cpu":
            made = torch.empty(shape[0], 1, *shape[2:], device=device)
            torch.ops.bitrate_ext._guide(
                torch.empty(shape, device=device), [0.0] * 4, torch.zeros(1, 1, device=device), made
            )


def test_last_guards_of_the_kernel() -> None:
    picture, phases, out = torch.rand(1, 3, 4, 5), torch.zeros(2, 2), torch.empty(1, 1, 4, 5)
    for arguments, words in (
        ((picture[0], [0.0] * 4, phases, out), "picture must be \\[N, C, H, W\\]"),
        ((picture[:, :0], [0.0] * 4, phases, out), "of at least one channel"),
        ((picture.int(), [0.0] * 4, phases, out), "picture must be float64, float32"),
        ((picture, [0.0] * 3, phases, out), "weights must be 4, got 3"),
        ((picture, [0.0, 0.0, 3.0, 0.0], phases, out), "weights must be at most 2.5, got 3"),
        ((picture, [0.0] * 4, phases.double(), out), "phases must be contiguous float32"),
        ((picture, [0.0] * 4, phases[:0], out), "phases must be contiguous float32"),
        ((picture, [0.0] * 4, phases, out.double()), "out must be float32 of the picture's size"),
        ((picture, [0.0] * 4, phases, out[..., :4].contiguous()), "out must be float32 of the picture's size"),
    ):
        with pytest.raises(RuntimeError, match=words):
            torch.ops.bitrate_ext._guide(*arguments)
