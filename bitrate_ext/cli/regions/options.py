"""The arguments that name regions, and what can be said of them before PyTorch is imported."""

from __future__ import annotations

import argparse
import os
import re

from ...io.files import shown, unusable
from ..console import UsageError

TOTALS = "regions"  # what tables of all images together are called


def add_regions(command: argparse.ArgumentParser, *, tables: bool = True) -> None:
    """Add the options of regions to a command, and on request those of their tables."""
    add_roi(command, "its bits, share and PSNR")
    command.add_argument(
        "--mask",
        metavar="FILE|DIR",
        help="regions as labels (an image in grey or with a palette, 0 being the rest), or as one mask (black and "
        "white, or the opaque part of an image); or a folder with a mask for each IMAGE, of its stem",
    )
    command.add_argument(
        "--names", type=region_names, metavar="LABEL=NAME,...", help="of labels; of --roi and of one mask NAME,NAME ..."
    )
    command.set_defaults(latex=False)
    if tables:
        command.add_argument("--latex", action="store_true", help="also the table of regions for LaTeX")


def add_roi(command: argparse.ArgumentParser, told: str) -> None:
    """Add ``--roi``, a list of boxes (x, y, width, height)."""
    command.add_argument(
        "--roi",
        action="append",
        type=_box,
        default=[],
        metavar="X,Y,W,H",
        help=f"a region, left, top, width and height in pixels: {told}; may be repeated",
    )


def check_regions(arguments: argparse.Namespace) -> None:
    """Check what goes together, and that there is a mask where one is named.

    Raises:
        UsageError: it does not, or there is none.
    """
    if arguments.mask is not None and arguments.roi:
        raise UsageError("--roi and --mask are two ways to name regions; give one of them")
    for option in ("names", "latex"):
        if getattr(arguments, option) and not asked_for(arguments):
            raise UsageError(f"--{option} is of regions; it needs --roi or --mask")
    if arguments.mask is not None and not os.path.isdir(arguments.mask):
        reason = unusable(arguments.mask, "an image")
        if reason is not None:
            raise UsageError(f"--mask {shown(arguments.mask)}: {reason}")


def asked_for(arguments: argparse.Namespace) -> str | None:
    """Return the option that asks for regions, if one does."""
    return "--mask" if arguments.mask is not None else "--roi" if arguments.roi else None


def endings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the endings of tables, by their names in the record."""
    if not asked_for(arguments):
        return {}
    return {"regions": f".{TOTALS}.csv", **({"latex": f".{TOTALS}.tex"} if arguments.latex else {})}


def _box(text: str) -> tuple[int, int, int, int]:
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9}),([1-9]\d{0,8}),([1-9]\d{0,8})", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected X,Y,W,H in pixels such as 40,60,200,100, got {text!r}")
    x, y, width, height = map(int, found.groups())
    return x, y, width, height


def region_names(text: str) -> dict[int, str] | list[str]:
    """Read the names of regions: by label, or one after the other."""
    parts = [part.strip() for part in text.split(",")]
    if "=" not in text and all(parts):
        return parts
    pairs = [re.fullmatch(r"(\d{1,9})=(.+)", part, re.ASCII | re.DOTALL) for part in parts]
    names = {int(pair[1]): pair[2] for pair in pairs if pair}
    if len(names) < len(parts):
        raise argparse.ArgumentTypeError(f"expected LABEL=NAME,... such as 1=face,2=sky, or names alone, got {text!r}")
    return names
