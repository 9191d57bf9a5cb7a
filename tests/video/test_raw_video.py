"""Raw video: layouts that are given, named or guessed; what contradicts them is told."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from raw_clips import FRAMES, SIZE, frames_of, raw, stored
from video_clips import clip, written

from bitrate_ext.video import raw as raw_video
from bitrate_ext.video.decoder import picture
from bitrate_ext.video.raw import pixel_format_of
from bitrate_ext.video.reader import VideoError, VideoReader

PLANAR = [
    f"{kind}{depth}" for kind in ("gray", "yuv420p", "yuv422p", "yuv444p") for depth in ("", "10le", "12le", "16le")
]
OTHERS = ["yuv411p", "yuv440p", "yuv420p10be", "gray16be", "nv12", "nv21", "nv16", "nv24", "p010le", "p216le", "rgb24"]


def frames_in(path: Path, **options: Any) -> list[np.ndarray]:
    with VideoReader(path, **options) as video:
        frames = [frame.pixels for frame in video]
    assert video.partial is None
    return frames


@pytest.mark.parametrize("pixels", PLANAR + OTHERS)
@pytest.mark.parametrize("size", [SIZE, (65, 47)], ids=["even", "odd"])
def test_frames_are_those_that_were_written(pixels: str, size: tuple[int, int], forked: None, tmp_path: Path) -> None:
    path = written(tmp_path, "a.yuv", raw(pixels, size))
    assert len(raw(pixels, size)) == FRAMES * pixel_format_of(pixels).frame_bytes(size)
    reformatter = VideoReformatter()
    expected = [picture.to_rgb(frame, reformatter).to_ndarray() for frame in frames_of(pixels, size)]
    np.testing.assert_array_equal(frames_in(path, size=size, pixel_format=pixels, rate=25), expected)


@pytest.mark.parametrize("pixels", [one for one in PLANAR if "16" not in one])
def test_raw_y4m_and_lossless_files_give_the_same(pixels: str, forked: None, tmp_path: Path) -> None:
    frames = frames_in(written(tmp_path, "a.yuv", raw(pixels)), size=SIZE, pixel_format=pixels, rate=25)
    assert len(frames) == FRAMES
    for container, codec in (("yuv4mpegpipe", "wrapped_avframe"), ("matroska", "ffv1")):
        np.testing.assert_array_equal(frames_in(written(tmp_path, "a.bin", stored(container, codec, pixels))), frames)


def test_what_is_given_is_not_guessed(forked: None, tmp_path: Path) -> None:
    path = written(tmp_path, "foreman_qcif_15fps.yuv", raw("yuv422p10le"))
    with VideoReader(path, size=SIZE, pixel_format="yuv422p10", rate=29.97) as video:
        times = [frame.time for frame in video]
    assert (video.width, video.height, video.rate, video.count) == (*SIZE, Fraction(2997, 100), FRAMES)
    assert times == [Fraction(100 * index, 2997) for index in range(FRAMES)]
    assert video.warnings == ()
    assert video.picture["guessed"] is None
    assert (video.container, video.codec) == ("rawvideo", "rawvideo")


def test_what_is_guessed_is_told(forked: None, tmp_path: Path) -> None:
    with VideoReader(written(tmp_path, "cat_66x48_50fps_10bit_444.yuv", raw("yuv444p10le"))) as video:
        assert video.rate == 50
    assert video.warnings == (
        "raw video is taken for 66 x 48 by its name, yuv444p10le by its name, 50 frames a second by its name; "
        "--size, --pixel-format and --rate choose",
    )
    assert video.picture["guessed"] == "size, pixel format, rate"
    assert video.picture["pixel_format"] == "yuv444p10le"
    with VideoReader(written(tmp_path, "a.bin", raw("yuv420p")), size=SIZE) as video:
        assert video.rate == 25
    assert video.warnings == (
        "raw video is taken for yuv420p as is usual, 25 frames a second as is usual; --size, --pixel-format and --rate "
        "choose",
    )


NTSC = Fraction(30000, 1001)
NAMES: dict[str, tuple[tuple[int, int], str, Fraction | int]] = {
    "BasketballDrive_1920x1080_50": ((1920, 1080), "yuv420p", 50),
    "BasketballDrive_1920x1080_50fps_10bit_420": ((1920, 1080), "yuv420p10le", 50),
    "RaceHorses_416x240_30": ((416, 240), "yuv420p", 30),
    "Beauty_1920x1080_120fps_420_10bit_YUV": ((1920, 1080), "yuv420p10le", 120),
    "Beauty_3840x2160_120fps_420_8bit_YUV": ((3840, 2160), "yuv420p", 120),
    "CatRobot1_3840x2160_60fps_10bit_420_jvet": ((3840, 2160), "yuv420p10le", 60),
    "SteamLocomotiveTrain_2560x1600_60_10bit_crop": ((2560, 1600), "yuv420p10le", 60),
    "Traffic_2560x1600_30_10bit_422_crop": ((2560, 1600), "yuv422p10le", 30),
    "EBUGraphics_1920x1080_50_12bit_444": ((1920, 1080), "yuv444p12le", 50),
    "clip_3840x2160_8bit_p420": ((3840, 2160), "yuv420p", 25),
    "foreman_cif": ((352, 288), "yuv420p", 25),
    "FOREMAN_QCIF": ((176, 144), "yuv420p", 25),
    "city_4cif_60fps": ((704, 576), "yuv420p", 60),
    "football_sif": ((352, 240), "yuv420p", 25),
    "foreman_qcif_300": ((176, 144), "yuv420p", 25),  # frames
    "foreman_qcif_7.5": ((176, 144), "yuv420p", Fraction(15, 2)),
    "crowd_run_1080p50": ((1920, 1080), "yuv420p", 50),
    "720p5994_stockholm_ter": ((1280, 720), "yuv420p", Fraction(60000, 1001)),
    "ducks_take_off_420_720p50": ((1280, 720), "yuv420p", 50),
    "videoSRC01_1920x1080_29.97": ((1920, 1080), "yuv420p", NTSC),
    "clip.1920x1080.30": ((1920, 1080), "yuv420p", 30),
    "clip-1280X720-23.976fps-yuv444p": ((1280, 720), "yuv444p", Fraction(24000, 1001)),
    "Netflix_Aerial_1920x1080_60fps_8bit_420_60f": ((1920, 1080), "yuv420p", 60),
    "a_64x64_10_bit_60 fps": ((64, 64), "yuv420p10le", 60),
    "a_64x64_yuv420p10le": ((64, 64), "yuv420p10le", 25),
    "a_64x64_yuv422p12be_24": ((64, 64), "yuv422p12be", 25),
    "a_64x64_24_nv12": ((64, 64), "nv12", 24),
    "a_64x64p_p010": ((64, 64), "p010le", 25),
    "a_64x64_400_10b": ((64, 64), "gray10le", 25),
    "gray_cat_64x64": ((64, 64), "yuv420p", 25),
}


def layout(tmp_path: Path, name: str, length: int, start: bytes = b"", **given: Any) -> raw_video.RawLayout:
    path = tmp_path / f"{name}.yuv"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(length)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        arguments = {"size": None, "pixel_format": None, "rate": None, "max_pixels": 1 << 26} | given
        found = raw_video.layout_of(path, descriptor, **arguments)
        assert found is not None
        return found
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_codec_research(name: str, tmp_path: Path) -> None:
    size, pixels, rate = NAMES[name]
    found = layout(tmp_path, name, 5 * pixel_format_of(pixels).frame_bytes(size))
    assert (found.size, found.format.name, found.rate, found.count) == (size, pixels, rate, 5)


@pytest.mark.parametrize(("depth", "pixels"), [(8, "yuv420p"), (10, "yuv420p10le"), (12, "yuv420p12le")])
def test_depth_is_seen_where_no_name_says_it(depth: int, pixels: str, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(16, (235 << (depth - 8)) + 1, 6 * 64 * 64, dtype=np.uint16)
    data = samples.astype(np.uint8 if depth == 8 else "<u2").tobytes()
    assert layout(tmp_path, "a_64x64", len(data), data).format.name == pixels


def test_names_that_contradict_themselves(tmp_path: Path) -> None:
    frame = 64 * 48 * 3 // 2
    assert layout(tmp_path, "a_1920x1080_scaled_64x48", 7 * frame).size == (64, 48)
    assert layout(tmp_path, "a_64x48_10bit_8bit", 7 * frame).format.name == "yuv420p"
    with pytest.raises(
        VideoError, match=r"can be read as 64 x 48 yuv420p10le and as 64 x 48 yuv420p; choose with size"
    ):
        layout(tmp_path, "a_64x48_10bit_8bit", 8 * frame)
    with pytest.raises(VideoError, match="can be read as 1920 x 1080 yuv420p and as 64 x 48 yuv420p"):
        layout(tmp_path, "a_1920x1080_scaled_64x48", 7 * frame + 1)
    assert layout(tmp_path, "a_1920x1080_scaled_64x48", 7 * frame, size=(64, 24)).size == (64, 24)


def test_lengths_that_go_with_another_layout(tmp_path: Path) -> None:
    cif = 352 * 288 * 3 // 2
    message = (
        r"its 456,192 bytes are 0.15 frames of 1920 x 1080 yuv420p, 3,110,400 bytes each; it has whole frames of .*352"
    )
    with pytest.raises(VideoError, match=message):
        layout(tmp_path, "a", 3 * cif, size=(1920, 1080))
    ten = 2 * 66 * 48 * 3 // 2
    with pytest.raises(
        VideoError, match=r"whole frames of 66 x 48 yuv420p; choose with size and pixel_format"
    ) as raised:
        layout(tmp_path, "a_66x48_10bit", 3 * ten + ten // 2)
    assert f"or cut it to {3 * ten:,} bytes" in str(raised.value)
    assert layout(tmp_path, "a_66x48_10bit", 3 * ten).count == 3  # as the words say
    with pytest.raises(VideoError, match=r"its 5 bytes are 0.00 frames of 66 x 48"):
        layout(tmp_path, "a_66x48_10bit", 5)


@pytest.mark.parametrize(
    ("stated", "stored_as"),
    [("yuv420p10le", "yuv420p"), ("yuv420p10le", "yuv420p10be"), ("yuv420p12be", "yuv420p12le")],
)
def test_samples_that_are_too_large(stated: str, stored_as: str, tmp_path: Path) -> None:
    data = raw(stored_as, (64, 48), 4)
    with pytest.raises(VideoError, match=rf"has samples larger than {stated} can have"):
        layout(tmp_path, "a_64x48", len(data), data, pixel_format=stated)
    assert layout(tmp_path, "a_64x48", len(data), data, pixel_format=stored_as).count in (4, 8)


def test_a_file_that_is_cut_short(forked: None, tmp_path: Path) -> None:
    data = raw("yuv420p", (62, 38))
    path = written(tmp_path, "a_62x38.yuv", data[:-1001])
    with VideoReader(path) as video:
        assert len(list(video)) == FRAMES - 1
    assert video.partial == "the file is cut short"
    with VideoReader(path, frames=2) as video:
        assert len(list(video)) == 2
    assert video.partial is None


REFUSED: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "nothing": ("a_64x48.yuv", b"", {}, "the file is empty"),
    "text": ("notes.yuv", b"hello\n" * 999, {}, "raw video states no size, and its name none such as"),
    "text with a size": ("a_64x48.yuv", b"hello\n" * 99, {}, r"are 0\.13 frames of 64 x 48"),
    "a name without a size": ("a_50fps.yuv", bytes(9999), {}, r"give size=\(1920, 1080\) \(--size 1920x1080\)"),
    "a size of nothing": ("a_0x48_00x00.yuv", bytes(9999), {}, "raw video states no size"),
    "more than is allowed": ("a_65000x65000.yuv", bytes(99), {}, "65000 x 65000 are more than 67,108,864 pixels"),
    "numbers without end": (f"a_{'9' * 90}x48_{'9' * 90}fps.yuv", bytes(99), {}, "raw video states no size"),
    "a file with a header": ("a.mp4", clip("mp4"), {"size": (64, 48)}, "is no raw video, but has a header"),
    "Y4M": ("a.y4m", clip("y4m"), {"pixel_format": "yuv420p"}, "is no raw video, but has a header"),
    "a rate for what has times": ("a.mp4", clip("mp4"), {"rate": 25}, "states its own times; rate is for raw video"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, forked: None, tmp_path: Path) -> None:
    name, data, options, message = REFUSED[case]
    with pytest.raises(VideoError, match=message) as raised:
        VideoReader(written(tmp_path, name, data), **options)
    assert str(raised.value).startswith(str(tmp_path / name))


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"size": (0, 48)}, "size must be width and height, of 1 to"),
    "a negative size": ({"size": (-64, 48)}, "size must be width and height"),
    "a huge size": ({"size": (10**9, 48)}, "size must be width and height"),
    "no whole size": ({"size": (64.5, 48)}, "size must be width and height"),
    "one side": ({"size": (64,)}, "size must be width and height"),
    "pixel format": ({"size": (64, 48), "pixel_format": "yuv420p11le"}, "pixel_format must be yuv420p, "),
    "rate": ({"size": (64, 48), "rate": 0}, "rate must be 0.001 to 1000 frames a second, got 0"),
    "no rate": ({"size": (64, 48), "rate": float("nan")}, "rate must be"),
    "matrix": ({"size": (64, 48), "matrix": "ycgco"}, "matrix must be one of 'bt601', "),
    "range": ({"size": (64, 48), "range": "tv"}, "range must be one of 'limited', 'full', got 'tv'"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_out_of_range(case: str, forked: None, tmp_path: Path) -> None:
    options, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=message) as raised:
        VideoReader(written(tmp_path, "a.yuv", bytes(64 * 48 * 3)), **options)
    assert not isinstance(raised.value, VideoError)


def test_y4m_named_yuv_is_read_by_its_header(forked: None, tmp_path: Path) -> None:
    with VideoReader(written(tmp_path, "a_1920x1080.yuv", clip("y4m"))) as video:
        assert (video.width, video.height) == (64, 48)
    assert video.warnings == ()
    assert "guessed" not in video.picture


@pytest.mark.parametrize("name", ["yuv420", "yuv420p10xe", "gray8", "p010ce", "nv12le", "yuv420p 10", ""])
def test_no_pixel_formats(name: str) -> None:
    with pytest.raises(ValueError, match="pixel_format must be"):
        pixel_format_of(name)
