"""How ``bitrate-ext map`` serves big pictures: when it cuts them into tiles, what it writes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from ... import choices, memory
from ...atomic import open_all_or_none
from ...byte_sizes import format_bytes
from ...coding.coder import noise
from ...io.files import shown
from ...io.images import ImageError
from ...io.windowed import declared_size, open_image
from ...models.adapter import ModelAdapter
from ...tiled.downsample import Downsampler
from ...tiled.map_picture import PictureResult, Progress, TiledRun, decoding_room, write_map
from ...viz import map_figure
from ...viz.animation import POWER
from ...viz.colormap import Rim, colour_limit, inside_rim
from ...viz.print_figure import Panel, in_rows, print_figure
from ..console import echo
from ..outputs import file_name
from ..record import MapJob, Record
from ..regions.options import asked_for
from .options import tiles_asked_for, whole_only

MODEST = 2048 * 2048  # pixels; pictures up to that go through the model whole without a measurement
OVERLAID_ROWS = 256  # at a time
KEPT = 16  # bytes a pixel that a frame of an animation is kept in, map and picture
MEASURED = 64  # bytes a pixel while regions are: labels, two maps in float64, errors
PANEL = 1600  # longest side of a map in its picture, pixels


def endings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the endings of the files of one picture, by their names in the record, which comes last."""
    arrays = ".bitrate.tiff" if arguments.format == "tiff" else ".bitrate.npz"
    names = ["figure", "grid"] if arguments.animate is not None else ["figure"]
    figures = {f"{name}.{kind}": f".{name}.{kind}" for name in names for kind in arguments.figures}
    figures |= {f"errors.{kind}": f".errors.{kind}" for kind in error_kinds(arguments)}
    return {"map": ".bitrate.png", "overlay": ".overlay.png", **figures, "arrays": arrays, "record": ".json"}


def error_kinds(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the kinds of files that the figure of errors goes to, none where it is not asked for."""
    return (arguments.figures or choices.FIGURES[:1]) if arguments.errors else ()


def write_figures(
    files: Mapping[str, IO[bytes]], arguments: argparse.Namespace, panels: Sequence[Panel], frames: Sequence[Panel] = ()
) -> None:
    """Write the figures for print that were asked for: the picture beside its map, and with the animation's maps."""
    if not arguments.figures:
        return
    figures = {"figure": print_figure([panels], width=arguments.width or "column", limit=arguments.limit)[0]}
    if frames:
        rows, width = in_rows([panels[0], *frames]), arguments.width or "page"
        figures["grid"] = print_figure(rows, width=width, limit=arguments.limit, power=POWER)[0]
    for name, figure in figures.items():
        for kind in arguments.figures:
            figure.write(files[f"{name}.{kind}"], kind)


def needed(job: MapJob, image: str) -> bool:
    """Return whether a picture goes in tiles: where that was asked for, and where it does not fit as a whole.

    Raises:
        ValueError: it does not fit, and tiles cannot serve what was asked for.
    """
    if tiles_asked_for(job.arguments):
        return True
    try:
        height, width, beyond_pillow = declared_size(Path(image))
    except ImageError:
        return False  # there is nothing to map, and the ordinary way says why
    if height * width <= MODEST:
        return False
    kept = KEPT * len(job.frames) + MEASURED * bool(asked_for(job.arguments))
    if not beyond_pillow and fits(job.mapper.adapter, height, width, job.device, job.forward, kept):
        return False
    whole = whole_only(job.arguments)
    if whole:
        raise ValueError(f"{shown(image)}: does not fit into memory as a whole, as {whole} needs it")
    return True


def fits(
    adapter: ModelAdapter, height: int, width: int, device: torch.device, forward: dict[str, Any], kept: int = 0
) -> bool:
    """Return whether a picture fits through the model whole, its maps and pictures with it.

    So are ``kept`` bytes a pixel.
    """
    like = torch.zeros(1, 3, 1, 1, device=device)

    def run(side: int) -> None:
        with torch.no_grad():
            adapter.run(noise((1, like.shape[1], side, side), like), forward)

    try:
        adapter.prepare(like, forward)
        canvas = adapter.canvas(height, width)[0]
        footprint = memory.measure_footprint(device, max(adapter.multiple), run)
        # Three floating-point pictures, and the maps of all latents, once to compute and once to write.
        beside = height * width * (4 * (9 + 2 * (1 + len(adapter.strides))) + kept)
        needed = memory.bytes_in_use(device) + footprint.bytes(canvas[0] * canvas[1]) + beside
        return needed <= memory.limit(device, None)
    except memory.MemoryLimitError:  # a system that does not tell
        return True


def map_in_tiles(job: MapJob, image: str, path: str, files: dict[str, Path]) -> Record:
    """Map one picture, to be read from a path, in tiles and write its files, all or none."""
    arguments = job.arguments
    form = arguments.format or "npz"
    with _named(image), open_image(path, decoding_room(job.device, arguments.max_memory)) as picture:
        run = TiledRun(
            job.mapper,
            picture,
            max_memory=arguments.max_memory,
            tile=arguments.tile,
            latents=arguments.pixels,
            psnr=True,
            forward_kwargs=job.forward,
        )
        _say_plan(image, run)
        with (
            open_all_or_none(list(files.values())) as opened,
            _progress() as progress,
            write_map(
                run,
                opened[list(files).index("arrays")],
                form,
                files["arrays"].parent,
                progress,
                name=job.model,
                pixels=arguments.pixels,
            ) as (result, finish),
        ):
            file = dict(zip(files, opened, strict=True))
            record = job.record(image, picture.facts, result.size, result, result.psnr_db, files)
            record.tiles = result.plan.record()
            text = json.dumps(asdict(record), indent=2, allow_nan=False)
            finish(text)
            _draw(result, record, file, arguments)
            file["record"].write(f"{text}\n".encode())
    return record


def _draw(result: PictureResult, record: Record, file: Mapping[str, IO[bytes]], arguments: argparse.Namespace) -> None:
    """Draw the pictures, from the reduced map."""
    from PIL import Image

    panel = Downsampler(result.reduced.shape, long_side=PANEL)
    panel.add(result.reduced)
    title = shown(file_name(record.image))
    rim = _reduced_rim(result, panel.pixels.shape)
    limit = arguments.limit
    figure = map_figure.map_figure(panel.pixels, title=title, subtitle=record.subtitle, limit=limit, rim=rim)
    figure.save(file["map"], format="PNG")
    picture = Downsampler(result.reduced.shape, 3, long_side=PANEL)
    picture.add(result.reduced_picture)
    write_figures(file, arguments, record.panels(picture.pixels, panel.pixels, rim))
    limit = limit or colour_limit(inside_rim(result.reduced, _reduced_rim(result, result.reduced.shape)))
    laid = Image.new("RGB", result.reduced.shape[::-1])
    for top in range(0, laid.height, OVERLAID_ROWS):
        rows = slice(top, top + OVERLAID_ROWS)
        laid.paste(map_figure.overlay(result.reduced_picture[rows], result.reduced[rows], limit=limit), (0, top))
    map_figure.with_legend(laid, limit).save(file["overlay"], format="PNG")


def _reduced_rim(result: PictureResult, shape: tuple[int, ...]) -> Rim:
    """Return the rim of a map that was reduced to a shape, in its pixels."""
    top, bottom, left, right = (
        -(-wide * shape[side // 2] // result.size[side // 2]) for side, wide in enumerate(result.rim)
    )
    return top, bottom, left, right


@contextlib.contextmanager
def _named(image: str) -> Iterator[None]:
    """Raise trouble that names an argument of Python's as the command line's, with the picture's name."""
    try:
        yield
    except ImageError:
        raise
    except ValueError as error:
        raise ValueError(f"{shown(image)}: {str(error).replace('max_memory', '--max-memory')}") from error


def _say_plan(image: str, run: TiledRun) -> None:
    record = run.plan.record()
    if record["tiles"] > 1:
        peak = "" if run.plan.peak is None else f", at most {format_bytes(run.plan.peak)}"
        of = "" if run.plan.limit is None else f" of {format_bytes(run.plan.limit)}"
        size = f"{run.image.width} x {run.image.height}"
        tile = "{1} x {0}".format(*record["tile"])
        echo(f"{shown(image)}: {size} pixels in {record['tiles']} tiles of {tile}{peak}{of}", sys.stderr)


@contextlib.contextmanager
def _progress() -> Iterator[Progress | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="tile", file=sys.stderr, leave=False, dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
