"""The arguments of ``bitrate-ext compare``, and what can be said of them before PyTorch is imported."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ...comparison.spec import DEFAULTS, LETTERS, check_references, parse_spec
from ..console import UsageError
from ..model_options import add_device, check_checkpoint, check_device
from ..outputs import prepare_folder
from ..values import add_output, figures, inches, positive

NOTES = """\
A SPEC is CODEC[:QUALITY][,OPTION=VALUE]...; CODEC is
  demo                     the bundled codec, quality 1 to 8, also between them (5 if not given)
  mbt2018-mean ...         a model of CompressAI's zoo, with its quality; of variable rate (...-vbr) with its level
  checkpoint=FILE          your own weights; model=NAME is their architecture, key=A.B where they are in the file
  model=module:Class       your own model, as of bitrate-ext map --model
  module:function          your own codec function, also file.py:function: f(image, quality) returns a PictureBits
and OPTION quality=Q, or bytes=a: as many bytes as codec a, or as a number says, within 1 per cent;
bits=estimated|coded, padding=zeros|replicate|reflect, projection=NAME as of bitrate-ext map, metric=mse|ms-ssim,
name=TEXT for titles.
For each IMAGE, DIR gets
  STEM.compare.png                   the photograph, the maps in one scale, and how the others differ from the first
  STEM.compare.a.png, .b.png ...     each map, in the one scale of all codecs and all images
  STEM.compare.a-b.png ...           the first codec's map minus another's, in a scale of its own
  STEM.compare.a.npz, .b.npz ...     the bits of the cells of each latent, and where they lie
  STEM.compare.figure.pdf ...        the photograph and the maps for print, with --format
  STEM.compare.csv, .blocks.csv      the table; the blocks of 64 x 64 pixels that differ most
  STEM.compare.json                  all of it
Files that exist are kept, and the image is refused, unless --overwrite is given.
"""


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``compare``; ``command(name, help, check, ...)`` makes its parser."""
    description = "The bits of two codecs or more on one photograph, in one scale."
    _add_compare(
        command("compare", "two codecs or more on one photograph", _check, description=description, epilog=NOTES)
    )


def _add_compare(command: argparse.ArgumentParser) -> None:
    command.set_defaults(inputs=("image", "images"), prepare=prepare_folder, module="comparison.compare")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    add_output(command, "DIR", "folder for the results; made if absent")
    for letter in LETTERS:
        about = f"a codec; where neither --a nor --b is given {DEFAULTS[letter]}" if letter in DEFAULTS else "one more"
        command.add_argument(f"--{letter}", metavar="SPEC", help=about)
    command.add_argument(
        "--limit", type=positive, metavar="VALUE", help="upper end of the maps' colours, bits per pixel"
    )
    command.add_argument(
        "--format", type=figures, default=(), metavar="FORMAT,...", help="also figures for print: some of png, pdf, svg"
    )
    command.add_argument(
        "--width", type=inches, metavar="INCHES", help="of these: inches, column (3.4), or page (7, the default)"
    )
    add_device(command)
    command.add_argument("--json", action="store_true", help="print one JSON document instead of the tables")


def _check(arguments: argparse.Namespace) -> None:
    """Read the SPECs into ``arguments.specs``, and the files that they name into ``arguments.codec_files``."""
    check_device(arguments)
    if arguments.width is not None and not arguments.format:
        raise UsageError("--width is of figures for print; it needs --format png, pdf or svg")
    given = {letter: getattr(arguments, letter) for letter in LETTERS if getattr(arguments, letter) is not None}
    if not {"a", "b"} & given.keys():
        given = {**DEFAULTS, **given}
    arguments.specs, arguments.codec_files = {}, []
    for letter, text in given.items():
        try:
            arguments.specs[letter] = spec = parse_spec(text)
        except ValueError as error:
            raise UsageError(f"--{letter}: {error}") from None
        if spec.checkpoint is not None:
            check_checkpoint(spec.checkpoint, f"--{letter}")
        file, _, _ = (spec.function or "").rpartition(":")
        arguments.codec_files += [one for one in (spec.checkpoint, file if file.endswith(".py") else None) if one]
    try:
        check_references(arguments.specs)
    except ValueError as error:
        raise UsageError(f"{error} (--a SPEC --b SPEC)" if len(given) < 2 else f"--{error}") from None
