"""What a container holds beside its video: sound, subtitles, data, attachments, covers, timecodes, chapters.

Each takes the file that is written and its video's stream, adds what it is, and returns packets to be written.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

TICK = Fraction(1, 1000)
COVER = (128, 96)  # width, height: larger than the videos of tests
DVD_PICTURE = bytes.fromhex("000a0004ff00010203ff")


def sound(codec: str, output: Any, video: Any, *, seconds: float = 0.48, rate: int = 48_000) -> list[av.Packet]:
    """Silence."""
    stream = output.add_stream(codec, rate=rate)
    stream.codec_context.open()
    samples = stream.codec_context.frame_size or 1152
    packets = []
    for start in range(0, int(seconds * rate), samples):
        frame = av.AudioFrame(format=stream.format.name, layout="stereo", samples=samples)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def stream_of(codec: str, payload: bytes, output: Any, video: Any) -> list[av.Packet]:
    """A stream of packets that nobody encodes."""
    stream = output.add_mux_stream(codec)
    stream.time_base = TICK
    packets = []
    for time in (0, 160, 320):
        packet = av.Packet(payload)
        packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = stream, TICK, time, time, 100
        packet.is_keyframe = True
        packets.append(packet)
    return packets


def still(encoder: str, stream: Any = None) -> list[av.Packet]:
    """One picture, larger than the video."""
    context = stream or av.CodecContext.create(encoder, "w")
    context.width, context.height = COVER
    context.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "rgb24"
    context.time_base = Fraction(1, 25)
    pixels = np.full((COVER[1], COVER[0], 3), 99, np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=context.pix_fmt)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    return [*context.encode(frame), *context.encode(None)]


def cover(encoder: str, output: Any, video: Any) -> list[av.Packet]:
    stream = output.add_stream(encoder, rate=1)
    stream.disposition = Disposition.attached_pic
    return still(encoder, stream)


def attachment(name: str, kind: str, output: Any, video: Any) -> list[av.Packet]:
    data = bytes(still("mjpeg" if kind.endswith("jpeg") else "png")[0]) if kind.startswith("image") else b"font"
    output.add_attachment(name, kind, data)
    return []


def timecode(output: Any, video: Any) -> list[av.Packet]:
    output.metadata["timecode"] = "01:02:03:04"
    return []


def chapters(output: Any, video: Any) -> list[av.Packet]:
    output.set_chapters(
        [
            {"id": 1 + start, "start": start, "end": start + 200, "time_base": TICK, "metadata": {"title": "one"}}
            for start in (0, 200)
        ]
    )
    return []


Beside = Callable[[Any, Any], list[av.Packet]]
BESIDE: dict[str, Beside] = {
    **{codec: functools.partial(sound, codec) for codec in ("aac", "mp2", "pcm_s16le", "libopus", "flac")},
    "sound for longer": functools.partial(sound, "libopus", seconds=20),
    "mov_text": functools.partial(stream_of, "mov_text", b"\0\5hello"),
    "ass": functools.partial(stream_of, "ass", b"0,0,Default,,0,0,0,,hello"),
    **{
        codec: functools.partial(stream_of, codec, b"hello")
        for codec in ("subrip", "webvtt", "ttml", "hdmv_text_subtitle", "eia_608", "dvb_teletext")
    },
    **{
        codec: functools.partial(stream_of, codec, DVD_PICTURE)
        for codec in ("dvd_subtitle", "dvb_subtitle", "hdmv_pgs_subtitle")
    },
    **{
        codec: functools.partial(stream_of, codec, b"data")
        for codec in ("bin_data", "klv", "timed_id3", "scte_35", "smpte_2038")
    },
    "JPEG cover": functools.partial(cover, "mjpeg"),
    "PNG cover": functools.partial(cover, "png"),
    "font": functools.partial(attachment, "a.ttf", "font/ttf"),
    "attached JPEG": functools.partial(attachment, "cover.jpg", "image/jpeg"),
    "attached PNG": functools.partial(attachment, "cover.png", "image/png"),
    "timecode": timecode,
    "chapters": chapters,
}
# suffix: what FFmpeg writes into it, and of what type it then is.
HELD: dict[str, dict[str, str]] = {
    "mp4": {
        "aac": "audio", "mov_text": "subtitle", "ttml": "subtitle", "dvd_subtitle": "subtitle", "bin_data": "data",
        "timecode": "data", "chapters": "data", "JPEG cover": "video", "PNG cover": "video"
    },
    "mov": {
        "pcm_s16le": "audio", "mov_text": "subtitle", "eia_608": "subtitle", "timecode": "data", "chapters": "data"
    },
    "mkv": {
        "flac": "audio", "ass": "subtitle", "subrip": "subtitle", "webvtt": "subtitle", "dvd_subtitle": "subtitle",
        "hdmv_text_subtitle": "subtitle", "dvb_subtitle": "subtitle", "hdmv_pgs_subtitle": "subtitle",
        "font": "attachment", "attached JPEG": "video", "attached PNG": "video"
    },
    "webm": {"libopus": "audio", "webvtt": "subtitle"},
    "avi": {"mp2": "audio"},
    "flv": {"aac": "audio"},
    "wmv": {"aac": "audio"},
    "ogv": {"libopus": "audio"},
    "mpg": {"mp2": "audio", "dvd_subtitle": "subtitle"},
    "ts": {
        "aac": "audio", "dvb_subtitle": "subtitle", "dvb_teletext": "subtitle", "klv": "data", "timed_id3": "data",
        "scte_35": "data", "smpte_2038": "data"
    },
}  # fmt: skip


def song(suffix: str, codec: str, picture: str) -> bytes:
    """Sound and its cover, without a video. ``suffix``: of audio, as FFmpeg calls the container."""
    file = io.BytesIO()
    with av.open(file, "w", format=suffix) as output:
        output.mux(BESIDE[codec](output, None) + BESIDE[picture](output, None))
    return file.getvalue()
