"""Any strides, offsets and empty extents; what lies between the elements is neither read nor written."""

import itertools
import math

import pytest
import torch
from cases import DTYPES, MODES, Case, assert_close_to_exact, assert_same_bytes, bytes_of, likelihoods, scaled
from hard_cases import in_gaps

import bitrate_ext
from bitrate_ext.ops.projection import PROJECTIONS, Axis, axis_band, transposed_axis_band

LAYOUT_CASES = scaled(1500)
OFFSETS = range(32)  # elements, for each of 8 shapes
LAYOUTS = (
    "contiguous", "channels_last", "transposed", "sliced", "stride 2", "batch stride 0", "channel stride 0",
    "overlapping", "permuted",
)  # fmt: skip


def test_layouts_and_dtypes(device, rng):
    """The gaps hold NaN: one read of them would show. The map and the gradient equal those of the packed copy."""
    for index in range(LAYOUT_CASES):
        layout, dtype = LAYOUTS[index % len(LAYOUTS)], DTYPES[index // len(LAYOUTS) % 4]
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 50)), int(rng.integers(2, 6)), int(rng.integers(2, 20)))
        if layout == "overlapping":  # cells of neighbouring channels must not overlap as well
            shape = (shape[0], shape[1], 2, shape[3])
        view, storage = in_gaps(likelihoods(rng, shape, dtype), layout)
        before = bytes_of(storage)
        case = Case([view], (shape[2] * 2, shape[3] + 3), mode=MODES[index % 3], conserve=index % 5 != 0)
        exact = case.exact()
        there = storage.to(device).as_strided(shape, view.stride(), view.storage_offset())
        out = case.run([there])
        assert torch.isfinite(out).all(), (layout, dtype)
        assert_close_to_exact(out, exact, (layout, case), case.slack(out.dtype))
        packed = view.clone(memory_format=torch.contiguous_format).to(device)
        assert_same_bytes(out, case.run([packed]), (layout, dtype))
        leaves = [p.detach().requires_grad_() for p in (there, packed)]
        grads = [torch.autograd.grad(case.run([leaf]).sum(), leaf)[0] for leaf in leaves]
        assert_same_bytes(grads[0], grads[1], (layout, dtype))
        assert bytes_of(there._base) == before, (layout, dtype)


def test_gradients_are_not_written_into_gaps(rng):
    """The kernel writes through strides of the gradient: what lies between stays."""
    for layout, dtype in itertools.product(("contiguous", "channels_last", "transposed", "sliced", "stride 2"), DTYPES):
        p = likelihoods(rng, (2, 11, 4, 9), dtype, "uniform")
        view, storage = in_gaps(torch.zeros_like(p), layout)
        gaps = storage.isnan()
        window = [0, 0, 8, 9]
        placement = ([8, 9], window, "bilinear", True, [0.0, 0.0])
        grad = torch.rand(2, 1, 8, 9)
        expected = torch.ops.bitrate_ext.bitrate_map_backward(grad, p, *placement)
        bands = flat_bands(p, [8, 9], transposed=True)
        torch.ops.bitrate_ext._project_backward(grad, p, bands, view)
        assert_same_bytes(view, expected, layout)
        assert torch.equal(storage.isnan(), gaps), layout


def flat_bands(p, size, transposed=False):
    """Return the bilinear bands of a whole canvas as the kernels take them."""
    make = transposed_axis_band if transposed else axis_band
    pair = [
        make(PROJECTIONS["bilinear"], Axis(cells, pixels, 0, pixels), p.device)
        for cells, pixels in zip(p.shape[2:], size, strict=True)
    ]
    return [tensor for band in pair for tensor in (band.start, band.weight)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_pointer_offsets(device, rng, dtype):
    """Storages that begin 0 to 31 elements into an allocation, for maps, likelihoods and their gradients."""
    for width, channels in ((8, 1), (9, 6), (33, 7), (64, 17), (1, 40), (5, 5), (7, 48), (16, 8)):
        p = likelihoods(rng, (1, channels, 3, width), dtype)
        expected = bitrate_ext.bitrate_map(p.to(device), (6, width * 2))
        for offset in OFFSETS:
            storage = torch.full((p.numel() + 64,), math.nan, dtype=dtype, device=device)
            moved = storage[offset : offset + p.numel()].view(p.shape)
            moved.copy_(p)
            canvas = torch.full((expected.numel() + 64,), 7.0, dtype=expected.dtype, device=device)
            out = canvas[offset : offset + expected.numel()].view(expected.shape)
            assert bitrate_ext.bitrate_map(moved, (6, width * 2), out=out) is out
            assert_same_bytes(out, expected, offset)
            canvas[offset : offset + expected.numel()] = 7.0
            assert (canvas == 7.0).all(), offset


@pytest.mark.parametrize(
    "zero", list(itertools.product([False, True], repeat=6)), ids=lambda z: "".join("x0"[i] for i in z)
)
def test_empty_extents(device, zero):
    """All patterns of N, C, h, w, H, W being zero: exact zeros, gradients defined, and no map without pixels."""
    n, c, h, w, height, width = (0 if empty else extent for empty, extent in zip(zero, (2, 3, 4, 5, 6, 7), strict=True))
    p = torch.rand(n, c, h, w, device=device, requires_grad=True)
    for impl in ("auto", "reference"):
        if not height or not width:
            with pytest.raises(ValueError, match="size must be at least 1 pixel each way"):
                bitrate_ext.bitrate_map(p, (height, width), impl=impl)
            continue
        out = bitrate_ext.bitrate_map(p, (height, width), impl=impl)
        assert out.shape == (n, 1, height, width)
        (grad,) = torch.autograd.grad(out.sum(), p)
        assert grad.shape == p.shape
        if p.numel():
            assert out.sum() > 0
            assert (grad < 0).all()
        else:
            assert bytes_of(out) == bytes(out.numel() * 4)
        assert bitrate_ext.latent_bits(p, impl=impl).shape == (n, h, w)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize(("h", "w"), [(0, 5), (4, 0), (0, 0)])
def test_empty_grids_by_scale_factor(device, impl, h, w):
    """No cells make no pixels; that is no error, unlike a factor that leaves no pixel of some cells."""
    out = bitrate_ext.bitrate_map(torch.rand(2, 3, h, w, device=device), scale_factor=2, impl=impl)
    assert out.shape == (2, 1, 2 * h, 2 * w)


def test_empty_latent_beside_another(device):
    p = torch.rand(2, 3, 4, 5, device=device)
    alone = bitrate_ext.bitrate_map(p, (9, 9))
    for shape in ((2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)):
        empty = torch.rand(shape, device=device)
        for impl in ("auto", "reference"):
            both = bitrate_ext.bitrate_map({"y": p, "z": empty}, (9, 9), impl=impl)
            torch.testing.assert_close(both, alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "channels_last"])
def test_out_of_any_layout(device, rng, layout):
    p = likelihoods(rng, (2, 3, 4, 5)).to(device)
    expected = bitrate_ext.bitrate_map(p, (9, 11))
    storage = torch.full((2, 2, 20, 22), -1.0, device=device)
    out = {
        "transposed": lambda: torch.zeros(2, 1, 11, 9, device=device).transpose(2, 3),
        "sliced": lambda: storage[:, 1:, 1:10, ::2],
        "channels_last": lambda: torch.zeros(2, 1, 9, 11, device=device).to(memory_format=torch.channels_last),
    }[layout]()
    for impl in ("auto", "reference"):
        assert bitrate_ext.bitrate_map(p, (9, 11), impl=impl, out=out) is out
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    assert (storage[:, :1] == -1).all()
    assert (storage[:, :, 10:] == -1).all()


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_addresses_beyond_32_bits(tmp_path, rng, dim, dtype):
    """A sparse file of 10 to 20 GB, of which a few pages are touched, with huge strides along one extent."""
    shape, count = (3, 4, 5, 16), 2**31 + 2**29
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(count * dtype.itemsize)
    before = resident_bytes()
    flat = torch.from_file(str(path), shared=True, size=count, dtype=dtype)
    strides = [320, 80, 16, 1]
    strides[dim] = (count - 1000) // (shape[dim] - 1)
    view = flat.as_strided(shape, strides)
    view.copy_(likelihoods(rng, shape, dtype, "uniform"))
    packed = view.clone(memory_format=torch.contiguous_format)
    assert (shape[dim] - 1) * strides[dim] > 2**31
    for impl in ("native", "reference"):
        assert_same_bytes(
            bitrate_ext.bitrate_map(view, (9, 31), impl=impl), bitrate_ext.bitrate_map(packed, (9, 31), impl=impl)
        )
    leaf = view.detach().requires_grad_()
    bitrate_ext.bitrate_map(packed, (9, 31))
    out = bitrate_ext.bitrate_map(leaf, (9, 31))
    gradient = flat.new_empty(shape)
    torch.ops.bitrate_ext._project_backward(torch.ones_like(out), view, flat_bands(packed, [9, 31], True), gradient)
    target = packed.clone().requires_grad_()
    (expected,) = torch.autograd.grad(bitrate_ext.bitrate_map(target, (9, 31)).sum(), target)
    assert_same_bytes(gradient, expected)
    assert resident_bytes() - before < 300e6
    del view, flat, leaf, out
