"""The arguments of ``bitrate-ext report``."""

from __future__ import annotations

import argparse
import copy
import shlex
from pathlib import Path
from typing import Any

from ... import choices
from ..console import UsageError
from ..model_options import add_model, check_model
from ..outputs import ensure_output_dir, refusal
from ..regions.options import add_regions, check_regions
from ..values import add_passes, check_jacobian

ALL = 1 << 30  # channels
PAGES = ".pages"  # ends the name of the folder of pages, beside a page of many pictures
REPORT_NOTES = """\
FILE is one page of HTML that any browser opens from disk, without a network: the photograph, the bits over it, of each
latent and of the costliest channels, what each pixel and each cell costs, regions, charts and the ledger.
Of several IMAGEs FILE is a table that can be sorted and filtered, and FILE without its ending, with .pages, a folder
with a page of each.
--versus lays another model, quality or kind of bits beside the first, with a slider, side by side, blinking, and as a
difference: --versus "--quality 5", --versus "--bits coded", --versus "--padding replicate". What it does not name is as
for the first. It may be repeated; any two are chosen on the page.
With --roi or --mask the page begins with these regions.
"""


def add_report(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``bitrate-ext report`` to its parser."""
    command.set_defaults(
        inputs=("image", "images"), prepare=prepare_report, module="page.report", gap=False, channel=None
    )
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    command.add_argument("-o", "--output", default="report.html", metavar="FILE", help="default report.html")
    command.add_argument("--overwrite", action="store_true", help="replace results that exist")
    command.add_argument(
        "--channels",
        type=_channel_count,
        default=choices.SHOWN_CHANNELS,
        metavar="N|all",
        help=f"of each latent, the costliest, that can be looked at (default {choices.SHOWN_CHANNELS})",
    )
    command.add_argument(
        "--versus",
        action="append",
        default=[],
        metavar="OPTIONS",
        help="another input beside the first, by the options in which it differs, in quotes; may be repeated",
    )
    other = type(command)(f"{command.prog} --versus", add_help=False, allow_abbrev=False)
    for one in (command, other):
        _add_bits(one)
    add_regions(command, tables=False)
    command.set_defaults(other=other)


def _add_bits(command: argparse.ArgumentParser) -> None:
    add_model(command)
    projections = (*choices.PROJECTIONS, *choices.MEASURED, choices.JACOBIAN)
    command.add_argument("--projection", choices=projections, default="bilinear", help="as of bitrate-ext map")
    command.add_argument("--bits", choices=(choices.ESTIMATED, choices.CODED), default=choices.ESTIMATED)
    add_passes(command)


def check_report(arguments: argparse.Namespace) -> None:
    """Check that the options go together, and set ``arguments.each``: those of each input, the first one's first.

    Raises:
        UsageError: they do not.
    """
    check_regions(arguments)
    arguments.each = [arguments]
    for words in arguments.versus:
        other = copy.copy(arguments)
        try:
            split = shlex.split(words)
        except ValueError as error:
            raise UsageError(f"--versus {words!r}: {error}") from None
        if not split:
            raise UsageError("--versus: expected options in which it differs, such as --versus '--quality 5', got none")
        arguments.other.parse_args(split, namespace=other)
        if other.projection != choices.JACOBIAN:
            other.passes = None  # they are the first one's
        arguments.each.append(other)
    for one in arguments.each:
        check_model(one)
        check_jacobian(one)
        one.gap = one.bits == choices.CODED  # for the reconstruction
        one.beliefs = one.bits == choices.ESTIMATED and one.projection != choices.JACOBIAN


def prepare_report(arguments: argparse.Namespace) -> None:
    """Make the folder of the page, and see that the page of several pictures may be written.

    Raises:
        UsageError: nothing can go there, or something is there.
    """
    page = Path(arguments.output)
    if not page.name:
        raise UsageError(f"--output {arguments.output!r}: expected the name of a file, such as report.html")
    ensure_output_dir(str(page.parent))
    taken = refusal([page], arguments.images, arguments.overwrite) if len(arguments.images) > 1 else None
    if taken is not None:
        raise UsageError(f"--output: {taken}")


def _channel_count(text: str) -> Any:
    if text == "all":
        return ALL
    if text.isascii() and text.isdigit() and 0 < int(text[:9]) < 10**6:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a number of at least 1, or all, got {text!r}")
