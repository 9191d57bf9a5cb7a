"""The bytes of the CPU path: maps of both formats, cell sums and gradients, in any layout and at any address."""

import itertools
import math

import pytest
import torch
from cases import DTYPES, MODES, Case, assert_same_bytes, bytes_of, likelihoods, random_case, scaled
from golden import on_device
from hard_cases import SPECIAL, in_another_layout, in_gaps, large_case, map_and_gradients, spoiled
from machine import flat_bands

import bitrate_ext

RANDOM = scaled(5000)
LARGE = scaled(60)
PLACED = scaled(1000)
OFFSETS = range(32)  # elements


def test_random_cases(device, rng):
    for index in range(RANDOM):
        case = random_case(rng)
        case.likelihoods = [in_another_layout(rng, spoiled(rng, p)) for p in case.likelihoods]
        there = [on_device(p, device) for p in case.likelihoods]
        assert map_and_gradients(case, index, there) == map_and_gradients(case, index), case
        if index % 3 == 0:
            for dtype in (torch.float32, torch.float64):
                cells = [bitrate_ext.latent_bits(p, dtype=dtype) for p in (there[0], case.likelihoods[0])]
                assert_same_bytes(cells[0].cpu(), cells[1], case)
        if index % 3 == 1 and all(p.shape[1] for p in there):  # as bits, of any stride and format
            bits = [[p[:, -1] for p in tensors] for tensors in (there, case.likelihoods)]
            found, expected = (map_and_gradients(case, index, tensors, unit="bits") for tensors in bits)
            assert found == expected, case


def test_large_cases(device, rng):
    """Many blocks, each of several tiles' cells."""
    for index in range(LARGE):
        case = large_case(rng, index)
        case.likelihoods = [in_another_layout(rng, p) for p in case.likelihoods]
        there = [on_device(p, device) for p in case.likelihoods]
        assert map_and_gradients(case, index, there) == map_and_gradients(case, index), case


def test_special_values_at_every_place(device, rng):
    """The CPU's bytes are checked against the table of special values by test_special_values.py."""
    names = list(SPECIAL)
    for index in range(PLACED):
        width, channels = int(rng.choice([1, 4, 7, 8, 12, 33])), int(rng.choice([1, 4, 6, 8, 9, 16, 49]))
        dtype, mode = DTYPES[(0, 0, 0, 1, 2, 3)[index % 6]], MODES[index % 3]
        p = likelihoods(rng, (1, channels, 2, width), dtype, "uniform")
        place = index // len(names)  # every lane in turn
        p[0, place % channels, place % 2, place % width] = SPECIAL[names[index % len(names)]]
        if index % 4 == 1:
            p = p.contiguous(memory_format=torch.channels_last)
        size = [(2, width), (4, 2 * width), (3, width + 2), (1, max(1, width // 2))][int(rng.integers(4))]
        case = Case([p], size, mode=mode, conserve=index % 5 != 0)
        there = [on_device(p, device)]
        assert map_and_gradients(case, index, there) == map_and_gradients(case, index), (index, case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaps_are_neither_read_nor_written(device, rng, dtype):
    """NaN lies between the likelihoods and between the elements of the gradient."""
    layouts = ("contiguous", "channels_last", "transposed", "sliced", "stride 2", "permuted")
    for layout, width in itertools.product(layouts, (8, 9)):
        p = likelihoods(rng, (2, 12, 4, width), dtype, "uniform")
        size = (8, 2 * width)
        grad = torch.from_numpy(rng.random((2, 1, *size))).float()
        view, storage = in_gaps(p, layout)
        there = on_device(view, device)
        out = bitrate_ext.bitrate_map(there, size)
        assert torch.isfinite(out).all(), (layout, width)
        assert_same_bytes(out.cpu(), bitrate_ext.bitrate_map(p, size), (layout, width))

        target, storage = in_gaps(torch.zeros_like(p), layout)
        gaps = storage.isnan()
        target = on_device(target, device)
        bands = flat_bands(there, size, transposed=True)
        torch.ops.bitrate_ext._project_backward(grad.to(device), there, bands, target)
        leaf = p.clone().requires_grad_()
        (expected,) = torch.autograd.grad(bitrate_ext.bitrate_map(leaf, size), leaf, grad)
        assert_same_bytes(target.cpu(), expected, (layout, width))
        around = torch.empty(0, dtype=dtype, device=device).set_(target.untyped_storage())
        assert torch.equal(around.isnan().cpu(), gaps), (layout, width)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_pointer_offsets(device, rng, dtype, channels_last):
    """Likelihoods, map, map's gradient and gradient each begin 0 to 31 elements into an allocation; canaries around."""
    p = likelihoods(rng, (2, 16, 5, 12), dtype, "uniform")
    if channels_last:
        p = p.contiguous(memory_format=torch.channels_last)
    size = (10, 24)
    leaf = p.clone().requires_grad_()
    expected = bitrate_ext.bitrate_map(leaf, size)
    grad = torch.from_numpy(rng.random(expected.shape)).to(expected.dtype)
    (gradient,) = torch.autograd.grad(expected, leaf, grad)

    def placed(values, offset, fill):
        room = torch.full((values.numel() + 64,), fill, dtype=values.dtype, device=device)
        view = room.as_strided(values.shape, values.stride(), offset)
        return room, view

    for offset in OFFSETS:
        _, moved = placed(p, offset, math.nan)
        moved.copy_(p)
        room, out = placed(expected.detach(), (offset * 7) % 32, 7.0)
        assert bitrate_ext.bitrate_map(moved, size, out=out) is out
        assert_same_bytes(out.cpu(), expected.detach(), offset)
        out.fill_(7.0)
        assert (room == 7.0).all(), offset
        _, moved_grad = placed(grad, (offset * 3) % 32, math.nan)
        moved_grad.copy_(grad)
        room, target = placed(gradient, (offset * 5) % 32, 7.0)
        bands = flat_bands(moved, size, transposed=True)
        torch.ops.bitrate_ext._project_backward(moved_grad, moved, bands, target)
        assert bytes_of(target) == bytes_of(gradient), offset
        target.fill_(7.0)
        assert (room == 7.0).all(), offset
