"""NaN, infinities, zeros, subnormals and values past one: as torch.log2 has them, in the pixels they weigh on only."""

import math

import numpy as np
import pytest
import torch
from cases import DTYPES, MODES, Case, assert_close_to_exact, axis_matrix, bytes_of, exact_bits, likelihoods, scaled
from hard_cases import SPECIAL

import bitrate_ext

PLACED = scaled(3000)  # one special value at every place of a vector, over projections and instruction sets


@pytest.fixture
def instruction_sets():
    yield torch.ops.bitrate_ext._choose_instruction_set(-1)
    torch.ops.bitrate_ext._choose_instruction_set(-1)


def expected_map(p: torch.Tensor, size, mode: str, conserve: bool) -> np.ndarray:
    """Return R b C', where only non-zero weights count; inf and NaN add up as IEEE has it."""
    bits = exact_bits(p)
    rows, columns = (
        axis_matrix(mode, cells, pixels, conserve) for cells, pixels in zip(p.shape[2:], size, strict=True)
    )
    out = rows @ np.where(np.isfinite(bits), bits, 0) @ columns.T
    reach = [((rows != 0) @ hit @ (columns != 0).T) > 0 for hit in (bits == np.inf, bits == -np.inf, np.isnan(bits))]
    out[reach[0]] = np.inf
    out[reach[1]] = -np.inf
    out[reach[2] | (reach[0] & reach[1])] = np.nan
    return out[:, None]


def test_every_value_at_every_place(instruction_sets, rng):
    """Contaminated pixels are those with a weight that is not zero, and no others."""
    names = list(SPECIAL)
    for index in range(PLACED):
        width, channels = int(rng.choice([1, 7, 8, 9, 16, 19, 33])), int(rng.choice([1, 2, 6, 8, 9, 17, 49]))
        dtype, mode = DTYPES[(0, 0, 0, 1, 2, 3)[index % 6]], MODES[index % 3]
        p = likelihoods(rng, (1, channels, 2, width), dtype, "uniform")
        if index % 4 == 1:
            p = p.contiguous(memory_format=torch.channels_last)
        name = names[index % len(names)]
        place = index // len(names)  # every lane in turn
        p[0, place % channels, place % 2, place % width] = SPECIAL[name]
        size = [(2, width), (4, 2 * width), (3, width + 2), (1, max(1, width // 2))][int(rng.integers(4))]
        # PyTorch's own weights may be 1e-16 for zero, so which pixels NaN reaches is defined for exact weights.
        conserve = mode != "nearest" or bool(index % 2)
        torch.ops.bitrate_ext._choose_instruction_set(index % instruction_sets)
        out = bitrate_ext.bitrate_map(p, size, projection=mode, conserve=conserve)
        what = (name, dtype, mode, size, p.shape, p.stride())
        assert_close_or_cancelled(out, expected_map(p, size, mode, conserve), p, what)
        assert not ((out == 0) & torch.signbit(out)).any(), what
        pattern = b"\x00\x00\xf8\x7f" if out.dtype == torch.float64 else b"\x00\x00\xc0\x7f"
        pattern = bytes(4) + b"\x00\x00\xf8\x7f" if out.dtype == torch.float64 else pattern
        assert all(bytes_of(x) == pattern for x in out[out.isnan()][:3].reshape(-1, 1)), what
        reference = bitrate_ext.bitrate_map(p, size, projection=mode, conserve=conserve, impl="reference")
        assert torch.equal(reference.isnan(), out.isnan()), what
        assert torch.equal(reference.isinf(), out.isinf()), what


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_value_at_every_channel(instruction_sets, rng, dtype, last):
    """Of 200, in a cell of its own each: loops over channels differ along them."""
    channels = np.arange(200)
    p = likelihoods(rng, (1, len(channels), len(SPECIAL), len(channels)), dtype, "uniform")
    for index, value in enumerate(SPECIAL.values()):
        p[0, channels, index, channels] = value
    if last:
        p = p.contiguous(memory_format=torch.channels_last)
    expected = expected_map(p, p.shape[2:], "nearest", True)
    for chosen in range(instruction_sets):
        torch.ops.bitrate_ext._choose_instruction_set(chosen)
        assert_close_or_cancelled(bitrate_ext.latent_bits(p)[:, None], expected, p, (dtype, last, chosen))


def assert_close_or_cancelled(out, exact, p, what) -> None:
    """Compare, where bits of both signs may cancel and the error is relative to what was added up."""
    with np.errstate(all="ignore"):
        added = np.abs(np.log2(p.double().numpy())).sum(axis=1)
    added = (
        added[np.isfinite(added)].max(initial=0.0)
        * max(1, p.shape[2] / out.shape[2])
        * max(1, p.shape[3] / out.shape[3])
    )
    assert_close_to_exact(out, exact, what, slack=1e-15 * added * p.shape[1])


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize(
    ("value", "bits"),
    [(1.0, 0.0), (0.5, 1.0), (2.0, -1.0), (0.0, math.inf), (-0.0, math.inf), (math.inf, -math.inf), (-1.0, math.nan),
     (-math.inf, math.nan), (math.nan, math.nan), (0.25, 2.0), (8.0, -3.0), (2.0**-14, 14.0)],
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_log2_of(device, impl, value, bits, dtype):
    p = torch.full((1, 1, 3, 9), value, dtype=dtype, device=device)
    out = bitrate_ext.latent_bits(p, impl=impl)
    torch.testing.assert_close(out, torch.full_like(out, bits), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(out, -p.to(out.dtype).log2()[:, 0] + 0.0, rtol=0, atol=0, equal_nan=True)
    assert not torch.signbit(out[out == 0]).any()


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_times_infinity_never_happens(device, dtype, impl):
    """By two a pixel reads one cell; by one and a half two of them, of which one may have no weight."""
    p = torch.tensor([0.0, 0.5, math.nan, 0.5], dtype=dtype, device=device).reshape(1, 1, 1, 4)
    for mode in ("nearest", "area"):
        out = bitrate_ext.bitrate_map(p, (1, 8), projection=mode, impl=impl)[0, 0, 0]
        expected = torch.tensor([math.inf] * 2 + [0.5] * 2 + [math.nan] * 2 + [0.5] * 2, dtype=dtype, device=device)
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
    out = bitrate_ext.bitrate_map(p, (1, 6), projection="area", impl=impl)[0, 0, 0]
    expected = torch.tensor([math.inf] * 2 + [2 / 3] + [math.nan] * 2 + [2 / 3], dtype=dtype, device=device)
    torch.testing.assert_close(out, expected, rtol=1e-7, atol=0, equal_nan=True)


def test_infinity_and_its_opposite_make_nan(device):
    p = torch.tensor([0.0, math.inf], device=device).reshape(1, 2, 1, 1)
    assert bitrate_ext.bitrate_map(p, (1, 1)).isnan().all()
    p = torch.tensor([0.0, math.inf], device=device).reshape(1, 1, 1, 2)
    out = bitrate_ext.bitrate_map(p, (1, 4))[0, 0, 0]
    assert out[0] == math.inf
    assert out[1:3].isnan().all()
    assert out[3] == -math.inf


def test_certain_symbols_cost_plus_zero(device):
    for dtype in DTYPES:
        out = bitrate_ext.bitrate_map(torch.ones(2, 9, 3, 17, dtype=dtype, device=device), (7, 40))
        assert bytes_of(out) == bytes(out.numel() * out.element_size())


def test_likelihoods_and_their_inverses_cancel(device):
    """Exactly for powers of two, whatever the order: zero, and never a minus zero."""
    powers = torch.from_numpy(np.ldexp(np.ones(41, np.float32), np.arange(-20, 21))).reshape(1, 41, 1, 1)
    out = bitrate_ext.bitrate_map(powers.to(device).expand(1, 41, 2, 12), (4, 24))
    assert bytes_of(out) == bytes(out.numel() * 4)


def test_a_large_latent_with_one_bad_cell(device, rng):
    """One NaN among thousands of cells, over blocks and threads."""
    p = likelihoods(rng, (2, 12, 40, 130), torch.float32, "uniform").to(device)
    p[1, 7, 20, 100] = math.nan
    case = Case([p.cpu()], (80, 260))
    reached = bitrate_ext.bitrate_map(p, (80, 260)).isnan().cpu().numpy()
    rows, columns = case.matrices(p)
    assert not reached[0].any()
    assert np.array_equal(reached[1, 0], np.outer(rows[:, 20] != 0, columns[:, 100] != 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gradient_too_small_to_hold_is_zero_without_a_sign(dtype):
    likelihoods = torch.full((1, 1, 2, 2), 0.5, dtype=dtype, requires_grad=True)
    out = bitrate_ext.bitrate_map(likelihoods, (2, 2), projection="nearest", dtype=torch.float64)
    for size in (1e-60, 2e-41, 1e-9):
        (gradient,) = torch.autograd.grad(out, likelihoods, torch.full_like(out, size), retain_graph=True)
        small = gradient == 0
        assert not torch.signbit(gradient[small]).any()
        assert small.all() == (-size / (0.5 * math.log(2)) * torch.ones(1, dtype=torch.float64)).to(dtype).eq(0).all()
