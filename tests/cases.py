"""Random cases, and an oracle that shares no code with the package.

The oracle works with dense matrices whose entries come from whole numbers (conserve=True) or from
``torch.nn.functional.interpolate`` itself (conserve=False), and with ``log2`` of every single likelihood, in float64 or
wider.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import bitrate_ext
from bitrate_ext.ops import library
from bitrate_ext.receptive_field.field import ReceptiveField, Term
from bitrate_ext.receptive_field.guide import FEATURES, Guide

SCALE = float(os.environ.get("BITRATE_EXT_TEST_SCALE") or "1")  # multiplies the number of cases of every test
MODES = ("nearest", "bilinear", "area")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
FLOAT32_BAR = 6.0e-8 * 1.01  # half a unit in the last place, and one per cent for everything before the last rounding
FLOAT64_BAR = 1e-12
# Of float32 and 16-bit likelihoods the products round, once a channel: this many bits at most. It only shows in a
# float64 map where every likelihood is next to 1; float64 likelihoods are not multiplied.
PRODUCT_ROUNDING = 2.0**-53 / np.log(2)


def scaled(count: int) -> int:
    return max(1, round(count * SCALE))


def need_native(device: torch.device) -> None:
    """Skip, saying why, where there is no kernel for the device; fail where a GPU is required."""
    import pytest  # not above: programs that run without pytest draw their cases here, too

    because = library.why_absent(device)
    if because:
        (pytest.fail if os.environ.get("REQUIRE_CUDA") else pytest.skip)(f"no native kernel: {because}")


def _hat(points: int, grid: int) -> np.ndarray:
    """[points, grid] times 2 * points: linear weights of each point's place on the grid, half-pixel centres, exact."""
    place = np.clip((2 * np.arange(points) + 1) * grid - points, 0, 2 * points * (grid - 1))
    return np.maximum(2 * points - np.abs(place[:, None] - 2 * points * np.arange(grid)), 0)


def _owner(points: int, grid: int) -> np.ndarray:
    """[points, grid]: 1 where grid element j holds point i."""
    return (np.arange(points)[:, None] * grid // points == np.arange(grid)).astype(np.int64)


def _overlap(points: int, grid: int) -> np.ndarray:
    """[points, grid]: shared length of point i's interval and grid element j, in steps of 1 / (points * grid)."""
    i, j = np.arange(points)[:, None], np.arange(grid)
    return np.maximum(np.minimum((i + 1) * grid, (j + 1) * points) - np.maximum(i * grid, j * points), 0)


def axis_matrix(mode: str, cells: int, canvas: int, conserve: bool = True, scale: float = 0.0) -> np.ndarray:
    """float64 [canvas, cells]: the part of each cell's bits that each pixel gets, along one axis."""
    if cells == 0 or canvas == 0:
        return np.zeros((canvas, cells))
    if not conserve:
        part = 1 / scale if scale else cells / canvas
        if mode == "area":  # the mean of the cells that a pixel touches; the scale only gives the size
            touched = _overlap(canvas, cells) > 0
            return touched / touched.sum(axis=1, keepdims=True) * part
        # Nearest is of float32, as PyTorch's index then is on every device; its ones and zeros are exact all the same.
        eye = torch.eye(cells, dtype=torch.float32 if mode == "nearest" else torch.float64)[None, :, None]
        place = {"scale_factor": (1.0, scale)} if scale else {"size": (1, canvas)}
        rows = F.interpolate(eye, **place, mode=mode)[:, :, 0]
        return rows[0].T.double().numpy() * part
    if mode == "area":
        whole = _overlap(canvas, cells)
    else:
        weights = _hat if mode == "bilinear" else _owner
        whole = weights(canvas, cells) if canvas >= cells else weights(cells, canvas).T
    return whole / whole.sum(axis=0)


def exact_bits(p: Tensor) -> np.ndarray:
    """float64 [N, h, w], from log2 of each likelihood; in 80 bits for float64 likelihoods."""
    values = p.detach().cpu().double().numpy()
    if p.dtype == torch.float64:
        values = values.astype(np.longdouble)
    with np.errstate(all="ignore"):
        return (-np.log2(values)).sum(axis=1).astype(np.float64)


@dataclass
class Case:
    """One call of ``bitrate_map``."""

    likelihoods: list[Tensor]
    canvas: tuple[int, int]
    scale: tuple[float, float] | None = None  # None: by size
    mode: str = "bilinear"
    conserve: bool = True
    crop: tuple[int, int, int, int] | None = None
    dtype: torch.dtype | None = None
    kwargs: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        place: dict[str, Any] = {"size": self.canvas} if self.scale is None else {"scale_factor": self.scale}
        self.kwargs = {
            **place, "projection": self.mode, "conserve": self.conserve, "crop": self.crop, "dtype": self.dtype
        }  # fmt: skip

    @property
    def window(self) -> tuple[slice, slice]:
        top, left, height, width = self.crop or (0, 0, *self.canvas)
        return slice(top, top + height), slice(left, left + width)

    def nested(self, tensors: list[Tensor] | None = None) -> Any:
        tensors = self.likelihoods if tensors is None else tensors
        return tensors[0] if len(tensors) == 1 else {"a": tensors[0], "b": dict(enumerate(tensors[1:]))}

    def run(self, tensors: list[Tensor] | None = None, **kwargs: Any) -> Tensor:
        return bitrate_ext.bitrate_map(self.nested(tensors), **{**self.kwargs, **kwargs})

    def matrices(self, p: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Dense rows [H, h] and columns [W, w] of the wanted window."""
        scales = self.scale or (0.0, 0.0)
        pair = [
            axis_matrix(self.mode, cells, canvas, self.conserve, scale)[window]
            for cells, canvas, scale, window in zip(p.shape[-2:], self.canvas, scales, self.window, strict=True)
        ]
        return pair[0], pair[1]

    def exact(self) -> np.ndarray:
        """float64 [N, 1, H, W]."""
        total: Any = 0.0
        for p in self.likelihoods:
            rows, columns = self.matrices(p)
            total = total + rows @ exact_bits(p) @ columns.T
        return total[:, None]

    def slack(self, dtype: torch.dtype) -> float:
        """Bits that a map may be off beyond its relative bar.

        In a float64 map the rounding of products. With conserve=False the rounding of PyTorch's own weights, which are
        1e-16 where they should be zero.
        """
        slack = 0.0
        for p in self.likelihoods:
            if p.numel():
                rows, columns = self.matrices(p)
                largest = rows.sum(axis=1).max() * columns.sum(axis=1).max()
                if p.dtype != torch.float64 and dtype == torch.float64:
                    slack += largest * p.shape[1] * PRODUCT_ROUNDING
                if not self.conserve:
                    slack += largest * 1e-15 * np.abs(exact_bits(p)).max()
        return slack

    def __str__(self) -> str:
        tensors = [(tuple(p.shape), str(p.dtype)) for p in self.likelihoods]
        return f"{tensors} canvas={self.canvas} {self.kwargs}"


KINDS = ("uniform", "decades", "near one", "floor", "mixed", "tiny", "one")


def likelihoods(rng: np.random.Generator, shape: tuple[int, ...], dtype=torch.float32, kind: str = "") -> Tensor:
    """Probabilities of one of the KINDS, by default any, as a contiguous tensor."""
    kind = kind or str(rng.choice(KINDS[:5]))
    ulp = {torch.float64: 2.0**-53, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}.get(dtype, 2.0**-24)
    floor = 6.1e-5 if dtype == torch.float16 else 1e-9
    uniform = rng.random(shape)
    if kind == "uniform":
        values = uniform + floor
    elif kind == "decades":
        values = floor**uniform
    elif kind == "near one":
        values = 1 - ulp * rng.integers(0, 20, shape)
    elif kind == "floor":
        values = np.full(shape, floor)
    elif kind == "mixed":
        values = np.where(uniform < 0.3, 1.0, np.where(uniform < 0.5, floor, 1 - uniform**9 * 0.999))
    elif kind == "tiny":
        values = {torch.float64: 5e-324, torch.float16: 6e-8, torch.bfloat16: 9.2e-41}.get(dtype, 1.4e-45) * (
            1 + rng.integers(0, 1000, shape)
        )
    elif kind == "one":
        values = np.ones(shape)
    else:
        raise ValueError(kind)
    return torch.from_numpy(np.minimum(values, 1.0)).to(dtype)


def random_case(
    rng: np.random.Generator,
    *,
    elements: int = 3000,
    pixels: int = 10000,
    dtypes=DTYPES,
    latents: int = 3,
    empty: bool = True,
    conserve: bool | None = None,
) -> Case:
    """N 0-4, C 1-640, h and w 0-70, H and W 1-600, within about `elements` likelihoods and `pixels` pixels."""

    def extent(low: int, high: int) -> int:  # small ones are more frequent
        return int(low + (high - low + 1) * rng.random() ** 3)

    while True:
        by_scale = rng.random() < 0.4
        n = int(rng.choice([1, 1, 1, 2, 3, 4])) if rng.random() > 0.03 or not empty else 0
        low = 0 if empty and rng.random() < 0.03 and not by_scale else 1
        grid = (extent(low, 70), extent(low, 70))
        if by_scale:
            choices = [1, 2, 3, 4, 8, 16, 0.5, 1.5, 2.7, 0.37, 7.3, 1 / 3]
            scale = tuple(float(s) for s in rng.choice(choices, 2))
            canvas = tuple(int(np.floor(cells * s)) for cells, s in zip(grid, scale, strict=True))
        else:
            scale, canvas = None, (extent(1, 600), extent(1, 600))
            if rng.random() < 0.3:  # whole factors
                canvas = tuple(max(1, cells * int(rng.integers(1, 9))) for cells in grid)
        if min(canvas) < 1 or n * canvas[0] * canvas[1] > pixels:
            continue
        tensors = []
        dtype = dtypes[rng.integers(len(dtypes))]
        for index in range(int(rng.integers(1, latents + 1)) if rng.random() < 0.3 else 1):
            h, w = grid if index == 0 or by_scale else (extent(1, 40), extent(1, 40))
            c = extent(1, 640)
            if c * n * h * w > elements:
                c = max(1, min(c, elements // max(1, n * h * w)))
            tensors.append(likelihoods(rng, (n, c, h, w), dtype if rng.random() < 0.8 else torch.float32))
        if sum(p.numel() for p in tensors) > 2 * elements:
            continue
        crop = None
        if rng.random() < 0.3:
            top, left = (int(rng.integers(0, length)) for length in canvas)
            crop = (top, left, int(rng.integers(1, canvas[0] - top + 1)), int(rng.integers(1, canvas[1] - left + 1)))
        kept = conserve if conserve is not None else bool(rng.random() < 0.7)
        dtype = None if rng.random() < 0.8 else (torch.float32, torch.float64)[rng.integers(2)]
        return Case(tensors, canvas, scale, str(rng.choice(MODES)), kept, crop, dtype)


def bytes_of(tensor: Tensor) -> bytes:
    return (
        tensor.detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        .reshape(-1)
        .view(torch.uint8)
        .numpy()
        .tobytes()
    )


def assert_same_bytes(actual: Tensor, expected: Tensor, what: object = "") -> None:
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    assert bytes_of(actual) == bytes_of(expected), what


def assert_close_to_exact(actual: Tensor, exact: np.ndarray, what: object = "", slack: float = 0.0) -> None:
    """Every pixel within the bar of its dtype; infinities and NaN in the same places."""
    bar = FLOAT64_BAR if actual.dtype == torch.float64 else FLOAT32_BAR
    values = actual.detach().cpu().double().numpy()
    assert values.shape == exact.shape, what
    if not np.isfinite(exact).all():
        assert np.array_equal(np.isnan(values), np.isnan(exact)), what
        assert np.array_equal(np.isinf(values), np.isinf(exact)), what
        values, exact = (np.nan_to_num(v, nan=0.0) for v in (values, exact))
    # Below float32's normal numbers the last place is absolute.
    error, floor = np.abs(values - exact), 2.0**-150 if actual.dtype == torch.float32 else 0.0
    wrong = error > bar * np.abs(exact) + floor + slack
    if wrong.any():
        at = np.unravel_index(np.argmax(error - bar * np.abs(exact)), error.shape)
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} beyond the bar: {values[at]} for {exact[at]} at {at}: {what}"
        )


def random_field(rng: np.random.Generator, stride: int, reach: tuple[int, int], terms: int = 2) -> ReceptiveField:
    """Some kernel of several terms."""
    length = reach[1] - reach[0] + 1
    parts = [[k / k.sum() for k in rng.uniform(0.1, 1, (2, length))] for _ in range(terms)]
    return ReceptiveField(
        (stride, stride), (reach, reach), [Term(1 / terms, vertical, horizontal) for vertical, horizontal in parts]
    )


def some_guide(rng: np.random.Generator, stride: int) -> Guide:
    return Guide.of_arrays(rng.uniform(-0.5, 0.5, FEATURES), rng.uniform(-0.3, 0.3, (stride, stride)))


def with_guide(field: ReceptiveField, guide: Guide) -> ReceptiveField:
    return ReceptiveField(field.stride, field.reach, field.kernel, guide=guide)
