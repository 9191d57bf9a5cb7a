"""Small videos for tests, made when they are asked for."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from video_beside import BESIDE

SIZE = (64, 48)  # width, height
FRAMES = 12
RATE = 25
FORMATS = {  # suffix: FFmpeg's names of container and codec, pixel format
    "mp4": ("mp4", "libx264", "yuv420p"),
    "mov": ("mov", "mpeg4", "yuv420p"),
    "mkv": ("matroska", "libx264", "yuv420p"),
    "avi": ("avi", "mpeg4", "yuv420p"),
    "webm": ("webm", "libvpx-vp9", "yuv420p"),
    "flv": ("flv", "libx264", "yuv420p"),
    "ts": ("mpegts", "libx264", "yuv420p"),
    "mpg": ("mpeg", "mpeg2video", "yuv420p"),
    "wmv": ("asf", "msmpeg4", "yuv420p"),
    "ogv": ("ogg", "libvpx", "yuv420p"),
    "ivf": ("ivf", "libvpx-vp9", "yuv420p"),
    "gif": ("gif", "gif", "rgb8"),
    "y4m": ("yuv4mpegpipe", "wrapped_avframe", "yuv420p"),
    "h264": ("h264", "libx264", "yuv420p"),
}


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 [H, W, 3]: blocks of eight pixels, of other colours in each frame."""
    width, height = size
    blocks = np.random.default_rng(index).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


class Pipe:
    """A file that can be written from its start to its end alone."""

    def __init__(self, file: io.BytesIO) -> None:
        self.write = file.write


@functools.cache
def clip(
    suffix: str,
    *,
    size: tuple[int, int] = SIZE,
    frames: int = FRAMES,
    pts: tuple[int, ...] | None = None,
    index_first: bool = False,
    movflags: str = "",
    keyframes: int = 250,
    codec: str | None = None,
    reordered: int | None = None,
    piped: bool = False,
    beside: str | None = None,
    pixels: str | None = None,
    labels: tuple[tuple[str, Any], ...] = (),
) -> bytes:
    """A video file's bytes.

    ``pts``: of each frame, in 1/25 s. ``index_first``: as an MP4 that can be cut has it; ``movflags``: or another kind.
    ``codec``: another than usual. ``reordered``: at most so many B-frames in a row. ``piped``: no length is filled in
    afterwards. ``beside``: what else it holds, a name of ``video_beside``. ``pixels``: another format of pixels.
    ``labels``: attributes of the encoder.
    """
    container, usual, pixel_format = FORMATS[suffix]
    pixel_format = pixels or pixel_format
    file = io.BytesIO()
    flags = "+faststart" if index_first else movflags
    options = {"movflags": flags} if flags else {}
    # What was written so far, for FFmpeg to move.
    back: Callable[..., io.BytesIO] | None = (lambda *_: io.BytesIO(file.getvalue())) if index_first else None
    encoder = {"g": str(keyframes)} | ({} if reordered is None else {"bf": str(reordered)})
    target = Pipe(file) if piped else file
    with av.open(target, "w", format=container, container_options=options, io_open=back) as output:
        stream = output.add_stream(codec or usual, rate=RATE, options=encoder)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        for label, value in labels:
            setattr(stream.codec_context, label, value)
        packets = BESIDE[beside](output, stream) if beside else []
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = (pts[index] if pts else index), Fraction(1, RATE)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        output.mux(packets)
    return file.getvalue()


def in_process(data: bytes) -> list[np.ndarray]:
    """The frames as PyAV alone gives them."""
    reformatter = VideoReformatter()
    with av.open(io.BytesIO(data)) as container:
        return [
            reformatter.reformat(
                frame,
                format="rgb24",
                src_colorspace="ITU601",
                src_color_range=frame.color_range,
                dst_color_range="JPEG",
            ).to_ndarray()
            for frame in container.decode(video=0)
        ]


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path
