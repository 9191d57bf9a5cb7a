"""Reading videos: a file in, RGB frames with their times out.

Whatever a file does to its decoder, the caller gets the frames that came before, and ``partial`` says why there are no
more; a video that gives no frame at all raises ``VideoError``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from ..choices import MATRICES, RANGES, check_choice, check_rate
from ..io.files import open_regular, shown
from .decoded import DecodedVideo
from .raw import layout_of
from .sequence import NumberedImages, is_sequence
from .source import MAX_MEMORY, MAX_PIXELS, TIMEOUT, Ended, VideoError, VideoFrame, VideoSource

__all__ = ["VideoError", "VideoFrame", "VideoReader"]


class VideoReader:
    """The frames of a video, one after the other.

        with VideoReader("in.mp4") as video:
            for frame in video:
                ...
        if video.partial:
            print(video.partial)

    Containers: MP4 and its kin, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, Ogg, FLV, ASF, IVF, GIF, Y4M, bare H.264, HEVC,
    AV1 and MPEG video, told by their content. Frames are turned as the video says they are to be shown (quarter turns
    and mirrors) and converted to RGB by their own matrix and range. Pixels that are not square are not scaled, alpha is
    dropped, HDR is not tone-mapped.

    Raw video (``.yuv``, or any file where ``size`` or ``pixel_format`` is given) has no header: what is not given is
    taken from the file's name, as in ``Beauty_1920x1080_120fps_420_10bit.yuv`` or ``foreman_cif.yuv``, or as usual
    (4:2:0, 25 frames a second), and told in ``warnings``. Numbered images are named by a pattern, ``frame_%04d.png``,
    or by their folder, and read in the order of their numbers.

    Damage is passed over as players do: what cannot be decoded is left out, what is decoded in part is made up for and
    the frame marked; afterwards ``partial`` names it, and a file that is cut short. Some damage leaves no sign: a
    changed bit that makes another valid picture, a cut between two packets of what states no length (bare streams,
    MPEG-TS, files written live).

    Args:
        path: the file, a folder of images, or a pattern of their names. Protocols and options are not looked for in it.
        size: of raw video: width and height, pixels.
        pixel_format: of raw video, FFmpeg's name: ``"yuv420p10le"``.
        rate: of raw video and numbered images: frames a second; a float such as 29.97 is taken as it is.
        matrix: ``"bt601"``, ``"bt709"``, ``"bt2020nc"``, ``"fcc"`` or ``"smpte240m"``, whatever the video states.
        range: ``"limited"`` (black is 16 of 255) or ``"full"``, whatever the video states.
        frames: stop after so many.
        timeout: seconds without a frame after which the decoder is ended.
        max_memory: bytes of address space that the decoder may use.
        max_pixels: of a frame, as stored.

    Attributes:
        width, height: of the frames as shown, pixels.
        rate: frames a second on average, as the container states it.
        count: frames, as the container states it; edits may show fewer.
        container, codec: FFmpeg's names.
        pixel_aspect: width of a pixel over its height, as shown.
        picture: how frames became RGB, by the first: ``matrix`` and ``range``, which of them the video states, which
            are chosen by the caller and which are taken as players do, and what is left as it is (``hdr``,
            ``primaries``, ``interlaced``, ``pixel_aspect``, ``transparent``). Of raw video also ``guessed``.
        warnings: what was guessed, and where frames depart from what a viewer shows, in words. Complete once all frames
            are read: what changes on the way is told, too.
        sandboxed: whether the decoder's system calls are filtered (Linux on x86_64 and aarch64).
        partial: after iteration, why the video ended before its end or what of it is damaged, one line; None when all
            is well, or ``frames`` were asked for and came undamaged.

    Raises:
        VideoError: missing, not a regular file, not a video, too large, or without a frame that can be decoded; raw
            video whose size is not known, or whose length or samples do not go with it; ``size`` and its like for a
            file that states its own.
        ImportError: PyAV is not installed.
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        size: tuple[int, int] | None = None,
        pixel_format: str | None = None,
        rate: Fraction | float | None = None,
        matrix: str | None = None,
        range: str | None = None,
        frames: int | None = None,
        timeout: float = TIMEOUT,
        max_memory: int = MAX_MEMORY,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._source: VideoSource | None = None
        for name, value in {
            "frames": frames,
            "timeout": timeout,
            "max_memory": max_memory,
            "max_pixels": max_pixels,
        }.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be greater than 0, got {value!r}")
        for name, chosen, known in (("matrix", matrix, MATRICES), ("range", range, RANGES)):
            if chosen is not None:
                check_choice(name, chosen, known)
        exact = None if rate is None else check_rate(rate)
        self._name, self._frames, self._taken = shown(Path(path)), frames, False
        self.partial: str | None = None
        if is_sequence(path):
            given = {"size": size, "pixel_format": pixel_format, "matrix": matrix, "range": range}
            for name, own in given.items():
                if own is not None:
                    raise VideoError(f"{self._name}: images have a {name} of their own; leave {name} out")
            self._source = NumberedImages(path, exact, frames, max_pixels)
        else:
            wishes = {"matrix": MATRICES.get(matrix or ""), "range": RANGES.get(range or "")}
            limits = timeout, max_memory, max_pixels
            self._source = self._decoded(path, size, pixel_format, exact, wishes, limits)
        facts = self._source.facts
        self.rate, self.count, self.container, self.codec = facts.rate, facts.count, facts.container, facts.codec
        self.sandboxed, self.pixel_aspect, self.picture = facts.sandboxed, facts.pixel_aspect, facts.picture
        self._warnings = facts.warnings
        try:
            self._first = self._next(0)
        except BaseException:
            self.close()
            raise
        if self._first is None:
            reason = self.partial or "it holds no frame"
            self.close()
            raise VideoError(f"{self._name}: no frame can be decoded: {reason}")
        self.height, self.width = self._first.pixels.shape[:2]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was guessed, and where frames depart from what a viewer shows."""
        return tuple(self._warnings)

    def _decoded(
        self,
        path: str | PathLike[str],
        size: tuple[int, int] | None,
        pixel_format: str | None,
        rate: Fraction | None,
        wishes: dict[str, Any],
        limits: tuple[float, int, int],
    ) -> DecodedVideo:
        """Start to decode a file, in a child."""
        video = open_regular(path, "a video", VideoError)
        try:
            layout = layout_of(Path(path), video, size, pixel_format, rate, limits[-1])
            if layout is None:
                return DecodedVideo(self._name, video, wishes, *limits)
            source = DecodedVideo(self._name, video, wishes | {"raw": layout.options}, *limits, layout.rate)
            source.facts.count = layout.count
            source.facts.picture["guessed"] = layout.guessed
            source.facts.warnings[:0] = layout.warnings
            return source
        finally:
            os.close(video)

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield the frames, once; open the file again to read it again."""
        if self._taken:
            raise ValueError(f"{self._name}: the frames have been read; open the video again")
        self._taken = True
        return self._all()

    def _all(self) -> Iterator[VideoFrame]:
        frame, self._first = self._first, None
        size, index = (self.height, self.width), 0
        while frame is not None:
            if frame.pixels.shape[:2] != size:
                height, width = frame.pixels.shape[:2]
                self._end(f"the size changes from {size[1]} x {size[0]} to {width} x {height} after {index} frames")
                break
            yield frame
            index += 1
            if index == self._frames:
                self._end()
                break
            frame = self._next(index)
        self.close()

    def _next(self, index: int) -> VideoFrame | None:
        """Return the next frame; None at the end, with the reason in ``partial`` unless it is the video's own."""
        if self._source is None:  # closed meanwhile
            return None
        try:
            return self._source.frame(index)
        except Ended as end:
            self._end(*end.reasons)
            return None

    def _end(self, *reasons: str) -> None:
        assert self._source is not None
        self.partial = "; ".join([*reasons, *self._source.remarks(reasons)]) or None

    def close(self) -> None:
        """End the decoder; may be called again."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
