"""The command ``bitrate-ext check``, and coded bits in ``bitrate-ext map``: ledgers, gaps and channels."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..io.images import load_image
from ..mapping.layout import CODED, ESTIMATED, BitrateResult
from ..mapping.mapper import BitrateMapper
from .console import FAILED, OK, UsageError, echo, finite, number, run_each, with_progress
from .model_options import add_model_arguments, check_model_arguments, checked_device, load_model
from .record import JACOBIAN, Record

if TYPE_CHECKING:
    from PIL import Image

OPEN = 1  # exit code: books that do not close
NOTES = """\
Each IMAGE is coded with the model's own compress(), and the bits of every symbol are counted as the range coder spends
them. For each latent the table has, in bits,
  image      what the map shows
  padding    what belongs to the padding that the model needs
  overhead   final states of the coder, 32 to 64 bits a string
  strings    8 times the bytes of the strings: image + padding + overhead, where the books close
  estimated  what the likelihoods of forward() come to
  gap        image + padding over estimated, less one
Exit code 1 where the books of an image do not close to 1e-6 bit, 2 where an image or the model cannot be read.
"""


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "check",
        help="code photographs, and see that map, padding and overhead add up to the file",
        description="Compares the bits of the map with the strings that the model's own compress() writes.",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    add_model_arguments(command)
    command.add_argument(
        "--container", action="store_true", help="count the container of CompressAI's examples/codec.py, too"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Code, compare, print."""
    from .._version import __version__

    device = checked_device(arguments.device)
    check_model_arguments(arguments)
    model, name = load_model(device, arguments)
    mapper = BitrateMapper(model, bits=CODED, gap=True)

    def checked(image: str) -> dict[str, Any]:
        photograph = load_image(image)
        height, width = photograph.shape[-2:]
        document = {"image": image, "width": width, "height": height, "model": name, "device": str(device)}
        document |= described(mapper(photograph.to(device)))
        if not arguments.container:
            del document["container_bytes"]
        if not arguments.json:
            echo(_table(document), sys.stdout)
        return document

    documents, failures = run_each("image", with_progress(arguments.images), checked)
    if arguments.json:
        whole = {"version": __version__, "images": documents, "failures": failures}
        echo(json.dumps(whole, indent=2, allow_nan=False), sys.stdout)
    if failures:
        return FAILED
    return OK if all(document["closes"] for document in documents) else OPEN


def described(result: BitrateResult) -> dict[str, Any]:
    """The ledger of one image, as ``STEM.json`` has it."""
    ledger = result.ledger
    assert ledger is not None
    latents = {}
    for name, one in ledger.latents.items():
        latents[name] = {
            "image": one.located.item(),
            "padding": one.padding.item(),
            "overhead": one.overhead.item(),
            "string_bytes": one.string_bytes.item(),
            "strings": one.strings.item(),
            "escapes": one.escapes.item(),
            "closure": one.closure.item(),
            "estimated": None if one.estimated is None else finite(one.estimated.item()),
            "disagreement": None if one.disagreement is None else finite(one.disagreement.item()),
        }
    return {
        "closes": ledger.closes.item(),
        "string_bytes": ledger.string_bytes.item(),
        "container_bytes": ledger.container_bytes.item(),
        "latents": latents,
        "warnings": list(result.warnings),
    }


def _table(document: dict[str, Any]) -> str:
    latents, pixels = document["latents"], document["width"] * document["height"]
    strings = sum(one["strings"] for one in latents.values())
    file = f"{document['string_bytes']:,} bytes in {strings} strings"
    if "container_bytes" in document:
        file += f", {document['container_bytes']:,} bytes of container"
    bpp = 8 * (document["string_bytes"] + document.get("container_bytes", 0)) / pixels
    lines = [
        f"{document['image']}: {document['width']} x {document['height']}, {bpp:.3f} bits per pixel, {file}",
        f"  {'':8}{'image':>14}{'padding':>14}{'overhead':>12}{'strings':>12}{'estimated':>14}{'gap':>10}",
    ]
    for name, one in latents.items():
        gap = ""
        if one["estimated"]:
            gap = f"{100 * ((one['image'] + one['padding']) / one['estimated'] - 1):+.2f} %"
        lines.append(
            f"  {name:8}{one['image']:>14,.2f}{one['padding']:>14,.2f}{one['overhead']:>12,.2f}"
            f"{8 * one['string_bytes']:>12,}{number(one['estimated'], ',.2f'):>14}{gap:>10}"
        )
    left = max((abs(one["closure"]) for one in latents.values()), default=0.0)
    lines.append(f"  The books {'close' if document['closes'] else 'DO NOT CLOSE'}: {left:.1e} bits are left over.")
    lines += [f"  warning: {warning}" for warning in document["warnings"]]
    return "\n".join(lines)


# Coded bits, gaps and channels in ``bitrate-ext map``.


def add_map_arguments(command: argparse.ArgumentParser) -> None:
    """What ``map`` takes besides."""
    command.add_argument(
        "--bits",
        choices=(ESTIMATED, CODED),
        default=ESTIMATED,
        help="by the model's likelihoods, or as its range coder spends them (default estimated)",
    )
    command.add_argument("--gap", action="store_true", help="of coded bits: also where they differ from the estimate")
    command.add_argument("--channels", action="store_true", help="also the bits of each channel of each latent")


def check_map_arguments(arguments: argparse.Namespace) -> None:
    """Raises ``UsageError`` where they do not go together."""
    if arguments.gap and arguments.bits != CODED:
        raise UsageError(f"--gap needs --bits {CODED}")
    if arguments.bits == CODED and arguments.projection == JACOBIAN:
        raise UsageError(f"--projection {JACOBIAN} follows estimated bits and cannot go with --bits {CODED}")


def map_outputs(arguments: argparse.Namespace) -> dict[str, str]:
    """Endings of the pictures that were asked for besides, by their name in the record."""
    asked = {"gap": arguments.gap, "entropy": arguments.gap, "channels": arguments.channels}
    return {name: f".{name}.png" for name, wanted in asked.items() if wanted}


def complete_record(record: Record, result: BitrateResult, channels: bool) -> None:
    """Where the bits come from, what is to be known of them, their ledger and their channels."""
    record.bits, record.warnings = result.bits, list(result.warnings)
    if result.ledger is not None:
        record.ledger = described(result)
        del record.ledger["warnings"]
    if channels:
        record.channels = {name: channel_account(bits[0]) for name, bits in result.channel_bits.items()}


def channel_account(bits: Any) -> dict[str, list[Any]]:
    """Channels ``[C]`` in the order of their bits, largest first, and the share of all that the first so many have."""
    ordered = bits.cpu().sort(descending=True, stable=True)
    total = float(ordered.values.sum())
    shares = (ordered.values.cumsum(0) / total if total > 0 else ordered.values).tolist()
    return {
        "channel": ordered.indices.tolist(),
        "bits": [finite(one) for one in ordered.values.tolist()],
        "share": [finite(one) for one in shares],
    }


def write_pictures(
    files: Sequence[IO[bytes]], names: Sequence[str], result: BitrateResult, title: str, model: str
) -> None:
    """The pictures of ``map_outputs``."""
    for file, name in zip(files, names, strict=True):
        _picture(name, result, title, model).save(file, format="PNG")


def _picture(name: str, result: BitrateResult, title: str, model: str) -> Image.Image:
    from ..viz.channel_figure import channel_figure
    from ..viz.map_figure import map_figure

    if name == "channels":
        accounts = {latent: channel_account(bits[0]) for latent, bits in result.channel_bits.items()}
        return channel_figure(accounts, title=title, subtitle=model)
    if name == "entropy":
        assert result.entropy is not None
        return map_figure(result.entropy, title=title, subtitle=f"what the coder's tables expect   {model}")
    assert result.gap is not None
    return map_figure(result.gap, title=title, subtitle=f"coded minus estimated   {model}", signed=True)


def array_names(result: BitrateResult) -> dict[str, Any]:
    """Maps for ``STEM.bitrate.npz`` besides."""
    return {name: one for name, one in (("gap", result.gap), ("entropy", result.entropy)) if one is not None}


def warn(result: BitrateResult, image: str) -> None:
    """Each warning as a line on stderr."""
    for warning in result.warnings:
        echo(f"bitrate-ext: warning: {Path(image).name}: {warning}", sys.stderr)
