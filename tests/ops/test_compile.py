"""torch.compile, export, torch.func, opcheck and autocast: each gives the bytes of the plain call."""

import math

import numpy as np
import pytest
import torch
from cases import MODES, assert_same_bytes, likelihoods, need_native, scaled
from torch._dynamo.testing import CompileCounterWithBackend

import bitrate_ext
from bitrate_ext.ops import arguments, dispatch, projection

OPCHECK = scaled(60)
COMPILED = scaled(24)
AUTOCAST = scaled(30)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss_and_map(p, size, **kwargs):
    out = bitrate_ext.bitrate_map(p, size, **kwargs)
    return out, (out * out.detach().cos()).sum()


def assert_compiled_is_eager(compiled, eager, p):
    leaves = [p.clone().requires_grad_() for _ in range(2)]
    (a, loss_a), (b, loss_b) = compiled(leaves[0]), eager(leaves[1])
    assert_same_bytes(a, b)
    grads = [torch.autograd.grad(loss, leaf)[0] for loss, leaf in ((loss_a, leaves[0]), (loss_b, leaves[1]))]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=0)  # the loss itself may be summed in another order
    with torch.no_grad():
        assert_same_bytes(compiled(p)[0], eager(p)[0])


@pytest.mark.medium
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("conserve", [True, False])
def test_static_shapes_in_one_graph(device, rng, mode, conserve):
    p = likelihoods(rng, (2, 3, 4, 5), kind="uniform").to(device)

    def run(q):
        return loss_and_map(q, (9, 11), projection=mode, conserve=conserve)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_compiled_is_eager(compiled, run, p)


@pytest.mark.medium
@pytest.mark.parametrize("by_scale", [False, True])
def test_dynamic_shapes_compile_once(device, rng, by_scale):
    """Many shapes, sizes among them: one compilation, and at most one more."""
    counter = CompileCounterWithBackend("aot_eager")

    def run(q, height, width):
        if by_scale:
            return bitrate_ext.bitrate_map(q, scale_factor=2)
        return bitrate_ext.bitrate_map(q, (height, width))

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    for _ in range(COMPILED):
        shape = tuple(int(v) for v in rng.integers(2, 12, 4))
        p = likelihoods(rng, shape).to(device)
        size = tuple(int(v) for v in rng.integers(2, 40, 2))
        assert_same_bytes(compiled(p, *size), run(p, *size))
    assert counter.frame_count <= 2


@pytest.mark.medium
def test_automatic_dynamic_shapes(device, rng):
    """Without dynamic=True: static first, then dynamic: one recompilation in all; with gradients."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda q: bitrate_ext.bitrate_map(q, scale_factor=3), fullgraph=True, backend=counter)
    for height in range(3, 12):
        p = likelihoods(rng, (2, 3, height, 5), kind="uniform").to(device)
        leaves = [p.clone().requires_grad_() for _ in range(2)]
        outs = [compiled(leaves[0]), bitrate_ext.bitrate_map(leaves[1], scale_factor=3)]
        assert_same_bytes(outs[0], outs[1])
        grads = [
            torch.autograd.grad(out, leaf, torch.ones_like(out))[0] for out, leaf in zip(outs, leaves, strict=True)
        ]
        assert_same_bytes(grads[0], grads[1])
    assert counter.frame_count <= 2


def test_nested_latents_and_a_graph_around_them(device, rng):
    """Dicts in, arithmetic before and after."""

    def run(named):
        clamped = {name: p.clamp_min(1e-3) for name, p in named.items()}
        out = bitrate_ext.bitrate_map({"latents": clamped}, (16, 24), crop=(1, 2, 9, 13))
        return out * 2 + bitrate_ext.bitrate_map(clamped["z"], (9, 13))

    named = {
        "y": likelihoods(rng, (1, 6, 4, 6), kind="uniform").to(device),
        "z": likelihoods(rng, (1, 2, 2, 3), kind="uniform").to(device),
    }
    assert_same_bytes(torch.compile(run, fullgraph=True, backend="aot_eager")(named), run(named))


def test_latent_bits_compiles(device, rng):
    p = likelihoods(rng, (2, 5, 3, 4)).to(device)
    compiled = torch.compile(bitrate_ext.latent_bits, fullgraph=True, backend="aot_eager")
    assert_same_bytes(compiled(p), bitrate_ext.latent_bits(p))


@pytest.mark.medium
def test_inductor(device, rng):
    p = likelihoods(rng, (2, 3, 4, 5), kind="uniform").to(device)

    def run(q):
        return bitrate_ext.bitrate_map(q, (9, 11))

    compiled = torch.compile(run, fullgraph=True)
    leaves = [p.clone().requires_grad_() for _ in range(2)]
    outs = [compiled(leaves[0]), run(leaves[1])]
    assert_same_bytes(outs[0], outs[1])
    grads = [torch.autograd.grad(out.sum(), leaf)[0] for out, leaf in zip(outs, leaves, strict=True)]
    assert_same_bytes(grads[0], grads[1])


class Module(torch.nn.Module):
    def forward(self, p):
        return bitrate_ext.bitrate_map(p, scale_factor=2)


def test_export(device, rng):
    """With a symbolic batch and grid; the program serves shapes it has not seen."""
    p = likelihoods(rng, (2, 3, 4, 5)).to(device)
    dims = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", max=512), 3: torch.export.Dim("w", max=512)}
    for dynamic in (None, {"p": dims}):
        program = torch.export.export(Module(), (p,), dynamic_shapes=dynamic)
        assert "bitrate_ext.bitrate_map" in str(program.graph)
        assert_same_bytes(program.module()(p), Module()(p))
    other = likelihoods(rng, (3, 3, 7, 6)).to(device)
    assert_same_bytes(program.module()(other), Module()(other))


def test_vmap(device, rng):
    p = likelihoods(rng, (4, 2, 3, 5, 6)).to(device)

    def run(q):
        return bitrate_ext.bitrate_map(q, (11, 13))

    expected = torch.stack([run(q) for q in p])
    assert_same_bytes(torch.func.vmap(run)(p), expected)
    assert_same_bytes(torch.func.vmap(run, in_dims=3)(p.movedim(0, 3)), expected)
    assert_same_bytes(torch.func.vmap(run, out_dims=2)(p), expected.movedim(0, 2))
    assert_same_bytes(torch.func.vmap(torch.func.vmap(run))(p[None]), expected[None])

    shared = likelihoods(rng, (2, 1, 2, 2)).to(device)
    both = torch.func.vmap(lambda q: bitrate_ext.bitrate_map({"y": q, "z": shared}, (11, 13)))(p)
    assert_same_bytes(both, torch.stack([bitrate_ext.bitrate_map({"y": q, "z": shared}, (11, 13)) for q in p]))


def test_functional_gradients(device, rng):
    p = likelihoods(rng, (1, 2, 2, 3), torch.float64, "uniform").to(device)
    weight = torch.rand(1, 1, 5, 4, dtype=torch.float64, device=device)

    def loss(q, impl="auto"):
        return (bitrate_ext.bitrate_map(q, (5, 4), impl=impl) * weight).sum()

    leaf = p.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert_same_bytes(torch.func.grad(loss)(p), expected)
    value = torch.func.grad_and_value(loss)(p)[1]
    assert_same_bytes(value, loss(p))
    batch = torch.stack([p, p * 0.5, p * 0.25])
    assert_same_bytes(
        torch.func.vmap(torch.func.grad(loss))(batch), torch.stack([torch.func.grad(loss)(q) for q in batch])
    )

    jacobian = torch.func.jacrev(lambda q: bitrate_ext.bitrate_map(q, (5, 4)))(p)
    by_reference = torch.func.jacrev(lambda q: bitrate_ext.bitrate_map(q, (5, 4), impl="reference"))(p)
    torch.testing.assert_close(jacobian, by_reference, rtol=1e-12, atol=1e-14)
    hessian = torch.func.jacrev(torch.func.grad(loss))(p)
    torch.testing.assert_close(
        hessian, torch.func.hessian(lambda q: loss(q, "reference"))(p), rtol=1e-11, atol=1e-13
    )  # fmt: skip
    torch.testing.assert_close(torch.func.hessian(loss)(p), hessian, rtol=1e-12, atol=1e-14)
    # The map is a sum over likelihoods, so the Hessian is diagonal: -grad / p.
    diagonal = torch.diag((-expected / p).flatten())
    torch.testing.assert_close(hessian.reshape(12, 12), diagonal, rtol=1e-12, atol=1e-14)


@pytest.mark.medium
def test_functional_transforms_compile(device, rng):
    p = likelihoods(rng, (1, 2, 2, 3), kind="uniform").to(device)

    def loss(q):
        return bitrate_ext.bitrate_map(q, (5, 4)).sum()

    compiled = torch.compile(torch.func.grad(loss), backend="aot_eager")
    assert_same_bytes(compiled(p), torch.func.grad(loss)(p))


def test_a_compiler_leaves_the_caches_right(rng):
    """What it would compute of bands itself, in float32, would serve all later calls."""
    p = likelihoods(rng, (1, 2, 2, 3), torch.float64, "uniform")

    def maps():
        return [bitrate_ext.bitrate_map(p, (5, 4), impl=impl) for impl in ("auto", "reference")]

    def loss(q):
        return bitrate_ext.bitrate_map(q, (5, 4)).square().sum()

    expected = [*maps(), torch.func.grad(loss)(p)]
    caches = (arguments._settled, dispatch._cached_bands, projection.axis_band, projection.transposed_axis_band)
    for cached in caches:
        cached.cache_clear()
    torch.compile(torch.func.grad(loss), backend="aot_eager")(p)
    for found, one in zip([*maps(), torch.func.grad(loss)(p)], expected, strict=True):
        assert_same_bytes(found, one)


def test_fake_tensors_have_the_real_shapes(rng):
    from torch._subclasses.fake_tensor import FakeTensorMode

    for shape, size, dtype in (((2, 3, 4, 5), (7, 9), None), ((0, 3, 4, 5), (7, 9), torch.float64)):
        real = bitrate_ext.bitrate_map(likelihoods(rng, shape), size, dtype=dtype)
        with FakeTensorMode():
            fake = bitrate_ext.bitrate_map(torch.empty(shape), size, dtype=dtype)
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.medium
def test_opcheck(device, rng):
    """Schema, fake tensors, autograd registration and AOT dispatch, static and dynamic."""
    need_native(device)
    for index in range(OPCHECK):
        shapes = [tuple(int(v) for v in rng.integers(1, 5, 4))]
        shapes += [(shapes[0][0], *shapes[0][:3])] if index % 4 == 0 else []
        dtype = (torch.float32, torch.float64, torch.float16, torch.bfloat16)[index % 4]
        grads = index % 3 != 2
        latents = [likelihoods(rng, shape, dtype, "uniform").to(device).requires_grad_(grads) for shape in shapes]
        canvas = [int(v) for v in rng.integers(1, 9, 2)]
        window = [0, 0, *canvas] if index % 2 else [canvas[0] // 2, canvas[1] // 3, 1, 1]
        out_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        projection, conserve = MODES[index % 3], index % 5 != 0
        placement = (canvas, window, [projection] * len(shapes), conserve, [0.0, 0.0], out_dtype)
        torch.library.opcheck(torch.ops.bitrate_ext.bitrate_map.default, (latents, *placement))
        grad = torch.from_numpy(rng.random((shapes[0][0], 1, *window[2:]))).to(device, out_dtype)
        torch.library.opcheck(
            torch.ops.bitrate_ext.bitrate_map_backward.default,
            (grad, latents[0].detach(), canvas, window, projection, conserve, [0.0, 0.0]),
        )


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
def test_autocast_leaves_likelihoods_alone(device, rng, autocast):
    """float32 stays float32: 1e-9 would be 0, so infinity, in float16."""
    for index in range(AUTOCAST // 2):
        p = likelihoods(rng, (1, 4, 3, 5), torch.float32, "floor" if index % 2 else "decades").to(device)
        leaves = [p.clone().requires_grad_() for _ in range(2)]
        with torch.autocast(device.type, dtype=autocast):
            inside = bitrate_ext.bitrate_map(leaves[0], (9, 7), projection=MODES[index % 3])
            assert bitrate_ext.latent_bits(p).dtype == torch.float32
        outside = bitrate_ext.bitrate_map(leaves[1], (9, 7), projection=MODES[index % 3])
        assert inside.dtype == torch.float32
        assert torch.isfinite(inside).all()
        assert_same_bytes(inside, outside)
        grads = [torch.autograd.grad(out.sum(), leaf)[0] for out, leaf in zip((inside, outside), leaves, strict=True)]
        assert_same_bytes(grads[0], grads[1])


def test_tensor_subclasses_and_modes_go_through_the_operator(rng):
    """Dispatch modes see the operator, not something past them."""
    from torch.testing._internal import two_tensor
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    p = likelihoods(rng, (1, 2, 3, 3))
    with Watch():
        out = bitrate_ext.bitrate_map(p, (6, 6))
    assert any("bitrate_ext.bitrate_map" in name for name in seen)
    assert_same_bytes(out, bitrate_ext.bitrate_map(p, (6, 6)))
    two = two_tensor.TwoTensor(p, p.flip(1))  # a subclass that runs every operator on both
    both = bitrate_ext.bitrate_map(two, (6, 6))
    assert isinstance(both, two_tensor.TwoTensor)
    assert_same_bytes(both.a, out)
    parameter = torch.nn.Parameter(p)
    assert bitrate_ext.bitrate_map(parameter, (6, 6)).requires_grad
    assert math.isclose(out.double().sum().item(), -np.log2(p.double().numpy()).sum(), rel_tol=1e-6)
