"""The command ``bitrate-ext estimate``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..._version import __version__
from ...atomic import open_all_or_none
from ...choices import DEMO_QUALITY
from ...estimator.estimator import RateEstimator
from ...io.files import shown
from ...io.images import load_picture
from ...viz import map_figure
from ..console import FAILED, OK, UsageError, echo, one_line, print_document, tell_failures, warn
from ..outputs import Names, file_name
from ..serving import checked_device, input_file, run_each, with_progress

OUTPUTS = {"map": ".estimate.png", "arrays": ".estimate.npz", "record": ".estimate.json"}


@dataclass
class Estimate:
    """What ``STEM.estimate.json`` says of one image."""

    image: str
    width: int  # pixels
    height: int
    estimator: str
    quality: int | None
    total_bits: float
    padding_bits: float
    bpp: float
    error: dict[str, Any]  # on photographs that the estimator was not trained on
    regions: list[dict[str, Any]]  # x, y, width, height, bits, share
    version: str = __version__
    picture: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def run(arguments: argparse.Namespace) -> int:
    """Estimate, write the files, print."""
    device = checked_device(arguments.device)
    file, quality = arguments.checkpoint, arguments.quality
    try:
        estimator = RateEstimator.demo() if file is None else RateEstimator.load(file)
    except (ValueError, OSError) as error:
        raise UsageError(f"--estimator: {one_line(error)}") from error
    try:
        quality = DEMO_QUALITY if file is None and quality is None else quality
        estimator.output_of(quality)
    except ValueError as error:
        raise UsageError(f"--{one_line(error)}") from error
    estimator = estimator.to(device)
    names = Names(arguments, arguments.images, list(OUTPUTS.values()))

    def serve(image: str) -> Estimate:
        with names.take(image) as paths, input_file(image) as path:
            record = _estimate(estimator, quality, arguments, image, path, dict(zip(OUTPUTS, paths, strict=True)))
        warn(image, record.warnings)
        if not arguments.json:
            echo(_summary(record), sys.stdout)
        return record

    records, failures = run_each("image", with_progress(arguments.images), serve, [], "Estimating")
    if arguments.json:
        print_document("image", [asdict(record) for record in records], failures)
    else:
        tell_failures("image", failures, len(arguments.images))
    return FAILED if failures else OK


def _estimate(
    estimator: RateEstimator,
    quality: int | None,
    arguments: argparse.Namespace,
    image: str,
    path: str,
    files: dict[str, Path],
) -> Estimate:
    """Estimate one image, to be read from a path, and write its files, all or none."""
    picture = load_picture(path)
    result = estimator(picture.pixels.to(arguments.device), quality)
    regions = []
    for left, top, width, height in arguments.roi:
        region = top, left, height, width
        try:
            bits, share = result.region_bits(region).item(), result.share(region).item()
        except ValueError as error:
            raise ValueError(f"{shown(image)}: --roi: {error}") from error
        regions.append({"x": left, "y": top, "width": width, "height": height, "bits": bits, "share": share})
    about = estimator.about
    record = Estimate(
        image=image,
        width=picture.pixels.shape[3],
        height=picture.pixels.shape[2],
        estimator=about.model,
        quality=quality,
        total_bits=result.total_bits.item(),
        padding_bits=result.padding_bits.item(),
        bpp=result.bpp.item(),
        error=asdict(result.error),
        regions=regions,
        picture=asdict(picture.facts),
        warnings=picture.facts.warnings,
        files={name: str(path) for name, path in files.items()},
    )
    text = json.dumps(asdict(record), indent=2, allow_nan=False)
    subtitle = (
        f"{record.width} x {record.height}   {record.total_bits:,.0f} bits   {record.bpp:.3f} bits per pixel   "
        f"foretold, {about.model}{_quality(quality)}"
    )
    with open_all_or_none(list(files.values())) as opened:
        file = dict(zip(files, opened, strict=True))
        figure = map_figure.map_figure(result.map, title=shown(file_name(image)), subtitle=subtitle)
        figure.save(file["map"], format="PNG")
        arrays = {"map": result.map[0, 0].cpu().numpy(), "blocks": result.block_bits[0].cpu().numpy()}
        np.savez(file["arrays"], metadata=np.array(text), **arrays)
        file["record"].write(f"{text}\n".encode())
    return record


def _quality(quality: int | None) -> str:
    return "" if quality is None else f", quality {quality}"


def _summary(record: Estimate) -> str:
    off = f"off by {100 * record.error['total']:.1f} % on photographs it had not seen ({record.error['photographs']})"
    lines = [
        f"{shown(record.image)}: {record.width} x {record.height}, {record.bpp:.3f} bits per pixel, "
        f"{record.total_bits:,.0f} bits foretold ({off})"
    ]
    for one in record.regions:
        box = f"{one['x']},{one['y']},{one['width']},{one['height']}"
        lines.append(f"  region {box}: {one['bits']:,.0f} bits, {100 * one['share']:.1f} %")
    return "\n".join(lines)
