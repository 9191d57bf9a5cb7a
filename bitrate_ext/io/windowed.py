"""Pictures of any size, read window by window.

A TIFF file that is uncompressed or deflated is read in parts, straight from the file. Of other formats the whole
picture is decoded once, to the bytes that Pillow keeps, if the limit admits it; windows become floating point one at a
time. They hold what ``load_image`` gives for the whole file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .images import (
    ImageError,
    check_declared,
    check_file,
    check_pixels,
    open_checked,
    pillow_without_limit,
    shown_pixels,
    upright,
)

if TYPE_CHECKING:
    from PIL import Image

RAW, DEFLATED = (1,), (8, 32946)  # TIFF's numbers of compressions
_DIFFERENCES = 2  # TIFF's horizontal predictor
_KINDS = ((1, 1, ()), (2, 3, ()), (2, 4, (2,)))  # (photometric, samples, extra samples): grey, colour, with opacity
_ORIENTATION, _XMP = 274, 700
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Picture(Protocol):
    """A picture of ``height`` x ``width`` pixels."""

    height: int
    width: int

    def window(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Its pixels, floating-point ``[1, C, height, width]`` in [0, 1]."""

    def buffered(self, rows: int) -> int:
        """Bytes that stay in memory between windows of so many rows, besides those that are there already."""


class TensorPicture:
    """A picture that is a tensor ``[1, C, H, W]`` or ``[C, H, W]``: floating point in [0, 1], or uint8.

    It may lie in a memory-mapped file, by ``torch.from_numpy``.
    """

    def __init__(self, pixels: Tensor) -> None:
        if pixels.dim() == 3:
            pixels = pixels[None]
        if pixels.dim() != 4 or pixels.shape[0] != 1 or 0 in pixels.shape:
            raise ValueError(f"picture must be a tensor [1, C, H, W] or [C, H, W], got shape {list(pixels.shape)}")
        if not pixels.is_floating_point() and pixels.dtype != torch.uint8:
            raise TypeError(f"picture must be floating point in [0, 1] or uint8, got {pixels.dtype}")
        self._pixels = pixels
        self.height, self.width = pixels.shape[2:]

    def window(self, top: int, left: int, height: int, width: int) -> Tensor:
        part = self._pixels[:, :, top : top + height, left : left + width]
        return part if part.is_floating_point() else part.float() / 255

    def buffered(self, rows: int) -> int:
        return 0


class DecodedPicture:
    """A picture that Pillow has decoded; a part of it is converted as the whole would be.

    Args:
        image: decoded and upright.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.width, self.height = image.size

    def window(self, top: int, left: int, height: int, width: int) -> Tensor:
        with pillow_without_limit():
            part = self._image.crop((left, top, left + width, top + height))
        return _tensor(shown_pixels(part))

    def buffered(self, rows: int) -> int:
        return 0


class TiffPicture:
    """The first page of a TIFF file of 8 bits a sample, or of 16 in grey; strips or tiles, raw or deflated.

    Read with ``os.pread``: a mapped file that is cut short meanwhile would end the process.
    """

    def __init__(self, path: Path, page: Any, frames: int) -> None:
        self._path, self.frames = path, frames
        self.height, self.width = page.imagelength, page.imagewidth
        self.compression, self._predictor = int(page.compression), int(page.predictor)
        self._samples = page.samplesperpixel
        self._dtype = np.dtype(f"{page.parent.byteorder}u{page.bitspersample // 8}")
        self._tiled = page.is_tiled
        self._segment = (
            (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, self.height), self.width)
        )
        self._across = -(-self.width // self._segment[1])
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self._decoded: dict[int, np.ndarray] = {}  # segments of the rows of the last window
        count = self._across * -(-self.height // self._segment[0])
        if not len(self._offsets) == len(self._counts) == count:
            raise ImageError(
                f"{path}: the image is damaged or cut short ({len(self._offsets)} parts are listed, {count} needed)"
            )
        self._file = path.open("rb")

    def __enter__(self) -> TiffPicture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def _row_bytes(self) -> int:
        return self.width * self._samples * self._dtype.itemsize

    @property
    def least_bytes(self) -> int:
        """What one part takes, as it must be decoded as a whole."""
        return 0 if self._by_rows else self._segment_bytes

    @property
    def _segment_bytes(self) -> int:
        return self._segment[0] * self._segment[1] * self._samples * self._dtype.itemsize

    @property
    def _by_rows(self) -> bool:
        """Rows can be read from the file one by one."""
        return self.compression in RAW and not self._tiled

    def buffered(self, rows: int) -> int:
        if self._by_rows:
            return 0
        return self._row_bytes * min(self.height, rows + 2 * self._segment[0]) + 2 * self._segment_bytes

    def window(self, top: int, left: int, height: int, width: int) -> Tensor:
        read = self._read_rows if self._by_rows else self._read_segments
        try:
            pixels = read(top, left, height, width).astype(self._dtype.newbyteorder("="), copy=False)
        except (zlib.error, ValueError, OverflowError, OSError) as error:
            raise ImageError(f"{self._path}: the image is damaged or cut short ({error})") from error
        return _tensor(shown_pixels(_as_image(pixels)))

    def _read_rows(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        pixel = self._samples * self._dtype.itemsize
        found = np.empty((height, width, self._samples), self._dtype)
        for row in range(height):
            strip, inside = divmod(top + row, self._segment[0])
            offset = self._offsets[strip] + inside * self._row_bytes + left * pixel
            found[row] = self._part(offset, width * pixel).reshape(width, self._samples)
        return found

    def _read_segments(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        rows, columns = self._segment
        first, last = top // rows, (top + height - 1) // rows
        self._decoded = {i: s for i, s in self._decoded.items() if first <= i // self._across <= last}
        found = np.empty((height, width, self._samples), self._dtype)
        for down in range(first, last + 1):
            for across in range(left // columns, (left + width - 1) // columns + 1):
                index = down * self._across + across
                if index not in self._decoded:
                    self._decoded[index] = self._decode(index)
                y, x = down * rows - top, across * columns - left  # of the segment in the window
                part = self._decoded[index][max(0, -y) : height - y, max(0, -x) : width - x]
                at = max(0, y), max(0, x)
                found[at[0] : at[0] + part.shape[0], at[1] : at[1] + part.shape[1]] = part
        return found

    def _decode(self, index: int) -> np.ndarray:
        """One strip or tile, ``[rows, columns, samples]``."""
        rows, columns = self._segment
        if not self._tiled:  # the last strip has the rows that are left
            rows = min(rows, self.height - index * rows)
        needed = rows * columns * self._samples * self._dtype.itemsize
        offset, count = self._offsets[index], self._counts[index]
        if self.compression in RAW:
            values = self._part(offset, needed)
        else:
            inflated = zlib.decompressobj().decompress(self._bytes(offset, min(count, 2 * needed + 1024)), needed)
            if len(inflated) != needed:
                raise ValueError(f"part {index} has {len(inflated)} bytes, needs {needed}")
            values = np.frombuffer(inflated, self._dtype)
        values = values.reshape(rows, columns, self._samples)
        if self._predictor == _DIFFERENCES and self.compression not in RAW:
            values = np.cumsum(values, axis=1, dtype=self._dtype.newbyteorder("="))
        return values

    def _part(self, offset: int, count: int) -> np.ndarray:
        return np.frombuffer(self._bytes(offset, count), self._dtype)

    def _bytes(self, offset: int, count: int) -> bytes:
        file = self._file.fileno()
        if offset + count > os.fstat(file).st_size:  # before room is made for what is not there
            raise ValueError("it ends before its pixels do")
        return os.pread(file, count, offset)


@contextlib.contextmanager
def open_picture(path: str | os.PathLike[str], most_bytes: int | None = None) -> Iterator[Picture]:
    """A photograph to be read in windows.

    Args:
        path: as for ``load_image``.
        most_bytes: that the decoded picture, or one part of a file that is read in parts, may take; declared sizes are
            checked against it before anything is decoded. Default: Pillow's limit of pixels for what is compressed.

    Raises:
        ImageError: as ``load_image`` does; of a file that is read in parts also for a window, naming the file.
    """
    path = Path(path)
    check_file(path)
    tiff = _tiff_in_parts(path, most_bytes)
    if tiff is not None:
        with tiff:
            _warn_of_frames(path, tiff.frames)
            yield tiff
        return
    with open_checked(path, most_bytes) as image:
        frames = getattr(image, "n_frames", 1)
        picture = DecodedPicture(upright(path, image, most_bytes))
    _warn_of_frames(path, frames)
    yield picture


def declared_size(path: Path) -> tuple[int, int, bool]:
    """Height and width by the file's header, and whether it can be read without Pillow and is beyond Pillow's limit.

    Raises:
        ImageError: as ``open_picture``, before anything is decoded.
    """
    check_file(path)
    tiff = _tiff_in_parts(path, None)
    if tiff is None:
        with open_checked(path) as image:
            return image.height, image.width, False
    with tiff:
        try:
            check_pixels(path, tiff.width, tiff.height)
        except ImageError:
            return tiff.height, tiff.width, True
        return tiff.height, tiff.width, False


def _warn_of_frames(path: Path, frames: int) -> None:
    if frames > 1:
        warnings.warn(f"{path}: has {frames} frames or pages; only the first is read", UserWarning, stacklevel=5)


def _tiff_in_parts(path: Path, most_bytes: int | None) -> TiffPicture | None:
    """The file as a TIFF that can be read in parts; None for others, which are Pillow's to read or to refuse."""
    try:
        with path.open("rb") as file:
            is_tiff = file.read(4) in _TIFF_SIGNATURES
    except PermissionError:
        raise ImageError(f"{path}: no permission to read the file") from None
    if not is_tiff or find_spec("tifffile") is None:
        return None
    import tifffile

    logger = logging.getLogger("tifffile")
    silence = logging.Filter("nothing of")  # it remarks on damaged metadata
    logger.addFilter(silence)
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            if not _is_plain(page):
                return None
            picture = TiffPicture(path, page, len(tiff.pages))
    except ImageError:
        raise
    except Exception:  # of damaged tags anything; Pillow says what there is to say
        return None
    finally:
        logger.removeFilter(silence)
    try:
        if most_bytes is not None:
            check_declared(path, (picture.width, picture.height), picture.least_bytes, most_bytes)
        elif picture.compression not in RAW:
            check_pixels(path, picture.width, picture.height)
    except ImageError:
        picture.close()
        raise
    return picture


def _is_plain(page: Any) -> bool:
    """Whether a page holds what ``TiffPicture`` reads: upright, and without a palette, inks, planes or odd depths."""
    samples, bits = page.samplesperpixel, page.bitspersample
    if (page.photometric, samples, tuple(page.extrasamples)) not in _KINDS or page.planarconfig != 1:
        return False
    xmp = page.tags.get(_XMP)
    return (
        bits in ((8, 16) if samples == 1 else (8,))
        and page.sampleformat == 1
        and page.compression in (*RAW, *DEFLATED)
        and page.predictor in (1, _DIFFERENCES)
        and page.fillorder == 1
        and page.imagedepth == 1
        and page.tags.valueof(_ORIENTATION, 1) == 1
        and (xmp is None or b"Orientation" not in bytes(xmp.value))
        and min(page.imagelength, page.imagewidth) > 0
    )


def _as_image(pixels: np.ndarray) -> Image.Image:
    """A window ``[rows, columns, samples]`` as Pillow would have it."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def _tensor(pixels: np.ndarray) -> Tensor:
    """``[1, 3, H, W]`` of ``[H, W, 3]``."""
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).contiguous()
