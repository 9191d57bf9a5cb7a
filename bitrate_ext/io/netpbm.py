"""PBM, PGM and PPM files at their own depth: Pillow cuts those of more than eight bits in colour."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .pixels import Samples

_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})(?=\s)")
_HEADER = 1 << 16  # bytes; comments may be long
_LARGEST = 65535
_PLAIN, _BITS, _COLOUR = (1, 2, 3), (1, 4), (3, 6)  # of the six kinds


class NetpbmFile:
    """The first picture of a file whose header has been read.

    Args:
        path: of the file.

    Raises:
        ValueError: the header is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            start = file.read(_HEADER)
        self._kind = start[1] - ord("0")
        numbers, place = [], 2
        for name in ("width", "height", "largest value")[: 2 if self._kind in _BITS else 3]:
            token = _TOKEN.match(start, place)
            if token is None:
                raise ValueError(f"no {name} in its header")
            numbers.append(int(token[1]))
            place = token.end()
        self.width, self.height, self.largest = (*numbers, 1)[:3]
        self._place = place + 1
        self._channels = 3 if self._kind in _COLOUR else 1
        if not (self.width and self.height and 0 < self.largest <= _LARGEST):
            raise ValueError(f"{self.width} x {self.height} pixels up to a value of {self.largest}")

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height)."""
        return self.width, self.height

    @property
    def bits(self) -> int:
        """Return the bits of a sample."""
        return self.largest.bit_length()

    @property
    def decoding_bytes(self) -> int:
        """Return the most bytes that reading takes."""
        count = self.width * self.height * self._channels
        if self._kind in _PLAIN:
            return 8 * self._path.stat().st_size + 4 * count
        return (2 + self._stored.itemsize) * count

    @property
    def _stored(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.largest < 256 else ">u2")

    def read(self) -> tuple[Samples, bool]:
        """Return the samples, and whether the file goes on after them.

        Raises:
            ValueError: it is damaged or ends before its pixels do.
        """
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - self._place
            file.seek(self._place)
            read: Callable[[IO[bytes], int], NDArray[Any]] = self._plain if self._kind in _PLAIN else self._raw
            values = read(file, size)
            more = bool(file.read(1))
        if self._kind in _BITS:
            values = 1 - values  # 1 is black
        if values.size and int(values.max()) > self.largest:
            raise ValueError(f"a value of {values.max()} where {self.largest} is the largest")
        return Samples(values.reshape(self.height, self.width, self._channels), self.largest), more

    def _raw(self, file: IO[bytes], size: int) -> NDArray[Any]:
        row = -(-self.width // 8) if self._kind in _BITS else self.width * self._channels * self._stored.itemsize
        if size < row * self.height:
            raise ValueError(f"it holds {size // row:,} of {self.height:,} rows")
        data = np.frombuffer(file.read(row * self.height), np.uint8)
        if self._kind in _BITS:
            return np.unpackbits(data.reshape(self.height, row), axis=1, count=self.width)
        return data.view(self._stored).astype(self._stored.newbyteorder("="), copy=False)

    def _plain(self, file: IO[bytes], size: int) -> NDArray[Any]:
        count = self.width * self.height * self._channels
        apart = self._kind not in _BITS  # digits of bits may stand together
        if size < (2 * count - 1 if apart else count):
            raise ValueError(f"it is too short for {count:,} values")
        text = re.sub(rb"#[^\r\n]*", b"", file.read())
        if not apart:
            values = np.frombuffer(text.translate(None, b" \t\n\v\f\r"), np.uint8)[:count] - ord("0")
        else:
            numbers = re.match(rb"[\d\s]*", text)  # where there is something else, they end
            values = np.fromstring(numbers[0].decode() if numbers else "", np.int64, sep=" ")[:count]
        if values.size < count or values.min() < 0 or values.max() > self.largest:
            raise ValueError(f"{values.size:,} of {count:,} values can be read, up to {self.largest} being the largest")
        return values.astype(np.uint8 if self.largest < 256 else np.uint16)
