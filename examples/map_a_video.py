"""Show which frames of a video cost what, and where in them.

    python examples/map_a_video.py [FOLDER]

Maps frame after frame in flat memory, whatever they come from: here a window that moves over the bundled photograph.
Writes bits of each frame as CSV, and a page of HTML with all of them. Files go through `bitrate-ext video FILE`.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import bitrate_ext
from bitrate_ext.models.demo_codec import demo_photograph

FRAMES, HEIGHT, WIDTH = 8, 128, 192


def frames() -> Iterator[NDArray[np.uint8]]:
    """Give frames as decoders do, uint8 ``[H, W, 3]``: of PyAV ``frame.to_ndarray(format="rgb24")``."""
    picture = np.asarray(Image.open(demo_photograph()).convert("RGB"))
    for number in range(FRAMES):
        top, left = 10 * number, 25 * number
        yield picture[top : top + HEIGHT, left : left + WIDTH]


def main(folder: Path) -> None:
    """Write into a folder; see above."""
    mapper = bitrate_ext.FrameMapper(bitrate_ext.load_demo_codec(), each_latent=True)
    shown = []
    with (folder / "frames.csv").open("w", newline="") as file:
        table = csv.writer(file)
        for frame in mapper(frames()):  # each is overwritten some frames later: keep what you need of it
            each = {name: float(bits.sum()) for name, bits in frame.latent_bits.items()}
            if frame.index == 0:
                table.writerow(["frame", "bits", "bpp", *each])
            table.writerow([frame.index, float(frame.total_bits), float(frame.bpp), *each.values()])
            picture = frame.frame.permute(2, 0, 1)[None] / 255
            shown.append(frame.image(picture=picture))
            print(frame.summary())
    bitrate_ext.write_video_page(shown, folder / "video.html", rate=4, title="A window over a photograph")
    print(f"written: {folder}/frames.csv, video.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
