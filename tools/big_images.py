"""Images that do not fit into memory: the figures of docs/big-pictures.md, each measured in a fresh process.

    python tools/big_images.py strips                     # 32,768 x 32,768 pixels of 2,048 x 2,048 x 320 latents
    python tools/big_images.py strips --side 4096 --channels 64
    python tools/big_images.py tiles                      # 20,000 x 20,000 pixels in 2 GiB; an hour on two cores
    python tools/big_images.py tiles --side 3000 --memory 1GiB

`strips` makes the map of latents in a file that memory need not hold, at several strip heights. It fails where these
give other bytes, where bits are lost, or where memory goes beyond --memory.

`tiles` maps an uncompressed TIFF file through the bundled codec, with an address space of what imports take and
--memory, and --max-memory of as much. It fails where more is resident at any time than was planned and a tenth.

Each measurement is a line of JSON; the exit code is 1 where one fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

import bitrate_ext
from bitrate_ext import memory
from bitrate_ext.byte_sizes import parse_bytes
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

STRIDE = 16  # pixels a cell
BAR = 6e-8 * 1.01  # of the bits: what rounding to float32 may lose
MARGIN = 1.1  # on the planned peak
ROWS = 256  # of the image, written at a time


def write_latents(path: Path, channels: int, cells: int) -> None:
    """Likelihoods at random, a channel at a time."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(channels):
            file.write((1 - rng.random((cells, cells), dtype=np.float32) * 0.99).tobytes())


def measure_strips(path: str, channels: str, cells: str, rows: str) -> dict[str, Any]:
    """The whole map in strips of so many rows, in this process."""
    shape = (1, int(channels), int(cells), int(cells))
    p = torch.from_numpy(np.memmap(path, np.float32, mode="r+", shape=shape))
    side = STRIDE * int(cells)
    before, start = memory.peak(), time.perf_counter()
    digest, total = hashlib.sha256(), 0.0
    out = torch.empty(1, 1, int(rows), side)
    for _, strip in bitrate_ext.map_strips(p, (side, side), rows=int(rows), out=out):
        digest.update(strip.numpy())
        total += sum(line.sum(dtype=np.float64) for line in strip.numpy()[0, 0])
    seconds, after = time.perf_counter() - start, memory.peak()
    alone = bitrate_ext.map_strips(p, shape[2:], rows=16, projection="nearest", dtype=torch.float64)
    bits = sum(strip.sum().item() for _, strip in alone)
    return {
        "size": [side, side],
        "latents": list(shape),
        "rows": int(rows),
        "seconds": round(seconds, 1),
        "peak_mib": after >> 20,
        "before_mib": before >> 20,
        "lost": abs(total - bits) / bits,
        "sha256": digest.hexdigest(),
    }


def write_image(path: Path, side: int) -> None:
    """The bundled photograph, repeated and turned over in turns."""
    photograph = (load_image(demo_photograph())[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    period = np.concatenate([photograph, photograph[::-1]])
    period = np.concatenate([period, period[:, ::-1]], axis=1)
    columns = np.arange(side) % period.shape[1]
    strips = (
        period[np.arange(top, min(side, top + ROWS)) % period.shape[0]][:, columns] for top in range(0, side, ROWS)
    )
    tifffile.imwrite(path, strips, shape=(side, side, 3), dtype=np.uint8, rowsperstrip=ROWS, photometric="rgb")


def measure_tiles(path: str, output: str, room: str) -> dict[str, Any]:
    """Map the file, in this process, which may not grow by more than ``room`` bytes."""
    model = bitrate_ext.load_demo_codec()
    limit = memory.resident() + int(room)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (memory.address_space() + int(room), hard))
    result = bitrate_ext.map_picture(model, path, output, max_memory=limit, psnr=True)
    return {
        "size": list(result.size),
        "seconds": round(result.seconds, 1),
        "limit_mib": limit >> 20,
        "planned_mib": (result.plan.peak or 0) >> 20,
        "peak_mib": memory.peak() >> 20,
        "bpp": result.bpp,
        "psnr_db": result.psnr_db,
        "tiles": result.plan.record(),
    }


def measured(what: str, *arguments: object) -> dict[str, Any]:
    """The measurement of a fresh process, printed."""
    command = [sys.executable, __file__, f"measure_{what}", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout.strip(), flush=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("strips", "tiles"))
    parser.add_argument("--side", type=int, help="of the image, pixels; of strips a multiple of 16")
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1000], help="strip heights")
    parser.add_argument("--folder", type=Path, help="where the files go while they are needed")
    parser.add_argument("--memory", type=parse_bytes, default=2 << 30, help="default 2GiB")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as inside:
        path = Path(inside) / "input"
        if chosen.what == "strips":
            cells = (chosen.side or 32_768) // STRIDE
            write_latents(path, chosen.channels, cells)
            records = [measured("strips", path, chosen.channels, cells, rows) for rows in chosen.rows]
            same = len({record["sha256"] for record in records}) == 1
            kept = all(r["lost"] <= BAR and r["peak_mib"] << 20 <= chosen.memory for r in records)
            return 0 if same and kept else 1
        write_image(path, chosen.side or 20_000)
        record = measured("tiles", path, path.with_name("map.tif"), chosen.memory)
    return 0 if record["peak_mib"] <= MARGIN * record["planned_mib"] else 1


if __name__ == "__main__":
    measures = {"measure_strips": measure_strips, "measure_tiles": measure_tiles}
    if sys.argv[1:] and sys.argv[1] in measures:
        print(json.dumps(measures[sys.argv[1]](*sys.argv[2:])))
    else:
        sys.exit(main())
