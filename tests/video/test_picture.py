"""What is chosen where a frame becomes RGB is in the record; where a viewer shows something else, in a warning."""

from __future__ import annotations

import io
import math
import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from video_clips import SIZE, clip, written

from bitrate_ext import choices
from bitrate_ext.video.decoder import picture
from bitrate_ext.video.reader import VideoReader

WOVEN = int(av.codec.context.Flags.interlaced_dct) | int(av.codec.context.Flags.interlaced_me)
PLAIN = {
    "matrix": "BT.601", "matrix_stated": False, "range": "limited", "hdr": None, "primaries": None,
    "interlaced": False, "pixel_aspect": "1:1", "transparent": False, "matrix_chosen": False, "range_chosen": False
}  # fmt: skip
HDR = {"colorspace": 9, "color_primaries": 9}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {  # clip, labels, facts, warnings
    "plain": ("mkv", {}, {"pixel_format": "yuv420p", "range_stated": False}, []),
    "labelled": (
        "mkv",
        {"colorspace": 1, "color_range": 1},
        {"matrix": "BT.709", "matrix_stated": True, "range_stated": True},
        [],
    ),
    "full range": ("mkv", {"color_range": 2}, {"range": "full", "range_stated": True}, []),
    "HDR10": (
        "mp4",
        {**HDR, "color_trc": 16},
        {"matrix": "BT.2020", "matrix_stated": True, "hdr": "PQ", "primaries": "BT.2020"},
        ["HDR (PQ) is not tone-mapped", "colours of BT.2020 are not converted"],
    ),
    "HLG": (
        "mkv",
        {**HDR, "color_trc": 18},
        {"matrix": "BT.2020", "matrix_stated": True, "hdr": "HLG", "primaries": "BT.2020"},
        ["HDR (HLG) is not tone-mapped", "colours of BT.2020 are not converted"],
    ),
    "wide colours": (
        "mp4",
        {"color_primaries": 12},
        {"primaries": "Display P3"},
        ["colours of Display P3 are not converted"],
    ),
    "a matrix that cannot be converted": ("mkv", {"colorspace": 14}, {}, ["colours in ICtCp are taken for BT.601"]),
    "pixels that are not square": (
        "mkv",
        {"sample_aspect_ratio": Fraction(4, 3)},
        {"pixel_aspect": "4:3"},
        ["pixels are not square (4:3), and not scaled"],
    ),
    "fields": ("mpg", {"flags": WOVEN}, {"interlaced": True, "range_stated": True}, ["frames are interlaced"]),
    "RGB": ("gif", {}, {"pixel_format": "bgra", "matrix": "RGB", "matrix_stated": True, "range": "full"}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_choices_are_told(case: str, forked: None, tmp_path: Path) -> None:
    suffix, labels, facts, warnings = CASES[case]
    data = clip(suffix, frames=3, labels=tuple(labels.items()))
    with VideoReader(written(tmp_path, "a.bin", data)) as video:
        assert len(list(video)) == 3
    assert video.picture == {**video.picture, **PLAIN, **facts}
    assert len(video.warnings) == len(warnings)
    assert all(said.startswith(start) for said, start in zip(video.warnings, warnings, strict=True)), video.warnings


def test_turns_that_are_not_made(forked: None, tmp_path: Path) -> None:
    data = bytearray(clip("mp4", frames=3))
    a, b = round(65536 * math.cos(0.5)), round(65536 * math.sin(0.5))
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    with VideoReader(written(tmp_path, "a.mp4", bytes(data))) as video:
        assert video.warnings == ("frames are to be turned by other than quarter turns, and are not",)


def test_alpha_beside_the_frames_of_a_webm(forked: None, tmp_path: Path) -> None:
    with VideoReader(written(tmp_path, "a.webm", clip("webm", frames=3, pixels="yuva420p"))) as video:
        assert video.picture["transparent"] is True
        assert video.warnings == ("transparency is dropped: a viewer shows what is behind",)


@pytest.mark.parametrize("pixels", ["rgba", "bgra", "argb", "yuva420p", "yuva444p10le", "ya8", "rgba64be", "gbrap"])
@pytest.mark.parametrize("seen_through", [False, True])
def test_alpha_counts_where_it_is_seen(pixels: str, seen_through: bool) -> None:
    rgba = np.full((32, 64, 4), 255, np.uint8)
    rgba[..., :3] = 40
    rgba[20:24, 30:34, 3] = 100 if seen_through else 255
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixels)
    assert picture.is_transparent(frame, SimpleNamespace(metadata={})) is seen_through


def pixels_of(path: Path, **options: Any) -> tuple[VideoReader, list[np.ndarray]]:
    with VideoReader(path, **options) as video:
        return video, [frame.pixels for frame in video]


MATRIX_NUMBERS = {"bt601": 5, "bt709": 1, "bt2020nc": 9, "fcc": 4, "smpte240m": 7}


@pytest.mark.parametrize("matrix", choices.MATRICES)
@pytest.mark.parametrize("limits", choices.RANGES)
def test_what_is_chosen_counts_in_the_place_of_what_is_stated(
    matrix: str, limits: str, forked: None, tmp_path: Path
) -> None:
    """As if the video stated it: lossless samples, other labels."""
    labels = (("colorspace", MATRIX_NUMBERS[matrix]), ("color_range", {"limited": 1, "full": 2}[limits]))
    others = (("colorspace", 1 if matrix != "bt709" else 5), ("color_range", 2 if limits == "limited" else 1))
    video, expected = pixels_of(written(tmp_path, "a.mkv", clip("mkv", codec="ffv1", frames=2, labels=labels)))
    chosen = {"matrix": matrix, "range": limits}
    path = written(tmp_path, "b.mkv", clip("mkv", codec="ffv1", frames=2, labels=others))
    as_chosen, pixels = pixels_of(path, **chosen)
    np.testing.assert_array_equal(pixels, expected)
    flags = ("matrix_stated", "range_stated", "matrix_chosen", "range_chosen")
    assert [as_chosen.picture[flag] for flag in flags] == [False, False, True, True]
    assert [video.picture[flag] for flag in flags] == [True, True, False, False]
    assert (as_chosen.picture["matrix"], as_chosen.picture["range"]) == (video.picture["matrix"], limits)
    assert (pixels_of(path)[1][0] != expected[0]).any()


@pytest.mark.parametrize("limits", choices.RANGES)
def test_a_range_is_chosen_of_formats_that_have_one(limits: str, forked: None, tmp_path: Path) -> None:
    """H.264 of full range comes as yuvj420p, which FFmpeg takes to be full whatever it is told."""
    lossless = {"codec": "libx264", "frames": 2}
    full = clip("mkv", labels=(("color_range", 2), ("qmin", 0), ("qmax", 0)), **lossless)
    with av.open(io.BytesIO(full)) as container:
        assert next(container.decode(video=0)).format.name == "yuvj420p"
        container.seek(0)
        frames = [frame.to_ndarray(format="yuvj420p").tobytes() for frame in container.decode(video=0)]
    same = written(tmp_path, "a.yuv", b"".join(frames))
    expected = pixels_of(same, size=SIZE, pixel_format="yuv420p", rate=25, range=limits)[1]
    video, pixels = pixels_of(written(tmp_path, "a.mkv", full), range=limits)
    np.testing.assert_array_equal(pixels, expected)
    assert (video.picture["range"], video.picture["range_chosen"]) == (limits, True)


@pytest.mark.parametrize("pixels", ["gray", "gray10le", "gray16be"])
def test_grey_of_limited_range(pixels: str, forked: None, tmp_path: Path) -> None:
    deep = pixels != "gray"
    scale = {"gray": 1, "gray10le": 4, "gray16be": 256}[pixels]
    levels = np.tile(np.arange(64, dtype=np.uint16) * 4 * scale, (48, 1))
    data = levels.astype((">u2" if "be" in pixels else "<u2") if deep else np.uint8).tobytes()
    path = written(tmp_path, "a.yuv", data)
    _, (limited,) = pixels_of(path, size=(64, 48), pixel_format=pixels, rate=25, range="limited")
    expected = np.clip((np.arange(64) * 4 - 16) * 255 / 219, 0, 255)
    np.testing.assert_allclose(limited[20], np.repeat(expected[:, None], 3, axis=1), atol=1.1)


def test_what_means_nothing_for_rgb_is_told(forked: None, tmp_path: Path) -> None:
    path = written(tmp_path, "a.gif", clip("gif", frames=2))
    video, pixels = pixels_of(path, matrix="bt709", range="limited")
    np.testing.assert_array_equal(pixels, pixels_of(path)[1])
    assert video.warnings == ("frames are stored as RGB: the matrix and the range that are chosen mean nothing",)
    assert (video.picture["matrix"], video.picture["matrix_chosen"], video.picture["range_chosen"]) == (
        "RGB",
        False,
        False,
    )


def test_frames_that_change_on_the_way_are_taken_by_their_own_facts_and_told(forked: None, tmp_path: Path) -> None:
    labels = (
        (("colorspace", 1), ("color_range", 1), ("sample_aspect_ratio", Fraction(1))),
        (
            ("colorspace", 5),
            ("color_range", 2),
            ("sample_aspect_ratio", Fraction(4, 3)),
        ),
    )
    parts = [clip("h264", frames=3, labels=label) for label in labels]
    apart = [pixels_of(written(tmp_path, "a.h264", part))[1] for part in parts]
    video, pixels = pixels_of(written(tmp_path, "b.h264", parts[0] + parts[1] + parts[0]))
    np.testing.assert_array_equal(pixels[:9], [*apart[0], *apart[1], *apart[0]])
    assert len(video.warnings) in (2, 3)
    told = "; ".join(video.warnings)
    for words in (
        "pixel_format from yuv420p to yuvj420p, matrix from BT.709 to BT.601, range from limited to full",
        "pixel_aspect from 1:1 to 4:3",
        "later, pixels are not square (4:3), and not scaled",
    ):
        assert told.count(words) == 1
    assert video.picture["matrix"] == "BT.709"
    assert video.partial is None


def test_pixels_of_a_turned_video_are_turned(forked: None, tmp_path: Path) -> None:
    data = bytearray(clip("mp4", frames=2, labels=(("sample_aspect_ratio", Fraction(4, 3)),)))
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    with VideoReader(written(tmp_path, "a.mp4", bytes(data))) as video:
        assert (video.width, video.height) == (48, 64)
        assert video.pixel_aspect == Fraction(3, 4)
    assert video.picture["pixel_aspect"] == "3:4"


def plain_frame(pixels: str, samples: tuple[int, ...], *, matrix: int, limits: int) -> av.VideoFrame:
    frame = av.VideoFrame(16, 16, pixels)
    for plane, sample in zip(frame.planes, samples, strict=True):
        plane.update(bytes([sample]) * plane.buffer_size)
    frame.colorspace, frame.color_range = matrix, limits
    return frame


COEFFICIENTS = {  # of red and blue; the frame's matrix
    1: (0.2126, 0.0722), 2: (0.299, 0.114), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114),
    7: (0.212, 0.087), 8: (0.299, 0.114), 9: (0.2627, 0.0593), 14: (0.299, 0.114)
}  # fmt: skip


@pytest.mark.parametrize("limits", [0, 1, 2])
@pytest.mark.parametrize("matrix", COEFFICIENTS)
def test_colours_by_matrix_and_range(matrix: int, limits: int) -> None:
    """Worked out by the definition of luma and colour differences."""
    y, cb, cr = (96 - 16) / 219, (144 - 128) / 224, (160 - 128) / 224
    if limits == 2:
        y, cb, cr = 96 / 255, (144 - 128) / 255, (160 - 128) / 255
    of_red, of_blue = COEFFICIENTS[matrix]
    red, blue = y + 2 * (1 - of_red) * cr, y + 2 * (1 - of_blue) * cb
    green = (y - of_red * red - of_blue * blue) / (1 - of_red - of_blue)
    frame = plain_frame("yuv420p", (96, 144, 160), matrix=matrix, limits=limits)
    rgb = picture.to_rgb(frame, VideoReformatter()).to_ndarray()
    np.testing.assert_allclose(rgb[8, 8], [255 * red, 255 * green, 255 * blue], atol=2.1)


@pytest.mark.parametrize("limits", [0, 1, 2])
def test_grey_is_of_full_range(limits: int) -> None:
    frame = plain_frame("gray", (16,), matrix=2, limits=limits)
    assert picture.is_full_range(frame)
    assert picture.to_rgb(frame, VideoReformatter()).to_ndarray()[8, 8].tolist() == [16, 16, 16]


@pytest.mark.parametrize(("height", "matrix"), [(719, picture.BT601), (720, picture.BT709)])
def test_unlabelled_video_is_taken_as_players_do(height: int, matrix: int) -> None:
    frame = av.VideoFrame(1280, height, "yuv420p")
    frame.colorspace = picture.UNSPECIFIED
    assert picture.matrix_of(frame) == matrix
