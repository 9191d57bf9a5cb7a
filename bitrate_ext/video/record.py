"""What a video costs: a row for each frame, and the sums."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ..cells.quality import measure_psnr
from ..mapping.frames import FrameResult


@dataclass(frozen=True)
class FrameRow:
    """What one frame costs."""

    index: int
    time: float  # seconds from the first frame
    kind: str  # "image"; of a video codec "keyframe" or "inter"
    total_bits: float
    padding_bits: float  # the part of total_bits that falls outside the frame
    bpp: float
    latent_bits: dict[str, float]
    psnr_db: float | None = None  # where a reconstruction was asked for and is not exact

    @classmethod
    def of(cls, result: FrameResult, time: Fraction) -> FrameRow:
        """Take the numbers of a result."""
        psnr = None
        if result.x_hat is not None:
            psnr = measure_psnr(result.x_hat, result.frame.permute(2, 0, 1)[None] / 255)
        return cls(
            index=result.index,
            time=float(time),
            kind=result.kind,
            total_bits=result.total_bits.item(),
            padding_bits=result.padding_bits.item(),
            bpp=result.bpp.item(),
            latent_bits={name: bits.double().sum().item() for name, bits in result.latent_bits.items()},
            psnr_db=psnr,
        )


@dataclass(frozen=True)
class VideoRecord:
    """What a video costs."""

    width: int  # pixels
    height: int
    rate: float  # frames a second, on average
    scale: str  # "clip", "frame" or "value"
    limit: float | None  # upper end of the colours, bits per pixel; None where each frame has its own
    partial: str | None  # why the video ended before its end
    frames: list[FrameRow]
    warnings: tuple[str, ...]  # of the first frame; see ``VideoReader`` and ``BitrateResult``
    picture: dict[str, str | bool | None]  # how frames became RGB; see ``VideoReader``
    file: str

    @property
    def total_bits(self) -> float:
        return math.fsum(row.total_bits for row in self.frames)

    @property
    def seconds(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return self.frames[-1].time + 1 / self.rate if self.frames else 0.0

    @property
    def latent_bits(self) -> dict[str, float]:
        names = dict.fromkeys(name for row in self.frames for name in row.latent_bits)
        return {name: math.fsum(row.latent_bits.get(name, 0.0) for row in self.frames) for name in names}
