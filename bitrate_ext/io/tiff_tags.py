"""TIFF files that Pillow does not read, or would read wrongly: why, from their tags."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT = 258, 259, 262, 339
WHITE_IS_ZERO, UNSIGNED = 0, 1
OTHERWISE = "convert it, to PNG for instance"
ADVICE = "convert it to 8 bits a channel, or to PNG, of which 16 are read"
_COMPRESSIONS = {34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}
_OPTIONAL_CODECS = ("lzma", "zstd", "webp")  # of libtiff; Pillow's names


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
