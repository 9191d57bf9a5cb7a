"""Maps in strips of rows: any size in little memory, byte for byte the rows of the whole map.

A strip reads only the rows of cells that weigh on its pixels, so latents may be memory-mapped files larger than memory,
or come a few rows at a time. The kernels apply the same weights to the same cells in the same order, hence the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..checks import check_whole_number
from .arguments import Call, Latents, Projections, check_out, resolve, unwrap
from .band import Band, Integers
from .dispatch import choose_kernel, project_bands_into
from .guided import bounded, cell_bits, check_guide, guide_sums
from .memory_pages import read_rows, shared_mapping
from .projection import Axis, Projection, axis_band
from .units import LIKELIHOOD, kernel_input, noun_of

ROWS = 256  # of a strip, pixels
CPU = torch.device("cpu")

Grid = tuple[int, int]


class RowProjector:
    """Rows of a map, computed from rows of its latents.

    Args:
        grids: (h, w) of each latent, cells.
        size: (H, W) of the canvas that they cover, pixels.
        crop: ``(top, left, height, width)``, the window of it that is wanted; rows count from its top.
        projections: of each latent.
        conserve: as for ``bitrate_map``.
    """

    def __init__(
        self,
        grids: Mapping[str, Grid],
        size: Sequence[int],
        crop: Sequence[int],
        projections: Mapping[str, Projection],
        *,
        conserve: bool = True,
    ) -> None:
        top, left, self.height, self.width = crop
        self._bands: dict[str, list[tuple[Band, Band]]] = {}
        self._last: dict[str, Integers] = {}  # [height]: rows of cells that this and earlier rows of pixels need
        for name, (h, w) in grids.items():
            vertical = Axis(h, size[0], top, self.height, conserve)
            horizontal = Axis(w, size[1], left, self.width, conserve)
            self._bands[name] = [
                (axis_band(term.along(0), vertical, CPU), axis_band(term.along(1), horizontal, CPU))
                for term in projections[name].terms
            ]
            ends = [band.start.numpy() + band.taps for band, _ in self._bands[name]]
            self._last[name] = np.maximum.accumulate(np.max(ends, axis=0))

    def cells(self, name: str, first: int, last: int) -> tuple[int, int]:
        """Return the rows of cells that rows of pixels read: the first, and one past the last."""
        spans = [(band.start[first:last], band.taps) for band, _ in self._bands[name]]
        return min(int(s.min()) for s, _ in spans), max(int(s.max()) + taps for s, taps in spans)

    def ready(self, cells: Mapping[str, int]) -> int:
        """Return how many rows of pixels, from the first, need no more than so many rows of cells of each latent."""
        return min(int(np.searchsorted(self._last[name], count, side="right")) for name, count in cells.items())

    def map(
        self,
        held: Mapping[str, tuple[int, Tensor]],
        first: int,
        out: Tensor,
        *,
        native: bool | None = None,
        guide: Tensor | None = None,
    ) -> Tensor:
        """Make rows of the map of the latents in ``held``.

        Args:
            held: for each of these latents a row of cells, and from there on the likelihoods ``[N, C, rows, w]`` or the
                bits ``[N, rows, w]``.
            first: the first row of pixels.
            out: ``[N, 1, rows, width]``, contiguous, on the device of the latents.
            native: which implementation; default: where there is a kernel.
            guide: of these rows, ``[N, 1, rows, width]``; ``held`` then has bits over the guide's sums.

        Returns:
            ``out``.
        """
        last = first + out.shape[2]
        tensors: list[Tensor] = []
        bands: list[tuple[Band, Band]] = []
        for name, (base, values) in held.items():
            for rows, columns in self._bands[name]:
                band, low = rows.part(first, last)
                tensors.append(values[..., low - base : low - base + band.cells, :])
                bands.append((band, columns))
        if native is None:
            native = choose_kernel("auto", out.device, len(tensors))
        with torch.no_grad():
            return project_bands_into(tensors, bands, out, native, guide)


def map_strips(
    values: Latents,
    size: Sequence[int],
    *,
    rows: int = ROWS,
    crop: Sequence[int] | None = None,
    projection: Projections = "bilinear",
    conserve: bool = True,
    impl: str = "auto",
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    guide: Tensor | None = None,
    unit: str = LIKELIHOOD,
) -> Iterator[tuple[int, Tensor]]:
    """Return the map of ``bitrate_map`` in strips of rows, from top to bottom: the same bytes, in a strip's memory.

    Tensors may be of a ``numpy.memmap`` (``torch.from_numpy``): rows are copied into a buffer and their pages
    given back to the system at once, where the file is mapped to be shared (mode ``"r"`` or ``"r+"``, on Linux). There
    are no gradients.

    Args:
        values: as for ``bitrate_map``; no lists.
        size: ``(H, W)`` of the whole map, pixels.
        rows: of a strip, at most; the last has what is left.
        crop, projection, conserve, impl, dtype, guide, unit: as for ``bitrate_map``. A guide is read as a whole, once,
            when the first strip is asked for.
        out: a buffer ``[N, 1, rows, W]`` of the window's width, contiguous: each strip is then a view of it and lasts
            until the next one. Default: a new tensor for each strip.

    Yields:
        ``(top, strip)``: the strip's first row, counted from the window's top, and ``[N, 1, rows, W]``, bits per pixel.

    Raises:
        TypeError, ValueError: as ``bitrate_map`` does, when it is called; also where ``rows`` is no positive integer.

    Example:
        >>> likelihoods = torch.full((1, 4, 8, 8), 0.5)
        >>> [(top, tuple(strip.shape)) for top, strip in bitrate_ext.map_strips(likelihoods, (64, 64), rows=40)]
        [(0, (1, 1, 40, 64)), (40, (1, 1, 24, 64))]
    """
    check_whole_number("rows", rows, 1)
    noun = noun_of(unit)
    values = unwrap(values, noun)
    if isinstance(values, Sequence):
        raise TypeError(f"{noun} must be a tensor or a dict of tensors, got {type(values).__name__}")
    call = resolve(values, size, None, projection, conserve, impl, dtype, crop, unit)
    if out is not None:
        check_out(out, call, rows, noun)
        if not out.is_contiguous():
            raise ValueError("out must be contiguous, got a tensor of strides " + str(list(out.stride())))
    grids = {name: (t.shape[-2], t.shape[-1]) for name, t in call.latents.items()}
    where = call.setting.geometry
    projector = RowProjector(grids, where.canvas, where.window, call.setting.projections, conserve=where.conserve)
    if guide is not None:
        check_guide(guide, call)
    return _strips(call, projector, rows, out, guide)


@torch.no_grad()
def _strips(
    call: Call, projector: RowProjector, rows: int, out: Tensor | None, guide: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    spans = {name: shared_mapping(tensor) for name, tensor in call.latents.items()}
    buffers: dict[str, Tensor] = {}
    first = next(iter(call.latents.values()))
    sums: dict[str, Tensor] = {}
    if guide is not None:
        guide = bounded(guide)
        sums = dict(zip(call.latents, guide_sums(call, guide), strict=True))
    _, left, _, width = call.setting.geometry.window
    for top in range(0, projector.height, rows):
        count = min(rows, projector.height - top)
        held = {}
        for name, tensor in call.latents.items():
            low, high = projector.cells(name, top, top + count)
            span = spans[name]
            part = tensor[..., low:high, :]
            if span is not None:
                if name not in buffers or buffers[name].numel() < part.numel():
                    buffers[name] = tensor.new_empty(part.numel())
                part = read_rows(tensor, span, low, high, buffers[name])
            values = kernel_input(part, call.unit)
            held[name] = low, cell_bits(values, call.native) / sums[name][:, low:high] if sums else values
        shape = (first.shape[0], 1, count, projector.width)
        strip = (
            first.new_empty(shape, dtype=call.setting.map.dtype)
            if out is None
            else out.flatten()[: math.prod(shape)].view(shape)
        )
        above = call.setting.geometry.window[0] + top
        under = None if guide is None else guide[:, :, above : above + count, left : left + width]
        yield top, projector.map(held, top, strip, native=call.native, guide=under)
