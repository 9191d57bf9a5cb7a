"""The command ``bitrate-ext video``: maps of videos, and of one photograph over the qualities of a codec."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..atomic import open_all_or_none
from ..mapping.frames import FrameMapper, is_sequential
from ..mapping.mapper import RECEPTIVE_FIELD
from ..ops.projection import PROJECTIONS
from ..video.map_video import SCALES, VIEWS, map_video, partial_name
from ..video.record import FrameRow, VideoRecord
from ..video.writer import CONTAINERS, PRESETS
from . import animate
from .console import FAILED, OK, PARTIAL, UsageError, echo, ensure_output_dir, finite, number, one_line, run_each
from .model_options import check_model_arguments, checked_device, load_model

if TYPE_CHECKING:
    from torch import nn

GROUP = 32  # frames from one keyframe to the next
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOTES = """\
For each VIDEO there are
  OUT.mp4   picture and map, or one laid over the other; below, the bits of each frame by latent, with a cursor
  OUT.csv   a line for each frame: time, kind, bits, bits in the padding, bits per pixel, bits of each latent
  OUT.json  the same, with sums over the video
OUT is STEM.bitrate in this folder, or what -o names: a file that ends in .mp4, .mov or .mkv, or a folder. A video that
is damaged or cut short is mapped as far as it goes: its files are called OUT.partial.mp4 and so on, and the exit code
is 1. Videos are decoded in a process of their own. Sound is left out.

With --animate, VIDEO is a photograph: OUT.png is an animation of its maps over all qualities of --model, or over the
checkpoints that are named, in one scale of colours.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Those besides the model's."""
    command.add_argument("videos", nargs="+", metavar="VIDEO", help="videos; with --animate a photograph")
    command.add_argument("-o", "--output", default=".", metavar="OUT", help="a file, or a folder; made if absent")
    command.add_argument("--projection", choices=(*PROJECTIONS, RECEPTIVE_FIELD), default="bilinear")
    command.add_argument(
        "--view", choices=VIEWS, default="side", help="picture and map beside each other (default) ..."
    )
    command.add_argument(
        "--scale",
        type=_scale,
        default="clip",
        metavar="clip|frame|VALUE",
        help="of the colours: one for the video, which is then read twice (default), one for each frame, or its upper "
        "end in bits per pixel",
    )
    command.add_argument("--frames", type=_whole, metavar="N", help="only the first N")
    command.add_argument("--batch", type=_whole, default=1, metavar="N", help="frames that an image codec sees at once")
    command.add_argument(
        "--group", type=_whole, metavar="N", help=f"of a video codec: frames from a keyframe to the next ({GROUP})"
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the network; likelihoods are float32 in any case, but of coarser latents (default float32)",
    )
    command.add_argument(
        "--compile", action="store_true", help="the network by torch.compile: minutes before, less for each frame"
    )
    command.add_argument(
        "--psnr", action="store_true", help="of each frame; an image codec's decoder has to be run for it"
    )
    command.add_argument("--crf", type=int, default=18, metavar="N", help="of H.264: 0 (large) to 51 (default 18)")
    command.add_argument("--preset", choices=PRESETS, default="veryfast", help="of H.264 (default veryfast)")
    command.add_argument(
        "--animate",
        nargs="*",
        metavar="CHECKPOINT",
        help="an animation of one photograph's maps over the qualities of --model, or over these checkpoints",
    )


def run(arguments: argparse.Namespace) -> int:
    """Map, write the files, print."""
    check_model_arguments(arguments)
    device = checked_device(arguments.device)
    if arguments.animate is not None:
        return animate.run(arguments, device)
    targets = _targets(arguments.videos, arguments.output)
    model, name = load_model(device, arguments, video=True)
    mapper = _mapper(model, arguments)

    def mapped(video: str) -> dict[str, Any]:
        document = _map_one(video, targets[video], mapper, name, arguments)
        for warning in document["warnings"]:
            echo(f"bitrate-ext: warning: {video}: {warning}", sys.stderr)
        if document["partial"]:
            echo(f"bitrate-ext: warning: {video}: {document['partial']}; mapped as far as it goes", sys.stderr)
        if not arguments.json:
            echo(_summary(document), sys.stdout)
        return document

    records, failures = run_each("video", arguments.videos, mapped)
    if arguments.json:
        whole = {"videos": records, "failures": failures}
        echo(json.dumps(whole, indent=2, allow_nan=False), sys.stdout)
    if failures:
        return FAILED
    return PARTIAL if any(document["partial"] for document in records) else OK


def _mapper(model: nn.Module, arguments: argparse.Namespace) -> FrameMapper:
    group = arguments.group
    if is_sequential(model):
        group = GROUP if group is None else group
        if arguments.batch != 1:
            raise UsageError(f"--batch {arguments.batch}: frames of a video codec depend on one another")
    elif group is not None:
        raise UsageError(f"--group {group} is for video codecs; this model codes each frame by itself")
    try:
        return FrameMapper(
            model,
            projection=arguments.projection,
            batch=arguments.batch,
            group=group,
            reconstruction=arguments.psnr,
            dtype=PRECISIONS[arguments.precision],
            compile=arguments.compile,
        )
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def _targets(videos: Sequence[str], output: str) -> dict[str, Path]:
    """Where the results of each go; refuses to write two to one name, or over an input."""
    path = Path(output)
    if path.suffix.lower() in CONTAINERS and not path.is_dir():
        if len(videos) > 1:
            raise UsageError(f"--output {output}: one file for {len(videos)} videos; name a folder")
        ensure_output_dir(str(path.parent))
        targets = [path]
    else:
        folder = ensure_output_dir(output)
        targets = [folder / f"{Path(video).stem}.bitrate.mp4" for video in videos]
    inputs = {os.path.realpath(video): video for video in videos}
    seen: dict[str, str] = {}
    for video, target in zip(videos, targets, strict=True):
        if os.path.realpath(target) in inputs:
            raise UsageError(f"{target} would replace an input; choose another name with -o")
        if str(target).casefold() in seen:
            other = seen[str(target).casefold()]
            raise UsageError(f"{video}: its results would be named as those of {other}; map it into another folder")
        seen[str(target).casefold()] = video
    return dict(zip(videos, targets, strict=True))


def _map_one(video: str, target: Path, mapper: FrameMapper, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from .._version import __version__

    record = map_video(
        video,
        target,
        mapper,
        view=arguments.view,
        scale=arguments.scale,
        frames=arguments.frames,
        crf=arguments.crf,
        preset=arguments.preset,
        progress=progress_on_stderr() if sys.stderr.isatty() else None,
    )
    named = target if record.partial is None else partial_name(target)
    table, text = named.with_suffix(".csv"), named.with_suffix(".json")
    document = {
        "video": video,
        "model": name,
        "projection": arguments.projection,
        "device": arguments.device,
        "precision": arguments.precision,
        "version": __version__,
        **_document(record),
        "files": {"video": str(named), "table": str(table), "record": str(text)},
    }
    with open_all_or_none([table, text]) as (table_file, text_file):
        table_file.write(_table(record).encode())
        text_file.write(f"{json.dumps(document, indent=2, allow_nan=False)}\n".encode())
    return document


def _document(record: VideoRecord) -> dict[str, Any]:
    """For JSON: what is not finite becomes null."""
    pixels = record.width * record.height * len(record.frames)
    return {
        "width": record.width,
        "height": record.height,
        "rate": record.rate,
        "seconds": record.seconds,
        "partial": record.partial,
        "warnings": record.warnings,
        "scale": record.scale,
        "limit": record.limit,
        "total_bits": finite(record.total_bits),
        "bpp": finite(record.total_bits / pixels),
        "bits_per_second": finite(record.total_bits / record.seconds),
        "latent_bits": {name: finite(bits) for name, bits in record.latent_bits.items()},
        "frames": [_finite_row(row) for row in record.frames],
    }


def _finite_row(row: FrameRow) -> dict[str, Any]:
    plain = asdict(row)
    for key in ("total_bits", "padding_bits", "bpp", "psnr_db"):
        plain[key] = finite(plain[key])
    plain["latent_bits"] = {name: finite(bits) for name, bits in row.latent_bits.items()}
    return plain


def _table(record: VideoRecord) -> str:
    """One line a frame, after one of names; empty where a frame has no such latent."""
    latents = list(record.latent_bits)
    written = io.StringIO()
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(["frame", "seconds", "kind", "total_bits", "padding_bits", "bpp", "psnr_db", *latents])
    for row in record.frames:
        psnr = "" if row.psnr_db is None else row.psnr_db
        bits = [row.latent_bits.get(name, "") for name in latents]
        lines.writerow([row.index, row.time, row.kind, row.total_bits, row.padding_bits, row.bpp, psnr, *bits])
    return written.getvalue()


def _summary(document: dict[str, Any]) -> str:
    split = ", ".join(f"{name} {number(bits, ',.0f')}" for name, bits in document["latent_bits"].items())
    return (
        f"{document['video']}: {len(document['frames'])} frames of {document['width']} x {document['height']}, "
        f"{document['seconds']:.2f} s, {number(document['bpp'], '.3f')} bits per pixel, "
        f"{number(document['bits_per_second'], ',.0f')} bits per second ({split})\n"
        f"Video: {document['files']['video']}"
    )


def progress_on_stderr() -> Callable[[str, int | None], Callable[[], None]]:
    """Bars with frames per second and the time that is left, one for each pass."""
    from tqdm import tqdm

    bars: list[Any] = []

    def begin(what: str, count: int | None) -> Callable[[], None]:
        for bar in bars:
            bar.close()
        bars[:] = [tqdm(total=count, desc=what, unit="frame", file=sys.stderr, leave=False, dynamic_ncols=True)]
        bar = bars[0]

        def done() -> None:
            bar.update()
            if bar.n == bar.total:
                bar.close()

        return done

    return begin


def _whole(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def _scale(text: str) -> str | float:
    if text in SCALES:
        return text
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and value > 0:
            return value
    raise argparse.ArgumentTypeError(f"expected clip, frame or a positive number of bits per pixel, got {text!r}")
