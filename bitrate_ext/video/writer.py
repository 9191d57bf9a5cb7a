"""Writing videos: RGB frames with their times in, H.264 in MP4, QuickTime or Matroska out, all of it or nothing."""

from __future__ import annotations

import contextlib
import math
import os
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..atomic import PartialFile
from ..choices import CONTAINERS, LARGEST_CRF, PRESETS, check_rate
from ..optional import require

TICK = Fraction(1, 90_000)  # seconds; holds the frames of all usual rates exactly
MATROSKA_TICK = Fraction(1, 1000)  # what its muxer keeps
ASPECTS = Fraction(1, 16), Fraction(16)  # of a pixel: least and most; FFmpeg leaves out what makes a side vanish
MOST_PIXELS = 16_384  # of a side: what x264 takes
_BT709, _TV_RANGE = 1, 1  # FFmpeg's AVColorSpace and kin, AVColorRange


class _WholeWrites:
    """An unbuffered file as FFmpeg needs it: a full disk takes the part that fits, and FFmpeg asks not how much."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        return len(data)


class VideoWriter:
    """A video file, written frame by frame.

        with VideoWriter("out.mp4", 640, 480, Fraction(25)) as video:
            video.write(pixels, Fraction(0))

    The file gets its name once the block has ended well, and replaces what had it; until then it has a temporary one in
    the same folder. After an error nothing is left. Colours are BT.709, limited range, and labelled so. Chroma is kept
    for two by two pixels (4:2:0, which every player shows): where a side is odd, its last row or column is repeated.

    Args:
        path: ends in .mp4, .m4v, .mov or .mkv, which chooses the container.
        width, height: of the frames, pixels.
        rate: frames a second on average; how long the last frame is shown follows from it.
        crf: x264's constant rate factor, 0 (lossless but for colour) to 51. 18 is hard to tell from the source.
        preset: x264's, from ``"ultrafast"`` (large files) to ``"placebo"``.
        pixel_aspect: width of a pixel over its height, which players stretch frames by.

    Raises:
        ValueError: an argument out of range.
        OSError: the file cannot be written; also from ``write`` and the end of the block, a full disk, for instance.
        ImportError: PyAV is not installed.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        width: int,
        height: int,
        rate: Fraction,
        *,
        crf: int = 18,
        preset: str = "veryfast",
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        self._partial: PartialFile | None = None
        self._path = target = Path(path)
        container = CONTAINERS.get(target.suffix.lower())
        if container is None:
            raise ValueError(f"path must end in one of {', '.join(CONTAINERS)}, got {str(path)!r}")
        for name, value in {"width": width, "height": height}.items():
            if not 1 <= value <= MOST_PIXELS:
                raise ValueError(f"{name} must be 1 to {MOST_PIXELS:,} pixels, got {value!r}")
        exact = check_rate(rate)
        if not ASPECTS[0] <= pixel_aspect <= ASPECTS[1]:
            raise ValueError(f"pixel_aspect must be {ASPECTS[0]} to {ASPECTS[1]}, got {pixel_aspect}")
        if not 0 <= crf <= LARGEST_CRF:
            raise ValueError(f"crf must be 0 to {LARGEST_CRF}, got {crf!r}")
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        self.width, self.height, self.rate = width, height, exact
        self._av = require("av")
        self._tick = MATROSKA_TICK if container == "matroska" else TICK
        self._last: int | None = None  # ticks
        self._partial = PartialFile(target, buffering=0)
        try:
            self._open(self._partial, container, crf, preset, pixel_aspect)
        except BaseException:
            self._discard()
            raise

    def _open(self, partial: PartialFile, container: str, crf: int, preset: str, pixel_aspect: Fraction) -> None:
        """Begin; FFmpeg is given no name, and reads back what it wrote to put an MP4 file's index first."""
        self._container = self._av.open(
            _WholeWrites(partial.file),
            "w",
            format=container,
            container_options={"movflags": "+faststart"} if container != "matroska" else {},
            io_open=lambda *_: partial.path.open("rb"),
        )
        stream = self._container.add_stream("libx264", self.rate, options={"crf": str(crf), "preset": preset})
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._tick
        for label in ("colorspace", "color_primaries", "color_trc"):
            setattr(stream.codec_context, label, _BT709)
        stream.codec_context.color_range = _TV_RANGE
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(255)
        self._stream = stream
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._picture = self._av.VideoFrame(stream.width, stream.height, "rgb24")  # filled anew for each frame
        plane = self._picture.planes[0]
        self._rows = np.frombuffer(plane, np.uint8).reshape(stream.height, plane.line_size)

    def write(self, pixels: NDArray[np.uint8], time: Fraction) -> None:
        """Add a frame.

        Args:
            pixels: uint8 ``[H, W, 3]``, red, green, blue.
            time: seconds; later than the frame's before, or else it is shown right after that.
        """
        if self._partial is None:
            raise ValueError(f"{self._path}: the video has been closed")
        expected = (self.height, self.width, 3)
        if pixels.dtype != np.uint8 or pixels.shape != expected:
            raise ValueError(f"pixels must be uint8 {list(expected)}, got {pixels.dtype} {list(pixels.shape)}")
        ticks = math.floor(time / self._tick + Fraction(1, 2))
        if self._last is not None:
            ticks = max(ticks, self._last + 1)
        self._last = ticks
        self._fill(pixels)
        frame = self._reformatter.reformat(
            self._picture, format="yuv420p", dst_colorspace=_BT709, dst_color_range=_TV_RANGE
        )
        frame.pts, frame.time_base = ticks, self._tick
        frame.duration = max(1, round(1 / (self.rate * self._tick)))
        self._container.mux(self._stream.encode(frame))

    def _fill(self, pixels: NDArray[np.uint8]) -> None:
        """Copy a frame; where a side is odd, its last row or column stands twice."""
        row = 3 * self.width
        self._rows[: self.height, :row] = pixels.reshape(self.height, row)
        if self.width % 2:
            self._rows[: self.height, row : row + 3] = pixels[:, -1]
        if self.height % 2:
            self._rows[self.height] = self._rows[self.height - 1]

    def rename(self, path: str | PathLike[str]) -> None:
        """Give the file another name, in the same folder, than it was opened with."""
        if self._partial is not None:
            self._partial.target = self._partial.target.with_name(Path(path).name)

    def close(self) -> None:
        """Write what is left and give the file its name; or leave nothing, where there was no frame or that fails."""
        if self._partial is None:
            return
        try:
            if self._last is None:
                raise ValueError(f"{self._partial.target}: no frame was written")
            self._container.mux(self._stream.encode(None))
            self._container.close()
            os.fsync(self._partial.file.fileno())
            self._partial.finish()
            self._partial.publish()
        finally:
            self._discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._discard()

    def _discard(self) -> None:
        """Close all and remove the temporary file. What goes wrong here is not said: something else did before."""
        partial, self._partial = self._partial, None
        if partial is not None:
            with contextlib.suppress(Exception):
                self._container.close()
            partial.discard()
