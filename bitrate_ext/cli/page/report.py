"""The command ``bitrate-ext report``: pages to look into the bits of photographs."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...cells.picture import PictureBits
from ...io.files import shown
from ...io.images import load_picture
from ...page.document import page_psnr
from ...page.write import write_folder_page, write_page
from ..console import FAILED, OK, echo, number, print_document, tell_failures, warn
from ..map.work import make_job, run_job
from ..outputs import Names, file_name
from ..record import MapJob
from ..regions.tables import read_areas
from ..serving import checked_device, input_file, run_each, with_progress
from .options import PAGES


def run(arguments: argparse.Namespace) -> int:
    """Map by each input, write the pages, print."""
    jobs = [make_job(one, checked_device(one.device)) for one in arguments.each]
    titles = _titles(jobs, ["", *arguments.versus])
    page, several = Path(arguments.output), len(arguments.images) > 1
    folder = page.with_name(f"{page.stem}{PAGES}")
    placed = argparse.Namespace(**{**vars(arguments), "output": str(folder)})
    names = Names(
        placed, arguments.images, [".html" if several else page.suffix], None if several else page.with_suffix("")
    )

    def serve(image: str) -> dict[str, Any]:
        with names.take(image) as (target,), input_file(image) as path:
            picture = load_picture(path)
            facts = {
                "input": file_name(image),
                "SHA-256 of the input": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
                "command": shlex.join(["bitrate-ext", *sys.argv[1:]]),
            }
            areas = read_areas(arguments, image, (picture.pixels.shape[2], picture.pixels.shape[3]))
            inputs = []
            for job, title in zip(jobs, titles, strict=True):
                result, _, _ = run_job(job, picture.pixels)
                bits = result.image(0, name=title, picture=picture.pixels)
                inputs.append(replace(bits, warnings=(*picture.facts.warnings, *bits.warnings)))
                facts[f"projection of {title}, {bits.kind}"] = job.arguments.projection
            write_page(inputs, target, channels=arguments.channels, title=file_name(image), facts=facts, regions=areas)
        warn(image, dict.fromkeys(line for one in inputs for line in one.warnings))
        row = {"image": image, **_row(inputs), "page": str(target)}
        if not arguments.json:
            echo(f"{shown(image)}: {number(row['bpp'], '.3f')} bits per pixel: {shown(str(target))}", sys.stdout)
        return row

    models: list[Any] = [job.mapper.adapter.model for job in jobs]
    rows, failures = run_each("image", with_progress(arguments.images), serve, models)
    if several and rows:
        linked = [{**row, "page": Path(row["page"]).relative_to(page.parent).as_posix()} for row in rows]
        write_folder_page(linked, page, title=f"{len(rows)} pictures, {titles[0]}", picture=_picture)
    if arguments.json:
        print_document("image", rows, failures)
    else:
        if several and rows:
            echo(f"Written: {shown(str(page))}", sys.stdout)
        tell_failures("image", failures, len(arguments.images))
    return FAILED if failures else OK


def _titles(jobs: list[MapJob], told: list[str]) -> list[str]:
    """Return what to call each input: its model, and its options where another is of that model and kind, too."""
    names = [(job.model, job.arguments.bits) for job in jobs]
    count = Counter(names)
    return [
        f"{name[0]}, {words}" if count[name] > 1 and words else name[0] for name, words in zip(names, told, strict=True)
    ]


def _picture(row: Mapping[str, Any]) -> Tensor | None:
    """Read the picture of a row once more; of the standard input, and of what is gone, there is none."""
    with contextlib.suppress(ValueError, OSError):
        return load_picture(row["image"]).pixels
    return None


def _row(inputs: list[PictureBits]) -> dict[str, Any]:
    """Return what a page of many pictures says of one."""
    first = inputs[0]
    row: dict[str, Any] = {"width": first.size[1], "height": first.size[0], "bits": first.total_bits, "bpp": first.bpp}
    if first.file_bytes is not None:
        row["bytes"] = first.file_bytes
    psnr = page_psnr(first)
    if psnr is not None:
        row["PSNR, dB"] = psnr
    row |= {f"bits of {name}": bits for name, bits in first.latent_bits.items()}
    row["bits in padding"] = first.padding_bits
    for place, other in enumerate(inputs[1:], 2):
        row[f"bpp of input {place}"] = other.bpp
    return row
