"""Show where the bits go, with one call beside the code that you have.

    python examples/drop_in.py [FOLDER]

Runs the bundled codec on the bundled photograph, as you would run your own model, and maps the likelihoods that it
returns: with the operator alone, and with the mapper, which pads, checks and adds up. Writes a figure and the cells.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph


def main(folder: Path) -> None:
    """Write into a folder; see above."""
    model = bitrate_ext.load_demo_codec(quality=3)  # or any of yours, in eval mode
    image = load_image(demo_photograph())  # [1, 3, 300, 451] in [0, 1]

    # The operator, on what a model's forward returns for an image of a size that it takes.
    x = image[..., :256, :448]
    with torch.no_grad():
        output = model(x)
    bits = bitrate_ext.bitrate_map(output["likelihoods"], size=(256, 448))  # [1, 1, 256, 448], bits per pixel
    print(f"{float(bits.double().sum()):,.0f} bits, {float(bits.mean()):.3f} bits per pixel")

    # The mapper, on images of any size.
    result = bitrate_ext.BitrateMapper(model)(image)
    print(result.summary())
    for name, one in result.maps.items():
        print(f"latent {name}: {float(one.double().sum()):,.0f} bits in the picture")
    face = result.region((150, 60, 200, 150), names=["face"], picture=image)  # x, y, width, height
    print(face)

    figure, _ = result.figure(picture=image, name="demo codec")
    figure.savefig(folder / "bits.png")
    result.save(folder / "bits.npz")  # bitrate_ext.PictureBits.load reads it
    print(f"written: {folder}/bits.png, bits.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
