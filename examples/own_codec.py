"""Show the bits of a codec of your own, neural or not, in the same maps, figures and comparisons.

    python examples/own_codec.py [FOLDER]

Here: blocks of 16 x 16 pixels, quantised and deflated one by one. All that is needed is how many bits each takes, and
what of the file lies on no pixel.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

BLOCK, HEADER = 16, 12  # pixels on a side; bytes


def deflated(image: torch.Tensor, quality: float | None) -> bitrate_ext.PictureBits:
    """Code an image ``[1, 3, H, W]`` in [0, 1]; quality is the number of levels."""
    levels = round(quality or 16) - 1
    height, width = image.shape[2:]
    symbols = (F.pad(image[0], (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate") * levels).round()
    blocks = symbols.byte().unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).permute(1, 2, 0, 3, 4)  # [h, w, 3, 16, 16]
    sizes = [[len(zlib.compress(one.numpy().tobytes(), 9)) for one in row] for row in blocks]
    cells = 8 * torch.tensor(sizes, dtype=torch.float64)  # [h, w], bits
    return bitrate_ext.PictureBits(
        {"blocks": bitrate_ext.CellGrid(cells)},
        canvas=(symbols.shape[1], symbols.shape[2]),
        crop=(0, 0, height, width),
        name="deflated blocks",
        kind="coded",
        elsewhere={"header": 8 * HEADER},
        file_bytes=int(cells.sum()) // 8 + HEADER,
        picture=image,
        reconstruction=(symbols / levels)[None, :, :height, :width],
    )


deflated.qualities = (2.0, 64.0)  # type: ignore[attr-defined]  # where it makes the fewest bytes, and the most


def main(folder: Path) -> None:
    """Write into a folder; see above."""
    image = load_image(demo_photograph())
    both = bitrate_ext.compare(image, (deflated, 16), "demo:8")
    print(both.pictures["a"].summary(), both.table(), sep="\n")
    both.figure()[0].savefig(folder / "blocks.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
