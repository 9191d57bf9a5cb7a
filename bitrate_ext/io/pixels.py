"""Decoded pixels, as Pillow keeps them or as bare samples, and the tensor that a codec sees of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image


TURNS = {  # EXIF's numbers, by Pillow's names
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@dataclass(frozen=True)
class Samples:
    """Samples that Pillow would cut to eight bits: whole numbers ``[H, W, C]``, of 2 and 4 channels the last opacity.

    Args:
        values: from 0 to ``largest``.
        largest: what white is.
        hidden: bool ``[H, W]``, pixels that are wholly transparent.
    """

    values: NDArray[Any]
    largest: int
    hidden: NDArray[np.bool_] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height)."""
        return self.values.shape[1], self.values.shape[0]

    @property
    def has_transparent(self) -> bool:
        """Return whether a pixel is not wholly opaque."""
        if self.hidden is not None and bool(self.hidden.any()):
            return True
        return self.values.shape[2] in (2, 4) and bool((self.values[:, :, -1] < self.largest).any())

    def crop(self, box: tuple[int, int, int, int]) -> Samples:
        """Return a part, by its left, upper, right and lower edge, as Pillow's images do."""
        left, top, right, bottom = box
        part = np.s_[top:bottom, left:right]
        return Samples(self.values[part], self.largest, None if self.hidden is None else self.hidden[part])

    def turned(self, turn: int) -> Samples:
        """Return it turned as EXIF's number says."""
        arrays = (one if turn < 5 or one is None else one.swapaxes(0, 1) for one in (self.values, self.hidden))
        rows = slice(None, None, -1 if turn in (3, 4, 7, 8) else None)
        columns = slice(None, None, -1 if turn in (2, 3, 6, 7) else None)
        values, hidden = (None if one is None else one[rows, columns] for one in arrays)
        assert values is not None
        return Samples(values, self.largest, hidden)

    def rgb(self) -> NDArray[np.float32]:
        """Return float32 ``[H, W, 3]`` in [0, 1], laid on white."""
        shares = self.values.astype(np.float32) / np.float32(self.largest)
        if shares.shape[2] in (2, 4):
            shares, opacity = shares[:, :, :-1], shares[:, :, -1:]
            shares = shares * opacity + (1 - opacity)
        if self.hidden is not None:
            shares[self.hidden] = 1.0
        return np.broadcast_to(shares, (*shares.shape[:2], 3))


def to_tensor(upright: Image.Image | Samples) -> Tensor:
    """Return upright pixels, or a part of them, as float32 ``[1, 3, H, W]`` in [0, 1]."""
    pixels = upright.rgb() if isinstance(upright, Samples) else _to_rgb(upright)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None])


def _to_rgb(upright: Image.Image) -> NDArray[np.float32]:
    """Return float32 ``[H, W, 3]`` in [0, 1]."""
    from PIL import Image

    transparent = upright.info.get("transparency")
    if upright.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):  # 16-bit grey; "I" in Pillow before 11
        values = np.asarray(upright)[:, :, None]
        hidden = values[:, :, 0] == transparent if isinstance(transparent, int) else None  # PNG's one transparent level
        return Samples(values, 65535, hidden).rgb()
    if transparent is not None or upright.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB")).astype(np.float32) / 255


def turned(pixels: Image.Image | Samples, turn: int) -> Image.Image | Samples:
    """Return decoded pixels turned as EXIF's number says, one of ``TURNS``."""
    from PIL import Image

    return pixels.turned(turn) if isinstance(pixels, Samples) else pixels.transpose(Image.Transpose[TURNS[turn]])


def has_transparent(image: Image.Image) -> bool:
    """Return whether a decoded image has a pixel that is not wholly opaque, or may have by its palette."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return bool(image.getextrema()[-1][0] < 255)
    transparent = image.info.get("transparency")
    if image.mode in ("P", "L") and transparent is not None:
        levels = range(256) if isinstance(transparent, bytes) else (transparent,)
        opacity = dict(enumerate(transparent)) if isinstance(transparent, bytes) else {transparent: 0}
        count = image.histogram()
        return any(count[level] and opacity.get(level, 255) < 255 for level in levels)
    return transparent is not None
