"""Maps of pictures that neither fit into memory nor through the model at once: the model in tiles, the map in strips.

Tiles are run band by band from the top. The likelihoods of a band wait until the rows of the map that they weigh on are
computed, by the kernels that map whole images: the bytes are those of the map of all likelihoods together.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .. import memory
from ..atomic import open_all_or_none
from ..io.map_writers import NpzWriter, Strips, format_of, write_tiff
from ..io.windowed import ImageSource, TensorImage, open_image
from ..mapping.layout import outside_bits
from ..mapping.mapper import AnyProjection, BitrateMapper
from ..memory import MemoryLimitError, is_out_of_memory
from ..models.adapter import device_of, psnr_db, squared_error
from ..ops.functional import latent_bits
from ..ops.strips import ROWS, RowProjector
from .downsample import Downsampler
from .planning import CPU, MemoryModel, Plan, plan_tiles
from .tiling import Span, Tile, run_tile

SAMPLE = 512  # side of the part of a picture that the model is tried on before, at most, pixels
Progress = Callable[[int, int], None]  # tiles done, tiles in all


@dataclass(frozen=True, eq=False)
class PictureResult:
    """Where a model spends its bits on a picture, besides the map, which is in the file.

    Numbers are those of ``BitrateResult`` for the one picture.
    """

    size: tuple[int, int]  # (H, W), pixels
    total_bits: float
    padding_bits: float
    bpp: float
    latent_bits: dict[str, Tensor]  # float64 [h, w], bits per cell on the grid of the padded picture
    psnr_db: float | None  # of x_hat cut to [0, 1]; None where it was not asked for, is exact, or the model gives none
    plan: Plan  # as carried out: with smaller tiles than at first where memory ran out
    seconds: float
    reduced: np.ndarray  # float32 [h', w'], the map averaged over squares of pixels, at most 4096 a side
    reduced_picture: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [h', w', C]


class TiledRun:
    """One picture, one model: a plan, and its execution.

    Args:
        mapper: has the model and the projection.
        picture: the picture.
        max_memory: bytes that the process may hold on the model's device. Default: what it holds, and 80 % of what the
            machine has left.
        tile: side of the tiles' insides, pixels, rounded up to the model's strides. Default: the largest that fit.
        latents: whether strips hold each latent's own map, too.
        psnr: whether to compare the reconstruction.
        x_hat: where the reconstruction goes, ``[1, C, H, W]`` or ``[C, H, W]`` on the CPU.
        forward_kwargs: for the model's ``forward``.

    Raises:
        MemoryLimitError, ValueError, TypeError: as ``map_picture``.
    """

    def __init__(
        self,
        mapper: BitrateMapper,
        picture: ImageSource,
        *,
        max_memory: int | None = None,
        tile: int | None = None,
        latents: bool = True,
        psnr: bool = False,
        x_hat: Tensor | None = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        _check_count("max_memory", max_memory)
        _check_count("tile", tile)
        self.mapper, self.picture = mapper, picture
        self._adapter = adapter = mapper.adapter
        self._kwargs = dict(forward_kwargs or {})
        sample = self._sample()
        mapper.resolve(sample, self._kwargs)
        self._like = sample[:, :, :1, :1].clone()
        self._latents, self._psnr, self._x_hat = latents, psnr, x_hat
        if x_hat is not None and x_hat.shape[-2:] != (picture.height, picture.width):
            raise ValueError(
                f"x_hat must be [C, {picture.height}, {picture.width}] like the picture, got {list(x_hat.shape)}"
            )
        self.canvas, self.crop = adapter.canvas(picture.height, picture.width)
        grids = adapter.grids(self.canvas)
        self._rows = RowProjector(grids, self.canvas, self.crop, mapper.projections)
        self._bits = {name: torch.zeros(grid, dtype=torch.float64) for name, grid in grids.items()}
        self._squared_error, self._compared = 0.0, 0  # of how many values
        costs = None
        try:
            costs = MemoryModel(adapter, picture, self._rows, self._like, self._kwargs)
        except MemoryLimitError:
            if tile is None or max_memory is not None:
                raise
        self.plan = plan_tiles(
            adapter,
            picture,
            costs,
            self._like,
            self._kwargs,
            max_memory=max_memory,
            tile=tile,
            x_hat=psnr or x_hat is not None,
        )
        self.dtype = torch.float64 if self._like.dtype == torch.float64 else torch.float32

    def run(self, write: Callable[[Strips], None], progress: Progress | None = None) -> PictureResult:
        """Run the model and hand the map, strip after strip, to ``write``, which must take them all."""
        start = time.perf_counter()
        shape = (self.picture.height, self.picture.width)
        reduced, reduced_picture = Downsampler(shape), Downsampler(shape, self._like.shape[1])

        def strips() -> Strips:
            for top, strip in self._strips(progress or (lambda _done, _total: None)):
                reduced.add(strip["map"])
                pixels = self.picture.crop(top, 0, len(strip["map"]), shape[1])
                reduced_picture.add(pixels[0].permute(1, 2, 0).numpy())
                yield strip

        with memory.unpooled():  # as the footprint was measured
            write(strips())
        total = sum(bits.sum().item() for bits in self._bits.values())
        padding = sum(
            outside_bits(bits[None], self.mapper.projections[name], self.canvas, self.crop).item()
            for name, bits in self._bits.items()
        )
        return PictureResult(
            size=shape,
            total_bits=total,
            padding_bits=padding,
            bpp=total / (shape[0] * shape[1]),
            latent_bits=self._bits,
            psnr_db=psnr_db(self._squared_error, self._compared),
            plan=self.plan,
            seconds=time.perf_counter() - start,
            reduced=reduced.pixels,
            reduced_picture=reduced_picture.pixels,
        )

    def _sample(self) -> Tensor:
        """A part of the picture, on the model's device."""
        height, width = (min(SAMPLE, length) for length in (self.picture.height, self.picture.width))
        top, left = (self.picture.height - height) // 2, (self.picture.width - width) // 2
        return self.picture.crop(top, left, height, width).to(device_of(self._adapter.model))

    def _strips(self, progress: Progress) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Rows of the maps as soon as the cells are there that they need."""
        done = 0  # rows of the map
        for held in self._bands(progress):
            ready = self._rows.ready({name: base + p.shape[2] for name, (base, p) in held.items()})
            for top in range(done, ready, ROWS):
                yield top, self._maps(held, top, min(ROWS, ready - top))
            done = ready
            for name, (base, p) in held.items():
                lowest = min(max(base, self._rows.lowest(name, done)), base + p.shape[2])
                held[name] = lowest, p[:, :, lowest - base :].clone()
            del p  # the band is large

    def _maps(self, held: Mapping[str, tuple[int, Tensor]], top: int, rows: int) -> dict[str, np.ndarray]:
        """So many rows of all maps, ``[rows, W]``."""

        def rows_of(latents: Mapping[str, tuple[int, Tensor]]) -> np.ndarray:
            out = torch.empty(1, 1, rows, self._rows.width, dtype=self.dtype)
            return self._rows.map(latents, top, out)[0, 0].numpy()

        found = {"map": rows_of(held)}
        if self._latents and len(held) > 1:
            found |= {f"maps/{name}": rows_of({name: one}) for name, one in held.items()}
        elif self._latents:
            found |= {f"maps/{name}": found["map"] for name in held}
        return found

    def _bands(self, progress: Progress) -> Iterator[dict[str, tuple[int, Tensor]]]:
        """The likelihoods of one band of tiles after another, below those that the caller has left in the same dict."""
        held: dict[str, tuple[int, Tensor]] = {}
        done, tiles_done, shrunk = 0, 0, False
        while done < self.canvas[0]:
            tiling = self.plan.tiling
            span = tiling.span(0, done)
            total = tiles_done + tiling.along(0, done) * tiling.along(1)
            try:
                band = self._band(held, span, partial(_report, progress, tiles_done, total))
            except (MemoryError, RuntimeError) as error:
                smaller = tiling.halved()
                if not is_out_of_memory(error):
                    raise
                if shrunk or smaller is None:
                    raise MemoryLimitError(
                        f"memory ran out with tiles of {tiling.inside[0]} x {tiling.inside[1]} pixels"
                        f"{' as it did with twice that' if shrunk else ''}; give a lower max_memory or a smaller tile"
                    ) from error
                shrunk = True
            else:
                smaller = None
            if smaller is not None:  # not in the handler, where the error still holds the failed call's tensors
                memory.trim()
                self.plan = replace(self.plan, tiling=smaller)
                continue
            held.update(band)
            del band
            yield held
            done, tiles_done = span[2], tiles_done + tiling.along(1)

    def _band(
        self, held: Mapping[str, tuple[int, Tensor]], rows: Span, progress: Callable[[int], None]
    ) -> dict[str, tuple[int, Tensor]]:
        """Likelihoods of a band of tiles below those that are held, on the CPU."""
        band: dict[str, tuple[int, Tensor]] = {}
        for index, columns in enumerate(self.plan.tiling.spans(1)):
            tile = run_tile(
                self._adapter,
                self.picture,
                self.plan.tiling,
                rows,
                columns,
                self._kwargs,
                self._like.device,
                x_hat=self._psnr or self._x_hat is not None,
            )
            for name, p in tile.likelihoods.items():
                if name not in band:
                    band[name] = self._room(held, name, p, rows)
                base, room = band[name]
                down, across = self._adapter.strides[name]
                first, left = tile.crop[0] // down, tile.crop[1] // across
                room[:, :, first - base :, left : left + p.shape[3]] = p
                self._bits[name][first : first + p.shape[2], left : left + p.shape[3]] = latent_bits(
                    p, dtype=torch.float64
                )[0].cpu()
            self._take_reconstruction(tile)
            progress(index + 1)
        return band

    def _room(self, held: Mapping[str, tuple[int, Tensor]], name: str, p: Tensor, rows: Span) -> tuple[int, Tensor]:
        """For the rows of cells that are held and those of a band."""
        first = rows[1] // self._adapter.strides[name][0]
        base, kept = held.get(name, (first, p[:, :, :0].cpu()))
        room = torch.empty(1, p.shape[1], first - base + p.shape[2], self._bits[name].shape[1], dtype=p.dtype)
        room[:, :, : first - base, : kept.shape[3]] = kept
        return base, room

    def _take_reconstruction(self, tile: Tile) -> None:
        if tile.x_hat is None:
            return
        (top, left, height, width), (y, x, *_) = tile.crop, self.crop
        first, last = max(0, top - y), min(self.picture.height, top + height - y)
        before, after = max(0, left - x), min(self.picture.width, left + width - x)
        if last <= first or after <= before:
            return
        part = tile.x_hat[:, :, first + y - top : last + y - top, before + x - left : after + x - left].cpu()
        if self._x_hat is not None:
            self._x_hat[..., first:last, before:after] = part if self._x_hat.dim() == 4 else part[0]
        if self._psnr:
            pixels = self.picture.crop(first, before, last - first, after - before)
            self._squared_error += squared_error(part, pixels)
            self._compared += part.numel()


def _report(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _check_count(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def map_picture(
    model: Callable[..., Any] | BitrateMapper,
    picture: str | Path | Tensor,
    output: str | Path,
    *,
    max_memory: int | None = None,
    tile: int | None = None,
    projection: AnyProjection = "bilinear",
    latents: bool = True,
    psnr: bool = False,
    x_hat: Tensor | None = None,
    progress: Progress | None = None,
    **forward_kwargs: Any,
) -> PictureResult:
    """Map a picture of any size into a file, within a limit of memory.

    Where the whole picture does not fit through the model, it goes in tiles with a halo as wide as the model's measured
    reach. Cells then have the bits of the whole run to the rounding of the network; the map of these cells is exact,
    byte for byte. See docs/big-pictures.md.

    Args:
        model: as for ``BitrateMapper``, or a ``BitrateMapper``, whose projection then counts.
        picture: a file as for ``load_image``, or a tensor ``[1, C, H, W]`` or ``[C, H, W]`` on the CPU, floating in
            [0, 1] or uint8, of a memory-mapped file if need be. With ``max_memory`` a file may have more pixels than
            Pillow's limit.
        output: ``.npz`` with the arrays that the command line writes, or ``.tif`` or ``.tiff``, a tiled BigTIFF of the
            map alone (needs the extra ``tiff``). It is replaced once it is complete.
        max_memory: bytes that the process may hold, on the model's device where that is a GPU. Default: what it holds,
            and 80 % of what is left.
        tile: side of the inside of tiles, pixels, rounded up to the model's strides. Default: the largest that fit.
        projection: as for ``BitrateMapper``.
        latents: also write each latent's own map (npz).
        psnr: also compare the reconstruction.
        x_hat: a tensor ``[1, C, H, W]`` or ``[C, H, W]`` on the CPU for the reconstruction, if it is wanted.
        progress: called with the tiles done and the tiles in all.
        **forward_kwargs: for the model's ``forward``.

    Raises:
        ImageError: of the file, as ``load_image``.
        MemoryLimitError: the limit is too low for the smallest tiles; gives the figures. Also where memory ran out, and
            again with tiles of half the side.
        ValueError: the picture needs tiles, and the model has no finite reach; other arguments.
        OSError: the output cannot be written.
    """
    output = Path(output)
    form = format_of(output)
    mapper = model if isinstance(model, BitrateMapper) else BitrateMapper(model, projection=projection)
    with contextlib.ExitStack() as stack:
        if isinstance(picture, Tensor):
            opened: ImageSource = TensorImage(picture)
        else:
            _check_count("max_memory", max_memory)
            opened = stack.enter_context(open_image(picture, room_for_picture(device_of(mapper.model), max_memory)))
        run = TiledRun(
            mapper,
            opened,
            max_memory=max_memory,
            tile=tile,
            latents=latents and form == "npz",
            psnr=psnr,
            x_hat=x_hat,
            forward_kwargs=forward_kwargs,
        )
        (file,) = stack.enter_context(open_all_or_none([output]))
        with written_map(run, file, form, output.parent, progress) as (result, finish):
            finish(json.dumps({"size": result.size, "tiles": result.plan.record()}))
        return result


@contextlib.contextmanager
def written_map(
    run: TiledRun, file: IO[bytes], form: str, folder: Path, progress: Progress | None
) -> Iterator[tuple[PictureResult, Callable[[str], None]]]:
    """Run, and write the maps into an open file.

    Yields:
        The result, and what ends the file, given the record's text, which npz files hold.
    """
    shape = (run.picture.height, run.picture.width)
    dtype = np.dtype("<f8" if run.dtype == torch.float64 else "<f4")
    if form == "tiff":
        yield run.run(lambda strips: write_tiff(file, strips, shape, dtype), progress), lambda text: None
        return
    writer = NpzWriter(file, folder, shape, dtype)
    try:
        yield run.run(writer.write, progress), writer.finish
    finally:
        writer.close()


def room_for_picture(device: torch.device, max_memory: int | None) -> int | None:
    """Bytes for a decoded picture; None, which stands for Pillow's limit of pixels, where nobody gave a limit."""
    if max_memory is None:
        return None
    return max(0, memory.limit(CPU, max_memory if device.type == "cpu" else None) - memory.resident())
