"""Colours of bitrate maps, on the tensor's own device: the map alone, and laid over its image.

Both are look-ups in a table of ``[LEVELS + 1, 256, 3]`` bytes: the level of a pixel's bits (the last one stands for
what is not a number) and the lightness of the image there. Levels and lightness are whole numbers, so the same map
gives the same bytes on every device. The table is the only copy of the formula:

    brightness = PHOTOGRAPH * light + (1 - PHOTOGRAPH) * brightness of the map's colour
    pixel      = the map's colour, mixed with black or with white until it has that brightness

So more bits are always brighter, over dark parts of the image as over light ones; light and shade of the image are left
as far as they fit into its share of the brightness.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COLOURS = "inferno"  # perceptually even, black where nothing is spent
DIFFERENCES = "RdBu_r"  # white at zero
BROKEN = (0.55, 0.55, 0.55)  # of pixels that are not a number
LEVELS = 256
PHOTOGRAPH = 0.35  # of an overlay's brightness is the image's
PERCENTILE = 99.5  # the colour scale ends there, so that a few extreme pixels do not darken all others
BINS = 2.0 ** np.arange(-24, 12, 1 / 64)  # bits per pixel; of histograms
SAMPLE = 20_000  # pixels of a map that are enough to know its scale by
NO_RIM = (0, 0, 0, 0)
LUMA = (13933, 46871, 4732)  # of red, green and blue in 65536ths (ITU-R BT.709)

Rim = tuple[int, int, int, int]
T = TypeVar("T", NDArray[Any], Tensor)


def colour_map(name: str = COLOURS) -> Any:
    """Return matplotlib's colours of that name, with one for what is not a number."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=BROKEN)


def colour_limit(bits: NDArray[Any]) -> float:
    """Return the upper end of the colour scale, bits per pixel: a robust maximum of the finite values, above zero."""
    finite = bits[np.isfinite(bits)]
    limit = float(np.percentile(finite, PERCENTILE)) if finite.size else 0.0
    if limit <= 0.0:  # next to everything costs nothing
        limit = float(finite.max(initial=0.0))
    return limit if limit > 0.0 else 1.0


def inside_rim(bits: T, rim: Rim) -> T:
    """Return the part of a map ``[..., H, W]`` that is not beside padding; all of it where nothing would be left.

    Beside black padding images have an edge that costs bits, often more than anything in them: it is no measure of the
    scale.

    Args:
        bits: bits per pixel.
        rim: how many pixels at the top, bottom, left and right.
    """
    top, bottom, left, right = rim
    height, width = bits.shape[-2:]
    if top + bottom >= height or left + right >= width:
        return bits
    part: T = bits[..., top : height - bottom, left : width - right]
    return part


class ClipLimit:
    """``colour_limit`` of many maps together, in constant memory.

    From a histogram of a sample of each map's pixels; a bin is 1.1 % wide.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(len(BINS) + 1, dtype=np.int64)
        self._maps = 0
        self._largest = 0.0

    def add(self, bits: Tensor) -> None:
        """Take a map ``[H, W]``, bits per pixel, into account."""
        step = max(1, math.isqrt(bits.numel() // SAMPLE))
        first = self._maps % step  # another one each time, so that no part of the image is left out
        sample = bits[first % bits.shape[0] :: step, first % bits.shape[1] :: step].cpu().numpy().ravel()
        finite = sample[np.isfinite(sample)]
        self._counts += np.bincount(np.digitize(finite, BINS), minlength=len(self._counts))
        self._largest = max(self._largest, float(finite.max(initial=0.0)))
        self._maps += 1

    def limit(self) -> float:
        """Return the upper end of the colour scale, bits per pixel, above zero."""
        below = self._counts.cumsum()
        index = int(np.searchsorted(below, below[-1] * PERCENTILE / 100))
        limit = min(float(BINS[min(index, len(BINS) - 1)]), self._largest) if index else self._largest
        return limit if limit > 0.0 else 1.0


def apply_colormap(bits: Tensor, limit: float, out: Tensor | None = None) -> Tensor:
    """Return the map in colours, uint8 ``[H, W, 3]``.

    Args:
        bits: ``[H, W]``, bits per pixel. Values above ``limit`` get the last colour, NaN is grey.
        limit: upper end of the colour scale, bits per pixel.
        out: uint8 ``[H, W, 3]``, any strides, for the result.
    """
    return _look_up(_table(bits.device)[0], _levels(bits, limit), out)


def overlay_bits(image: Tensor, bits: Tensor, limit: float, out: Tensor | None = None) -> Tensor:
    """Lay the map over its image; returns uint8 ``[H, W, 3]``.

    The map's colours, shaded by the image in grey, dimmed: of two pixels of one lightness the one that costs more is
    the brighter one.

    Args:
        image: uint8 ``[H, W, 3]``, red, green and blue.
        bits: ``[H, W]``, bits per pixel. Pixels that are not a number show the image in grey, as it is.
        limit: upper end of the colour scale, bits per pixel.
        out: uint8 ``[H, W, 3]``, any strides, for the result.
    """
    red, green, blue = image.unbind(-1)
    light = red.int().mul_(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    light.add_(1 << 15).bitwise_right_shift_(16)
    return _look_up(_table(bits.device)[1], light.add_(_levels(bits, limit), alpha=256), out)


def _levels(bits: Tensor, limit: float) -> Tensor:
    """Return the level of each pixel, int32 ``[H, W]``; ``LEVELS`` for what is not a number."""
    level = torch.mul(bits, LEVELS / limit).clamp_(0, LEVELS - 1)
    return level.nan_to_num_(nan=LEVELS).int()


def _look_up(table: Tensor, index: Tensor, out: Tensor | None) -> Tensor:
    found = table.index_select(0, index.flatten()).view(*index.shape, 3)
    return found if out is None else out.copy_(found)


@lru_cache(maxsize=8)
def _table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return uint8 colours of the map alone, ``[LEVELS + 1, 3]``, and of overlays, ``[(LEVELS + 1) * 256, 3]``."""
    colour = colour_map()(np.arange(LEVELS))[:, None, :3]
    light = (np.arange(256) / 255)[None, :, None]
    own = np.maximum.accumulate(colour @ (np.array(LUMA) / sum(LUMA)))[:, :, None]
    wanted = PHOTOGRAPH * light + (1 - PHOTOGRAPH) * own
    dimmed, lightened = wanted / own.clip(1e-9), (wanted - own) / (1 - own)
    laid_over = np.where(wanted < own, colour * dimmed, colour + (1 - colour) * lightened)
    without = np.broadcast_to(light, (1, 256, 3))
    alone = np.concatenate([colour[:, 0], np.array([BROKEN])])
    over = np.concatenate([laid_over, without]).reshape(-1, 3)
    with torch.inference_mode(False):  # the cache outlives the caller's mode
        return tuple(torch.from_numpy(np.rint(255 * part).astype(np.uint8)).to(device) for part in (alone, over))  # type: ignore[return-value]


def overlay_colours() -> NDArray[np.uint8]:
    """Return the colours of overlays, uint8 ``[256, LEVELS, 3]``: over the image's lightness, and over bits."""
    over: NDArray[np.uint8] = _table(torch.device("cpu"))[1].view(LEVELS + 1, 256, 3)[:LEVELS].transpose(0, 1).numpy()
    return over
