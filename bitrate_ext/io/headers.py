"""What picture files say of themselves before anything is decoded: their kind, and what Pillow does not tell of it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_SIGNATURES = (
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0")),
    ("BMP", re.compile(rb"BM")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("JPEG2000", re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n")),
    ("JXL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n")),
    ("AVIF", re.compile(rb"....ftyp(?:avi[fs]|(?:mi[fa][f12]|msf1)....(?:....)*?avi[fs])", re.DOTALL)),
    ("HEIF", re.compile(rb"....ftyp(?:he[iv][cxms]|mif[12]|msf1)", re.DOTALL)),
    ("PNM", re.compile(rb"P[1-6][\s#]")),
)
NAMES = {  # of kinds, in messages
    "PNG": "PNG",
    "JPEG": "JPEG",
    "WEBP": "WebP",
    "TIFF": "TIFF",
    "BMP": "BMP",
    "GIF": "GIF",
    "JPEG2000": "JPEG 2000",
    "JXL": "JPEG XL",
    "AVIF": "AVIF",
    "HEIF": "HEIC",
    "PNM": "PBM, PGM or PPM",
}
SNIFFED = 1 << 18  # bytes that are looked at
_RATIOS = ((1, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # of JPEG XL; the first is none


def kind_of(start: bytes) -> str | None:
    """Return the kind of picture, one of ``NAMES``, that a file's first bytes are those of; None for others."""
    return next((kind for kind, signature in _SIGNATURES if signature.match(start[:64])), None)


@dataclass(frozen=True)
class Stated:
    """What a header states: bits a sample, primaries and transfer by their numbers in ITU-T H.273, width and height."""

    bits: int = 8
    primaries: int | None = None
    transfer: int | None = None
    size: tuple[int, int] | None = None
    animated: bool = False


def stated(kind: str, start: bytes) -> Stated:
    """Read what Pillow does not tell.

    Raises:
        ValueError: a JPEG XL file without a size, whose plug-in decodes before it tells one.
    """
    if kind == "PNG":
        chunk = re.match(rb"(?:(?!IDAT).)*?cICP(..)", start[33:], re.DOTALL)
        primaries, transfer = chunk[1] if chunk else (None, None)
        return Stated(max(8, start[24]) if len(start) > 24 else 8, primaries, transfer)
    if kind in ("AVIF", "HEIF"):
        depth = re.search(rb"pixi\0{4}[\x01-\x04](.)", start, re.DOTALL)
        flags = re.search(rb"av1C..(.)", start, re.DOTALL)
        bits = depth[1][0] if depth else 8 + 2 * (flags[1][0] >> 6 & 1) + 2 * (flags[1][0] >> 5 & 1) if flags else 8
        colour = re.search(rb"colrnclx(....)", start, re.DOTALL)
        return Stated(bits, *(struct.unpack(">HH", colour[1]) if colour else (None, None)))
    if kind == "JPEG2000":
        sizes = re.search(rb"\xff\x4f\xff\x51.{36}(..)(.*)", start, re.DOTALL)
        components = sizes[2][: 3 * int.from_bytes(sizes[1], "big")] if sizes else b""
        return Stated(max([(one & 0x7F) + 1 for one in components[::3]], default=8))
    return _jpeg_xl(start) if kind == "JXL" else Stated()


class _Bits:
    """Numbers as JPEG XL packs them: from the lowest bit on."""

    def __init__(self, data: bytes) -> None:
        self._rest, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("it ends in its header")
        value = self._rest & ((1 << count) - 1)
        self._rest >>= count
        return value

    def choice(self, *ways: tuple[int, int]) -> int:
        """Take one of four: an offset, and how many bits are added to it."""
        offset, count = ways[self.take(2)]
        return offset + self.take(count)


def _jpeg_xl(start: bytes) -> Stated:
    """Read size and depth: ISO/IEC 18181-1, annexes A and D; boxes as in part 2."""
    bits = _Bits(_codestream(start)[2:80])
    size = _size(bits)
    if bits.take(1):  # all as usual
        return Stated(8, size=size)
    animated = False
    if bits.take(1):  # more
        bits.take(3)
        if bits.take(1):
            _size(bits)
        if bits.take(1):
            _preview(bits)
        animated = bool(bits.take(1))
        if animated:
            bits.choice((100, 0), (1000, 0), (1, 10), (1, 30))
            bits.choice((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.choice((0, 0), (0, 3), (0, 16), (0, 32))
            bits.take(1)
    floating = bits.take(1)
    ways = ((32, 0), (16, 0), (24, 0), (1, 6)) if floating else ((8, 0), (10, 0), (12, 0), (1, 6))
    return Stated(bits.choice(*ways), size=size, animated=animated)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.choice((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    times, over = _RATIOS[ratio]
    return (height * times // over if ratio else side()), height


def _preview(bits: _Bits) -> None:
    by_eight = bits.take(1)
    ways = ((16, 0), (32, 0), (1, 5), (33, 9)) if by_eight else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.choice(*ways)
    if not bits.take(3):
        bits.choice(*ways)


def _codestream(start: bytes) -> bytes:
    """Return where a JPEG XL file's pixels begin, in boxes or without."""
    if not start.startswith(b"\xff\x0a"):
        place = 0
        while place + 16 <= len(start):
            length, name = int.from_bytes(start[place : place + 4], "big"), start[place + 4 : place + 8]
            head = 16 if length == 1 else 8
            if name in (b"jxlc", b"jxlp"):
                start = start[place + head + (4 if name == b"jxlp" else 0) :]
                break
            place += max(head, int.from_bytes(start[place + 8 : place + 16], "big") if length == 1 else length)
    if not start.startswith(b"\xff\x0a"):
        raise ValueError("no pixels at its start")
    return start
