"""Which addresses the GPU kernels' bodies touch, for shapes of any size, and which launches they refuse.

As kernel_checks.py, but the tensors do not exist: the executor runs a body for its addresses alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import executing
import numpy as np
import pytest
import torch
from cases import DTYPES
from kernel_checks import seeded

# Addresses of tensors that do not exist, far apart.
LIKELIHOODS, MAP, GRADIENT = 1 << 52, 1 << 53, 1 << 54
SIZES = {torch.float64: 8, torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}


def _nowhere(address: int, sizes: list[int], strides: list[int], dtype: torch.dtype) -> dict[str, Any]:
    return {"storage": address, "offset": 0, "dtype": executing.CODES[dtype], "sizes": sizes, "strides": strides}


def _latent(
    rng: np.random.Generator, address: int, sizes: list[int], strides: list[int], dtype: torch.dtype
) -> dict[str, Any]:
    """Return likelihoods, or in one of four cases the bits of cells: then ``sizes`` gets a single channel."""
    if rng.random() < 0.75:
        return _nowhere(address, sizes, strides, dtype)
    sizes[1] = 1
    return _nowhere(address, [sizes[0], *sizes[2:]], [strides[0], *strides[2:]], dtype)


def _strides(rng: np.random.Generator, sizes: list[int]) -> list[int]:
    """Return the strides of a contiguous or channels_last tensor, of one with room between rows, or beyond 2^32."""
    n, c, h, w = sizes
    if n <= 64 and max(h, w) <= 3000 and rng.random() < 0.6:
        return [3 << 36, 5 << 34, 7 << 32, 1] if rng.random() < 0.5 else [3 << 36, 1, 5 << 34, 7 << 32]
    kind = int(rng.integers(3))
    if kind == 0:
        return [c * h * w, h * w, w, 1]
    if kind == 1:
        return [c * h * w, 1, c * w, c]
    room = w + int(rng.integers(0, 9))
    return [c * h * room + 8, h * room, room, 1]


def _long_band(rng: np.random.Generator, pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray, int]:
    taps = int(rng.integers(1, min(cells, 4) + 1))
    start = (np.arange(pixels) * (cells - taps + 1) // pixels).astype(np.int32)
    return start, np.full((taps, pixels), 0.5), cells


def _span(tile: int, size: int, shift: int, length: int) -> tuple[int, int]:
    return max(tile * size - shift, 0), min((tile + 1) * size - shift, length)


def _read_by(band: tuple[np.ndarray, np.ndarray, int], rows: tuple[int, int]) -> tuple[int, int]:
    start, weight, _ = band
    return int(start[rows[0]]), int(start[rows[1] - 1]) + weight.shape[0]


def _addresses(base: int, size: int, strides: list[int], spans: list[tuple[int, int]]) -> np.ndarray:
    """Return those of every element of a box, sorted; from Python's own integers."""
    found = np.array([base], dtype=object)
    for stride, (begin, end) in zip(strides, spans, strict=True):
        found = (found[:, None] + np.array([i * stride * size for i in range(begin, end)], dtype=object)).reshape(-1)
    return np.sort(found.astype(np.uint64))


def _elements(accesses: np.ndarray, stores: bool, size: int) -> np.ndarray:
    """Return the addresses of the elements that were loaded or stored, one for each time."""
    chosen = accesses[accesses[:, 2] == stores]
    counts = (chosen[:, 1] // size).astype(np.int64)
    first = np.repeat(chosen[:, 0], counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(first + within.astype(np.uint64) * np.uint64(size))


def _some_blocks(rng: np.random.Generator, blocks: int) -> list[int]:
    return sorted({0, blocks - 1, int(rng.integers(blocks))})


def _huge(rng: np.random.Generator, longest: int) -> tuple[list[int], tuple[int, int]]:
    """Return sizes [N, C, h, w] of up to 2^40 elements, and of the map."""
    while True:
        c, h, w = int(rng.integers(1, 40)), int(rng.integers(1, 200)), int(rng.integers(1, 200))
        if rng.random() < 0.2:
            h = int(rng.integers(1, longest))
        if rng.random() < 0.2:
            w = int(rng.integers(1, longest))
        n = 2 ** int(rng.integers(0, 30))
        size = (max(1, int(h * rng.choice([0.5, 1, 2, 3]))), max(1, int(w * rng.choice([0.5, 1, 2, 5]))))
        blocks = n * max((h // 2 + 1) * (w // 8 + 1), (size[0] // 16 + 2) * (size[1] // 64 + 2))
        if n * c * h * w <= 2**40 and n * size[0] * size[1] <= 2**40 and blocks < 2**31:
            return [n, c, h, w], size


def _huge_blocks(rng: np.random.Generator, count: int, longest: int) -> Iterator[tuple]:
    for index in range(count):
        sizes, size = _huge(rng, longest)
        if index < 3:  # a step of eight channels, and an image of the map, lie more than 2^31 elements apart
            sizes, size = [3, 9, 40_000, 40_000], (50_000, 50_000)
        yield sizes, size, _strides(rng, sizes), DTYPES[int(rng.integers(4))]


def check_addresses(module: ModuleType, count: int = 60, seed: int = 12, longest: int = 3000) -> None:
    """Forward, for shapes of up to 2^40 elements: exactly the likelihoods that a tile needs, each pixel once."""
    rng = seeded(seed)
    for sizes, size, strides, dtype in _huge_blocks(rng, count, longest):
        out = torch.float64 if rng.random() < 0.3 else torch.float32
        rows, columns = (_long_band(rng, pixels, cells) for pixels, cells in zip(size, sizes[2:], strict=True))
        likelihood = _latent(rng, LIKELIHOODS, sizes, strides, dtype)
        target = _nowhere(MAP, [sizes[0], 1, *size], [size[0] * size[1], size[0] * size[1], size[1], 1], out)
        terms = [{"values": likelihood, "rows": rows, "columns": columns}]
        setting = {"threads": 32, "tile_rows": 16, "tile_columns": 64}
        plan, _ = module.index_project(terms, target, setting, [])
        for block in _some_blocks(rng, plan["blocks"]):
            _, accesses = module.index_project(terms, target, setting, [block])
            row, image = (
                block // plan["column_tiles"] % plan["row_tiles"],
                block // (plan["column_tiles"] * plan["row_tiles"]),
            )
            y = _span(row, 16, plan["row_shift"], size[0])
            x = _span(block % plan["column_tiles"], 64, plan["column_shift"], size[1])
            i, j = _read_by(rows, y), _read_by(columns, x)
            if plan["width"] == 4 and strides[3] == 1:  # whole loads
                j = (j[0] // 4 * 4, -(-j[1] // 4) * 4)
            box = [(image, image + 1), (0, sizes[1]), i, j]
            loaded = _elements(accesses, False, SIZES[dtype])
            assert np.array_equal(np.unique(loaded), np.unique(_addresses(LIKELIHOODS, SIZES[dtype], strides, box))), (
                sizes,
                size,
            )
            pixels = _addresses(MAP, SIZES[out], [size[0] * size[1], size[1], 1], [(image, image + 1), y, x])
            assert np.array_equal(_elements(accesses, True, SIZES[out]), pixels), (sizes, size)


def check_gradient_addresses(module: ModuleType, count: int = 60, seed: int = 13, longest: int = 3000) -> None:
    """Backward: exactly the pixels that the tile's cells reached, each likelihood and each gradient once."""
    rng = seeded(seed)
    for sizes, size, strides, dtype in _huge_blocks(rng, count, longest):
        n, c, h, w = sizes
        wide = rng.random() < 0.3
        rows, columns = (_long_band(rng, cells, pixels) for pixels, cells in zip(size, sizes[2:], strict=True))
        likelihood = _latent(rng, LIKELIHOODS, sizes, strides, dtype)
        c, bits = sizes[1], len(likelihood["sizes"]) == 3
        gradient = {**likelihood, "storage": GRADIENT}
        pixel = torch.float64 if wide else torch.float32
        grad_strides = [size[0] * size[1], size[0] * size[1], size[1], 1]
        grad = _nowhere(MAP, [n, 1, *size], grad_strides, pixel)
        term = {"values": likelihood, "rows": rows, "columns": columns}
        setting = {"threads": 32, "tile_rows": 2, "tile_columns": 8}
        plan, _ = module.index_backward(grad, term, gradient, setting, [])
        for block in _some_blocks(rng, plan["blocks"]):
            _, accesses = module.index_backward(grad, term, gradient, setting, [block])
            row, image = (
                block // plan["column_tiles"] % plan["row_tiles"],
                block // (plan["column_tiles"] * plan["row_tiles"]),
            )
            i, j = _span(row, 2, 0, h), _span(block % plan["column_tiles"], 8, 0, w)
            box = [(image, image + 1), (0, c), i, j]
            stored = _elements(accesses, True, SIZES[dtype])
            assert np.array_equal(stored, _addresses(GRADIENT, SIZES[dtype], strides, box)), (sizes, size)
            of_map = accesses[:, 0] >= MAP
            loaded = _elements(accesses[~of_map], False, SIZES[dtype])
            expected = _addresses(LIKELIHOODS, SIZES[dtype], strides, box)[: 0 if bits else None]
            assert np.array_equal(loaded, expected), (sizes, size)
            x = _read_by(columns, j)
            needed = np.unique(np.concatenate([
                _addresses(MAP, SIZES[pixel], grad_strides, [(image, image + 1), (0, 1), _read_by(rows, (k, k + 1)), x])
                for k in range(*i)
            ]))  # fmt: skip
            read = np.unique(_elements(accesses[of_map & (accesses[:, 2] == 0)], False, SIZES[pixel]))
            assert np.array_equal(read, needed), (sizes, size)


def check_guide_addresses(module: ModuleType, count: int = 40, seed: int = 21, longest: int = 3000) -> None:
    """Of a picture: each pixel that a tile depends on, and each of the guide once."""
    rng = seeded(seed)
    for sizes, _, strides, dtype in _huge_blocks(rng, count, longest):
        n, c, h, w = sizes[0], min(sizes[1], 4), *sizes[2:]
        tiles = (-(-h // 16), -(-w // 64))
        if n * tiles[0] * tiles[1] >= 2**31:
            continue
        picture = _nowhere(LIKELIHOODS, [n, c, h, w], strides, dtype)
        target = _nowhere(MAP, [n, 1, h, w], [h * w, h * w, w, 1], torch.float32)
        phases = executing.view(torch.zeros([int(v) for v in rng.integers(1, 9, 2)]))
        for block in _some_blocks(rng, n * tiles[0] * tiles[1]):
            _, accesses = module.index_guide(picture, [0.5] * 4, phases, target, {"threads": 32}, [block])
            image, row, column = block // (tiles[0] * tiles[1]), block // tiles[1] % tiles[0], block % tiles[1]
            y, x = _span(row, 16, 0, h), _span(column, 64, 0, w)
            near = [(max(y[0] - 5, 0), min(y[0] + 21, h)), (max(x[0] - 5, 0), min(x[0] + 69, w))]
            of_picture = (accesses[:, 0] >= LIKELIHOODS) & (accesses[:, 0] < MAP)
            loaded = np.unique(_elements(accesses[of_picture], False, SIZES[dtype]))
            box = _addresses(LIKELIHOODS, SIZES[dtype], strides, [(image, image + 1), (0, c), *near])
            assert np.array_equal(loaded, np.unique(box)), (sizes, strides)
            pixels = _addresses(MAP, 4, [h * w, w, 1], [(image, image + 1), y, x])
            assert np.array_equal(_elements(accesses, True, 4), pixels), sizes


def _refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def check_refusals(module: ModuleType) -> None:
    """What a launch cannot hold is refused before it starts."""

    def launch(sizes: list[int], size: tuple[int, int], count: int = 1, **setting: int) -> Any:
        n, c, h, w = sizes
        rows, columns = ((np.zeros(k, np.int32), np.ones((1, k)), cells) for k, cells in zip(size, (h, w), strict=True))
        p = _nowhere(LIKELIHOODS, sizes, [c * h * w, h * w, w, 1], torch.float32)
        out = _nowhere(MAP, [n, 1, *size], [size[0] * size[1], 1, size[1], 1], torch.float32)
        terms = [{"values": p, "rows": rows, "columns": columns}] * count
        return module.index_project(terms, out, setting, [])[0]

    def backward(sizes: list[int]) -> Any:
        n, c, h, w = sizes
        p = _nowhere(LIKELIHOODS, sizes, [c * h * w, h * w, w, 1], torch.float32)
        grad = _nowhere(MAP, [n, 1, 1, 1], [1, 1, 1, 1], torch.float32)
        band = [(np.zeros(k, np.int32), np.ones((1, k)), 1) for k in (h, w)]
        term = {"values": p, "rows": band[0], "columns": band[1]}
        return module.index_backward(grad, term, p, {}, [])[0]

    assert launch([1, 1, 2, 2], (4, 4), count=20)["blocks"] == 1
    _refused(lambda: launch([1, 1, 2, 2], (4, 4), tile_rows=3, tile_columns=8), "multiples of 4 pixels, got 3 x 8")
    _refused(lambda: launch([1, 1, 2, 2], (4, 4), tile_rows=8, tile_columns=-4), "multiples of 4 pixels, got 8 x -4")
    _refused(lambda: launch([1, 1, 2, 2], (4, 4), count=21), "at most 20 latents")
    assert launch([2**31 - 1, 1, 1, 1], (1, 1))["blocks"] == 2**31 - 1
    _refused(lambda: launch([2**31, 1, 1, 1], (1, 1)), "too large for one launch")
    _refused(lambda: launch([2**31 - 1, 1, 1, 1], (1, 2000)), "too large for one launch")
    _refused(lambda: launch([1, 1, 1, 2**31 - 1023], (1, 1)), "at most 2147482624 long")
    _refused(lambda: launch([1, 2**22 + 1, 1, 1], (1, 1)), "at most 4194304 channels")
    assert backward([2**31 - 1, 1, 1, 1])["blocks"] == 2**31 - 1
    _refused(lambda: backward([2**31, 1, 1, 1]), "too large for one launch")
    _refused(
        lambda: launch([1, 1, 2, 2], (4, 4), tile_rows=512, tile_columns=512, shared_bytes=999),
        "bytes of shared memory",
    )

    def guide(sizes: list[int]) -> Any:
        n, c, h, w = sizes
        picture = _nowhere(LIKELIHOODS, sizes, [c * h * w, h * w, w, 1], torch.float32)
        target = _nowhere(MAP, [n, 1, h, w], [h * w, h * w, w, 1], torch.float32)
        return module.index_guide(picture, [0.0] * 4, executing.view(torch.zeros(1, 1)), target, {}, [])[0]

    assert guide([2**31 - 1, 1, 1, 64])["blocks"] == 2**31 - 1
    _refused(lambda: guide([2**31 - 1, 1, 1, 65]), "too many pixels for one launch")
    _refused(lambda: guide([1, 1, 1, 2**31 - 1023]), "at most 2147482624 long")
