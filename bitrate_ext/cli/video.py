"""The command ``bitrate-ext video``: maps of videos."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._version import __version__
from ..atomic import open_all_or_none
from ..choices import GROUP
from ..io.files import STDIN, STDIN_NAME, shown, spooled_stdin
from ..mapping.frames import FrameMapper, FrameResult
from ..mapping.sequential import is_sequential
from ..page.video import VideoFrames
from ..page.write import write_document
from ..video.map_video import map_video, partial_name
from ..video.record import FrameRow, VideoRecord
from .arguments import READING
from .console import FAILED, OK, PARTIAL, UsageError, echo, finite, number, one_line, print_document
from .model_options import forward_options, mapper_options
from .outputs import file_name
from .serving import checked_device, load_model, run_each

PICTURES = 80  # the quality of a page's pictures


def run(arguments: argparse.Namespace) -> int:
    """Map, write the files, print."""
    device = checked_device(arguments.device)
    model, name = load_model(device, arguments, video=True)
    mapper = _mapper(model, arguments)

    def serve(video: str) -> dict[str, Any]:
        called = STDIN_NAME if video == STDIN else video
        with arguments.names.take(video) as (target, *_), _file(video, "a video") as source:
            document = _map_one(called, source, target, mapper, name, arguments)
        for warning in document["warnings"]:
            echo(f"bitrate-ext: warning: {shown(called)}: {warning}", sys.stderr)
        if document["partial"]:
            echo(f"bitrate-ext: warning: {shown(called)}: {document['partial']}; mapped as far as it goes", sys.stderr)
        if not arguments.json:
            echo(_summary(document), sys.stdout)
        return document

    documents, failures = run_each("video", arguments.videos, serve, [model], "" if sys.stderr.isatty() else "Mapping")
    if arguments.json:
        print_document("video", documents, failures)
    if failures:
        return FAILED
    return PARTIAL if any(document["partial"] for document in documents) else OK


def _file(name: str, kind: str) -> contextlib.AbstractContextManager[str]:
    """Return what gives the name of a file to open: that of an input, or of what the standard input is kept in."""
    return spooled_stdin(kind) if name == STDIN else contextlib.nullcontext(name)


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
            dtype=None if arguments.precision == "float32" else getattr(torch, arguments.precision),
            compile=arguments.compile,
            forward_kwargs=forward_options(arguments),
            **mapper_options(arguments, FrameMapper),
        )
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def _map_one(
    video: str, source: str, target: Path, mapper: FrameMapper, name: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    facts = {"input": file_name(video), "command": shlex.join(["bitrate-ext", *sys.argv[1:]])}
    page = VideoFrames(channels=0, quality=PICTURES, facts=facts) if arguments.page else None

    def seen(result: FrameResult) -> None:
        if page is not None:
            page.add(result.image(name=name, picture=result.frame.permute(2, 0, 1)[None] / 255))

    record = map_video(
        source,
        target,
        mapper,
        seen=seen,
        view=arguments.view,
        scale=arguments.scale,
        frames=arguments.frames,
        reading={option: getattr(arguments, option) for option in READING},
        crf=arguments.crf,
        preset=arguments.preset,
        progress=progress_on_stderr() if sys.stderr.isatty() else None,
    )
    named = target if record.partial is None else partial_name(target)
    table, text, html = (named.with_suffix(ending) for ending in (".csv", ".json", ".html"))
    document = {
        "video": video,
        "model": name,
        "projection": arguments.projection,
        "device": arguments.device,
        "precision": arguments.precision,
        "version": __version__,
        **_document(record),
        "files": {"video": str(named), "table": str(table), "record": str(text)}
        | ({"page": str(html)} if page else {}),
    }
    with open_all_or_none([table, text]) as (table_file, text_file):
        table_file.write(_table(record).encode())
        text_file.write(f"{json.dumps(document, indent=2, allow_nan=False)}\n".encode())
    if page is not None:
        kinds = [row.kind for row in record.frames]
        written = page.document(rate=record.rate, kinds=kinds if len(set(kinds)) > 1 else None, title=file_name(video))
        write_document(written, page.blobs, html)
    return document


def _document(record: VideoRecord) -> dict[str, Any]:
    """Return the record for JSON, in which what is not finite becomes null."""
    pixels = record.width * record.height * len(record.frames)
    return {
        "width": record.width,
        "height": record.height,
        "rate": record.rate,
        "seconds": record.seconds,
        "partial": record.partial,
        "warnings": record.warnings,
        "picture": record.picture,
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
    """Format one line a frame, after one of names; empty where a frame has no such latent."""
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
        f"{shown(document['video'])}: {len(document['frames'])} frames of {document['width']} x {document['height']}, "
        f"{document['seconds']:.2f} s, {number(document['bpp'], '.3f')} bits per pixel, "
        f"{number(document['bits_per_second'], ',.0f')} bits per second ({split})\n"
        f"Written: {', '.join(map(shown, document['files'].values()))}"
    )


def progress_on_stderr() -> Callable[[str, int | None], Callable[[], None]]:
    """Return a progress that shows bars with frames per second and the time left, one for each pass."""
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
