"""Raw video: how its frames are laid out, by what the caller says, by the name as codec research has them, by use."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from ..choices import RATES
from ..io.files import shown
from .source import USUAL_RATE, VideoError

SUFFIXES = (".yuv",)
_HEADERS = {  # where they begin, of containers that state their size themselves
    b"YUV4MPEG2": 0, b"ftyp": 4, b"\x1aE\xdf\xa3": 0, b"RIFF": 0, b"OggS": 0, b"FLV\x01": 0, b"DKIF": 0, b"GIF8": 0
}  # fmt: skip
_CHROMA = {"410": (4, 4), "411": (4, 1), "420": (2, 2), "422": (2, 1), "440": (1, 2), "444": (1, 1)}  # luma a sample
_PLANAR = re.compile(r"(?:(gray)|yuv(410|411|420|422|440|444)p)(?:(9|10|12|14|16)(le|be)?)?")
_OTHERS = {  # chroma and bytes of a sample
    "nv12": ("420", 1), "nv21": ("420", 1), "nv16": ("422", 1), "nv24": ("444", 1),
    "p010": ("420", 2), "p016": ("420", 2), "p210": ("422", 2), "p216": ("422", 2),
    "rgb24": ("444", 1), "bgr24": ("444", 1)
}  # fmt: skip
_NAMED_SIZES = {
    "sqcif": (128, 96), "qcif": (176, 144), "cif": (352, 288), "2cif": (704, 288), "4cif": (704, 576),
    "16cif": (1408, 1152), "qsif": (176, 120), "sif": (352, 240), "4sif": (704, 480), "vga": (640, 480),
    "720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440), "2160p": (3840, 2160), "4320p": (7680, 4320)
}  # fmt: skip
_USUAL_SIZES = (
    *((176, 144), (352, 288), (352, 240), (416, 240), (640, 360), (640, 480), (704, 576), (720, 480), (720, 576)),
    *((832, 480), (1024, 768), (1280, 720), (1920, 1080), (2560, 1440), (2560, 1600), (3840, 2160), (4096, 2160)),
    (7680, 4320),
)
_USUAL_FORMATS = ("yuv420p", "yuv420p10le", "yuv422p", "yuv422p10le", "yuv444p", "yuv444p10le", "gray", "gray10le")
_LOOKED_AT = 1 << 20  # bytes
_SIDE = 1 << 16  # pixels, at most


@dataclass(frozen=True)
class PixelFormat:
    """How the samples of a pixel lie. ``name`` is FFmpeg's."""

    name: str
    chroma: str  # "420" and so on; "400" is luma alone
    depth: int  # bits of a sample
    sample_bytes: int

    def frame_bytes(self, size: tuple[int, int]) -> int:
        """Return the bytes of a frame of width and height; chroma is rounded up."""
        width, height = size
        samples = width * height
        if self.chroma != "400":
            across, down = _CHROMA[self.chroma]
            samples += 2 * -(-width // across) * -(-height // down)
        return self.sample_bytes * samples


def pixel_format_of(name: str) -> PixelFormat:
    """Read FFmpeg's name of a pixel format of raw video; of two bytes the low one comes first where it does not say.

    Raises:
        ValueError: it is none that is read as raw video.
    """
    text = name.lower()
    planar = _PLANAR.fullmatch(text)
    if planar:
        grey, chroma, depth, order = planar.groups()
        full = f"{text}le" if depth and not order else text
        return PixelFormat(full, "400" if grey else chroma, int(depth or 8), 2 if depth else 1)
    plain = re.sub("(?<=^p...)(le|be)$", "", text)
    if plain in _OTHERS:
        chroma, size = _OTHERS[plain]
        return PixelFormat(f"{text}le" if size == 2 and plain == text else text, chroma, 8 * size, size)
    raise ValueError(
        "pixel_format must be yuv420p, yuv422p, yuv444p or gray, with 10le, 12le or 16le behind it for deeper samples, "
        f"or one of {', '.join(_OTHERS)}; got {name!r}"
    )


@dataclass(frozen=True)
class RawLayout:
    """What a header would say."""

    size: tuple[int, int]  # width, height
    format: PixelFormat
    rate: Fraction
    count: int  # whole frames in the file
    guessed: str | None  # which of it was not given
    warnings: list[str]

    @property
    def options(self) -> dict[str, str]:
        """Return FFmpeg's options."""
        width, height = self.size
        return {"video_size": f"{width}x{height}", "pixel_format": self.format.name}


@dataclass
class _Named:
    """What a name says; several where it contradicts itself."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    chromas: list[str] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    rates: list[Fraction] = field(default_factory=list)


def layout_of(
    path: Path,
    video: int,
    size: tuple[int, int] | None,
    pixel_format: str | None,
    rate: Fraction | None,
    max_pixels: int,
) -> RawLayout | None:
    """Find how the frames of a raw video are laid out; None where the file is another kind of video.

    It is raw by its name, unless it has a header, or where its size or pixel format is given.

    Args:
        path, video: its name and its descriptor.
        size, pixel_format, rate: where they are given; otherwise the name says it, or use.
        max_pixels: of a frame.

    Raises:
        ValueError: an argument out of range.
        VideoError: the size is not known; the file's length or samples do not go with the layout; the file has a header
            that states what is given.
    """
    head, asked = os.pread(video, 16, 0), size is not None or pixel_format is not None
    headed = any(head[at:].startswith(magic) for magic, at in _HEADERS.items())
    if asked and headed:
        raise VideoError(
            f"{shown(path)}: is no raw video, but has a header that states its layout; leave size and pixel_format out"
        )
    if headed or not (asked or path.suffix.lower() in SUFFIXES):
        if rate is None:
            return None
        raise VideoError(
            f"{shown(path)}: states its own times; rate is for raw video, with its size, and numbered images"
        )
    if size is not None and not (len(size) == 2 and all(isinstance(side, int) and 1 <= side <= _SIDE for side in size)):
        raise ValueError(f"size must be width and height, of 1 to {_SIDE:,} pixels, got {size!r}")
    given = None if pixel_format is None else pixel_format_of(pixel_format)
    named = _read_name(path.stem)
    length, start = os.fstat(video).st_size, os.pread(video, _LOOKED_AT, 0)
    sizes = named.sizes if size is None else [size]
    if not sizes:
        raise VideoError(
            f"{shown(path)}: raw video states no size, and its name none such as _1920x1080_; give size=(1920, 1080) "
            "(--size 1920x1080)"
        )
    formats = [given] if given is not None else _named_formats(named, start)
    possible = list(itertools.product(sizes, formats))
    if len(possible) > 1:
        fit = [one for one in possible if length % one[1].frame_bytes(one[0]) == 0]
        if len(fit) != 1:
            raise VideoError(
                f"{shown(path)}: the name can be read as {' and as '.join(_words(*one) for one in possible)}; choose "
                "with size and pixel_format (--size, --pixel-format)"
            )
        possible = fit
    ((chosen, form),) = possible
    if chosen[0] * chosen[1] > max_pixels:
        raise VideoError(f"{shown(path)}: frames of {chosen[0]} x {chosen[1]} are more than {max_pixels:,} pixels")
    _check_length(path, length, chosen, form)
    _check_samples(path, start, form)
    speed = rate or next(reversed(named.rates), USUAL_RATE)
    by_name = "by its name"
    guesses = [
        ("size", f"{chosen[0]} x {chosen[1]} {by_name}", size is None),
        (
            "pixel format",
            f"{form.name} {by_name if named.formats or named.chromas or named.depths else 'as is usual'}",
            given is None,
        ),
        ("rate", f"{float(speed):g} frames a second {by_name if named.rates else 'as is usual'}", rate is None),
    ]
    guessed = [(name, words) for name, words, is_guess in guesses if is_guess]
    told = (
        f"raw video is taken for {', '.join(words for _, words in guessed)}; --size, --pixel-format and --rate choose"
    )
    return RawLayout(
        size=chosen,
        format=form,
        rate=speed,
        count=length // form.frame_bytes(chosen),
        guessed=", ".join(name for name, _ in guessed) or None,
        warnings=[told] if guessed else [],
    )


def _words(size: tuple[int, int], form: PixelFormat) -> str:
    return f"{size[0]} x {size[1]} {form.name}"


def _check_length(path: Path, length: int, size: tuple[int, int], form: PixelFormat) -> None:
    """Refuse a file whose frames are others. One that no usual layout divides is cut short, as is said of it later."""
    frame = form.frame_bytes(size)
    if length % frame == 0:
        return
    others = [(size, pixel_format_of(name)) for name in _USUAL_FORMATS] + [(other, form) for other in _USUAL_SIZES]
    fit = [_words(*one) for one in others if length % one[1].frame_bytes(one[0]) == 0][:4]
    if fit or length < frame:
        would = f"; it has whole frames of {', '.join(fit)}" if fit else ""
        cut = f", or cut it to {length - length % frame:,} bytes" if length > frame else ""
        raise VideoError(
            f"{shown(path)}: its {length:,} bytes are {length / frame:.2f} frames of {_words(size, form)}, {frame:,} "
            f"bytes each{would}; choose with size and pixel_format (--size, --pixel-format){cut}"
        )


def _check_samples(path: Path, start: bytes, form: PixelFormat) -> None:
    """Refuse samples that are larger than their depth lets them be."""
    if form.depth % 8 == 0:
        return
    high = start[1::2] if form.name.endswith("le") else start[::2]
    if max(high, default=0) >= 1 << (form.depth - 8):
        raise VideoError(
            f"{shown(path)}: has samples larger than {form.name} can have ({(1 << form.depth) - 1:,}): it has 8 bits, "
            "or the other byte comes first; choose with pixel_format (--pixel-format)"
        )


def _named_formats(named: _Named, start: bytes) -> list[PixelFormat]:
    if named.formats:
        return [pixel_format_of(name) for name in dict.fromkeys(named.formats)]
    return [
        pixel_format_of(("gray" if chroma == "400" else f"yuv{chroma}p") + ("" if depth == 8 else f"{depth}le"))
        for chroma in dict.fromkeys(named.chromas or ["420"])
        for depth in dict.fromkeys(named.depths or [_looks_like(start)])
    ]


def _looks_like(start: bytes) -> int:
    """Return the depth that samples seem to have: deeper ones have small high bytes, which no 8-bit picture has."""
    high, low = max(start[1::2], default=0), max(start[::2], default=0)
    return next((depth for depth in (10, 12) if high < 1 << (depth - 8) and low >= 1 << (depth - 8)), 8)


_WORD = re.compile(r"(?<![a-z0-9.])(?:[0-9x]+p)?\d{1,3}\.\d+(?:fps|hz)?(?![a-z0-9])|[a-z0-9]+")
_SIZE = re.compile(r"(\d{2,5})x(\d{2,5})[pi]?(\d+(?:\.\d+)?)?")
_LABEL = re.compile(rf"({'|'.join(_NAMED_SIZES)})(\d+(?:\.\d+)?)?")
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:fps|hz)")
_BARE_RATE = re.compile(r"\d{1,3}(?:\.\d+)?")
_DEPTH = re.compile(r"(8|9|10|12|14|16)b(?:its?|pp|pc)?")
_CHROMA_WORD = re.compile(r"(?:yuv|ycbcr|p|i)?(400|420|422|444)(?:p(9|10|12|14|16)?(?:le)?)?")
_MOST_BARE = 240  # what is larger counts frames
_NTSC = {
    Fraction(text): Fraction(whole * 1000, 1001)
    for whole, texts in {24: "23.97 23.976 23.98 23976", 30: "29.97 2997", 60: "59.94 5994", 120: "119.88"}.items()
    for text in texts.split()
}


def _read_name(stem: str) -> _Named:
    """Read what a name says, word by word; a bare number is a rate where it follows the size."""
    joined = re.sub(r"(?<=\d)[ _-](bits?|fps|hz)(?![a-z0-9])", r"\1", stem.lower())
    named, after_size = _Named(), False
    for word in _WORD.findall(joined):
        size, label, chroma = _SIZE.fullmatch(word), _LABEL.fullmatch(word), _CHROMA_WORD.fullmatch(word)
        depth, rate = _DEPTH.fullmatch(word), _RATE.fullmatch(word)
        follows, after_size = after_size, False
        if size or label:
            sides = (int(size[1]), int(size[2])) if size else _NAMED_SIZES[label[1]] if label else (0, 0)
            number = size[3] if size else label[2] if label else None
            named.sizes += [sides] if all(sides) and sides not in named.sizes else []
            named.rates += _rate(number) if number else []
            after_size = number is None
        elif chroma:
            named.chromas.append(chroma[1])
            named.depths += [int(chroma[2])] if chroma[2] else []
        elif depth:
            named.depths.append(int(depth[1]))
        elif rate:
            named.rates += _rate(rate[1])
        elif follows and _BARE_RATE.fullmatch(word) and Fraction(word) <= _MOST_BARE:
            named.rates += _rate(word)
        elif word != "gray":  # which may be the colour of a cat
            named.formats += _known_format(word)
    return named


def _rate(number: str) -> list[Fraction]:
    rate = _NTSC.get(Fraction(number), Fraction(number))
    return [rate] if RATES[0] <= rate <= RATES[1] else []


def _known_format(word: str) -> list[str]:
    try:
        return [pixel_format_of(word).name]
    except ValueError:
        return []
