"""The command ``bitrate-ext map``: bitrate maps of photographs, as pictures and as numbers, and animations of them."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ... import choices
from ...atomic import open_all_or_none
from ...attribution.attribute import attribute
from ...cells import saving
from ...cells.errors import cell_errors, errors_figure
from ...cells.quality import measure_psnr
from ...cells.regions import RegionTable
from ...choices import CODED, ESTIMATED, JACOBIAN, MEASURED, PASSES, PROJECTIONS, WIDTHS
from ...io.files import shown
from ...io.images import load_picture
from ...mapping.layout import BitrateResult
from ...mapping.mapper import AnyProjection, BitrateMapper
from ...receptive_field import calibration
from ...viz import map_figure
from ...viz.animation import animation_frames, save_animation
from ...viz.colormap import Rim, colour_limit, inside_rim
from ...viz.error_figure import LEAST_WIDTH
from ...viz.print_figure import Panel
from .. import calibrate, check
from ..console import FAILED, OK, count_passes, echo, finite, number, print_document, tell_failures, warn
from ..model_options import mapper_options, qualities
from ..outputs import Names, file_name
from ..record import AnimationRow, MapJob, Record, map_panel
from ..regions import options, tables
from ..serving import checked_device, input_file, load_model, run_each, with_progress
from . import tiled


def run(arguments: argparse.Namespace) -> int:
    """Map, write the files, print."""
    totals = tables.Totals(arguments)
    device = checked_device(arguments.device)
    job = make_job(arguments, device)
    varied = [job if _same_model(one, arguments) else make_job(one, device) for one in _each_model(arguments)]
    job = replace(job, frames=tuple(varied))
    endings = {**check.map_outputs(arguments), **options.endings(arguments), **tiled.endings(arguments)}
    names = Names(arguments, arguments.images, list(endings.values()))

    def serve(image: str) -> Record:
        with names.take(image) as paths, input_file(image) as path:
            files = dict(zip(endings, paths, strict=True))
            if tiled.needed(job, path):
                record, table = tiled.map_in_tiles(job, image, path, files), None
            else:
                record, table = _map_whole(job, image, path, files)
        warn(image, record.warnings)
        told = [_summary(record), *_lines(record.animation or ())]
        if table is not None:
            totals.tables.append(table)
            told.append(tables.indented(table))
        if not arguments.json:
            echo("\n".join(told), sys.stdout)
        return record

    doing = "Following the bits of" if arguments.projection == JACOBIAN else "Mapping"
    models: list[Any] = [one.mapper.adapter.model for one in (job, *job.frames)]
    records, failures = run_each("image", with_progress(arguments.images), serve, models, doing)
    totals.finish(quiet=arguments.json)
    if arguments.json:
        print_document("image", [asdict(record) for record in records], failures, **totals.record())
    else:
        _tell_files(records)
        tell_failures("image", failures, len(arguments.images))
    return FAILED if failures else OK


def make_job(arguments: argparse.Namespace, device: torch.device) -> MapJob:
    """Load the model that the arguments name, and measure what its maps need."""
    forward_only = arguments.bits == ESTIMATED and arguments.projection in PROJECTIONS
    taken: Callable[..., Any] = BitrateMapper.__call__
    if arguments.projection not in PROJECTIONS:
        taken = attribute if arguments.projection == JACOBIAN else calibration.calibrate
    coded = arguments.bits == CODED
    model, name = load_model(device, arguments, forward_only=forward_only, coded=coded, taken=taken)
    projection: AnyProjection = arguments.projection
    if projection in MEASURED:
        projection = calibrate.measured_projections(model, device, arguments)
    projection = "nearest" if projection == JACOBIAN else projection
    mapper = BitrateMapper(
        model,
        projection=projection,
        bits=arguments.bits,
        gap=arguments.gap,
        channels=arguments.channels or arguments.channel is not None,
        sources=arguments.projection != JACOBIAN,  # whose maps are of likelihoods
        beliefs=getattr(arguments, "beliefs", False),
        **mapper_options(arguments, BitrateMapper),
    )
    return MapJob(mapper, name, device, arguments)


def run_job(job: MapJob, x: torch.Tensor) -> tuple[BitrateResult, float | None, dict[str, Any] | None]:
    """Map an image ``[1, 3, H, W]``; return its result and PSNR, and what is to be said of a Jacobian map."""
    x = x.to(job.device)
    result = job.mapper(x, **job.forward)
    psnr = None if result.x_hat is None else measure_psnr(result.x_hat, x)
    if job.arguments.projection != JACOBIAN:
        return result, psnr, None
    passes = PASSES if job.arguments.passes is None else job.arguments.passes
    followed = attribute(job.mapper.adapter, x, passes=passes, progress=count_passes, **job.forward)
    result = replace(result, map=followed.map, maps=followed.maps, padding_bits=followed.padding, grids={})
    return result, psnr, {"passes": passes, "error": None if followed.error is None else finite(followed.error.item())}


def _map_whole(job: MapJob, image: str, path: str, files: dict[str, Path]) -> tuple[Record, RegionTable | None]:
    """Map one image, to be read from a path, and write its files, all or none; return what its regions cost, too."""
    arguments = job.arguments
    picture = load_picture(path)
    x = picture.pixels
    areas = tables.read_areas(arguments, image, (x.shape[2], x.shape[3]))
    result, psnr, jacobian = run_job(job, x)
    record = job.record(image, picture.facts, (x.shape[2], x.shape[3]), result, psnr, files)
    record.jacobian = jacobian
    check.complete_record(record, result, arguments.channels)
    one_channel = None
    if arguments.channel is not None:
        latent, number_of_it = arguments.channel or result.costliest_channel()
        one_channel, record.channel = result.channel_map(latent, number_of_it), f"{latent}:{number_of_it}"
    animation = _animate(job, x, result, psnr) if job.frames else None
    if animation is not None:
        record.animation, record.animation_limit = animation.rows, arguments.limit or animation.limit()
    bits = result.image(name=job.model, picture=x)
    table = None if areas is None else bits.region(areas, channels=arguments.channels and bool(bits.symbol_bits))
    record.regions = None if table is None else table.record()
    if arguments.errors:
        if result.x_hat is None:
            raise ValueError(f"{shown(image)}: --errors needs a reconstruction, and the model returns none of its size")
        record.errors = check.error_account(cell_errors(bits))
    text = json.dumps(asdict(record), indent=2, allow_nan=False)
    arrays = bits.arrays(guides=arguments.pixels)
    if arguments.pixels:
        maps = {"map": result.map, **{f"maps/{name}": one for name, one in result.maps.items()}}
        maps |= check.array_names(result) | ({} if one_channel is None else {"channel": one_channel})
        arrays |= {key: one[0, 0].float().cpu().numpy() for key, one in maps.items()}

    title = shown(file_name(image))
    scale: dict[str, Any] = {"limit": arguments.limit, "rim": result.rim}
    with open_all_or_none(list(files.values())) as opened:
        file = dict(zip(files, opened, strict=True))
        check.write_pictures(file, result, title, job.model, arguments.limit)
        if one_channel is not None:
            about = f"channel {record.channel}   {job.model}"
            map_figure.map_figure(one_channel, title=title, subtitle=about, **scale).save(file["channel"], format="PNG")
        map_figure.map_figure(result.map, title=title, subtitle=record.subtitle, **scale).save(
            file["map"], format="PNG"
        )
        map_figure.overlay_figure(x, result.map, **scale).save(file["overlay"], format="PNG")
        if animation is not None:
            animation.write(record, file["animation"])
        if arguments.errors:
            errors, _ = errors_figure(bits, width=max(LEAST_WIDTH, arguments.width or WIDTHS["page"]))
            for kind in tiled.error_kinds(arguments):
                errors.write(file[f"errors.{kind}"], kind)
        panels = record.panels(x, result.map, result.rim)
        tiled.write_figures(file, arguments, panels, animation.panels() if animation else ())
        if table is not None:
            tables.write_tables(table, file)
        saving.write_arrays(file["arrays"], arrays | {"metadata": np.array(text)}, packed=not arguments.pixels)
        file["record"].write(f"{text}\n".encode())
    return record, table


def _summary(record: Record) -> str:
    split = ", ".join(f"{name} {number(bits, ',.0f')}" for name, bits in record.latent_bits.items())
    psnr = "" if record.psnr_db is None else f", {record.psnr_db:.2f} dB"
    padding = number(record.padding_bits, ",.0f")
    return (
        f"{shown(record.image)}: {record.width} x {record.height}, {number(record.bpp, '.3f')} bits per pixel{psnr}, "
        f"{number(record.total_bits, ',.0f')} bits ({split}), {padding} of them in padding"
        f"{check.padding_note(record.padding_bits, record.total_bits)}"
    )


def _tell_files(records: Sequence[Record]) -> None:
    """Name what was written: of one image each file, of several the first one's as the example."""
    if records:
        files = ", ".join(map(shown, records[0].files.values()))
        others = "" if len(records) == 1 else f", and {len(records) - 1} times the like"
        echo(f"Written: {files}{others}", sys.stdout)


# One image over the qualities of a codec, as in CompressAI issue 265.


def _each_model(arguments: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """Yield the arguments for each model that the animation goes over; none where none is asked for."""
    if arguments.animate is None:
        return
    varied, values = ("checkpoint", arguments.animate) if arguments.animate else ("quality", qualities(arguments))
    for value in values:
        one = copy.copy(arguments)
        setattr(one, varied, value)
        yield one


def _same_model(one: argparse.Namespace, other: argparse.Namespace) -> bool:
    """Return whether two of a command's arguments name the same weights."""
    return (one.quality, one.checkpoint) == (other.quality, other.checkpoint)


@dataclass
class _Animation:
    """What the animation of one image is made of."""

    view: str
    maps: list[torch.Tensor] = field(default_factory=list)  # [1, 1, H, W], on the CPU
    images: list[torch.Tensor] = field(default_factory=list)  # [1, 3, H, W]
    rows: list[AnimationRow] = field(default_factory=list)
    rim: Rim = (0, 0, 0, 0)

    def add(self, x: torch.Tensor, result: BitrateResult, psnr_db: float | None, model: str) -> None:
        """Take a map of an image ``[1, 3, H, W]`` as the next frame."""
        made = x if self.view == "overlay" or result.x_hat is None else result.x_hat
        self.maps.append(result.map.float().cpu())
        self.images.append(made.cpu())
        total, bpp = finite(result.total_bits.item()), finite(result.bpp.item())
        self.rows.append(AnimationRow(model, total, bpp, finite(psnr_db), list(result.warnings)))
        top, bottom, left, right = map(max, zip(self.rim, result.rim, strict=True))
        self.rim = top, bottom, left, right

    def write(self, record: Record, file: IO[bytes]) -> None:
        """Draw the frames, and write them."""
        about = f"{shown(file_name(record.image))}   {record.width} x {record.height}"
        save_animation(
            animation_frames(
                self.images,
                self.maps,
                [_caption(row) for row in self.rows],
                subtitle=f"{about}   {record.bits}, {record.projection}",
                view=self.view,
                limit=record.animation_limit,
            ),
            file,
        )

    def panels(self) -> list[Panel]:
        """Return panels for print of its maps."""
        return [
            map_panel(bits, row.model, row.bpp, row.psnr_db, self.rim)
            for bits, row in zip(self.maps, self.rows, strict=True)
        ]

    def limit(self) -> float:
        """Return where the one scale of colours ends, bits per pixel."""
        return max(colour_limit(inside_rim(bits[0, 0].numpy(), self.rim)) for bits in self.maps)


def _lines(rows: Sequence[AnimationRow]) -> list[str]:
    """Return what is printed of an animation, a line a frame."""
    return [f"  {_caption(row, ', ')}" for row in rows]


def _caption(row: AnimationRow, between: str = "    ") -> str:
    psnr = [] if row.psnr_db is None else [f"PSNR {row.psnr_db:.2f} dB"]
    return between.join([row.model, f"{number(row.bpp, '.3f')} bits per pixel", *psnr])


def _animate(job: MapJob, x: torch.Tensor, result: BitrateResult, psnr: float | None) -> _Animation:
    """Map an image by each model of the animation; by the job's own it is mapped already."""
    animation = _Animation(job.arguments.view or choices.VIEWS[0])
    for done, one in enumerate(job.frames):
        count_passes(done + 1, len(job.frames))
        animation.add(x, *((result, psnr) if one.mapper is job.mapper else run_job(one, x)[:2]), one.model)
    return animation
