"""Codecs of data sets that are mappers: pictures and videos from files and shards, bits by ``BitrateMapper``."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..cells.picture import CellGrid, PictureBits
from ..cells.quality import measure_ms_ssim, squared_error, to_decibels
from ..cells.regions import Names, areas_of
from ..checks import check_whole_number
from ..choices import CODED, DATASET_FILES
from ..io.decoding import ImageMemoryError
from ..io.files import shown
from ..io.images import ImageError
from ..mapping.coded_video import CodedFrameMapper
from ..mapping.frames import IMAGE, FrameMapper
from ..mapping.layout import BitrateResult
from ..mapping.mapper import BitrateMapper
from ..mapping.sequential import KEYFRAME
from ..models.demo_codec import load_demo_forward
from ..receptive_field.fingerprint import fingerprint
from ..video.reader import VideoReader
from ..video.source import USUAL_RATE, VideoError
from .codec import GPU, About, Read, Unreadable
from .files import FRAMES, PARQUET, make_files
from .items import Item
from .reading import Picture, PictureReader, failures, file_of, hash_of, pixels_of, reason_of
from .rescue import measure_in_tiles, with_warning
from .rows import frames_to_parquet

_SAMPLE = 64  # pixels a side of the picture that shows which latents a model has
VideoMapper = FrameMapper | CodedFrameMapper


class PictureCodec:
    """Measure pictures, and videos frame by frame, with a mapper; see ``run``, whose ``make`` makes one in each worker.

    Args:
        mapper: of the model, with ``channels=True`` for ``top_channels``; a ``FrameMapper`` of a codec of video, with
            ``reconstruction=True`` for PSNR, or for coded bits a ``CodedFrameMapper``, to which a picture is a video of
            one frame.
        name: of the model, for the column "model".
        settings: what else the numbers depend on: the mapper's options, and those of ``forward``; values that JSON has.
        device: that the model is on.
        forward: arguments for the model's ``forward``.
        write: kinds of files beside the rows: "cells", "png", "page"; of videos "frames", what each of them costs.
        ms_ssim: whether MS-SSIM is measured, too.
        top_channels: how many of the costliest channels are told.
        names: of the labels of masks, as for ``PictureBits.region``; see ``find_items`` for where masks are.
        threads: of PyTorch. Convolutions round by it, so that it is one of the settings.
        fallback: makes the codec that measures on the CPU what the GPU failed over. Default: such pictures are errors.

    Raises:
        ValueError: another kind of file, ``top_channels`` of a mapper that keeps none, a ``FrameMapper`` of a model
            that codes each frame by itself.
    """

    def __init__(
        self,
        mapper: BitrateMapper | VideoMapper,
        *,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
        forward: Mapping[str, Any] | None = None,
        write: Sequence[str] = (),
        ms_ssim: bool = False,
        top_channels: int = 0,
        names: Names = None,
        threads: int = 1,
        fallback: Callable[[], PictureCodec] | None = None,
    ) -> None:
        if not set(write) <= set(DATASET_FILES):
            raise ValueError(f"write must be some of {', '.join(map(repr, DATASET_FILES))}, got {list(write)!r}")
        check_whole_number("threads", threads, 1)
        check_whole_number("top_channels", top_channels, 0)
        self._mapper, self._device, self._forward = mapper, torch.device(device), dict(forward or {})
        self._ms_ssim, self._top, self._names, self._threads = ms_ssim, top_channels, names, threads
        self._fallback, self.reader = fallback, PictureReader(sequential=isinstance(mapper, VideoMapper))
        self.remarks: tuple[str, ...] = ()  # that all rows have among their warnings
        known: dict[str, Any] = {}
        model: Any
        with self._few_threads():
            sample = torch.zeros(1, 3, _SAMPLE, _SAMPLE, device=self._device)
            if isinstance(mapper, VideoMapper):
                if isinstance(mapper, CodedFrameMapper):
                    known["bits"], model = CODED, mapper.model
                elif not mapper.sequential:
                    raise ValueError("mapper must be a BitrateMapper: its model codes each frame by itself")
                else:
                    model = mapper.placed(KEYFRAME).adapter.module
                if top_channels:
                    raise ValueError("top_channels is for codecs of pictures, and this is one of video")
                known["group"] = mapper.group
                latents = tuple(dict.fromkeys(name for two in mapper([*sample] * 2) for name in two.latent_bits))
            else:
                model = mapper.model
                mapper.resolve(sample, dict(self._forward))
                if top_channels and not mapper(sample, **self._forward).channel_bits:
                    raise ValueError(
                        "top_channels needs a mapper that keeps channels: BitrateMapper(model, channels=True)"
                    )
                latents = tuple(mapper.strides)
        weights = fingerprint(model, (), (), {}) if isinstance(model, nn.Module) else repr(model)
        known |= {"device": self._device.type, **(settings or {}), "weights": weights, "forward": self._forward}
        known |= {"ms_ssim": ms_ssim, "top_channels": top_channels, "threads": threads}
        known |= {"write": sorted(write), "names": sorted(names.items()) if isinstance(names, Mapping) else names}
        kinds = tuple(kind for kind in DATASET_FILES if kind in write)
        self.about = About(name or type(model).__name__, latents, known, kinds)

    @classmethod
    def demo(cls, quality: int, **options: Any) -> PictureCodec:
        """Make one of the demo codec, with options of ``PictureCodec``."""
        mapper = BitrateMapper(load_demo_forward(quality), channels=bool(options.get("top_channels")))
        return cls(mapper, name=f"demo codec, quality {quality}", **options)

    def read(self, item: Item) -> Read:
        """Read and hash a picture with its mask, and decode it; see ``PictureReader``."""
        return self.reader(item)

    @failures()
    def rescue(self, item: Item, lack: str, alive: Callable[[], None]) -> tuple[Read, dict[str, Any]]:
        """Measure an item by itself: a picture in tiles for want of memory, on the CPU where that was asked for.

        Raises:
            Unreadable: it cannot be read, or nothing else may be tried.
            MemoryError: also this takes more memory than there is.
        """
        if lack == GPU:
            if self._fallback is None:
                raise Unreadable("the GPU failed over it; --fallback cpu measures such pictures on the CPU")
            other = self._fallback()
            return other._alone(item, "measured on the CPU: the GPU failed over it", alive)
        if isinstance(self._mapper, VideoMapper) or self._mapper.bits == CODED or item.is_video:  # by the whole picture
            return self._alone(item, "measured alone, for want of memory", alive)
        with file_of(item) as path:
            try:
                sha256 = hash_of(path, "an image")
                read = Read(sha256, None, None, None if item.mask is None else hash_of(item.mask, "a mask"))
                alive()
                with self._few_threads():
                    numbers = measure_in_tiles(self._mapper, path, self._forward, alive)
            except ImageMemoryError:
                raise
            except ImageError as error:
                raise Unreadable(reason_of(error, path)) from error
        left_out = [*["regions"] * bool(item.mask), *["top channels"] * bool(self._top), *self.about.files]
        left_out += ["MS-SSIM"] * self._ms_ssim
        return read, with_warning(numbers, f"without {', '.join(left_out)}") if left_out else numbers

    def _alone(self, item: Item, why: str, alive: Callable[[], None]) -> tuple[Read, dict[str, Any]]:
        read, found = self.read(item), dict[str, Any]()
        for numbers in self.measure([read.picture]):
            alive()
            found = numbers or found
        return read, with_warning(found, why)

    def measure(self, pictures: Sequence[Picture]) -> Iterator[dict[str, Any] | None]:
        """Run the model on pictures of one size, or on the frames of a video, and add up their bits.

        Raises:
            Unreadable: a video that cannot be read, a mask that does not fit.
        """
        with failures(), self._few_threads():
            if pictures[0].pixels is None:
                yield from self._measure_video(pictures[0])
                return
            result = self._run(torch.cat([one.pixels for one in pictures if one.pixels is not None]))
            for number, one in enumerate(pictures):
                total = _Total(self._ms_ssim)
                total.add(result, number, one.pixels, self.about.model)
                yield self._row(one, total, (*one.warnings, *result.warnings))

    def _measure_video(self, video: Picture) -> Iterator[dict[str, Any] | None]:
        total, seconds, warnings = _Total(self._ms_ssim), 0.0, tuple[str, ...]()
        with file_of(video.item) as path:
            try:
                with VideoReader(path) as reader, contextlib.closing(self._frames(reader)) as frames:
                    for time, pixels, result in frames:
                        total.add(result, 0, pixels, self.about.model, time)
                        seconds = time + 1 / float(reader.rate or USUAL_RATE)
                        warnings = warnings or result.warnings
                        yield None
            except VideoError as error:
                reason = reason_of(error, path).partition("; raw video")[0]  # whose size is not asked for here
                raise Unreadable(reason, video.sha256) from error
        ended = () if reader.partial is None else (f"{reader.partial}; measured as far as it goes",)
        yield self._row(video, total, (*reader.warnings, *warnings, *ended)) | {"duration_s": seconds}

    def _frames(self, reader: VideoReader) -> Generator[tuple[float, Tensor, BitrateResult], None, None]:
        """Yield the seconds of each frame, its pixels, and what they cost."""
        if not isinstance(self._mapper, VideoMapper):
            for frame in reader:
                pixels = pixels_of(frame.pixels)
                yield float(frame.time), pixels, self._run(pixels)
            return
        times = deque[float]()  # of frames that are read ahead

        def read() -> Iterator[NDArray[np.uint8]]:
            for frame in reader:
                times.append(float(frame.time))
                yield frame.pixels

        for result in self._mapper(read()):
            yield times.popleft(), pixels_of(result.frame.cpu()), result

    def _run(self, x: Tensor) -> BitrateResult:
        if isinstance(self._mapper, VideoMapper):
            (frame,) = self._mapper(x.to(self._device))
            return frame
        return self._mapper(x.to(self._device), **self._forward)

    def _row(self, one: Picture, total: _Total, warnings: Sequence[str]) -> dict[str, Any]:
        """Return the numbers of a picture, or of a video's frames together, and the files beside them."""
        bits, frames = replace(total.mean(), warnings=tuple(dict.fromkeys((*warnings, *self.remarks)))), total.frames
        height, width = bits.size
        row: dict[str, Any] = {"height": height, "width": width, "frames": frames, "bits": bits.total_bits * frames}
        row["latents"] = {name: value * frames for name, value in bits.latent_bits.items()}
        row |= {"padding_bits": total.padding_bits, "bpp": bits.bpp, "file_bytes": total.file_bytes}
        row |= {"psnr_db": total.psnr_db, "ms_ssim": total.ms_ssim}
        if self._top:
            row["top_channels"] = _top_channels(bits.channel_bits, frames, self._top)
        if one.labels is not None:
            row["regions"] = self._regions(one, bits, frames)
        row["warnings"] = "; ".join(bits.warnings) or None
        if self.about.files:
            facts = {"input": one.item.name, "SHA-256 of the input": one.sha256}
            row["files"] = make_files(bits, self.about.files, one.item.name, facts)
            if FRAMES in self.about.files and one.item.is_video:
                row["files"][FRAMES, PARQUET] = frames_to_parquet(one.item.name, total.rows, self.about.latents)
        return row

    def _regions(self, one: Picture, bits: PictureBits, frames: int) -> list[dict[str, Any]]:
        """Return what regions cost, the rest among them; of a video in all frames together."""
        try:
            table = bits.region(areas_of(one.labels, bits.size, self._names))  # type: ignore[arg-type]
        except ValueError as error:
            raise Unreadable(f"mask {shown(one.item.mask or '')}: {error}", one.sha256) from error
        whole = ((row.name, row.pixels * frames, row.bits * frames, row.psnr_db) for row in table.rows)
        return [dict(zip(("name", "pixels", "bits", "psnr_db"), row, strict=True)) for row in whole]

    @contextlib.contextmanager
    def _few_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class _Total:
    """What the frames of a video cost together, or one picture: a frame is added at a time, none is kept but the first.

    Args:
        ms_ssim: whether it is measured.
    """

    def __init__(self, ms_ssim: bool) -> None:
        self._similarity: list[float | None] | None = [] if ms_ssim else None
        self._first: PictureBits | None = None
        self._grids: dict[str, CellGrid] = {}
        self._cells: dict[str, Tensor] = {}
        self._channels: dict[str, Tensor] = {}
        self._elsewhere: dict[str, float] = {}
        self._error: float | None = 0.0
        self._values = 0
        self.rows: list[dict[str, Any]] = []  # of a video, what each frame costs
        self.frames, self.padding_bits = 0, 0.0
        self.file_bytes: int | None = None

    def add(self, result: BitrateResult, number: int, x: Tensor | None, name: str, time: float | None = None) -> None:
        """Add an image of a result, ``x`` ``[1, 3, H, W]``; of a video with its time, seconds."""
        assert x is not None
        bits = result.image(number, name=name, picture=x)
        self._first = self._first or bits
        self.frames += 1
        self._values += x.numel()
        self.padding_bits += float(result.padding_bits[number])
        if bits.file_bytes is not None:
            self.file_bytes = (self.file_bytes or 0) + bits.file_bytes
        self._grids = {**bits.grids, **self._grids}
        _add(self._cells, {latent: grid.bits for latent, grid in bits.grids.items()})
        _add(self._channels, bits.channel_bits)
        _add(self._elsewhere, bits.elsewhere)
        x_hat = None if result.x_hat is None else result.x_hat[number : number + 1]
        error = None if x_hat is None else squared_error(x_hat, x)
        self._error = None if error is None or self._error is None else self._error + error
        if time is not None:
            row = {"time_s": time, "kind": getattr(result, "kind", IMAGE), "bits": bits.total_bits, "bpp": bits.bpp}
            row |= {"latents": bits.latent_bits, "padding_bits": float(result.padding_bits[number])}
            row["file_bytes"] = bits.file_bytes
            self.rows.append(row | {"psnr_db": None if error is None else to_decibels(error / x.numel())})
        if self._similarity is not None:
            self._similarity.append(None if x_hat is None else measure_ms_ssim(x_hat, x))

    @property
    def psnr_db(self) -> float | None:
        """PSNR of the mean squared error over all frames, dB."""
        return None if self._error is None else to_decibels(self._error / self._values)

    @property
    def ms_ssim(self) -> float | None:
        """Mean over frames."""
        known = [one for one in self._similarity or () if one is not None]
        return sum(known) / len(known) if known else None

    def mean(self) -> PictureBits:
        """Return the bits of a picture; of several frames their mean, over the first of them."""
        assert self._first is not None
        if self.frames == 1:
            return self._first
        first, scale = self._first, 1 / self.frames
        return replace(
            first,
            name=f"{first.name}, mean of {self.frames} frames",
            grids={key: replace(grid, bits=self._cells[key] * scale, guide=None) for key, grid in self._grids.items()},
            elsewhere={what: bits * scale for what, bits in self._elsewhere.items()},
            channel_bits={name: bits * scale for name, bits in self._channels.items()},
            file_bytes=None,
            reconstruction=None,
            symbol_bits={},
        )


def _add(sums: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        sums[key] = sums[key] + value if key in sums else value


def _top_channels(channels: Mapping[str, Tensor], frames: int, count: int) -> list[dict[str, Any]]:
    """Return the channels with the most bits, the costliest first; equal ones by their places."""
    every = [
        {"latent": name, "channel": number, "bits": value * frames}
        for name, bits in channels.items()
        for number, value in enumerate(bits.tolist())
    ]
    return sorted(every, key=lambda one: -one["bits"])[:count]
