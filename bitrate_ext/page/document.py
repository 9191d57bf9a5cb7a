"""What a page is told: cells, bands and pictures as blobs of bytes, and a document of JSON that refers to them."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .._version import __version__
from ..cells.picture import CellGrid, PictureBits
from ..cells.quality import to_decibels
from ..cells.regions import Areas
from ..models.padding import Size
from ..ops.projection import Axis, axis_band
from ..optional import require
from ..viz.colormap import COLOURS, DIFFERENCES, colour_limit, colour_map, inside_rim

HALF, KEPT_BITS = np.uint32(0x80), np.uint32(0xFFFFFF00)  # of float32 rasters: a mantissa of 16 bits, rounded
LEVEL = 9
PACK = "first"  # the blob of all small arrays that a page opens with: a browser inflates one in less time than each
PACKED = 1 << 20  # bytes of an array in it, at most
WEBP_SIDE = 16383  # pixels, at most
PREVIEW_SIDE, PREVIEW_QUALITY = 1280, 80  # of the copy that larger photographs are seen by until they are decoded
_CPU = torch.device("cpu")


class Blobs:
    """Arrays and files that a page holds, each once: what is alike has one place."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.later: set[int] = set()  # that a page can open without: they come last in the file
        self._places: dict[bytes, int] = {}
        self._pack, self._starts = bytearray(), dict[bytes, int]()

    @property
    def first(self) -> str:
        """The blob of small arrays, as text."""
        return base64.b64encode(zlib.compress(self._pack, LEVEL)).decode()

    def add_bytes(self, content: bytes, *, later: bool = False) -> int:
        """Keep bytes as they are; return their place."""
        key = hashlib.sha256(content).digest()
        place = self._places.setdefault(key, len(self.texts))
        if place == len(self.texts):
            self.texts.append(base64.b64encode(content).decode())
            self.later |= {place}
        if not later:
            self.later.discard(place)
        return place

    def add(self, array: NDArray[Any], *, later: bool = False) -> dict[str, Any]:
        """Keep an array, deflated: first the lowest bytes of all numbers, then the next, which packs floats better."""
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        planes = little.view(np.uint8).reshape(-1, little.itemsize).T.tobytes()
        told = {"type": array.dtype.name, "shape": list(array.shape)}
        if later or len(planes) > PACKED:
            return {"blob": self.add_bytes(zlib.compress(planes, LEVEL), later=later), **told}
        start = self._starts.setdefault(hashlib.sha256(planes).digest(), len(self._pack))
        if start == len(self._pack):
            self._pack += planes
        return {"blob": PACK, "start": start, **told}

    def add_picture(self, picture: Tensor, *, later: bool = False, quality: int | None = None) -> int:
        """Keep a picture ``[1, C, H, W]`` in [0, 1], of many channels the first three: its 8 bits unchanged.

        With ``quality``, 1 to 100, it is kept with losses, which takes a tenth.

        Raises:
            ImportError: Pillow is missing.
        """
        wanted = picture.detach().cpu()[0, : 3 if picture.shape[1] >= 3 else 1]
        pixels = eight_bits(wanted).expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO()
        image = require("PIL.Image").fromarray(pixels)
        webp = max(pixels.shape) <= WEBP_SIDE and require("PIL.features").check("webp")
        if quality is not None:
            image.save(file, format="WEBP" if webp else "JPEG", quality=quality)
        elif webp:
            image.save(file, format="WEBP", lossless=True, method=2, quality=20)
        else:
            image.save(file, format="PNG")
        return self.add_bytes(file.getvalue(), later=later)


def eight_bits(picture: Tensor) -> Tensor:
    """Return a picture in [0, 1] as uint8, as files of pictures hold it."""
    return (picture.detach().clamp(0, 1) * 255).round().to(torch.uint8)


def page_document(
    inputs: Sequence[PictureBits],
    blobs: Blobs,
    *,
    channels: int | None,
    title: str,
    facts: Mapping[str, str],
    regions: Areas | None = None,
    quality: int | None = None,
    later: bool = False,
) -> dict[str, Any]:
    """Return what a page of one picture is told; see ``write_page``."""
    first = inputs[0]
    height, width = first.size
    picture = next((one.picture for one in inputs if one.picture is not None), None)
    return {
        "page": "picture",
        "title": title,
        "version": __version__,
        "facts": {str(name): str(value) for name, value in facts.items()},
        "width": width,
        "height": height,
        **_photograph(picture, blobs, quality=quality, later=later),
        "exact": quality is None,
        "palettes": None if later else palettes(),
        "inputs": [_input_document(one, blobs, channels, exact=quality is None, later=later) for one in inputs],
        "regions": None if regions is None else _region_document(regions, blobs, (height, width)),
    }


def _photograph(picture: Tensor | None, blobs: Blobs, *, quality: int | None, later: bool) -> dict[str, int | None]:
    """Return the place of the photograph and, of a large one without losses, that of a copy which is read before it."""
    if picture is None:
        return {"picture": None, "preview": None}
    height, width = picture.shape[2:]
    if quality is not None or height * width <= PREVIEW_SIDE**2:
        return {"picture": blobs.add_picture(picture, quality=quality, later=later), "preview": None}
    size = [max(1, round(side * min(1, PREVIEW_SIDE / max(height, width)))) for side in (height, width)]
    copy = F.interpolate(picture.detach().float().cpu(), size=size, mode="area")
    preview = blobs.add_picture(copy, quality=PREVIEW_QUALITY, later=later)
    return {"picture": blobs.add_picture(picture, later=True), "preview": preview}


def _region_document(areas: Areas, blobs: Blobs, size: Size) -> dict[str, Any]:
    """Return the group of each pixel, and of each region its groups."""
    groups = [np.flatnonzero(row).tolist() for row in areas.member[: len(areas.names)]]
    return {
        "groups": blobs.add(areas.groups.reshape(size).astype(np.int32), later=True),
        "named": [{"label": name, "groups": own} for name, own in zip(areas.names, groups, strict=True)],
    }


def palettes() -> dict[str, list[int]]:
    """Return red, green and blue of 256 colours, of bits and of differences."""
    names = {"bits": COLOURS, "differences": DIFFERENCES}
    return {what: colour_map(name)(np.arange(256), bytes=True)[:, :3].ravel().tolist() for what, name in names.items()}


def _input_document(
    one: PictureBits, blobs: Blobs, channels: int | None, *, exact: bool, later: bool
) -> dict[str, Any]:
    total = one.map().cpu().numpy()
    return {
        "name": one.name,
        "kind": one.kind,
        "canvas": one.canvas,
        "crop": one.crop,
        "total": finite(one.total_bits),
        "bpp": finite(one.bpp),
        "padding": finite(one.padding_bits),
        "elsewhere": {what: finite(bits) for what, bits in one.elsewhere.items()},
        "file_bytes": one.file_bytes,
        "closes": one.closes,
        "warnings": list(one.warnings),
        "limit": colour_limit(inside_rim(total, one.rim)),
        "psnr": page_psnr(one),
        "reconstruction": blobs.add_picture(one.reconstruction, later=True)
        if exact and one.reconstruction is not None
        else None,
        "latents": [_latent_document(one, name, blobs, channels, later=later) for name in one.grids],
    }


def page_psnr(one: PictureBits) -> float | None:
    """Return the PSNR in dB of what files of 8 bits hold, as the page counts it; None where exact or unknown."""
    if one.picture is None or one.reconstruction is None:
        return None
    apart = eight_bits(one.reconstruction).cpu().int() - eight_bits(one.picture).cpu().int()
    return to_decibels(float(apart.square().sum(dtype=torch.float64)) / (255**2 * apart.numel()))


def _latent_document(one: PictureBits, name: str, blobs: Blobs, channels: int | None, *, later: bool) -> dict[str, Any]:
    grid = one.grids[name]
    made: dict[str, Any] = {"name": name, "bits": finite(one.latent_bits[name]), "raster": None, "channels": None}
    cells = grid.bits.detach().double().cpu()
    are_pixels = tuple(cells.shape) == one.size == one.canvas
    if grid.guide is not None or are_pixels:
        raster = one.map(name).detach().cpu().numpy().astype(np.float32)
        made["raster"] = blobs.add(((raster.view(np.uint32) + HALF) & KEPT_BITS).view(np.float32), later=later)
    made["cells"] = None if are_pixels else blobs.add(cells.numpy(), later=later)
    made["grid"] = list(cells.shape)
    made["terms"] = [] if made["raster"] else _bands(one, grid, blobs)
    known = {what: of[name].detach().double().cpu() for what, of in one.beside.items() if name in of}
    made["beside"] = {
        what: {"cells": blobs.add(held.numpy(), later=True), "total": finite(float(held.sum()))}
        for what, held in known.items()
    }
    totals = one.channel_bits.get(name)
    if totals is not None:
        made["channels"] = _channel_document(totals, one.symbol_bits.get(name), blobs, channels)
    return made


def _bands(one: PictureBits, grid: CellGrid, blobs: Blobs) -> list[dict[str, Any]]:
    """Return R and C of each term, of the rows and the columns of pixels that the picture has."""
    terms = []
    for term in grid.projection.terms:
        bands: dict[str, Any] = {}
        for axis, name in enumerate(("rows", "columns")):
            where = Axis(grid.bits.shape[axis], one.canvas[axis], one.crop[axis], one.crop[2 + axis])
            band = axis_band(term.along(axis), where, _CPU)
            start, weight = band.start.numpy().astype(np.int32), band.weight.numpy()
            bands[name] = {"start": blobs.add(start), "weight": blobs.add(weight), "taps": band.taps}
        terms.append(bands)
    return terms


def _channel_document(totals: Tensor, cells: Tensor | None, blobs: Blobs, most: int | None) -> dict[str, Any]:
    """Return the bits of all channels, and the cells of the costliest, most first."""
    totals = totals.detach().double().cpu()
    order = totals.sort(descending=True, stable=True).indices[:most]
    held = (
        None if cells is None else blobs.add(cells[order.to(cells.device)].detach().float().cpu().numpy(), later=True)
    )
    return {"bits": [finite(bits) for bits in totals.tolist()], "numbers": order.tolist(), "cells": held}


def finite(value: float) -> float | None:
    """Return a number for JSON, which has neither infinity nor NaN: None in their place."""
    return value if math.isfinite(value) else None
