"""Numbered images as a video."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from video_clips import picture

from bitrate_ext.video.reader import VideoError, VideoReader
from bitrate_ext.video.sequence import is_sequence, unusable_video


def make(folder: Path, *names: str, size: tuple[int, int] = (64, 48)) -> Path:
    """Images of ``video_clips.picture``, in the order of their names here."""
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        Image.fromarray(picture(index, size)).save(folder / name)
    return folder


def check(video: VideoReader, indices: list[int]) -> None:
    frames = list(video)
    assert [frame.index for frame in frames] == list(range(len(indices)))
    for frame, index in zip(frames, indices, strict=True):
        assert frame.pixels.dtype == np.uint8
        np.testing.assert_array_equal(frame.pixels, picture(index))


def test_a_pattern(tmp_path: Path) -> None:
    make(tmp_path, "frame_0008.png", "frame_0009.png", "frame_0010.png", "frame_10000.png", "other_0001.png")
    make(tmp_path, "frame_011.png", "frame_0012.jpg")
    with VideoReader(tmp_path / "frame_%04d.png", rate=Fraction(24000, 1001)) as video:
        check(video, [0, 1, 2, 3])
    assert video.partial is None
    assert (video.count, video.rate, video.container, video.codec) == (4, Fraction(24000, 1001), "images", "png")
    assert video.warnings == ("numbers are missing, and passed over: between frame_0010.png and frame_10000.png",)
    assert video.picture == {**video.picture, "matrix": "RGB", "range": "full"}


def test_a_pattern_without_zeros(tmp_path: Path) -> None:
    make(tmp_path, "a[1]7.png", "a[1]8.png", "a[1]9.png", "a[1]10.png", "a[1]011.png")
    with VideoReader(tmp_path / "a[1]%d.png") as video:
        times = [frame.time for frame in video]
    assert times == [Fraction(index, 25) for index in range(4)]
    assert video.warnings == ("images are shown at 25 frames a second, as is usual; --rate chooses",)


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", "f1.png", "f2.png", "F3.png", "f9.png", "f10.png", "f100.png")
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.png").write_text("hello")
    (folder / "sub.png").mkdir()
    with VideoReader(folder, rate=30) as video:
        check(video, list(range(6)))
    assert video.warnings == (
        "files that are no images are left out: notes.txt",
        "numbers are missing, and passed over: between F3.png and f9.png, between f10.png and f100.png",
    )


def test_even_steps_are_no_gaps(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", "f0.png", "f40.png", "f80.png")
    with VideoReader(folder, rate=30) as video:
        check(video, [0, 1, 2])
    assert video.warnings == ()


def test_images_of_several_kinds_and_depths(tmp_path: Path) -> None:
    make(tmp_path, "f1.png", "f2.bmp")
    deep = np.full((48, 64), 257 * 128 + 100, np.uint16)
    Image.fromarray(deep).save(tmp_path / "f0.png")
    with VideoReader(tmp_path, rate=30) as video:
        frames = list(video)
    assert video.codec == "png, bmp"
    assert (frames[0].pixels == 128).all()
    assert video.warnings == (
        "images of several kinds follow one another (.png, .bmp)",
        "16 bits a channel are rounded to 8",
    )


def test_only_the_first(tmp_path: Path) -> None:
    make(tmp_path, "f1.png", "f2.png", "f3.png")
    (tmp_path / "f3.png").write_bytes(b"")
    with VideoReader(tmp_path, frames=2) as video:
        check(video, [0, 1])
    assert video.partial is None
    make(tmp_path, "f3.png")
    (tmp_path / "f1.png").write_bytes(b"")
    with VideoReader(tmp_path, frames=1) as video:
        assert len(list(video)) == 1


@pytest.mark.parametrize("damage", ["header", "pixels", "empty", "pipe"])
@pytest.mark.parametrize("place", [0, 1])
def test_an_image_that_cannot_be_read_is_left_out_and_told(damage: str, place: int, tmp_path: Path) -> None:
    make(tmp_path, "f1.png", "f2.png", "f3.png")
    bad = tmp_path / f"f{place + 1}.png"
    data = bad.read_bytes()
    bad.unlink()
    if damage == "pipe":
        os.mkfifo(bad)
    else:
        bad.write_bytes({"header": b"x" * 99, "pixels": data[: len(data) // 2], "empty": b""}[damage])
    with VideoReader(tmp_path, rate=25) as video:
        frames = list(video)
    assert [frame.time for frame in frames] == [Fraction(index, 25) for index in range(3) if index != place]
    np.testing.assert_array_equal(frames[1].pixels, picture(2))
    assert video.partial is not None
    assert video.partial.startswith(f"images that cannot be read: 1 ({bad}: ")
    with VideoReader(tmp_path, rate=25, frames=2) as video:  # as the second pass of a command asks for them
        assert len(list(video)) == 2


def test_no_image_can_be_read(tmp_path: Path) -> None:
    for name in ("f1.png", "f2.png"):
        (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(VideoError, match=rf"^{tmp_path}/f1\.png: not a PNG"):
        VideoReader(tmp_path)


def test_images_of_other_sizes_are_named(tmp_path: Path) -> None:
    make(tmp_path, "f1.png", "f2.png")
    make(tmp_path, "poster.png", size=(32, 48))
    with pytest.raises(
        VideoError, match=r"poster\.png: is 32 x 48, and the images before it 64 x 48; leave it out, or"
    ):
        VideoReader(tmp_path)
    with VideoReader(tmp_path / "f%d.png") as video:  # as the words say
        check(video, [0, 1])


def test_a_turned_image_counts_as_it_is_shown(tmp_path: Path) -> None:
    make(tmp_path, "f1.png")
    image = Image.fromarray(np.rot90(picture(1)))
    exif = image.getexif()
    exif[274] = 6  # to be turned clockwise
    image.save(tmp_path / "f2.png", exif=exif)
    with VideoReader(tmp_path) as video:
        check(video, [0, 1])


def test_names_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for name, message in {
        "": "is a folder without images",
        "f%d.png": "no such file, and none in .* that has a number there",
        "absent/f%d.png": "no such file",
        "f%d_%d.png": "no such file",
        "f%s.png": "no such file",
    }.items():
        with pytest.raises(VideoError, match=message):
            VideoReader(tmp_path / name)
        assert unusable_video(tmp_path / name) is not None
    (tmp_path / "a%d.png").write_text("a file of that very name")
    assert not is_sequence(tmp_path / "a%d.png")


@pytest.mark.parametrize(
    "options", [{"size": (64, 48)}, {"pixel_format": "yuv420p"}, {"matrix": "bt601"}, {"range": "full"}], ids=str
)
def test_what_images_state_themselves(options: dict[str, Any], tmp_path: Path) -> None:
    make(tmp_path, "f1.png")
    (name,) = options
    with pytest.raises(VideoError, match=f"images have a {name} of their own; leave {name} out"):
        VideoReader(tmp_path, **options)


def test_images_that_are_too_large(tmp_path: Path) -> None:
    make(tmp_path, "f1.png")
    with pytest.raises(VideoError, match=r"f1\.png: is 64 x 48, more than 3,071 pixels"):
        VideoReader(tmp_path, max_pixels=64 * 48 - 1)
