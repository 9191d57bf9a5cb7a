"""Files of maps that are written strip by strip: BigTIFF, npz, and what is averaged for pictures of people's size."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from .models import require

Strips = Iterator[Mapping[str, np.ndarray]]  # of each map the next rows, [rows, W]; "map" among them

FORMATS = ("npz", "tiff")
TILE = 256  # side of the tiles of a TIFF file, pixels
LONG_SIDE = 4096  # of reduced pictures, at most, pixels
DATE = (1980, 1, 1, 0, 0, 0)  # of a zip file's members: equal maps give equal files


@contextlib.contextmanager
def all_or_none(targets: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """Files to write to, which take the targets' names once the block has ended well; otherwise nothing is left."""
    partial = [target.with_name(f".{target.name}.{os.getpid()}.partial") for target in targets]
    try:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(path.open("w+b")) for path in partial]
        for target in targets:
            if target.is_dir():
                raise IsADirectoryError(f"{target} is a folder")
        for path, target in zip(partial, targets, strict=True):
            path.replace(target)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def format_of(path: Path) -> str:
    """The format of a file of maps, by its ending.

    Raises:
        ValueError: another one.
    """
    found = {".npz": "npz", ".tif": "tiff", ".tiff": "tiff"}.get(path.suffix.lower())
    if found is None:
        raise ValueError(f"output must end in .npz, .tif or .tiff, got {str(path)!r}")
    return found


def write_tiff(file: IO[bytes], strips: Strips, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """The map alone, ``[H, W]``, uncompressed, in tiles of 256 x 256 pixels.

    Raises:
        ImportError: tifffile is not installed.
    """
    tifffile = require("tifffile", extra="tiff")

    def tiles() -> Iterator[np.ndarray]:
        for rows in _rows_of(TILE, (strip["map"] for strip in strips)):
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


def _rows_of(count: int, strips: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows, so many at a time; the last have what is left."""
    held: list[np.ndarray] = []
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
    """An npz file of maps ``[H, W]`` and a text; maps besides the first wait in files without a name beside it."""

    def __init__(self, file: IO[bytes], folder: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._folder, self._shape, self._dtype = folder, shape, dtype

    def write(self, strips: Strips) -> None:
        """All maps."""
        others: dict[str, IO[bytes]] = {}
        with contextlib.ExitStack() as stack:
            with self._member("map") as member:
                for strip in strips:
                    for name, rows in strip.items():
                        if name != "map" and name not in others:
                            others[name] = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
                        _write_rows(member if name == "map" else others[name], rows)
            for name, file in others.items():
                file.seek(0)
                with self._member(name) as member:
                    shutil.copyfileobj(file, member, 1 << 20)

    def finish(self, metadata: str) -> None:
        """The text, and the end of the file."""
        with self._zip.open(zipfile.ZipInfo("metadata.npy", DATE), "w") as member:
            np.lib.format.write_array(member, np.array(metadata))
        self._zip.close()

    def close(self) -> None:
        """Nothing after ``finish``; before it, the end of a file that nobody wants."""
        with contextlib.suppress(OSError, ValueError):
            self._zip.close()

    def _member(self, name: str) -> IO[bytes]:
        member = self._zip.open(zipfile.ZipInfo(f"{name}.npy", DATE), "w", force_zip64=True)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(member, header)
        return member


def _write_rows(file: IO[bytes], rows: np.ndarray) -> None:
    file.write(np.ascontiguousarray(rows).data)


def reduced_size(shape: tuple[int, ...], long_side: int = LONG_SIDE) -> tuple[int, tuple[int, int]]:
    """The side of the squares of pixels that are averaged, and (h, w) of what results."""
    factor = -(-max(shape) // long_side)
    return factor, (-(-shape[0] // factor), -(-shape[1] // factor))


class Reduced:
    """A picture that comes in strips, averaged over squares of pixels so that no side is longer than ``long_side``.

    Squares at the right and lower border average the pixels that they have.

    Args:
        shape: (H, W), pixels.
        channels: of strips ``[rows, W, channels]``; 0 for strips ``[rows, W]``.
    """

    def __init__(self, shape: tuple[int, ...], channels: int = 0, long_side: int = LONG_SIDE) -> None:
        self.factor, reduced = reduced_size(shape, long_side)
        self._width = shape[1]
        size = (*reduced, *([channels] if channels else []))
        self.pixels = np.zeros(size, np.float32)
        self._sums = np.zeros(size[1:])  # of the rows of the present squares
        self._row = 0

    def add(self, strip: np.ndarray) -> None:
        """The next rows."""
        starts = np.arange(0, self._width, self.factor)
        while len(strip):
            part = strip[: self.factor - self._row % self.factor]
            strip = strip[len(part) :]
            self._sums += np.add.reduceat(part.sum(axis=0, dtype=np.float64), starts, axis=0)
            self._row += len(part)
            self._settle()

    def _settle(self) -> None:
        """What the present squares hold so far, as a mean."""
        at = (self._row - 1) // self.factor
        rows = self._row - at * self.factor
        columns = np.diff(np.append(np.arange(0, self._width, self.factor), self._width))
        self.pixels[at] = self._sums / (rows * columns).reshape(-1, *[1] * (self.pixels.ndim - 2))
        if rows == self.factor:
            self._sums[:] = 0
