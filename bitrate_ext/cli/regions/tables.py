"""Masks of photographs, and the tables of what their regions cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ...atomic import open_all_or_none
from ...cells.regions import Areas, RegionTable, add_up, areas_of
from ...io.files import shown
from ...io.labels import load_labels
from ...models.padding import Size
from ..console import UsageError, echo
from ..outputs import refusal, stem_of
from . import options


def read_areas(arguments: argparse.Namespace, image: str, size: Size) -> Areas | None:
    """Return the regions of an image of ``size`` (height, width) that the arguments ask for.

    Raises:
        ValueError: there are none of it, or they do not fit; names the image and the option.
    """
    option = options.asked_for(arguments)
    if option is None:
        return None
    mask = None if arguments.mask is None else _mask_of(arguments.mask, image)
    try:
        return areas_of(arguments.roi if mask is None else load_labels(mask), size, arguments.names)
    except ValueError as error:
        said = str(error) if mask is None else str(error).removeprefix(f"{shown(mask)}: ")
        of = "" if mask is None else f" {shown(mask)}"
        raise ValueError(f"{shown(image)}: {option}{of}: {said}") from error


def _mask_of(mask: str, image: str) -> Path:
    """Return the mask itself, or the one of the image's stem in a folder of masks."""
    folder, stem = Path(mask), stem_of(image)
    if not folder.is_dir():
        return folder
    found = sorted(path for path in folder.iterdir() if path.stem == stem and path.is_file())
    if len(found) != 1:
        there = f"has {', '.join(shown(one.name) for one in found)}" if found else "has no file"
        raise ValueError(f"{shown(image)}: --mask {shown(mask)}: {there} of stem {shown(stem)}; one is needed")
    return found[0]


def write_tables(table: RegionTable, files: Mapping[str, IO[bytes]]) -> None:
    """Write those tables that there are files for."""
    texts = {"regions": table.csv, "latex": table.latex}
    for name in texts.keys() & files.keys():
        files[name].write(texts[name]().encode())


class Totals:
    """What the regions of one name cost in all images together: a table at the end, of several images.

    Raises:
        UsageError: its files exist.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        wanted = options.endings(arguments) if len(arguments.images) > 1 else {}
        self._targets = {name: Path(arguments.folder, ending[1:]) for name, ending in wanted.items()}
        self.tables: list[RegionTable] = []
        reason = refusal(list(self._targets.values()), arguments.images, arguments.overwrite)
        if reason is not None:
            raise UsageError(reason)

    def record(self) -> dict[str, Any]:
        """Return what a JSON document says of it."""
        return {"regions": add_up(self.tables).record()} if self._targets and self.tables else {}

    def finish(self, *, quiet: bool) -> None:
        """Write the files, and print the table unless ``quiet``."""
        if not self._targets or not self.tables:
            return
        table = add_up(self.tables)
        with open_all_or_none(list(self._targets.values())) as opened:
            write_tables(table, dict(zip(self._targets, opened, strict=True)))
        if not quiet:
            count = f"{len(self.tables)} image{'s' if len(self.tables) > 1 else ''} together"
            echo(f"{count}:\n{indented(table)}", sys.stdout)


def indented(table: RegionTable) -> str:
    """Return a table for a terminal, with what lies in none of its rows."""
    rows = [f"  {line}" for line in str(table).splitlines()]
    beside = {"in padding": table.padding_bits, "elsewhere": table.elsewhere_bits}
    told = ", ".join(f"{bits:,.1f} bits {what}" for what, bits in beside.items() if bits)
    return "\n".join([*rows, *([f"  and {told}"] if told else [])])
