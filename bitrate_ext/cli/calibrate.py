"""The command ``bitrate-ext calibrate``, and how the command line measures and records receptive fields."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._version import __version__
from ..atomic import open_all_or_none
from ..choices import GUIDED
from ..io.files import shown
from ..io.images import Picture, load_image, load_picture
from ..mapping.mapper import BitrateMapper
from ..models.demo_codec import demo_photograph
from ..ops.projection import Projection
from ..receptive_field import calibration
from ..receptive_field.field import ReceptiveField
from ..receptive_field.guide import GUIDED_DISTANCE, UNGUIDED_DISTANCE
from ..viz import kernel_figure
from .console import OK, UsageError, count_passes, echo, one_line, telling, warn
from .model_options import forward_options, mapper_options
from .outputs import refusal
from .serving import checked_device, input_file, load_model, usage_errors

MEASURING = "to measure the receptive field"
OUTPUTS = {"kernel": ".receptive-field.npz", "picture": ".receptive-field.png"}


@dataclass
class Measurement:
    """What the command says of one latent. Positions are (vertical, horizontal), pixels, as in ``ReceptiveField``."""

    model: str
    latent: str
    device: str
    stride: tuple[int, int]
    reach: tuple[tuple[int, int], tuple[int, int]]
    size: tuple[int, int]  # of the reach
    center: tuple[float, float]
    centroid: tuple[float, float]
    spread: tuple[float, float]
    terms: int
    separable_error: float | None  # shares of a cell's bits
    sampling_error: float | None
    cells_probed: int | None
    origin: str
    seconds: float
    kept: bool  # from an earlier time
    version: str
    guide: dict[str, Any] | None = None  # where one was asked for: weights, or None where none helps, and distances
    pictures: list[dict[str, Any]] = field(default_factory=list)  # that it was measured on, as in STEM.json of map
    files: dict[str, str] = field(default_factory=dict)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the files, print."""
    device = checked_device(arguments.device)
    try:
        pictures = [_picture(image) for image in arguments.images]
    except (ValueError, OSError) as error:
        raise UsageError(f"--images: {one_line(error)}") from error
    model, name = load_model(device, arguments, taken=calibration.calibrate)

    inputs = [*arguments.images, arguments.checkpoint]
    measured_latents: list[str] = []

    def notice(latent: str) -> None:
        if not measured_latents:  # those after it are measured for its sake
            _targets(name, latent, arguments.folder, inputs, arguments.overwrite)
        measured_latents.append(latent)

    before = time.perf_counter()
    with usage_errors("", MEASURING, model), telling("Measuring the receptive field"):
        measured = calibration.calibrate(
            model,
            arguments.latent,
            [picture.pixels.to(device) for picture in pictures] or None,
            arguments.samples,
            synthesis=arguments.synthesis,
            guide=arguments.guide,
            cache=not arguments.no_cache,
            notice=notice,
            progress=count_passes,
            **mapper_options(arguments, calibration.calibrate),
            **forward_options(arguments),
        )
    seconds = time.perf_counter() - before
    measurement = _measurement(measured, name, str(device), seconds, kept=not measured_latents)
    measurement.pictures = [asdict(picture.facts) for picture in pictures]
    _write(measured, measurement, _targets(name, measured.latent, arguments.folder, inputs, arguments.overwrite))
    if arguments.json:
        echo(json.dumps(asdict(measurement), indent=2, allow_nan=False), sys.stdout)
    else:
        echo(_table(measurement), sys.stdout)
    return OK


def measured_projections(
    model: nn.Module, device: torch.device, arguments: argparse.Namespace
) -> dict[str, Projection]:
    """Measure the receptive fields of all latents of a model, before it sees any of the user's images.

    Raises:
        UsageError: there are none; said once, and not for each image.
    """
    measuring = telling("Measuring the receptive fields")
    with usage_errors(f"--projection {arguments.projection}: ", MEASURING, model), measuring:
        adapter = BitrateMapper(model, **mapper_options(arguments, BitrateMapper)).adapter
        mapper_options(arguments, calibration.calibrate, ("unit",))  # where a kernel's weights depend on it
        photograph, forward = load_image(demo_photograph()).to(device), forward_options(arguments)
        adapter.prepare(photograph, forward)
        guide = arguments.projection == GUIDED
        return calibration.receptive_fields(adapter, photograph, forward, progress=count_passes, guide=guide)


def describe_guide(measured: ReceptiveField) -> dict[str, Any] | None:
    """Return the guide of a field for a record, and how well it does: per cent of the bits beside Jacobian maps."""
    if UNGUIDED_DISTANCE not in measured.fit:
        return None
    weights = None if measured.guide is None else list(measured.guide.weights)
    return {"weights": weights, **{name: measured.fit[name] for name in (UNGUIDED_DISTANCE, GUIDED_DISTANCE)}}


def _measurement(measured: ReceptiveField, model: str, device: str, seconds: float, kept: bool) -> Measurement:
    (top, bottom), (left, right) = measured.reach
    cells = measured.fit.get("locations")
    return Measurement(
        model=model,
        latent=measured.latent,
        device=device,
        stride=measured.stride,
        reach=measured.reach,
        size=(bottom - top + 1, right - left + 1),
        center=measured.center,
        centroid=measured.centroid,
        spread=measured.spread,
        terms=len(measured.kernel),
        separable_error=measured.fit.get("separable_error"),
        sampling_error=measured.fit.get("sampling_error"),
        cells_probed=None if cells is None else round(cells),
        origin=measured.origin,
        seconds=seconds,
        kept=kept,
        version=__version__,
        guide=describe_guide(measured),
    )


def _picture(image: str) -> Picture:
    with input_file(image) as path:
        picture = load_picture(path)
    warn(image, picture.facts.warnings)
    return picture


def _targets(model: str, latent: str, folder: Path, inputs: Sequence[str | None], overwrite: bool) -> list[Path]:
    """Return where the results go.

    Raises:
        UsageError: they would replace something.
    """
    targets = [folder / f"{_file_name(model)}.{_file_name(latent)}{ending}" for ending in OUTPUTS.values()]
    reason = refusal(targets, inputs, overwrite)
    if reason is not None:
        raise UsageError(reason)
    return targets


def _write(measured: ReceptiveField, measurement: Measurement, targets: Sequence[Path]) -> None:
    """Write the kernel and its picture, both or none."""
    try:
        with open_all_or_none(targets) as (kernel_file, picture_file):
            measured.save(kernel_file)
            kernel_figure.kernel_figure(measured, model=measurement.model).save(picture_file, format="PNG")
    except OSError as error:
        reason = error.strerror or one_line(error)
        base = str(targets[0]).removesuffix(OUTPUTS["kernel"])
        raise UsageError(f"{shown(base)}: the results cannot be written ({reason})") from error
    measurement.files = dict(zip(OUTPUTS, map(str, targets), strict=True))


def _guide_rows(guide: dict[str, Any] | None) -> dict[str, str]:
    if guide is None:
        return {}
    left_out = "of the bits elsewhere than in Jacobian maps of pictures left out of the fit"
    without, fitted = (f"{guide[name]:.1f} %" for name in (UNGUIDED_DISTANCE, GUIDED_DISTANCE))
    if guide["weights"] is None:
        return {"guide": f"none: it does not help, {fitted} {left_out}, {without} without"}
    return {"guide": f"{fitted} {left_out}, {without} without"}


def _file_name(text: str) -> str:
    """Make a text part of a file name: whatever is no letter, digit, ``_``, ``.`` or ``+`` becomes a dash."""
    return re.sub(r"[^\w.+]+", "-", text).strip("-.") or "unnamed"


def _table(measurement: Measurement) -> str:
    (top, bottom), (left, right) = measurement.reach
    rows = {
        "stride": "{} x {} pixels".format(*measurement.stride),
        "reach": f"{top} to {bottom}, {left} to {right} ({{}} x {{}} pixels)".format(*measurement.size),
        "center": "{:.1f}, {:.1f}".format(*measurement.center),
        "centroid": "{:.2f}, {:.2f}".format(*measurement.centroid),
        "spread": "{:.2f}, {:.2f}".format(*measurement.spread),
        "terms": str(measurement.terms),
        "separable error": _percent(measurement.separable_error),
        **_guide_rows(measurement.guide),
        "sampling error": _percent(measurement.sampling_error),
        "cells probed": "unknown" if measurement.cells_probed is None else f"{measurement.cells_probed:,}",
        "seconds": f"{measurement.seconds:.1f}" + (" (kept from an earlier time)" if measurement.kept else ""),
    }
    lines = [f"Receptive field of latent {measurement.latent!r}, {measurement.model}"]
    lines += [f"  {name:<15}  {value}" for name, value in rows.items()]
    return "\n".join([*lines, f"Written: {', '.join(map(shown, measurement.files.values()))}"])


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
