"""Check that the JPEG example is exact to the bit: on own encodes of every kind, and on folders of files.

    python tools/check_jpeg.py                      # own encodes alone
    python tools/check_jpeg.py KODAK TEST_SET.jpg   # files as well, and folders with all that is below them
    python tools/check_jpeg.py --each PHOTO.jpg     # and where the bits of each file are

Needs Pillow. Ends with code 1 where one of its own encodes is refused, or a ledger does not close.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from bitrate_ext.models.demo_codec import demo_photograph

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")
KINDS = (  # of own encodes
    {"subsampling": "4:4:4"},
    {"subsampling": "4:2:2", "restart_marker_rows": 1},
    {"subsampling": "4:2:0"},
    {"subsampling": "4:2:0", "restart_marker_blocks": 3},
    {"keep_rgb": True, "comment": b"\xff\xd9"},
)


def load_example():
    spec = importlib.util.spec_from_file_location("jpeg_example", Path(__file__).parents[1] / "examples/jpeg.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_encodes() -> Iterator[tuple[str, bytes]]:
    """A photograph, noise, a slope and one pixel, grey and in colour."""
    pictures = {"photograph": Image.open(demo_photograph()).convert("RGB")}
    pictures["noise"] = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 75, 3), dtype=np.uint8))
    pictures["slope"] = Image.linear_gradient("L").resize((130, 17))
    pictures["pixel"] = pictures["photograph"].crop((200, 150, 201, 151))
    settings = itertools.product(pictures, ("L", "RGB"), KINDS, (False, True), (5, 50, 95))
    for name, mode, kind, optimize, quality in settings:
        file = BytesIO()
        pictures[name].convert(mode).save(file, "JPEG", quality=quality, optimize=optimize, **kind)
        yield f"{name} {mode} {kind} {optimize} {quality}", file.getvalue()


def files_of(paths: list[Path]) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if one.is_file() and (one == path or one.suffix.lower() in ENDINGS):
                yield str(one), one.read_bytes()


def check(title: str, files: Iterator[tuple[str, bytes]], each: bool) -> tuple[int, int]:
    """Print how many files close, and why others are refused; return how many do not close, and are refused."""
    reader, refused, closing, bits = load_example(), Counter(), [], 0
    for name, data in files:
        try:
            found = reader.read_jpeg(data)
        except ValueError as reason:
            refused[str(reason).split(":")[0].split(" in the segment")[0]] += 1
            if each:
                print(f"  {name}: refused: {reason}")
            continue
        on_pixels = float(found.map().sum()) + found.padding_bits
        closing.append(found.closes and abs(on_pixels - sum(found.latent_bits.values())) < 1e-6)
        bits += 8 * len(data)
        if each or not closing[-1]:
            lines = {**found.latent_bits, **found.elsewhere, "of these in the padding": found.padding_bits}
            print(f"  {name}: {8 * len(data):,} bits", *(f"{n:16,.2f} {what}" for what, n in lines.items()), sep="\n")
    print(f"{title}: {sum(closing)} files close, {bits:,} bits; {len(closing) - sum(closing)} do not")
    print(*(f"  {count} refused: {reason}" for reason, count in refused.most_common()), sep="\n")
    return len(closing) - sum(closing), refused.total()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="files, and folders of files")
    parser.add_argument("--each", action="store_true", help="the bits of each file, and why it is refused")
    options = parser.parse_args()
    wrong = sum(check("own encodes", own_encodes(), each=False))
    if options.paths:
        wrong += check("given", files_of(options.paths), options.each)[0]
    sys.exit(min(wrong, 1))
