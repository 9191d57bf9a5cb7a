"""How ``bitrate-ext map`` serves big pictures: what it adds to the arguments, when it cuts, what it writes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

import torch

from .. import memory
from ..atomic import open_all_or_none
from ..io.images import ImageError
from ..io.map_writers import FORMATS
from ..io.windowed import declared_size, open_image
from ..mapping.layout import CODED
from ..mapping.mapper import RECEPTIVE_FIELD, BitrateMapper
from ..memory import format_bytes
from ..models.adapter import ModelAdapter
from ..tiled.downsample import Downsampler
from ..tiled.map_picture import PictureResult, Progress, TiledRun, decoding_room, write_map
from .console import UsageError, echo, finite
from .record import JACOBIAN, OUTPUTS, Record, subtitle

MODEST = 2048 * 2048  # pixels; pictures up to that go through the model whole without a measurement
ENDINGS = {"npz": ".bitrate.npz", "tiff": ".bitrate.tiff"}
OVERLAID_ROWS = 256  # at a time
PANEL = 1600  # longest side of a map in its picture, pixels
NOTES = """\
A picture that does not fit into memory goes through the model in tiles, and its maps are written strip by strip.
--max-memory, --tile and --format ask for that way; its pictures are reduced to 4096 pixels a side, its arrays are not.
With --max-memory, files with more pixels than Pillow's limit are read, too. TIFF files, uncompressed or deflated, come
in parts; others are decoded as a whole, with 1 to 4 bytes a pixel.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Those of big pictures."""
    command.add_argument(
        "--max-memory", type=_bytes, metavar="SIZE", help="that the process may take, such as 4GiB; cuts into tiles"
    )
    command.add_argument("--tile", type=int, metavar="N", help="side of the tiles, pixels; default: as large as fits")
    command.add_argument(
        "--format", choices=FORMATS, help="of the numbers: npz, or a tiled BigTIFF of the map alone (default npz)"
    )


def _bytes(text: str) -> int:
    try:
        return memory.parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises ``UsageError`` for those that do not go together."""
    if arguments.tile is not None and arguments.tile < 1:
        raise UsageError(f"--tile must be at least 1, got {arguments.tile}")
    whole = _whole_only(arguments)
    if whole and _asked(arguments):
        raise UsageError(f"{whole} is for whole pictures; it has no --max-memory, --tile, --format")


def _whole_only(arguments: argparse.Namespace) -> str | None:
    """The option, if any, that tiles cannot serve."""
    if arguments.projection == JACOBIAN:
        return f"--projection {JACOBIAN}"
    return f"--bits {CODED}" if arguments.bits == CODED else "--channels" if arguments.channels else None


def endings(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Of the files of one picture."""
    return tuple(ENDINGS[arguments.format or "npz"] if one == ENDINGS["npz"] else one for one in OUTPUTS)


def _asked(arguments: argparse.Namespace) -> bool:
    return any(getattr(arguments, option) is not None for option in ("max_memory", "tile", "format"))


def needed(mapper: BitrateMapper, image: str, arguments: argparse.Namespace, device: torch.device) -> bool:
    """Whether a picture goes in tiles: where that was asked for, and where it does not fit through the model whole."""
    if _asked(arguments):
        return True
    try:
        height, width, beyond_pillow = declared_size(Path(image))
    except ImageError:
        return False  # there is nothing to map, and the ordinary way says why
    if height * width <= MODEST:
        return False
    if not beyond_pillow and fits(mapper, height, width, device):
        return False
    whole = _whole_only(arguments)
    if whole:
        raise ValueError(f"{image}: does not fit into memory as a whole, as {whole} needs it")
    return True


def fits(mapper: BitrateMapper, height: int, width: int, device: torch.device) -> bool:
    """Whether a picture fits through the model whole, its maps and pictures with it."""
    try:
        like = torch.zeros(1, 3, 1, 1, device=device)
        adapter = mapper.adapter
        adapter.prepare(like, {})
        canvas = adapter.canvas(height, width)[0]
        footprint = memory.measure_footprint(device, max(adapter.multiple), lambda side: _tried(adapter, like, side))
        # Three floating-point pictures, and the maps of all latents, once to compute and once to write.
        beside = height * width * 4 * (9 + 2 * (1 + len(adapter.strides)))
        needed = memory.bytes_in_use(device) + footprint.bytes(canvas[0] * canvas[1]) + beside
        return needed <= memory.limit(device, None)
    except memory.MemoryLimitError:  # a system that does not tell
        return True


def _tried(adapter: ModelAdapter, like: torch.Tensor, side: int) -> None:
    with torch.inference_mode():
        adapter.run(torch.rand(1, like.shape[1], side, side).to(like), {})


def map_one(
    mapper: BitrateMapper,
    image: str,
    device: torch.device,
    model: str,
    arguments: argparse.Namespace,
    targets: Sequence[Path],
) -> Record:
    """Map one picture in tiles and write its files, all or none."""
    form = arguments.format or "npz"
    with _named(image), open_image(image, decoding_room(device, arguments.max_memory)) as picture:
        run = TiledRun(
            mapper,
            picture,
            max_memory=arguments.max_memory,
            tile=arguments.tile,
            latents=form == "npz",
            psnr=True,
        )
        _say_plan(image, run)
        with (
            open_all_or_none(targets) as (map_file, overlay_file, array_file, record_file),
            _progress() as progress,
            write_map(run, array_file, form, targets[2].parent, progress) as (result, finish),
        ):
            record = _record(result, mapper, image, device, model, arguments, targets)
            text = json.dumps(asdict(record), indent=2, allow_nan=False)
            finish(text)
            _draw(result, record, map_file, overlay_file)
            record_file.write(f"{text}\n".encode())
    return record


def _record(
    result: PictureResult,
    mapper: BitrateMapper,
    image: str,
    device: torch.device,
    model: str,
    arguments: argparse.Namespace,
    targets: Sequence[Path],
) -> Record:
    from .._version import __version__
    from .calibrate import described

    return Record(
        image=image,
        width=result.size[1],
        height=result.size[0],
        model=model,
        projection=arguments.projection,
        device=str(device),
        total_bits=finite(result.total_bits),
        padding_bits=finite(result.padding_bits),
        bpp=finite(result.bpp),
        latent_bits={name: finite(bits.sum().item()) for name, bits in result.latent_bits.items()},
        psnr_db=finite(result.psnr_db),
        version=__version__,
        receptive_field=described(mapper) if arguments.projection == RECEPTIVE_FIELD else None,
        tiles=result.plan.record(),
        files=dict(zip(("map", "overlay", "arrays", "record"), map(str, targets), strict=True)),
    )


def _draw(result: PictureResult, record: Record, map_file: IO[bytes], overlay_file: IO[bytes]) -> None:
    """The two pictures, from the reduced map."""
    from PIL import Image

    from ..viz.map_figure import colour_limit, map_figure, overlay

    panel = Downsampler(result.reduced.shape, long_side=PANEL)
    panel.add(result.reduced)
    words = subtitle(record)
    map_figure(panel.pixels, title=Path(record.image).name, subtitle=words).save(map_file, format="PNG")
    limit = colour_limit(result.reduced)
    laid = Image.new("RGB", result.reduced.shape[::-1])
    for top in range(0, laid.height, OVERLAID_ROWS):
        rows = slice(top, top + OVERLAID_ROWS)
        laid.paste(overlay(result.reduced_picture[rows], result.reduced[rows], limit=limit), (0, top))
    laid.save(overlay_file, format="PNG")


@contextlib.contextmanager
def _named(image: str) -> Iterator[None]:
    """Trouble that names an argument of Python's, told as the command line's, with the picture's name."""
    try:
        yield
    except ImageError:
        raise
    except ValueError as error:
        raise ValueError(f"{image}: {str(error).replace('max_memory', '--max-memory')}") from error


def _say_plan(image: str, run: TiledRun) -> None:
    record = run.plan.record()
    if record["tiles"] > 1:
        peak = "" if run.plan.peak is None else f", at most {format_bytes(run.plan.peak)}"
        of = "" if run.plan.limit is None else f" of {format_bytes(run.plan.limit)}"
        size = f"{run.image.width} x {run.image.height}"
        tile = "{1} x {0}".format(*record["tile"])
        echo(f"{image}: {size} pixels in {record['tiles']} tiles of {tile}{peak}{of}", sys.stderr)


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
