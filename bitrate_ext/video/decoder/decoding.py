"""The video, as messages: what the container states, frames as RGB, and what was found amiss."""

from __future__ import annotations

import errno
import gc
import json
import operator
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .picture import Chosen, Picture, rotation_of
from .protocol import DONE, FRAM, FRAME, INFO, NO_PTS, TELL, message
from .truncation import Input, is_cut_short, stated_frames, time_missing

READ_BYTES = 1 << 18  # of the video at a time

RAW, Y4M, Y4M_HEADER = "rawvideo", "yuv4mpegpipe", b"YUV4MPEG2"
# FFmpeg's names of the containers that are read. None of these opens another file; playlists and image sequences do.
CONTAINERS = {
    "mov": "MP4", "matroska": "Matroska", "webm": "WebM", "avi": "AVI", "mpegts": "MPEG-TS", "mpeg": "MPEG-PS",
    "mpegvideo": "MPEG video", "ogg": "Ogg", "flv": "FLV", "asf": "ASF", "ivf": "IVF", "obu": "AV1", "h264": "H.264",
    "hevc": "HEVC", Y4M: "Y4M", "gif": "GIF"
}  # fmt: skip
# Of these, packets have the time at which they are decoded alone; what FFmpeg makes of it jumps where frames are stored
# in another order than they are shown in.
DECODE_TIMES = {"avi", "asf"}
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0", b"[playlist]")  # how they begin
MOST_THREADS = 8
CUT = "the file is cut short"


class Unreadable(Exception):
    """Why the video cannot be read, in words for the user."""


def refuse_to_open(url: str, flags: int, options: dict[str, str]) -> Any:
    """Refuse what FFmpeg asks to open besides the video."""
    raise Unreadable("the video refers to another file, which is not opened")


def open_container(video: Input, raw: dict[str, str] | None = None) -> Any:
    """Open the video as PyAV's container, or as raw video with these options of FFmpeg's; raises Unreadable."""
    import av

    readable = ",".join(CONTAINERS) if raw is None else RAW
    strict = int(av.__version__.split(".")[0]) < 19  # later ones take metadata of any bytes, and no word on it
    try:
        return av.open(
            video,
            "r",
            format=None if raw is None else RAW,
            container_options={"format_whitelist": readable, "protocol_whitelist": "none", **(raw or {})},
            **({"metadata_errors": "replace"} if strict else {}),
            buffer_size=READ_BYTES,
            io_open=refuse_to_open,
        )
    except av.error.FFmpegError as error:
        header = video.at(0, 80).split(b"\n")[0]
        if header.startswith(Y4M_HEADER):
            raise Unreadable(f"its Y4M header states what is not read: {str(header, 'ascii', 'replace')}") from None
        if error.errno == errno.EINVAL:  # what FFmpeg says of a container that is not on the list
            names = ", ".join(dict.fromkeys(CONTAINERS.values()))
            raise Unreadable(f"is not in a container that is read ({names})") from None
        raise Unreadable(f"is damaged, or no video ({_reason(error)}); raw video needs its size (--size)") from None


def video_stream(container: Any, max_pixels: int) -> Any:
    """Return the container's video stream, ready to decode; raises Unreadable."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        holds = sorted({stream.type for stream in container.streams} - {"video"})
        raise Unreadable("holds no video stream" + (f", only {' and '.join(holds)}" if holds else ""))
    stream = max(streams, key=lambda stream: stream.width * stream.height if stream.codec_context else -1)
    context = stream.codec_context
    if context is None:
        raise Unreadable("there is no decoder for its video stream")
    if context.width * context.height > max_pixels:
        raise Unreadable(f"its frames are {context.width} x {context.height}, more than {max_pixels:,} pixels")
    context.options = {"max_pixels": str(max_pixels)}
    context.thread_count = min(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0, MOST_THREADS)
    context.thread_type = "AUTO"
    return stream


def decode(video: Input, size: int, max_pixels: int, sandboxed: bool, wishes: dict[str, Any]) -> Iterator[list[Any]]:
    """Yield messages, each a list of buffers to write one after the other.

    Args:
        video: the file.
        size: its bytes.
        max_pixels: of a frame.
        sandboxed: for INFO.
        wishes: FFmpeg's numbers of a "matrix" and a "range" that count in the place of the video's own, or None; under
            "raw" FFmpeg's options for video without a header.
    """
    import av

    raw = wishes.get("raw")
    if raw is None and video.at(0, 16).lstrip(b"\xef\xbb\xbf \r\n").startswith(PLAYLISTS):
        raise Unreadable("is a playlist: it names other files, which are not opened")
    amiss = [CUT] if raw is None and is_cut_short(video, size) else []
    video.seek(0)
    container = open_container(video, raw)
    stream = video_stream(container, max_pixels)
    stated = {**describe(container, stream, size), "sandboxed": sandboxed}
    shown = shown_times(container, stream)
    picture = Picture(stream, Chosen(wishes.get("matrix"), wishes.get("range")))
    frames = lost = cut = 0
    first = end = None
    read_to = size  # where the last packet ends in the file
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            amiss.append(f"the container is damaged after {frames} frames ({_reason(error)})")
            break
        if packet is None:
            break
        cut += raw is None and bool(packet.is_corrupt)
        if packet.pos is not None:
            read_to = packet.pos + packet.size
        try:
            decoded = packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError:
            if raw is not None:  # part of a frame
                amiss.append(CUT)
                break
            lost += 1
            continue
        for frame in decoded:
            if not frames:
                yield message(INFO, json.dumps(stated | picture.describe(frame)).encode())
            for words in picture.changes(frame):
                yield message(TELL, words.encode())
            time = shown(frame)
            pts = NO_PTS if time is None or abs(time) >= 2**62 else time
            duration = min(max(frame.duration or 0, 0), 2**31)
            if pts != NO_PTS:
                first = pts if first is None else first
                end = max(end or pts, pts + duration)
            yield frame_message(picture.to_rgb(frame), frame, pts, duration, lost)
            frames += 1
            gc.collect()  # a frame and its side data hold each other; of 8K, forty would fill the memory
    if not frames:
        yield message(INFO, json.dumps({**stated, "picture": {}, "warnings": [], "pixel_aspect": [1, 1]}).encode())
    if container.format.name == Y4M and read_to < size:  # FFmpeg leaves part of a frame out without a word
        amiss.append(CUT)
    if lost:
        hint = "" if frames else f" (frames of more than {max_pixels:,} pixels are refused)"
        amiss.append(f"packets that could not be decoded: {lost}{hint}")
    if cut:
        amiss.append(f"packets cut or marked as damaged: {cut}")
    missing = first is not None and end is not None and time_missing(container, stream, size, first, end)
    if missing and not amiss:
        amiss.append(missing)
    yield message(DONE, json.dumps(amiss).encode())


def shown_times(container: Any, stream: Any) -> Callable[[Any], int | None]:
    """Return what gives the time at which a frame is shown, in the stream's time base.

    Where packets have none, it is when the packet was decoded that let the frame go, a constant delay later.
    """
    name = container.format.name.split(",")[0]
    # A track of Matroska that keeps the header of an AVI, and its kind of times, has its four letters too.
    like_avi = name == "matroska" and stream.codec_context.codec_tag.strip("\0")
    return operator.attrgetter("dts" if name in DECODE_TIMES or like_avi else "pts")


def describe(container: Any, stream: Any, size: int) -> dict[str, Any]:
    """Return what INFO says of the container and its stream, before anything is decoded."""
    rate = stream.average_rate or stream.guessed_rate or 0
    return {
        "container": container.format.name.split(",")[0],
        "codec": stream.codec_context.name,
        "time_base": [stream.time_base.numerator, stream.time_base.denominator],  # of pts and durations, seconds
        "rate": [rate.numerator, rate.denominator] if rate > 0 else None,  # frames a second
        "count": stated_frames(stream, size) or None,
    }


def frame_message(pixels: Any, frame: Any, pts: int, duration: int, lost: int) -> list[Any]:
    """Return the parts of the message of a frame: its facts, then its rows."""
    plane = pixels.planes[0]
    facts = (pixels.width, pixels.height, plane.line_size, rotation_of(frame) or 0, bool(frame.is_corrupt))
    return message(FRAM, FRAME.pack(*facts, lost, pts, duration), memoryview(plane)[: plane.line_size * pixels.height])


def _reason(error: Any) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
