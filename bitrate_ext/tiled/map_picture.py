"""Maps of images that neither fit into memory nor through the model at once: the model in tiles, the map in strips.

Tiles are run band by band from the top. Of each only the bits of its cells stay. Rows of the map are computed as soon
as the cells are there that weigh on them, by the kernels that map whole images: the bytes are those of the map of all
cells together.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import memory
from ..atomic import open_all_or_none
from ..cells.outside import outside_bits, rim_of, share_of
from ..cells.picture import CellGrid, PictureBits
from ..cells.quality import squared_error, to_decibels
from ..checks import as_given, check_whole_number, described, remedy
from ..io.map_writers import NpzWriter, Strips, format_of, write_tiff
from ..io.windowed import ImageSource, TensorImage, open_image
from ..mapping.guides import FROM_IMAGE
from ..mapping.mapper import AnyProjection, BitrateMapper
from ..memory import MemoryLimitError, is_out_of_memory
from ..models.adapter import device_of
from ..models.padding import Crop, Size
from ..ops.strips import ROWS, RowProjector
from .downsample import Downsampler
from .guide_rows import GuideRows, guide_bytes, guides_in_tiles
from .planning import CPU, Plan, plan_tiles
from .tiling import Span, Tile, run_tile

SAMPLE = 512  # side of the part of an image that the model is tried on before, at most, pixels
Progress = Callable[[int, int], None]  # tiles done, tiles in all


@dataclass(frozen=True, eq=False)
class PictureResult:
    """Where a model spends its bits on an image, besides the map, which is in the file.

    Numbers are those of ``BitrateResult`` for the one image.

    Example:
        >>> result = bitrate_ext.map_picture(model, x, folder / "bits.npz", psnr=True)
        >>> result.bpp == result.total_bits / 64**2, result.reduced.shape, result.psnr_db > 20
        (True, (64, 64), True)
    """

    size: tuple[int, int]  # (H, W), pixels
    total_bits: float
    padding_bits: float
    bpp: float
    latent_bits: dict[str, Tensor]  # float64 [h, w], bits per cell on the grid of the padded image
    psnr_db: float | None  # of x_hat cut to [0, 1]; None where it was not asked for, is exact, or the model gives none
    plan: Plan  # as carried out: with smaller tiles than at first where memory ran out
    seconds: float
    rim: tuple[int, int, int, int]  # top, bottom, left, right: pixels, one cell wide, beside padding
    reduced: NDArray[np.float32]  # [h', w'], the map averaged over squares of pixels, at most 4096 a side
    grids: dict[str, CellGrid]  # bits of cells, and how they lie; see ``image``
    canvas: Size  # that they cover, (H, W), pixels
    crop: Crop  # the image on it: top, left, height, width, pixels
    reduced_picture: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # [h', w', C]
    warnings: tuple[str, ...] = ()  # what is to be known of these numbers, a line each
    sources: tuple[str, ...] = ()  # latents whose bits are true values

    def image(self, *, name: str = "") -> PictureBits:
        """Return the bits by themselves, which know regions and files; of guided maps without their guide.

        Args:
            name: what made them, for titles.
        """
        return PictureBits(self.grids, self.canvas, self.crop, name=name, warnings=self.warnings)


class TiledRun:
    """One image, one model: a plan, and its execution.

    Args:
        mapper: has the model and the projection.
        image: the image.
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
        image: ImageSource,
        *,
        max_memory: int | None = None,
        tile: int | None = None,
        latents: bool = True,
        psnr: bool = False,
        x_hat: Tensor | None = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if max_memory is not None:
            check_whole_number("max_memory", max_memory, 1)
        if tile is not None:
            check_whole_number("tile", tile, 1)
        self.mapper, self.image = mapper, image
        self._adapter = adapter = mapper.adapter
        self._kwargs = dict(forward_kwargs or {})
        sample = self._sample()
        name = "picture" if isinstance(image, TensorImage) else "load_image(picture)"
        mapper.resolve(sample, self._kwargs, (image.height, image.width), name)
        adapter.fit(sample, self._kwargs)
        self._like = sample[:, :, :1, :1].clone()
        self._latents, self._psnr, self._x_hat = latents, psnr, x_hat
        if x_hat is not None and x_hat.shape[-2:] != (image.height, image.width):
            raise ValueError(
                f"x_hat must be [C, {image.height}, {image.width}] like the picture, got {list(x_hat.shape)}"
            )
        self.canvas, self.crop = adapter.canvas(image.height, image.width)
        grids = adapter.grids(self.canvas)
        self._rows = RowProjector(grids, self.canvas, self.crop, mapper.projections)
        self._cells = {name: torch.zeros(1, *grid, dtype=torch.float64) for name, grid in grids.items()}  # bits
        self._guides = guides_in_tiles(mapper.projections, grids, self.canvas, self.crop)
        self._sources: tuple[str, ...] = ()
        self._squares = 0.0  # of the reconstruction's errors
        self._warnings: dict[str, None] = {}  # each once
        self.plan = plan_tiles(
            adapter,
            image,
            self._like,
            self._kwargs,
            max_memory=max_memory,
            tile=tile,
            x_hat=self._reconstructs,
            beside=lambda window: guide_bytes(self._guides, window, self.canvas, sample.shape[1]),
        )
        self.dtype = torch.float64 if self._like.dtype == torch.float64 else torch.float32

    def run(self, write: Callable[[Strips], None], progress: Progress | None = None) -> PictureResult:
        """Run the model and hand the map, strip after strip, to ``write``, which must take them all."""
        start = time.perf_counter()
        shape, channels = (self.image.height, self.image.width), self._like.shape[1]
        reduced, reduced_picture = Downsampler(shape), Downsampler(shape, channels)

        def strips() -> Strips:
            for top, strip in self._strips(progress or (lambda _done, _total: None)):
                reduced.add(strip["map"])
                pixels = self.image.crop(top, 0, len(strip["map"]), shape[1])
                reduced_picture.add(pixels[0].permute(1, 2, 0).numpy())
                yield strip

        with memory.unpooled():  # as the footprint was measured
            write(strips())
        total = sum(bits.sum().item() for bits in self._cells.values())
        padding = sum(self._outside(name, bits).item() for name, bits in self._cells.items())
        return PictureResult(
            size=shape,
            total_bits=total,
            padding_bits=padding,
            bpp=total / (shape[0] * shape[1]),
            latent_bits={name: bits[0] for name, bits in self._cells.items()},
            psnr_db=to_decibels(self._squares / (channels * shape[0] * shape[1])),
            plan=self.plan,
            seconds=time.perf_counter() - start,
            rim=rim_of(self._adapter.grids(self.canvas).values(), self.canvas, self.crop),
            reduced=reduced.pixels,
            grids={name: CellGrid(bits[0], self.mapper.projections[name]) for name, bits in self._cells.items()},
            canvas=self.canvas,
            crop=self.crop,
            reduced_picture=reduced_picture.pixels,
            warnings=tuple(self._warnings),
            sources=self._sources,
        )

    @property
    def _reconstructs(self) -> bool:
        return self._psnr or self._x_hat is not None or bool(self._guides)

    def _outside(self, name: str, bits: Tensor) -> Tensor:
        if name in self._guides:
            return share_of(bits, self._guides[name].outside[name])
        return outside_bits(bits, self.mapper.projections[name], self.canvas, self.crop)

    def _sample(self) -> Tensor:
        """Return a part of the image, on the model's device."""
        height, width = (min(SAMPLE, length) for length in (self.image.height, self.image.width))
        top, left = (self.image.height - height) // 2, (self.image.width - width) // 2
        return self.image.crop(top, left, height, width).to(device_of(self._adapter.model))

    def _strips(self, progress: Progress) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Yield rows of the maps as soon as the cells are there that they need, and the first one's number."""
        top = 0
        for done in self._bands(progress):
            cells = {name: done // down for name, (down, _) in self._adapter.strides.items()}
            ready = self._rows.ready(cells | {name: guide.done[name] for name, guide in self._guides.items()})
            while top < ready:
                rows = min(ROWS, ready - top)
                yield top, self._maps(top, rows)
                top += rows

    def _maps(self, top: int, rows: int) -> dict[str, NDArray[Any]]:
        """Return so many rows of all maps, ``[rows, W]``."""
        names = list(self._cells)
        under = {guide: guide.rows(top, rows) for guide in self._guides.values()}
        found = {"map": self._map(names, top, rows, under)}
        if self._latents:
            each = {name: self._map([name], top, rows, under) if len(names) > 1 else found["map"] for name in names}
            found |= {f"maps/{name}": one for name, one in each.items()}
        return found

    def _map(self, names: Sequence[str], top: int, rows: int, under: Mapping[GuideRows, Tensor]) -> NDArray[Any]:
        """Return rows of the map of some latents, those of one guide in one call."""
        groups: dict[GuideRows | None, dict[str, tuple[int, Tensor]]] = {}
        for name in names:
            guide, (low, high) = self._guides.get(name), self._rows.cells(name, top, top + rows)
            cells = self._cells[name][:, low:high]
            held = cells if guide is None else cells / guide.sums[name][:, low:high]
            groups.setdefault(guide, {})[name] = low, held
        dtype = self.dtype if len(groups) == 1 else torch.float64
        total = torch.zeros(())
        for guide, group in groups.items():
            out = torch.empty(1, 1, rows, self._rows.width, dtype=dtype)
            part = self._rows.map(group, top, out, guide=None if guide is None else under[guide])
            total = part if len(groups) == 1 else total + part
        return np.asarray(total.to(self.dtype)[0, 0])

    def _bands(self, progress: Progress) -> Iterator[int]:
        """Run one band of tiles after another; yield how many rows of the canvas are done."""
        done, tiles_done, shrunk = 0, 0, False
        while done < self.canvas[0]:
            tiling, smaller = self.plan.tiling, None
            span = tiling.span(0, done)
            total = tiles_done + tiling.along(0, done) * tiling.along(1)
            try:
                squares, picture = self._run_band(span, partial(_report, progress, tiles_done, total))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = tiling.halved()
                if shrunk or smaller is None:
                    raise MemoryLimitError(
                        f"memory ran out with tiles of {tiling.inside[0]} x {tiling.inside[1]} pixels"
                        f"{' as it did with twice that' if shrunk else ''}; give a lower max_memory or a smaller tile"
                    ) from error
            if smaller is not None:  # not in the handler, where the error still holds the failed call's tensors
                memory.trim()
                self.plan, shrunk = replace(self.plan, tiling=smaller), True
                continue
            self._squares += squares
            for guide in dict.fromkeys(self._guides.values()):
                guide.add(picture)
            done, tiles_done = span[2], tiles_done + tiling.along(1)
            yield done

    def _run_band(self, rows: Span, progress: Callable[[int], None]) -> tuple[float, Tensor]:
        """Keep the bits of a band's cells and its reconstruction.

        Returns:
            The sum of the latter's squared errors; and, on the CPU, what guides are made of, ``[1, C, rows, W]`` on the
            canvas, where there are any.
        """
        squares = 0.0
        width = self.canvas[1] if self._guides else 0
        picture = torch.empty(1, self._like.shape[1], rows[2] - rows[1], width)
        for index, columns in enumerate(self.plan.tiling.spans(1)):
            tile = run_tile(
                self._adapter,
                self.image,
                self.plan.tiling,
                rows,
                columns,
                self._kwargs,
                self._like.device,
                x_hat=self._reconstructs,
                sources=self.mapper.sources,
            )
            for name, bits in tile.cells.items():
                down, across = self._adapter.strides[name]
                top, left = tile.crop[0] // down, tile.crop[1] // across
                self._cells[name][:, top : top + bits.shape[1], left : left + bits.shape[2]] = bits
            self._sources = tile.sources
            squares += self._take_reconstruction(tile)
            if self._guides:
                _, left, _, across = tile.crop
                picture[..., left : left + across] = self._guiding(tile)
            progress(index + 1)
        return squares, picture

    def _guiding(self, tile: Tile) -> Tensor:
        """Return what guides are made of: a tile's reconstruction, or the image itself where the model gives none."""
        if tile.x_hat is not None:
            return tile.x_hat
        self._warnings[FROM_IMAGE] = None
        top, left, height, width = tile.crop
        return self._adapter.padding.read(self.image.crop, (top, left), (height, width), self.crop)

    def _take_reconstruction(self, tile: Tile) -> float:
        """Keep a tile's part of the reconstruction; return the sum of its squared errors, 0 where nobody asks."""
        (top, left, height, width), (y, x, *_) = tile.crop, self.crop
        first, last = max(0, top - y), min(self.image.height, top + height - y)
        before, after = max(0, left - x), min(self.image.width, left + width - x)
        if tile.x_hat is None or last <= first or after <= before:
            return 0.0
        part = tile.x_hat[:, :, first + y - top : last + y - top, before + x - left : after + x - left].cpu()
        if self._x_hat is not None:
            self._x_hat[..., first:last, before:after] = part if self._x_hat.dim() == 4 else part[0]
        if not self._psnr:
            return 0.0
        return squared_error(part, self.image.crop(first, before, last - first, after - before))


def _report(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


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
    """Map an image of any size into a file, within a limit of memory.

    Where the whole image does not fit through the model, it goes in tiles with a halo as wide as the model's measured
    reach. Cells then have the bits of the whole run to the rounding of the network; the map of these cells is exact,
    byte for byte. See docs/big-pictures.md.

    Args:
        model: as for ``BitrateMapper``, or a ``BitrateMapper``, whose projection then counts.
        picture: a file as for ``load_image``, or a tensor ``[1, C, H, W]`` or ``[C, H, W]`` on the CPU, floating in
            [0, 1] or uint8, of a memory-mapped file if need be. With ``max_memory`` a file may have more pixels than
            Pillow's limit.
        output: ``.npz`` with cells and maps, as the command line writes with ``--pixels``, or ``.tif`` or ``.tiff``, a
            tiled BigTIFF of the map alone (needs the extra ``tiff``). It is replaced once it is complete.
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
        ValueError: the image needs tiles, and the model has no finite reach; other arguments.
        OSError: the output cannot be written.

    Example:
        >>> result = bitrate_ext.map_picture(model, x, folder / "bits.npz", tile=64)
        >>> result.size, (folder / "bits.npz").exists()
        ((64, 64), True)
    """
    output = Path(output)
    form = format_of(output)
    mapper = model if isinstance(model, BitrateMapper) else BitrateMapper(model, projection=projection)
    with contextlib.ExitStack() as stack:
        if isinstance(picture, Tensor):
            image: ImageSource = TensorImage(picture)
            stack.enter_context(as_given(picture, "picture"))
        elif not isinstance(picture, (str, Path)):
            raise TypeError(f"picture must be a file or a tensor, got {described(picture)}{remedy(picture, 'picture')}")
        else:
            if max_memory is not None:
                check_whole_number("max_memory", max_memory, 1)
            image = stack.enter_context(open_image(picture, decoding_room(device_of(mapper.model), max_memory)))
            image.facts.warn(picture, stacklevel=2)
        run = TiledRun(
            mapper,
            image,
            max_memory=max_memory,
            tile=tile,
            latents=latents and form == "npz",
            psnr=psnr,
            x_hat=x_hat,
            forward_kwargs=forward_kwargs,
        )
        (file,) = stack.enter_context(open_all_or_none([output]))
        with write_map(run, file, form, output.parent, progress) as (result, finish):
            finish(json.dumps({"size": result.size, "tiles": result.plan.record()}))
        return result


@contextlib.contextmanager
def write_map(
    run: TiledRun,
    file: IO[bytes],
    form: str,
    folder: Path,
    progress: Progress | None,
    *,
    name: str = "",
    pixels: bool = True,
) -> Iterator[tuple[PictureResult, Callable[[str], None]]]:
    """Run, and write cells and maps into an open file; of an npz file the maps only with ``pixels``.

    Yields:
        The result, and what ends the file, given the record's text, which npz files hold.
    """
    shape = (run.image.height, run.image.width)
    dtype = np.dtype("<f8" if run.dtype == torch.float64 else "<f4")
    if form == "tiff":
        yield run.run(lambda strips: write_tiff(file, strips, shape, dtype), progress), lambda text: None
        return
    writer = NpzWriter(file, folder, shape, dtype)
    try:
        result = run.run(writer.write if pixels else _pass_by, progress)
        arrays = result.image(name=name).arrays()
        yield result, lambda text: writer.finish({**arrays, "metadata": np.array(text)})
    finally:
        writer.close()


def _pass_by(strips: Strips) -> None:
    """Take strips that nobody writes."""
    for _ in strips:
        pass


def decoding_room(device: torch.device, max_memory: int | None) -> int | None:
    """Return the bytes for a decoded image; None, for Pillow's limit of pixels, where nobody gave a limit."""
    if max_memory is None:
        return None
    return max(0, memory.limit(CPU, max_memory if device.type == "cpu" else None) - memory.resident())
