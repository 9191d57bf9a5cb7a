"""The golden set: 300 inputs that are the same on every machine, and checksums of what the operator makes of them.

``python tests/golden.py`` writes golden.json from the CPU path of this tree; only a change of the definition may change
it. Inputs come from PCG64's raw output, which numpy keeps from release to release, by whole numbers and exact powers of
two alone: no function of a mathematics library has a hand in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cases import DTYPES, MODES, Case, bytes_of
from torch import Tensor

import bitrate_ext

COUNT = 300
FILE = Path(__file__).with_suffix(".json")
DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}  # of a significand, binary
DEEPEST = {torch.float16: 13}  # exponents of likelihoods; 29 for the wider formats
SCALES = (1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 0.5, 1.5, 2.7, 0.37, 7.3)
SPOILS = (float("nan"), 0.0, -0.0, float("inf"), 1.5, -0.5, 2.0**-140)


class Raw:
    """Whole numbers of one seed."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def many(self, count: int, bound: int) -> np.ndarray:
        """int64 ``[count]`` in [0, bound)."""
        return (self._bits.random_raw(count) >> np.uint64(8)).astype(np.int64) % bound

    def between(self, low: int, high: int) -> int:
        return low + int(self.many(1, high - low + 1)[0])

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[self.between(0, len(choices) - 1)]


def likelihoods(raw: Raw, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Significands of all their digits times powers of two: exact in the dtype, in (0, 1]."""
    count, digits = int(np.prod(shape)), DIGITS[dtype]
    half = 1 << (digits - 1)
    spread = raw.one_of((1, 1, 4, DEEPEST.get(dtype, 29)))
    significand = half + raw.many(count, half)
    if raw.between(0, 3) == 0:  # next to one, and one itself
        significand, spread = 2 * half - raw.many(count, 20), 1
    values = np.ldexp(significand.astype(np.float64), -(digits + raw.many(count, spread)))
    if raw.between(0, 5) == 0:
        values[raw.many(3, count)] = [raw.one_of(SPOILS) for _ in range(3)]
    return torch.from_numpy(values).to(dtype).reshape(shape)


def in_a_layout(raw: Raw, p: Tensor) -> Tensor:
    """The kernels have paths for adjacent cells, adjacent channels and neither."""
    return raw.one_of(
        (
            lambda: p,
            lambda: p.contiguous(memory_format=torch.channels_last),
            lambda: torch.stack([p, p], dim=-1)[..., 1],
            lambda: p.transpose(2, 3).contiguous().transpose(2, 3),
        )
    )()


def make(index: int) -> tuple[Case, Tensor]:
    """Case ``index`` and a gradient for its map; both on the CPU."""
    raw = Raw(index)
    grid = (raw.between(1, 9), raw.between(1, 20))
    batch = raw.between(1, 3)
    scale = (raw.one_of(SCALES), raw.one_of(SCALES)) if raw.between(0, 2) == 0 else None
    if scale is not None:
        canvas = tuple(max(1, int(np.floor(cells * s))) for cells, s in zip(grid, scale, strict=True))
        if any(cells * s < 1 for cells, s in zip(grid, scale, strict=True)):
            scale = None
    else:
        canvas = raw.one_of(((grid[0] * 4, grid[1] * 4), (grid[0] * 16, grid[1] * 2), (raw.between(1, 70),) * 2))
    tensors = []
    for latent in range(raw.one_of((1, 1, 1, 2, 3))):
        channels = raw.one_of((1, 2, 6, 7, 8, 9, 17, 48, 49, 96)) if latent == 0 else raw.between(1, 9)
        shape = (batch, channels, *(grid if latent == 0 or scale else (raw.between(1, 5), raw.between(1, 5))))
        tensors.append(in_a_layout(raw, likelihoods(raw, shape, DTYPES[(index + latent) % 4])))
    crop = None
    if raw.between(0, 2) == 0:
        top, left = raw.between(0, canvas[0] - 1), raw.between(0, canvas[1] - 1)
        crop = (top, left, raw.between(1, canvas[0] - top), raw.between(1, canvas[1] - left))
    dtype = raw.one_of((None, None, None, torch.float32, torch.float64))
    case = Case(tensors, canvas, scale, MODES[index // 4 % 3], raw.between(0, 2) > 0, crop, dtype)
    size = (batch, 1, *(case.crop or (0, 0, *canvas))[2:])
    grad = np.ldexp((raw.many(int(np.prod(size)), 1 << 21) - (1 << 20)).astype(np.float64), -10)
    return case, torch.from_numpy(grad).reshape(size)


class Checksums(NamedTuple):
    """SHA-256 of the inputs' bytes, of the map's and those of the first latent's cells, and of the gradients'."""

    inputs: str
    map: str
    gradient: str


def checksums(index: int, device: torch.device) -> Checksums:
    case, grad = make(index)
    leaves = [on_device(p, device).requires_grad_() for p in case.likelihoods]
    out = case.run(leaves)
    gradients = torch.autograd.grad(out, leaves, grad.to(out))
    cells = bitrate_ext.latent_bits(leaves[0].detach(), dtype=torch.float64)
    parts = ([*case.likelihoods, grad], [out, cells], gradients)
    return Checksums(*(hashlib.sha256(b"".join(map(bytes_of, tensors))).hexdigest() for tensors in parts))


def on_device(p: Tensor, device: torch.device) -> Tensor:
    """A copy with its strides, and with what lies between its elements."""
    storage = torch.empty(0, dtype=p.dtype).set_(p.untyped_storage())
    return storage.to(device, copy=True).as_strided(p.shape, p.stride(), p.storage_offset()).detach()


def main() -> None:
    rows = [json.dumps(checksums(index, torch.device("cpu"))) for index in range(COUNT)]
    FILE.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
