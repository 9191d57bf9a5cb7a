"""Numbered images as a video: named by a pattern, ``frame_%04d.png``, or by their folder, in order of their numbers."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

from ..io.files import shown, unusable
from .raw import layout_of
from .source import MAX_PIXELS, USUAL_RATE, Ended, VideoError, VideoFacts, VideoFrame

_PATTERN = re.compile(r"%(?:0(\d))?d")
_ENDINGS = {  # of images in a folder
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".heic", ".heif", ".jxl"),
}
_MOST_NAMED = 3  # files, in one message


def is_sequence(path: str | PathLike[str]) -> bool:
    """Tell whether a name is that of several images: a folder, or a pattern where no file has that very name."""
    text = os.fspath(path)
    if "\0" in text:
        return False
    return os.path.isdir(text) or (bool(_PATTERN.search(os.path.basename(text))) and not os.path.lexists(text))


def unusable_video(
    path: str | PathLike[str],
    size: tuple[int, int] | None = None,
    pixel_format: str | None = None,
    rate: Fraction | None = None,
) -> str | None:
    """Say why a name cannot be that of a video, raw video or numbered images; None where it can, as far as is seen.

    Args:
        path, size, pixel_format, rate: as ``VideoReader``.
    """
    if is_sequence(path):
        return _unusable_images(path)
    reason = unusable(path, "a video")
    if reason is None:
        try:
            with open(path, "rb") as video:
                layout_of(Path(path), video.fileno(), size, pixel_format, rate, MAX_PIXELS)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        except ValueError as error:
            return str(error).removeprefix(f"{shown(path)}: ")
    return reason


def _unusable_images(path: str | PathLike[str]) -> str | None:
    try:
        return None if _images_of(Path(path))[0] else _without_images(Path(path))
    except OSError as error:
        return "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def _images_of(path: Path) -> tuple[list[Path], list[str]]:
    """Return the images that a name stands for, in order, and the names of other files beside them in a folder."""
    return _in_folder(path) if path.is_dir() else (_matching(path), [])


def _without_images(path: Path) -> str:
    if path.is_dir():
        return f"is a folder without images; name the videos in it, if there are ({shown(path / '*')})"
    return f"no such file, and none in {shown(path.parent)} that has a number there"


def _matching(pattern: Path) -> list[Path]:
    """Return the files of a pattern, by number."""
    parts = _PATTERN.split(pattern.name)  # texts, and between them the digits that are filled up with zeros
    if len(parts) != 3:
        return []
    before, width, after = parts
    number = rf"\d{{{width}}}|[1-9]\d{{{width},}}" if width else r"0|[1-9]\d*"
    name = re.compile(f"{re.escape(before)}({number}){re.escape(after)}", re.ASCII)
    found = [match for one in os.listdir(pattern.parent) if (match := name.fullmatch(one))]
    return [pattern.parent / match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def _natural(name: str) -> list[tuple[str, int]]:
    """Return a key by which "frame10" comes after "frame9"."""
    return [(text.casefold(), int(digits or -1)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)]


def _in_folder(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images in a folder in natural order, told by their endings, and the names of other files."""
    names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and not entry.is_dir()]
    names.sort(key=lambda name: (_natural(name), name))
    images = [name for name in names if Path(name).suffix.lower() in _ENDINGS]
    return [folder / name for name in images], [name for name in names if name not in set(images)]


class NumberedImages:
    """Images as the frames of a video; a ``VideoSource``. Their headers are looked at first, so that all have one size.

    Args:
        path: a folder or a pattern.
        rate: frames a second; where it is None, the usual one, which is told.
        frames: so many are looked at beforehand; all, where it is None.
        max_pixels: of an image.

    Raises:
        VideoError: there is none, one cannot be read, or their sizes differ.
    """

    def __init__(self, path: str | PathLike[str], rate: Fraction | None, frames: int | None, max_pixels: int) -> None:
        reason = _unusable_images(path)
        if reason is not None:
            raise VideoError(f"{shown(path)}: {reason}")
        self._files, others = _images_of(Path(path))
        self._rate = rate or USUAL_RATE
        self._read, self._unread = 0, list[str]()
        self.facts = VideoFacts(
            rate=self._rate,
            count=len(self._files),
            container="images",
            codec=self._check_sizes(frames, max_pixels),
            sandboxed=False,
            picture={"matrix": "RGB", "matrix_stated": True, "range": "full", "range_stated": True},
            warnings=list(self._remarks(rate, others)),
        )

    def _check_sizes(self, frames: int | None, max_pixels: int) -> str:
        """Check that so many images are of one size, by their headers; return the formats."""
        from ..io.decoding import ImageError, open_checked

        first: tuple[int, int] | None = None
        trouble: ImageError | None = None
        formats: dict[str, None] = {}
        looked_at = 0
        for file in self._files:
            if looked_at == frames:
                break
            try:
                with open_checked(file) as image:
                    size = image.upright
                    formats[image.kind.lower()] = None
            except ImageError as error:  # it is left out, and told at the end
                trouble = trouble or error
                continue
            if size[0] * size[1] > max_pixels:
                raise VideoError(f"{shown(file)}: is {size[0]} x {size[1]}, more than {max_pixels:,} pixels")
            if first is not None and size != first:
                raise VideoError(
                    f"{shown(file)}: is {size[0]} x {size[1]}, and the images before it {first[0]} x {first[1]}; leave "
                    "it out, or name images of one size by a pattern such as frame_%04d.png"
                )
            first, looked_at = size, looked_at + 1
        if first is None:
            raise VideoError(str(trouble)) from trouble
        return ", ".join(formats)

    def _remarks(self, rate: Fraction | None, others: list[str]) -> Iterator[str]:
        if rate is None:
            yield f"images are shown at {USUAL_RATE} frames a second, as is usual; --rate chooses"
        if others:
            yield f"files that are no images are left out: {_some(others)}"
        kinds = dict.fromkeys(file.suffix.lower() for file in self._files)
        if len(kinds) > 1:
            yield f"images of several kinds follow one another ({', '.join(kinds)})"
        gaps = list(_gaps([file.name for file in self._files]))
        if gaps:
            yield f"numbers are missing, and passed over: {_some(gaps)}"

    def frame(self, index: int) -> VideoFrame:
        """Return the next image that can be read, at the time of its place; raises ``Ended``."""
        import torch

        from ..io.images import ImageError, load_image

        while self._read < len(self._files):
            file, place = self._files[self._read], self._read
            self._read += 1
            try:
                x: Any = 255 * load_image(file)[0]
            except ImageError as error:
                self._unread.append(str(error))
                continue
            rounded = x.round()
            if not index and (x - rounded).abs().max() > 0.01:
                self.facts.warnings.append("16 bits a channel are rounded to 8")
            pixels = rounded.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            return VideoFrame(index, place / self._rate, pixels)
        raise Ended

    def remarks(self, reasons: tuple[str, ...]) -> list[str]:
        """Say which images could not be read."""
        return [f"images that cannot be read: {len(self._unread)} ({self._unread[0]})"] if self._unread else []

    def close(self) -> None:
        """Do nothing: no file is kept open."""


def _gaps(names: list[str]) -> Iterator[str]:
    """Yield the places where the last number of the names goes up by more than the least step."""
    numbers = [int(found[-1]) if (found := re.findall("[0-9]+", Path(name).stem)) else None for name in names]
    steps = [None if a is None or b is None else b - a for a, b in itertools.pairwise(numbers)]
    least = min((step for step in steps if step is not None and step > 0), default=None)
    for step, (before, after) in zip(steps, itertools.pairwise(names), strict=True):
        if step is not None and least is not None and step > least:
            yield f"between {shown(before)} and {shown(after)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(shown, names[:_MOST_NAMED])) + more
