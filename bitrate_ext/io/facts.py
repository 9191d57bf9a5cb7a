"""What a picture file states of itself, what is made of it, and where that departs from what a viewer shows.

Values are taken as stored, because they are what a codec is fed by: neither colour profiles nor gamma nor a curve for
HDR is applied. How far that is from what a viewer shows is measured and told.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from os import PathLike

import numpy as np

from .files import shown

HDR = {16: "PQ", 18: "HLG"}  # numbers of ITU-T H.273
WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
GAMMA = 1 / 2.2  # what a PNG file without any is shown with
SEEN = 3  # of 255 levels: profiles that change no colour more are as good as sRGB
_LEVELS = 5  # of each channel, that a profile is tried on


@dataclass(frozen=True)
class PictureFacts:
    """Facts of one picture as read, for the record; ``warnings`` has those that a viewer shows otherwise."""

    format: str
    mode: str  # of the pixels as decoded, in Pillow's words
    bits: int  # a sample, as stored
    bits_read: int
    frames: int | None = 1  # or pages; None: more than one
    orientation: int = 1  # EXIF's number of the turn that was applied
    transparent: bool | None = False  # laid on white; None: has opacity that was not looked at
    profile: str | None = None  # the embedded colour profile's name; not applied
    profile_shift: int | None = None  # levels of 255 by which it would change some colour
    gamma: float | None = None  # stated, without a profile
    primaries: str | None = None  # other than sRGB's
    hdr: str | None = None  # the curve of high dynamic range
    rows_missing: int | None = None  # of a JPEG cut short; they are grey

    @property
    def warnings(self) -> list[str]:
        """Return departures from what a viewer shows, and what else a user has to know, without the file's name."""
        frames = "more than one frame" if self.frames is None else f"{self.frames} frames or pages"
        shows = "may show" if self.profile_shift is None else "shows"
        told = [
            (self.frames != 1, f"has {frames}; only the {'main one' if self.format == 'HEIF' else 'first'} is read"),
            (self.bits > self.bits_read, f"has {self.bits} bits a channel, of which {self.bits_read} are read"),
            (
                self.profile is not None and self.profile_shift != 0,
                f"its colour profile ({self.profile}) is not applied: a viewer {shows} other colours"
                + (f", by up to {self.profile_shift} of 255 levels" if self.profile_shift else ""),
            ),
            (self.gamma is not None, f"its gamma of {self.gamma} is not applied: a viewer shows other lightness"),
            (self.hdr, f"HDR ({self.hdr}) is not tone-mapped: a viewer shows more contrast"),
            (
                self.primaries,
                f"colours of {self.primaries} are not converted: a viewer shows them more saturated",
            ),
            (self.transparent, "transparent parts are laid on white: a viewer may show another ground"),
            (self.transparent is None, "transparent parts, if there are any, are laid on white"),
            (self.rows_missing, f"is cut short: the last {self.rows_missing} rows are missing, and grey"),
            (self.rows_missing == 0, "is cut short: the end of its last row or its finest detail may be missing"),
        ]
        return [words for holds, words in told if holds]

    def warn(self, path: str | PathLike[str], stacklevel: int) -> None:
        """Raise each warning as a ``UserWarning`` that names the file."""
        for words in self.warnings:
            warnings.warn(f"{shown(path)}: {words}", UserWarning, stacklevel=stacklevel)


def profile_of(data: bytes | None, mode: str) -> tuple[str | None, int | None]:
    """Return an embedded profile's name, and by how many of 255 levels it changes some colour at most.

    Zero where that cannot be seen; None where the profile is damaged or of another kind of colours than the picture.

    Args:
        data: the profile, if there is one.
        mode: of the picture, in Pillow's words.
    """
    if not data:
        return None, None
    from PIL import Image, ImageCms

    name = "unnamed"
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = " ".join(ImageCms.getProfileDescription(profile).split()) or name
        like = "CMYK" if mode == "CMYK" else "L" if mode in ("1", "L", "LA") or mode.startswith("I") else "RGB"
        steps = np.linspace(0, 255, _LEVELS if len(like) > 1 else 256).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(*[steps] * len(like)), axis=-1).reshape(1, -1, len(like))
        patch = Image.frombytes(like, grid.shape[1::-1], grid.tobytes())
        viewed = ImageCms.profileToProfile(patch, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        shift = int(np.abs(np.asarray(viewed, np.int16) - np.asarray(patch.convert("RGB"), np.int16)).max())
    except Exception:  # of damaged profiles anything
        return name, None
    return name, shift if shift > SEEN else 0
