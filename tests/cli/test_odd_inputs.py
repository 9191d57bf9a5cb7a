"""Inputs as they come, from the command line: what is mapped and what is refused make up all of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases import SCALE
from commands import error_of
from map_results import files, outputs

from bitrate_ext.cli import console
from bitrate_ext.cli import main as cli
from bitrate_ext.io.files import shown

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytest.importorskip("compressai")

from odd_pictures import no_files, odd_files, photograph, sound  # noqa: E402


@pytest.mark.medium
def test_inputs_are_those_mapped_and_those_refused(
    photos: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos()
    inputs = [str(path) for path in (*odd_files(tmp_path, max(12, round(60 * SCALE)), seed=9), *no_files(tmp_path))]
    assert cli.main(["map", "--json", "-o", "out", "--", *inputs]) == 2
    captured = capfd.readouterr()
    document = json.loads(captured.out)
    refused = {failure["image"]: failure["error"] for failure in document["failures"]}
    mapped = {record["image"]: record for record in document["images"]}
    assert sorted([*mapped, *refused]) == sorted(inputs)
    assert min(len(mapped), len(refused)) >= 3
    assert all(words.startswith(f"{shown(name)}: ") and words.isprintable() for name, words in refused.items())
    written = {str(path) for path in Path("out").rglob("*") if path.is_file()}
    assert written == {name for record in mapped.values() for name in record["files"].values()}
    assert all(any(folder.iterdir()) for folder in Path("out").rglob("*") if folder.is_dir())
    lines = captured.err.splitlines()
    assert all(line.startswith(("bitrate-ext: ", "Mapping ")) for line in lines), lines
    assert sum(line.startswith("bitrate-ext: error: ") for line in lines) == len(refused)


def test_departures_are_in_the_record_and_told(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos()
    Path("a.png").write_bytes(sound()["png alpha"])
    Path("b.gif").write_bytes(sound()["gif"])
    assert cli.main(["map", "a.png", "b.gif"]) == 0
    white = "transparent parts are laid on white: a viewer may show another ground"
    first = "has 2 frames or pages; only the first is read"
    for name, expected in (("a", [white]), ("b", [first])):
        record = json.loads(Path(f"{name}.json").read_text())
        assert record["warnings"] == expected
    assert (record["picture"]["format"], record["picture"]["frames"]) == ("GIF", 2)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"bitrate-ext: warning: a.png: {white}", f"bitrate-ext: warning: b.gif: {first}"]
    assert cli.main(["map", "a.png", "--tile", "64", "--overwrite"]) == 0
    assert json.loads(Path("a.json").read_text())["warnings"] == [white]
    assert capsys.readouterr().err.splitlines().count(f"bitrate-ext: warning: a.png: {white}") == 1


def test_check_tells_of_the_picture_too(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos()
    Path("b.gif").write_bytes(sound()["gif"])
    assert cli.main(["check", "b.gif", "--json"]) == 0
    captured = capsys.readouterr()
    (document,) = json.loads(captured.out)["images"]
    assert document["picture"]["frames"] == 2
    assert document["warnings"][0] == "has 2 frames or pages; only the first is read"
    assert "bitrate-ext: warning: b.gif: has 2 frames or pages" in captured.err


def from_stdin(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("kind", ["png", "tiff deflate", "ppm", "jpeg", "pgm deep"])
def test_a_picture_by_the_standard_input(photos: Callable, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photos()
    Path("a").write_bytes(sound()[kind])
    from_stdin(sound()[kind], monkeypatch)
    assert cli.main(["map", "-", "a", "-o", "out"]) == 0
    assert files("out") == sorted([*outputs("a"), *outputs("stdin")])
    by_name, by_stdin = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("a", "stdin"))
    assert (by_name["image"], by_stdin["image"]) == ("a", "-")
    assert by_name["total_bits"] == by_stdin["total_bits"]
    assert by_name["picture"] == by_stdin["picture"]


def test_trouble_with_the_standard_input(
    photos: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos()
    for data, reason in ((b"", "the file is empty"), (b"hello", "not a PNG"), (sound()["png"][:99], "damaged or cut")):
        from_stdin(data, monkeypatch)
        assert f"error: stdin: {reason}" in error_of(capsys, "map", "-").replace("the image is ", "")
    monkeypatch.setattr("bitrate_ext.cli.serving.MOST_IMAGE", 10)
    from_stdin(sound()["png"], monkeypatch)
    assert "error: stdin: is longer than 10 bytes" in error_of(capsys, "map", "-")
    monkeypatch.setattr(sys, "stdin", None)
    assert "error: stdin: nothing comes in; send an image into it" in error_of(capsys, "map", "-")
    assert files() == []


@pytest.mark.medium
def test_a_pipe_into_the_command(tmp_path: Path) -> None:
    file = io.BytesIO()
    photograph((64, 64)).save(file, "PNG")
    command = [sys.executable, "-m", "bitrate_ext", "map", "-", "--json"]
    done = subprocess.run(command, input=file.getvalue(), capture_output=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["image"] == "-"
    assert sorted(os.listdir(tmp_path)) == outputs("stdin")


def test_a_damaged_input_leaves_no_folder(photos: Callable) -> None:
    for folder in ("one", "two/deep"):
        Path(folder).mkdir(parents=True)
    photos("one/a.png")
    Path("two/deep/a.png").write_bytes(sound()["png"][:99])
    assert cli.main(["map", "one/a.png", "two/deep/a.png", "-o", "out"]) == 2
    assert [path.name for path in Path("out").iterdir()] == ["one"]


def test_lines_of_a_long_map_count_passes(
    photos: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bitrate_ext.attribution import attribute

    told: list[tuple[int, int]] = []
    monkeypatch.setattr("bitrate_ext.cli.map.work.count_passes", lambda *counts: told.append(counts))
    photos("a.png")
    assert cli.main(["map", "a.png", "--projection", "jacobian", "--passes", "4"]) == 0
    total = told[0][1]
    assert total % 4 == 0
    assert told == [(-(-tick // 3), total) for tick in range(1, 3 * total + 1)]
    assert attribute.PASSES >= 4
    with console.telling("outer"), console.telling("inner"):
        console.count_passes(3, 7)
        assert console._passes[-2:] == ["", ", pass 3 of 7"]
    assert console._passes == []


def test_lines_go_past_a_progress_bar_where_there_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing past none would make a lock of processes, which a worker that is ended leaves behind."""
    tqdm, written = pytest.importorskip("tqdm"), list[str]()
    monkeypatch.setattr(tqdm.tqdm, "write", lambda text, file: written.append(text))
    console.echo("alone", sys.stderr)
    with tqdm.tqdm(disable=False, file=io.StringIO()):
        console.echo("beside a bar", sys.stderr)
    assert written == ["beside a bar"]
    assert capsys.readouterr().err == "alone\n"


def test_overlays_of_the_command_have_a_legend(photos: Callable) -> None:
    photos("a.png")
    assert cli.main(["map", "a.png", "--limit", "2"]) == 0
    whole = np.asarray(Image.open("a.overlay.png"))
    assert cli.main(["map", "a.png", "--limit", "2", "--tile", "128", "--overwrite"]) == 0
    assert np.array_equal(whole, np.asarray(Image.open("a.overlay.png")))
