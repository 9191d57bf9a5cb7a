"""Show where one model spends more than another, and what it buys.

    python examples/compare_models.py [FOLDER]

Compares two models on one picture, in one scale, at their own rates and at equal bytes; and over several pictures by
their rates. Both are the bundled codec at two qualities; yours go in their place.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph, more_photographs


def main(folder: Path) -> None:
    """Write into a folder; see above."""
    small, large = bitrate_ext.load_demo_codec(quality=2), bitrate_ext.load_demo_codec(quality=5)
    image = load_image(demo_photograph())

    both = bitrate_ext.compare(image, small, large)
    print(both.table())
    for block in both.top_blocks(3):
        print(f"block at x={block.left}, y={block.top}: {block.difference['b']:+,.0f} bits")
    figure, _ = both.figure()
    figure.savefig(folder / "maps.png")
    figure, _ = both.difference_figure()
    figure.savefig(folder / "difference.png")

    # A SPEC names a codec as text: the second is given the quality at which it makes as many bytes as the first.
    print(bitrate_ext.compare(image[..., :150, :200], "demo:3", "demo,padding=replicate,bytes=a").table())

    # Rates of a data set, here of four photographs.
    pictures = load_image(more_photographs()).unfold(3, 192, 192).unbind(3)
    for name, model in (("quality 2", small), ("quality 5", large)):
        metric = bitrate_ext.RateMetric()
        for x in pictures:
            with torch.no_grad():
                metric.update(model(x), x)
        print(name, {key: round(float(value), 3) for key, value in metric.compute().items()})
    print(f"written: {folder}/maps.png, difference.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
