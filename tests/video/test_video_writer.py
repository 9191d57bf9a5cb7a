"""Writing videos: frames, times and colours come back; a file is there whole or not at all."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from full_disk import largest_file
from video_clips import picture

from bitrate_ext.video import writer
from bitrate_ext.video.reader import VideoFrame, VideoReader
from bitrate_ext.video.writer import VideoWriter

NTSC = Fraction(30_000, 1001)


def write(path: Path, frames: int = 6, size: tuple[int, int] = (64, 48), rate: Fraction = NTSC, **options: Any) -> None:
    with VideoWriter(path, *size, rate, **options) as video:
        for index in range(frames):
            video.write(picture(index, size), index / rate)


def read(path: Path) -> list[VideoFrame]:
    with VideoReader(path) as video:
        frames = list(video)
    assert video.partial is None
    return frames


@pytest.mark.parametrize("suffix", writer.CONTAINERS)
def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write(path)
    frames = read(path)
    assert len(frames) == 6
    for frame in frames:
        tick = Fraction(1, 1000) if suffix == ".mkv" else 0
        assert abs(frame.time - frame.index / NTSC) <= tick
        error = np.abs(frame.pixels.astype(int) - picture(frame.index))
        assert np.median(error) <= 5
        assert error.mean() < 16  # chroma of two by two pixels, blocks of eight
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", writer.CONTAINERS)
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(10, 11), Fraction(16), Fraction(1)])
def test_pixels_that_are_not_square(suffix: str, aspect: Fraction, tmp_path: Path) -> None:
    write(tmp_path / f"a{suffix}", frames=1, pixel_aspect=aspect)
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        assert (container.streams.video[0].sample_aspect_ratio or 1) == aspect


@pytest.mark.parametrize("size", [(64, 48), (64, 800)], ids=["small", "HD"])
def test_colours_come_back(size: tuple[int, int], tmp_path: Path) -> None:
    """Whatever the size, from which players guess the matrix of a video that does not say."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50)]
    with VideoWriter(tmp_path / "a.mp4", *size, Fraction(25)) as video:
        for index, colour in enumerate(colours):
            video.write(np.full((*size[::-1], 3), colour, np.uint8), Fraction(index, 25))
    for frame, colour in zip(read(tmp_path / "a.mp4"), colours, strict=True):
        assert np.abs(frame.pixels.astype(int) - colour).max() <= 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.colorspace, stream.color_primaries, stream.color_trc, stream.color_range) == (1, 1, 1, 1)
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")


def test_variable_rates_are_kept(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1, 30), Fraction(7, 10), Fraction(71, 100), Fraction(3)]
    with VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(30)) as video:
        for index, time in enumerate(times):
            video.write(picture(index), time)
    assert [frame.time for frame in read(tmp_path / "a.mp4")] == times


def test_times_that_do_not_grow_are_made_to(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(30)) as video:
        for index, time in enumerate([Fraction(0), Fraction(1), Fraction(1), Fraction(1, 2), Fraction(2)]):
            video.write(picture(index), time)
    tick = writer.TICK
    assert [frame.time for frame in read(tmp_path / "a.mp4")] == [0, 1, 1 + tick, 1 + 2 * tick, 2]


def test_the_last_frame_is_shown_as_long_as_the_rate_says(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", frames=6, rate=Fraction(2))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].duration * container.streams.video[0].time_base == 3
        assert container.streams.video[0].average_rate == 2


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (64, 47)])
def test_odd_sides_get_their_last_row_twice(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    write(tmp_path / "a.mp4", frames=2, size=size, crf=1)
    frame = read(tmp_path / "a.mp4")[0]
    assert frame.pixels.shape == (height + height % 2, width + width % 2, 3)
    expected = np.pad(picture(0, size), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert np.median(np.abs(frame.pixels.astype(int) - expected)) <= 3
    if height % 2:
        assert np.abs(frame.pixels[-1].astype(int) - frame.pixels[-2]).mean() < 8
    if width % 2:
        assert np.abs(frame.pixels[:, -1].astype(int) - frame.pixels[:, -2]).mean() < 8


def test_the_index_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_crf_and_preset_are_used(tmp_path: Path) -> None:
    sizes = []
    for number, options in enumerate(({"crf": 40}, {}, {"preset": "ultrafast"})):
        write(tmp_path / f"{number}.mp4", **options)
        sizes.append((tmp_path / f"{number}.mp4").stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]


def test_pixels_of_any_strides(tmp_path: Path) -> None:
    turned = np.asfortranarray(picture(0))
    with VideoWriter(tmp_path / "a.mp4", 64, 48, NTSC) as video:
        video.write(turned, Fraction(0))
    write(tmp_path / "b.mp4", frames=1)
    np.testing.assert_array_equal(read(tmp_path / "a.mp4")[0].pixels, read(tmp_path / "b.mp4")[0].pixels)


# All or nothing.


def test_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with VideoWriter(path, 64, 48, NTSC) as video:
        video.write(picture(0), Fraction(0))
        assert path.read_bytes() == b"old"
        (partial,) = set(os.listdir(tmp_path)) - {"a.mp4"}
        assert partial == f".a.mp4.{os.getpid()}.partial"
    assert len(read(path)) == 1
    assert os.listdir(tmp_path) == ["a.mp4"]


def begun(path: Path) -> VideoWriter:
    video = VideoWriter(path, 64, 48, NTSC)
    video.write(picture(0), Fraction(0))
    return video


def failing(video: VideoWriter, error: type[BaseException]) -> None:
    with video:
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    video = begun(path)
    with pytest.raises(error):
        failing(video, error)
    with pytest.raises(ValueError, match="has been closed"):
        video.write(picture(0), Fraction(0))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_video_of_no_frames(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frame was written"), VideoWriter(tmp_path / "a.mp4", 64, 48, NTSC):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_full_disk_is_said_and_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    """At whichever write: of the header, a frame, the index, or while the index is moved."""
    path = tmp_path / f"a.{suffix}"
    write(path, frames=3)
    whole = path.read_bytes()
    path.unlink()
    for size in np.linspace(0, len(whole) - 1, 40).astype(int).tolist():
        with pytest.raises(OSError, match="File too large"), largest_file(size):
            write(path, frames=3)
        assert os.listdir(tmp_path) == []


def test_folders_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        VideoWriter(path, 64, 48, NTSC)
    path.rmdir()
    video = begun(path)
    path.mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        video.close()
    assert os.listdir(tmp_path) == ["a.mp4"]
    with pytest.raises(FileNotFoundError):
        VideoWriter(tmp_path / "absent" / "a.mp4", 64, 48, NTSC)


@pytest.mark.parametrize("name", ["-i.mp4", "concat:a|b.mp4", "a\nb.mp4", "%d.mp4", "pipe:1.mp4"], ids=repr)
def test_names_are_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(name), frames=1)
    assert os.listdir(tmp_path) == [name]
    assert len(read(Path(name))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.txt"}, r"path must end in one of \.mp4, \.m4v, \.mov, \.mkv, got"),
        ({"width": 0}, "width must be 1 to 16,384 pixels, got 0"),
        ({"height": 16_385}, "height must be 1 to 16,384 pixels, got 16385"),
        ({"rate": Fraction(0)}, "rate must be 0.001 to 1000 frames a second"),
        ({"crf": 52}, "crf must be 0 to 51, got 52"),
        ({"pixel_aspect": Fraction(0)}, "pixel_aspect must be 1/16 to 16, got 0"),
        ({"preset": "fastest"}, "preset must be one of ultrafast, .* got 'fastest'"),
    ],
)
def test_arguments_out_of_range(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        VideoWriter(**{"path": "a.mp4", "width": 64, "height": 48, "rate": NTSC, **arguments})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "pixels", [np.zeros((48, 64, 3)), np.zeros((64, 48, 3), np.uint8), np.zeros((48, 64), np.uint8)]
)
def test_other_pixels_are_refused(pixels: np.ndarray, tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "a.mp4", 64, 48, NTSC)
    with pytest.raises(ValueError, match=r"pixels must be uint8 \[48, 64, 3\], got"), video:
        video.write(pixels, Fraction(0))
    assert os.listdir(tmp_path) == []
