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

import torch
from torch import nn

from .._version import __version__
from ..atomic import open_all_or_none
from ..io.files import shown
from ..io.images import load_image
from ..mapping.mapper import BitrateMapper
from ..models.demo_codec import demo_photograph
from ..ops.projection import Projection
from ..receptive_field import calibration
from ..receptive_field.field import ReceptiveField
from ..viz import kernel_figure
from .console import OK, UsageError, echo, one_line, telling
from .model_options import forward_options, mapper_options
from .outputs import refusal
from .serving import checked_device, load_model, usage_errors

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
    files: dict[str, str] = field(default_factory=dict)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the files, print."""
    device = checked_device(arguments.device)
    try:
        images = [load_image(image).to(device) for image in arguments.images]
    except (ValueError, OSError) as error:
        raise UsageError(f"--images: {one_line(error)}") from error
    model, name = load_model(device, arguments, taken=calibration.calibrate)

    measured_latents: list[str] = []
    before = time.perf_counter()
    with usage_errors("", MEASURING, model), telling("Measuring the receptive field"):
        measured = calibration.calibrate(
            model,
            arguments.latent,
            images or None,
            arguments.samples,
            synthesis=arguments.synthesis,
            cache=not arguments.no_cache,
            notice=measured_latents.append,
            **mapper_options(arguments, calibration.calibrate),
            **forward_options(arguments),
        )
    seconds = time.perf_counter() - before
    measurement = _measurement(measured, name, str(device), seconds, kept=not measured_latents)
    inputs = [*arguments.images, arguments.checkpoint]
    _write(measured, measurement, arguments.folder, inputs, arguments.overwrite)
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
    with usage_errors("--projection receptive-field: ", MEASURING, model), measuring:
        adapter = BitrateMapper(model, **mapper_options(arguments, BitrateMapper)).adapter
        mapper_options(arguments, calibration.calibrate, ("unit",))  # where a kernel's weights depend on it
        photograph, forward = load_image(demo_photograph()).to(device), forward_options(arguments)
        adapter.prepare(photograph, forward)
        return calibration.receptive_fields(adapter, photograph, forward)


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
    )


def _write(
    measured: ReceptiveField, measurement: Measurement, folder: Path, inputs: Sequence[str | None], overwrite: bool
) -> None:
    """Write the kernel and its picture, both or none."""
    stem = f"{_file_name(measurement.model)}.{_file_name(measurement.latent)}"
    targets = [folder / f"{stem}{ending}" for ending in OUTPUTS.values()]
    reason = refusal(targets, inputs, overwrite)
    if reason is not None:
        raise UsageError(reason)
    try:
        with open_all_or_none(targets) as (kernel_file, picture_file):
            measured.save(kernel_file)
            kernel_figure.kernel_figure(measured, model=measurement.model).save(picture_file, format="PNG")
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UsageError(f"{shown(folder / stem)}: the results cannot be written ({reason})") from error
    measurement.files = dict(zip(OUTPUTS, map(str, targets), strict=True))


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
        "sampling error": _percent(measurement.sampling_error),
        "cells probed": "unknown" if measurement.cells_probed is None else f"{measurement.cells_probed:,}",
        "seconds": f"{measurement.seconds:.1f}" + (" (kept from an earlier time)" if measurement.kept else ""),
    }
    lines = [f"Receptive field of latent {measurement.latent!r}, {measurement.model}"]
    lines += [f"  {name:<15}  {value}" for name, value in rows.items()]
    return "\n".join([*lines, f"Written: {', '.join(map(shown, measurement.files.values()))}"])


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
