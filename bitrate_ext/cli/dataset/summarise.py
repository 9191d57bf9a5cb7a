"""The command ``bitrate-ext dataset summary``: what the rows of runs come to."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...atomic import open_all_or_none
from ...dataset.items import DatasetError
from ...dataset.summary import bd_rate, summarise
from ...io.files import shown
from ..console import OK, UsageError, echo
from .options import VIEWS


def run(arguments: argparse.Namespace) -> int:
    """Sum up, print."""
    folders = arguments.sources[1:]
    try:
        found = [{"folder": folder, **summarise(folder, arguments.top)} for folder in folders]
        compared = bd_rate(folders, arguments.against) if arguments.against else None
        written = _write_views(folders[0], arguments)
    except DatasetError as error:
        raise UsageError(str(error)) from None
    if arguments.json:
        document = {"version": __version__, "runs": found, "bd_rate": compared, "files": written}
        echo(json.dumps(document, indent=2), sys.stdout)
        return OK
    echo("\n".join(_words(one, arguments.top) for one in found), sys.stdout)
    if compared is not None:
        low, high = compared["interval"]
        first, last = compared["psnr_db"]
        echo(
            f"BD-rate {compared['bd_rate']:+.2f} %, 95 % interval {low:+.2f} to {high:+.2f} %, of "
            f"{compared['pictures']:,} pictures, from {first:.2f} to {last:.2f} dB",
            sys.stdout,
        )
    if written:
        echo(f"Written: {', '.join(map(shown, written))}", sys.stdout)
    return OK


def _write_views(folder: str, arguments: argparse.Namespace) -> list[str]:
    """Write the pictures and the page that are asked for; return their names."""
    asked = [getattr(arguments, one) for one in VIEWS if getattr(arguments, one) is not None]
    if not asked:
        return []
    from ...dataset import views

    drawn: dict[str, Any] = {}
    if arguments.sheet is not None:
        drawn[arguments.sheet] = views.draw_sheet(folder, arguments.top)
    if arguments.mean_map is not None:
        drawn[arguments.mean_map] = views.mean_map(folder).figure(shown(folder))
    try:
        with open_all_or_none([Path(one) for one in drawn]) as files:
            for picture, file in zip(drawn.values(), files, strict=True):
                picture.save(file, format="PNG")
        if arguments.table is not None:
            views.write_table(folder, arguments.table)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from error
    return asked


def _words(one: dict[str, Any], top: int) -> str:
    state = "" if one["complete"] else f" of {one['total']:,}, not complete"
    videos = f", {one['videos']:,} of them videos" if one["videos"] else ""
    lines = [
        f"{shown(one['folder'])}: {one['items']:,} pictures{state}{videos}, {one['error']:,} errors, {one['model']}"
    ]
    if one["ok"]:
        split = ", ".join(f"{name} {bits:,.0f}" for name, bits in one["latents"].items())
        padding = "" if one["padding_bits"] is None else f", {one['padding_bits']:,.0f} of them in padding"
        lines.append(
            f"  {one['pixels'] / 1e6:,.1f} Mpixel, {one['bits']:,.0f} bits ({split}){padding}; "
            f"{one['bpp']:.4f} bits per pixel, {one['seconds'] or 0:,.0f} s of work"
        )
        keys = list(one["percentiles"]["bpp"])
        lines.append(f"  {'percentile':14}" + "".join(f"{key:>10}" for key in keys))
        for name, values in one["percentiles"].items():
            lines.append(f"  {name:14}" + "".join(f"{values[key]:>10.3f}" for key in keys))
    if len(one["folders"]) > 1:
        lines += _groups("folder", one["folders"], top)
    lines += _groups("region", one["regions"], top)
    for words, key in (("most bits per pixel", "most"), ("fewest", "fewest"), ("odd ones", "odd")):
        lines += [f"  {words}:"] * bool(one[key])
        lines += [f"    {row['bpp']:8.3f}{_psnr(row['psnr_db'])}  {shown(row['path'])}" for row in one[key]]
    for row in one["errors"]:
        lines.append(f"  {row['pictures']:,} errors: {row['reason']}, such as {shown(row['first'])}")
    return "\n".join(lines)


def _groups(what: str, groups: Sequence[dict[str, Any]], top: int) -> Iterator[str]:
    """Yield a line for each folder or region, those that cost most per pixel first."""
    for row in groups[:top]:
        yield (
            f"  {what} {shown(row['name'])}: {row['bpp']:.4f} bits per pixel, {row['bits']:,.0f} bits, "
            f"{row['pixels'] / 1e6:,.2f} Mpixel, {row['pictures']:,} pictures{_psnr(row['psnr_db']).rstrip()}"
        )
    if len(groups) > top:
        yield f"  and {len(groups) - top:,} more; --top or --json tells of them"


def _psnr(value: float | None) -> str:
    return " " * 10 if value is None else f"{value:7.2f} dB"
