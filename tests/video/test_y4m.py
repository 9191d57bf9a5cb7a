"""Y4M: what its header may say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_clips import SIZE, frames_of, raw, samples_of
from video_clips import written

from bitrate_ext.video.reader import VideoError, VideoReader

HEADERS: dict[str, tuple[str, dict[str, Any], Fraction]] = {  # pixel format, facts, aspect of pixels
    "": ("yuv420p", {"range": "limited", "interlaced": False}, Fraction(1)),
    "C420jpeg": ("yuv420p", {"range": "limited"}, Fraction(1)),
    "C420mpeg2 A4:3 Ip": ("yuv420p", {"interlaced": False, "pixel_aspect": "4:3"}, Fraction(4, 3)),
    "C420paldv It A0:0": ("yuv420p", {"interlaced": True, "pixel_aspect": "1:1"}, Fraction(1)),
    "C422 Ib A10:11": ("yuv422p", {"interlaced": True, "pixel_aspect": "10:11"}, Fraction(10, 11)),
    "C420p10 XYSCSS=420P10 XCOLORRANGE=LIMITED": (
        "yuv420p10le",
        {"range": "limited", "range_stated": True},
        Fraction(1),
    ),
    "C420p12": ("yuv420p12le", {}, Fraction(1)),
    "C422p10 XCOLORRANGE=FULL": ("yuv422p10le", {"range": "full", "range_stated": True}, Fraction(1)),
    "C422p12": ("yuv422p12le", {}, Fraction(1)),
    "C444": ("yuv444p", {}, Fraction(1)),
    "C444p12 XCOLORRANGE=FULL": ("yuv444p12le", {"range": "full"}, Fraction(1)),
    "C411": ("yuv411p", {}, Fraction(1)),
    "Cmono": ("gray", {"range": "full"}, Fraction(1)),
    "Cmono10": ("gray10le", {}, Fraction(1)),
    "Cmono12": ("gray12le", {}, Fraction(1)),
}


def y4m(header: str, pixels: str) -> bytes:
    start = f"YUV4MPEG2 W{SIZE[0]} H{SIZE[1]} F30000:1001 {header}\n".encode()
    return start + b"".join(b"FRAME\n" + samples_of(frame) for frame in frames_of(pixels))


@pytest.mark.parametrize("header", HEADERS)
def test_headers(header: str, forked: None, tmp_path: Path) -> None:
    pixels, facts, aspect = HEADERS[header]
    with VideoReader(written(tmp_path, "a.y4m", y4m(header, pixels))) as video:
        frames = [frame.pixels for frame in video]
    assert video.partial is None
    assert video.picture == {**video.picture, "pixel_format": pixels, "transparent": False, **facts}
    assert (video.rate, video.pixel_aspect) == (Fraction(30000, 1001), aspect)
    limits = "full" if "FULL" in header else None
    if video.picture["interlaced"]:
        return  # chroma of each field goes with its own rows
    path = written(tmp_path, "a.yuv", raw(pixels))
    with VideoReader(path, size=SIZE, pixel_format=pixels, rate=25, range=limits) as again:
        np.testing.assert_array_equal([frame.pixels for frame in again], frames)


@pytest.mark.parametrize("header", ["C420jpeg Im", "C999"])
def test_headers_that_are_not_read_are_told(header: str, forked: None, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=f"its Y4M header states what is not read: YUV4MPEG2 W66 .* {header}"):
        VideoReader(written(tmp_path, "a.y4m", y4m(header, "yuv420p")))


def test_a_file_that_is_cut_short(forked: None, tmp_path: Path) -> None:
    with VideoReader(written(tmp_path, "a.y4m", y4m("C420p10", "yuv420p10le")[:-9])) as video:
        assert len(list(video)) == 2
    assert video.partial == "the file is cut short"
