"""The command ``bitrate-ext train-estimator``."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from ...estimator.estimator import About, RateEstimator
from ...estimator.training import train_estimator
from ...io.files import shown
from ...io.windowed import open_image
from ...models.adapter import ModelAdapter
from ..console import FAILED, OK, PATIENCE, UsageError, echo, one_line, tell_failure, tell_failures
from ..model_options import forward_options, mapper_options
from ..serving import checked_device, load_model, usage_errors


def run(arguments: argparse.Namespace) -> int:
    """Train, write the file, print."""
    device = checked_device(arguments.device)
    images, failures = _readable(arguments.images)
    try:
        for image in arguments.held_out:
            _look(image)
    except (ValueError, OSError) as error:
        raise UsageError(f"--held-out: {one_line(error)}") from error
    models: dict[int, Any] = {}
    for quality in arguments.levels or (arguments.quality,):
        one = copy.copy(arguments)
        one.quality = quality
        model, name = load_model(device, one, taken=train_estimator)
        models[quality] = ModelAdapter(model, **mapper_options(arguments, ModelAdapter))
    if arguments.levels:
        name = f"{arguments.model or 'demo codec'}, qualities {arguments.levels[0]} to {arguments.levels[-1]}"

    before = time.monotonic()
    with usage_errors("", "to train the estimator", model):
        made = train_estimator(
            models[arguments.quality] if None in models else models,
            images,
            held_out=arguments.held_out or None,
            projection=arguments.projection,
            minutes=arguments.minutes,
            seed=arguments.seed,
            name=name,
            progress=_Progress(),
            **forward_options(arguments),
        )
    try:
        made.save(arguments.target)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UsageError(f"{shown(arguments.target)}: cannot be written ({reason})") from error
    seconds = time.monotonic() - before
    if arguments.json:
        document = {**asdict(made.about), "file": str(arguments.target), "seconds": seconds, "failures": failures}
        echo(json.dumps(document, indent=2, allow_nan=False), sys.stdout)
    else:
        echo(_table(made, made.about, seconds), sys.stdout)
        echo(f"Written: {shown(arguments.target)}", sys.stdout)
        tell_failures("image", failures, len(arguments.images))
    return FAILED if failures else OK


def _look(image: str) -> None:
    with open_image(image):
        pass


def _readable(images: list[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Return the images whose headers can be read; the others are told."""
    readable, failures = [], []
    for image in images:
        try:
            _look(image)
            readable.append(image)
        except (ValueError, OSError) as error:
            failures.append(tell_failure("image", image, one_line(error)))
    return readable, failures


class _Progress:
    """Say on stderr how far it is, not too often."""

    def __init__(self) -> None:
        self._start = self._told = time.monotonic()

    def __call__(self, what: str, done: float) -> None:
        now = time.monotonic()
        if now - self._told >= PATIENCE:
            self._told = now
            echo(f"Training the estimator ... {now - self._start:.0f} s, {what}, {100 * done:.0f} %", sys.stderr)


def _table(made: RateEstimator, about: About, seconds: float) -> str:
    lines = [
        f"Estimator of {about.model}: {sum(weight.numel() for weight in made.parameters()):,} weights, trained on "
        f"{about.training['windows']:,} windows of {about.training['photographs']:,} photographs in {seconds:.0f} s",
        f"  photographs that were not learnt ({about.errors[0].photographs}):",
    ]
    for quality, error in zip(about.qualities or ("",), about.errors, strict=True):
        which = f"quality {quality}: " if quality else ""
        total = f"{100 * error.total:.1f} %"
        lines.append(f"  {which}total bits off by {total}, correlation of blocks {error.correlation:.3f}")
    return "\n".join(lines)
