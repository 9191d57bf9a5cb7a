"""What the GPU kernels of sources must hold to, as checks of an executor; see kernel_checks.py."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import executing
import numpy as np
import torch
from cases import assert_same_bytes
from kernel_addresses import _addresses, _elements, _nowhere, _strides
from kernel_checks import in_a_layout, launches, seeded, spoiled
from torch import Tensor

from bitrate_ext.ops.sources import FACTORIZED, MIXTURE

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
RUN = 32  # cells of a block: kRunCells of csrc/core/rate.h
LANES = 8


def random_source(rng: np.random.Generator, dtype: torch.dtype, family: int, elements: int = 3000) -> dict[str, Any]:
    """Return tensors in any layout, some values out of range, and a family with its bound and floor."""
    n, c, h, w = int(rng.integers(1, 3)), int(rng.integers(1, 60)), int(rng.integers(1, 9)), int(rng.integers(1, 15))
    c = max(1, min(c, elements // (n * h * w)))
    parts = int(rng.integers(1, 4)) if family == MIXTURE else 1
    scales = 0.05 * np.exp(rng.random((n, parts * c, h, w)) * 7)
    means = rng.standard_normal((n, parts * c, h, w)) * 3
    values = means[:, :c] + rng.standard_normal((n, c, h, w)) * scales[:, :c] * rng.choice([1, 10])
    weights = rng.random((n, parts * c, h, w))
    tensors = [values, scales, means, weights][: {MIXTURE: 4, FACTORIZED: 1}.get(family, 3)]
    made = [in_a_layout(rng, spoiled(rng, torch.from_numpy(t).to(dtype), 0.15)) for t in tensors]
    if family == FACTORIZED:
        made = [spoiled(rng, torch.from_numpy(values).to(dtype), 0.15), parameters_of(rng, c)]
    return {
        "tensors": made,
        "family": family,
        "bound": float(rng.choice([0.11, -np.inf, 0.5])),
        "floor": float(rng.choice([0.0, 1e-9, 0.01])),
    }


def parameters_of(rng: np.random.Generator, channels: int) -> Tensor:
    """Return those of networks whose weights are positive and whose gates are above -1."""
    layers = []
    for before, after in ((1, 3), (3, 3), (3, 3), (3, 3), (3, 1)):
        layers += [0.2 + rng.random((channels, before * after)), rng.standard_normal((channels, after))]
        layers += [np.tanh(rng.standard_normal((channels, after)))] * (after > 1)
    weights = np.concatenate(layers, 1)
    rounded = weights.astype(np.float32)
    return torch.from_numpy(np.concatenate([rounded, np.full((channels, 1), 0.25), weights - rounded], 1)).float()


def _viewed(source: dict[str, Any], cells: Tensor, gradients: list[Tensor | None]) -> dict[str, Any]:
    return {
        "family": source["family"],
        "bound": source["bound"],
        "floor": source["floor"],
        "inputs": [executing.view(t) for t in source["tensors"]],
        "gradients": [None if g is None else executing.view(g) for g in gradients],
        "cells": executing.view(cells),
    }


def _kinds(sources: list[dict[str, Any]]) -> list[list[Any]]:
    return [[source[name] for source in sources] for name in ("family", "bound", "floor")]


def _flat(sources: list[dict[str, Any]]) -> list[Tensor]:
    return [tensor for source in sources for tensor in source["tensors"]]


def some_sources(rng: np.random.Generator, index: int) -> list[dict[str, Any]]:
    """Return one source, or several, more than one launch takes among them."""
    count = 1 if index % 5 else int(rng.integers(2, 12))
    return [random_source(rng, DTYPES[(index + k) % 3], (index + k) % 5, 3000 // count) for k in range(count)]


def check_rates(module: ModuleType, count: int = 60, seed: int = 31) -> None:
    """Any family, shape, dtype, layout, value, block size and order."""
    rng = seeded(seed)
    for index in range(count):
        sources = some_sources(rng, index)
        shapes = [source["tensors"][0].shape for source in sources]
        expected, found = (
            [torch.full((s[0], *s[2:]), float("nan"), dtype=torch.float64) for s in shapes] for _ in range(2)
        )
        torch.ops.bitrate_ext._cell_bits(_flat(sources), *_kinds(sources), expected)
        views = [_viewed(source, cells, []) for source, cells in zip(sources, found, strict=True)]
        summary = module.rate(views, False, launches(rng))
        for mine, native in zip(found, expected, strict=True):
            assert_same_bytes(mine, native, (summary, _kinds(sources), shapes))


def check_rate_gradients(module: ModuleType, count: int = 60, seed: int = 32) -> None:
    rng = seeded(seed)
    for index in range(count):
        sources = some_sources(rng, index)
        shapes = [source["tensors"][0].shape for source in sources]
        grads = [torch.from_numpy(rng.standard_normal((s[0], *s[2:]))) for s in shapes]
        wanted = rng.random(len(_flat(sources))) < 0.8
        expected, found = (
            [
                torch.full(t.shape, 7.0, dtype=t.dtype) if w else t.new_empty(0)
                for t, w in zip(_flat(sources), wanted, strict=True)
            ]
            for _ in range(2)
        )
        torch.ops.bitrate_ext._cell_bits_backward(grads, _flat(sources), *_kinds(sources), expected)
        views, at = [], 0
        for source, grad in zip(sources, grads, strict=True):
            own = found[at : at + len(source["tensors"])]
            at += len(own)
            views.append(_viewed(source, grad, [g if g.numel() else None for g in own]))
        summary = module.rate(views, True, launches(rng))
        for mine, native in zip(found, expected, strict=True):
            assert_same_bytes(mine, native, (summary, _kinds(sources), shapes))


def check_rate_addresses(module: ModuleType, count: int = 300, seed: int = 33) -> None:
    """Of some blocks: every element of their cells, each gradient written once, and nothing else."""
    rng = seeded(seed)
    for index in range(count):
        n, c, h, w = (int(v) for v in rng.integers(1, (5, 40, 90, 90)))
        if index % 10 == 0:
            h, w = 40_000, 50_000  # elements of a channel are more than 2^31 apart
        family, dtype = index % 4, DTYPES[index % 3]
        parts = int(rng.integers(1, 4)) if family == MIXTURE else 1
        size = dtype.itemsize
        tensors = []
        for k in range(4 if family == MIXTURE else 3):
            sizes = [n, c * (1 if k == 0 else parts), h, w]
            tensors.append((sizes, _strides(rng, sizes), (k + 1) << 48, (k + 9) << 48))
        cells = _nowhere(1 << 55, [n, h, w], [h * w, w, 1], torch.float64)
        source = {
            "family": family,
            "bound": 0.11,
            "floor": 1e-9,
            "inputs": [_nowhere(at, sizes, strides, dtype) for sizes, strides, at, _ in tensors],
            "gradients": [_nowhere(to, sizes, strides, dtype) for sizes, strides, _, to in tensors],
            "cells": cells,
        }
        runs = -(-h * w // RUN)
        block = int(rng.integers(n * runs))
        image, first = block // runs, block % runs * RUN
        last = min(first + RUN, h * w)
        places = [(at // w, at % w) for at in range(first, last)]
        for backward in (False, True):
            _, accesses = module.index_rate([source], backward, {"threads": 64 if index % 2 else 0}, [block])
            loads, stores = _elements_by(accesses, False), _elements_by(accesses, True)
            own = 8 * (image * h * w + np.arange(first, last)).astype(np.uint64) + np.uint64(1 << 55)
            if not backward:
                assert np.array_equal(np.sort(stores(8)), own)
            for k, (sizes, strides, at, to) in enumerate(tensors):
                spans = [(image, image + 1), (0, sizes[1])]
                for memory, seen in ((at, loads), *([(to, stores)] if backward else [])):
                    expected = np.sort(np.concatenate([
                        _addresses(memory, size, strides, [*spans, (row, row + 1), (column, column + 1)])
                        for row, column in places
                    ]))  # fmt: skip
                    got = seen(size)
                    got = np.sort(got[(got >> np.uint64(48)) == memory >> 48])
                    if memory == at:  # read once or more; strides may give one address to several
                        got, expected = np.unique(got), np.unique(expected)
                    assert np.array_equal(got, expected), (k, source)


def _elements_by(accesses: np.ndarray, stores: bool) -> Any:
    return lambda size: _elements(accesses[accesses[:, 1] == size], stores, size)
