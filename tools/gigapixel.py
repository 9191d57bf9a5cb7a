"""The map of a gigapixel picture in strips, from latents in a file that memory need not hold.

    python tools/gigapixel.py                                  # 32,768 x 32,768 pixels of 2,048 x 2,048 x 320 latents
    python tools/gigapixel.py --side 4096 --channels 64        # the same, small

Prints one line of JSON for each strip height: seconds, peak resident memory of a fresh process, SHA-256 of the map, and
how far its sum is from the bits of all cells. Exit code 1 where strip heights give other bytes, where bits are lost, or
where memory goes beyond --limit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bitrate_ext
from bitrate_ext import memory

STRIDE = 16  # pixels a cell
BAR = 6e-8 * 1.01  # of the bits: what rounding to float32 may lose


def write_latents(path: Path, shape: tuple[int, int, int, int]) -> None:
    """Likelihoods at random, a channel at a time."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(shape[1]):
            file.write((1 - rng.random(shape[2:], dtype=np.float32) * 0.99).tobytes())


def measure(path: Path, shape: tuple[int, int, int, int], rows: int) -> dict[str, Any]:
    """The whole map in strips of so many rows, in this process."""
    p = torch.from_numpy(np.memmap(path, np.float32, mode="r+", shape=shape))
    size = (STRIDE * shape[2], STRIDE * shape[3])
    before = memory.peak()
    start = time.perf_counter()
    digest, total = hashlib.sha256(), 0.0
    out = torch.empty(1, 1, rows, size[1])
    for _, strip in bitrate_ext.map_strips(p, size, rows=rows, out=out):
        digest.update(strip.numpy())
        total += sum(line.sum(dtype=np.float64) for line in strip.numpy()[0, 0])
    seconds = time.perf_counter() - start
    after = memory.peak()
    cells = bitrate_ext.map_strips(p, shape[2:], rows=16, projection="nearest", dtype=torch.float64)
    bits = sum(strip.sum().item() for _, strip in cells)
    return {
        "size": list(size),
        "latents": list(shape),
        "rows": rows,
        "seconds": round(seconds, 1),
        "peak_mib": round(after / 2**20),
        "before_mib": round(before / 2**20),
        "lost": abs(total - bits) / bits,
        "sha256": digest.hexdigest(),
    }


def run(side: int, channels: int, heights: list[int], folder: Path, limit: int) -> int:
    shape = (1, channels, side // STRIDE, side // STRIDE)
    records = []
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        path = Path(inside) / "latents"
        write_latents(path, shape)
        for rows in heights:
            command = [sys.executable, __file__, "--measure", str(path), *map(str, (*shape, rows))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.stderr.write(done.stderr)
                return 1
            records.append(json.loads(done.stdout))
            print(done.stdout.strip(), flush=True)
    same = len({record["sha256"] for record in records}) == 1
    kept = all(record["lost"] <= BAR for record in records)
    small = all(record["peak_mib"] * 2**20 <= limit for record in records)
    return 0 if same and kept and small else 1


def main(argv: list[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--measure"]:
        n, c, h, w, rows = map(int, arguments[2:])
        print(json.dumps(measure(Path(arguments[1]), (n, c, h, w), rows)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=32768, help="of the picture, pixels; a multiple of 16")
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1000], help="strip heights")
    parser.add_argument("--folder", type=Path, default=None, help="where the latents' file goes while it is needed")
    parser.add_argument("--limit", type=int, default=2 << 30, help="of resident memory, bytes (default 2 GiB)")
    chosen = parser.parse_args(arguments)
    return run(chosen.side, chosen.channels, chosen.rows, chosen.folder, chosen.limit)


if __name__ == "__main__":
    sys.exit(main())
