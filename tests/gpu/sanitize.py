"""Runs small calls of every kind, for compute-sanitizer to watch; no other kernel runs on the GPU meanwhile.

Sixty cases of the golden set under several launches, whose checksums must be right, and shapes whose cells or pixels
do not fit into shared memory at once. PYTORCH_NO_CUDA_MEMORY_CACHING=1 gives each tensor an allocation of its own, so
that a step past its end shows.

    PYTHONPATH=.:tests python tests/gpu/sanitize.py [cpu]
"""

from __future__ import annotations

import json
import sys

import golden
import machine
import numpy as np
import torch
from cases import bytes_of

import bitrate_ext

CASES = 60
LAUNCHES = (  # threads, rows and columns of a tile, elements a load; the tiles suit forward and backward
    (0, 0, 0, 0), (32, 8, 32, 4), (96, 4, 16, 1), (256, 0, 0, 4), (64, 8, 4, 0), (0, 0, 0, 1),
)  # fmt: skip
IN_STAGES = (  # likelihoods and the map's size
    ((1, 8, 60, 90), (3, 5)), ((1, 3, 2, 3), (20, 6000)), ((2, 9, 3, 400), (5, 3)), ((1, 4, 400, 2), (3, 8)),
)  # fmt: skip


def maps_and_gradients(p: torch.Tensor, size: tuple[int, int], grad: torch.Tensor) -> list[bytes]:
    """Return those of likelihoods, and of their first channel as bits."""
    found = []
    for values, unit in ((p, "likelihood"), (p[:, 0], "bits")):
        leaf = values.detach().requires_grad_()
        out = bitrate_ext.bitrate_map(leaf, size, unit=unit)
        (gradient,) = torch.autograd.grad(out, leaf, grad)
        found += [bytes_of(out), bytes_of(gradient)]
    return found


def main(device: torch.device) -> int:
    expected = json.loads(golden.FILE.read_text())
    wrong = []
    for index in range(CASES):
        threads, tile_rows, tile_columns, width = LAUNCHES[index % len(LAUNCHES)]
        with machine.launch(device, threads=threads, tile_rows=tile_rows, tile_columns=tile_columns, width=width):
            if list(golden.checksums(index, device)) != expected[index]:
                wrong.append(f"case {index}")
    for shape, size in IN_STAGES:
        p = golden.likelihoods(golden.Raw(len(wrong)), shape, torch.float32).nan_to_num(0.5)
        grad = torch.from_numpy(np.arange(shape[0] * size[0] * size[1]) % 7 - 3.0).float().reshape(shape[0], 1, *size)
        if maps_and_gradients(p.to(device), size, grad.to(device)) != maps_and_gradients(p, size, grad):
            wrong.append(f"{shape} to {size}")
    print(f"sanitize: {CASES + len(IN_STAGES)} shapes, {len(wrong)} wrong {' '.join(wrong)}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")))
