"""Streams beside the video, through the child that is locked in, with the PyAV of these tests and others allowed."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import video_clips
from video_beside import HELD, song
from video_clips import FRAMES, RATE, SIZE, clip, written

from bitrate_ext.video import decoded
from bitrate_ext.video.reader import VideoError, VideoReader

CASES = [(suffix, beside) for suffix, held in HELD.items() for beside in held]
SONGS = {
    "m4a": ("mp4", "aac", "PNG cover"),
    "mka": ("matroska", "flac", "attached JPEG"),
    "mka with PNG": ("matroska", "flac", "attached PNG"),
}
PROJECT = Path(__file__).parents[2] / "pyproject.toml"

needs_muxing = pytest.mark.skipif(
    not hasattr(av.container.OutputContainer, "add_mux_stream"), reason="this PyAV writes no streams of packets alone"
)


def fault(path: Path, data: bytes) -> str | None:
    """What is wrong with how a clip is read, if anything."""
    path.write_bytes(data)
    try:
        with VideoReader(path) as video:
            frames = list(video)
    except VideoError as error:
        return str(error)
    if not video.sandboxed:
        return "the child was not locked in"
    if video.partial or len(frames) != FRAMES or (video.width, video.height) != SIZE:
        return f"{len(frames)} frames of {video.width} x {video.height}, {video.partial}"
    if any(RATE * frame.time != frame.index for frame in frames):
        return f"times are {[float(frame.time) for frame in frames]}"
    # Versions of FFmpeg round colours each in its own way.
    pairs = zip(frames, video_clips.in_process(data), strict=True)
    far = max(np.abs(frame.pixels - expected.astype(int)).max() for frame, expected in pairs)
    return f"pixels differ by {far}" if far > 3 else None


@needs_muxing
@pytest.mark.medium
@pytest.mark.parametrize(("suffix", "beside"), CASES)
def test_a_video_has_other_streams_beside_it(suffix: str, beside: str, tmp_path: Path) -> None:
    data = clip(suffix, beside=beside)
    with av.open(io.BytesIO(data)) as container:
        (kind,) = [stream.type for stream in container.streams if stream.index != container.streams.video[0].index]
    assert kind == HELD[suffix][beside], "the clip is not what it is to be"
    assert fault(tmp_path / "a.bin", data) is None


def refusal(path: Path, data: bytes) -> str:
    with pytest.raises(VideoError) as raised:
        VideoReader(written(path.parent, path.name, data))
    return str(raised.value)


@pytest.mark.medium
@pytest.mark.parametrize("name", SONGS)
def test_the_cover_of_a_song_is_no_video(name: str, tmp_path: Path) -> None:
    assert "holds no video stream, only audio" in refusal(tmp_path / "a.bin", song(*SONGS[name]))


@needs_muxing
@pytest.mark.slow
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_with_other_versions_of_pyav(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the above, in a child that has another PyAV; clips are made by the one of these tests."""
    found = re.search(r'^video = .*"av>=([\d.]+)"', PROJECT.read_text(), re.MULTILINE)
    assert found is not None
    requirement = f"av=={found[1]}" if which == "oldest" else "av"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    folder = tmp_path / "env"
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "--target", folder, requirement], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"{requirement} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    looked = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(folder)!r}); import av; print(av.__version__)",
    ]
    version = subprocess.run(looked, capture_output=True, text=True, check=True).stdout.strip()
    print("PyAV", version)
    assert which == "newest" or version.split(".")[0] == found[1].split(".")[0]

    origin = str(folder / "av/__init__.py")
    monkeypatch.setattr(decoded.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=origin))
    faults = {(suffix, beside): fault(tmp_path / "a.bin", clip(suffix, beside=beside)) for suffix, beside in CASES}
    assert {case: said for case, said in faults.items() if said} == {}
    for name, parts in SONGS.items():
        assert "holds no video stream, only audio" in refusal(tmp_path / "a.bin", song(*parts)), name
    for suffix in video_clips.FORMATS:
        assert fault(tmp_path / "a.bin", clip(suffix)) is None, suffix
    for suffix in ("avi", "wmv", "mp4"):
        assert fault(tmp_path / "a.bin", clip(suffix, codec="libx264", reordered=3)) is None, suffix
    foreign_matrix = clip("mkv", labels=(("colorspace", 8),))
    assert fault(tmp_path / "a.bin", foreign_matrix) is None
