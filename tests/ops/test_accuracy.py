"""The map against exact answers, and against what PyTorch's own chain achieves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, MODES, Case, assert_close_to_exact, likelihoods, random_case, scaled

import bitrate_ext

RANDOM = scaled(8000)  # cases of any shape
CHAIN = scaled(1500)  # cases for which F.interpolate's recipe exists
TALL = scaled(300)  # cases of up to 640 channels on larger grids
LATENT = scaled(200)  # latent_bits


def assert_no_worse(ours: torch.Tensor, chain: torch.Tensor, exact: np.ndarray, what) -> None:
    """Check that a map is no further from the exact map than the chain, unless every pixel is correctly rounded."""
    ours, chain = ours.double().numpy(), chain.double().numpy()
    error = np.abs(ours - exact)
    half_a_place = 0.51 * np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    if error.size and (error > half_a_place).any():
        assert error.max() <= np.abs(chain - exact).max(), what


def test_any_shape_projection_and_dtype(device, rng):
    compared = 0
    for _ in range(RANDOM):
        case = random_case(rng)
        exact = case.exact()
        out = case.run([p.to(device) for p in case.likelihoods]).cpu()
        assert_close_to_exact(out, exact, case, case.slack(out.dtype))
        if out.dtype == torch.float32:
            assert_no_worse(out, case.run(impl="reference"), exact, case)
            compared += 1
    assert compared > RANDOM / 3


@pytest.mark.parametrize("mode", MODES)
def test_as_accurate_as_the_chain_and_equal_to_it(device, rng, mode):
    """`-log2`, sum, divide, interpolate: in the same dtype never closer, and in float64 the same values."""
    for index in range(CHAIN // 3):
        case = random_case(rng, latents=1, empty=False, conserve=False, dtypes=(torch.float32, torch.float64))
        case.mode, case.crop, case.dtype = mode, None, None
        case.__post_init__()
        (p,) = case.likelihoods
        if index % 3 == 0:  # whole factors: the recipe as it stands, conserving or not
            factor = int(rng.integers(1, 9))
            case = Case([p], (p.shape[2] * factor, p.shape[3] * factor), (factor, factor), mode, bool(index % 2))
        exact = case.exact()
        out = case.run([p.to(device)]).cpu()
        assert_close_to_exact(out, exact, case, case.slack(out.dtype))
        area = np.prod(case.scale or [H / h for H, h in zip(case.canvas, p.shape[2:], strict=True)])
        place = {"scale_factor": case.scale} if case.scale else {"size": case.canvas}
        bits = -p.log2().sum(1, keepdim=True)
        chain = F.interpolate(bits / area, mode=mode, **place)
        assert out.shape == chain.shape
        if p.dtype == torch.float64 and mode != "nearest":  # whose indices PyTorch counts otherwise in float64
            torch.testing.assert_close(out, chain, rtol=1e-11, atol=1e-13)
        elif p.dtype == torch.float32:
            assert_no_worse(out, chain, exact, case)
            torch.testing.assert_close(out, chain, rtol=1e-3, atol=1e-4)


def test_many_channels(device, rng):
    """The counts of channels around the kernel's groups of 6 and lanes of 8, and up to 640."""
    counts = [1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 47, 48, 49, 95, 96, 97, 191, 192, 193, 320, 639, 640]
    for index in range(TALL):
        channels = counts[index % len(counts)]
        shape = (1 + index % 2, channels, int(rng.integers(1, 6)), int(rng.integers(1, 20)))
        dtype = DTYPES[index % 4]
        kind = ("uniform", "decades", "near one", "floor", "mixed", "tiny", "one")[int(rng.integers(7))]
        case = Case([likelihoods(rng, shape, dtype, kind)], (shape[2] * 3, shape[3] * 2), mode=MODES[index % 3])
        exact = case.exact()
        out = case.run([case.likelihoods[0].to(device)]).cpu()
        assert_close_to_exact(out, exact, (case, kind), case.slack(out.dtype))
        if out.dtype == torch.float32:
            assert_no_worse(out, case.run(impl="reference"), exact, case)


def test_next_to_one(device):
    """Every likelihood one step below 1, where a float32 product of 640 would keep no digit."""
    for channels in (1, 6, 7, 192, 640):
        p = torch.full((1, channels, 3, 9), float(np.nextafter(np.float32(1), np.float32(0))))
        exact = np.full((1, 1, 3, 9), -channels * np.log1p(-(2.0**-24)) / np.log(2))
        assert_close_to_exact(bitrate_ext.bitrate_map(p.to(device), (3, 9)), exact, channels)


def test_subnormals_to_the_largest_latent(device):
    """640 channels of the smallest positive number: 149 bits each, exactly."""
    p = torch.full((1, 640, 2, 11), 2.0**-149, device=device)
    assert (bitrate_ext.latent_bits(p) == 149 * 640).all()
    p = torch.full((1, 640, 2, 11), 5e-324, dtype=torch.float64, device=device)
    assert (bitrate_ext.latent_bits(p) == 1074 * 640).all()


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_latent_bits(device, rng, impl):
    for index in range(LATENT):
        shape = tuple(int(rng.integers(1, high)) for high in (4, 60, 12, 12))
        p = likelihoods(rng, shape, DTYPES[index % 4])
        exact = -np.log2(p.double().numpy()).sum(axis=1)
        bits = bitrate_ext.latent_bits(p.to(device), impl=impl, dtype=torch.float64).cpu()
        assert bits.shape == (shape[0], *shape[2:])
        assert bits.dtype == torch.float64
        np.testing.assert_allclose(bits.numpy(), exact, rtol=1e-12, atol=1e-15 * shape[1])
        expected = torch.float64 if p.dtype == torch.float64 else torch.float32
        assert bitrate_ext.latent_bits(p.to(device), impl=impl).dtype == expected


def test_reference_in_float64_is_exact(device, rng):
    for _ in range(scaled(300)):
        case = random_case(rng)
        out = case.run([p.to(device) for p in case.likelihoods], impl="reference", dtype=torch.float64)
        assert_close_to_exact(out, case.exact(), case, case.slack(out.dtype))
