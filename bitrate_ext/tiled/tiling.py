"""A model run over an image in tiles, each with a halo of what its inside depends on.

The image is padded as a whole image is. A tile is cut from this canvas with a halo around it, at multiples of the
model's strides, so that each convolution meets the same pixels in the same places, and what comes back is cut to the
inside. That is what the whole image gives, to the rounding of floating point: kernels choose their order of additions
by the size of what they are given. Where rounding moves a value across the middle between two symbols, the cell has
another symbol and other bits, as it may have on another machine or with another number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..checks import check_range
from ..io.windowed import ImageSource
from ..mapping.layout import sum_cells, true_values
from ..models.adapter import ModelAdapter
from ..models.padding import Crop

PROBE_BLOCKS = (9, 17, 33, 65)  # lengths of the canvas on which a halo is measured, in multiples of the strides
PROBE_WIDTH = 128  # of that canvas, at least, pixels

Size = tuple[int, int]
Span = tuple[int, int, int]  # along an axis: where a tile's window begins, and its inside's first pixel and end


@dataclass(frozen=True)
class Tiling:
    """How a canvas is cut. Lengths are (vertical, horizontal), pixels, multiples of ``block``."""

    canvas: Size
    window: Size  # what the model sees at a time
    halo: Size  # of it, on each side that is not the canvas's own
    block: Size  # the least inside of a tile: the least common multiples of the model's strides

    @property
    def inside(self) -> Size:
        """Return what is kept of a tile that lies away from the canvas's border; all of an axis that is not cut."""
        down, across = (w if w >= c else w - 2 * h for c, w, h in zip(self.canvas, self.window, self.halo, strict=True))
        return down, across

    def cut(self, inside: Size) -> Tiling:
        """Return the same canvas in tiles of at least that inside."""
        down, across = (
            min(c, -(-max(1, i) // b) * b + 2 * h)
            for c, i, b, h in zip(self.canvas, inside, self.block, self.halo, strict=True)
        )
        return replace(self, window=(down, across))

    def halved(self) -> Tiling | None:
        """Return tiles with half the inside each way; None where that is no less."""
        half = self.cut((self.inside[0] // 2, self.inside[1] // 2))
        return half if half.window != self.window else None

    def span(self, axis: int, done: int) -> Span:
        """Return the span of the tile whose inside begins at ``done``."""
        length, window, halo = self.canvas[axis], self.window[axis], self.halo[axis]
        begin = max(0, min(done - halo, length - window))
        return begin, done, length if begin + window >= length else begin + window - halo

    def spans(self, axis: int, done: int = 0) -> Iterator[Span]:
        """Yield the spans of all tiles along an axis, from ``done`` on."""
        while done < self.canvas[axis]:
            span = self.span(axis, done)
            yield span
            done = span[2]

    def along(self, axis: int, done: int = 0) -> int:
        """Return how many tiles that is."""
        return sum(1 for _ in self.spans(axis, done))


@dataclass(frozen=True, eq=False)
class Tile:
    """The inside of a tile, on the model's device."""

    crop: Crop  # on the canvas, pixels
    cells: dict[str, Tensor]  # float64 [1, height / stride, width / stride], bits per cell
    sources: tuple[str, ...]  # latents whose bits are true values, see `BitrateResult`
    x_hat: Tensor | None  # [1, C, height, width]; None where it was not asked for, or the model gives none


def measure_halo(adapter: ModelAdapter, like: Tensor, forward_kwargs: dict[str, Any], *, x_hat: bool = False) -> Size:
    """Measure how many pixels around a tile its likelihoods can depend on, and its reconstruction on request.

    A pixel that is not a number makes everything that is computed from it not a number, whatever the weights are. A
    row of blocks, each as long as the least common multiple of the strides, is made so, then a column of them: the
    blocks that are touched are those whose tiles need these pixels. The whole chain counts, from the image through the
    analysis, hyperprior and context models to each likelihood.

    Args:
        adapter: prepared.
        like: ``[N, C, H, W]``, whose channels, dtype and device the images have.
        forward_kwargs: for the model's ``forward``.
        x_hat: measure the reconstruction as well.

    Returns:
        (vertical, horizontal), multiples of the strides.

    Raises:
        ValueError: the model reaches over all of the largest canvas tried: it cannot be run in tiles.
    """
    return _reach(adapter, like, forward_kwargs, 0, x_hat), _reach(adapter, like, forward_kwargs, 1, x_hat)


def _reach(adapter: ModelAdapter, like: Tensor, forward_kwargs: dict[str, Any], axis: int, x_hat: bool) -> int:
    block, other = adapter.multiple[axis], adapter.multiple[1 - axis]
    width = other * max(2, -(-PROBE_WIDTH // other))
    for blocks in PROBE_BLOCKS:
        size = (blocks * block, width) if axis == 0 else (width, blocks * block)
        x = like.new_zeros(1, like.shape[1], *size)
        middle = blocks // 2
        x.narrow(2 + axis, middle * block, block).fill_(torch.nan)
        touched = _touched(adapter, x, forward_kwargs, axis, x_hat)
        first, last = int(touched.min()) // block, int(touched.max()) // block
        if first > 0 and last < blocks - 1:
            return max(middle - first, last - middle) * block
    raise ValueError(
        f"the model cannot be run in tiles: {block} {('rows', 'columns')[axis]} of pixels change its likelihoods over "
        f"all of {blocks * block} (its reach is global, as with attention over the whole picture or coding in sequence)"
    )


def _touched(adapter: ModelAdapter, x: Tensor, forward_kwargs: dict[str, Any], axis: int, x_hat: bool) -> Tensor:
    """Return the first pixels along an axis of the cells that are not a number."""
    try:
        with torch.no_grad():
            output, likelihoods = adapter.run(x, forward_kwargs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "the model cannot be run in tiles: what its likelihoods depend on cannot be measured, since it does not "
            f"run on pixels that are not a number ({type(error).__name__}: {error})"
        ) from error
    found = [(p, adapter.strides[name][axis]) for name, p in likelihoods.items()]
    if x_hat and is_image(output.get("x_hat"), x):
        found.append((output["x_hat"], 1))
    unknown = [(p[0].isnan().any(dim=-1 - axis).view(-1, p.shape[axis - 2]).any(dim=0), stride) for p, stride in found]
    touched = torch.cat([cells.nonzero()[:, 0] * stride for cells, stride in unknown])
    if not len(touched):
        raise ValueError("the model cannot be run in tiles: its likelihoods do not depend on its image")
    return touched


def is_image(x_hat: Any, x: Tensor) -> bool:
    """Tell whether that is an image of the size of ``x``."""
    return isinstance(x_hat, Tensor) and x_hat.dim() == 4 and x_hat.shape[-2:] == x.shape[-2:]


def run_tile(
    adapter: ModelAdapter,
    image: ImageSource,
    tiling: Tiling,
    rows: Span,
    columns: Span,
    forward_kwargs: dict[str, Any],
    device: torch.device,
    *,
    x_hat: bool = False,
    sources: bool = True,
) -> Tile:
    """Run one tile, given the span of its rows and that of its columns; with true values where ``sources`` allows."""
    crop = adapter.canvas(image.height, image.width)[1]
    begin = rows[0], columns[0]
    x = adapter.padding.read(image.crop, begin, tiling.window, crop).to(device)
    arguments = adapter.window_arguments(forward_kwargs, begin, tiling.window, crop)
    with torch.no_grad():
        check_range(x, "picture")
        output, likelihoods = adapter.run(x, arguments, fused=sources)
        values, known = true_values(likelihoods)
        cells = sum_cells(values, adapter.unit)
        kept = {name: _inside(bits, rows, columns, adapter.strides[name]) for name, bits in cells.items()}
        whole = output.get("x_hat") if x_hat else None
        part = _inside(whole, rows, columns, (1, 1)) if is_image(whole, x) else None
    return Tile((rows[1], columns[1], rows[2] - rows[1], columns[2] - columns[1]), kept, tuple(known), part)


def _inside(values: Any, rows: Span, columns: Span, stride: Size) -> Any:
    """Return what belongs to a tile's inside of values ``[..., h, w]`` of its window."""
    (top, bottom), (left, right) = (
        ((first - begin) // step, (last - begin) // step)
        for (begin, first, last), step in zip((rows, columns), stride, strict=True)
    )
    return values[..., top:bottom, left:right]
