"""Projections as pairs of bands: how the bits of one latent cell spread over the pixels of the image.

A separable projection of a cell grid ``S [h, w]`` onto pixels is ``R @ S @ C.T``, where ``R [H, h]`` and ``C [W, w]``
are banded: each pixel reads a few adjacent cells. A band is built once, in float64, and cached; the native kernels and
the reference apply bands and know nothing of how they came to be.

With ``conserve=True`` every column of a band sums to one over the canvas, so that no bit is lost or made, at any size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from .. import choices
from .band import Band, Floats, Integers, band_of

Rows = tuple[Integers, Floats]  # the first cell of each pixel, [pixels], and weights, [taps, pixels]
Reach = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), pixels, both ends included

_numbers = count(1)
_living: WeakValueDictionary[str, Projection] = WeakValueDictionary()


class Projection(ABC):
    """How a latent grid is laid over an image, one axis at a time.

    Subclasses give the unnormalised rows; conservation, cropping, caching and transposition are common to all.

    Example:
        >>> class Whole(bitrate_ext.Projection):
        ...     name = "whole"  # a row of cells spread evenly over all pixels
        ...     def rows(self, cells, pixels, cells_per_pixel, conserve):
        ...         return numpy.zeros(pixels, int), numpy.ones((cells, pixels))
        >>> bits = bitrate_ext.bitrate_map(torch.full((1, 1, 2, 2), 0.5), (8, 8), projection=Whole())
        >>> float(bits.min()), float(bits.max())
        (0.0625, 0.0625)
    """

    name: str
    key: str  # stands for the object in operator arguments; see `find_projection`
    share: float = 1.0  # of a cell's bits that this projection lays out, as one of several terms
    guide: Callable[[Tensor], Tensor] | None = None  # what makes the guide of maps from a picture, where one was fitted

    @property
    def terms(self) -> tuple[Projection, ...]:
        """Separable projections that add up to this one; their shares add up to one."""
        return (self,)

    def along(self, axis: int) -> Projection:
        """Return the projection that gives the rows of one axis: 0 vertical, 1 horizontal."""
        return self

    def __new__(cls, *_: Any, **__: Any) -> Projection:
        self = super().__new__(cls)
        self.key = f"{cls.__name__}#{next(_numbers)}"
        _living[self.key] = self
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "key"}  # a copy keeps its own

    @abstractmethod
    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Rows:
        """Return the first cell int64 ``[pixels]`` and weights float64 ``[taps, pixels]`` of each pixel of a canvas.

        ``cells_per_pixel`` is ``cells / pixels``, or the inverse of the caller's scale factor. With ``conserve`` the
        columns are normalised afterwards, so only their shape matters, but every cell must reach some pixel.
        """

    def __repr__(self) -> str:
        return f"<Projection {self.name}>"


def _transposed_rows(start: Integers, weight: Floats, cells: int) -> Rows:
    band = band_of(start, weight, cells).transposed()
    return band.start.numpy().astype(np.int64), band.weight.numpy()


class _Nearest(Projection):
    """Every bit of a cell spread evenly over the cell's own square of pixels."""

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Rows:
        pixel = np.arange(pixels)
        if conserve and pixels < cells:  # each cell gives all its bits to one pixel
            return _transposed_rows(*self.rows(pixels, cells, pixels / cells, True), pixels)
        if conserve or pixels in (cells, 2 * cells):
            return pixel * cells // pixels, np.ones((1, pixels))
        # PyTorch counts in float32, but for these two factors: it decides where a pixel begins right on a cell's edge.
        start = np.floor(pixel.astype(np.float32) * np.float32(cells_per_pixel)).astype(np.int64)
        return np.minimum(start, cells - 1), np.ones((1, pixels))


class _Bilinear(Projection):
    """Linear interpolation between cell centres (half-pixel centres, the border cell repeated), as in PyTorch."""

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Rows:
        if conserve and pixels < cells:  # each cell splits its bits linearly between its two nearest pixels
            return _transposed_rows(*self.rows(pixels, cells, pixels / cells, True), pixels)
        pixel = np.arange(pixels)
        if conserve:  # in steps of half a pixel, whole numbers: a weight that should be zero is zero
            step = 2 * pixels
            low, part = np.divmod(np.clip((2 * pixel + 1) * cells - pixels, 0, step * (cells - 1)), step)
        else:
            step = 1
            if pixels == cells:  # PyTorch copies, whatever the scale factor
                cells_per_pixel = 1.0
            centre = np.maximum((pixel + 0.5) * cells_per_pixel - 0.5, 0.0)
            low = np.minimum(np.floor(centre).astype(np.int64), cells - 1)
            part = np.clip(centre - low, 0.0, 1.0)
        high = np.minimum(low + 1, cells - 1)
        taps = min(2, cells)
        start = np.minimum(low, cells - taps)
        weight = np.zeros((taps, pixels))
        np.add.at(weight, (low - start, pixel), (step - part) / step)
        np.add.at(weight, (high - start, pixel), part / step)
        return start, weight


class _Area(Projection):
    """Bits follow the area that a cell and a pixel share; ``conserve=False`` is PyTorch's adaptive average."""

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Rows:
        pixel = np.arange(pixels)
        first = pixel * cells // pixels
        last = -(-(pixel + 1) * cells // pixels)  # one past the end
        taps = int((last - first).max(initial=1))
        start = np.minimum(first, cells - taps)
        cell = start + np.arange(taps)[:, None]
        # Overlap of pixel [p, p+1) with cell [c, c+1) on a common grid of cells * pixels steps: whole numbers, exact.
        overlap = np.minimum((pixel + 1) * cells, (cell + 1) * pixels) - np.maximum(pixel * cells, cell * pixels)
        overlap = np.maximum(overlap, 0)
        if conserve:
            return start, overlap.astype(np.float64)
        return start, (overlap > 0) / (last - first)


PROJECTIONS: dict[str, Projection] = dict(zip(choices.PROJECTIONS, (_Nearest(), _Bilinear(), _Area()), strict=True))
for _name, _built_in in PROJECTIONS.items():
    _built_in.name = _built_in.key = _name  # the key, too, so that exported programs name it in words
    _living[_built_in.key] = _built_in


def get_projection(projection: str | Projection) -> Projection:
    """Return the projection of that name, or the object itself.

    Raises:
        ValueError: unknown name.
        TypeError: neither a name nor a ``Projection``.
    """
    if isinstance(projection, str):
        try:
            return PROJECTIONS[projection]
        except KeyError:
            known = ", ".join(repr(name) for name in PROJECTIONS)
            raise ValueError(f"projection must be one of {known} or a Projection, got {projection!r}") from None
    if isinstance(projection, Projection):
        return projection
    raise TypeError(f"projection must be a name or a Projection, got {type(projection).__name__}")


def choose_projections(
    projection: str | Projection | Mapping[str, str | Projection], latents: Iterable[str]
) -> dict[str, Projection]:
    """Return the projection of each latent: one for all, or those that a dict names.

    Raises:
        ValueError: the dict names one of the latents not, or a name is unknown.
        TypeError: something is neither a name nor a ``Projection``.
    """
    if not isinstance(projection, Mapping):
        return dict.fromkeys(latents, get_projection(projection))
    names = list(latents)
    missing = [name for name in names if name not in projection]
    if missing:
        known = ", ".join(map(repr, projection)) or "none"
        raise ValueError(
            f"projection must name each of the latents, {', '.join(map(repr, names))}; {missing[0]!r} is missing, it "
            f"names {known}"
        )
    return {name: get_projection(projection[name]) for name in names}


def find_projection(key: str) -> Projection:
    """Return the living projection of that key.

    Raises:
        ValueError: there is none, as when an exported program holds a projection of another process.
    """
    try:
        return _living[key]
    except KeyError:
        raise ValueError(f"there is no projection {key!r} in this process, or it was deleted") from None


@dataclass(frozen=True)
class Axis:
    """Where one axis of a latent grid lies: ``cells`` cover ``canvas`` pixels, of which a window is wanted.

    ``scale`` (pixels per cell) is zero where it follows from the sizes. It is only set with ``conserve`` off, to follow
    ``torch.nn.functional.interpolate``, which counts in the caller's scale factor.
    """

    cells: int
    canvas: int
    origin: int
    pixels: int
    conserve: bool = True
    scale: float = 0.0


def _canvas_rows(projection: Projection, axis: Axis) -> Rows:
    """Return the canvas's rows, scaled to bits: columns that sum to the share, or PyTorch's values over the scale."""
    if axis.cells == 0 or axis.canvas == 0:
        return np.zeros(axis.canvas, dtype=np.int64), np.zeros((0, axis.canvas))
    cells_per_pixel = 1.0 / axis.scale if axis.scale else axis.cells / axis.canvas
    start, weight = projection.rows(axis.cells, axis.canvas, cells_per_pixel, axis.conserve)
    if not axis.conserve:
        return start, weight * (cells_per_pixel * projection.share)
    cell = start + np.arange(weight.shape[0])[:, None]
    column = np.bincount(cell.ravel(), weights=weight.ravel(), minlength=axis.cells)
    if not (column > 0).all():
        lost = int(np.argmin(column > 0))
        raise ValueError(f"projection {projection.name!r} gives the bits of cell {lost} of {axis.cells} to no pixel")
    return start, weight / column[cell] * projection.share


@lru_cache(maxsize=256)
def axis_band(projection: Projection, axis: Axis, device: torch.device) -> Band:
    """Return the band of one axis, from a cache; only the window's rows are kept."""
    start, weight = _canvas_rows(projection, axis)
    window = slice(axis.origin, axis.origin + axis.pixels)
    return band_of(start[window], weight[:, window], axis.cells).to(device)


@lru_cache(maxsize=256)
def transposed_axis_band(projection: Projection, axis: Axis, device: torch.device) -> Band:
    """Return the transposed band of one axis, from a cache."""
    return axis_band(projection, axis, torch.device("cpu")).transposed().to(device)


def outside_share(projection: Projection, axis: Axis) -> Tensor:
    """Return the part of each cell's bits that falls outside the window, float64 ``[cells]``."""
    start, weight = _canvas_rows(projection, axis)
    outside = np.ones(axis.canvas, dtype=bool)
    outside[axis.origin : axis.origin + axis.pixels] = False
    cell = (start + np.arange(weight.shape[0])[:, None])[:, outside]
    share = np.bincount(cell.ravel(), weights=weight[:, outside].ravel(), minlength=axis.cells)
    return torch.from_numpy(share.astype(np.float64))
