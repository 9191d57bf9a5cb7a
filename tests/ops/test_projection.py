"""Bands against the dense oracle, PyTorch and hypothesis; projections of one's own; the caches."""

import copy
import gc
import pickle

import numpy as np
import pytest
import torch
from cases import MODES, axis_matrix

import bitrate_ext
from bitrate_ext.ops.projection import PROJECTIONS, Axis, axis_band, get_projection, outside_share, transposed_axis_band

pytest.importorskip("hypothesis")
from hypothesis import example, given, settings
from hypothesis import strategies as st

CPU = torch.device("cpu")
EXAMPLES = 400  # of each hypothesis test

modes = st.sampled_from(MODES)
cells_and_pixels = st.tuples(st.integers(1, 70), st.integers(1, 600))


def band_of(mode, cells, pixels, *, origin=0, count=None, conserve=True, scale=0.0):
    return axis_band(PROJECTIONS[mode], Axis(cells, pixels, origin, count or pixels, conserve, scale), CPU)


@settings(max_examples=EXAMPLES, derandomize=True, deadline=None)
@given(mode=modes, extents=cells_and_pixels)
def test_conserving_bands_are_the_oracle_s(mode, extents):
    """Entry by entry; and zero exactly where the whole-number weights are zero."""
    matrix = band_of(mode, *extents).dense().numpy()
    expected = axis_matrix(mode, *extents)
    assert np.array_equal(matrix != 0, expected != 0)
    np.testing.assert_allclose(matrix, expected, rtol=5e-15, atol=0)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-14)


@settings(max_examples=EXAMPLES, derandomize=True, deadline=None)
@given(mode=modes, extents=cells_and_pixels)
def test_other_bands_are_pytorch_s(mode, extents):
    matrix = band_of(mode, *extents, conserve=False).dense().numpy()
    np.testing.assert_allclose(matrix, axis_matrix(mode, *extents, conserve=False), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("cells", "pixels"), [(2, 82), (2, 94), (2, 218), (2, 322)])
def test_nearest_counts_in_float32_as_pytorch_does(cells, pixels):
    """Sizes at which float64 would begin a cell one pixel earlier or later."""
    matrix = band_of("nearest", cells, pixels, conserve=False).dense().numpy()
    np.testing.assert_array_equal(matrix, axis_matrix("nearest", cells, pixels, conserve=False))
    assert (matrix.argmax(axis=1) != np.floor(np.arange(pixels) * (cells / pixels))).any()


@settings(max_examples=EXAMPLES // 2, derandomize=True, deadline=None)
@given(mode=modes, cells=st.integers(1, 70), scale=st.floats(0.3, 9.0))
@example(mode="bilinear", cells=7, scale=1.1)  # equal sizes, which PyTorch copies
def test_bands_by_scale_factor_are_pytorch_s(mode, cells, scale):
    pixels = int(np.floor(cells * scale))
    if pixels:
        matrix = band_of(mode, cells, pixels, conserve=False, scale=scale).dense().numpy()
        expected = axis_matrix(mode, cells, pixels, False, scale)
        np.testing.assert_allclose(matrix, expected, rtol=1e-12, atol=1e-13)


@settings(max_examples=EXAMPLES // 2, derandomize=True, deadline=None)
@given(mode=modes, extents=cells_and_pixels, cut=st.tuples(st.floats(0, 1), st.floats(0, 1)), conserve=st.booleans())
def test_windows_and_transposes(mode, extents, cut, conserve):
    cells, pixels = extents
    origin = min(int(cut[0] * pixels), pixels - 1)
    count = max(1, int(cut[1] * (pixels - origin)))
    whole = band_of(mode, cells, pixels, conserve=conserve).dense()
    axis = Axis(cells, pixels, origin, count, conserve)
    band = axis_band(PROJECTIONS[mode], axis, CPU)
    assert band.start.dtype == torch.int32
    assert band.weight.dtype == torch.float64
    assert (band.pixels, band.cells) == (count, cells)
    assert (band.start >= 0).all()
    assert (band.start.long() + band.taps <= cells).all()
    assert torch.equal(band.dense(), whole[origin : origin + count])
    turned = transposed_axis_band(PROJECTIONS[mode], axis, CPU)
    assert (turned.start >= 0).all()
    assert (turned.start.long() + turned.taps <= count).all()
    assert torch.equal(turned.dense(), band.dense().T)


@settings(max_examples=EXAMPLES // 4, derandomize=True, deadline=None)
@given(mode=modes, extents=cells_and_pixels, cut=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_outside_share_is_what_the_window_leaves(mode, extents, cut):
    cells, pixels = extents
    origin = min(int(cut[0] * pixels), pixels - 1)
    count = max(1, int(cut[1] * (pixels - origin)))
    axis = Axis(cells, pixels, origin, count)
    inside = axis_band(PROJECTIONS[mode], axis, CPU).dense().sum(dim=0)
    share = outside_share(PROJECTIONS[mode], axis)
    assert share.dtype == torch.float64
    torch.testing.assert_close(share + inside, torch.ones(cells, dtype=torch.float64), rtol=1e-13, atol=1e-13)
    if count == pixels:
        assert (share == 0).all()


def test_large_extents():
    """A hundred thousand pixels, and a prime number of them."""
    for mode in MODES:
        for cells, pixels in ((1000, 100_003), (99_991, 313)):
            band = band_of(mode, cells, pixels)
            column = np.zeros(cells)
            for tap in range(band.taps):
                np.add.at(column, band.start.numpy() + tap, band.weight[tap].numpy())
            np.testing.assert_allclose(column, 1, rtol=1e-12)


class Uniform(bitrate_ext.Projection):
    """Every pixel reads every cell alike: all bits are spread over the whole image."""

    name = "uniform"

    def rows(self, cells, pixels, cells_per_pixel, conserve):
        return np.zeros(pixels, dtype=np.int64), np.ones((cells, pixels))


class FirstOnly(bitrate_ext.Projection):
    """Forgets every cell but the first."""

    name = "first"

    def rows(self, cells, pixels, cells_per_pixel, conserve):
        return np.zeros(pixels, dtype=np.int64), np.ones((1, pixels))


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_projection_of_ones_own(device, impl):
    p = torch.rand(2, 3, 4, 5, device=device, dtype=torch.float64).requires_grad_()
    out = bitrate_ext.bitrate_map(p, (6, 7), projection=Uniform(), impl=impl)
    total = -p.detach().log2().sum(dim=(1, 2, 3))
    torch.testing.assert_close(out.detach(), (total / 42).reshape(2, 1, 1, 1).expand(2, 1, 6, 7))
    (grad,) = torch.autograd.grad(out.sum(), p)
    torch.testing.assert_close(grad, -1 / (p.detach() * np.log(2)))


@pytest.mark.medium
def test_two_of_the_same_name_do_not_mix(device):
    """Keys belong to objects, not to names; and a dead object's bands are not found by the next."""
    p = torch.rand(1, 2, 3, 3, device=device)

    def named(weight):
        class Named(bitrate_ext.Projection):
            name = "bilinear"

            def rows(self, cells, pixels, cells_per_pixel, conserve):
                cell = np.minimum(np.arange(pixels), cells - 1) if weight else np.zeros(pixels, dtype=np.int64)
                return cell, np.ones((1, pixels))

        return Named()

    for _ in range(5):
        follow, first = named(1), named(0)
        a = bitrate_ext.bitrate_map(p, (3, 3), projection=follow, conserve=False)
        b = bitrate_ext.bitrate_map(p, (3, 3), projection=first, conserve=False)
        torch.testing.assert_close(a[:, 0], bitrate_ext.latent_bits(p))
        torch.testing.assert_close(b, a[:, :, :1, :1].expand_as(b))
        builtin = bitrate_ext.bitrate_map(p, (3, 3), conserve=False)
        torch.testing.assert_close(builtin, a)
        del follow, first
        gc.collect()


class Shifted(bitrate_ext.Projection):
    """Pixel p reads cell p + shift, round the end; nothing is conserved."""

    name = "shifted"

    def __init__(self, shift):
        self.shift = shift

    def rows(self, cells, pixels, cells_per_pixel, conserve):
        return (np.arange(pixels) + self.shift) % cells, np.ones((1, pixels))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_have_keys_of_their_own(duplicate):
    """A copy that is changed, as in a search over parameters, gives its own map and leaves the first one's alone."""
    p = torch.rand(1, 2, 1, 5)
    first = Shifted(0)
    second = duplicate(first)
    second.shift = 2
    assert first.key != second.key
    bits = bitrate_ext.latent_bits(p)
    for projection in (first, second, first):
        out = bitrate_ext.bitrate_map(p, (1, 5), projection=projection, conserve=False)
        torch.testing.assert_close(out[:, 0], bits.roll(-projection.shift, dims=2))


def test_a_projection_that_loses_bits_is_refused(device):
    p = torch.rand(1, 2, 3, 3, device=device)
    with pytest.raises(ValueError, match=r"projection 'first' gives the bits of cell 1 of 3 to no pixel"):
        bitrate_ext.bitrate_map(p, (6, 6), projection=FirstOnly())
    assert bitrate_ext.bitrate_map(p, (6, 6), projection=FirstOnly(), conserve=False).shape == (1, 1, 6, 6)


def test_names_and_objects():
    for name in MODES:
        assert get_projection(name).name == name
        assert get_projection(get_projection(name)) is get_projection(name)
        assert name in repr(get_projection(name))
    mine = Uniform()
    assert get_projection(mine) is mine
    with pytest.raises(ValueError, match="'nearest', 'bilinear', 'area' or a Projection, got 'bicubic'"):
        get_projection("bicubic")
    with pytest.raises(TypeError, match="a name or a Projection, got int"):
        get_projection(3)


def test_bands_are_cached():
    projection, axis = PROJECTIONS["bilinear"], Axis(5, 23, 0, 23)
    assert axis_band(projection, axis, CPU) is axis_band(projection, Axis(5, 23, 0, 23), CPU)
    assert axis_band(projection, axis, CPU) is not axis_band(projection, Axis(5, 23, 1, 22), CPU)


def test_bands_of_inference_mode_are_ordinary_tensors():
    with torch.inference_mode():
        axis = Axis(6, 29, 0, 29)
        bands = [make(PROJECTIONS["area"], axis, CPU) for make in (axis_band, transposed_axis_band)]
    for band in bands:
        assert not band.start.is_inference()
        assert not band.weight.is_inference()
