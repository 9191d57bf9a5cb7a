"""Other means for pictures that memory does not suffice for: by themselves, the network in tiles."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..io.windowed import open_image
from ..mapping.mapper import BitrateMapper
from ..tiled.map_picture import TiledRun

TILE = 512  # side, pixels: of one size whatever memory there is, so that numbers do not depend on the day


def measure_in_tiles(
    mapper: BitrateMapper, path: str, forward: Mapping[str, Any], alive: Callable[[], None]
) -> dict[str, Any]:
    """Return a picture's numbers, its bits in float64 summed over tiles.

    Args:
        mapper: of the model, for estimated bits.
        path: of the file.
        forward: arguments for the model's ``forward``.
        alive: is called after each tile.

    Raises:
        ImageError: it cannot be read.
        MemoryLimitError, MemoryError, RuntimeError: this takes too much memory, too, or the model fails.
        ValueError: the model cannot be run in tiles.
    """
    with contextlib.suppress(RuntimeError):  # without a GPU there is none
        torch.cuda.empty_cache()
    with open_image(path) as image:
        run = TiledRun(mapper, image, tile=TILE, latents=False, psnr=True, forward_kwargs=forward)
        result = run.run(lambda strips: deque(strips, maxlen=0).clear(), lambda _done, _all: alive())
        height, width = result.size
        latents = {name: float(bits.sum()) for name, bits in result.latent_bits.items()}
        numbers = {"height": height, "width": width, "bits": result.total_bits, "latents": latents}
        numbers |= {"padding_bits": result.padding_bits, "bpp": result.bpp, "psnr_db": result.psnr_db}
        tile = " x ".join(map(str, result.plan.tiling.inside))
        known = "; ".join((*image.facts.warnings, *result.warnings)) or None
    return with_warning({**numbers, "warnings": known}, f"measured alone, in tiles of {tile}, for want of memory")


def with_warning(numbers: dict[str, Any], text: str) -> dict[str, Any]:
    """Return a picture's numbers with one more warning."""
    return {**numbers, "warnings": "; ".join(filter(None, (numbers.get("warnings"), text)))}
