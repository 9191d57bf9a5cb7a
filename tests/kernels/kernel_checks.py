"""What the GPU kernels' bodies must hold to, as checks of an executor.

Tests call them with the executor of this tree; planted faults (faults/kernels.txt) with that of a tree with a
fault, where the check that the fault names has to fail.
"""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import executing
import numpy as np
import torch
from cases import DTYPES, Case, assert_same_bytes, likelihoods, random_case
from torch import Tensor

from bitrate_ext.ops.band import Band

THREADS = (32, 64, 96, 256, 1024)
SPOILS = (float("nan"), 0.0, -0.0, float("inf"), 1.5, -0.5, -float("inf"), 2.0**-140)


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def spoiled(rng: np.random.Generator, p: Tensor, share: float = 0.3) -> Tensor:
    """Put some likelihoods out of range."""
    if p.numel() and rng.random() < share:
        where = torch.from_numpy(rng.integers(0, p.numel(), 3))
        p = p.clone()
        p.view(-1)[where] = torch.from_numpy(rng.choice(SPOILS, 3)).to(p.dtype)
    return p


def in_a_layout(rng: np.random.Generator, p: Tensor) -> Tensor:
    """Return a tensor contiguous, channels_last, with gaps, transposed, with a stride of zero, or at any address."""
    choice = int(rng.integers(8))
    if choice == 0:
        return p.contiguous(memory_format=torch.channels_last)
    if choice == 1:
        return torch.stack([p, torch.full_like(p, float("nan"))], dim=-1)[..., 0]
    if choice == 2:
        return p.transpose(2, 3).contiguous().transpose(2, 3)
    if choice == 3:
        return p[:, :, :, :1].expand(p.shape)
    if choice == 4:
        offset = int(rng.integers(0, 32))
        room = torch.full((offset + p.numel(),), float("nan"), dtype=p.dtype)
        room[offset:] = p.reshape(-1)
        return room[offset:].view(p.shape)
    if choice == 5:  # rows with room to the right: loads may be aligned, but rows do not follow each other
        room = torch.full((*p.shape[:3], p.shape[3] + int(rng.integers(1, 9))), float("nan"), dtype=p.dtype)
        room[..., : p.shape[3]] = p
        return room[..., : p.shape[3]]
    if choice == 6:
        return padded_channels_last(p)
    return p


def padded_channels_last(p: Tensor) -> Tensor:
    """Return channels of a cell adjacent, and room behind them up to a multiple of four."""
    room = torch.full((p.shape[0], *p.shape[2:], -(-p.shape[1] // 4) * 4), float("nan"), dtype=p.dtype)
    room[..., : p.shape[1]] = p.permute(0, 2, 3, 1)
    return room[..., : p.shape[1]].permute(0, 3, 1, 2)


def launches(rng: np.random.Generator) -> dict[str, int]:
    """Return threads a block, and an order of threads and blocks."""
    return {
        "threads": int(rng.choice(THREADS, p=(0.45, 0.3, 0.1, 0.1, 0.05))),
        "order": int(rng.integers(3)),
        "seed": int(rng.integers(2**31)),
    }


def random_bands(rng: np.random.Generator, pixels: int, cells: int, taps: int, shape: str = "sorted") -> Band:
    """Return a band with any weights, some of them zero. Its starts rise, fall, or jump."""
    start = rng.integers(0, cells - taps + 1, pixels)
    if shape != "jumping":
        start = np.sort(start)
    if shape == "falling":
        start = start[::-1]
    weight = rng.random((taps, pixels)) * (rng.random((taps, pixels)) < 0.9)
    return Band(torch.from_numpy(np.ascontiguousarray(start, dtype=np.int32)), torch.from_numpy(weight), cells)


def case_dtype(case: Case) -> torch.dtype:
    wide = any(p.dtype == torch.float64 for p in case.likelihoods)
    return case.dtype or (torch.float64 if wide else torch.float32)


def assert_map(
    module: ModuleType, tensors: list[Tensor], bands: Any, dtype: torch.dtype, what: object, **setting: int
) -> dict:
    found, summary = executing.kernel_map(module, tensors, bands, dtype, **setting)
    assert_same_bytes(found, executing.native_map(tensors, bands, dtype), (what, summary, setting))
    return summary


def assert_gradient(module: ModuleType, p: Tensor, bands: Any, grad: Tensor, what: object, **setting: int) -> dict:
    found, summary = executing.kernel_gradient(module, p, bands, grad, **setting)
    assert_same_bytes(found, executing.native_gradient(p, bands, grad), (what, summary, setting))
    return summary


def check_maps(module: ModuleType, count: int = 60, seed: int = 1) -> None:
    """Any shape, projection, crop, dtype, layout, value, block size and order."""
    rng = seeded(seed)
    for _ in range(count):
        case = random_case(rng, elements=1500, pixels=4000, empty=False)
        tensors = [in_a_layout(rng, spoiled(rng, p)) for p in case.likelihoods]
        bands = executing.case_bands(case, tensors)
        assert_map(module, tensors, bands, case_dtype(case), case, **launches(rng))


def check_guides(module: ModuleType, count: int = 40, seed: int = 19) -> None:
    """Guides of any values, cut out of larger ones: rows that begin at any address, and loads of one or of four."""
    rng = seeded(seed)
    for index in range(count):
        n, c, h, w = (int(v) for v in rng.integers(1, (4, 6, 6, 9)))
        height, width = int(rng.integers(1, 40)), int(rng.integers(1, 150))
        if index % 4:  # rows of whole loads, where the guide's need not be
            width += -width % 4
        p = spoiled(rng, likelihoods(rng, (n, c, h, w), DTYPES[index % 4]))
        pairs = [(random_bands(rng, height, h, min(h, 3)), random_bands(rng, width, w, min(w, 3)))]
        before, after = (int(4 * v if index % 2 else v) for v in rng.integers(0, 4, 2))
        whole = torch.from_numpy(rng.uniform(0.01, 9, (n, 1, height + 3, before + width + after))).float()
        guide = spoiled(rng, whole)[:, :, 2 : 2 + height, before : before + width]
        found, summary = executing.kernel_map(module, [p], pairs, guide=guide, **launches(rng))
        assert_same_bytes(found, executing.native_map([p], pairs, guide=guide), (summary, guide.shape, guide.stride()))


def check_picture_guides(module: ModuleType, count: int = 40, seed: int = 20) -> None:
    """Pictures of any size, also smaller than what a pixel depends on, and layout, dtype and values."""
    rng = seeded(seed)
    for index in range(count):
        n, channels = int(rng.integers(1, 3)), int(rng.choice([1, 2, 3, 3, 3, 5]))
        height, width = int(rng.integers(1, 12 if index % 2 else 40)), int(rng.integers(1, 140 if index % 4 else 12))
        picture = torch.from_numpy(rng.uniform(-0.2, 1.2, (n, channels, height, width))).to(DTYPES[index % 4])
        picture = in_a_layout(rng, spoiled(rng, picture))
        weights = rng.uniform(-2.5, 2.5, 4).tolist()
        phases = torch.from_numpy(rng.uniform(-1, 1, rng.integers(1, 20, 2))).float()
        found = executing.kernel_picture_guide(module, picture, weights, phases, **launches(rng))
        expected = executing.native_picture_guide(picture, weights, phases)
        assert_same_bytes(found, expected, (picture.dtype, picture.shape, picture.stride()))


def check_gradients(module: ModuleType, count: int = 60, seed: int = 2) -> None:
    rng = seeded(seed)
    for _ in range(count):
        case = random_case(rng, elements=1500, pixels=4000, latents=1, empty=False)
        (p,) = (in_a_layout(rng, spoiled(rng, p)) for p in case.likelihoods)
        if 0 in p.stride():
            p = p.contiguous()  # a gradient is written to every element, so none may share memory
        (bands,) = executing.case_bands(case, [p], transposed=True)
        shape = (p.shape[0], 1, bands[0].cells, bands[1].cells)
        grad = torch.from_numpy(rng.standard_normal(shape)).to(case_dtype(case))
        assert_gradient(module, p, bands, grad, case, **launches(rng))


def _plain(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return likelihoods(rng, shape, dtype, "uniform")


def _whole_factor(rng: np.random.Generator, p: Tensor, factor: int, mode: str = "bilinear") -> Any:
    case = Case([p], (p.shape[2] * factor, p.shape[3] * factor), mode=mode)
    return executing.case_bands(case, [p])


def check_wide_loads(module: ModuleType, count: int = 100, seed: int = 3) -> None:
    """Four cells or four lanes a load, where strides and addresses allow it, and one where they do not."""
    rng = seeded(seed)
    seen = set()
    for index in range(count):
        dtype = DTYPES[index % 4]
        shape = (
            int(rng.integers(1, 3)),
            4 * int(rng.integers(1, 30)),
            int(rng.integers(1, 9)),
            4 * int(rng.integers(1, 12)),
        )
        p = spoiled(rng, _plain(rng, shape, dtype))
        if index % 3 == 1:
            p = p.contiguous(memory_format=torch.channels_last)
        if index % 3 == 2:
            p = in_a_layout(rng, p)
        bands = _whole_factor(rng, p, int(rng.integers(1, 9)))
        wide = assert_map(module, [p], bands, torch.float32, p.stride(), width=4, **launches(rng))
        assert_map(module, [p], bands, torch.float32, p.stride(), width=1, **launches(rng))
        aligned = p.is_contiguous() and p.storage_offset() == 0 and dtype != torch.float64
        assert wide["width"] == 4 or not aligned, (p.shape, p.stride(), dtype)
        seen.add((wide["width"], dtype))
    assert {(4, d) for d in DTYPES[:1] + DTYPES[2:]} <= seen


def check_tiles(module: ModuleType, count: int = 40, seed: int = 4) -> None:
    """Tiles of every size that the plan may choose, and others."""
    rng = seeded(seed)
    for _ in range(count):
        p = _plain(
            rng, (1, int(rng.integers(1, 20)), int(rng.integers(1, 12)), int(rng.integers(1, 30))), torch.float32
        )
        bands = _whole_factor(
            rng, p, int(rng.choice([1, 2, 3, 8, 16])), str(rng.choice(["bilinear", "nearest", "area"]))
        )
        tile = {
            "tile_rows": int(rng.choice([4, 8, 12, 16, 32, 64])),
            "tile_columns": int(rng.choice([4, 8, 20, 64, 128, 256])),
        }
        assert_map(module, [p], bands, torch.float32, p.shape, **tile, **launches(rng))


def any_size(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Return numbers so small that they are subnormal as float16, so large that they are infinite, and others."""
    return torch.from_numpy(rng.standard_normal(shape) * np.exp2(rng.integers(-30, 20, shape)))


def check_gradient_tiles(module: ModuleType, count: int = 24, seed: int = 5) -> None:
    rng = seeded(seed)
    for index in range(count):
        shape = (
            int(rng.integers(1, 3)),
            4 * int(rng.integers(1, 6)),
            int(rng.integers(1, 12)),
            4 * int(rng.integers(1, 8)),
        )
        p = spoiled(rng, _plain(rng, shape, DTYPES[index % 4]))
        if index // 4 % 2:  # every number format in both layouts
            p = p.contiguous(memory_format=torch.channels_last)
        factor = int(rng.choice([1, 2, 5, 8]))
        case = Case([p], (shape[2] * factor, shape[3] * factor))
        (bands,) = executing.case_bands(case, [p], transposed=True)
        grad = any_size(rng, (shape[0], 1, *case.canvas)).float()
        tile = {"tile_rows": int(rng.choice([1, 2, 4, 8])), "tile_columns": int(rng.choice([4, 8, 16, 32]))}
        for width in (0, 1):
            assert_gradient(module, p, bands, grad, shape, width=width, **tile, **launches(rng))


def check_many_latents(module: ModuleType, count: int = 16, seed: int = 6) -> None:
    """Up to twenty latents in one launch: other grids, channels, dtypes and layouts each."""
    rng = seeded(seed)
    for index in range(count):
        number, size = (
            (20 if index == 0 else int(rng.integers(2, 7))),
            (int(rng.integers(1, 60)), int(rng.integers(1, 90))),
        )
        tensors, bands = [], []
        for _ in range(number):
            shape = (2, int(rng.integers(1, 12)), int(rng.integers(1, 9)), int(rng.integers(1, 12)))
            p = in_a_layout(rng, spoiled(rng, _plain(rng, shape, DTYPES[int(rng.integers(4))]), 0.1))
            tensors.append(p)
            bands += executing.case_bands(Case([p], size, mode=str(rng.choice(["bilinear", "area", "nearest"]))), [p])
        assert_map(module, tensors, bands, torch.float64 if index % 2 else torch.float32, size, **launches(rng))


def check_stages(module: ModuleType, count: int = 30, seed: int = 7) -> None:
    """Bands so wide that a tile's cells come in stages: many taps, starts that fall or jump, little memory."""
    rng = seeded(seed)
    staged = 0
    for index in range(count):
        shape = (1, int(rng.integers(1, 25)), int(rng.integers(1, 70)), int(rng.integers(1, 400)))
        tensors = [in_a_layout(rng, spoiled(rng, _plain(rng, shape, DTYPES[index % 4])))]
        if index % 3 == 0:
            tensors.append(_plain(rng, (1, 3, 5, 9), torch.float32))
        size = (int(rng.integers(1, 40)), int(rng.integers(1, 70)))
        bands = [
            tuple(
                random_bands(
                    rng,
                    pixels,
                    cells,
                    int(rng.integers(1, cells + 1)),
                    str(rng.choice(["sorted", "falling", "jumping"])),
                )
                for pixels, cells in zip(size, p.shape[2:], strict=True)
            )
            for p in tensors
        ]
        setting = launches(rng)
        if index % 2:  # a tile at least, and a stage of one row
            setting |= {"shared_bytes": 40_000}
        staged += not assert_map(module, tensors, bands, torch.float32, (shape, size), **setting)["whole"]
    assert staged > count / 4


def some_bits(rng: np.random.Generator, n: int, index: int) -> Tensor:
    """Return bits of cells in any layout: one channel of a larger tensor. Many cells, often."""
    h, w = (int(rng.integers(1, 60)), int(rng.integers(1, 300))) if index % 3 == 0 else rng.integers(1, 12, 2).tolist()
    p = spoiled(rng, likelihoods(rng, (n, int(rng.integers(1, 4)), h, w), DTYPES[int(rng.integers(4))], "uniform"))
    return in_a_layout(rng, p * int(rng.integers(1, 60)))[:, 0]


def check_bits(module: ModuleType, count: int = 60, seed: int = 16) -> None:
    """Bits of cells that are given, alone and beside likelihoods, in one stage and in several."""
    rng = seeded(seed)
    staged = 0
    for index in range(count):
        size = (int(rng.integers(1, 60)), int(rng.integers(1, 90)))
        n = int(rng.integers(1, 3))
        tensors = [some_bits(rng, n, index) for _ in range(int(rng.integers(1, 3)))]
        if index % 4 == 0:
            tensors.insert(int(rng.integers(2)), _plain(rng, (n, 3, 5, 9), torch.float32))
        bands = [
            tuple(
                random_bands(rng, pixels, cells, int(rng.integers(1, min(cells, 99) + 1)))
                for pixels, cells in zip(size, one.shape[-2:], strict=True)
            )
            for one in tensors
        ]
        setting = launches(rng) | ({"shared_bytes": 40_000} if index % 2 else {})
        dtype = torch.float64 if index % 5 == 0 else torch.float32
        staged += not assert_map(module, tensors, bands, dtype, size, **setting)["whole"]
    assert staged > count / 10


def check_bit_gradients(module: ModuleType, count: int = 40, seed: int = 17) -> None:
    rng = seeded(seed)
    for index in range(count):
        bits = some_bits(rng, int(rng.integers(1, 3)), 0 if index % 4 == 0 else 1)
        if 0 in bits.stride():
            bits = bits.contiguous()
        size = (int(rng.integers(1, 60)), int(rng.integers(1, 200)))
        bands = tuple(
            random_bands(rng, cells, pixels, int(rng.integers(1, pixels + 1)))
            for cells, pixels in zip(bits.shape[-2:], size, strict=True)
        )
        grad = any_size(rng, (bits.shape[0], 1, *size))
        room = torch.full((*bits.shape, 2), float("nan"), dtype=bits.dtype)
        setting = launches(rng) | ({"shared_bytes": 6000} if index % 2 else {})
        if index % 4 == 0:  # each thread has several cells
            setting |= {"tile_rows": 8, "tile_columns": 32, "threads": 32}
        expected = executing.native_gradient(bits, bands, grad if index % 3 else grad.float())
        found, _ = executing.kernel_gradient(
            module, bits, bands, grad if index % 3 else grad.float(), gradient=room[..., 0], **setting
        )
        assert_same_bytes(found, expected, (bits.shape, bits.stride(), setting))
        assert room[..., 1].isnan().all()


def check_gradient_chunks(module: ModuleType, count: int = 24, seed: int = 8) -> None:
    """Pixel columns in several chunks, cells that reach no pixel, falling and jumping starts."""
    rng = seeded(seed)
    for _ in range(count):
        p = _plain(rng, (1, int(rng.integers(1, 9)), int(rng.integers(1, 6)), int(rng.integers(1, 12))), torch.float32)
        size = (int(rng.integers(1, 60)), int(rng.integers(1, 900)))
        rows, columns = (
            random_bands(
                rng, cells, pixels, int(rng.integers(1, min(pixels, 300) + 1)), str(rng.choice(["sorted", "falling"]))
            )
            for cells, pixels in zip(p.shape[2:], size, strict=True)
        )
        grad = torch.from_numpy(rng.standard_normal((1, 1, *size))).float()
        setting = {"shared_bytes": 6000, "multiprocessors": int(rng.choice([1, 132]))}
        assert_gradient(module, p, (rows, columns), grad, size, **setting, **launches(rng))


def check_channels(module: ModuleType, seed: int = 9) -> None:
    """Every number of channels around the lanes and groups, wide and narrow loads, channels_last and not."""
    rng = seeded(seed)
    for channels in [*range(1, 20), 47, 48, 49, 56, 95, 96, 97, 100, 192, 193, 196, 320]:
        p = _plain(rng, (1, channels, 2, 4), DTYPES[channels % 3 and 1 + channels % 3])
        last = p.contiguous(memory_format=torch.channels_last)
        for tensor in (p, last, padded_channels_last(p)):
            bands = _whole_factor(rng, tensor, 1)
            for width in (1, 4):
                assert_map(module, [tensor], bands, torch.float64, channels, width=width, **launches(rng))


def check_special_values(module: ModuleType, count: int = 60, seed: int = 15) -> None:
    """Pairs of NaN, infinities, zeros and others in one cell and in neighbouring ones, at every lane."""
    rng = seeded(seed)
    for index in range(count):
        channels = int(rng.integers(2, 30))
        p = _plain(rng, (1, channels, 2, 4), DTYPES[index % 4])
        for _ in range(4):
            p[0, int(rng.integers(channels)), :, int(rng.integers(4))] = float(rng.choice(SPOILS))
        if index % 3 == 0:
            p = p.contiguous(memory_format=torch.channels_last)
        case = Case([p], ((2, 4), (4, 8), (3, 7))[index % 3], mode=("nearest", "bilinear", "area")[index // 3 % 3])
        assert_map(module, [p], executing.case_bands(case, [p]), torch.float32, p, **launches(rng))
        (turned,) = executing.case_bands(case, [p], transposed=True)
        grad = torch.from_numpy(rng.choice([0.0, -0.0, 1.0, -2.0, np.inf, np.nan], (1, 1, *case.canvas))).float()
        assert_gradient(module, p, turned, grad, p, **launches(rng))


def check_special_channels(module: ModuleType, channels: int = 200, seed: int = 18) -> None:
    """Each special value at each of 200 channels: compiled code takes up to 192 at a time, each by its own."""
    rng = seeded(seed)
    every = np.arange(channels)
    for dtype, last, width in itertools.product(DTYPES, (False, True), (1, 4)):
        if dtype == torch.float64 and width == 4:
            continue  # never loaded so
        alone = _plain(rng, (1, channels, len(SPOILS), channels), dtype)  # a cell for each value at each channel
        dense = _plain(rng, (1, channels, 2, len(SPOILS) // 2), dtype)  # for gradients, which no other channel spoils
        for index, value in enumerate(SPOILS):
            alone[0, every, index, every] = value
            place = (every + index) % len(SPOILS)
            dense[0, every, place // dense.shape[3], place % dense.shape[3]] = value
        if last:
            alone, dense = (p.contiguous(memory_format=torch.channels_last) for p in (alone, dense))
        bands, (turned,) = (
            executing.case_bands(Case([p], tuple(p.shape[2:]), mode="nearest"), [p], transposed=p is dense)
            for p in (alone, dense)
        )
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        what, order = (dtype, last, width), int(rng.integers(3))
        assert_map(module, [alone], bands, kind, what, width=width, order=order)
        grad = torch.from_numpy(rng.standard_normal((1, 1, *dense.shape[2:]))).to(kind)
        assert_gradient(module, dense, turned, grad, what, width=width, order=order)


def check_map_alignment(module: ModuleType, seed: int = 10) -> None:
    """Maps at any address and of any width, float32 and float64, with canaries around."""
    rng = seeded(seed)
    for offset in range(8):
        for width in (1, 3, 4, 5, 8, 64, 66):
            p = _plain(rng, (2, 3, 3, 4), torch.float32)
            bands = executing.case_bands(Case([p], (7, width), mode="area"), [p])
            for dtype in (torch.float32, torch.float64):
                expected = executing.native_map([p], bands, dtype)
                room = torch.full((offset + expected.numel() + 5,), 7.0, dtype=dtype)
                out = room[offset : offset + expected.numel()].view(expected.shape)
                executing.kernel_map(module, [p], bands, out=out, **launches(rng))
                assert_same_bytes(out, expected, (offset, width))
                assert (room[:offset] == 7).all()
                assert (room[offset + expected.numel() :] == 7).all()


def check_halves(module: ModuleType, seed: int = 11) -> None:
    """A tile begins where a band's starts change, so tiles share as few cells as they can."""
    p = _plain(seeded(seed), (1, 2, 9, 40), torch.float32)
    bands = _whole_factor(seeded(seed), p, 16)
    summary = assert_map(module, [p], bands, torch.float32, "", tile_rows=32, tile_columns=64)
    assert (summary["row_shift"], summary["column_shift"]) == (8, 8)
    assert (summary["row_tiles"], summary["column_tiles"]) == (5, 11)


def check_grid_limits(
    module: ModuleType, seed: int = 14, lengths: tuple[int, ...] = (65_535, 65_536, 65_537, 2**20)
) -> None:
    """N * C, H and W at the limits of other kernels' grids."""
    rng = seeded(seed)
    for long in lengths:
        shapes = [((1, 1, long, 1), (long, 1)), ((1, 1, 1, long), (1, long)), ((1, long, 1, 1), (3, 2))]
        if long < 2**20:  # a block an image: fibers for a million blocks take too long
            shapes.append(((long, 1, 1, 1), (1, 1)))
        for shape, size in shapes:
            setting = {"threads": 2 if shape[0] > 1 else 32, "order": int(rng.integers(3))}
            p = _plain(rng, shape, torch.float32)
            case = Case([p], size, mode="nearest")
            assert_map(module, [p], executing.case_bands(case, [p]), torch.float32, shape, **setting)
            (turned,) = executing.case_bands(case, [p], transposed=True)
            grad = torch.from_numpy(rng.standard_normal((shape[0], 1, *size))).float()
            assert_gradient(module, p, turned, grad, shape, **setting)
