"""The command ``bitrate-ext dataset summary``: what the rows of runs come to."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..._version import __version__
from ...dataset.items import DatasetError
from ...dataset.summary import bd_rate, summarise
from ...io.files import shown
from ..console import OK, UsageError, echo


def run(arguments: argparse.Namespace) -> int:
    """Sum up, print."""
    folders = arguments.sources[1:]
    try:
        found = [{"folder": folder, **summarise(folder, arguments.top)} for folder in folders]
        compared = bd_rate(folders, arguments.against) if arguments.against else None
    except DatasetError as error:
        raise UsageError(str(error)) from None
    if arguments.json:
        document = {"version": __version__, "runs": found, "bd_rate": compared}
        echo(json.dumps(document, indent=2), sys.stdout)
        return OK
    echo("\n".join(_words(one) for one in found), sys.stdout)
    if compared is not None:
        low, high = compared["interval"]
        first, last = compared["psnr_db"]
        echo(
            f"BD-rate {compared['bd_rate']:+.2f} %, 95 % interval {low:+.2f} to {high:+.2f} %, of "
            f"{compared['pictures']:,} pictures, from {first:.2f} to {last:.2f} dB",
            sys.stdout,
        )
    return OK


def _words(one: dict[str, Any]) -> str:
    state = "" if one["complete"] else f" of {one['total']:,}, not complete"
    lines = [f"{shown(one['folder'])}: {one['items']:,} pictures{state}, {one['error']:,} errors, {one['model']}"]
    if one["ok"]:
        split = ", ".join(f"{name} {bits:,.0f}" for name, bits in one["latents"].items())
        lines.append(
            f"  {one['pixels'] / 1e6:,.1f} Mpixel, {one['bits']:,.0f} bits ({split}), {one['padding_bits']:,.0f} of "
            f"them in padding; {one['bpp']:.4f} bits per pixel, {one['seconds'] or 0:,.0f} s of work"
        )
        keys = list(one["percentiles"]["bpp"])
        lines.append(f"  {'percentile':14}" + "".join(f"{key:>10}" for key in keys))
        for name, values in one["percentiles"].items():
            lines.append(f"  {name:14}" + "".join(f"{values[key]:>10.3f}" for key in keys))
    for words, key in (("most bits per pixel", "most"), ("fewest", "fewest"), ("odd ones", "odd")):
        lines += [f"  {words}:"] * bool(one[key])
        lines += [f"    {row['bpp']:8.3f}{_psnr(row['psnr_db'])}  {shown(row['path'])}" for row in one[key]]
    for row in one["errors"]:
        lines.append(f"  {row['pictures']:,} errors: {row['reason']}, such as {shown(row['first'])}")
    return "\n".join(lines)


def _psnr(value: float | None) -> str:
    return " " * 10 if value is None else f"{value:7.2f} dB"
