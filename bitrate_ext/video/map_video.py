"""A video in, the same video with its bitrate map out: read, run, map, colour and write, each while the others work.

With one scale of colours for the whole clip there are two passes: the first runs the network and keeps the bits of each
cell on disk (a few bytes a cell), the second draws. With a scale that is known before, or one for each frame, there is
one pass.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..choices import PARTIAL, RATES, SCALES, VIEWS, check_choice
from ..io.files import shown
from ..mapping.frames import FrameMapper, FrameResult
from ..ops.functional import bitrate_map
from ..threads import Stopwatch, prefetch
from ..viz.colormap import ClipLimit, inside_rim
from .panels import PanelPainter
from .reader import VideoError, VideoReader
from .record import FrameRow, VideoRecord
from .source import USUAL_RATE
from .writer import ASPECTS, VideoWriter

AHEAD = 2  # items that wait between two stages
Progress = Callable[[str, int | None], Callable[[], None]]  # (what is done, of how many) to a call for each


def map_video(
    source: str | PathLike[str],
    target: str | PathLike[str],
    mapper: FrameMapper,
    *,
    view: str = "side",
    scale: str | float = "clip",
    frames: int | None = None,
    reading: Mapping[str, Any] | None = None,
    crf: int = 18,
    preset: str = "veryfast",
    progress: Progress | None = None,
    watch: Stopwatch | None = None,
    seen: Callable[[FrameResult], None] | None = None,
) -> VideoRecord:
    """Write a video with its bitrate map, and say what each frame costs.

    A video that is damaged or cut short is mapped as far as it goes: then the file is called ``NAME.partial.mp4`` and
    the record says why.

    Args:
        source: the video file, a folder of images or a pattern of their names, as ``VideoReader`` takes it.
        target: the file to write, as ``VideoWriter`` takes it. It has its name once it is whole.
        mapper: has the model.
        view: ``"side"`` (frame and map beside each other), ``"overlay"`` or ``"map"``. Below are the bits of each
            frame by latent.
        scale: of the colours: ``"clip"`` (one for all frames; the video is read twice), ``"frame"``, or its upper end
            in bits per pixel.
        frames: at most so many.
        reading: what ``VideoReader`` is told of it: ``size``, ``pixel_format``, ``rate``, ``matrix``, ``range``.
        crf, preset: of the encoder.
        progress: is told how far it is.
        watch: adds up seconds by stage: "decode", "network", "map", "colour", "encode". Stages overlap.
        seen: is given the result of each frame, in their order; its map does not stay.

    Raises:
        VideoError: the video cannot be read, or states a rate that ``VideoWriter`` does not take.
        ValueError, TypeError: as ``FrameMapper`` and ``VideoWriter``; unknown view or scale.
        OSError: the result cannot be written.
    """
    check_choice("view", view, VIEWS)
    if isinstance(scale, str) and scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))} or a number, got {scale!r}")
    if not isinstance(scale, str) and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive and finite, got {scale!r}")
    encoder, watch = {"crf": crf, "preset": preset}, watch or Stopwatch()
    options = view, scale, frames, reading or {}, encoder, progress, watch, seen
    return _Job(Path(source), Path(target), mapper, *options).run()


@dataclass
class _Scene:
    """A frame that is to be drawn."""

    frame: Tensor  # uint8 [H, W, 3], on the mapper's device
    bits: Tensor  # [H, W], bits per pixel
    limit: float  # upper end of the colours, bits per pixel
    row: FrameRow
    time: Fraction


@dataclass
class _Job:
    source: Path
    target: Path
    mapper: FrameMapper
    view: str
    scale: str | float
    frames: int | None
    reading: Mapping[str, Any]
    encoder: dict[str, Any]
    progress: Progress | None
    watch: Stopwatch
    seen: Callable[[FrameResult], None] | None = None
    rows: list[FrameRow] = field(default_factory=list)  # of the frames that are mapped
    warnings: tuple[str, ...] = ()

    def run(self) -> VideoRecord:
        if self.scale != "clip":
            limit = None if isinstance(self.scale, str) else float(self.scale)
            with self._open(self.frames) as reader:
                scenes = prefetch(self._map_scenes(reader, limit), 1)
                return self._draw("mapping", reader, scenes, limit, self._known_count(reader))
        with tempfile.TemporaryFile(prefix="bitrate-ext-") as spool:
            limit, partial = self._measure(spool)
            spool.seek(0)
            with self._open(len(self.rows)) as reader:
                scenes = prefetch(self._map_spooled(reader, spool, limit), AHEAD)
                return self._draw("drawing", reader, scenes, limit, len(self.rows), partial)

    def _measure(self, spool: IO[bytes]) -> tuple[float, str | None]:
        """Run the first pass; return the upper end of the clip's colours, and why it ended before its end."""
        clip = ClipLimit()
        with self._open(self.frames) as reader:
            done = self._begin("measuring", self._known_count(reader))
            with contextlib.closing(prefetch(self._map(reader), 1)) as results:
                for result, time in results:
                    self._add(result, time)
                    clip.add(inside_rim(result.map[0, 0], result.rim))
                    _put_cells(spool, result.latent_bits)
                    done()
            return clip.limit(), reader.partial

    def _draw(
        self,
        what: str,
        reader: VideoReader,
        scenes: Generator[_Scene, None, None],
        limit: float | None,
        count: int | None,
        partial: str | None = None,
    ) -> VideoRecord:
        """Draw and write all scenes."""
        known = len(self.rows) or None  # after a first pass
        painter = PanelPainter(
            (reader.height, reader.width),
            self.view,
            self.mapper.device,
            buffers=AHEAD + 2,  # those that wait for the encoder, the one in its hands, and the one that is drawn
            count=known or reader.count,
            rows=tuple(self.rows),
        )
        rate = reader.rate or USUAL_RATE

        def draw() -> Iterator[tuple[NDArray[np.uint8], Fraction]]:
            for scene in scenes:
                with self.watch("colour"):
                    pixels = painter.draw(scene.frame, scene.bits, scene.limit, scene.row, known)
                yield pixels, scene.time

        drawn = prefetch(draw(), AHEAD)
        aspect = reader.pixel_aspect if ASPECTS[0] <= reader.pixel_aspect <= ASPECTS[1] else Fraction(1)
        encoder = {**self.encoder, "pixel_aspect": aspect}
        with (
            VideoWriter(self.target, painter.width, painter.height, rate, **encoder) as writer,
            contextlib.closing(scenes),
            contextlib.closing(drawn),
        ):
            done = self._begin(what, count)
            for pixels, time in drawn:
                with self.watch("encode"):
                    writer.write(pixels, time)
                done()
            partial = partial or reader.partial
            path = self.target if partial is None else partial_name(self.target)
            writer.rename(path)
        return VideoRecord(
            width=reader.width,
            height=reader.height,
            rate=float(rate),
            scale=self.scale if isinstance(self.scale, str) else "value",
            limit=limit,
            partial=partial,
            frames=self.rows,
            warnings=reader.warnings + self.warnings,
            picture=reader.picture,
            file=str(path),
        )

    def _map_scenes(self, reader: VideoReader, limit: float | None) -> Iterator[_Scene]:
        for result, time in self._map(reader):
            bits = result.map[0, 0]
            yield _Scene(
                result.frame, bits, limit or _frame_limit(inside_rim(bits, result.rim)), self._add(result, time), time
            )

    def _map_spooled(self, reader: VideoReader, spool: IO[bytes], limit: float) -> Iterator[_Scene]:
        """Read the video a second time; maps are those of the cells that were kept."""
        decoded = self._decode(reader)
        for row in self.rows:
            pixels, time = next(decoded, (None, None))
            if pixels is None or time is None:
                raise VideoError(
                    f"{shown(self.source)}: read a second time, it ends after {row.index} of {len(self.rows)} frames "
                    f"({reader.partial or 'it has changed'})"
                )
            with self.watch("map"):
                bits = self._map_cells(row.kind, spool, pixels.shape[0], pixels.shape[1])
            yield _Scene(torch.from_numpy(pixels).to(self.mapper.device), bits, limit, row, time)

    def _map_cells(self, kind: str, spool: IO[bytes], height: int, width: int) -> Tensor:
        placed = self.mapper.placed(kind)
        size, crop = placed.adapter.canvas(height, width)
        cells = {name: one.to(self.mapper.device) for name, one in _take_cells(spool, placed.adapter.grids(size))}
        whole: Tensor = bitrate_map(
            cells, size, crop=crop, projection=placed.projections, dtype=torch.float32, unit="bits"
        )
        return whole[0, 0]

    def _map(self, reader: VideoReader) -> Iterator[tuple[FrameResult, Fraction]]:
        times: list[Fraction] = []

        def pixels() -> Iterator[NDArray[np.uint8]]:
            for one, time in self._decode(reader):
                times.append(time)
                yield one

        with contextlib.closing(self.mapper(pixels())) as results:
            for result in results:
                yield result, times[result.index]

    def _decode(self, reader: VideoReader) -> Iterator[tuple[NDArray[np.uint8], Fraction]]:
        frames = iter(reader)
        while True:
            with self.watch("decode"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame.pixels, frame.time

    def _add(self, result: FrameResult, time: Fraction) -> FrameRow:
        if not self.rows:
            self.warnings = result.warnings
        self.rows.append(FrameRow.of(result, time))
        if self.seen is not None:
            self.seen(result)
        return self.rows[-1]

    def _open(self, frames: int | None) -> VideoReader:
        reader = VideoReader(self.source, frames=frames, **self.reading)
        rate = reader.rate or USUAL_RATE
        if not RATES[0] <= rate <= RATES[1]:
            reader.close()
            raise VideoError(
                f"{shown(self.source)}: states {float(rate):g} frames a second, and videos of {float(RATES[0]):g} to "
                f"{RATES[1]} can be written; map a copy that states another rate"
            )
        return reader

    def _known_count(self, reader: VideoReader) -> int | None:
        return min((count for count in (reader.count, self.frames) if count is not None), default=None)

    def _begin(self, what: str, count: int | None) -> Callable[[], None]:
        return self.progress(what, count) if self.progress is not None else lambda: None


def partial_name(path: Path) -> Path:
    """Return what the map of a video that ended before its end is called."""
    return path.with_name(f"{path.stem}{PARTIAL}{path.suffix}")


def _frame_limit(bits: Tensor) -> float:
    clip = ClipLimit()
    clip.add(bits)
    return clip.limit()


def _put_cells(spool: IO[bytes], cells: Mapping[str, Tensor]) -> None:
    for one in cells.values():
        spool.write(one.float().cpu().numpy().tobytes())


def _take_cells(spool: IO[bytes], grids: Mapping[str, tuple[int, int]]) -> Iterable[tuple[str, Tensor]]:
    """Yield what ``_put_cells`` wrote next, float32 ``[1, h, w]`` of each latent."""
    for name, (h, w) in grids.items():
        yield name, torch.frombuffer(bytearray(spool.read(4 * h * w)), dtype=torch.float32).reshape(1, h, w)
