"""What a skilled user writes in Triton instead, in float32: bits of cells, then bilinear interpolation; two kernels.

Contiguous latents and a whole-number stride only, which is what the recipe takes. And the bits of cells straight from
latents and their normal distributions. Importing this needs Triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def bits_kernel(
    likelihoods,  # [N, C, cells]
    bits,  # [N, cells], over the pixels of a cell
    channels,
    cells,
    per_pixel,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """-log2, summed over the channels of a block of cells."""
    image = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    total = tl.zeros((BLOCK_CHANNELS, BLOCK_CELLS), dtype=tl.float32)
    for first in range(0, channels, BLOCK_CHANNELS):
        channel = first + tl.arange(0, BLOCK_CHANNELS)
        there = (channel[:, None] < channels) & (cell[None, :] < cells)
        at = (image * channels + channel[:, None]) * cells + cell[None, :]
        total -= tl.log2(tl.load(likelihoods + at, mask=there, other=1.0).to(tl.float32))
    tl.store(bits + image * cells + cell, tl.sum(total, axis=0) * per_pixel, mask=cell < cells)


@triton.jit
def spread_kernel(
    bits,  # [N, h, w]
    out,  # [N, H, W]
    h,
    w,
    width,
    STRIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Half-pixel bilinear interpolation, the border repeated, of a block of pixels."""
    image = tl.program_id(2).to(tl.int64)
    y = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    x = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    at_y = tl.maximum((y.to(tl.float32) + 0.5) / STRIDE - 0.5, 0.0)
    at_x = tl.maximum((x.to(tl.float32) + 0.5) / STRIDE - 0.5, 0.0)
    top, left = at_y.to(tl.int32), at_x.to(tl.int32)
    part_y, part_x = (at_y - top)[:, None], (at_x - left)[None, :]
    bottom, right = tl.minimum(top + 1, h - 1), tl.minimum(left + 1, w - 1)
    there = (y[:, None] < h * STRIDE) & (x[None, :] < width)
    row_above, row_below = (image * h + top[:, None]) * w, (image * h + bottom[:, None]) * w
    above = tl.load(bits + row_above + left[None, :], mask=there, other=0.0) * (1.0 - part_x)
    above += tl.load(bits + row_above + right[None, :], mask=there, other=0.0) * part_x
    below = tl.load(bits + row_below + left[None, :], mask=there, other=0.0) * (1.0 - part_x)
    below += tl.load(bits + row_below + right[None, :], mask=there, other=0.0) * part_x
    at = (image * h * STRIDE + y[:, None]) * width + x[None, :]
    tl.store(out + at, above * (1.0 - part_y) + below * part_y, mask=there)


class Blocks(NamedTuple):
    """What to tune: the extents of a block of either kernel, and warps."""

    channels: int = 32
    cells: int = 32
    rows: int = 8
    columns: int = 128
    warps: int = 4


TRIALS = (
    Blocks(),
    Blocks(channels=64, cells=16),
    Blocks(channels=16, cells=128, rows=16, columns=256, warps=8),
    Blocks(channels=32, cells=64, rows=4, columns=256),
    Blocks(channels=8, cells=256, rows=16, columns=128),
)


def by_triton(likelihoods: Tensor, out: Tensor, bits: Tensor, stride: int, blocks: Blocks) -> Tensor:
    """The recipe's map of contiguous likelihoods into ``out``, by way of the scratch ``bits [N, h, w]``."""
    n, channels, h, w = likelihoods.shape
    height, width = h * stride, w * stride
    bits_kernel[(triton.cdiv(h * w, blocks.cells), n)](
        likelihoods,
        bits,
        channels,
        h * w,
        1.0 / stride**2,
        BLOCK_CHANNELS=blocks.channels,
        BLOCK_CELLS=blocks.cells,
        num_warps=blocks.warps,
    )
    spread_kernel[(triton.cdiv(width, blocks.columns), triton.cdiv(height, blocks.rows), n)](
        bits,
        out,
        h,
        w,
        width,
        STRIDE=stride,
        BLOCK_ROWS=blocks.rows,
        BLOCK_COLUMNS=blocks.columns,
        num_warps=blocks.warps,
    )
    return out


def scratch(likelihoods: Tensor) -> Tensor:
    n, _, h, w = likelihoods.shape
    return torch.empty(n, h, w, device=likelihoods.device)


@triton.jit
def _erfc(x):
    """The complementary error function, to a millionth: exp(-x^2) times a polynomial in 1 / (1 + |x| / 2)."""
    side = tl.abs(x)
    t = 1.0 / (1.0 + 0.5 * side)
    p = -0.04614647 * t + 0.22950067
    p = p * t - 0.39000154
    p = p * t + 0.18619341
    p = p * t + 0.02361625
    p = p * t + 0.18666549
    p = p * t + 0.24595474
    p = p * t + 0.28212306
    p = p * t + 0.28209466
    tail = t * p * tl.exp(-side * side)
    return tl.where(x < 0, 2.0 - tail, tail)


@triton.jit
def gaussian_kernel(
    values,  # [N, C, cells]
    scales,
    means,
    bits,  # float64 [N, cells]
    channels,
    cells,
    bound,
    floor,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """-log2 of the normal distribution's share of a symbol, summed over the channels of a block of cells."""
    image = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    total = tl.zeros((BLOCK_CHANNELS, BLOCK_CELLS), dtype=tl.float32)
    for first in range(0, channels, BLOCK_CHANNELS):
        channel = first + tl.arange(0, BLOCK_CHANNELS)
        there = (channel[:, None] < channels) & (cell[None, :] < cells)
        at = (image * channels + channel[:, None]) * cells + cell[None, :]
        mean = tl.load(means + at, mask=there, other=0.0)
        distance = tl.abs(tl.load(values + at, mask=there, other=0.0) - mean)
        inverse = 0.70710678 / tl.maximum(tl.load(scales + at, mask=there, other=1.0), bound)
        p = 0.5 * (_erfc((distance - 0.5) * inverse) - _erfc((distance + 0.5) * inverse))
        total -= tl.where(there, tl.log2(tl.maximum(p, floor)), 0.0)
    tl.store(bits + image * cells + cell, tl.sum(total, axis=0).to(tl.float64), mask=cell < cells)


GAUSSIAN_TRIALS = (
    Blocks(),
    Blocks(channels=64, cells=16),
    Blocks(channels=16, cells=64),
    Blocks(channels=16, cells=128, warps=8),
    Blocks(channels=8, cells=128),
)


def gaussian_by_triton(
    values: Tensor, scales: Tensor, means: Tensor, out: Tensor, bound: float, floor: float, blocks: Blocks
) -> Tensor:
    """The bits of cells of contiguous latents ``[N, C, h, w]`` into ``out``, float64 ``[N, h, w]``."""
    n, channels, h, w = values.shape
    gaussian_kernel[(triton.cdiv(h * w, blocks.cells), n)](
        values,
        scales,
        means,
        out,
        channels,
        h * w,
        bound,
        floor,
        BLOCK_CHANNELS=blocks.channels,
        BLOCK_CELLS=blocks.cells,
        num_warps=blocks.warps,
    )
    return out
