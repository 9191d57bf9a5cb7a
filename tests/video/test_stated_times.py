"""What a container states of times and lengths, and what is decoded: neither a start other than 0, nor a place kept for
a number, nor the order of decoding is damage or time; a cut is."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from video_clips import FRAMES, RATE, SIZE, clip, written

from bitrate_ext.video.decoder.truncation import time_missing
from bitrate_ext.video.reader import VideoFrame, VideoReader

pytestmark = [pytest.mark.medium, pytest.mark.usefixtures("forked")]

LATE = tuple(range(50, 50 + FRAMES))  # timestamps, in 1/25 s
UNEVEN = (0, 1, 2, 10, 11, 30, 31, 32, 60, 61, 62, 63)
B_FRAME = 3  # of FFmpeg's AVPictureType


def read(folder: Path, data: bytes) -> tuple[list[VideoFrame], VideoReader]:
    with VideoReader(written(folder, "a.bin", data)) as video:
        return list(video), video


def assert_whole(folder: Path, data: bytes, times: tuple[int, ...] = tuple(range(FRAMES))) -> VideoReader:
    """``times``: in 1/25 s."""
    frames, video = read(folder, data)
    assert video.partial is None
    assert [RATE * frame.time for frame in frames] == list(times)
    return video


# Starts.


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4", "mov", "flv", "ts", "mpg", "wmv", "ogv", "ivf"])
def test_a_first_timestamp_other_than_zero_is_no_damage(suffix: str, tmp_path: Path) -> None:
    assert_whole(tmp_path, clip(suffix, pts=LATE))


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_avi_that_begins_with_nothing_is_no_damage(codec: str, tmp_path: Path) -> None:
    frames, video = read(tmp_path, clip("avi", codec=codec, pts=LATE))
    assert (len(frames), video.partial) == (FRAMES, None)


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_a_video_that_begins_after_the_sound_is_no_damage(suffix: str, tmp_path: Path) -> None:
    """So late that FFmpeg, which looks five seconds ahead, takes the length of the sound for that of the video."""
    data = clip(suffix, pts=tuple(range(400, 400 + FRAMES)), beside="sound for longer")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        assert stream.duration * stream.time_base > 20
    assert_whole(tmp_path, data)


@pytest.mark.parametrize("movflags", ["dash", "cmaf"])
def test_a_segment_from_the_middle_is_no_damage(movflags: str, tmp_path: Path) -> None:
    """Of a stream over the network, behind its header: the length that it states may count from the stream's start."""
    data = clip("mp4", movflags=f"{movflags}+frag_keyframe", keyframes=6)
    parts, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append((data[at + 4 : at + 8], data[at : at + length]))
        at += length
    kinds = [kind for kind, _ in parts]
    second = kinds.index(b"mdat") + 1
    assert kinds.count(b"moof") >= 2
    segment = b"".join(part for number, (_, part) in enumerate(parts) if number < 2 or number >= second)
    frames, video = read(tmp_path, segment)
    assert video.partial is None
    assert [RATE * frame.time for frame in frames] == list(range(len(frames)))
    assert 4 <= len(frames) < FRAMES


def without_length(data: bytes) -> bytes:
    """Matroska whose outermost part does not say where it ends: then the stated duration alone tells of a cut."""
    at = data.index(b"\x18S\x80g") + 4
    assert data[at] == 1
    return data[: at + 1] + b"\xff" * 7 + data[at + 8 :]


@pytest.mark.parametrize("start", [0, 50])
@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_a_cut_is_told_by_the_duration(suffix: str, start: int, tmp_path: Path) -> None:
    count = 100
    data = without_length(clip(suffix, pts=tuple(range(start, start + count)), frames=count))
    frames, video = read(tmp_path, data)
    assert (len(frames), video.partial) == (count, None)
    frames, video = read(tmp_path, data[: len(data) // 2])
    assert 0 < len(frames) < 0.8 * count
    assert video.partial is not None
    assert f"the container states {(start + count) / RATE:.2f} s" in video.partial


STATED = {  # container, frames stated, duration stated, first, end (all in 1/25 s), streams, what is told
    "a stream's length from its first frame": ("mov", 100, 100, 500, 600, 2, None),
    "a stream's length from 0": ("mov", 100, 600, 500, 600, 2, None),
    "less than a stream's length": ("mov", 100, 100, 500, 550, 2, "last 2.00 s, the container states 4.00 s"),
    "less than a stream's length from 0": ("mov", 0, 600, 500, 550, 2, "last 22.00 s, the container states 24.00 s"),
    "a first frame before 0": ("mov", 100, 100, -50, 50, 2, None),
    "less after a first frame before 0": ("mov", 100, 100, -50, 40, 2, "last 3.60 s, the container states 4.00 s"),
    "two frames fewer are rounding": ("avi", 100, 100, 0, 98, 2, None),
    "three are not": ("avi", 100, 100, 0, 97, 2, "last 3.88 s, the container states 4.00 s"),
    "more frames than have room": ("avi", 1251, 5000, 0, 12, 2, None),
    "as many as have room": ("avi", 1250, 5000, 0, 12, 2, "last 0.48 s, the container states 200.00 s"),
    "more than fit": ("ivf", 2**32 - 1, 2**32 - 1, 0, 12, 1, None),
    "the whole": ("matroska", 0, 100, 0, 100, 1, None),
    "the whole from 0": ("matroska", 0, 600, 500, 600, 1, None),
    "less than the whole": ("flv", 0, 600, 500, 550, 1, "last 22.00 s, the container states 24.00 s"),
    "less than the whole, which others fill": ("asf", 0, 600, 500, 550, 2, None),
    "nothing": ("matroska", 0, 0, 0, 12, 1, None),
    "a guess": ("mpegts", 0, 600, 0, 12, 1, None),
}


@pytest.mark.parametrize("case", STATED)
def test_stated_lengths(case: str) -> None:
    name, frames, duration, first, end, streams, told = STATED[case]
    stream = SimpleNamespace(frames=frames, duration=duration, time_base=Fraction(1, 25), average_rate=Fraction(25))
    container = SimpleNamespace(
        format=SimpleNamespace(name=f"{name},kin"), duration=40_000 * duration, streams=[stream] * streams
    )
    said = time_missing(container, stream, 10_000, first, end)
    assert said == (told and f"the frames {told}")


# Places kept for numbers.


@pytest.mark.parametrize(
    "suffix", ["avi", "ivf", "mkv", "webm", "flv", "wmv", "ts", "mpg", "ogv", "gif", "y4m", "h264"]
)
def test_what_is_written_into_a_pipe_is_whole(suffix: str, tmp_path: Path) -> None:
    video = assert_whole(tmp_path, clip(suffix, piped=True))
    assert video.count in (None, FRAMES)


@pytest.mark.parametrize("place", [0, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("count", [0, 1 << 30, 0xFFFFFFFF])
def test_places_kept_in_an_avi(place: int, count: int, tmp_path: Path) -> None:
    """As programs leave them: the length of the file, and that of its stream."""
    data = bytearray(clip("avi"))
    struct.pack_into("<I", data, 4, place)
    struct.pack_into("<I", data, data.index(b"vids") + 32, count)
    assert assert_whole(tmp_path, bytes(data)).count is None


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_a_piped_avi_that_is_cut_is_told(codec: str, tmp_path: Path) -> None:
    data = clip("avi", piped=True, codec=codec)
    at = data.rindex(b"00dc", 0, data.rindex(b"00dc"))  # the last packet but one
    frames, video = read(tmp_path, data[: at + 8 + 20])
    assert 0 < len(frames) <= FRAMES - 1
    assert video.partial is not None
    assert "packets cut or marked as damaged: 1" in video.partial


# The order of decoding.


def packets(data: bytes) -> list[av.Packet]:
    with av.open(io.BytesIO(data)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def element(name: str, content: bytes) -> bytes:
    return bytes.fromhex(name) + (1 << 56 | len(content)).to_bytes(8, "big") + content


def number(name: str, value: int) -> bytes:
    return element(name, value.to_bytes(4, "big"))


def avi_in_matroska(data: bytes) -> bytes:
    """An AVI's packets in Matroska as old programs put them there: with the AVI's header, and times in that order."""
    width, height = SIZE
    header = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"H264", 3 * width * height, 0, 0, 0, 0)
    entry = number("D7", 1) + number("73C5", 1) + number("83", 1) + element("86", b"V_MS/VFW/FOURCC")
    entry += element("63A2", header) + number("23E383", 40_000_000)
    entry += element("E0", number("B0", width) + number("BA", height))
    blocks = b"".join(
        element("A3", b"\x81" + struct.pack(">hB", 40 * index, 128 * packet.is_keyframe) + bytes(packet))
        for index, packet in enumerate(packets(data))
    )
    cluster = element("1F43B675", number("E7", 0) + blocks)
    info = element("1549A966", number("2AD7B1", 1_000_000) + element("4D80", b"test") + element("5741", b"test"))
    tracks = element("1654AE6B", element("AE", entry))
    return element("1A45DFA3", element("4282", b"matroska")) + element("18538067", info + tracks + cluster)


REORDERED = {
    "H.264 in AVI": lambda pts: clip("avi", codec="libx264", reordered=3, pts=pts),
    "H.264 in ASF": lambda pts: clip("wmv", codec="libx264", reordered=3, pts=pts),
    "MPEG-4 in AVI": lambda pts: clip("avi", codec="mpeg4", reordered=2, pts=pts),
    "MPEG-4 in ASF": lambda pts: clip("wmv", codec="mpeg4", reordered=2, pts=pts),
    **{
        f"H.264 in {suffix}": lambda pts, suffix=suffix: clip(suffix, reordered=3, pts=pts)
        for suffix in ("mp4", "mkv", "flv", "ts")
    },
}


@pytest.mark.parametrize("pts", [None, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", REORDERED)
def test_frames_stored_in_another_order_keep_their_times(
    name: str, pts: tuple[int, ...] | None, tmp_path: Path
) -> None:
    data = REORDERED[name](pts)
    with av.open(io.BytesIO(data)) as container:
        assert any(frame.pict_type == B_FRAME for frame in container.decode(video=0))
    assert_whole(tmp_path, data, pts or tuple(range(FRAMES)))


def test_an_avi_in_matroska_keeps_its_times(tmp_path: Path) -> None:
    assert_whole(tmp_path, avi_in_matroska(clip("avi", codec="libx264", reordered=3)))


def test_times_go_on_after_a_packet_that_is_lost(tmp_path: Path) -> None:
    """In an AVI with B-frames: nothing but the order of packets tells the time."""
    data = bytearray(clip("avi", codec="libx264", reordered=3, keyframes=4, frames=24))
    lost = packets(bytes(data))[9]
    assert lost.pos is not None
    start = data.index(bytes(lost))
    data[start : start + lost.size] = b"\xff" * lost.size
    frames, video = read(tmp_path, bytes(data))
    assert video.partial is not None
    assert len(frames) < 24
    assert RATE * frames[-1].time == 23
