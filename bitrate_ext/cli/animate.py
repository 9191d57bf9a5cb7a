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
from numpy.typing import NDArray
from torch import nn

from ..atomic import open_all_or_none
from ..io.images import load_image
from ..mapping.mapper import BitrateMapper
from ..viz.colormap import colour_limit
from ..viz.map_figure import map_figure
from .arguments import qualities
from .console import OK, UsageError, echo, finite, number, one_line
from .serving import load_model, usage_errors

if TYPE_CHECKING:
    from PIL import Image

SECONDS = 1.0  # that each picture is shown


def run(arguments: argparse.Namespace, device: torch.device) -> int:
    """Map, write the file, print."""
    ((name, output),) = arguments.targets.items()
    try:
        x = load_image(name).to(device)
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    maps, words = [], []
    for model, title in _models(arguments, device):
        with usage_errors(f"{title}: ", "to map it"):
            result = BitrateMapper(model, projection=arguments.projection)(x)
        maps.append(result.map[0, 0].float().cpu().numpy())
        words.append(f"{title}   {number(finite(result.bpp.item()), '.3f')} bits per pixel")
        if not arguments.json:
            echo(words[-1], sys.stdout)
    pictures = animated(maps, Path(name).name, words)
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


def animated(maps: list[NDArray[np.float32]], title: str, subtitles: list[str]) -> list[Image.Image]:
    """Draw maps ``[H, W]``, bits per pixel, in one scale of colours: that of the costliest."""
    limit = max(map(colour_limit, maps))
    return [
        map_figure(one, title=title, subtitle=subtitle, limit=limit)
        for one, subtitle in zip(maps, subtitles, strict=True)
    ]


def _models(arguments: argparse.Namespace, device: torch.device) -> Iterator[tuple[nn.Module, str]]:
    """Load each in turn, so that only one is in memory."""
    one = copy.copy(arguments)
    if arguments.animate:
        for one.checkpoint in arguments.animate:
            yield load_model(device, one)
        return
    for one.quality in qualities(arguments):
        yield load_model(device, one)
