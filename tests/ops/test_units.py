"""Costs in any unit, of symbols or of cells: the map of the likelihoods that cost as much."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import FLOAT32_BAR, assert_close_to_exact, assert_same_bytes, need_native, random_case, scaled
from hard_cases import in_another_layout

from bitrate_ext import bitrate_map, latent_bits, map_strips
from bitrate_ext.ops.units import UNITS, sum_channels

BITS_IN = {"bits": 1.0, "nats": 1 / math.log(2), "log2": -1.0, "log": -1 / math.log(2)}
SIZE = (12, 16)
P = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).clamp_min(0.01)


def costs(p: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same likelihoods in each unit, by PyTorch's own logarithms."""
    return {"bits": -p.log2(), "nats": -p.log(), "log2": p.log2(), "log": p.log()}


def test_the_table_of_units():
    assert {name: factor for name, (_, factor) in UNITS.items() if name != "likelihood"} == BITS_IN
    assert set(costs(P)) == set(BITS_IN)


@pytest.mark.parametrize("unit", BITS_IN)
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_symbols_and_cells_cost_what_their_likelihoods_do(device, unit, impl):
    p = P.to(device, torch.float64)
    expected = bitrate_map(p, SIZE, impl=impl)
    values = costs(p)[unit]
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(bitrate_map(values, SIZE, unit=unit, impl=impl), expected, **close)
    found = bitrate_map({"y": values.sum(dim=1)}, SIZE, unit=unit, impl=impl, dtype=torch.float64)
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(latent_bits(values, unit=unit, impl=impl), latent_bits(p), **close)
    torch.testing.assert_close(latent_bits(values.sum(dim=1), unit=unit, dtype=torch.float64), latent_bits(p), **close)
    assert latent_bits(values[..., :0], unit=unit).shape == (2, 3, 0)


def test_any_format_layout_and_projection(device, rng):
    """Float64 sums of what the formats hold exactly, rounded once."""
    for index in range(scaled(200)):
        case = random_case(rng, elements=1500, pixels=4000, latents=1)
        unit = list(BITS_IN)[index % 4]
        values = in_another_layout(rng, (case.likelihoods[0] * 20 * math.copysign(1, BITS_IN[unit])).to(device))
        dtype = (torch.float32, torch.float64)[index // 4 % 2]
        out = case.run([values], unit=unit, dtype=dtype)
        rows, columns = case.matrices(values)
        bits = BITS_IN[unit] * values.double().cpu().numpy().sum(axis=1)
        assert_close_to_exact(out, (rows @ bits @ columns.T)[:, None], case, 0.0 if case.conserve else 1e-12)
        again = case.run([values.contiguous()], unit=unit, dtype=dtype)
        assert_same_bytes(out, again, case)


def test_the_sum_over_channels(device):
    for channels in (0, 1, 2, 3, 7, 8, 192, 320):
        values = torch.rand(2, channels, 3, 4, device=device)
        exact = [math.fsum(one) for one in values.double().cpu().permute(0, 2, 3, 1).reshape(24, channels).tolist()]
        found = sum_channels(values)
        assert (found.dtype, found.shape) == (torch.float64, (2, 3, 4))
        np.testing.assert_allclose(found.cpu().flatten().numpy(), exact, rtol=60 * 2.0**-53, atol=0)


@pytest.mark.parametrize("unit", ["likelihood", *BITS_IN])
def test_the_dtype_of_the_map(unit):
    values = {"likelihood": P, **costs(P)}[unit]
    for dtype, expected in ((torch.float16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2):
        assert bitrate_map(values.to(dtype), SIZE, unit=unit).dtype == expected
        assert latent_bits(values.to(dtype), unit=unit).dtype == expected
    if unit != "likelihood":  # sums are float64 of whatever they add up
        assert bitrate_map(values.double().sum(dim=1), SIZE, unit=unit).dtype == torch.float32


@pytest.mark.parametrize("unit", BITS_IN)
def test_special_values(device, unit):
    """What is not finite stays where it weighs, and a certain symbol costs 0, never -0."""
    values = torch.full((1, 3, 4, 6), -0.0, device=device)
    values[0, 1, 1, 2] = float("nan")
    values[0, 0, 3, 5] = math.copysign(math.inf, BITS_IN[unit])
    out = bitrate_map(values, (8, 12), projection="nearest", unit=unit)[0, 0]
    expected = torch.zeros(8, 12, device=device)
    expected[2:4, 4:6] = float("nan")
    expected[6:8, 10:12] = math.inf
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=0, atol=0)
    assert not out.signbit().any()


@pytest.mark.parametrize("unit", BITS_IN)
def test_the_gradient_is_that_of_likelihoods(device, unit):
    p = P.to(device, torch.float64).requires_grad_()
    weights = torch.rand(2, 1, *SIZE, dtype=torch.float64, device=device)
    (expected,) = torch.autograd.grad((bitrate_map(p, SIZE) * weights).sum(), p)
    (found,) = torch.autograd.grad((bitrate_map(costs(p)[unit], SIZE, unit=unit) * weights).sum(), p)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    half = costs(P)[unit].to(device, torch.float16).requires_grad_()
    (gradient,) = torch.autograd.grad(bitrate_map(half, SIZE, unit=unit).sum(), half)
    assert gradient.dtype == torch.float16
    torch.testing.assert_close(gradient, torch.full_like(half, BITS_IN[unit]), rtol=1e-3, atol=0)


@pytest.mark.medium
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_derivatives_of_any_order_and_mode(device, impl):
    values = -torch.rand(1, 3, 2, 3, dtype=torch.float64, device=device).requires_grad_()

    def run(values):
        return bitrate_map(values, (3, 5), unit="log", impl=impl).pow(2)

    slack = 1e-10 if device.type == "cuda" else 0.0
    assert torch.autograd.gradcheck(run, values, check_forward_ad=True, check_batched_grad=True, nondet_tol=slack)
    assert torch.autograd.gradgradcheck(run, values, check_fwd_over_rev=True, nondet_tol=slack)


def test_transforms_and_compilers(device):
    need_native(device)
    values = -torch.rand(3, 2, 5, 4, 5, device=device)
    plain = torch.stack([bitrate_map(one, (9, 11), unit="log2") for one in values])
    assert_same_bytes(torch.func.vmap(lambda one: bitrate_map(one, (9, 11), unit="log2"))(values), plain)
    compiled = torch.compile(lambda one: bitrate_map(one, (9, 11), unit="log2"), fullgraph=True, backend="aot_eager")
    assert_same_bytes(compiled(values[0]), plain[0])


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("mapped", [False, True])
def test_strips_are_the_rows_of_the_map(rng, tmp_path, impl, mapped):
    nats = {"y": rng.exponential(size=(2, 21, 8, 12)), "z": rng.exponential(size=(2, 8, 2, 3)).astype(np.float32)}
    if mapped:
        for name, values in nats.items():
            np.save(tmp_path / f"{name}.npy", values)
        nats = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r+") for name in nats}
    tensors = {name: torch.from_numpy(values) for name, values in nats.items()}
    whole = bitrate_map(tensors, (128, 192), unit="nats", impl=impl)
    assert whole.dtype == torch.float64
    for rows in (1, 50, 1000):
        strips = [strip for _, strip in map_strips(tensors, (128, 192), rows=rows, unit="nats", impl=impl)]
        assert_same_bytes(torch.cat(strips, dim=2), whole, rows)
    strips = map_strips(tensors["y"].clone().requires_grad_(), (8, 12), unit="nats", impl=impl)
    assert not any(strip.requires_grad for _, strip in strips)


def test_out_does_not_share_memory_with_what_is_summed():
    storage = torch.rand(2 * 5 * 3 * 4 + 2 * 12 * 16)
    values, out = storage[:120].view(2, 5, 3, 4), storage[120:].view(2, 1, *SIZE)
    with pytest.raises(ValueError, match="out must not share memory with log2-likelihoods"):
        bitrate_map(values, SIZE, out=out, unit="log2")
    result = torch.empty(2, 1, *SIZE)
    assert bitrate_map(values, SIZE, out=result, unit="bits") is result
    torch.testing.assert_close(result, bitrate_map((-values).exp2(), SIZE), rtol=4 * FLOAT32_BAR, atol=1e-7)


# What `check=True` says of values that are not of their unit.
NO_UNIT_FITS = "got values from -3 to 9, of both signs, which no unit fits"
RANGES = [
    ("likelihood", [-29.9, 0.0], r"in \[0, 1\], got values from -29.9 to 0, which unit='log2' or unit='log' would fit"),
    ("likelihood", [0.0, 20.7], r"in \[0, 1\], got values from 0 to 20.7, which unit='bits' or unit='nats' would fit"),
    ("likelihood", [-3.0, 9.0], NO_UNIT_FITS),
    ("likelihood", [0.5, 1.000001], r"from 0.5 to 1.000001, which unit='bits'"),
    ("likelihood", [-1e-30, 0.5], "from -1e-30 to 0.5, of both signs"),
    ("likelihood", [float("nan"), 0.5], "got NaN among them, which makes NaN of the map around it"),
    ("likelihood", [0.0, float("inf")], "from 0 to inf"),
    ("bits", [-4.0, 0.0], "at least 0, got values from -4 to 0, which unit='log2' or unit='log' would fit"),
    ("nats", [-3.0, 9.0], NO_UNIT_FITS),
    ("log2", [0.0, 4.0], "at most 0, got values from 0 to 4, which unit='bits' or unit='nats' would fit"),
    ("log", [float("nan"), -1.0], "got NaN"),
]


@pytest.mark.parametrize(("unit", "ends", "words"), RANGES, ids=range(len(RANGES)))
def test_check_names_the_latent_its_range_and_what_it_looks_like(device, unit, ends, words):
    values = {"likelihood": P, **costs(P)}[unit].to(device, torch.float64)
    wrong = torch.full_like(values, ends[0])
    wrong[1, 2, 0, 3] = ends[1]
    with pytest.raises(ValueError, match=rf"\['z.1'\] must .*{words}"):
        bitrate_map([{"y": values, "z": [values, wrong]}], SIZE, unit=unit, check=True)
    bitrate_map({"y": values, "z": [values, wrong]}, SIZE, unit=unit)  # not asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_check_lets_pass_what_fits(device, dtype):
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    p = torch.tensor([0.0, 0.25, 1 + 4 * eps], dtype=torch.float64).to(device, dtype).reshape(1, 3, 1, 1)
    assert bitrate_map(p, (1, 1), check=True).item() == math.inf
    for unit, values in costs(p.clamp_max(1)).items():
        bitrate_map(values, (1, 1), unit=unit, check=True)
        bitrate_map(values.sum(dim=1), (1, 1), unit=unit, check=True)
        rounded = torch.full_like(p, -5e-4 / BITS_IN[unit])  # what is left of 0 where a cell is summed up
        bitrate_map(rounded, (1, 1), unit=unit, check=True)
        with pytest.raises(ValueError, match="which unit="):
            bitrate_map(rounded * 3, (1, 1), unit=unit, check=True)
    with pytest.raises(ValueError, match="which unit='bits'"):
        bitrate_map(p + 4 * eps, (1, 1), check=True)
    assert bitrate_map(p[..., :0], (1, 1), check=True).item() == 0
