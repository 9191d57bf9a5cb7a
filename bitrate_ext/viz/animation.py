"""Animations of one image's bits over the qualities of a codec, in one scale of colours.

Rates of one codec are a factor of ten apart and more, so colours are even in the root of bits per pixel: where the
costliest map sets a linear scale, the cheapest is black.

Files are animated PNGs, which keep every pixel, where GIF has 256 colours; browsers play them, and what does not shows
the first frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..choices import VIEWS, check_choice
from .colormap import NO_RIM, Rim, apply_colormap, colour_limit, inside_rim
from .figure import PixelFigure
from .map_figure import as_levels, checked_map, legend, overlay, panel_size

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

SECONDS, LAST_SECONDS = 1.0, 2.0  # that a frame is shown; the last one, so that the start is noticed
POWER = 0.5  # of bits per pixel that colours are even in
EMS = 50  # width of a frame, em
MARGIN, HEAD = 1.2, 4.6  # at its sides, and height of its two lines, em
GAP = 10  # pixels between two panels


def animation_frames(
    images: Sequence[NDArray[Any] | Tensor],
    maps: Sequence[NDArray[Any] | Tensor],
    captions: Sequence[str],
    *,
    subtitle: str = "",
    view: str = "overlay",
    limit: float | None = None,
    rim: Rim = NO_RIM,
) -> list[Image.Image]:
    """Draw a frame for each map, all of one size and in one scale of colours, whose ends stand below.

    Args:
        images: for each map what is shown with it, ``[H, W, 3]`` or ``[1, 3, H, W]`` in [0, 1]: the image, or what the
            codec makes of it.
        maps: ``[H, W]`` or ``[1, 1, H, W]``, bits per pixel. Pixels that are not a number are grey.
        captions: what stands above each in bold, such as its quality, bits per pixel and PSNR.
        subtitle: one smaller line below, of all frames.
        view: ``"overlay"``, the map laid over its image, ``"map"``, or ``"side"``, the image and the map beside it.
        limit: upper end of the scale, bits per pixel. Default: that of the costliest map.
        rim: pixels at the top, bottom, left and right that are beside padding, ``result.rim``.

    Returns:
        RGB images. Small maps are enlarged by whole numbers, large ones reduced.

    Raises:
        ValueError: there is no map, or not one image and caption for each; maps of several sizes; another view.
    """
    check_choice("view", view, VIEWS)
    if not maps or len({len(maps), len(images), len(captions)}) > 1:
        counts = f"{len(maps)} maps, {len(images)} images, {len(captions)} captions"
        raise ValueError(f"there must be an image and a caption for each map, and a map at least; got {counts}")
    values = [checked_map(one) for one in maps]
    if len({one.shape for one in values}) > 1:
        raise ValueError(f"maps must be of one size, got {', '.join(str(list(one.shape)) for one in values)}")
    limit = max(colour_limit(inside_rim(one, rim)) for one in values) if limit is None else limit
    roots = [one.clip(0) ** POWER for one in values]
    rows = [_panels(image, one, view, limit**POWER) for image, one in zip(images, roots, strict=True)]
    width = round(rows[0].width / (1 - 2 * MARGIN / EMS))
    below = legend(width, limit, laid_over=view == "overlay", power=POWER, about="one scale for all frames")
    return [_frame(row, below, (caption, subtitle)) for row, caption in zip(rows, captions, strict=True)]


def save_animation(frames: Sequence[Image.Image], file: str | Path | IO[bytes]) -> None:
    """Write frames as an animated PNG that starts anew at its end, a second each and two the last.

    Args:
        frames: RGB images of one size, one at least.
        file: its name, or a file open for writing.
    """
    milliseconds = [round(1000 * SECONDS)] * (len(frames) - 1) + [round(1000 * LAST_SECONDS)]
    more: dict[str, Any] = {"duration": milliseconds, "loop": 0} if len(frames) > 1 else {}
    more["compress_level"] = 4  # less than half the time of 6, for 5 % more bytes
    frames[0].save(file, format="PNG", save_all=True, append_images=frames[1:], **more)


def _panels(image: NDArray[Any] | Tensor, bits: NDArray[np.float32], view: str, limit: float) -> Image.Image:
    """Draw what is seen of one map, without words; ``bits`` and ``limit`` to the power that colours are even in."""
    from PIL import Image

    height, width = panel_size(*bits.shape, beside=1 + (view == "side"))
    resampling = Image.Resampling.NEAREST if height >= bits.shape[0] else Image.Resampling.BOX

    def resized(picture: Image.Image) -> Image.Image:
        return picture.resize((width, height), resampling)

    if view == "overlay":
        return resized(overlay(image, bits, limit=limit))
    coloured = resized(Image.fromarray(apply_colormap(torch.from_numpy(bits), limit).numpy()))
    if view == "map":
        return coloured
    both = Image.new("RGB", (2 * width + GAP, height), "white")
    both.paste(resized(Image.fromarray(as_levels(image, bits.shape).numpy())), (0, 0))
    both.paste(coloured, (width + GAP, 0))
    return both


def _frame(row: Image.Image, below: Image.Image, texts: Sequence[str]) -> Image.Image:
    """Put a frame together: its words, its panels, the scale."""
    em = below.width / EMS
    figure = PixelFigure(below.width, HEAD * em + row.height + below.height, em)
    figure.write_head(texts, MARGIN * em, (1.9, 3.5))
    whole = figure.to_image()
    whole.paste(row, ((whole.width - row.width) // 2, whole.height - below.height - row.height))
    whole.paste(below, (0, whole.height - below.height))
    return whole
