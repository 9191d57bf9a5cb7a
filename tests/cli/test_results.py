"""Results of commands: told apart, never replaced unasked, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import error_of
from map_results import ENDINGS, files, outputs

from bitrate_ext.cli import main as cli

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytest.importorskip("compressai")


def test_equal_stems_are_told_apart(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sub").mkdir()
    names = photos("a.png", "A.bmp", "sub/a.png", "b.png")
    assert cli.main(["map", *names, "a.png", "-o", "out"]) == 2
    assert files("out") == sorted([*outputs("a.png"), *outputs("A.bmp"), *outputs("b"), "sub"])
    assert files("out/sub") == outputs("a")
    for stem, name in {"a.png": "a.png", "A.bmp": "A.bmp", "sub/a": "sub/a.png", "b": "b.png"}.items():
        assert json.loads(Path(f"out/{stem}.json").read_text())["image"] == name
    error, _ = capsys.readouterr().err.splitlines()
    assert error.startswith("bitrate-ext: error: a.png: its results would replace those of a.png; ")


@pytest.mark.parametrize("names", [("a.png", "a.bmp"), ("one/a.png", "two/a.png"), ("x/y/a.png", "a.png")])
def test_a_damaged_image_keeps_no_other_from_being_mapped(photos: Callable, names: tuple[str, str]) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
    photos(*names)
    Path(names[0]).write_bytes(Path(names[0]).read_bytes()[:200])
    assert cli.main(["map", *names, "-o", "out"]) == 2
    (record,) = Path("out").rglob("*.json")
    assert json.loads(record.read_text())["image"] == names[1]


def test_results_that_exist_are_kept(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png", "b.png")
    Path("a.json").write_text("of another program")
    assert cli.main(["map", "a.png", "b.png"]) == 2
    assert files() == sorted(["a.json", "a.png", "b.png", *outputs("b")])
    assert Path("a.json").read_text() == "of another program"
    assert "a.png: a.json exists; choose another name or folder with -o, or replace it with --overwrite" in (
        capsys.readouterr().err
    )
    assert "b.bitrate.png exists" in error_of(capsys, "map", "b.png", "--projection", "nearest")
    assert json.loads(Path("b.json").read_text())["projection"] == "bilinear"
    assert cli.main(["map", "a.png", "b.png", "--projection", "nearest", "--overwrite"]) == 0
    assert json.loads(Path("b.json").read_text())["projection"] == "nearest"


def test_inputs_are_not_overwritten(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png", "a.overlay.png")
    before = Path("a.overlay.png").read_bytes()
    assert cli.main(["map", "a.png", "a.overlay.png"]) == 2
    assert "a.png: a.overlay.png would replace an input" in capsys.readouterr().err
    assert Path("a.overlay.png").read_bytes() == before
    assert files() == sorted(["a.png", "a.overlay.png", *outputs("a.overlay")])


def test_old_results_are_replaced(photos: Callable) -> None:
    photos("a.png")
    for ending in ENDINGS:
        Path(f"a{ending}").write_text("old")
    assert cli.main(["map", "a.png", "--overwrite"]) == 0
    assert all(Path(f"a{ending}").read_bytes() != b"old" for ending in ENDINGS)


@pytest.mark.parametrize("failing", ["render.overlay", "os.replace"])
def test_a_failure_leaves_no_file(
    photos: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    photos("a.png")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    if failing == "render.overlay":
        monkeypatch.setattr("bitrate_ext.viz.map_figure.overlay", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    assert error_of(capsys, "map", "a.png") == (
        "bitrate-ext: error: a.png: its results cannot be written (No space left on device)\n"
    )
    assert files() == ["a.png"]


def test_a_failure_keeps_old_results(photos: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    photos("a.png")
    for ending in ENDINGS:
        Path(f"a{ending}").write_text("old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bitrate_ext.viz.map_figure.overlay", full)
    assert cli.main(["map", "a.png", "--overwrite"]) == 2
    assert files() == sorted(["a.png", *outputs("a")])
    assert all(Path(f"a{ending}").read_text() == "old" for ending in ENDINGS)


def test_a_folder_in_the_way_of_a_result(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png")
    Path("a.json").mkdir()
    assert error_of(capsys, "map", "a.png", "--overwrite") == (
        "bitrate-ext: error: a.png: its results cannot be written (a.json is a folder)\n"
    )
    assert files() == ["a.json", "a.png"]


def test_interruption_leaves_no_file(
    photos: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos("a.png")
    monkeypatch.setattr("bitrate_ext.viz.map_figure.overlay", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background start without it
    try:
        assert cli.main(["map", "a.png", "--json"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr() == ("", "bitrate-ext: interrupted\n")
    assert files() == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png")
    Path("locked").mkdir(0o500)
    assert "--output locked: no permission to write there" in error_of(capsys, "map", "a.png", "-o", "locked")
