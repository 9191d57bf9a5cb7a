"""The command ``bitrate-ext compare``: several codecs on one photograph, as pictures and as tables."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch.nn.functional as F
from torch import Tensor

from ..._version import __version__
from ...atomic import open_all_or_none
from ...cells import saving
from ...comparison.compare import Comparer
from ...comparison.result import Block, Comparison, Row, share_scale
from ...comparison.spec import Spec
from ...io.facts import PictureFacts
from ...io.files import shown
from ...io.images import load_picture
from ...viz.compare_figure import compare_figure
from ...viz.map_figure import map_figure, panel_size
from ..console import FAILED, OK, UsageError, echo, finite, one_line, print_document, tell_failures, telling, warn
from ..outputs import Names, file_name
from ..serving import checked_device, input_file, run_each, with_progress


@dataclass
class _Measured:
    """What is kept of an image until all are measured, and the scale of their colours is known."""

    image: str
    facts: PictureFacts
    photograph: Tensor  # [1, 3, h, w], as small as figures have it
    comparison: Comparison
    files: dict[str, Path]


def run(arguments: argparse.Namespace) -> int:
    """Compare on each image, then write the files of each in one scale, and print."""
    device = checked_device(arguments.device)
    try:
        with telling("Loading the codecs"):
            comparer = Comparer(arguments.specs, device)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--{one_line(error)}") from error
    endings = _endings(arguments.specs, arguments.format)
    names = Names(arguments, arguments.images, list(endings.values()))

    def measure(image: str) -> _Measured:
        with names.take(image) as paths, input_file(image) as path:
            picture = load_picture(path)
            comparison = comparer(picture.pixels, arguments.limit)
        warn(image, [*picture.facts.warnings, *comparison.warnings])
        height, width = panel_size(*comparison.size)
        small = F.interpolate(picture.pixels, (height, width), mode="area") if width < comparison.size[1] else None
        bits = {letter: replace(one, picture=None, reconstruction=None) for letter, one in comparison.pictures.items()}
        kept = replace(comparison, pictures=bits)
        photograph = picture.pixels if small is None else small
        return _Measured(image, picture.facts, photograph, kept, dict(zip(endings, paths, strict=True)))

    measured, failures = run_each("image", with_progress(arguments.images), measure, comparer.models, "Comparing on")
    for one, comparison in zip(measured, share_scale([one.comparison for one in measured]), strict=True):
        one.comparison = replace(comparison, limit=arguments.limit or comparison.limit)
    by_image = {one.image: one for one in measured}

    def write(image: str) -> dict[str, Any]:
        document = _document(by_image[image], str(device))
        _write(by_image[image], document, arguments.format, arguments.width or "page")
        if not arguments.json:
            echo(_summary(by_image[image]), sys.stdout)
        return document

    documents, unwritten = run_each("image", by_image, write, (), "Writing the results of")
    failures += unwritten
    if arguments.json:
        print_document("image", documents, failures)
    else:
        tell_failures("image", failures, len(arguments.images))
    return FAILED if failures else OK


def _endings(specs: dict[str, Spec], kinds: Sequence[str]) -> dict[str, str]:
    """Return what each file's name ends in, by its name in the record."""
    first, *others = specs
    pairs = [f"{first}-{other}" for other in others]
    endings = {"figure": "png", **{name: f"{name}.png" for name in (*specs, *pairs)}}
    endings |= {f"cells {letter}": f"{letter}.npz" for letter in specs}
    endings |= {f"print {kind}": f"figure.{kind}" for kind in kinds}
    endings |= {"table": "csv", "blocks": "blocks.csv", "record": "json"}
    return {name: f".compare.{ending}" for name, ending in endings.items()}


def _document(measured: _Measured, device: str) -> dict[str, Any]:
    """Return what ``STEM.compare.json`` says."""
    comparison, codecs = measured.comparison, []
    for row in comparison.rows:
        bits = comparison.pictures[row.letter]
        latents = {name: finite(one) for name, one in bits.latent_bits.items()}
        codecs.append({**_finite(asdict(row)), "latent_bits": latents, "elsewhere": dict(bits.elsewhere)})
    return {
        "image": measured.image,
        "width": comparison.size[1],
        "height": comparison.size[0],
        "device": device,
        "version": __version__,
        "codecs": codecs,
        "blocks": [_finite(asdict(one)) for one in comparison.top_blocks()],
        "limit": comparison.limit,
        "difference_limit": comparison.difference_limit,
        "picture": asdict(measured.facts),
        "warnings": [*measured.facts.warnings, *comparison.warnings],
        "files": {name: str(path) for name, path in measured.files.items()},
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return values for JSON, in which numbers that are not finite are null."""
    return {
        name: _finite(one) if isinstance(one, dict) else finite(one) if isinstance(one, float) else one
        for name, one in values.items()
    }


def _write(measured: _Measured, document: dict[str, Any], kinds: Sequence[str], width: str | float) -> None:
    """Write the files of one image, all or none."""
    comparison, title = measured.comparison, shown(file_name(measured.image))
    scale: dict[str, Any] = {"rim": comparison.rim}
    about = {row.letter: (f"{row.letter.upper()}   {row.name}", _numbers(row)) for row in comparison.rows}
    apart = {other: comparison.difference(first, other) for first, other in comparison.pairs}
    with open_all_or_none(list(measured.files.values())) as opened:
        file = dict(zip(measured.files, opened, strict=True))
        for row in comparison.rows:
            words = f"{about[row.letter][0]}   {about[row.letter][1]}"
            drawn = map_figure(
                comparison.maps[row.letter], title=title, subtitle=words, limit=comparison.limit, **scale
            )
            drawn.save(file[row.letter], format="PNG")
            saving.write_arrays(file[f"cells {row.letter}"], comparison.pictures[row.letter].arrays(), packed=True)
        for first, other in comparison.pairs:
            drawn = map_figure(
                apart[other],
                title=title,
                subtitle=f"{about[first][0]}   minus   {about[other][0]}",
                limit=comparison.difference_limit,
                signed=True,
                ends=(f"{other.upper()} spends more", f"{first.upper()} spends more"),
                **scale,
            )
            drawn.save(file[f"{first}-{other}"], format="PNG")
        first, others = comparison.rows[0].letter.upper(), [other.upper() for other in apart]
        whole = compare_figure(
            measured.photograph,
            comparison.maps,
            apart,
            about,
            title=title,
            limit=comparison.limit,
            difference_limit=comparison.difference_limit,
            ends=(f"{others[0]} spends more" if len(others) == 1 else f"{first} spends less", f"{first} spends more"),
            **scale,
        )
        whole.save(file["figure"], format="PNG")
        if kinds:
            printed, _ = comparison.figure(photograph=measured.photograph, width=width)
            for kind in kinds:
                printed.write(file[f"print {kind}"], kind)
        _write_csv(file["table"], [_finite(asdict(row)) for row in comparison.rows])
        _write_csv(file["blocks"], [_flat(one, comparison) for one in comparison.top_blocks()])
        file["record"].write(f"{json.dumps(document, indent=2, allow_nan=False)}\n".encode())


def _write_csv(file: IO[bytes], rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.write(text.getvalue().encode())


def _flat(block: Block, comparison: Comparison) -> dict[str, Any]:
    """Return a block's line in a CSV file."""
    place = {name: getattr(block, name) for name in ("left", "top", "width", "height")}
    bits = {f"bits {letter}": one for letter, one in block.bits.items()}
    return place | bits | {f"{first}-{other}": block.difference[other] for first, other in comparison.pairs}


def _numbers(row: Row) -> str:
    """Return what figures say of a codec's bits."""
    psnr = "" if row.psnr_db is None else f"   {row.psnr_db:.2f} dB"
    return f"{row.bytes:,.0f} bytes   {row.bpp:.3f} bpp{psnr}   {row.kind}"


def _summary(measured: _Measured) -> str:
    comparison = measured.comparison
    height, width = comparison.size
    lines = [f"{shown(measured.image)}: {width} x {height} pixels"]
    lines += [f"  {line}" for line in comparison.table().splitlines()]
    lines.append("  Blocks that differ most, by their left upper pixel:")
    for block in comparison.top_blocks():
        apart = ", ".join(f"{first} minus {other} {block.difference[other]:+,.0f}" for first, other in comparison.pairs)
        spent = ", ".join(f"{letter} {bits:,.0f}" for letter, bits in block.bits.items())
        size = f"{block.width} x {block.height} at {block.left}, {block.top}"
        lines.append(f"    {size:22}bits {spent}; {apart}")
    files = list(measured.files.values())
    lines.append(f"  Written: {shown(files[0])} and {len(files) - 1} more, {shown(files[-1])} names them")
    return "\n".join(lines)
