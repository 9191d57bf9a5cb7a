"""What regions of a picture cost: bits by latent and channel, their share, their PSNR, and what crossed the border."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..models.padding import Size
from .quality import to_decibels
from .tables import csv_table, latex_table, text_table

Floats = NDArray[np.float64]
Box = Sequence[int]  # x, y, width, height, pixels
Names = str | Sequence[str] | Mapping[int, str] | None
MOST_BOXES = 62  # of one table: a bit each of a whole number
MOST_COUNTED = 1 << 16  # from the lowest to the highest label
REST, MASK = "rest", "mask"


@dataclass(frozen=True, eq=False)
class Areas:
    """Named regions of a picture as groups of pixels that do not overlap; regions may share groups."""

    names: tuple[str, ...]
    groups: NDArray[np.int64]  # [H * W], the group of each pixel
    member: NDArray[np.bool_]  # [regions + 2, groups]: which are of a region, of none, and of the picture

    @classmethod
    def of(cls, names: Sequence[str], groups: NDArray[Any], member: NDArray[np.bool_]) -> Areas:
        """Make them of one row of groups for each name; rows of one name become one region."""
        known = tuple(dict.fromkeys(names))
        rows = [member[[name == one for name in names]].any(axis=0) for one in known]
        return cls(known, groups, np.stack([*rows, ~member.any(axis=0), np.ones_like(member[0])]))

    def sums(self, values: Tensor | Floats) -> Floats:
        """Return sums of values ``[H, W]`` over each region, the rest and the picture, float64 ``[regions + 2]``."""
        flat = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
        found = np.bincount(self.groups, weights=flat.ravel(), minlength=self.member.shape[1])
        sums: Floats = np.where(self.member, found, 0.0).sum(axis=1)
        return sums


Where = Areas | Box | Sequence[Box] | Tensor | NDArray[Any]


def areas_of(where: Where, size: Size, names: Names = None) -> Areas:
    """Read what a user calls regions; see ``PictureBits.region``."""
    if isinstance(where, Areas):
        return where
    if isinstance(where, Tensor):
        where = where.detach().cpu().numpy()
    if not isinstance(where, np.ndarray):
        return _boxed(where, size, names)
    if where.shape != size:
        raise ValueError(f"regions must be [H, W] = {list(size)} like the picture, got {list(where.shape)}")
    if where.dtype == np.bool_:
        if not where.any():
            raise ValueError("the mask is empty: no pixel of it is set")
        return Areas.of(_names(names, [MASK]), where.reshape(-1).astype(np.int64), np.array([[False, True]]))
    if where.dtype.kind not in "iu":
        raise ValueError(f"regions must be a mask of bool or labels of whole numbers, got {where.dtype}")
    return _labelled(where, names)


def _boxed(where: Any, size: Size, names: Names) -> Areas:
    if isinstance(where, str) or not isinstance(where, Sequence):
        raise ValueError(f"regions must be a box, several boxes, a mask or labels, got {type(where).__name__}")
    boxes = [where] if len(where) and not isinstance(where[0], Sequence) else list(where)
    if not 1 <= len(boxes) <= MOST_BOXES:
        raise ValueError(f"boxes must be 1 to {MOST_BOXES} at a time, got {len(boxes)}")
    codes = np.zeros(size, dtype=np.int64)
    for number, box in enumerate(boxes):
        whole = len(box) == 4 and all(isinstance(one, (int, np.integer)) for one in box)
        if not whole or not (0 <= box[0] < box[0] + box[2] <= size[1] and 0 <= box[1] < box[1] + box[3] <= size[0]):
            raise ValueError(
                "box must be (x, y, width, height) in whole pixels, not empty and inside of the picture of "
                f"{size[1]} x {size[0]}, got {tuple(box)}"
            )
        x, y, width, height = box
        codes[y : y + height, x : x + width] |= 1 << number
    present, groups = _grouped(codes)
    member = (present >> np.arange(len(boxes))[:, None]) & 1 > 0
    return Areas.of(_names(names, [",".join(map(str, box)) for box in boxes]), groups, member)


def _grouped(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the values that there are, in order, and for each pixel the number of its own; few need no sorting."""
    low, high = int(values.min()), int(values.max())
    if high - low > MOST_COUNTED:
        present, groups = np.unique(values, return_inverse=True)
        return present, groups.reshape(-1)
    above = values.reshape(-1).astype(np.int64) - low
    found = np.bincount(above) > 0
    return np.flatnonzero(found) + low, (np.cumsum(found) - 1)[above]


def _names(names: Names, default: list[str]) -> list[str]:
    given = default if names is None else [names] if isinstance(names, str) else list(names)
    if len(given) != len(default) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"names must be a text for each of {len(default)} regions, got {names!r}")
    return [str(one) for one in given]


def _labelled(labels: NDArray[Any], names: Names) -> Areas:
    if names is not None and not isinstance(names, Mapping):
        names = dict(enumerate(_names(names, [""] * len(names))))
    present, groups = _grouped(labels)
    found: dict[int, str] = {}
    for group, label in enumerate(map(int, present)):
        if names is not None and label in names:
            found[group] = str(names[label])
        elif label > 0:
            if names is not None:
                known = ", ".join(map(str, names)) or "none"
                raise ValueError(f"names must name every label above 0, and label {label} has none; named are {known}")
            found[group] = str(label)
    if not found:
        raise ValueError("the labels are empty: all are 0, which is the rest, or below")
    return Areas.of(list(found.values()), groups, np.arange(len(present)) == np.array(list(found))[:, None])


@dataclass(frozen=True)
class Region:
    """What one region costs, of one picture or of several together."""

    name: str
    pixels: int
    bits: float  # that lie on its pixels
    own_bits: float  # that would, were each cell's bits on its own square of pixels: the projection moved the others
    latents: Mapping[str, float]  # the bits that lie on its pixels, by latent
    squared_error: float | None = None  # summed over its pixels, mean over colours; None where it is not known
    channels: Mapping[str, Floats] = field(default_factory=dict)  # on request: [C], the bits by channel
    of_pixels: int = 0  # pixels of the whole picture
    of_bits: float = 0.0  # bits on them

    @property
    def share(self) -> float:
        """Part of the picture's bits; those in the padding, and those that lie on no pixel, do not count."""
        return self.bits / self.of_bits if self.of_bits else math.nan

    @property
    def pixel_share(self) -> float:
        """Part of the picture's pixels."""
        return self.pixels / self.of_pixels

    @property
    def density(self) -> float:
        """Share of the bits over share of the pixels: above 1 a pixel costs more than the picture's mean."""
        return self.share / self.pixel_share

    @property
    def bpp(self) -> float:
        """Bits per pixel of the region."""
        return self.bits / self.pixels

    @property
    def moved_bits(self) -> float:
        """Bits that the projection moved over the border, into the region; negative out of it."""
        return self.bits - self.own_bits

    @property
    def psnr_db(self) -> float | None:
        """PSNR inside of it, dB; None where it is exact or not known."""
        return None if self.squared_error is None else to_decibels(self.squared_error / self.pixels)

    def row(self) -> dict[str, Any]:
        """Return all of it for a table or JSON; numbers that are not finite are None."""
        known = ("bits", "share", "pixel_share", "density", "bpp", "psnr_db", "own_bits", "moved_bits")
        numbers = {one: _finite(getattr(self, one)) for one in known}
        found: dict[str, Any] = {"name": self.name, "pixels": self.pixels, **numbers}
        found["latents"] = {name: _finite(bits) for name, bits in self.latents.items()}
        if self.channels:
            found["channels"] = {name: [_finite(one) for one in bits.tolist()] for name, bits in self.channels.items()}
        return found


@dataclass(frozen=True)
class RegionTable:
    """What regions of a picture cost, or of several pictures together.

    ``regions``, ``rest``, ``padding_bits`` and ``elsewhere_bits`` add up to ``total_bits``, but for what overlapping
    boxes share.
    """

    regions: tuple[Region, ...]
    rest: Region | None  # the pixels of no region; None where there are none
    padding_bits: float  # that fall outside of the picture
    elsewhere_bits: float  # that lie on no pixel
    total_bits: float
    pictures: int = 1

    def __getitem__(self, name: str) -> Region:
        """Return the region of that name."""
        for one in self.rows:
            if one.name == name:
                return one
        raise KeyError(f"no region {name!r}; there are {', '.join(repr(one.name) for one in self.rows)}")

    @property
    def rows(self) -> list[Region]:
        """The regions, and the rest as the last."""
        return [*self.regions, *([] if self.rest is None else [self.rest])]

    def record(self) -> dict[str, Any]:
        """Return all of it for JSON; numbers that are not finite are None."""
        sums = {one: _finite(getattr(self, one)) for one in ("padding_bits", "elsewhere_bits", "total_bits")}
        return {"rows": [one.row() for one in self.rows], **sums, "pictures": self.pictures}

    def csv(self) -> str:
        """Return a line for each region, with a head; ``bits.y`` are those of latent y, ``bits.y.17`` of a channel."""
        lines = []
        for one in (region.row() for region in self.rows):
            channels = one.pop("channels", {})
            one |= {f"bits.{name}": bits for name, bits in one.pop("latents").items()}
            one |= {f"bits.{name}.{number}": bits for name, of in channels.items() for number, bits in enumerate(of)}
            lines.append(one)
        return csv_table(lines)

    def latex(self) -> str:
        """Return a ``tabular`` for papers, which needs the package booktabs."""
        return latex_table(*self._cells())

    def __str__(self) -> str:
        return text_table(*self._cells())

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        latents = list(self.rows[0].latents)
        head = ["region", "pixels", "bits", "% of bits", "% of pixels", "ratio", "bpp", "PSNR", "moved", *latents]
        forms = [",.0f", ",.1f", ".1f", ".1f", ".2f", ".3f", ".2f", "+,.1f", *[",.1f"] * len(latents)]
        body = []
        for one in self.rows:
            values = [one.pixels, one.bits, 100 * one.share, 100 * one.pixel_share, one.density, one.bpp, one.psnr_db]
            values += [round(one.moved_bits, 1) + 0.0, *(one.latents.get(name, 0.0) for name in latents)]
            cells = ["-" if v is None or math.isnan(v) else format(v, f) for v, f in zip(values, forms, strict=True)]
            body.append([one.name, *cells])
        return head, body


def measure(
    areas: Areas,
    maps: Iterable[tuple[str, Tensor]],
    own_maps: Iterable[Tensor],
    channels_of: Callable[[NDArray[np.bool_]], Mapping[str, Floats]] | None = None,
    *,
    squared_error: Tensor | None = None,
    padding_bits: float = 0.0,
    elsewhere_bits: float = 0.0,
) -> RegionTable:
    """Measure regions of a picture.

    Args:
        areas: the regions.
        maps: of each latent its name and float64 ``[H, W]``, bits per pixel, made one after the other.
        own_maps: the same with each cell's bits on its own square, without names.
        channels_of: what gives, for a mask bool ``[H * W]``, its bits by channel of each latent that has them.
        squared_error: ``[H, W]``, mean over colours.
        padding_bits: outside of the picture.
        elsewhere_bits: on no pixel.
    """
    latents = {name: areas.sums(one) for name, one in maps}
    bits, own = np.sum(list(latents.values()), axis=0), np.sum([areas.sums(one) for one in own_maps], axis=0)
    pixels = np.bincount(areas.groups, minlength=areas.member.shape[1])
    errors = None if squared_error is None else areas.sums(squared_error)
    rows = [
        Region(
            name,
            pixels=int(pixels[member].sum()),
            bits=float(bits[number]),
            own_bits=float(own[number]),
            latents={latent: float(sums[number]) for latent, sums in latents.items()},
            squared_error=None if errors is None else float(errors[number]),
            channels={} if channels_of is None else channels_of(member[areas.groups]),
            of_pixels=areas.groups.size,
            of_bits=float(bits[-1]),
        )
        for number, (name, member) in enumerate(zip([*areas.names, REST], areas.member, strict=False))
        if member.any()
    ]
    rest = rows.pop() if areas.member[-2].any() else None
    return RegionTable(tuple(rows), rest, padding_bits, elsewhere_bits, float(bits[-1]) + padding_bits + elsewhere_bits)


def add_up(tables: Iterable[RegionTable]) -> RegionTable:
    """Return what regions of one name cost in several pictures together; shares are those of all these pictures."""
    tables = list(tables)
    rows: dict[str, Region] = {}
    rests: dict[str, Region] = {}
    for table in tables:
        for found, region in [*((rows, one) for one in table.regions), *((rests, one) for one in [table.rest] if one)]:
            found[region.name] = _together(found[region.name], region) if region.name in found else region
    every = [one.rows[0] for one in tables]
    whole = {"of_pixels": sum(one.of_pixels for one in every), "of_bits": sum(one.of_bits for one in every)}
    done = [tuple(replace(one, **whole) for one in found.values()) for found in (rows, rests)]  # type: ignore[arg-type]
    return RegionTable(
        done[0],
        done[1][0] if done[1] else None,
        sum(one.padding_bits for one in tables),
        sum(one.elsewhere_bits for one in tables),
        sum(one.total_bits for one in tables),
        sum(one.pictures for one in tables),
    )


def _together(one: Region, other: Region) -> Region:
    errors = (one.squared_error, other.squared_error)
    return replace(
        one,
        pixels=one.pixels + other.pixels,
        bits=one.bits + other.bits,
        own_bits=one.own_bits + other.own_bits,
        latents=_add(one.latents, other.latents),
        squared_error=None if errors[0] is None or errors[1] is None else errors[0] + errors[1],
        channels=_add(one.channels, other.channels),
    )


def _add(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
