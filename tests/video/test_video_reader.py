"""Reading videos: frames, times, turns, and what is said when a decoder falls silent."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import fetch_clip
import numpy as np
import pytest
import video_clips
from video_clips import FORMATS, FRAMES, SIZE, clip, written

from bitrate_ext.video import decoded
from bitrate_ext.video.decoded import Clock
from bitrate_ext.video.decoder.protocol import DONE, FAIL, FRAM, FRAME, INFO, NO_PTS, PREFIX
from bitrate_ext.video.decoder.sandbox import ARCHITECTURES
from bitrate_ext.video.reader import VideoError, VideoReader

LINUX = sys.platform == "linux"


@pytest.mark.parametrize("suffix", FORMATS)
def test_frames_are_those_of_the_file(suffix: str, tmp_path: Path) -> None:
    data = clip(suffix)
    with VideoReader(written(tmp_path, "a.bin", data)) as video:
        assert (video.width, video.height) == SIZE
        assert video.rate == video_clips.RATE
        assert video.count in (None, FRAMES)
        frames = list(video)
    assert video.partial is None
    assert [frame.time for frame in frames] == [Fraction(i, video_clips.RATE) for i in range(FRAMES)]
    for frame, expected in zip(frames, video_clips.in_process(data), strict=True):
        assert not frame.damaged
        np.testing.assert_array_equal(frame.pixels, expected)
        assert frame.pixels.flags.c_contiguous


def test_what_the_container_states(tmp_path: Path) -> None:
    with VideoReader(written(tmp_path, "a.mp4", clip("mp4"))) as video:
        assert (video.container, video.codec, video.count) == ("mov", "h264", FRAMES)
        assert video.sandboxed is (LINUX and os.uname().machine in ARCHITECTURES)


@pytest.mark.parametrize("size", [(65, 47), (2, 2), (200, 30)])
def test_odd_sizes_are_exact(size: tuple[int, int], tmp_path: Path) -> None:
    data = clip("ivf", size=size, frames=3)
    with VideoReader(written(tmp_path, "a.ivf", data)) as video:
        assert (video.width, video.height) == size
        for frame, expected in zip(video, video_clips.in_process(data), strict=True):
            np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize("frames", [1, 5, FRAMES, 100])
def test_so_many_frames(frames: int, tmp_path: Path) -> None:
    with VideoReader(written(tmp_path, "a.mp4", clip("mp4")), frames=frames) as video:
        assert len(list(video)) == min(frames, FRAMES)
    assert video.partial is None


def test_variable_rates_keep_their_times(tmp_path: Path) -> None:
    pts = (0, 1, 2, 10, 11, 30, 31, 32, 60, 61, 62, 63)
    for suffix in ("mp4", "mkv"):
        with VideoReader(written(tmp_path, f"a.{suffix}", clip(suffix, pts=pts))) as video:
            assert [frame.time for frame in video] == [Fraction(i, video_clips.RATE) for i in pts]
        assert video.partial is None


def test_joined_streams_go_on_in_time(tmp_path: Path) -> None:
    with VideoReader(written(tmp_path, "a.ts", clip("ts", frames=5) + clip("ts", frames=5))) as video:
        times = [frame.time for frame in video]
    assert len(times) == 10
    assert all(before < after for before, after in itertools.pairwise(times))


def test_clock() -> None:
    clock = Clock(Fraction(1, 1000), Fraction(25))
    given = [(5000, 40), (5040, 40), (None, 0), (5120, 100), (None, 0), (9000, 0), (100, 40), (140, 40), (140, 40)]
    times = [clock.time(pts, duration) * 1000 for pts, duration in given]
    assert times == [0, 40, 80, 120, 220, 4000, 4040, 4080, 4080]


def test_clock_without_timestamps_or_rate() -> None:
    clock = Clock(Fraction(1, 30), None)
    assert [clock.time(None, 0) for _ in range(3)] == [0, Fraction(1, 30), Fraction(2, 30)]


TURNS = {  # a, b, c, d of the display matrix, and what a viewer does
    "none": ((1, 0, 0, 1), lambda p: p),
    "a quarter clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "half": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "a quarter back": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_turned_as_they_are_to_be_shown(turn: str, tmp_path: Path) -> None:
    matrix, shown = TURNS[turn]
    data = bytearray(clip("mp4", frames=2))
    a, b, c, d = (65536 * factor for factor in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    with VideoReader(written(tmp_path, "a.mp4", bytes(data))) as video:
        frames = list(video)
    expected = [shown(picture) for picture in video_clips.in_process(clip("mp4", frames=2))]
    assert (video.height, video.width) == expected[0].shape[:2]
    for frame, picture in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.pixels, picture)


# Files.


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("hello " * 1000)
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, message in {
        "absent.mp4": "no such file",
        "empty.mp4": "the file is empty",
        "text.mp4": "is damaged, or no video",
        "folder.mp4": "is a folder without images",
        "pipe.mp4": "is not a regular file",
        "text.mp4/x": "cannot be read",
        "nul\0l.mp4": "null character",
    }.items():
        with pytest.raises(VideoError, match=message) as raised:
            VideoReader(tmp_path / name)
        assert str(raised.value).isprintable()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    written(tmp_path, "a.mp4", clip("mp4")).chmod(0)
    with pytest.raises(VideoError, match="no permission to read the file"):
        VideoReader(tmp_path / "a.mp4")


def test_sound_alone(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="holds no video stream, only audio"):
        VideoReader(path)


@pytest.mark.parametrize("argument", ["frames", "timeout", "max_memory", "max_pixels"])
def test_arguments_out_of_range(argument: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be greater than 0, got 0"):
        VideoReader(tmp_path / "a.mp4", **{argument: 0})


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install .*"av>='):
        VideoReader(written(tmp_path, "a.mp4", clip("mp4")))


# The child, as it may behave; each is a pipe that holds what it said.


class Said:
    """A child that has said this, and then ended with this code; or has not ended, where that is None."""

    stdin = None
    lives = False  # whether it has closed its pipe and goes on

    def __init__(self, words: bytes, code: int | None) -> None:
        read, write = os.pipe()
        os.write(write, words)
        self._write: int | None = write
        self._code = code
        if code is not None:
            self.kill()
        self.stdout = os.fdopen(read, "rb", 0)

    def kill(self) -> None:
        if self._write is not None:
            os.close(self._write)
        self._write = None

    def wait(self, timeout: float | None = None) -> int:
        if self.lives:
            raise subprocess.TimeoutExpired("child", 0)
        assert self._write is None
        return self._code or 0


def said(kind: bytes, content: bytes) -> bytes:
    return PREFIX.pack(kind, len(content)) + content


def framed(
    width: int = 2, height: int = 2, stride: int = 6, rows: int | None = None, lost: int = 0, pts: int = 0
) -> bytes:
    facts = FRAME.pack(width, height, stride, 0, 0, lost, pts, 0)
    return said(FRAM, facts + bytes(stride * (height if rows is None else rows)))


STATED = {"container": "mov", "codec": "h264", "time_base": [1, 25], "rate": [25, 1], "count": 9, "sandboxed": True}
STATED |= {"picture": {"matrix": "BT.709"}, "warnings": [], "pixel_aspect": [1, 1]}
HELLO = said(INFO, json.dumps(STATED).encode())


def process_of(video: VideoReader) -> Any:
    return video._source._process


Speak = Callable[..., VideoReader]


@pytest.fixture
def speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Speak:
    def reader(*words: bytes, code: int | None = 0, timeout: float = 60.0) -> VideoReader:
        monkeypatch.setattr(decoded, "_start", lambda *_: Said(b"".join(words), code))
        return VideoReader(written(tmp_path, "a.mp4", b"x"), timeout=timeout)

    return reader


ENDS = {
    "well": ([said(DONE, b"[]")], 0, None),
    "with remarks": ([said(DONE, b'["one", "t\\nwo"]')], 0, "one; t wo"),
    "by a signal": ([], -signal.SIGSEGV, "the decoder died of SIGSEGV after 2 frames"),
    "by an unknown signal": ([], -99, "the decoder died of signal 99 after 2 frames"),
    "by itself": ([], 3, "the decoder ended with exit code 3 after 2 frames"),
    "in the middle of a frame": ([framed()[:-1]], -9, "the decoder died of SIGKILL after 2 frames"),
    "with a failure": ([said(FAIL, b"no\nmemory")], 0, "after 2 frames: no memory"),
    "never": ([], None, "the decoder gave nothing for 1 s after 2 frames"),
    "never, in the middle of a frame": ([framed()[:-1]], None, "the decoder gave nothing for 1 s after 2 frames"),
    "with another size": ([framed(4, 3, 12)], 0, "the size changes from 2 x 2 to 4 x 3 after 2 frames"),
    "with packets lost": (
        [framed(lost=3)],
        -9,
        "the decoder died of SIGKILL after 3 frames; packets that could not be decoded: 3",
    ),
}


@pytest.mark.medium
@pytest.mark.parametrize("end", ENDS)
def test_ends(end: str, speak: Speak) -> None:
    words, code, partial = ENDS[end]
    with speak(HELLO, framed(), framed(pts=1), *words, code=code, timeout=1.0 if code is None else 60.0) as video:
        assert len(list(video)) == (3 if end == "with packets lost" else 2)
    assert video.partial == partial


NONSENSE = {
    "another kind": said(b"HUGE", b""),
    "a greeting again": HELLO,
    "text without end": PREFIX.pack(DONE, 2**32 - 1),
    "no list": said(DONE, b"7"),
    "no JSON": said(DONE, b"]"),
    "a frame too short": said(FRAM, b"x"),
    "no pixels": framed(0, 0, 0),
    "more pixels than allowed": PREFIX.pack(FRAM, FRAME.size + 3 * 2**28)
    + FRAME.pack(2**14, 2**14, 3 * 2**14, 0, 0, 0, 0, 0),
    "rows shorter than the picture": framed(2, 2, 5),
    "rows without end": PREFIX.pack(FRAM, FRAME.size + 2 * 10**6) + FRAME.pack(2, 2, 10**6, 0, 0, 0, 0, 0),
    "another length": framed(rows=3),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_ends_the_video(nonsense: str, speak: Speak) -> None:
    """A child that hostile bytes have taken over says what it likes."""
    with speak(HELLO, framed(), NONSENSE[nonsense], code=0) as video:
        assert len(list(video)) == 1
    assert video.partial is not None
    assert any(word in video.partial for word in ("make no sense after 1", "spoke out of turn after 1"))


GREETINGS = {
    "silence": (b"", "the decoder ended with exit code 0"),
    "a failure": (said(FAIL, b"holds no\x1b[31m video"), "holds no [31m video"),
    "a frame first": (framed(), "make no sense"),
    "the end first": (said(DONE, b"[]"), "spoke out of turn"),
    "no JSON": (said(INFO, b"{"), "make no sense"),
    "no object": (said(INFO, b"[]"), "make no sense"),
    "no time": (said(INFO, json.dumps({**STATED, "time_base": [0, 1]}).encode()), "make no sense"),
    "a rate that is none": (said(INFO, json.dumps({**STATED, "rate": [-25, 1]}).encode()), "make no sense"),
    "a picture that is none": (said(INFO, json.dumps({**STATED, "picture": [1]}).encode()), "make no sense"),
    "warnings that are none": (said(INFO, json.dumps({**STATED, "warnings": 7}).encode()), "make no sense"),
    "no frame": (HELLO + said(DONE, b'["lost"]'), "no frame can be decoded: lost"),
}


@pytest.mark.parametrize("greeting", GREETINGS)
def test_a_video_without_a_frame_is_an_error(greeting: str, speak: Speak) -> None:
    words, message = GREETINGS[greeting]
    with pytest.raises(VideoError, match=r"a\.mp4: ") as raised:
        speak(words)
    assert message in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.medium
def test_a_child_that_drips(speak: Speak) -> None:
    """Each byte is in time, the frame is not."""
    with speak(HELLO, framed(), code=None, timeout=1.0) as video:
        process = process_of(video)
        assert isinstance(process, Said)
        pipe = os.dup(process._write or 0)
        words = iter(framed() + said(DONE, b"[]"))
        done = threading.Event()

        def drip() -> None:
            with contextlib.suppress(BrokenPipeError):
                while not done.wait(0.05):
                    os.write(pipe, bytes([next(words, 0)]))

        thread = threading.Thread(target=drip)
        thread.start()
        count = len(list(video))
        done.set()
        thread.join()
        os.close(pipe)
    assert count == 1
    assert video.partial == "the decoder gave nothing for 1 s after 1 frames"


def test_a_child_that_closes_its_pipe_and_lives(speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    with speak(HELLO, framed(), code=0) as video:
        monkeypatch.setattr(Said, "lives", True)
        monkeypatch.setattr(Said, "kill", lambda self: setattr(self, "lives", False))
        assert len(list(video)) == 1
    assert video.partial == "the decoder closed its pipe after 1 frames"


def test_frames_without_timestamps(speak: Speak) -> None:
    with speak(HELLO, framed(pts=NO_PTS), framed(pts=NO_PTS), said(DONE, b"[]")) as video:
        assert [frame.time for frame in video] == [0, Fraction(1, 25)]


def test_frames_are_read_once(speak: Speak) -> None:
    with speak(HELLO, framed(), said(DONE, b"[]")) as video:
        list(video)
        with pytest.raises(ValueError, match="open the video again"):
            iter(video)


# Real children.


def long_video(folder: Path) -> Path:
    """Far more frames than a pipe holds."""
    return written(folder, "long.h264", clip("h264", frames=5, keyframes=1) * 200)


def gone(pid: int, polls: int = 6000) -> bool:
    """Whether there is no such process, within a minute."""
    for _ in range(polls):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_a_child_that_is_killed_leaves_its_frames(tmp_path: Path) -> None:
    with VideoReader(long_video(tmp_path)) as video:
        frames = iter(video)
        next(frames)
        os.kill(process_of(video).pid, signal.SIGKILL)
        rest = list(frames)
    assert video.partial == f"the decoder died of SIGKILL after {1 + len(rest)} frames"


def test_closing_ends_the_child(tmp_path: Path) -> None:
    for leave in (VideoReader.close, VideoReader.__del__, lambda video: video.__exit__(None, None, None)):
        video = VideoReader(long_video(tmp_path))
        process = process_of(video)
        leave(video)
        assert process.returncode == -signal.SIGKILL
        video.close()


def test_closing_in_the_middle_ends_the_iteration(tmp_path: Path) -> None:
    with VideoReader(long_video(tmp_path)) as video:
        for frame in video:
            if frame.index == 3:
                video.close()
    assert frame.index == 3


def test_a_reader_outlives_the_thread_that_opened_it(tmp_path: Path) -> None:
    videos: list[VideoReader] = []
    thread = threading.Thread(target=lambda: videos.append(VideoReader(written(tmp_path, "a.mp4", clip("mp4")))))
    thread.start()
    thread.join()
    with videos[0] as video:
        assert len(list(video)) == FRAMES
    assert video.partial is None


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """However the parent ends."""
    program = (
        "import sys, time; from bitrate_ext.video.reader import VideoReader; "
        "video = VideoReader(sys.argv[1]); print(video._source._process.pid, flush=True); time.sleep(300)"
    )
    command = [sys.executable, "-c", program, str(long_video(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, polls=1)
        parent.kill()
    assert gone(pid)


@pytest.mark.medium
def test_memory_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "a.y4m"
    header = b"YUV4MPEG2 W8000 H8000 F25:1 C420jpeg\nFRAME\n"
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 8000 * 8000 * 3 // 2)  # no blocks on disk
    with pytest.raises(VideoError, match=r"memory|cannot be decoded"):
        VideoReader(path, max_memory=400 << 20)
    with VideoReader(path) as video:
        assert (video.width, video.height) == (8000, 8000)


def test_a_real_clip() -> None:
    """Debian's clip of a cockatoo, by a camera."""
    reason = fetch_clip.fetch()
    if reason:
        pytest.skip(f"no real clip: {reason}")
    with VideoReader(fetch_clip.CLIP, frames=40) as video:
        frames = list(video)
    assert video.partial is None
    assert len(frames) == 40
    assert (video.width, video.height) == (1280, 720)
    assert all(frame.pixels.std() > 10 for frame in frames)
    assert frames[-1].time == 39 / video.rate
