"""Files that appear whole or not at all; writers of videos and receptive fields use the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitrate_ext.atomic import open_all_or_none


def write(targets: list[Path], error: Exception | None = None) -> None:
    with open_all_or_none(targets) as files:
        for number, file in enumerate(files):
            file.write(b"new %d" % number)
        assert not any(target.exists() and target.read_bytes().startswith(b"new") for target in targets)
        if error is not None:
            raise error


def test_files_appear_together(tmp_path: Path) -> None:
    targets = [tmp_path / "a", tmp_path / "b"]
    targets[0].write_bytes(b"old")
    write(targets)
    assert [target.read_bytes() for target in targets] == [b"new 0", b"new 1"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_names_as_long_as_there_are(tmp_path: Path) -> None:
    names = ["é" * 127 + "a", "é" * 127 + "b", "é" * 100]
    write([tmp_path / name for name in names])
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    targets = [tmp_path / "a", tmp_path / "b"]
    targets[0].write_bytes(b"old")
    with pytest.raises(KeyError):
        write(targets, KeyError("x"))
    with pytest.raises(FileNotFoundError):
        write([*targets, tmp_path / "absent" / "c"])
    assert os.listdir(tmp_path) == ["a"]
    assert targets[0].read_bytes() == b"old"


def test_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError, match="b is a folder"), open_all_or_none([tmp_path / "a", tmp_path / "b"]):
        pass
    assert os.listdir(tmp_path) == ["b"]
