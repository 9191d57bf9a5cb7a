"""The projection that follows a decoder: each latent's bits go where its synthesis transform paints with it.

A kernel over pixels, the same for every cell, as a short sum of separable terms. How it is measured is in
``calibration.py``.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import open_all_or_none
from ..choices import RECEPTIVE_FIELD
from ..io.files import shown
from ..ops.projection import Projection, Reach
from .guide import Guide

Rows = tuple[NDArray[np.int64], NDArray[np.float64]]  # first cell [pixels] and weights [taps, pixels] of each pixel

FORMAT = 1  # of saved files


@dataclass(frozen=True, eq=False)
class Term:
    """One separable part of a kernel."""

    share: float  # of a cell's bits
    vertical: NDArray[np.float64]  # float64 [bottom - top + 1], not negative, adds up to one
    horizontal: NDArray[np.float64]  # float64 [right - left + 1]


class ReceptiveField(Projection):
    """Bits of cell ``i`` spread over the pixels ``stride * i + reach`` with a measured kernel.

    At the image's border the outermost cell stands for the ones that are missing beyond it, as interpolation repeats
    it: there the decoder has to paint with that cell alone what elsewhere several share. Then each cell's weights are
    divided by their sum, as those of every projection. With ``conserve=False`` each pixel's are, so that constant bits
    give a constant map.

    Needs ``stride`` pixels a cell: a canvas of ``size = cells * stride``, of which ``crop`` takes the image.

    Example:
        >>> field.save(folder / "field.npz")
        >>> field = bitrate_ext.ReceptiveField.load(folder / "field.npz")
        >>> bitrate_ext.BitrateMapper(model, projection={"y": field, "z": "nearest"})(x).map.shape
        torch.Size([1, 1, 64, 64])
    """

    name = RECEPTIVE_FIELD
    guide: Guide | None

    def __init__(
        self,
        stride: tuple[int, int],
        reach: Reach,
        kernel: Sequence[Term],
        *,
        latent: str = "y",
        fit: Mapping[str, float] | None = None,
        origin: str = "",
        guide: Guide | None = None,
    ) -> None:
        """Build a projection of a kernel.

        Args:
            stride: pixels per cell, (vertical, horizontal).
            reach: the kernel's ends relative to pixel ``stride * i``.
            kernel: its terms; their shares add up to one.
            latent: whose kernel it is.
            fit: how good it is; see ``calibrate``.
            origin: how it was found, in words.
            guide: what maps of ``projection="guided"`` follow; see ``calibrate``.

        Raises:
            ValueError: sizes that do not go together, negative weights.
        """
        self.stride, self.reach, self.latent = stride, reach, latent
        self.fit, self.origin, self.guide = dict(fit or {}), origin, guide
        lengths = [last - first + 1 for first, last in reach]
        total = sum(term.share for term in kernel)
        if not kernel or not np.isclose(total, 1.0, rtol=0, atol=1e-9):
            raise ValueError(
                f"kernel must have terms whose shares add up to 1, got {len(kernel)} that add up to {total:g}"
            )
        normal = []
        for term in kernel:
            parts = []
            for name, length in zip(("vertical", "horizontal"), lengths, strict=True):
                part = np.asarray(getattr(term, name), dtype=np.float64)
                if part.shape != (length,) or not (part >= 0).all() or not 0 < part.sum() < np.inf or term.share < 0:
                    raise ValueError(f"kernel must have {length} {name} weights, not negative and not all zero")
                parts.append(part / part.sum())
            normal.append(Term(term.share / total, parts[0], parts[1]))
        self.kernel = tuple(normal)
        self._terms = tuple(_SeparableTerm(self, term) for term in self.kernel)

    @property
    def terms(self) -> tuple[Projection, ...]:
        return self._terms

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the reach relative to pixel ``stride * i``, (vertical, horizontal), pixels."""
        return tuple((first + last) / 2 for first, last in self.reach)  # type: ignore[return-value]

    @property
    def centroid(self) -> tuple[float, float]:
        """Mean position of a cell's bits relative to pixel ``stride * i``; training may move it off the center."""
        return self._moment(1)[0], self._moment(1)[1]

    @property
    def spread(self) -> tuple[float, float]:
        """Standard deviation of the position of a cell's bits, pixels."""
        first, second = self._moment(1), self._moment(2)
        return tuple(float(np.sqrt(max(b - a * a, 0.0))) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]

    def _moment(self, power: int) -> list[float]:
        moments = []
        for axis, (first, last) in zip(("vertical", "horizontal"), self.reach, strict=True):
            position = np.arange(first, last + 1, dtype=np.float64) ** power
            moments.append(float(sum(t.share * (getattr(t, axis) @ position) for t in self.kernel)))
        return moments

    def dense(self) -> NDArray[np.float64]:
        """Return the kernel, float64 ``[bottom - top + 1, right - left + 1]``; it adds up to one."""
        terms = [t.share * np.outer(t.vertical, t.horizontal) for t in self.kernel]
        return np.asarray(np.sum(terms, axis=0), dtype=np.float64)

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Rows:
        raise TypeError("a receptive field has rows for each of its terms and axes: projection.terms[0].along(0)")

    def save(self, file: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write it to a small file, which ``ReceptiveField.load`` reads; one of that name is replaced in one step."""
        if isinstance(file, (str, os.PathLike)):
            with open_all_or_none([Path(file)]) as (opened,):
                self._write(opened)
        else:
            self._write(file)

    def _write(self, file: IO[bytes]) -> None:
        about = {
            "format": FORMAT,
            "latent": self.latent,
            "stride": self.stride,
            "reach": self.reach,
            "shares": [term.share for term in self.kernel],
            "fit": self.fit,
            "origin": self.origin,
        }
        guide = {}
        if self.guide is not None:
            guide = {"guide": np.array(self.guide.weights), "phases": self.guide.phases}
        np.savez(
            file,
            **guide,
            about=np.array(json.dumps(about)),
            vertical=np.stack([term.vertical for term in self.kernel]),
            horizontal=np.stack([term.horizontal for term in self.kernel]),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str] | IO[bytes]) -> ReceptiveField:
        """Read what ``save`` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged, or another kind of file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                about: dict[str, Any] = json.loads(str(file["about"]))
                if about["format"] != FORMAT:
                    raise ValueError(f"of format {about['format']}, this version reads {FORMAT}")
                (top, bottom), (left, right) = ((int(a), int(b)) for a, b in about["reach"])
                parts = zip(about["shares"], file["vertical"], file["horizontal"], strict=True)
                guide = Guide.of_arrays(file["guide"], file["phases"]) if "guide" in file else None
                return cls(
                    (int(about["stride"][0]), int(about["stride"][1])),
                    ((top, bottom), (left, right)),
                    [Term(float(share), vertical, horizontal) for share, vertical, horizontal in parts],
                    latent=str(about["latent"]),
                    fit={str(key): float(value) for key, value in about["fit"].items()},
                    origin=str(about["origin"]),
                    guide=guide,
                )
        except FileNotFoundError:
            raise
        except (
            OSError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
            zipfile.BadZipFile,
        ) as error:
            name = shown(path) if isinstance(path, (str, os.PathLike)) else "it"
            raise ValueError(f"{name} is no saved receptive field, or is damaged: {error}") from error

    def __repr__(self) -> str:
        (top, bottom), (left, right) = self.reach
        return f"<ReceptiveField of {self.latent!r}: stride {self.stride}, reach [{top}, {bottom}] x [{left}, {right}]>"


class _SeparableTerm(Projection):
    def __init__(self, field: ReceptiveField, term: Term) -> None:
        self.name, self.share = field.name, term.share
        self._axes = (
            _AxisKernel(field, field.stride[0], field.reach[0][0], term.vertical, term.share),
            _AxisKernel(field, field.stride[1], field.reach[1][0], term.horizontal, 1.0),
        )

    def along(self, axis: int) -> Projection:
        return self._axes[axis]

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Rows:
        raise TypeError("a term of a receptive field has rows for each of its axes: term.along(0)")


class _AxisKernel(Projection):
    """A kernel along one axis: cell ``i`` weighs ``kernel[k]`` at pixel ``stride * i + first + k``."""

    def __init__(
        self, field: ReceptiveField, stride: int, first: int, kernel: NDArray[np.float64], share: float
    ) -> None:
        self.name, self.share = field.name, share
        self._stride, self._first, self._kernel, self._latent = stride, first, kernel, field.latent

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Rows:
        stride, first, kernel = self._stride, self._first, self._kernel
        if pixels != cells * stride:
            raise ValueError(
                f"the receptive field of latent {self._latent!r} was measured at {stride} pixels a cell, and {cells} "
                f"cells were to be laid over {pixels} pixels: give the size of the padded image, {cells * stride} "
                "pixels along this axis, and crop=(top, left, height, width)"
            )
        pixel = np.arange(pixels)
        lowest = -(-(pixel - first - len(kernel) + 1) // stride)  # the first cell, maybe beyond the border, to reach it
        taps = min(-(-len(kernel) // stride), cells)
        start = np.clip(lowest, 0, cells - taps)
        weight = np.zeros((taps, pixels))
        for step in range(-(-len(kernel) // stride)):
            offset = pixel - stride * (lowest + step) - first
            inside = (offset >= 0) & (offset < len(kernel))
            cell = np.clip(lowest + step, 0, cells - 1)  # beyond the border: the outermost
            np.add.at(weight, ((cell - start)[inside], pixel[inside]), kernel[offset[inside]])
        if not conserve:
            weight /= np.maximum(weight.sum(axis=0), np.finfo(np.float64).tiny)
        return start, weight


def follow_kernel(on_grid: ReceptiveField, painted: ReceptiveField) -> ReceptiveField:
    """Return a kernel over the cells of another latent, followed with that one's kernel to pixels."""
    stride = tuple(a * b for a, b in zip(on_grid.stride, painted.stride, strict=True))
    reach = tuple(
        (step * first + low, step * last + high)
        for (first, last), step, (low, high) in zip(on_grid.reach, painted.stride, painted.reach, strict=True)
    )

    def along(name: str, step: int, cells: Term, pixels: Term) -> NDArray[np.float64]:
        spaced = np.zeros(step * (len(getattr(cells, name)) - 1) + 1)
        spaced[::step] = getattr(cells, name)
        return np.convolve(spaced, getattr(pixels, name))

    kernel = [
        Term(
            cells.share * pixels.share,
            along("vertical", painted.stride[0], cells, pixels),
            along("horizontal", painted.stride[1], cells, pixels),
        )
        for cells in on_grid.kernel
        for pixels in painted.kernel
    ]
    return ReceptiveField(
        (stride[0], stride[1]),
        (reach[0], reach[1]),
        kernel,
        latent=on_grid.latent,
        fit=on_grid.fit,
        origin=f"{on_grid.origin}, onto {painted.latent!r}; {painted.origin}",
        guide=painted.guide,
    )
