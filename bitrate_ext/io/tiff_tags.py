"""TIFF files that Pillow does not read, or would read wrongly: why, from their tags."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT = 258, 259, 262, 339
WHITE_IS_ZERO, UNSIGNED = 0, 1
OTHERWISE = "convert it, to PNG for instance"
ADVICE = "convert it to 8 bits a channel, or to PNG, of which 16 are read"
_COMPRESSIONS = {34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}
_OPTIONAL_CODECS = ("lzma", "zstd", "webp")  # of libtiff; Pillow's names


class _Hush:
    """The process's second file descriptor, turned away while somebody asks for it."""

    def __init__(self) -> None:
        self._lock, self._asking, self._kept = threading.Lock(), 0, -1

    def begin(self) -> None:
        with self._lock:
            self._asking += 1
            if self._asking == 1:
                with contextlib.suppress(OSError):  # there is none
                    self._kept = os.dup(2)
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, 2)
                    os.close(nowhere)

    def end(self) -> None:
        with self._lock:
            self._asking -= 1
            if not self._asking and self._kept >= 0:
                os.dup2(self._kept, 2)
                os.close(self._kept)
                self._kept = -1


_HUSH = _Hush()


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep from the terminal what libtiff writes there by itself, past Python, and what its callers log of tags."""
    loggers = [logging.getLogger(name) for name in ("PIL.TiffImagePlugin", "tifffile")]
    silence = logging.Filter("nothing of")
    for logger in loggers:
        logger.addFilter(silence)
    _HUSH.begin()
    try:
        yield
    finally:
        _HUSH.end()
        for logger in loggers:
            logger.removeFilter(silence)


def why_unread_tiff(tags: Mapping[int, Any], plain_grey: bool = False) -> str | None:
    """Say what a sound TIFF file has that is not read; None where nothing of it is known to be."""
    compression = tags.get(COMPRESSION, 1)
    if not _decompresses(compression):
        kind = _COMPRESSIONS.get(compression, "other")
        return f"is a TIFF file of {kind} compression ({compression}), which is not read here; {OTHERWISE}"
    depths = set(tags.get(BITS_PER_SAMPLE, (1,)))
    if set(tags.get(SAMPLE_FORMAT, (UNSIGNED,))) != {UNSIGNED}:
        return "has floating-point or signed samples; convert it to 8 bits a channel"
    if max(depths) > 8 and not (depths == {16} and plain_grey):
        return f"has {' and '.join(map(str, sorted(depths)))} bits a channel; {ADVICE}"
    return None


def _decompresses(compression: int) -> bool:
    """Tell whether Pillow has a decoder for TIFF's number of a compression."""
    from PIL import Image
    from PIL.TiffImagePlugin import COMPRESSION_INFO

    codec = COMPRESSION_INFO.get(compression)
    if codec not in _OPTIONAL_CODECS:
        return codec is not None
    try:  # what it can write it can read
        Image.new("RGB", (16, 16)).save(io.BytesIO(), "TIFF", compression=codec)
    except Exception:
        return False
    return True


def tags_of(path: Path) -> Mapping[int, Any]:
    """Return the tags of a TIFF file's first page; none where they are damaged."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        with path.open("rb") as file:
            header = file.read(8)
            tags = ImageFileDirectory_v2(header + (file.read(8) if b"+" in header[2:4] else b""))
            file.seek(tags.next)
            tags.load(file)
            return dict(tags)
    except Exception:
        return {}
