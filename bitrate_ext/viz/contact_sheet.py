"""Contact sheets: pictures small and beside each other, with words below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .figure import PixelFigure

if TYPE_CHECKING:
    from PIL import Image

BOX = 240, 180  # width and height that a picture is fitted into, pixels
ACROSS = 6  # tiles in a row, at most
_EM, _GAP, _LINE = 14.0, 14, 19  # pixels


@dataclass(frozen=True)
class Tile:
    """Pictures one below the other, uint8 ``[H, W, 3]``, and lines of words; None is a picture that there is not."""

    pictures: Sequence[NDArray[np.uint8] | None]
    lines: Sequence[str]


def contact_sheet(sections: Mapping[str, Sequence[Tile]], *, title: str, subtitle: str = "") -> Image.Image:
    """Draw sections of tiles, the name of each above it, on a white sheet.

    Args:
        sections: tiles by the section's name; empty ones are left out. All have as many pictures and lines.
        title: of the sheet.
        subtitle: a smaller line below.

    Returns:
        An RGB image. Pictures are reduced to fit into ``BOX``; small ones are enlarged by whole numbers.

    Raises:
        ValueError: no tile.
    """
    shown = {name: tiles for name, tiles in sections.items() if tiles}
    if not shown:
        raise ValueError("sections must hold at least one tile, got none")
    first = next(iter(shown.values()))[0]
    high = len(first.pictures) * (BOX[1] + _GAP // 2) + len(first.lines) * _LINE + _GAP
    across = min(ACROSS, max(len(tiles) for tiles in shown.values()))
    rows = sum(-(-len(tiles) // across) for tiles in shown.values())
    width = max(3, across) * (BOX[0] + _GAP) + _GAP
    height = 60 + len(shown) * 2 * _LINE + rows * high
    figure = PixelFigure(width, height, _EM)
    figure.write_head((title, subtitle), _GAP, (1.9, 3.4))
    top = 60
    for name, tiles in shown.items():
        style = {"size": 1.1 * _EM, "weight": "bold", "color": "0.2"}
        figure.write((_GAP, height - top - 1.4 * _LINE), name, width - 2 * _GAP, **style)
        top += 2 * _LINE
        for start in range(0, len(tiles), across):
            for place, tile in enumerate(tiles[start : start + across]):
                _draw(figure, tile, _GAP + place * (BOX[0] + _GAP), top)
            top += high
    return figure.to_image()


def _draw(figure: PixelFigure, tile: Tile, left: int, top: int) -> None:
    for picture in tile.pictures:
        if picture is None:
            missing = figure.add_axes(left, figure.height - top - BOX[1], *BOX)
            missing.set(xticks=[], yticks=[], facecolor="0.93")
            missing.text(0.5, 0.5, "not there", ha="center", va="center", size=_EM, color="0.4")
        else:
            small = fitted(picture)
            height, width = small.shape[:2]
            across, down = (BOX[0] - width) // 2, (BOX[1] - height) // 2
            axes: Any = figure.add_axes(left + across, figure.height - top - down - height, width, height)
            axes.imshow(small, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
        top += BOX[1] + _GAP // 2
    for line in tile.lines:
        top += _LINE
        figure.write((left, figure.height - top + 4), line, BOX[0], size=0.9 * _EM, color="0.15")


def fitted(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture ``[H, W, 3]`` reduced to fit into ``BOX``, or enlarged by the largest whole number that fits."""
    from PIL import Image

    height, width = picture.shape[:2]
    scale = min(BOX[0] / width, BOX[1] / height)
    if scale >= 1:
        return picture.repeat(int(scale), axis=0).repeat(int(scale), axis=1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    reduced: NDArray[np.uint8] = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    return reduced
