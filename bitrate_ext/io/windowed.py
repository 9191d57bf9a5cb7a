"""Images of any size, read crop by crop.

A TIFF file that is uncompressed or deflated is read in parts, straight from the file. Of other formats the whole image
is decoded once, to the bytes that Pillow keeps, if the limit admits it; crops become floating point one at a time. They
hold what ``load_image`` gives for the whole file.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, uint8

from ..checks import described, remedy
from .decoding import (
    ImageError,
    check_declared,
    check_file,
    check_pixels,
    lift_pixel_limit,
    open_checked,
    why_unread,
)
from .facts import PictureFacts, profile_of
from .files import shown
from .pixels import Samples, to_tensor
from .tiff_tags import hushed

if TYPE_CHECKING:
    from PIL import Image

_RAW, _DEFLATED = 1, (8, 32946)  # TIFF's numbers of compressions
_NO_PREDICTOR, _DIFFERENCES = 1, 2  # TIFF's numbers of predictors
_KINDS = ((1, 1, ()), (2, 3, ()), (2, 4, (2,)))  # (photometric, samples, extra samples): grey, colour, with opacity
_ORIENTATION, _XMP, _PROFILE = 274, 700, 34675
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class ImageSource(ABC):
    """An image of ``height`` x ``width`` pixels, and the facts of the file that it is from."""

    height: int
    width: int
    facts: PictureFacts

    @abstractmethod
    def crop(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Return pixels of it, floating-point ``[1, C, height, width]`` in [0, 1]."""

    def buffered(self, rows: int) -> int:
        """Return the bytes that stay in memory between crops of so many rows, besides those that are there already."""
        return 0


class TensorImage(ImageSource):
    """An image that is a tensor ``[1, C, H, W]`` or ``[C, H, W]``: floating point in [0, 1], or uint8.

    It may lie in a memory-mapped file, by ``torch.from_numpy``.
    """

    def __init__(self, pixels: Tensor) -> None:
        shape, known = pixels.shape, pixels.is_floating_point() or pixels.dtype == uint8
        if not known or len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[0] != 1):
            raise (ValueError if known else TypeError)(
                "picture must be a tensor [1, C, H, W] or [C, H, W], floating point in [0, 1] or uint8, got "
                f"{described(pixels)}{remedy(pixels, 'picture')}"
            )
        self._pixels = pixels if len(shape) == 4 else pixels[None]
        pixels = self._pixels
        self.height, self.width = pixels.shape[2:]
        self.facts = PictureFacts("tensor", "RGB" if pixels.shape[1] == 3 else f"{pixels.shape[1]} channels", 0, 0)

    def crop(self, top: int, left: int, height: int, width: int) -> Tensor:
        part = self._pixels[:, :, top : top + height, left : left + width]
        return part if part.is_floating_point() else part.float() / 255


class DecodedImage(ImageSource):
    """An image that is decoded; a part of it is converted as the whole would be.

    Args:
        image: decoded and upright.
        facts: of its file.
    """

    def __init__(self, image: Image.Image | Samples, facts: PictureFacts) -> None:
        self._image, self.facts = image, facts
        self.width, self.height = image.size

    def crop(self, top: int, left: int, height: int, width: int) -> Tensor:
        if (height, width) == (self.height, self.width):
            return to_tensor(self._image)
        with lift_pixel_limit():
            return to_tensor(self._image.crop((left, top, left + width, top + height)))


class TiffImage(ImageSource):
    """The first page of a TIFF file of 8 or 16 bits a sample; strips or tiles, raw or deflated.

    tifffile reads the tags and makes pixels of a strip or tile. What it cannot do within bounds is done here: parts are
    inflated to their declared size and no further (it inflates all that there is), rows of a raw strip are read alone
    (it reads whole strips, and many files have one), and the file is read with ``os.pread`` (a mapped file that is cut
    short meanwhile would end the process).
    """

    def __init__(self, path: Path, page: Any, frames: int) -> None:
        self.deflated = page.compression != _RAW
        self.height, self.width = page.imagelength, page.imagewidth
        self._path, self._page = path, page
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[page.samplesperpixel]
        name, shift = profile_of(page.tags.valueof(_PROFILE), mode)
        bits, transparent = page.bitspersample, None if page.samplesperpixel == 4 else False
        self.facts = PictureFacts(
            "TIFF", mode, bits, bits, frames=frames, transparent=transparent, profile=name, profile_shift=shift
        )
        self._pixel_bytes = page.samplesperpixel * page.bitspersample // 8
        self._by_rows = not (self.deflated or page.is_tiled)
        self._segment = (
            (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, self.height), self.width)
        )
        self._across = -(-self.width // self._segment[1])
        self._decoded: dict[int, NDArray[Any]] = {}  # segments of the rows of the last crop
        count = self._across * -(-self.height // self._segment[0])
        if not len(self._offsets) == len(self._counts) == count:
            raise ImageError(
                f"{shown(path)}: the image is damaged or cut short ({len(self._offsets)} parts are listed, "
                f"{count} needed)"
            )
        if not self.deflated:
            page.predictor = _NO_PREDICTOR  # nobody applies one to what is not compressed
        page.compression = _RAW  # what tifffile is given is inflated
        self._file = path.open("rb")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def least_bytes(self) -> int:
        """Bytes of a part that must be decoded as a whole."""
        return 0 if self._by_rows else self._segment_bytes

    @property
    def _segment_bytes(self) -> int:
        return int(self._segment[0] * self._segment[1] * self._pixel_bytes)

    def buffered(self, rows: int) -> int:
        if self._by_rows:
            return 0
        held_rows = min(self.height, rows + 2 * self._segment[0])
        return int(self.width * self._pixel_bytes * held_rows) + 2 * self._segment_bytes

    def crop(self, top: int, left: int, height: int, width: int) -> Tensor:
        from PIL import Image

        read = self._read_rows if self._by_rows else self._read_segments
        try:
            pixels = read(top, left, height, width)
        except (zlib.error, ValueError, OverflowError, OSError) as error:
            raise ImageError(f"{shown(self._path)}: {why_unread(error)}") from error
        if pixels.dtype != np.uint8:
            return to_tensor(Samples(pixels, 65535))
        return to_tensor(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))

    def _read_rows(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        found = self._room(height, width)
        stored = self._page.dtype.newbyteorder(self._page.parent.byteorder)
        for row in range(height):
            strip, inside = divmod(top + row, self._segment[0])
            offset = self._offsets[strip] + (inside * self.width + left) * self._pixel_bytes
            found[row] = np.frombuffer(self._bytes(offset, width * self._pixel_bytes), stored).reshape(width, -1)
        return found

    def _read_segments(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        rows, columns = self._segment
        first, last = top // rows, (top + height - 1) // rows
        decoded = {i: s for i, s in self._decoded.items() if first <= i // self._across <= last}
        found = self._room(height, width)
        for down in range(first, last + 1):
            for across in range(left // columns, (left + width - 1) // columns + 1):
                index = down * self._across + across
                if index not in decoded:
                    decoded[index] = self._decode(index)
                y, x = down * rows - top, across * columns - left  # of the segment in the crop
                part = decoded[index][max(0, -y) : height - y, max(0, -x) : width - x]
                at = max(0, y), max(0, x)
                found[at[0] : at[0] + part.shape[0], at[1] : at[1] + part.shape[1]] = part
        self._decoded = decoded
        return found

    def _room(self, height: int, width: int) -> NDArray[Any]:
        return np.empty((height, width, self._page.samplesperpixel), self._page.dtype)

    def _decode(self, index: int) -> NDArray[Any]:
        """Return one strip or tile, ``[rows, columns, samples]``."""
        needed = self._segment_bytes
        if not self._page.is_tiled:  # the last strip has the rows that are left
            needed = min(needed, (self.height - index * self._segment[0]) * self.width * self._pixel_bytes)
        offset, count = self._offsets[index], self._counts[index]
        if self.deflated:
            data = zlib.decompressobj().decompress(self._bytes(offset, min(count, 2 * needed + 1024)), needed)
            if len(data) != needed:
                raise ValueError(f"part {index} has {len(data)} bytes, needs {needed}")
        else:
            data = self._bytes(offset, needed)
        pixels: NDArray[Any] = self._page.decode(data, index)[0][0]
        return pixels

    def _bytes(self, offset: int, count: int) -> bytes:
        file = self._file.fileno()
        if offset + count > os.fstat(file).st_size:  # before room is made for what is not there
            raise ValueError("it ends before its pixels do")
        return os.pread(file, count, offset)


@contextlib.contextmanager
def open_image(path: str | os.PathLike[str], most_bytes: int | None = None) -> Iterator[ImageSource]:
    """Open an image to be read in crops.

    Args:
        path: as for ``load_image``.
        most_bytes: that the decoded image, or one part of a file that is read in parts, may take; declared sizes are
            checked against it before anything is decoded. Default: Pillow's limit of pixels for what is compressed.

    Raises:
        ImageError: as ``load_image`` does; of a file that is read in parts also for a crop, naming the file.
    """
    path = Path(path)
    check_file(path)
    tiff = _tiff_in_parts(path, most_bytes)
    if tiff is not None:
        with contextlib.closing(tiff):
            yield tiff
        return
    with open_checked(path, most_bytes) as file:
        decoded = DecodedImage(*file.decode(most_bytes))
    yield decoded


def declared_size(path: Path) -> tuple[int, int, bool]:
    """Return height and width by the file's header, and whether it is beyond Pillow's limit but needs no Pillow.

    Raises:
        ImageError: as ``open_image``, before anything is decoded.
    """
    check_file(path)
    tiff = _tiff_in_parts(path, None)
    if tiff is None:
        with open_checked(path) as image:
            return image.height, image.width, False
    with contextlib.closing(tiff):
        try:
            check_pixels(path, tiff.width, tiff.height)
        except ImageError:
            return tiff.height, tiff.width, True
        return tiff.height, tiff.width, False


def _tiff_in_parts(path: Path, most_bytes: int | None) -> TiffImage | None:
    """Open the file as a TIFF that can be read in parts; None for others, which are Pillow's to read or to refuse."""
    with path.open("rb") as file:
        is_tiff = file.read(4) in _TIFF_SIGNATURES
    if not is_tiff or find_spec("tifffile") is None or not hasattr(os, "pread"):
        return None
    import tifffile

    try:
        with hushed(), path.open("rb") as file, tifffile.TiffFile(file) as tiff:  # a name it would look for links in
            page = tiff.pages.first
            if not _is_plain(page):
                return None
            image = TiffImage(path, page, len(tiff.pages))
    except ImageError:
        raise
    except Exception:  # of damaged tags anything; Pillow says what there is to say
        return None
    try:
        if most_bytes is not None:
            check_declared(path, (image.width, image.height), image.least_bytes, most_bytes)
        elif image.deflated:
            check_pixels(path, image.width, image.height)
    except ImageError:
        image.close()
        raise
    return image


def _is_plain(page: Any) -> bool:
    """Tell whether a page is what ``TiffImage`` reads: upright, and without a palette, inks, planes or odd depths."""
    samples, bits = page.samplesperpixel, page.bitspersample
    if (page.photometric, samples, tuple(page.extrasamples)) not in _KINDS or page.planarconfig != 1:
        return False
    xmp = page.tags.get(_XMP)
    return (
        bits in (8, 16)
        and page.sampleformat == 1
        and page.compression in (_RAW, *_DEFLATED)
        and page.predictor in (_NO_PREDICTOR, _DIFFERENCES)
        and page.fillorder == 1
        and page.imagedepth == 1
        and page.tags.valueof(_ORIENTATION, 1) == 1
        and (xmp is None or b"Orientation" not in bytes(xmp.value))
        and min(page.imagelength, page.imagewidth) > 0
    )
