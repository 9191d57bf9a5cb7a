"""The map in strips of rows: the bytes of the whole map, whatever the strips are and wherever the latents lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cases import MODES, assert_same_bytes, bytes_of, random_field
from commands import in_new_process
from torch import Tensor

import bitrate_ext
from bitrate_ext.ops.memory_pages import give_back, shared_mapping
from bitrate_ext.ops.projection import get_projection
from bitrate_ext.ops.strips import RowProjector


def latents(rng: np.random.Generator) -> dict[str, Tensor]:
    """Return latents of a canvas of 128 x 192 pixels: strides of 16 and 64."""
    return {
        name: torch.from_numpy(rng.uniform(0.01, 1, (2, channels, 128 // stride, 192 // stride)).astype(np.float32))
        for name, channels, stride in (("y", 12, 16), ("z", 5, 64))
    }


def joined(strips: object) -> Tensor:
    found = list(strips)  # type: ignore[call-overload]
    tops = [top for top, _ in found]
    assert tops == list(np.cumsum([0, *[strip.shape[2] for _, strip in found[:-1]]]))
    return torch.cat([strip for _, strip in found], dim=2)


@pytest.mark.medium
@pytest.mark.parametrize("projection", [*MODES, "field"])
@pytest.mark.parametrize("crop", [None, (0, 0, 128, 192), (13, 7, 101, 155), (127, 191, 1, 1)])
@pytest.mark.parametrize("impl", ["native", "reference"])
def test_strips_are_the_rows_of_the_whole_map(
    rng: np.random.Generator, projection: str, crop: tuple[int, int, int, int] | None, impl: str
) -> None:
    p = latents(rng)
    laid: object = projection
    if projection == "field":
        laid = {"y": random_field(rng, 16, (-30, 30)), "z": random_field(rng, 64, (-90, 77), 1)}
    kwargs = {"crop": crop, "projection": laid, "impl": impl}
    whole = bitrate_ext.bitrate_map(p, (128, 192), **kwargs)
    for rows in (1, 7, 16, 64, 1000):
        strips = joined(bitrate_ext.map_strips(p, (128, 192), rows=rows, **kwargs))
        if impl == "native":
            assert_same_bytes(strips, whole, (rows, kwargs))
        else:  # PyTorch's log2 rounds by the place of an element
            torch.testing.assert_close(strips, whole, rtol=1e-6, atol=0)


def test_any_sizes_dtypes_and_layouts(rng: np.random.Generator) -> None:
    for index in range(60):
        shape = [int(n) for n in rng.integers(1, 9, 4)]
        size = [int(n) for n in rng.integers(1, 60, 2)]
        p = torch.from_numpy(rng.uniform(0.01, 1, shape)).to((torch.float32, torch.float64, torch.bfloat16)[index % 3])
        if index % 4 == 0:
            p = p.contiguous(memory_format=torch.channels_last)
        kwargs = {"projection": MODES[index % 3], "conserve": index % 2 == 0}
        if index % 5 == 0:
            kwargs["dtype"] = torch.float64
        strips = bitrate_ext.map_strips(p, size, rows=int(rng.integers(1, 20)), **kwargs)
        assert_same_bytes(joined(strips), bitrate_ext.bitrate_map(p, size, **kwargs), (shape, size, kwargs))


def test_strips_in_any_order_and_not_a_number(rng: np.random.Generator) -> None:
    """Strips know nothing of each other: the same bytes from a crop, a strip alone and all strips."""
    p = latents(rng)["y"]
    p[0, 3, 2, 5], p[1, 0, 0, 0] = float("nan"), 0.0
    whole = bitrate_ext.bitrate_map(p, (128, 192))
    strips = dict(bitrate_ext.map_strips(p, (128, 192), rows=20))
    for top in reversed(strips):
        crop = (top, 0, strips[top].shape[2], 192)
        assert bytes_of(strips[top]) == bytes_of(bitrate_ext.bitrate_map(p, (128, 192), crop=crop))
        assert bytes_of(strips[top]) == bytes_of(whole[:, :, top : top + 20])


def test_which_cells_rows_need() -> None:
    grids, whole = {"y": (4, 2), "z": (2, 2)}, torch.rand(1, 3, 4, 2)
    layout = RowProjector(grids, (8, 4), (1, 0, 7, 4), dict.fromkeys(grids, get_projection("nearest")))
    # Rows 1 to 7 of the canvas read the rows 0 1 1 2 2 3 3 of y and 0 0 0 1 1 1 1 of z.
    assert [layout.ready({"y": count, "z": 2}) for count in range(5)] == [0, 1, 3, 5, 7]
    assert layout.ready({"y": 4, "z": 1}) == 3
    assert layout.cells("y", 1, 4) == (1, 3)
    smooth = RowProjector({"y": (4, 2)}, (8, 4), (0, 0, 8, 4), {"y": get_projection("bilinear")})
    assert [smooth.ready({"y": count}) for count in range(5)] == [0, 0, 3, 5, 8]
    expected = bitrate_ext.bitrate_map(whole, (8, 4))
    for native, first in ((None, 3), (False, 5)):
        out = torch.empty(1, 1, 2, 4)
        assert smooth.map({"y": (1, whole[:, :, 1:])}, first, out, native=native) is out
        torch.testing.assert_close(out, expected[:, :, first : first + 2], rtol=0 if native is None else 1e-6, atol=0)


@pytest.mark.parametrize("unit", ["likelihood", "bits"])
def test_mapped_latents_give_the_same_strips(rng: np.random.Generator, tmp_path: Path, unit: str) -> None:
    shape = (1, 150, 8, 12) if unit == "likelihood" else (2, 8, 12)
    values = rng.uniform(0.01, 1, shape)
    values.tofile(tmp_path / "latents")
    mapped = torch.from_numpy(np.memmap(tmp_path / "latents", np.float64, "r+", shape=shape))
    assert shared_mapping(mapped)
    strips = bitrate_ext.map_strips(mapped, (128, 192), rows=50, unit=unit)
    assert_same_bytes(joined(strips), bitrate_ext.bitrate_map(torch.from_numpy(values), (128, 192), unit=unit))


def test_a_given_buffer_is_used_again(rng: np.random.Generator) -> None:
    p, out = latents(rng), torch.empty(2, 1, 50, 192)
    whole, done = bitrate_ext.bitrate_map(p, (128, 192)), 0
    for top, strip in bitrate_ext.map_strips(p, (128, 192), rows=50, out=out):
        assert strip.data_ptr() == out.data_ptr()
        assert strip.is_contiguous()
        assert bytes_of(strip) == bytes_of(whole[:, :, top : top + 50])
        done += strip.shape[2]
    assert done == 128


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"rows": 0}, ValueError, "rows must be a whole number of at least 1, got 0"),
        ({"rows": 2.5}, TypeError, "rows must be a whole number of at least 1, got 2.5"),
        ({"crop": (0, 0, 129, 1)}, ValueError, "must lie inside"),
        ({"projection": {"y": "area"}}, ValueError, "'z' is missing"),
        ({"out": torch.empty(2, 1, 255, 192)}, ValueError, "out must be torch.float32"),
        ({"out": torch.empty(2, 1, 192, 256).mT}, ValueError, "out must be contiguous"),
    ],
)
def test_bad_arguments(rng: np.random.Generator, kwargs: dict[str, object], error: type[Exception], words: str) -> None:
    """At the call, not at the first strip."""
    with pytest.raises(error, match=words):
        bitrate_ext.map_strips(latents(rng), (128, 192), **kwargs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a tensor or a dict of tensors, got list"):
        bitrate_ext.map_strips([torch.ones(1, 1, 1, 1)], (1, 1))  # type: ignore[arg-type]


def test_pages_are_given_back_of_shared_mappings_alone(tmp_path: Path) -> None:
    path = tmp_path / "latents"
    np.arange(1 << 20, dtype=np.float32).tofile(path)
    private = torch.from_numpy(np.memmap(path, np.float32, mode="c"))
    assert shared_mapping(private) is None
    assert shared_mapping(torch.ones(1 << 20)) is None
    shared = torch.from_numpy(np.memmap(path, np.float32, mode="r+"))
    span = shared_mapping(shared[1000:])
    assert span is not None
    shared[7] = -1.0
    give_back(span)
    assert shared[6:9].tolist() == [6.0, -1.0, 8.0]  # what was written is the file's


@pytest.mark.medium
def test_mapped_latents_larger_than_the_memory_in_use(tmp_path: Path) -> None:
    """A latent of 256 MiB in a file: no more than 48 MiB come in at a time, and the map adds up to all bits."""
    code = f"""
        import resource, numpy as np, torch, bitrate_ext
        shape = (1, 64, 1024, 1024)
        latents = np.memmap({str(tmp_path / "latents")!r}, np.float32, mode="w+", shape=shape)
        latents.ravel()[:] = 0.5
        del latents
        open("/proc/self/clear_refs", "w").write("5")
        def status(key):
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
        p = torch.from_numpy(np.memmap({str(tmp_path / "latents")!r}, np.float32, mode="r+", shape=shape))
        for _, strip in bitrate_ext.map_strips(p[:, :, :8, :8], (128, 128)):
            strip.double().sum().item()  # what a first call loads differs between releases of torch
        before, total, out = status("VmRSS"), 0.0, torch.empty(1, 1, 64, 4096)
        for top, strip in bitrate_ext.map_strips(p, (4096, 4096), rows=64, out=out):
            total += strip.double().sum().item()
        print(total / 2**26, (status("VmHWM") - before) / 1024)
    """
    share, rise = map(float, in_new_process(code).split())
    assert abs(share - 1) < 6e-8
    assert rise < 48, rise


@pytest.mark.medium
def test_a_frame_of_8k_takes_inputs_outputs_and_little_more() -> None:
    """Forward and backward of 320 channels: no more than 64 MiB beside the tensors themselves."""
    code = """
        import torch, bitrate_ext
        def status(key):
            return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
        small = torch.full((1, 320, 2, 2), 0.5, requires_grad=True)
        bitrate_ext.bitrate_map(small, scale_factor=16).sum().backward()
        before = status("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")
        p = torch.empty(1, 320, 270, 480).fill_(0.25).requires_grad_()
        grad = torch.ones(1, 1, 4320, 7680)
        out = bitrate_ext.bitrate_map(p, (4320, 7680))
        (gradient,) = torch.autograd.grad(out, p, grad)
        peak = status("VmHWM")
        tensors = 2 * 4 * p.numel() + 2 * 4 * out.numel()
        # A pixel costs 2 * 320 / 256 bits, and a cell gives away all of its bits.
        assert out.eq(2.5).all()
        exact = -1 / (0.25 * 0.6931471805599453)
        assert ((gradient - exact).abs() < 1e-6 * abs(exact)).all()
        print((peak - before - tensors) / 2**20)
    """
    assert float(in_new_process(code)) <= 64
