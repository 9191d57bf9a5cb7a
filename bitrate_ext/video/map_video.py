"""A video in, the same video with its bitrate map out: read, run, map, colour and write, each while the others work.

With one scale of colours for the whole clip there are two passes: the first runs the network and keeps the bits of each
cell on disk (a few bytes a cell), the second draws. With a scale that is known before, or one for each frame, there is
one pass.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..choices import SCALES, VIEWS, check_choice
from ..mapping.frames import FrameMapper, FrameResult
from ..mapping.psnr import measure_psnr
from ..ops.functional import bitrate_map
from ..threads import Background, Stopwatch, prefetch
from ..viz.colormap import ClipLimit, apply_colormap, overlay_bits
from ..viz.frame_chart import GROUND, FrameChart
from .reader import VideoError, VideoReader
from .writer import VideoWriter

USUAL_RATE = Fraction(25)  # where a video does not state its own
LEAST_WIDTH = 360  # of a result, pixels: small pictures are enlarged
MOST_ZOOM = 6
AHEAD = 2  # items that wait between two stages
Progress = Callable[
    [str, int | None], Callable[[], None]
]  # (what is done, of how many) to a call for each that is done


@dataclass(frozen=True)
class FrameRow:
    """What one frame costs."""

    index: int
    time: float  # seconds from the first frame
    kind: str  # "image"; of a video codec "keyframe" or "inter"
    total_bits: float
    padding_bits: float  # the part of total_bits that falls outside the picture
    bpp: float
    latent_bits: dict[str, float]
    psnr_db: float | None = None  # where a reconstruction was asked for and is not exact


@dataclass
class VideoRecord:
    """What a video costs."""

    width: int  # pixels
    height: int
    rate: float  # frames a second, on average
    scale: str  # "clip", "frame" or "value"
    limit: float | None  # upper end of the colours, bits per pixel; None where each frame has its own
    partial: str | None  # why the video ended before its end
    frames: list[FrameRow] = field(default_factory=list)
    warnings: tuple[str, ...] = ()  # of the first frame; see ``BitrateResult``
    file: str = ""

    def add(self, result: FrameResult, time: Fraction) -> FrameRow:
        """The next frame."""
        row = _row(result, time)
        if not self.frames:
            self.warnings = result.warnings
        self.frames.append(row)
        return row

    @property
    def total_bits(self) -> float:
        return math.fsum(row.total_bits for row in self.frames)

    @property
    def seconds(self) -> float:
        """From the first frame to the end of the last."""
        return self.frames[-1].time + 1 / self.rate if self.frames else 0.0

    @property
    def latent_bits(self) -> dict[str, float]:
        names = dict.fromkeys(name for row in self.frames for name in row.latent_bits)
        return {name: math.fsum(row.latent_bits.get(name, 0.0) for row in self.frames) for name in names}


def map_video(
    source: str | PathLike[str],
    target: str | PathLike[str],
    mapper: FrameMapper,
    *,
    view: str = "side",
    scale: str | float = "clip",
    frames: int | None = None,
    crf: int = 18,
    preset: str = "veryfast",
    progress: Progress | None = None,
    watch: Stopwatch | None = None,
) -> VideoRecord:
    """Write the video with its bitrate map, and say what each frame costs.

    A video that is damaged or cut short is mapped as far as it goes: then the file is called ``NAME.partial.mp4`` and
    the record says why.

    Args:
        source: the video file.
        target: the file to write, as ``VideoWriter`` takes it. It has its name once it is whole.
        mapper: has the model.
        view: ``"side"`` (picture and map beside each other), ``"overlay"`` or ``"map"``. Below are the bits of each
            frame by latent.
        scale: of the colours: ``"clip"`` (one for all frames; the video is read twice), ``"frame"``, or its upper end
            in bits per pixel.
        frames: at most so many.
        crf, preset: of the encoder.
        progress: is told how far it is.
        watch: adds up seconds by stage: "decode", "network", "map", "colour", "encode". Stages overlap.

    Raises:
        VideoError: the video cannot be read.
        ValueError, TypeError: as ``FrameMapper`` and ``VideoWriter``; unknown view or scale.
        OSError: the result cannot be written.
    """
    check_choice("view", view, VIEWS)
    if isinstance(scale, str) and scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))} or a number, got {scale!r}")
    if not isinstance(scale, str) and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive and finite, got {scale!r}")
    job = _Job(Path(source), Path(target), mapper, view, scale, frames, crf, preset, progress, watch or Stopwatch())
    return job.two_passes() if scale == "clip" else job.one_pass()


@dataclass
class _Job:
    source: Path
    target: Path
    mapper: FrameMapper
    view: str
    scale: str | float
    frames: int | None
    crf: int
    preset: str
    progress: Progress | None
    watch: Stopwatch

    def one_pass(self) -> VideoRecord:
        with self._reader(self.frames) as reader:
            record = self._record(reader)
            canvas = _Canvas(reader, self.view, self.mapper.device)
            limit = self.scale if isinstance(self.scale, float | int) else None
            with self._writer(reader, canvas) as writer:
                done = self._told("mapping", _count(reader, self.frames))
                with Background(self._written(writer), AHEAD) as encoder:

                    def draw(item: tuple[FrameResult, Fraction]) -> None:
                        result, time = item
                        row = record.add(result, time)
                        with self.watch("colour"):
                            bits = result.map[0, 0]
                            canvas.strip.add(row.latent_bits)
                            picture = canvas.drawn(result.frame, bits, limit or _limit_of(bits), row, None)
                        encoder.put((picture, time))
                        done()

                    with contextlib.closing(self._mapped(reader)) as mapped, Background(draw, 1) as artist:
                        for item in mapped:
                            artist.put(item)
                record.limit, record.partial = limit, reader.partial
                self._name(writer, record)
        return record

    def two_passes(self) -> VideoRecord:
        with tempfile.TemporaryFile(prefix="bitrate-ext-") as spool:
            clip = ClipLimit()
            with self._reader(self.frames) as reader:
                record = self._record(reader)
                done = self._told("measuring", _count(reader, self.frames))

                def keep(item: tuple[FrameResult, Fraction]) -> None:
                    result, time = item
                    record.add(result, time)
                    clip.add(result.map[0, 0])
                    _put_cells(spool, result.latent_bits)
                    done()

                with contextlib.closing(self._mapped(reader)) as mapped, Background(keep, 1) as keeper:
                    for item in mapped:
                        keeper.put(item)
                record.limit, record.partial = clip.limit(), reader.partial
            spool.seek(0)
            self._draw_all(record, spool)
        return record

    def _draw_all(self, record: VideoRecord, spool: IO[bytes]) -> None:
        """The second pass."""
        assert record.limit is not None
        with self._reader(len(record.frames)) as reader:
            canvas = _Canvas(reader, self.view, self.mapper.device, len(record.frames))
            for row in record.frames:
                canvas.strip.add(row.latent_bits)
            done = self._told("drawing", len(record.frames))
            decoded = prefetch(self._decoded(reader), AHEAD)
            with self._writer(reader, canvas) as writer:
                with Background(self._written(writer), AHEAD) as encoder, contextlib.closing(decoded):
                    for row in record.frames:
                        pixels, time = next(decoded, (None, None))
                        if pixels is None or time is None:
                            raise VideoError(
                                f"{self.source}: read a second time, it ends after {row.index} of {len(record.frames)} "
                                f"frames ({reader.partial or 'it has changed'})"
                            )
                        with self.watch("map"):
                            bits = self._map_of_cells(row, spool, pixels.shape[0], pixels.shape[1])
                        with self.watch("colour"):
                            frame = torch.from_numpy(pixels).to(self.mapper.device)
                            picture = canvas.drawn(frame, bits, record.limit, row, len(record.frames))
                        encoder.put((picture, time))
                        done()
                self._name(writer, record)

    def _map_of_cells(self, row: FrameRow, spool: IO[bytes], height: int, width: int) -> Tensor:
        placed = self.mapper.placed(row.kind)
        size, crop = placed.adapter.canvas(height, width)
        grids = placed.adapter.grids(size)
        cells = {name: one.to(self.mapper.device) for name, one in _take_cells(spool, grids).items()}
        whole = bitrate_map(cells, size, crop=crop, projection=placed.projections, dtype=torch.float32, unit="bits")
        return whole[0, 0]

    def _reader(self, frames: int | None) -> VideoReader:
        return VideoReader(self.source, frames=frames)

    def _record(self, reader: VideoReader) -> VideoRecord:
        scale = self.scale if isinstance(self.scale, str) else "value"
        return VideoRecord(reader.width, reader.height, float(reader.rate or USUAL_RATE), scale, None, None)

    def _writer(self, reader: VideoReader, canvas: _Canvas) -> VideoWriter:
        rate = reader.rate or USUAL_RATE
        return VideoWriter(self.target, canvas.width, canvas.height, rate, crf=self.crf, preset=self.preset)

    def _decoded(self, reader: VideoReader) -> Iterator[tuple[np.ndarray, Fraction]]:
        frames = iter(reader)
        while True:
            with self.watch("decode"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame.pixels, frame.time

    def _mapped(self, reader: VideoReader) -> Generator[tuple[FrameResult, Fraction], None, None]:
        times: list[Fraction] = []

        def pixels() -> Iterator[np.ndarray]:
            for one, time in self._decoded(reader):
                times.append(time)
                yield one

        with contextlib.closing(self.mapper(pixels())) as results:
            for result in results:
                yield result, times[result.index]

    def _written(self, writer: VideoWriter) -> Callable[[tuple[np.ndarray, Fraction]], None]:
        def write(item: tuple[np.ndarray, Fraction]) -> None:
            with self.watch("encode"):
                writer.write(*item)

        return write

    def _name(self, writer: VideoWriter, record: VideoRecord) -> None:
        path = self.target if record.partial is None else partial_name(self.target)
        writer.rename(path)
        record.file = str(path)

    def _told(self, what: str, count: int | None) -> Callable[[], None]:
        return self.progress(what, count) if self.progress is not None else lambda: None


def partial_name(path: Path) -> Path:
    """What the map of a video that ended before its end is called."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class _Canvas:
    """One picture of the result: panels above, the strip below."""

    def __init__(self, reader: VideoReader, view: str, device: torch.device, count: int | None = None) -> None:
        self._view = view
        panels = 2 if view == "side" else 1
        self._size = (reader.height, panels * reader.width)
        self._zoom = min(MOST_ZOOM, -(-LEAST_WIDTH // self._size[1]))
        self.width = max(LEAST_WIDTH, self._zoom * self._size[1])
        self.strip = FrameChart(self.width, count or reader.count)
        self.height = self._zoom * self._size[0] + self.strip.height
        # Those that wait for the encoder, the one in its hands, and the one that is drawn.
        self._pictures = np.zeros((AHEAD + 2, self.height, self.width, 3), dtype=np.uint8)
        self._panels = torch.empty((*self._size, 3), dtype=torch.uint8, device=device)
        self._turn = 0

    def drawn(self, frame: Tensor, bits: Tensor, limit: float, row: FrameRow, count: int | None) -> np.ndarray:
        """uint8 ``[height, width, 3]``, in one of the buffers that take turns.

        Args:
            frame: uint8 ``[H, W, 3]``.
            bits: ``[H, W]``, bits per pixel, on the same device.
            limit: upper end of the colours.
        """
        width = frame.shape[1]
        panels = self._panels
        if self._view == "side":
            panels[:, :width] = frame
            apply_colormap(bits, limit, out=panels[:, width:])
        elif self._view == "overlay":
            overlay_bits(frame, bits, limit, out=panels)
        else:
            apply_colormap(bits, limit, out=panels)
        if self._zoom > 1:
            panels = panels.repeat_interleave(self._zoom, 0).repeat_interleave(self._zoom, 1)
        self._turn = (self._turn + 1) % len(self._pictures)
        picture = self._pictures[self._turn]
        picture[: panels.shape[0], panels.shape[1] :] = GROUND
        torch.from_numpy(picture)[: panels.shape[0], : panels.shape[1]] = panels
        picture[panels.shape[0] :] = self.strip.draw(row.index, _words(row, count), limit)
        return picture


def _words(row: FrameRow, count: int | None) -> str:
    of = f" of {count}" if count else ""
    kind = "" if row.kind == "image" else f"    {row.kind}"
    bits = f"{row.total_bits:,.0f} bits    {row.bpp:.3f} bits per pixel" if math.isfinite(row.bpp) else "infinite bits"
    return f"frame {row.index + 1}{of}    {row.time:.3f} s{kind}    {bits}"


def _row(result: FrameResult, time: Fraction) -> FrameRow:
    psnr = None
    if result.x_hat is not None:
        pixels = result.frame.permute(2, 0, 1)[None] / 255
        psnr = measure_psnr(result.x_hat, pixels)
    return FrameRow(
        index=result.index,
        time=float(time),
        kind=result.kind,
        total_bits=result.total_bits.item(),
        padding_bits=result.padding_bits.item(),
        bpp=result.bpp.item(),
        latent_bits={name: bits.double().sum().item() for name, bits in result.latent_bits.items()},
        psnr_db=psnr,
    )


def _limit_of(bits: Tensor) -> float:
    clip = ClipLimit()
    clip.add(bits)
    return clip.limit()


def _count(reader: VideoReader, frames: int | None) -> int | None:
    known = [count for count in (reader.count, frames) if count is not None]
    return min(known, default=None)


def _put_cells(spool: IO[bytes], cells: Mapping[str, Tensor]) -> None:
    for one in cells.values():
        spool.write(one.float().cpu().numpy().tobytes())


def _take_cells(spool: IO[bytes], grids: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """What ``_put_cells`` wrote next, float32 ``[1, h, w]`` of each latent."""
    taken = {}
    for name, (h, w) in grids.items():
        buffer = bytearray(spool.read(4 * h * w))
        taken[name] = torch.frombuffer(buffer, dtype=torch.float32).reshape(1, h, w)
    return taken
