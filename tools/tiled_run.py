"""A picture that does not fit through the bundled codec at once, mapped in tiles within a hard limit of address space.

    python tools/tiled_run.py                                # 20,000 x 20,000 pixels in 2 GiB; an hour on two cores
    python tools/tiled_run.py --side 3000 --memory 1GiB      # the same, small

The picture is an uncompressed TIFF file. A fresh process imports everything, then limits its address space to what it
has and --memory, and maps the file with --max-memory of what it holds and as much. Prints one line of JSON. Exit code 1
where that fails, or where more is resident at any time than was planned and a tenth.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

import bitrate_ext
from bitrate_ext import memory
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph
from bitrate_ext.units import parse_bytes

MARGIN = 1.1  # on the planned peak
ROWS = 256  # written at a time


def write_picture(path: Path, side: int) -> None:
    """The bundled photograph, repeated and turned over in turns."""
    photograph = (load_image(demo_photograph())[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    period = np.concatenate([photograph, photograph[::-1]])
    period = np.concatenate([period, period[:, ::-1]], axis=1)
    columns = np.arange(side) % period.shape[1]
    strips = (
        period[np.arange(top, min(side, top + ROWS)) % period.shape[0]][:, columns] for top in range(0, side, ROWS)
    )
    tifffile.imwrite(path, strips, shape=(side, side, 3), dtype=np.uint8, rowsperstrip=ROWS, photometric="rgb")


def measure(path: Path, output: Path, room: int) -> dict[str, Any]:
    """Map the file, in this process, which may not grow by more than ``room`` bytes."""
    model = bitrate_ext.load_demo_codec()
    limit = memory.resident() + room
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (memory.address_space() + room, hard))
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


def main(argv: list[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--measure"]:
        print(json.dumps(measure(Path(arguments[1]), Path(arguments[2]), int(arguments[3]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=20_000, help="of the picture, pixels")
    parser.add_argument("--memory", type=parse_bytes, default=2 << 30, help="besides what imports take")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go while they are needed")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as inside:
        picture, output = Path(inside) / "picture.tif", Path(inside) / "map.tif"
        write_picture(picture, chosen.side)
        command = [sys.executable, __file__, "--measure", str(picture), str(output), str(chosen.memory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(done.stderr)
            return 1
    record = json.loads(done.stdout)
    print(json.dumps(record))
    return 0 if record["peak_mib"] <= MARGIN * record["planned_mib"] else 1


if __name__ == "__main__":
    sys.exit(main())
