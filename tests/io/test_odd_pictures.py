"""Thousands of odd files: each is a picture, or is refused in one line that names the file and a cause."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from cases import SCALE

pytest.importorskip("PIL")

from odd_pictures import no_files, odd_files, sound

from bitrate_ext.io import tiff_tags
from bitrate_ext.io.files import shown
from bitrate_ext.io.images import ImageError, load_picture

PRECISE = 60  # of the files that nothing was done to, at least so many of 100 are pictures
SEEDS = max(1, round(4 * SCALE))


def reason_of(path: Path) -> str | None:
    """Why a file is refused; None for a picture."""
    try:
        picture = load_picture(path)
    except ImageError as error:
        told = str(error)
        assert told.startswith(f"{shown(path)}: ")
        assert told.isprintable()
        return told.removeprefix(f"{shown(path)}: ")
    pixels = picture.pixels
    assert pixels.shape[:2] == (1, 3)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    return None


@pytest.mark.parametrize("kind", sound())
def test_sound_files_are_pictures(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(sound()[kind])
    assert reason_of(tmp_path / "a") is None


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(SEEDS))
def test_odd_files_are_pictures_or_refused(tmp_path: Path, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    """500 for each seed."""
    reasons = [reason_of(path) for path in odd_files(tmp_path, 500, seed)]
    assert 100 < reasons.count(None) < 400
    assert all(reason for reason in reasons if reason is not None)
    assert capfd.readouterr() == ("", "")  # nor do the libraries print


def test_what_is_no_picture_file(tmp_path: Path) -> None:
    for path in no_files(tmp_path):
        assert reason_of(path) is not None, path


def test_libtiff_s_own_lines_go_nowhere_and_others_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    with tiff_tags.hushed():
        with tiff_tags.hushed():
            os.write(2, b"a library")
            logging.getLogger("PIL.TiffImagePlugin").error("tags")
        os.write(2, b"a library")
    os.write(2, b"after it")
    assert capfd.readouterr().err == "after it"
