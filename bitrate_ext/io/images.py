"""Reading images: a file in, ``[1, 3, H, W]`` in [0, 1] out, or an error that says what is wrong with the file.

A codec should see what a viewer shows: EXIF rotation is applied, transparent parts are laid on white, palettes and CMYK
become RGB, grey becomes three equal channels. Values are taken as stored, since they are what a codec is fed: colour
profiles are not applied. What departs from what a viewer shows is told: see ``PictureFacts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import Tensor

from .decoding import ImageError as ImageError
from .decoding import check_pixels
from .facts import PictureFacts
from .windowed import open_image


@dataclass(frozen=True)
class Picture:
    """A picture as read: ``pixels`` float32 ``[1, 3, H, W]`` in [0, 1], and what there is to say of them."""

    pixels: Tensor
    facts: PictureFacts


def load_image(path: str | PathLike[str]) -> Tensor:
    """Read a picture file as a viewer shows it, with colours as they are stored.

    PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PBM, PGM and PPM; HEIC and JPEG XL with the extras ``heic`` and
    ``jxl``. 16-bit samples of PNG, PGM, PPM and plain TIFF, and of other formats' grey, keep their precision. What
    departs from what a viewer shows, and frames after the first, are told in a ``UserWarning``.

    Returns:
        float32 ``[1, 3, H, W]``, red, green and blue in [0, 1].

    Raises:
        ImageError: missing, not a regular file, not an image, damaged, too large, sound but compressed or laid out in
            a way that is not read, or of a depth that would be cut without need (32-bit and floating-point files).
    """
    picture = load_picture(path)
    picture.facts.warn(path, stacklevel=3)
    return picture.pixels


def load_picture(path: str | PathLike[str]) -> Picture:
    """Read a picture file as ``load_image`` does, with what it would warn of as facts.

    Raises:
        ImageError: as ``load_image``.
    """
    with open_image(path) as source:
        check_pixels(Path(path), source.width, source.height)
        return Picture(source.crop(0, 0, source.height, source.width), source.facts)
