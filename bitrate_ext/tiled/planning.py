"""How an image is cut into tiles that fit into memory: by the model's measured footprint and what is kept besides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .. import memory
from ..byte_sizes import format_bytes
from ..io.windowed import ImageSource
from ..memory import Footprint, MemoryLimitError
from ..models.adapter import ModelAdapter
from ..ops.strips import ROWS
from .downsample import downsampled_size
from .tiling import Size, Tiling, measure_halo

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """Tiles, and the memory that they are planned to take. Bytes are of the whole process; None where nobody knows."""

    tiling: Tiling
    footprint: Footprint | None = None
    peak: int | None = None  # of the device that the model runs on
    limit: int | None = None

    def record(self) -> dict[str, Any]:
        """Return what the JSON record says of it."""
        tiling = self.tiling
        return {
            "tile": list(tiling.inside),
            "halo": list(tiling.halo) if tiling.window != tiling.canvas else [0, 0],
            "window": list(tiling.window),
            "canvas": list(tiling.canvas),
            "tiles": tiling.along(0) * tiling.along(1),
            "planned_peak_bytes": self.peak,
            "limit_bytes": self.limit,
            "footprint": None if self.footprint is None else asdict(self.footprint),
        }


class MemoryModel:
    """What tiles of any size take, in bytes, and what they may take.

    Args:
        adapter: prepared.
        image: the image.
        like: ``[1, C, H, W]`` with the channels, dtype and device of the image's crops.
        forward_kwargs: for the model's ``forward``.
        max_memory: as for ``map_picture``.
        beside: bytes of the CPU's memory that tiles of a window take besides.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        image: ImageSource,
        like: Tensor,
        forward_kwargs: dict[str, Any],
        max_memory: int | None,
        beside: Callable[[Size], int],
    ) -> None:
        self._image, self._beside = image, beside
        self.device = like.device
        rng = torch.Generator().manual_seed(0)

        def run(side: int) -> None:
            x = torch.rand(1, like.shape[1], side, side, generator=rng).to(like)
            with torch.no_grad():
                adapter.run(x, forward_kwargs)

        self.footprint = memory.measure_footprint(self.device, max(adapter.multiple), run)
        grids = adapter.grids(adapter.canvas(image.height, image.width)[0]).values()
        cells = sum(h * w for h, w in grids)
        strips = 1 + len(grids) * (len(grids) > 1) + 4  # and one on its way to a file
        reduced = math.prod(downsampled_size((image.height, image.width))[1])
        self._fixed = (
            3 * 8 * cells  # their bits, and what is computed from them at the end
            + 4 * (1 + like.shape[1]) * reduced
            + strips * ROWS * image.width * (8 if like.dtype == torch.float64 else 4)
        )
        memory.trim()
        self._held = memory.bytes_in_use(self.device), memory.resident()
        self.limit = memory.limit(self.device, max_memory)
        self._host_limit = 0 if self.device.type == "cpu" else memory.limit(CPU, None)

    def peaks(self, window: Size) -> tuple[int, int]:
        """Return the peaks of the model's device and of the CPU's memory, with what the process holds anyway.

        The second is 0 where the first includes it.
        """
        model = self._held[0] + self.footprint.bytes(window[0] * window[1])
        rest = self._fixed + self._image.buffered(window[0]) + self._beside(window)
        return (model + rest, 0) if self.device.type == "cpu" else (model, self._held[1] + rest)

    def fits(self, window: Size) -> bool:
        """Tell whether tiles with that window keep within the limits."""
        peak, host = self.peaks(window)
        return peak <= self.limit and host <= self._host_limit

    def refuse(self, tiling: Tiling, what: str) -> MemoryLimitError:
        """Return the error that such tiles do not fit, with the figures."""
        peak, host = self.peaks(tiling.window)
        on_host = f", or {format_bytes(host)} of the CPU's memory, where {format_bytes(self._host_limit)} are"
        return MemoryLimitError(
            f"max_memory is too low: {what}, {tiling.inside[0]} x {tiling.inside[1]} pixels with a halo of "
            f"{tiling.halo[0]} and {tiling.halo[1]}, take {format_bytes(peak)}, and the limit is "
            f"{format_bytes(self.limit)}{on_host if host else ''}"
        )


def plan_tiles(
    adapter: ModelAdapter,
    image: ImageSource,
    like: Tensor,
    forward_kwargs: dict[str, Any],
    *,
    max_memory: int | None,
    tile: int | None,
    x_hat: bool,
    beside: Callable[[Size], int] = lambda _window: 0,
) -> Plan:
    """Choose the largest tiles that fit, or those that were asked for.

    Those that were asked for need no measure of memory, and need not fit unless ``max_memory`` was asked for, too.

    Raises:
        MemoryLimitError: the smallest do not fit, or those that were asked for do not fit into the limit asked for.
        ValueError: the model cannot be run in tiles.
    """
    canvas, block = adapter.canvas(image.height, image.width)[0], adapter.multiple
    model = None
    try:
        model = MemoryModel(adapter, image, like, forward_kwargs, max_memory, beside)
    except MemoryLimitError:
        if tile is None or max_memory is not None:
            raise
    fits = (lambda _window: True) if model is None else model.fits
    chosen = Tiling(canvas, canvas, (0, 0), block)
    what = "even the smallest tiles" if tile is None else "tiles of that size"
    if any(length > tile for length in canvas) if tile is not None else not fits(canvas):
        halo = measure_halo(adapter, like, forward_kwargs, x_hat=x_hat)
        tiling = Tiling(canvas, canvas, halo, block)
        chosen = tiling.cut((tile, tile)) if tile is not None else _largest(tiling, fits) or tiling.cut(block)
    if model is None:
        return Plan(chosen)
    if (tile is None or max_memory is not None) and not fits(chosen.window):
        raise model.refuse(chosen, what)
    return Plan(chosen, model.footprint, model.peaks(chosen.window)[0], model.limit)


def _largest(tiling: Tiling, fits: Callable[[Size], bool]) -> Tiling | None:
    """Return the tiles that fit and with which the model sees the fewest pixels in all."""
    best: tuple[int, int, Tiling] | None = None
    down = range(tiling.block[0], tiling.canvas[0] + tiling.block[0], tiling.block[0])
    for inside in down:
        low, high = 0, -(-tiling.canvas[1] // tiling.block[1])  # of columns of blocks: what fits, and the most
        while low < high:
            middle = (low + high + 1) // 2
            fit = fits(tiling.cut((inside, middle * tiling.block[1])).window)
            low, high = (middle, high) if fit else (low, middle - 1)
        if not low:
            break  # more rows fit even less
        one = tiling.cut((inside, low * tiling.block[1]))
        count = one.along(0) * one.along(1)
        seen = count * one.window[0] * one.window[1]
        if best is None or (seen, count) < best[:2]:
            best = (seen, count, one)
    return best and best[2]
