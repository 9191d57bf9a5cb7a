"""The projection with a measured kernel: bands worked by hand, conservation, borders, terms, files."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitrate_ext import ReceptiveField, bitrate_map
from bitrate_ext.cells.outside import outside_bits
from bitrate_ext.ops.projection import Axis, axis_band
from bitrate_ext.receptive_field.field import Term

CPU = torch.device("cpu")


def field(
    rng: np.random.Generator, stride: int = 4, first: int = -5, length: int = 13, shares: tuple[float, ...] = (1.0,)
) -> ReceptiveField:
    """A random one; horizontally a pixel longer at the left and two at the right."""
    kernel = [Term(share, rng.uniform(0, 1, length), rng.uniform(0, 1, length + 3)) for share in shares]
    return ReceptiveField((stride, stride), ((first, first + length - 1), (first - 1, first + length + 1)), kernel)


def axis(stride: int, first: int, kernel: list[float]) -> Any:
    """The vertical axis of a field with that kernel."""
    reach = (first, first + len(kernel) - 1)
    return ReceptiveField((stride, stride), (reach, reach), [Term(1.0, np.array(kernel), np.array(kernel))]).terms[0]


def likelihoods(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, dtype=dtype).clamp_min(1e-3)


def test_rows_worked_by_hand() -> None:
    # Two pixels a cell; a cell weighs 1, 2, 3, 2 at pixels -1 ... 2 from its own. Three cells on six pixels; at both
    # ends the outermost cell stands for the one beyond. An eighth: the kernel adds up to 8.
    start, weight = axis(2, -1, [1, 2, 3, 2]).along(0).rows(3, 6, 0.5, True)
    matrix = np.zeros((6, 3))
    for tap in range(weight.shape[0]):
        matrix[np.arange(6), start + tap] += weight[tap]
    by_hand = np.array(
        [
            [2 + 2, 0, 0],  # itself, and from beyond
            [3, 1, 0],
            [2, 2, 0],
            [0, 3, 1],
            [0, 2, 2],
            [0, 0, 3 + 1],
        ]
    )
    np.testing.assert_allclose(matrix * 8, by_hand, rtol=0, atol=1e-15)


def test_columns_are_divided_by_their_sums() -> None:
    band = axis_band(axis(2, -1, [1, 2, 3, 2]).along(0), Axis(3, 6, 0, 6), CPU).dense()
    by_hand = torch.tensor([[4, 0, 0], [3, 1, 0], [2, 2, 0], [0, 3, 1], [0, 2, 2], [0, 0, 4]], dtype=torch.float64)
    torch.testing.assert_close(band, by_hand / by_hand.sum(dim=0), rtol=0, atol=1e-15)


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(("stride", "first", "length"), [(4, -5, 13), (4, -30, 61), (1, 0, 1), (3, -2, 4)])
def test_every_column_sums_to_its_share(
    cells: int, stride: int, first: int, length: int, rng: np.random.Generator
) -> None:
    for term in field(rng, stride, first, length, (0.3, 0.7)).terms:
        vertical = axis_band(term.along(0), Axis(cells, cells * stride, 0, cells * stride), CPU).dense()
        horizontal = axis_band(term.along(1), Axis(cells, cells * stride, 0, cells * stride), CPU).dense()
        torch.testing.assert_close(
            vertical.sum(0), torch.full((cells,), term.share, dtype=torch.float64), rtol=0, atol=1e-15
        )
        torch.testing.assert_close(horizontal.sum(0), torch.ones(cells).double(), rtol=0, atol=1e-15)


def test_away_from_the_border_it_is_the_kernel(rng: np.random.Generator) -> None:
    one = field(rng, shares=(0.25, 0.75))
    p = torch.ones(1, 3, 15, 15, dtype=torch.float64)
    p[0, 1, 7, 6] = 2.0**-40
    found = bitrate_map(p, scale_factor=4, projection=one)[0, 0]
    (top, bottom), (left, right) = one.reach
    inside = (slice(28 + top, 28 + bottom + 1), slice(24 + left, 24 + right + 1))
    np.testing.assert_allclose(found[inside].numpy(), 40 * one.dense(), rtol=1e-12, atol=0)
    found[inside] = 0
    assert not found.any()


def test_a_map_is_a_transposed_convolution_inside(rng: np.random.Generator) -> None:
    one = field(rng)
    p = likelihoods(2, 5, 12, 11, dtype=torch.float64)
    bits = -p.log2().sum(1, keepdim=True)
    whole = F.conv_transpose2d(bits, torch.from_numpy(one.dense())[None, None], stride=4)
    found = bitrate_map(p, scale_factor=4, projection=one)
    (top, _), (left, _) = one.reach
    expected = whole[..., -top : -top + 48, -left : -left + 44]
    torch.testing.assert_close(found[..., 20:28, 20:24], expected[..., 20:28, 20:24], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shares", [(1.0,), (0.2, 0.5, 0.3)])
def test_conservation_and_implementations(
    shares: tuple[float, ...], dtype: torch.dtype, device: torch.device, rng: np.random.Generator
) -> None:
    one = field(rng, shares=shares)
    p = likelihoods(2, 7, 9, 5).to(dtype).to(device)
    total = -p.double().log2().sum(dim=(1, 2, 3))
    native = bitrate_map(p, scale_factor=4, projection=one, impl="native")
    reference = bitrate_map(p, scale_factor=4, projection=one, impl="reference")
    tolerance = 1e-12 if dtype == torch.float64 else 6e-8
    torch.testing.assert_close(native.double().sum(dim=(1, 2, 3)), total, rtol=tolerance, atol=0)
    torch.testing.assert_close(native, reference, rtol=1e-12 if dtype == torch.float64 else 2e-6, atol=0)


def test_constant_bits_give_a_constant_map_without_conservation(rng: np.random.Generator) -> None:
    p = torch.full((1, 2, 4, 6), 0.5, dtype=torch.float64)
    found = bitrate_map(p, scale_factor=4, projection=field(rng, shares=(0.4, 0.6)), conserve=False)
    torch.testing.assert_close(found, torch.full_like(found, 2 / 16), rtol=1e-13, atol=0)


def test_gradients(rng: np.random.Generator) -> None:
    one = field(rng, stride=2, first=-3, length=7, shares=(0.5, 0.5))
    p = likelihoods(1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: bitrate_map(t, scale_factor=2, projection=one), p)
    image = bitrate_map(p, scale_factor=2, projection=one)
    y = torch.randn_like(image)
    (gradient,) = torch.autograd.grad(image, p, y)
    pulled = -gradient * p * math.log(2)  # strips d(-log2 p)/dp
    torch.testing.assert_close((image * y).sum(), (-p.log2() * pulled).sum())


@pytest.mark.medium
def test_compiled(rng: np.random.Generator) -> None:
    one, p = field(rng), likelihoods(1, 3, 5, 5)

    def mapped(t: torch.Tensor) -> torch.Tensor:
        return bitrate_map({"y": t, "z": t}, size=(20, 20), projection={"y": one, "z": "nearest"})

    assert torch.equal(torch.compile(mapped, fullgraph=True)(p), mapped(p))


def test_each_latent_has_a_projection_of_its_own(rng: np.random.Generator) -> None:
    one, coarse = field(rng), field(rng, stride=8, first=-9, length=21, shares=(0.5, 0.5))
    p = {"y": likelihoods(1, 3, 6, 8), "z": likelihoods(1, 2, 3, 4)}
    found = bitrate_map(p, size=(24, 32), projection={"z": coarse, "y": one}, dtype=torch.float64)
    y = bitrate_map(p["y"], size=(24, 32), projection=one, dtype=torch.float64)
    z = bitrate_map(p["z"], size=(24, 32), projection=coarse, dtype=torch.float64)
    torch.testing.assert_close(found, y + z, rtol=1e-12, atol=0)
    with pytest.raises(
        ValueError, match="projection must name each of the latents, 'y', 'z'; 'z' is missing, it names 'y'"
    ):
        bitrate_map(p, size=(24, 32), projection={"y": one})


def test_what_a_crop_leaves_out(rng: np.random.Generator) -> None:
    one = field(rng, shares=(0.35, 0.65))
    p = likelihoods(2, 4, 6, 7, dtype=torch.float64)
    bits = -p.log2().sum(1)
    crop = (3, 5, 17, 20)
    inside = bitrate_map(p, size=(24, 28), crop=crop, projection=one).sum(dim=(1, 2, 3))
    outside = outside_bits(bits, one, (24, 28), crop)
    torch.testing.assert_close(inside + outside, bits.sum(dim=(1, 2)), rtol=1e-13, atol=0)
    assert (outside > 0).all()


def test_a_kernel_beside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="gives the bits of cell 1 of 3 to no pixel"):
        axis_band(axis(2, 5, [1, 1]).along(0), Axis(3, 6, 0, 6), CPU)


def test_another_scale_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(
        ValueError, match=r"measured at 4 pixels a cell, and 5 cells were to be laid over 18 pixels: .* 20"
    ):
        bitrate_map(likelihoods(1, 2, 5, 5), size=(18, 20), projection=field(rng))


def test_moments() -> None:
    one = ReceptiveField(
        (4, 4),
        ((-1, 1), (0, 3)),
        [
            Term(0.5, np.array([1, 0, 0]), np.array([1, 0, 0, 0])),
            Term(0.5, np.array([0, 0, 1]), np.array([0, 0, 0, 1])),
        ],
    )
    assert one.center == (0.0, 1.5)
    assert one.centroid == (0.0, 1.5)
    assert one.spread == (1.0, 1.5)
    np.testing.assert_array_equal(one.dense(), [[0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.5]])


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ([], "shares add up to 1, got 0"),
        ([Term(0.9, np.ones(3), np.ones(3))], "shares add up to 1, got 1 that add up to 0.9"),
        ([Term(1.0, np.ones(2), np.ones(3))], "must have 3 vertical weights"),
        ([Term(1.0, np.ones(3), np.array([1.0, -1.0, 1.0]))], "horizontal weights, not negative"),
        ([Term(1.0, np.zeros(3), np.ones(3))], "not all zero"),
        ([Term(1.0, np.array([1.0, np.nan, 1.0]), np.ones(3))], "must have 3 vertical weights"),
        ([Term(2.0, np.ones(3), np.ones(3)), Term(-1.0, np.ones(3), np.ones(3))], "not negative"),
    ],
)
def test_kernels_that_are_refused(kernel: list[Term], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReceptiveField((4, 4), ((-1, 1), (-1, 1)), kernel)


def test_saved_and_loaded(tmp_path: Path, rng: np.random.Generator) -> None:
    one = field(rng, shares=(0.25, 0.75))
    one.fit, one.origin, one.latent = {"separable_error": 0.1}, "g_s", "motion.y"
    one.save(tmp_path / "kernel.npz")
    two = ReceptiveField.load(tmp_path / "kernel.npz")
    assert (two.stride, two.reach, two.fit, two.origin, two.latent) == (
        one.stride,
        one.reach,
        one.fit,
        one.origin,
        one.latent,
    )
    p = likelihoods(1, 2, 6, 6)
    assert torch.equal(bitrate_map(p, scale_factor=4, projection=one), bitrate_map(p, scale_factor=4, projection=two))
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.npz"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path, rng: np.random.Generator) -> None:
    field(rng).save(tmp_path / "kernel.npz")
    before = (tmp_path / "kernel.npz").read_bytes()
    os.link(tmp_path / "kernel.npz", tmp_path / "the file that a reader has open")
    field(rng).save(tmp_path / "kernel.npz")
    assert (
        (tmp_path / "the file that a reader has open").read_bytes() == before != (tmp_path / "kernel.npz").read_bytes()
    )


def test_a_failed_save_leaves_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "kernel.npz").mkdir()
    with pytest.raises(OSError, match=r"kernel\.npz"):
        field(rng).save(tmp_path / "kernel.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.npz"]


@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "other", "format", "empty"])
def test_files_that_are_refused(damage: str, tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "kernel.npz"
    field(rng).save(path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("no archive")
    elif damage == "pickle":
        np.savez(path, about=np.array([{"format": 1}], dtype=object))
    elif damage == "other":
        np.savez(path, map=np.zeros(3))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        np.savez(path, about=np.array('{"format": 99}'))
    with pytest.raises(ValueError, match=r"kernel\.npz is no saved receptive field, or is damaged"):
        ReceptiveField.load(path)
    with pytest.raises(FileNotFoundError):
        ReceptiveField.load(tmp_path / "absent.npz")


def test_a_field_itself_has_no_rows(rng: np.random.Generator) -> None:
    one = field(rng)
    for what in (one, one.terms[0]):
        with pytest.raises(TypeError, match=r"rows for each of its"):
            what.rows(4, 16, 0.25, True)
