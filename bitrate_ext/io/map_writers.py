"""Files of maps that are written strip by strip: BigTIFF and npz."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..optional import require

Strips = Iterator[Mapping[str, NDArray[Any]]]  # of each map the next rows, [rows, W]; "map" among them

TILE = 256  # side of the tiles of a TIFF file, pixels
_npy: Any = np.lib.format  # its functions have no types
DATE = (1980, 1, 1, 0, 0, 0)  # of a zip file's members: equal maps give equal files


def format_of(path: Path) -> str:
    """Return the format of a file of maps, by its ending.

    Raises:
        ValueError: another one.
    """
    found = {".npz": "npz", ".tif": "tiff", ".tiff": "tiff"}.get(path.suffix.lower())
    if found is None:
        raise ValueError(f"output must end in .npz, .tif or .tiff, got {str(path)!r}")
    return found


def write_tiff(file: IO[bytes], strips: Strips, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Write the map alone, ``[H, W]``, uncompressed, in tiles of 256 x 256 pixels.

    Raises:
        ImportError: tifffile is not installed.
    """
    tifffile = require("tifffile")

    def tiles() -> Iterator[NDArray[Any]]:
        for rows in regroup_rows(TILE, (strip["map"] for strip in strips)):
            for left in range(0, shape[1], TILE):
                tile = np.zeros((TILE, TILE), dtype)
                part = rows[:, left : left + TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    with tifffile.TiffWriter(file, bigtiff=True) as tiff:
        tiff.write(
            tiles(),
            shape=shape,
            dtype=dtype,
            tile=(TILE, TILE),
            photometric="minisblack",
            description="bits per pixel",
            metadata=None,
        )


def regroup_rows(count: int, strips: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yield the same rows, so many at a time; the last have what is left."""
    held: list[NDArray[Any]] = []
    for strip in strips:
        while strip.shape[0]:
            room = count - sum(len(part) for part in held)
            held.append(strip[:room].copy())
            strip = strip[room:]
            if sum(len(part) for part in held) == count:
                yield np.concatenate(held)
                held = []
    if held:
        yield np.concatenate(held)


class NpzWriter:
    """An npz file of maps ``[H, W]`` and small arrays; maps but the first wait in files without a name beside it."""

    def __init__(self, file: IO[bytes], folder: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._folder, self._shape, self._dtype = folder, shape, dtype

    def write(self, strips: Strips) -> None:
        """Write all maps."""
        others: dict[str, IO[bytes]] = {}
        with contextlib.ExitStack() as stack:
            with self._member("map") as member:
                for strip in strips:
                    for name, rows in strip.items():
                        if name != "map" and name not in others:
                            others[name] = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
                        (member if name == "map" else others[name]).write(np.ascontiguousarray(rows).data)
            for name, file in others.items():
                file.seek(0)
                with self._member(name) as member:
                    shutil.copyfileobj(file, member, 1 << 20)

    def finish(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the small arrays, deflated, and the end of the file."""
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            with self._zip.open(member, "w") as file:
                _npy.write_array(file, array, allow_pickle=False)
        self._zip.close()

    def close(self) -> None:
        """End a file that nobody wants; after ``finish`` there is nothing to do."""
        with contextlib.suppress(OSError, ValueError):
            self._zip.close()

    def _member(self, name: str) -> IO[bytes]:
        member = self._zip.open(zipfile.ZipInfo(f"{name}.npy", DATE), "w", force_zip64=True)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": self._shape}
        _npy.write_array_header_1_0(member, header)
        return member
