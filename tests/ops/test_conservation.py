"""No bit is lost or made: map and padding add up to the total; constants stay constant."""

import math

import numpy as np
import pytest
import torch
from cases import DTYPES, MODES, axis_matrix, exact_bits, likelihoods, random_case, scaled

import bitrate_ext

CONSERVED = scaled(5000)
CONSTANT = scaled(1000)
FIXED_POINT = scaled(200)


def bar(out: torch.Tensor) -> float:
    return 6.0e-8 if out.dtype == torch.float32 else 1e-12


def test_map_and_padding_add_up_to_all_bits(device, rng):
    """At any size, crop and projection, in float32 and float64."""
    cropped = 0
    for _ in range(CONSERVED):
        case = random_case(rng, elements=1500, pixels=5000, conserve=True)
        total = padding = slack = 0.0
        for p in case.likelihoods:
            bits = exact_bits(p)
            rows, columns = case.matrices(p)
            total += bits.sum()
            padding += bits.sum() - np.einsum("nij,i,j->", bits, rows.sum(axis=0), columns.sum(axis=0))
            slack += bits.size * p.shape[1] * 2.0**-53 / math.log(2)  # products next to one
        out = case.run([p.to(device) for p in case.likelihoods])
        summed = out.double().sum().item()
        assert abs(summed + padding - total) <= bar(out) * total + slack, case
        cropped += case.crop is not None
    assert cropped > CONSERVED / 5


@pytest.mark.parametrize("mode", MODES)
def test_whole_maps_at_awkward_sizes(device, mode):
    """8 -> 125, 32 -> 500 and so on, where interpolation alone is off by up to 7e-4; and shrinking."""
    p = torch.rand(1, 3, 32, 8, dtype=torch.float64).clamp_min(1e-6)
    for size in ((500, 125), (33, 9), (31, 7), (1, 1), (2, 3), (97, 5), (64, 800)):
        total = bitrate_ext.latent_bits(p).sum().item()
        for impl in ("auto", "reference"):
            out = bitrate_ext.bitrate_map(p.to(device), size, projection=mode, impl=impl)
            assert abs(out.sum().item() - total) <= 1e-12 * total, size
    off = bitrate_ext.bitrate_map(p.to(device), (500, 125), projection=mode, conserve=False).sum().item()
    assert abs(off - total) > 1e-5 * total, "conserve=False is F.interpolate, which does not keep them"


def test_each_cell_keeps_its_bits(device):
    """One costly cell at a time: its pixels add up to it, wherever it lies."""
    for mode in MODES:
        for size in ((7, 11), (2, 1), (3, 4), (9, 12)):
            for cell in range(12):
                p = torch.ones(1, 1, 3, 4)
                p[0, 0, cell // 4, cell % 4] = 2.0**-10
                out = bitrate_ext.bitrate_map(p.to(device), size, projection=mode, dtype=torch.float64)
                assert abs(out.sum().item() - 10) < 1e-12, (mode, size, cell)
                assert (out >= 0).all()


def test_constant_in_constant_out(device, rng):
    """Whole factors: every projection. Any size: area. To one unit in the last place."""
    for index in range(CONSTANT):
        mode, dtype = MODES[index % 3], DTYPES[index // 3 % 4]
        h, w = (int(v) for v in rng.integers(1, 40, 2))
        if mode == "area" and index % 2:
            size = tuple(int(v) for v in rng.integers(1, 200, 2))
        else:
            size = (h * int(rng.integers(1, 8)), w * int(rng.integers(1, 8)))
        value = likelihoods(rng, (1, int(rng.integers(1, 20)), 1, 1), dtype, "uniform")
        out = (
            bitrate_ext.bitrate_map(value.expand(-1, -1, h, w).to(device), size, projection=mode).cpu().double().numpy()
        )
        exact = exact_bits(value).item() * (h / size[0]) * (w / size[1])
        place = np.spacing(np.float32(exact)) if dtype != torch.float64 else 4e-15 * exact
        assert np.abs(out - exact).max() <= place, (mode, dtype, (h, w), size)


def test_float64_totals_equal_fixed_point_totals(device, rng):
    """Cells that are whole multiples of 2^-24 bits: their sum as Python's integers have it."""
    for _ in range(FIXED_POINT):
        shape = tuple(int(v) for v in rng.integers(1, 12, 4))
        exponents = rng.integers(0, 30, shape)
        p = torch.from_numpy(2.0**-exponents).float().to(device)
        whole = sum(int(e) for e in exponents.ravel())
        bits = bitrate_ext.latent_bits(p, dtype=torch.float64)
        fixed = (bits * 2**24).round().to(torch.int64)
        assert int(fixed.sum().item()) == whole * 2**24
        assert bits.sum().item() == whole


def test_columns_of_the_oracle_add_up_to_one():
    """The oracle itself: columns are one, entries are not negative."""
    for mode in MODES:
        for cells, pixels in ((1, 1), (5, 7), (7, 5), (8, 125), (70, 3), (3, 600)):
            matrix = axis_matrix(mode, cells, pixels)
            assert matrix.shape == (pixels, cells)
            np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-14)
            assert (matrix >= 0).all()
