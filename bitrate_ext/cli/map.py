"""The command ``bitrate-ext map``: bitrate maps of photographs, as pictures and as numbers."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from .._version import __version__
from ..atomic import open_all_or_none
from ..mapping.layout import BitrateResult
from ..mapping.mapper import RECEPTIVE_FIELD, AnyProjection, BitrateMapper
from ..mapping.psnr import measure_psnr
from ..ops.projection import PROJECTIONS
from . import calibrate, check, map_tiled
from .console import FAILED, OK, UsageError, echo, ensure_output_dir, finite, number, run_each, with_progress
from .model_options import add_model_arguments, check_model_arguments, checked_device, load_model
from .record import JACOBIAN, Record, subtitle

PASSES = 16
NOTES = """\
For each IMAGE (PNG, JPEG, WebP, TIFF or BMP) DIR gets
  STEM.bitrate.png   the map with a colour bar in bits per pixel
  STEM.overlay.png   the map laid over the photograph
  STEM.bitrate.npz   float32 arrays [H, W], bits per pixel: "map", and "maps/y", "maps/z" ... for each latent;
                     "metadata" holds the JSON record as text
  STEM.json          sizes, bits, bits per pixel, bits of each latent, PSNR
and on request STEM.gap.png, STEM.entropy.png and STEM.channels.png; the gap and the entropy are in the arrays, too.
Files of these names are replaced once all are written. Of images with equal stems only the first is done.
Transparent parts of an image are laid on white. PSNR is that of the unrounded reconstruction, cut to [0, 1].
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """All of them, the model's too."""
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    command.add_argument("-o", "--output", default=".", metavar="DIR", help="folder for the results; made if absent")
    add_model_arguments(command)
    command.add_argument(
        "--projection",
        choices=(*PROJECTIONS, RECEPTIVE_FIELD, JACOBIAN),
        default="bilinear",
        help="default bilinear; receptive-field is measured on the model's own decoder, see bitrate-ext calibrate; "
        "jacobian follows the bits of each image through the decoder, pixel by pixel",
    )
    command.add_argument(
        "--passes", type=int, metavar="N", help=f"of jacobian: more take longer and err less (default {PASSES})"
    )
    map_tiled.add_arguments(command)
    check.add_map_arguments(command)


def run(arguments: argparse.Namespace) -> int:
    device = checked_device(arguments.device)
    check_model_arguments(arguments)
    check.check_map_arguments(arguments)
    if arguments.passes is not None and arguments.projection != JACOBIAN:
        raise UsageError(f"--passes {arguments.passes} goes with --projection {JACOBIAN}")
    map_tiled.check_arguments(arguments)
    folder = ensure_output_dir(arguments.output)
    model, name = load_model(device, arguments)
    projection: AnyProjection = arguments.projection
    if projection == RECEPTIVE_FIELD:
        projection = calibrate.measured_projections(model, device)
    projection = "nearest" if projection == JACOBIAN else projection
    mapper = BitrateMapper(
        model, projection=projection, bits=arguments.bits, gap=arguments.gap, channels=arguments.channels
    )
    endings = (*check.map_outputs(arguments).values(), *map_tiled.endings(arguments))

    owners: dict[str, str] = {}  # stem, as file systems that ignore case see it, to the image that has it

    def mapped(image: str) -> Record:
        targets = _targets(folder, image, owners, arguments.images, endings)
        one = map_tiled.map_one if map_tiled.needed(mapper, image, arguments, device) else _map_one
        record = one(mapper, image, device, name, arguments, targets)
        if not arguments.json:
            echo(_summary(record), sys.stdout)
        return record

    records, failures = run_each("image", with_progress(arguments.images), mapped)
    if arguments.json:
        document = {"version": __version__, "images": [asdict(r) for r in records], "failures": failures}
        echo(json.dumps(document, indent=2, allow_nan=False), sys.stdout)
    else:
        _say_outcome(folder, records, failures)
    return FAILED if failures else OK


def _targets(
    folder: Path, image: str, owners: dict[str, str], images: Sequence[str], endings: Sequence[str]
) -> list[Path]:
    """Where the results of an image go; refuses to write over those of another one, or over an input."""
    stem = Path(image).stem
    if not stem:
        raise ValueError(f"{image!r}: not the name of an image file")
    owner = owners.get(stem.casefold())
    if owner is not None:
        raise ValueError(f"{image}: its results would be named as those of {owner}; map it into another folder with -o")
    owners[stem.casefold()] = image
    targets = [folder / f"{stem}{ending}" for ending in endings]
    inputs = {os.path.realpath(other): other for other in images}
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise ValueError(f"{image}: its results would replace the input {target}; choose another folder with -o")
    return targets


def _map_one(
    mapper: BitrateMapper,
    image: str,
    device: torch.device,
    model: str,
    arguments: argparse.Namespace,
    targets: Sequence[Path],
) -> Record:
    """Map one image and write its files, all or none."""
    import numpy as np

    from ..attribution.attribute import attribute
    from ..io.images import load_image
    from ..viz.map_figure import map_figure, overlay
    from .calibrate import described

    photograph = load_image(image)
    result = mapper(photograph.to(device))
    jacobian = None
    if arguments.projection == JACOBIAN:
        assert isinstance(mapper.model, torch.nn.Module)
        passes = PASSES if arguments.passes is None else arguments.passes
        followed = attribute(mapper.model, photograph.to(device), passes=passes)
        result = replace(result, map=followed.map, maps=followed.maps, padding_bits=followed.padding)
        jacobian = {"passes": passes, "error": None if followed.error is None else finite(followed.error.item())}
    record = _record(result, photograph, image, str(device), model, arguments.projection)
    record.receptive_field = described(mapper) if arguments.projection == RECEPTIVE_FIELD else None
    record.jacobian = jacobian
    check.complete_record(record, result, arguments.channels)
    check.warn(result, image)
    others = list(check.map_outputs(arguments))
    record.files = dict(zip((*others, "map", "overlay", "arrays", "record"), map(str, targets), strict=True))
    text = json.dumps(asdict(record), indent=2, allow_nan=False)
    arrays = {"map": result.map, **{f"maps/{name}": one for name, one in result.maps.items()}}
    arrays |= check.array_names(result)
    numbers = {key: one[0, 0].float().cpu().numpy() for key, one in arrays.items()}

    with open_all_or_none(targets) as (*other_files, map_file, overlay_file, array_file, record_file):
        check.write_pictures(other_files, others, result, Path(image).name, model)
        map_figure(result.map, title=Path(image).name, subtitle=subtitle(record)).save(map_file, format="PNG")
        overlay(photograph, result.map).save(overlay_file, format="PNG")
        np.savez(array_file, metadata=np.array(text), **numbers)
        record_file.write(f"{text}\n".encode())
    return record


def _record(
    result: BitrateResult, photograph: torch.Tensor, image: str, device: str, model: str, projection: str
) -> Record:
    height, width = photograph.shape[-2:]
    psnr = None if result.x_hat is None else measure_psnr(result.x_hat.cpu(), photograph)
    return Record(
        image=image,
        width=width,
        height=height,
        model=model,
        projection=projection,
        device=device,
        total_bits=finite(result.total_bits.item()),
        padding_bits=finite(result.padding_bits.item()),
        bpp=finite(result.bpp.item()),
        latent_bits={name: finite(bits.double().sum().item()) for name, bits in result.latent_bits.items()},
        psnr_db=finite(psnr),
        version=__version__,
    )


def _summary(record: Record) -> str:
    split = ", ".join(f"{name} {number(bits, ',.0f')}" for name, bits in record.latent_bits.items())
    psnr = "" if record.psnr_db is None else f", {record.psnr_db:.2f} dB"
    padding = number(record.padding_bits, ",.0f")
    return (
        f"{record.image}: {record.width} x {record.height}, {number(record.bpp, '.3f')} bits per pixel{psnr}, "
        f"{number(record.total_bits, ',.0f')} bits ({split}), {padding} of them in padding"
    )


def _say_outcome(folder: Path, records: Sequence[Record], failures: Sequence[dict[str, str]]) -> None:
    if records:
        names = Path(records[0].files["map"]).name if len(records) == 1 else "*.bitrate.png"
        others = names.replace(".bitrate.png", ".overlay.png")
        echo(f"Pictures: {folder / names} and {folder / others}", sys.stdout)
    if failures and len(records) + len(failures) > 1:
        failed = ", ".join(failure["image"] for failure in failures)
        echo(f"Failed: {len(failures)} of {len(records) + len(failures)} images: {failed}", sys.stderr)
