"""More elements than 32 bits count, in and out; and no memory that stays. Nothing else may use the GPU meanwhile."""

import gc

import numpy as np
import pytest
import torch
from cases import scaled
from machine import allocated_bytes, differing, free_bytes, synchronize

import bitrate_ext

LEAK_CALLS = scaled(2000)
SAMPLES = scaled(1_000_000)  # positions of a map or of a gradient that are compared
GB = 10**9


def test_no_leak(device):
    """2,000 calls of forward and backward: allocator and driver have as much as before."""
    shapes = [((1 + k % 3, 5 + k, 3 + k % 4, 7), (20 + k, 31)) for k in range(20)]

    def call(count):
        for index in range(count):
            shape, size = shapes[index % len(shapes)]
            leaf = torch.full(shape, 0.3, device=device, requires_grad=True)
            bitrate_ext.bitrate_map({"y": leaf}, size).sum().backward()

    def held():
        gc.collect()
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return allocated_bytes(device), free_bytes(device)

    call(3 * len(shapes))
    before = held()
    call(LEAK_CALLS)
    assert held() == before


def windows(rng, grid, window, count):
    """Return the top left cells of windows anywhere, those in the last corner among them."""
    last = [length - extent for length, extent in zip(grid, window, strict=True)]
    yield tuple(last)
    for _ in range(count - 1):
        yield tuple(int(rng.integers(0, end + 1)) for end in last)


def check(device, rng, shape, scale, need_gb):
    """Compare a call of that shape with calls of windows of it on the CPU, and against a sum of all logarithms."""
    if free_bytes(device) < need_gb * GB:
        pytest.skip(f"needs {need_gb} GB of free memory, there are {free_bytes(device) / GB:.0f}")
    n, c, h, w = shape
    generator = torch.Generator(device).manual_seed(1)
    p = torch.rand(shape, device=device, generator=generator).clamp_(min=2.0**-20)
    total = sum(-part.double().log2().sum() for image in p for part in image.split(8)).item()
    out = bitrate_ext.bitrate_map(p, scale_factor=scale)
    summed = sum(part.double().sum() for image in out for part in image.split(512, dim=1)).item()
    assert abs(summed - total) <= 6e-8 * total
    # Whole scales weigh the same everywhere but at the border, so a window with a rim of cells gives the same bytes.
    window, rim = (min(8, h), min(64, w)), 2
    pixels = n * window[0] * window[1] * scale * scale
    places = list(windows(rng, (h, w), window, 1 + SAMPLES // pixels))

    def rimmed(top, left):
        rows, columns = (max(0, at - rim) for at in (top, left))
        ends = min(h, top + window[0] + rim), min(w, left + window[1] + rim)
        return slice(rows, ends[0]), slice(columns, ends[1])

    def inside(tensor, top, left, rows, columns, times):
        y, x = (top - rows.start) * times, (left - columns.start) * times
        return tensor[..., y : y + window[0] * times, x : x + window[1] * times]

    for top, left in places:
        rows, columns = rimmed(top, left)
        small = bitrate_ext.bitrate_map(p[:, :, rows, columns].cpu(), scale_factor=scale)
        y, x = top * scale, left * scale
        there = out[..., y : y + window[0] * scale, x : x + window[1] * scale].cpu()
        assert differing(there, inside(small, top, left, rows, columns, scale)) == 0, (top, left)
    del out

    grad = torch.rand((n, 1, h * scale, w * scale), device=device, generator=generator)
    leaf = p.requires_grad_()
    (gradient,) = torch.autograd.grad(bitrate_ext.bitrate_map(leaf, scale_factor=scale), leaf, grad)
    p = p.detach()
    cells = n * c * window[0] * window[1]
    for top, left in places[: 1 + SAMPLES // cells]:
        rows, columns = rimmed(top, left)
        small = p[:, :, rows, columns].cpu().requires_grad_()
        pixels_of = [slice(s.start * scale, s.stop * scale) for s in (rows, columns)]
        part = grad[:, :, pixels_of[0], pixels_of[1]].cpu()
        (expected,) = torch.autograd.grad(bitrate_ext.bitrate_map(small, scale_factor=scale), small, part)
        there = gradient[:, :, top : top + window[0], left : left + window[1]].cpu()
        assert differing(there, inside(expected, top, left, rows, columns, 1)) == 0, (top, left)


def shrunk(device, shape):
    return shape if device.type == "cuda" else (*shape[:2], max(6, shape[2] // 100), max(6, shape[3] // 100))


def test_likelihoods_beyond_32_bits(device, rng):
    shape = (1, 192, 3400, 3400)
    assert np.prod(shape) > 1 << 31
    check(device, rng, shrunk(device, shape), 2, 24)


def test_likelihoods_beyond_32_bits_over_a_batch(device, rng):
    shape = (3, 192, 2000, 2000)
    assert np.prod(shape) > 1 << 31
    check(device, rng, shrunk(device, shape), 1, 24)


def test_maps_beyond_32_bits(device, rng):
    shape, scale = (1, 4, 2050, 4096), 16
    assert np.prod(shape[2:]) * scale**2 > 1 << 31
    check(device, rng, shrunk(device, shape), scale, 22)


def test_a_square_map_beyond_32_bits_in_strips(device):
    """46,341 x 46,341 pixels: the whole map and strips of it are the same bytes, and those of the CPU's strips."""
    side, scale = (46341, 16) if device.type == "cuda" else (463, 16)
    if free_bytes(device) < 12 * GB:
        pytest.skip(f"needs 12 GB of free memory, there are {free_bytes(device) / GB:.0f}")
    assert device.type != "cuda" or side**2 > 1 << 31
    cells = -(-side // scale)
    generator = torch.Generator().manual_seed(2)
    p = torch.rand((1, 4, cells, cells), generator=generator).clamp_(min=2.0**-20)
    crop = ((cells * scale - side) // 2, 0, side, side)
    there = p.to(device)
    whole = bitrate_ext.bitrate_map(there, scale_factor=scale, crop=crop)
    size, rows = (cells * scale, cells * scale), 1000
    strips = bitrate_ext.map_strips(there, size, rows=rows, crop=crop)
    own = bitrate_ext.map_strips(p, size, rows=rows, crop=crop)
    for (top, strip), (_, expected) in zip(strips, own, strict=True):
        assert differing(strip, whole[:, :, top : top + rows]) == 0, top
        assert differing(strip.cpu(), expected) == 0, top
