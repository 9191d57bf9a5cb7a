"""What options of several commands take: numbers, sizes in bytes, folders."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable

from .. import choices
from ..byte_sizes import parse_bytes
from .console import UsageError


def add_output(command: argparse.ArgumentParser, name: str, about: str) -> None:
    """Add the options of where results go."""
    command.add_argument("-o", "--output", default=".", metavar=name, help=about)
    command.add_argument("--overwrite", action="store_true", help="replace results that exist")


def add_passes(command: argparse.ArgumentParser) -> None:
    """Add the option of how long bits are followed."""
    command.add_argument(
        "--passes",
        type=at_least(choices.FEWEST_PASSES),
        metavar="N",
        help=f"of jacobian: more take longer and err less (default {choices.PASSES})",
    )


def check_jacobian(arguments: argparse.Namespace) -> None:
    """Raise ``UsageError`` for what does not go with bits that are followed, or with such that are not."""
    if arguments.bits == choices.CODED and arguments.projection == choices.JACOBIAN:
        raise UsageError(
            f"--projection {choices.JACOBIAN} follows estimated bits and cannot go with --bits {choices.CODED}"
        )
    if arguments.passes is not None and arguments.projection != choices.JACOBIAN:
        raise UsageError(f"--passes {arguments.passes} goes with --projection {choices.JACOBIAN}")


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return what reads a whole number."""
    expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"

    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


def byte_count(text: str) -> int:
    """Read a number of bytes, such as 512M."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> float:
    """Read a positive number."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and value > 0:
            return value
    raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")


def inches(text: str) -> float:
    """Read the width of a figure for print: inches, or a word for it."""
    try:
        return choices.inches_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def figures(text: str) -> tuple[str, ...]:
    """Read kinds of files of figures for print."""
    found = tuple(dict.fromkeys(text.lower().split(",")))
    if not set(found) <= set(choices.FIGURES):
        known = ", ".join(choices.FIGURES)
        raise argparse.ArgumentTypeError(f"expected some of {known}, with commas between, got {text!r}")
    return found
