"""Guided maps against dense matrices: every path, conservation, gradients, hard guides and bad ones."""

import numpy as np
import pytest
import torch
from cases import (
    MODES,
    assert_close_to_exact,
    assert_same_bytes,
    axis_matrix,
    exact_bits,
    likelihoods,
    need_native,
    random_case,
    random_field,
    scaled,
)

import bitrate_ext
from bitrate_ext.ops import guided

CASES = scaled(600)
CONSERVED = scaled(1000)
GRADCHECK = scaled(40)


def random_guide(rng, batch, canvas, dtype=torch.float32, span=6.0):
    """Positive, over several decades."""
    return torch.from_numpy(np.exp(rng.uniform(-span, span, (batch, 1, *canvas)))).to(dtype)


def guide_for(rng, case, **kwargs):
    return random_guide(rng, case.likelihoods[0].shape[0], case.canvas, **kwargs)


def exact_map(case, guide):
    """g K'(b / (K g)) with matrices of the whole canvas, in float64; only the window is returned."""
    scales, values = case.scale or (0.0, 0.0), guide[:, 0].double().numpy()
    total = np.zeros_like(values)
    for p in case.likelihoods:
        rows, columns = (
            axis_matrix(case.mode, cells, canvas, case.conserve, scale)
            for cells, canvas, scale in zip(p.shape[-2:], case.canvas, scales, strict=True)
        )
        seen = rows.T @ values @ columns
        total += rows @ (exact_bits(p) / np.where(seen == 0, 1, seen)) @ columns.T
    return (values * total)[(slice(None), None, *case.window)]


def test_every_case_against_dense_matrices(device, rng):
    """Any shape, dtype, projection, crop, scale; kernel and reference; guides in float32 and float64."""
    for index in range(CASES):
        case = random_case(rng, elements=800, pixels=3000)
        if case.mode == "nearest" and not case.conserve:
            continue  # PyTorch's own choice of cells
        guide = guide_for(rng, case, dtype=(torch.float32, torch.float64)[index % 2])
        exact, tensors = exact_map(case, guide), [p.to(device) for p in case.likelihoods]
        for impl in ("auto", "reference"):
            out = case.run(tensors, guide=guide.to(device), impl=impl)
            wide = out.dtype == torch.float64
            loose = 1e-9 * np.abs(exact).max(initial=0) if wide or not case.conserve else 0.0
            assert_close_to_exact(out, exact, (impl, case), slack=loose + case.slack(out.dtype))


def test_one_launch_and_the_recorded_steps_give_the_same_bytes(device, rng):
    need_native(device)
    for _ in range(scaled(100)):
        case = random_case(rng, elements=800, pixels=3000, dtypes=(torch.float32, torch.float16), empty=False)
        case.kwargs["dtype"] = torch.float32
        tensors, guide = [p.to(device) for p in case.likelihoods], guide_for(rng, case).to(device)
        plain = case.run(tensors, guide=guide)
        assert_same_bytes(plain, case.run(tensors, guide=guide.clone().requires_grad_()), case)
        out = torch.full_like(plain, float("nan"))
        assert case.run(tensors, guide=guide, out=out) is out
        assert_same_bytes(out, plain, case)
        turned = guide.transpose(2, 3).contiguous().transpose(2, 3)  # rows that are not contiguous
        assert_same_bytes(case.run(tensors, guide=turned), plain, case)


def test_devices_and_instruction_sets_give_the_same_bytes(device, rng):
    need_native(device)
    sets = torch.ops.bitrate_ext._choose_instruction_set(-1)
    for _ in range(scaled(60)):
        case = random_case(rng, elements=800, pixels=3000)
        guide = guide_for(rng, case)
        expected = case.run(guide=guide)
        assert_same_bytes(case.run([p.to(device) for p in case.likelihoods], guide=guide.to(device)).cpu(), expected)
        for index in range(sets):
            torch.ops.bitrate_ext._choose_instruction_set(index)
            assert_same_bytes(case.run(guide=guide), expected, case)
        torch.ops.bitrate_ext._choose_instruction_set(-1)


def test_large_maps_are_stored_past_the_caches(device, rng):
    """The bytes of the rows that are stored as usual."""
    p, guide = (
        likelihoods(rng, (1, 3, 70, 81), kind="uniform").to(device),
        random_guide(rng, 1, (1120, 1293)).to(device),
    )
    whole = bitrate_ext.bitrate_map(p, (1120, 1293), guide=guide)
    for crop in ((0, 0, 10, 1293), (3, 5, 40, 701), (1000, 1, 120, 64)):
        top, left, height, width = crop
        part = bitrate_ext.bitrate_map(p, (1120, 1293), guide=guide, crop=crop)
        assert_same_bytes(part, whole[:, :, top : top + height, left : left + width], crop)


def test_every_bit_is_conserved(device, rng):
    """At any size, projection and guide, where F.interpolate alone would not; and with kernels of several terms."""
    for index in range(CONSERVED):
        case = random_case(rng, elements=500, pixels=2000, conserve=True, dtypes=(torch.float32,))
        case.kwargs.update(crop=None, dtype=torch.float32)
        if index % 5 == 0 and not case.scale:
            stride = int(rng.integers(1, 5))
            case.kwargs["projection"] = random_field(rng, stride, (-2 * stride, 3 * stride), terms=2)
            case.likelihoods = case.likelihoods[:1]
            case.canvas = tuple(stride * cells for cells in case.likelihoods[0].shape[-2:])
            case.kwargs["size"] = case.canvas
            if 0 in case.canvas:
                continue
        out = case.run([p.to(device) for p in case.likelihoods], guide=guide_for(rng, case).to(device))
        total = sum(float(exact_bits(p).sum()) for p in case.likelihoods)
        assert abs(float(out.double().sum()) - total) <= 6.0e-8 * total + 1e-12, case


def test_an_even_guide_changes_nothing(device, rng):
    for mode in MODES:
        p = likelihoods(rng, (2, 5, 4, 6), kind="uniform").to(device)
        for value in (1.0, 2.0**-40, 3.7):
            guide = torch.full((2, 1, 64, 96), value, device=device)
            out = bitrate_ext.bitrate_map(p, (64, 96), projection=mode, guide=guide)
            torch.testing.assert_close(out, bitrate_ext.bitrate_map(p, (64, 96), projection=mode), rtol=3e-7, atol=0)


def test_a_cell_by_hand(device):
    """One cell of 6 bits over 2 x 2 pixels, guide 1, 2, 3 and 6: a twelfth, two, three, six of twelve."""
    p = torch.full((1, 1, 1, 1), 2.0**-6, device=device)
    guide = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]], device=device)
    out = bitrate_ext.bitrate_map(p, (2, 2), projection="nearest", guide=guide)
    torch.testing.assert_close(out.cpu(), torch.tensor([[[[0.5, 1.0], [1.5, 3.0]]]]))


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_zeros_infinities_and_nan(device, impl):
    """Zero takes nothing, unless all that a cell reaches is zero; infinity takes all; NaN touches its cells alone."""
    if impl == "native":
        need_native(device)
    p = torch.full((1, 1, 1, 3), 2.0**-8, device=device)
    guide = torch.ones(1, 1, 2, 6)
    guide[..., :2] = 0.0
    guide[0, 0, 0, 2] = 0.0
    guide[0, 0, 1, 4] = float("inf")

    def run(values):
        return bitrate_ext.bitrate_map(p, (2, 6), projection="nearest", guide=values.to(device), impl=impl).cpu()[0, 0]

    out = run(guide)
    assert torch.equal(out[:, :2], torch.full((2, 2), 2.0))  # as without a guide
    torch.testing.assert_close(out[:, 2:4], torch.tensor([[0.0, 8 / 3], [8 / 3, 8 / 3]]))
    torch.testing.assert_close(out[:, 4:], torch.tensor([[0.0, 0.0], [8.0, 0.0]]))
    guide[0, 0, 0, 2] = float("nan")
    out = run(guide)
    assert out[:, 2:4].isnan().all()
    assert out.isnan().sum() == 4


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_gradients_of_likelihoods_and_of_the_guide(device, rng, impl):
    if impl == "native":
        need_native(device)
    for index in range(GRADCHECK):
        h, w = (int(v) for v in rng.integers(1, 4, 2))
        size = tuple(int(v) for v in rng.integers(1, 6, 2))
        p = torch.from_numpy(rng.uniform(0.2, 1, (2, 2, h, w))).to(device).requires_grad_()
        guide = random_guide(rng, 2, size, torch.float64, span=1).to(device).requires_grad_()
        crop = (0, 0, *size) if index % 2 else (size[0] // 2, 0, size[0] - size[0] // 2, size[1])
        kwargs = {"projection": MODES[index % 3], "impl": impl, "crop": crop}

        def run(p, guide, size=size, kwargs=kwargs):
            return bitrate_ext.bitrate_map(p, size, guide=guide, **kwargs)

        exactly = 1e-10 if impl == "reference" and device.type == "cuda" else 0.0
        assert torch.autograd.gradcheck(run, (p, guide), check_forward_ad=True, nondet_tol=exactly)
        if index % 4 == 0:
            assert torch.autograd.gradgradcheck(run, (p, guide), nondet_tol=exactly)


def test_transforms_see_it(device, rng):
    need_native(device)
    p, guide = likelihoods(rng, (3, 2, 3, 4, 5), kind="uniform").to(device), random_guide(rng, 6, (9, 11)).to(device)
    guide = guide.reshape(3, 2, 1, 9, 11)

    def run(p, guide):
        return bitrate_ext.bitrate_map(p, (9, 11), guide=guide)

    each = torch.stack([run(*pair) for pair in zip(p, guide, strict=True)])
    assert_same_bytes(torch.func.vmap(run)(p, guide), each)
    gradient = torch.func.grad(lambda g: run(p[0], g).square().sum())(guide[0])
    leaf = guide[0].clone().requires_grad_()
    run(p[0], leaf).square().sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)


def test_strips_are_rows_of_the_whole_map(device, rng):
    """Byte for byte, of any height, crop, dtype and number of latents; by the kernel, and by the reference nearly."""
    for index in range(scaled(60)):
        case = random_case(rng, elements=800, pixels=3000, empty=False)
        if case.scale:
            continue
        guide = guide_for(rng, case, dtype=(torch.float32, torch.float64)[index % 2]).to(device)
        tensors = [p.to(device) for p in case.likelihoods]
        whole = case.run(tensors, guide=guide)
        kwargs = {name: case.kwargs[name] for name in ("projection", "conserve", "crop", "dtype")}
        strips = bitrate_ext.map_strips(
            case.nested(tensors), case.canvas, rows=int(rng.integers(1, 40)), guide=guide, **kwargs
        )
        found = torch.cat([strip for _, strip in strips], dim=2)
        assert_same_bytes(found, whole, case)
    with pytest.raises(ValueError, match=r"guide must be \[2, 1, 16, 20\]"):
        bitrate_ext.map_strips(P, (16, 20), guide=GUIDE[:1])


@pytest.mark.medium
def test_compiled_in_one_graph(device, rng):
    need_native(device)
    torch._dynamo.reset()
    p, guide = likelihoods(rng, (1, 3, 4, 5), kind="uniform").to(device), random_guide(rng, 1, (33, 41)).to(device)

    def run(p, guide):
        return bitrate_ext.bitrate_map(p, (33, 41), guide=guide, crop=(1, 2, 30, 31))

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_same_bytes(compiled(p, guide), run(p, guide))
    leaf = guide.clone().requires_grad_()
    assert_same_bytes(compiled(p, leaf), run(p, guide))


P = torch.full((2, 3, 4, 5), 0.5)
GUIDE = torch.ones(2, 1, 16, 20)
BAD = {
    "no tensor": (1.0, TypeError, "guide must be a tensor, got float"),
    "16 bits": (GUIDE.half(), TypeError, "guide must be float32 or float64, got torch.float16"),
    "whole numbers": (GUIDE.int(), TypeError, "guide must be float32 or float64, got torch.int32"),
    "another size": (GUIDE[..., :19], ValueError, r"guide must be \[2, 1, 16, 20\], .* got shape \[2, 1, 16, 19\]"),
    "another batch": (GUIDE[:1], ValueError, r"guide must be \[2, 1, 16, 20\]"),
    "channels": (GUIDE.expand(2, 3, 16, 20), ValueError, r"guide must be \[2, 1, 16, 20\]"),
    "another device": (GUIDE.to("meta"), ValueError, "guide must be on cpu like the latents, got meta"),
    "negative": (GUIDE - 1.5, ValueError, "guide must be positive, got values from -0.5 to -0.5"),
    "zero": (GUIDE * 0, ValueError, "guide must be positive, got values from 0 to 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_guides(name):
    guide, error, words = BAD[name]
    with pytest.raises(error, match=words):
        bitrate_ext.bitrate_map(P, (16, 20), guide=guide)


def test_lists_of_frames_take_no_guide():
    with pytest.raises(ValueError, match="guide goes with one map, but likelihoods is a list"):
        bitrate_ext.bitrate_map([P, P], (16, 20), guide=GUIDE)


def test_last_guards_of_the_kernel():
    values, out = torch.ones(1, 2, 2, dtype=torch.float64), torch.empty(1, 1, 2, 2)
    band = [torch.zeros(2, dtype=torch.int32), torch.ones(1, 2, dtype=torch.float64)] * 2
    for guide, words in (
        (torch.ones(1, 1, 2, 2).double(), "guide and out must be float32"),
        (torch.ones(1, 1, 2, 3), "guide must be of the map's shape"),
        (torch.ones(1, 1, 2, 2).mT.contiguous().mT, "its rows contiguous"),
    ):
        with pytest.raises(RuntimeError, match=words):
            torch.ops.bitrate_ext._project([values], band, out, None, guide)


def test_bounds_are_what_the_docstring_says():
    assert guided.LEAST == 1 / guided.MOST == 2.0**-100
