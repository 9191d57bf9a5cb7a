"""Maps of the bits of cells, ``unit="bits"``: what likelihoods give that cost as much, byte for byte."""

import numpy as np
import pytest
import torch
from cases import (
    DTYPES,
    FLOAT32_BAR,
    assert_close_to_exact,
    assert_same_bytes,
    need_native,
    random_case,
    random_field,
    scaled,
)
from hard_cases import in_another_layout, large_case, spoiled

import bitrate_ext
from bitrate_ext import bitrate_map, latent_bits, map_strips
from bitrate_ext.ops.projection import get_projection
from bitrate_ext.ops.strips import RowProjector


@pytest.fixture
def instruction_sets():
    """Return how many this processor has; the best is chosen again at the end."""
    yield torch.ops.bitrate_ext._choose_instruction_set(-1)
    torch.ops.bitrate_ext._choose_instruction_set(-1)


def in_a_layout(rng, bits: torch.Tensor) -> torch.Tensor:
    """Return bits as one channel of a larger tensor, at any stride."""
    return in_another_layout(rng, torch.stack([bits, torch.full_like(bits, float("nan"))], dim=1))[:, 0]


def test_the_bytes_of_likelihoods(device, rng, instruction_sets):
    need_native(device)
    for index in range(scaled(600)):
        case = large_case(rng, index) if index % 30 == 0 else random_case(rng, elements=1500, pixels=4000)
        dtype = case.dtype or torch.float32
        tensors = [spoiled(rng, p).to(device) for p in case.likelihoods]
        bits = [in_a_layout(rng, latent_bits(p, dtype=torch.float64)) for p in tensors]
        torch.ops.bitrate_ext._choose_instruction_set(index % instruction_sets)
        expected = case.run(tensors, dtype=dtype)
        assert_same_bytes(case.run(bits, unit="bits"), expected, case)
        out = torch.full_like(expected, float("nan"))
        assert case.run(bits, unit="bits", out=out) is out
        assert_same_bytes(out, expected, case)


def test_any_format_of_bits(device, rng):
    """Each is exact in float64, and so is what they add up to before the one rounding."""
    for index in range(scaled(200)):
        case = random_case(rng, elements=1500, pixels=4000, latents=1)
        dtype = (torch.float32, torch.float64)[index % 2]
        bits = in_a_layout(rng, (case.likelihoods[0][:, 0] * 40).to(DTYPES[index % 4]).to(device))
        rows, columns = case.matrices(bits)
        out = case.run([bits], unit="bits", dtype=dtype)
        assert out.dtype == dtype
        slack = 0.0 if case.conserve else 1e-12  # PyTorch's own weights
        assert_close_to_exact(out, (rows @ bits.double().cpu().numpy() @ columns.T)[:, None], case, slack)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.5])
def test_what_is_no_cost_stays_where_it_weighs(device, impl, value):
    bits = torch.ones(1, 4, 6, dtype=torch.float64, device=device)
    bits[0, 1, 2] = value
    out = bitrate_map(bits, (8, 12), projection="nearest", unit="bits", impl=impl)[0, 0]
    expected = torch.full((8, 12), 0.25, device=device)
    expected[2:4, 4:6] = value / 4
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=0, atol=0)
    zero = torch.full_like(bits, -0.0)
    assert not bitrate_map(zero, (8, 12), unit="bits", impl=impl).signbit().any()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_no_cells(device, shape):
    bits = torch.ones(shape, dtype=torch.float64, device=device, requires_grad=True)
    out = bitrate_map(bits, (5, 7), unit="bits")
    assert_same_bytes(out.detach(), torch.zeros(shape[0], 1, 5, 7, device=device))
    (gradient,) = torch.autograd.grad(out.sum(), bits)
    assert gradient.shape == shape


def test_the_gradient_is_the_transposed_projection(device, rng):
    for index in range(scaled(300)):
        case = random_case(rng, elements=1500, pixels=4000)
        leaves = [
            in_a_layout(rng, p[:, 0].to(DTYPES[(index + k) % 4]).to(device)).requires_grad_()
            for k, p in enumerate(case.likelihoods)
            if p.shape[1]
        ]
        if len(leaves) < len(case.likelihoods):
            continue
        out = case.run(leaves, unit="bits", dtype=torch.float64 if index % 2 else torch.float32)
        grad = torch.from_numpy(rng.uniform(0.1, 1, out.shape)).to(out)
        for leaf, gradient in zip(leaves, torch.autograd.grad(out, leaves, grad), strict=True):
            rows, columns = case.matrices(leaf)
            exact = rows.T @ grad[:, 0].double().cpu().numpy() @ columns
            assert (gradient.dtype, gradient.shape) == (leaf.dtype, leaf.shape)
            bar = {torch.float64: 1e-12, torch.float32: FLOAT32_BAR}.get(leaf.dtype, torch.finfo(leaf.dtype).eps * 0.51)
            error = np.abs(gradient.double().cpu().numpy() - exact)
            assert (error <= bar * exact + (2.0**-25 if leaf.dtype == torch.float16 else 1e-15)).all(), case


@pytest.mark.medium
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_derivatives_of_any_order_and_mode(device, impl):
    torch.manual_seed(3)
    y, z = (torch.rand(2, *grid, dtype=torch.float64, device=device, requires_grad=True) for grid in ((3, 4), (2, 2)))

    def run(y, z):
        return bitrate_map({"y": y, "z": z}, (5, 9), unit="bits", dtype=torch.float64, impl=impl)

    slack = 1e-10 if device.type == "cuda" else 0.0
    assert torch.autograd.gradcheck(run, (y, z), check_forward_ad=True, check_batched_grad=True, nondet_tol=slack)
    assert torch.autograd.gradgradcheck(run, (y, z), check_fwd_over_rev=True, nondet_tol=slack)
    hessian = torch.func.hessian(lambda y: run(y, z.detach()).pow(2).sum())(y.detach())
    assert torch.isfinite(hessian).all()
    assert hessian.abs().sum() > 0


def test_transforms_and_compilers(device):
    need_native(device)
    bits = torch.rand(3, 2, 4, 5, dtype=torch.float64, device=device)
    plain = torch.stack([bitrate_map(one, (9, 11), unit="bits") for one in bits])
    assert_same_bytes(torch.func.vmap(lambda one: bitrate_map(one, (9, 11), unit="bits"))(bits), plain)
    compiled = torch.compile(lambda one: bitrate_map(one, (9, 11), unit="bits"), fullgraph=True, backend="aot_eager")
    assert_same_bytes(compiled(bits[0]), plain[0])
    leaf = bits[0].clone().requires_grad_()
    placement = ([9, 11], [0, 0, 9, 11], ["area"], True, [0.0, 0.0])
    torch.library.opcheck(torch.ops.bitrate_ext.bitrate_map.default, ([leaf], *placement, torch.float32))
    torch.library.opcheck(torch.ops.bitrate_ext.bitrate_map_backward.default,
                          (plain[0], leaf.detach(), *placement[:2], "area", *placement[3:]))  # fmt: skip


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_strips_and_rows_beside_likelihoods(rng, impl):
    y = torch.from_numpy(rng.uniform(0.01, 1, (2, 12, 8, 12)).astype(np.float32))
    z = torch.from_numpy(rng.uniform(0.01, 1, (2, 5, 2, 3)).astype(np.float32))
    bits = {"y": latent_bits(y, dtype=torch.float64), "z": latent_bits(z, dtype=torch.float64)}
    kwargs = {"crop": (13, 7, 101, 155), "projection": {"y": random_field(rng, 16, (-30, 30)), "z": "bilinear"}}
    whole = bitrate_map(bits, (128, 192), unit="bits", impl=impl, **kwargs)
    for rows in (1, 7, 64, 1000):
        strips = [strip for _, strip in map_strips(bits, (128, 192), rows=rows, unit="bits", impl=impl, **kwargs)]
        assert_same_bytes(torch.cat(strips, dim=2), whole, rows)
    projections = {"y": kwargs["projection"]["y"], "z": get_projection("bilinear")}
    projector = RowProjector({"y": (8, 12), "z": (2, 3)}, (128, 192), kwargs["crop"], projections)
    out = torch.empty(2, 1, 20, 155)
    projector.map({"y": (0, y), "z": (0, bits["z"])}, 30, out, native=impl == "auto")
    if impl == "auto":
        assert_same_bytes(out, whole[:, :, 30:50])
    torch.testing.assert_close(out, whole[:, :, 30:50], rtol=1e-5, atol=0)


BITS = torch.rand(2, 4, 5)
WRONG = [
    (lambda: bitrate_map(BITS, (8, 8), unit="bit"), ValueError,
     "unit must be one of 'likelihood', 'bits', 'nats', 'log2', 'log', got 'bit'"),
    (lambda: bitrate_map(BITS, (8, 8)), ValueError, r"likelihoods must be \[N, C, h, w\], got shape \[2, 4, 5\]"),
    *[(lambda v=v: bitrate_map(v, (8, 8), unit="bits"), ValueError,
       r"bits must be \[N, C, h, w\] or \[N, h, w\], got shape") for v in (BITS[0], BITS[None, None])],
    (lambda: bitrate_map({"y": BITS.long()}, (8, 8), unit="bits"), TypeError, r"bits\['y'\] must be float32"),
    (lambda: bitrate_map({}, (8, 8), unit="bits"), ValueError, "bits must hold at least one tensor"),
    (lambda: bitrate_map(BITS, (2, 10), unit="bits", out=BITS.view(2, 1, 2, 10)), ValueError, "share memory with bits"),
    (lambda: map_strips(BITS[0], (8, 8), unit="bits"), ValueError, r"bits must be \[N, C, h, w\] or"),
    (lambda: map_strips(BITS, (8, 8), unit=None), ValueError, "unit must be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), WRONG, ids=range(len(WRONG)))
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_lists_and_nested_dicts(device):
    bits = torch.ones(1, 2, 2, device=device)
    one, two = bitrate_map([bits, {"a": {"y": bits, "z": bits}}], (4, 4), unit="bits")
    assert_same_bytes(one * 2, two)
    assert bitrate_ext.bitrate_map(bits, scale_factor=3, unit="bits").shape == (1, 1, 6, 6)
