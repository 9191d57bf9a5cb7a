"""What is chosen where a frame becomes RGB is in the record; where a viewer shows something else, in a warning."""

from __future__ import annotations

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
from video_clips import clip, written

from bitrate_ext.video.decoder import picture
from bitrate_ext.video.reader import VideoReader

WOVEN = int(av.codec.context.Flags.interlaced_dct) | int(av.codec.context.Flags.interlaced_me)
PLAIN = {
    "matrix": "BT.601", "matrix_stated": False, "range": "limited", "hdr": None, "primaries": None,
    "interlaced": False, "pixel_aspect": "1:1", "transparent": False
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
