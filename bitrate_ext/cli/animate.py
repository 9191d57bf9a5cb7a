"""The animation of ``bitrate-ext map``: one image over the qualities of a codec, as in CompressAI issue 265."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from torch import Tensor

from ..io.files import shown
from ..mapping.layout import BitrateResult
from ..viz.animation import animation_frames, save_animation
from ..viz.colormap import Rim, colour_limit, inside_rim
from .console import finite, number
from .model_options import qualities
from .outputs import file_name
from .record import AnimationRow, Record


def each(arguments: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """Yield the arguments for each model that the animation goes over; none where none is asked for."""
    if arguments.animate is None:
        return
    varied, values = ("checkpoint", arguments.animate) if arguments.animate else ("quality", qualities(arguments))
    for value in values:
        one = copy.copy(arguments)
        setattr(one, varied, value)
        yield one


def same_model(one: argparse.Namespace, other: argparse.Namespace) -> bool:
    """Return whether two of a command's arguments name the same weights."""
    return (one.quality, one.checkpoint) == (other.quality, other.checkpoint)


@dataclass
class Animation:
    """What the animation of one image is made of."""

    view: str
    maps: list[Tensor] = field(default_factory=list)  # [1, 1, H, W], on the CPU
    images: list[Tensor] = field(default_factory=list)  # [1, 3, H, W]
    rows: list[AnimationRow] = field(default_factory=list)
    rim: Rim = (0, 0, 0, 0)

    def add(self, x: Tensor, result: BitrateResult, psnr_db: float | None, model: str) -> None:
        """Take a map of an image ``[1, 3, H, W]`` as the next frame."""
        made = x if self.view == "overlay" or result.x_hat is None else result.x_hat
        self.maps.append(result.map.float().cpu())
        self.images.append(made.cpu())
        total, bpp = finite(result.total_bits.item()), finite(result.bpp.item())
        self.rows.append(AnimationRow(model, total, bpp, finite(psnr_db), list(result.warnings)))
        top, bottom, left, right = map(max, zip(self.rim, result.rim, strict=True))
        self.rim = top, bottom, left, right

    def write(self, record: Record, file: IO[bytes]) -> None:
        """Draw the frames, and write them."""
        about = f"{shown(file_name(record.image))}   {record.width} x {record.height}"
        save_animation(
            animation_frames(
                self.images,
                self.maps,
                [_caption(row) for row in self.rows],
                subtitle=f"{about}   {record.bits}, {record.projection}",
                view=self.view,
                limit=record.animation_limit,
            ),
            file,
        )

    def limit(self) -> float:
        """Return where the one scale of colours ends, bits per pixel."""
        return max(colour_limit(inside_rim(bits[0, 0].numpy(), self.rim)) for bits in self.maps)


def lines(rows: Sequence[AnimationRow]) -> list[str]:
    """Return what is printed of an animation, a line a frame."""
    return [f"  {_caption(row, ', ')}" for row in rows]


def _caption(row: AnimationRow, between: str = "    ") -> str:
    psnr = [] if row.psnr_db is None else [f"PSNR {row.psnr_db:.2f} dB"]
    return between.join([row.model, f"{number(row.bpp, '.3f')} bits per pixel", *psnr])
