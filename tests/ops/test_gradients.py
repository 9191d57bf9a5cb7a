"""First and second derivatives: the closed form, PyTorch's gradcheck, the adjoint identity and autograd's corners."""

import math

import numpy as np
import pytest
import torch
from cases import (
    DTYPES,
    FLOAT32_BAR,
    FLOAT64_BAR,
    MODES,
    assert_same_bytes,
    bytes_of,
    likelihoods,
    need_native,
    random_case,
    scaled,
)

import bitrate_ext

CLOSED_FORM = scaled(5000)
GRADCHECK = scaled(140)
GRADGRADCHECK = scaled(60)
ADJOINT = scaled(200)
IMPLEMENTATIONS = ("native", "reference")


def impl_for(device, impl):
    if impl == "native":
        need_native(device)
    return impl


def nondeterminism(device, impl):
    """Return what two runs may differ by: PyTorch adds ``index_select``'s gradient atomically on a GPU."""
    return 1e-10 if impl == "reference" and device.type == "cuda" else 0.0


def test_closed_form(device, rng):
    """-(R'GC / ln 2) / p in float64, rounded once; through float32 to 16 bits."""
    for _ in range(CLOSED_FORM):
        case = random_case(rng, elements=1500, pixels=5000)
        leaves = [p.detach().clone().to(device).requires_grad_() for p in case.likelihoods]
        out = case.run(leaves)
        grad = torch.from_numpy(rng.standard_normal(out.shape)).to(out.dtype)
        gradients = torch.autograd.grad(out, leaves, grad.to(device))
        for p, gradient in zip(case.likelihoods, gradients, strict=True):
            rows, columns = case.matrices(p)
            cells = rows.T @ grad[:, 0].double().numpy() @ columns
            # What the sums can lose where terms of both signs cancel.
            lost = 4e-16 * rows.T @ grad[:, 0].double().abs().numpy() @ columns
            shared = 1 / (p.double().numpy() * math.log(2))
            exact, floor = -cells[:, None] * shared, lost[:, None] * shared
            assert gradient.dtype == p.dtype
            assert gradient.shape == p.shape
            got = gradient.cpu()
            if p.dtype in (torch.float32, torch.float64):
                bar, least = (FLOAT64_BAR, 0.0) if p.dtype == torch.float64 else (FLOAT32_BAR, 2.0**-150)
                if not case.conserve:
                    floor = floor * 4  # PyTorch's weights round too
                with np.errstate(over="ignore", invalid="ignore"):
                    exact_there = exact if p.dtype == torch.float64 else np.where(
                        np.abs(exact) < 3.4028235e38, exact, np.sign(exact) * np.inf
                    )  # fmt: skip
                values = got.double().numpy()
                finite = np.isfinite(exact_there) & np.isfinite(values)
                assert (np.isinf(values) == np.isinf(exact_there))[np.abs(exact) < 3.4e38].all(), case
                error = np.abs(values - exact)[finite]
                assert (error <= bar * np.abs(exact)[finite] + floor[finite] + least).all(), case
            else:
                torch.testing.assert_close(
                    got, torch.from_numpy(exact).float().to(p.dtype), rtol=torch.finfo(p.dtype).eps, atol=6e-8
                )


def test_sixteen_bits_round_once_through_float32(device, rng):
    for dtype in (torch.float16, torch.bfloat16):
        for _ in range(scaled(50)):
            p = likelihoods(rng, (2, 5, 3, 11), dtype, "uniform")
            wide, narrow = p.float().to(device).requires_grad_(), p.to(device).requires_grad_()
            grad = torch.from_numpy(rng.standard_normal((2, 1, 9, 22))).float().to(device)
            outs = [bitrate_ext.bitrate_map(leaf, (9, 22)) for leaf in (wide, narrow)]
            assert_same_bytes(outs[0], outs[1])
            expected, got = (
                torch.autograd.grad(o, leaf, grad)[0] for o, leaf in zip(outs, (wide, narrow), strict=True)
            )
            assert_same_bytes(got, expected.to(dtype))


def small_case(rng):
    """Return few elements, any projection, and a layout that is not contiguous; float64."""
    h, w = (int(v) for v in rng.integers(1, 4, 2))
    size = tuple(int(v) for v in rng.integers(1, 6, 2))
    shape = (int(rng.integers(1, 3)), int(rng.integers(1, 4)), h, w)
    p = torch.from_numpy(rng.uniform(0.2, 1.2, shape))
    layout = rng.integers(4)
    if layout == 1:
        p = p.transpose(2, 3).contiguous().transpose(2, 3)
    elif layout == 2:
        p = torch.stack([p, p], dim=-1)[..., 0]
    elif layout == 3:
        p = p.contiguous(memory_format=torch.channels_last)
    crop = (0, 0, *size) if rng.random() < 0.6 else (size[0] // 2, size[1] // 2, size[0] - size[0] // 2, 1)
    kwargs = {"projection": MODES[rng.integers(3)], "conserve": bool(rng.integers(2)), "crop": crop}
    return p, size, kwargs


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_gradcheck(device, rng, impl):
    impl = impl_for(device, impl)
    for index in range(GRADCHECK // 2):
        p, size, kwargs = small_case(rng)
        p = p.to(device)
        other = p[:, :1, :1, :1].clone()
        many = index % 3 == 0

        def run(*leaves, size=size, kwargs=kwargs):
            nested = leaves[0] if len(leaves) == 1 else dict(enumerate(leaves))
            return bitrate_ext.bitrate_map({"y": nested}, size, impl=impl, **kwargs)

        leaves = [t.requires_grad_() for t in ((p, other) if many else (p,))]
        assert torch.autograd.gradcheck(
            run,
            leaves,
            check_batched_grad=True,
            check_undefined_grad=True,
            nondet_tol=nondeterminism(device, impl),
            check_forward_ad=True,
        )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_gradgradcheck(device, rng, impl):
    impl = impl_for(device, impl)
    for index in range(GRADGRADCHECK // 2):
        p, size, kwargs = small_case(rng)
        p = p.to(device).requires_grad_()

        def run(leaf, size=size, kwargs=kwargs):
            return bitrate_ext.bitrate_map(leaf, size, impl=impl, **kwargs)

        assert torch.autograd.gradgradcheck(
            run,
            [p],
            gen_non_contig_grad_outputs=True,
            check_batched_grad=index % 4 == 0,
            nondet_tol=nondeterminism(device, impl),
        )


def test_backward_is_the_adjoint_of_forward(device, rng):
    """<A b, y> = <b, A'y> at any size."""
    for _ in range(ADJOINT):
        case = random_case(rng, dtypes=(torch.float64,), latents=1, empty=False, elements=2000)
        p = case.likelihoods[0].double().clamp_max(0.999).to(device).requires_grad_()
        out = case.run([p], dtype=torch.float64)
        y = torch.from_numpy(rng.uniform(0.1, 1, out.shape)).to(device)
        (grad,) = torch.autograd.grad(out, p, y)
        pulled_back = -grad * p * math.log(2)  # strips d(-log2 p)/dp, leaves A'y
        torch.testing.assert_close((out * y).sum(), (-p.log2() * pulled_back).sum(), rtol=1e-12, atol=0)


def test_native_and_reference_gradients_agree(device, rng):
    for _ in range(scaled(200)):
        case = random_case(rng, dtypes=(torch.float32, torch.float64))
        grads = []
        for impl in ("auto", "reference"):
            leaves = [p.detach().clone().to(device).requires_grad_() for p in case.likelihoods]
            out = case.run(leaves, impl=impl, dtype=torch.float64)
            grads.append(torch.autograd.grad(out.sum(), leaves))
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_only_the_gradients_that_are_asked_for(device, impl):
    impl = impl_for(device, impl)
    a = torch.rand(1, 2, 3, 3, device=device, requires_grad=True)
    b = torch.rand(1, 2, 2, 2, device=device)
    out = bitrate_ext.bitrate_map({"a": a, "b": b}, (6, 6), impl=impl)
    out.sum().backward()
    assert a.grad is not None
    assert b.grad is None
    # Each cell's weights add up to one, so the gradient of the sum is -1 / (p ln 2).
    torch.testing.assert_close(a.grad, -1 / (a.detach() * math.log(2)))
    assert not bitrate_ext.bitrate_map(b, (6, 6), impl=impl).requires_grad
    with torch.no_grad():
        assert not bitrate_ext.bitrate_map(a, (6, 6), impl=impl).requires_grad


def test_same_tensor_twice_adds_up(device):
    p = torch.rand(1, 2, 3, 3, device=device, requires_grad=True)
    (once,) = torch.autograd.grad(bitrate_ext.bitrate_map(p, (6, 6)).sum(), p)
    (twice,) = torch.autograd.grad(bitrate_ext.bitrate_map({"a": p, "b": p}, (6, 6)).sum(), p)
    assert_same_bytes(twice, 2 * once)


@pytest.mark.parametrize("grad_layout", ["expanded", "transposed", "sliced"])
def test_map_gradients_of_any_layout(device, grad_layout):
    p = torch.rand(2, 3, 4, 5, device=device, requires_grad=True)
    grad = {
        "expanded": lambda: torch.rand(2, 1, 1, 1, device=device).expand(2, 1, 8, 10),
        "transposed": lambda: torch.rand(2, 1, 10, 8, device=device).transpose(2, 3),
        "sliced": lambda: torch.rand(2, 3, 8, 20, device=device)[:, 1:2, :, ::2],
    }[grad_layout]()
    got = torch.autograd.grad(bitrate_ext.bitrate_map(p, (8, 10)), p, grad)[0]
    expected = torch.autograd.grad(bitrate_ext.bitrate_map(p, (8, 10)), p, grad.clone().contiguous())[0]
    assert_same_bytes(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes_of_the_closed_form(device, dtype):
    """At the floor, at one, at zero and at NaN."""
    p = torch.tensor([1.0, 2.0**-14, 0.5, 0.0, math.nan, 1.5, 1.0, 1.0], device=device, dtype=dtype)
    p = p.reshape(1, 1, 1, 8).requires_grad_()
    (got,) = torch.autograd.grad(bitrate_ext.bitrate_map(p, (1, 8), projection="nearest").sum(), p)
    exact = (
        (-1 / (p.detach().double() * math.log(2))).float()
        if dtype != torch.float64
        else -1 / (p.detach() * math.log(2))
    )
    torch.testing.assert_close(
        got, exact.to(dtype), equal_nan=True, rtol=1e-7 if dtype != torch.float64 else 1e-15, atol=0
    )
    assert got[0, 0, 0, 3] == -math.inf
    assert got[0, 0, 0, 4].isnan()
    zero = torch.autograd.grad(bitrate_ext.bitrate_map(p, (1, 8)) * 0.0, p, torch.ones(1, 1, 1, 8, device=device))[0]
    assert (zero[0, 0, 0, :3] == 0).all()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_bands_made_in_inference_mode_serve_gradients_later(device, impl):
    impl = impl_for(device, impl)
    p = torch.rand(1, 2, 3, 5, device=device, dtype=torch.float64)
    size = (37, 41) if impl == "native" else (38, 43)  # a size that no other test has put into the cache
    with torch.inference_mode():
        inside = bitrate_ext.bitrate_map(p, size, impl=impl)
    leaf = p.clone().requires_grad_()
    out = bitrate_ext.bitrate_map(leaf, size, impl=impl)
    (grad,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), leaf)
    assert bytes_of(inside) == bytes_of(out)
    assert torch.isfinite(second).all()
    assert second.abs().sum() > 0


def test_double_backward_is_the_reference_s(device, rng):
    """Hessian-vector products, where gradcheck's finite differences would be too coarse."""
    for _ in range(scaled(60)):
        p, size, kwargs = small_case(rng)
        seconds = []
        for impl in ("auto", "reference"):
            leaf = p.to(device).clone().requires_grad_()
            out = bitrate_ext.bitrate_map(leaf, size, impl=impl, **kwargs)
            (grad,) = torch.autograd.grad(out.pow(3).sum(), leaf, create_graph=True)
            seconds.append(torch.autograd.grad(grad.pow(2).sum(), leaf)[0])
        torch.testing.assert_close(*seconds, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_double_backward_computes_in_the_map_s_dtype(device, dtype):
    """Narrow likelihoods are exact inputs: second derivatives are rounded to them once, at the end."""
    p = (torch.rand(2, 3, 4, 5) * 0.9 + 0.05).to(dtype).to(device)
    seconds = []
    for leaf in (p.clone().requires_grad_(), p.double().requires_grad_()):
        out = bitrate_ext.bitrate_map(leaf, (9, 7), dtype=torch.float64)
        weight = torch.linspace(1, 2, out.numel(), dtype=torch.float64, device=device).reshape(out.shape)
        (first,) = torch.autograd.grad(out, leaf, weight, create_graph=True)
        direction = torch.linspace(-1, 1, first.numel(), dtype=torch.float64, device=device).reshape(first.shape)
        seconds.append(torch.autograd.grad(first, leaf, direction.to(dtype).to(first.dtype))[0])
    assert seconds[0].dtype == dtype
    bar = torch.finfo(dtype).eps * 0.51
    torch.testing.assert_close(seconds[0].double(), seconds[1], rtol=bar, atol=1e-12)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_forward_mode(device, impl):
    p = torch.rand(1, 2, 3, 3, device=device, dtype=torch.float64) + 0.1
    tangent = torch.rand_like(p)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(p, tangent)
        out = torch.autograd.forward_ad.unpack_dual(bitrate_ext.bitrate_map(dual, (6, 6), impl=impl)).tangent
    # The map is linear in -log2 p, whose tangent is -t / (p ln 2).
    expected = bitrate_ext.bitrate_map(2 ** (tangent / (p * math.log(2))), (6, 6))
    torch.testing.assert_close(out, expected)


def test_forward_over_reverse(device):
    """Two latents, so that one of them may have no tangent."""
    p = torch.rand(2, 1, 3, 2, 2, device=device, dtype=torch.float64) + 0.1

    def loss(y, z, impl):
        return bitrate_ext.bitrate_map({"y": y, "z": z}, (5, 7), impl=impl).pow(2).sum()

    for argument in (0, 1):
        ours = torch.func.hessian(loss, argnums=argument)(p[0], p[1], "auto")
        torch.testing.assert_close(ours, torch.func.hessian(loss, argnums=argument)(p[0], p[1], "reference"))
