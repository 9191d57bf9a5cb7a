"""How ``bitrate-ext map`` serves big pictures: when it cuts them into tiles, what it writes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from .. import memory
from ..atomic import open_all_or_none
from ..byte_sizes import format_bytes
from ..coding.coder import noise
from ..io.files import shown
from ..io.images import ImageError
from ..io.windowed import declared_size, open_image
from ..models.adapter import ModelAdapter
from ..tiled.downsample import Downsampler
from ..tiled.map_picture import PictureResult, Progress, TiledRun, decoding_room, write_map
from ..viz import map_figure
from ..viz.colormap import Rim, colour_limit, inside_rim
from .console import echo
from .model_options import tiles_asked_for, whole_only
from .outputs import file_name
from .record import MapJob, Record

MODEST = 2048 * 2048  # pixels; pictures up to that go through the model whole without a measurement
OVERLAID_ROWS = 256  # at a time
KEPT = 16  # bytes a pixel that a frame of an animation is kept in, map and picture
PANEL = 1600  # longest side of a map in its picture, pixels


def endings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the endings of the files of one picture, by their names in the record, which comes last."""
    arrays = ".bitrate.tiff" if arguments.format == "tiff" else ".bitrate.npz"
    return {"map": ".bitrate.png", "overlay": ".overlay.png", "arrays": arrays, "record": ".json"}


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
    kept = KEPT * len(job.frames)
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
            latents=form == "npz",
            psnr=True,
            forward_kwargs=job.forward,
        )
        _say_plan(image, run)
        with (
            open_all_or_none(list(files.values())) as (map_file, overlay_file, array_file, record_file),
            _progress() as progress,
            write_map(run, array_file, form, files["arrays"].parent, progress) as (result, finish),
        ):
            record = job.record(image, picture.facts, result.size, result, result.psnr_db, files)
            record.tiles = result.plan.record()
            text = json.dumps(asdict(record), indent=2, allow_nan=False)
            finish(text)
            _draw(result, record, map_file, overlay_file, arguments.limit)
            record_file.write(f"{text}\n".encode())
    return record


def _draw(
    result: PictureResult, record: Record, map_file: IO[bytes], overlay_file: IO[bytes], limit: float | None
) -> None:
    """Draw the two pictures, from the reduced map."""
    from PIL import Image

    panel = Downsampler(result.reduced.shape, long_side=PANEL)
    panel.add(result.reduced)
    title = shown(file_name(record.image))
    rim = _reduced_rim(result, panel.pixels.shape)
    figure = map_figure.map_figure(panel.pixels, title=title, subtitle=record.subtitle, limit=limit, rim=rim)
    figure.save(map_file, format="PNG")
    limit = limit or colour_limit(inside_rim(result.reduced, _reduced_rim(result, result.reduced.shape)))
    laid = Image.new("RGB", result.reduced.shape[::-1])
    for top in range(0, laid.height, OVERLAID_ROWS):
        rows = slice(top, top + OVERLAID_ROWS)
        laid.paste(map_figure.overlay(result.reduced_picture[rows], result.reduced[rows], limit=limit), (0, top))
    map_figure.with_legend(laid, limit).save(overlay_file, format="PNG")


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
