"""Damaged and hostile videos: the child may die, the reader never does, nothing but the video is opened."""

from __future__ import annotations

import ctypes
import gc
import io
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import video_clips
from video_clips import FRAMES, clip, written

from bitrate_ext.video.decoder import decoding
from bitrate_ext.video.reader import VideoError, VideoFrame, VideoReader

pytestmark = pytest.mark.medium

TIMEOUT = 120.0  # seconds, far above what a case takes
# Containers that say how long they are, and what becomes of a cut anywhere in them is told for sure.
TELL_LENGTH = ("mp4", "mkv", "webm", "avi", "gif", "y4m")
TS_PACKET = 188  # bytes; a cut between two packets leaves no sign
CUTS = {"mp4": 150, "mkv": 60, "webm": 30, "avi": 60, "gif": 10, "y4m": 20, "flv": 30, "ts": 30, "mpg": 10}
FLIPS = {"mp4": 24, "mkv": 16, "webm": 8, "avi": 12, "flv": 8, "ts": 12}


@dataclass
class Outcome:
    frames: list[VideoFrame]
    partial: str | None
    error: str | None


def outcome(path: Path) -> Outcome:
    try:
        video = VideoReader(path, timeout=TIMEOUT)
    except VideoError as raised:
        return Outcome([], None, str(raised))
    with video:
        assert video.sandboxed
        frames = list(video)
    assert all(frame.pixels.shape == (video.height, video.width, 3) for frame in frames)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(before.time <= after.time for before, after in itertools.pairwise(frames))
    return Outcome(frames, video.partial, None)


def outcomes(folder: Path, cases: list[tuple[str, bytes]]) -> list[Outcome]:
    """Of all cases, two at a time; no descriptor may be left open."""
    paths = [written(folder, f"{number}.{suffix}", data) for number, (suffix, data) in enumerate(cases)]
    gc.collect()  # what earlier tests left open is not closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(outcome, paths))
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(case.error is None or case.error.isprintable() for case in found)
    return found


def whole(suffix: str) -> bytes:
    return clip(suffix, index_first=suffix == "mp4")


@pytest.mark.parametrize("suffix", CUTS)
def test_cut_anywhere(suffix: str, forked: None, tmp_path: Path) -> None:
    """Frames that are given are those of the whole video, and a cut that can be told is told."""
    data = whole(suffix)
    cuts = sorted({*np.linspace(1, len(data) - 1, CUTS[suffix] - 1).astype(int).tolist(), 406})
    expected = video_clips.in_process(data)
    given = 0
    for cut, found in zip(cuts, outcomes(tmp_path, [(suffix, data[:cut]) for cut in cuts]), strict=True):
        given += len(found.frames)
        assert len(found.frames) <= FRAMES
        told = suffix in TELL_LENGTH or (suffix == "ts" and cut % TS_PACKET)
        if found.error is None and (told or any(frame.damaged for frame in found.frames)):
            assert found.partial, f"cut at {cut} of {len(data)} and said to be whole"
        for frame in found.frames:
            if not frame.damaged and not found.partial:
                # Of frames stored out of order a cut may leave out some before the last: the time says which it is.
                original = expected[round(frame.time * video_clips.RATE)]
                np.testing.assert_array_equal(frame.pixels, original, err_msg=f"cut at {cut}")
    assert given > FRAMES * len(cuts) // 8, "hardly a frame came out of any cut"


@pytest.mark.parametrize("suffix", FLIPS)
def test_bits_flipped_anywhere(suffix: str, forked: None, tmp_path: Path, rng: np.random.Generator) -> None:
    cases = []
    for number in range(FLIPS[suffix]):
        data = np.frombuffer(whole(suffix), np.uint8).copy()
        where = rng.integers(0, len(data) if number % 2 else min(len(data), 1000), 1 + number % 8)
        data[where] ^= 1 << rng.integers(0, 8, len(where)).astype(np.uint8)
        cases.append((suffix, data.tobytes()))
    found = outcomes(tmp_path, cases)
    assert any(case.frames for case in found)
    noticed = sum(bool(case.partial or case.error) for case in found)
    assert noticed >= len(cases) // 4 or suffix == "webm"  # a wrong bit makes a picture in VP9, too


def packet(data: bytes, number: int) -> slice:
    """Where a packet is in the file."""
    with av.open(io.BytesIO(data)) as container:
        found = next(itertools.islice(container.demux(video=0), number, None))
        assert found.pos is not None
        return slice(found.pos, found.pos + found.size)


def test_a_packet_that_cannot_be_decoded_is_said(forked: None, tmp_path: Path) -> None:
    """The video goes on behind it, in time."""
    data = bytearray(clip("mp4", keyframes=1))
    where = packet(data, 5)
    data[where] = bytes([255]) * (where.stop - where.start)
    found = outcome(written(tmp_path, "a.mp4", bytes(data)))
    assert found.partial == "packets that could not be decoded: 1"
    assert [frame.time * video_clips.RATE for frame in found.frames] == [*range(5), *range(6, FRAMES)]


def test_frames_that_are_made_up_are_marked(forked: None, tmp_path: Path) -> None:
    data = bytearray(clip("mp4", keyframes=1))
    where = packet(data, 5)
    middle = (where.start + where.stop) // 2
    data[middle : where.stop] = bytes([170]) * (where.stop - middle)
    found = outcome(written(tmp_path, "a.mp4", bytes(data)))
    assert [frame.index for frame in found.frames if frame.damaged] == [5]
    assert found.partial == "damaged frames: 1"
    assert len(found.frames) == FRAMES


def test_fewer_frames_than_the_container_states(forked: None, tmp_path: Path) -> None:
    data = bytearray(clip("mp4"))
    struct.pack_into(">I", data, data.index(b"stsz") + 12, FRAMES // 2)
    found = outcome(written(tmp_path, "a.mp4", bytes(data)))
    assert len(found.frames) == FRAMES // 2
    assert found.partial is not None
    assert "the container states 0.48 s" in found.partial


def test_an_edit_that_shows_less_is_no_damage(forked: None, tmp_path: Path) -> None:
    data = bytearray(clip("mp4"))
    struct.pack_into(">I", data, data.index(b"elst") + 12, 240)  # ms, of 480
    found = outcome(written(tmp_path, "a.mp4", bytes(data)))
    assert len(found.frames) == FRAMES // 2
    assert found.partial is None


# Sizes.

SIZE_CHANGES = ["ts", "h264", "mpg", "mkv"]


@pytest.mark.parametrize("suffix", SIZE_CHANGES)
def test_a_change_of_size_ends_the_video(suffix: str, forked: None, tmp_path: Path) -> None:
    bare = "h264" if suffix == "mkv" else suffix
    joined = clip(bare, frames=5) + clip(bare, size=(32, 80), frames=5)
    if suffix == "mkv":
        joined = repacked(written(tmp_path, "joined.h264", joined), tmp_path / "joined.mkv")
    found = outcome(written(tmp_path, f"a.{suffix}", joined))
    assert 1 <= len(found.frames) <= 5
    assert {frame.pixels.shape for frame in found.frames} == {(48, 64, 3)}
    assert found.partial is not None
    assert "the size changes from 64 x 48 to 32 x 80 after" in found.partial


def repacked(source: Path, target: Path) -> bytes:
    """The stream in another container, as it is: the header then states the first size alone."""
    with av.open(source) as container, av.open(target, "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                packet.dts = packet.pts = packet.pos
                output.mux(packet)
    return target.read_bytes()


def test_a_frame_larger_than_the_limit_is_refused(forked: None, tmp_path: Path) -> None:
    path = written(tmp_path, "a.mp4", clip("mp4"))
    with pytest.raises(VideoError, match=r"its frames are 64 x 48, more than 3,071 pixels"):
        VideoReader(path, max_pixels=64 * 48 - 1)
    VideoReader(path, max_pixels=64 * 48).close()


def test_a_bomb_is_refused_by_the_size_that_it_states(forked: None, tmp_path: Path) -> None:
    gif = bytearray(clip("gif"))
    struct.pack_into("<HH", gif, 6, 60_000, 60_000)
    with pytest.raises(
        VideoError, match=r"could not be decoded: \d+ \(frames of more than 67,108,864 pixels are refused\)"
    ):
        VideoReader(written(tmp_path, "a.gif", bytes(gif)))
    y4m = clip("y4m").replace(b"W64 H48", b"W60000 H60000", 1)
    with pytest.raises(VideoError):
        VideoReader(written(tmp_path, "a.y4m", y4m))


def test_a_video_that_grows_beyond_the_limit_ends_there(forked: None, tmp_path: Path) -> None:
    path = written(tmp_path, "a.h264", clip("h264", frames=5) + clip("h264", size=(320, 240), frames=5))
    with VideoReader(path, max_pixels=64 * 48) as video:
        frames = list(video)
    assert 1 <= len(frames) <= 5
    assert video.partial is not None
    assert "could not be decoded" in video.partial
    assert "the size changes" not in video.partial  # none of the large ones was made


# Names.

ODD_NAMES = [
    "-i.mp4",
    "a\nb.mp4",
    "concat:a.mp4|b.mp4",
    "subfile,,start,0,end,9,,:a.mp4",
    "file:a.mp4",
    "%d.mp4",
    "a?b#c.mp4",
]
ODD_NAMES += ["pipe:0", "-", "\x1b[31m.mp4", "ünï.mp4", "data:text", "http:a.mp4", "cache:a.mp4", "@list", "a.m3u8"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=repr)
def test_names_are_names(name: str, forked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="no such file") as raised:
        VideoReader(name)
    assert str(raised.value).isprintable()
    Path(name).write_bytes(clip("mp4"))
    for path in (name, tmp_path / name):
        assert len(outcome(Path(path)).frames) == FRAMES
    with VideoReader(name) as video:
        assert sum(1 for _ in video) == FRAMES


# Playlists and the like.


class Opens:
    """Counts how often a file is opened, by anyone: inotify."""

    IN_OPEN, IN_NONBLOCK = 0x20, 0o4000

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(self.IN_NONBLOCK)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(path), self.IN_OPEN) >= 0

    def count(self) -> int:
        try:
            return len(os.read(self._descriptor, 4096)) // 16
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._descriptor)


def hls(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"


def dash(target: str) -> str:
    return (
        '<?xml version="1.0"?>'
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>'
        f"{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )


def concat(target: str) -> str:
    return f"ffconcat version 1.0\nfile '{target}'\n"


def sdp(target: str) -> str:
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "t=0 0"]
    return "\n".join([*lines, "m=video 5004 RTP/AVP 96", "a=rtpmap:96 H264/90000", ""])


PLAYLISTS: dict[str, Callable[[str], str]] = {"hls": hls, "dash": dash, "concat": concat, "sdp": sdp}


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[tuple[Path, Opens]]:
    path = written(tmp_path, "secret.ts", clip("ts"))
    opens = Opens(path)
    yield path, opens
    opens.close()


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("where", ["file", "network"])
def test_playlists_open_nothing(
    name: str, where: str, forked: None, tmp_path: Path, secret: tuple[Path, Opens]
) -> None:
    path, opens = secret
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        target = path.name if where == "file" else f"http://127.0.0.1:{server.getsockname()[1]}/secret.ts"
        found = outcome(written(tmp_path, "disguised.mp4", PLAYLISTS[name](target).encode()))
        assert found.error is not None
        assert "is a playlist: it names other files, which are not opened" in found.error
        assert opens.count() == 0
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_playlists_of_these_tests_are_followed_by_those_who_do(tmp_path: Path, secret: tuple[Path, Opens]) -> None:
    """Else the test above would pass for playlists that nobody understands."""
    path, opens = secret
    for name in ("hls", "concat"):
        assert opens.count() == 0
        with av.open(str(written(tmp_path, f"{name}.m3u8", PLAYLISTS[name](path.name).encode()))) as container:
            assert container.format.name == name
            next(container.decode(video=0))
        assert opens.count() > 0


def test_a_container_that_is_not_on_the_list(forked: None, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(path, "w", format="nut") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height = video_clips.SIZE
        frame = av.VideoFrame.from_ndarray(video_clips.picture(0), format="rgb24")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"is not in a container that is read \(MP4, Matroska, "):
        VideoReader(path)


@pytest.mark.parametrize("name", ["concat", "sdp", "dash", "hls"])
def test_other_containers_are_refused_before_the_lock_is_needed(
    name: str, tmp_path: Path, secret: tuple[Path, Opens]
) -> None:
    """Without a look at the first bytes and without the filter of system calls."""
    path, opens = secret
    playlist = written(tmp_path, "disguised.mp4", PLAYLISTS[name](path.name).encode())
    descriptor = os.open(playlist, os.O_RDONLY)
    try:
        # HLS is told by its name, which FFmpeg is not given; DASH not every build of FFmpeg knows.
        message = "damaged, or no video" if name in ("hls", "dash") else "is not in a container that is read"
        with pytest.raises(decoding.Unreadable, match=message):
            decoding.open_container(decoding.Input(descriptor))
    finally:
        os.close(descriptor)
    assert opens.count() == 0
