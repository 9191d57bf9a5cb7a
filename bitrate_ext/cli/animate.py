"""An animation of one photograph's maps over the qualities of a codec, as in CompressAI issue 265."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..atomic import open_all_or_none
from ..io.images import load_image
from ..mapping.mapper import BitrateMapper
from ..viz.colormap import colour_limit
from ..viz.map_figure import map_figure
from .console import OK, UsageError, echo, ensure_output_dir, finite, number, one_line, usage_errors
from .model_options import load_model

if TYPE_CHECKING:
    from PIL import Image

SECONDS = 1.0  # that each picture is shown


def run(arguments: argparse.Namespace, device: torch.device) -> int:
    """The command: map, write the file, print."""
    if len(arguments.videos) != 1:
        raise UsageError(f"--animate takes one photograph, got {len(arguments.videos)} files")
    _check(arguments)
    photograph = Path(arguments.videos[0])
    try:
        x = load_image(photograph).to(device)
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    output = Path(arguments.output)
    if output.suffix.lower() not in (".png", ".apng"):
        output = output / f"{photograph.stem}.bitrate.png"
    ensure_output_dir(str(output.parent))
    if output.resolve() == photograph.resolve():
        raise UsageError(f"{output} would replace the input; choose another name with -o")

    maps, words = [], []
    for model, name in _models(arguments, device):
        with usage_errors(f"{name}: ", "to map it"):
            result = BitrateMapper(model, projection=arguments.projection)(x)
        maps.append(result.map[0, 0].float().cpu().numpy())
        words.append(f"{name}   {number(finite(result.bpp.item()), '.3f')} bits per pixel")
        if not arguments.json:
            echo(words[-1], sys.stdout)
    pictures = animated(maps, photograph.name, words)
    with open_all_or_none([output]) as (file,):
        pictures[0].save(
            file,
            format="PNG",
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 * SECONDS),
            loop=0,
        )
    echo(f"Animation: {output}", sys.stderr if arguments.json else sys.stdout)
    return OK


def animated(maps: list[np.ndarray], title: str, subtitles: list[str]) -> list[Image.Image]:
    """Pictures of the maps ``[H, W]``, bits per pixel, in one scale of colours: that of the costliest."""
    limit = max(map(colour_limit, maps))
    return [
        map_figure(one, title=title, subtitle=subtitle, limit=limit)
        for one, subtitle in zip(maps, subtitles, strict=True)
    ]


def _check(arguments: argparse.Namespace) -> None:
    if arguments.quality is not None or arguments.checkpoint is not None:
        raise UsageError("--animate goes over all qualities of --model, or over the checkpoints named after it")
    if not arguments.animate and arguments.model is None:
        raise UsageError("--animate needs --model NAME, or checkpoints: --animate LOW.pth HIGH.pth")
    if arguments.animate and arguments.metric is not None:
        raise UsageError("--metric is for published weights and cannot go with checkpoints")


def _models(arguments: argparse.Namespace, device: torch.device) -> Iterator[tuple[nn.Module, str]]:
    """Each in turn, so that only one is in memory."""
    one = copy.copy(arguments)
    if arguments.animate:
        for one.checkpoint in arguments.animate:
            yield load_model(device, one)
        return
    for one.quality in _qualities(arguments.model, arguments.metric or "mse"):
        yield load_model(device, one)


def _qualities(name: str, metric: str) -> list[int]:
    from ..optional import require

    published = require("compressai.zoo.image").model_urls.get(name, {}).get(metric, {})
    if not published:
        raise UsageError(f"--animate: there are no published qualities of {name!r} for {metric}")
    return sorted(published)
