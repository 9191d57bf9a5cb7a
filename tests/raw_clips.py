"""Raw videos for tests, and the same frames in other files."""

from __future__ import annotations

import functools
import io
from fractions import Fraction

import av
import numpy as np
from video_clips import picture

SIZE = (66, 48)  # width, height
FRAMES = 3


def frames_of(pixels: str, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> list[av.VideoFrame]:
    """Frames of that format of pixels: blocks of colours."""
    return _made(pixels, size, frames)


@functools.cache  # FFmpeg's threads do not always make the same of RGB where samples are deep
def _made(pixels: str, size: tuple[int, int], frames: int) -> list[av.VideoFrame]:
    made = [av.VideoFrame.from_ndarray(picture(index, size), format="rgb24") for index in range(frames)]
    return [frame.reformat(format=pixels) for frame in made]


def samples_of(frame: av.VideoFrame) -> bytes:
    """The bytes of a frame without what fills up rows."""
    found = []
    for index, plane in enumerate(frame.planes):
        parts = [one for one in frame.format.components if one.plane == index]
        step = (frame.format.components[0].bits + 7) // 8 * len(parts)
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        found.append(rows[: plane.height, : plane.width * step].tobytes())
    return b"".join(found)


@functools.cache
def raw(pixels: str, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> bytes:
    """A raw video's bytes."""
    return b"".join(map(samples_of, frames_of(pixels, size, frames)))


@functools.cache
def stored(container: str, codec: str, pixels: str, size: tuple[int, int] = SIZE) -> bytes:
    """The same frames in a file, lossless."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options={"strict": "-1"}) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        for index, frame in enumerate(frames_of(pixels, size)):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()
