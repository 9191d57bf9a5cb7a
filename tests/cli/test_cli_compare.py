"""The command ``bitrate-ext compare``: what it writes, prints and refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import error_of

import bitrate_ext
from bitrate_ext.cells.picture import PictureBits
from bitrate_ext.cli import main as cli
from bitrate_ext.cli.comparison import compare as command

OWN = """
import torch
from bitrate_ext.cells.picture import CellGrid, PictureBits

def even(image, quality):
    size = tuple(image.shape[2:])
    bits = torch.full((2, 2), 100.0 * (quality or 5))
    return PictureBits({"all": CellGrid(bits)}, size, (0, 0, *size), "even", elsewhere={"headers": 16.0})

even.qualities = (0.1, 50)

def small(image, quality):
    return even(image[..., :50], quality)

def ill(image, quality):
    raise KeyError("table")
"""
Photos = Callable[..., list[str]]


@pytest.fixture
def own() -> str:
    Path("own.py").write_text(OWN)
    return "own.py"


def test_files_and_documents(photos: Photos, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos("one.png")
    argv = ["compare", "one.png", "--a", "demo", "--b", f"{own}:even,bytes=a", "--c", f"{own}:even:7,name=seven"]
    assert cli.main([*argv, "-o", "out", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (record,) = document["images"]
    assert document["failures"] == []
    names = ["png", "a.png", "b.png", "c.png", "a-b.png", "a-c.png", "a.npz", "b.npz", "c.npz"]
    names += ["csv", "blocks.csv", "json"]
    assert sorted(record["files"].values()) == sorted(f"out/one.compare.{name}" for name in names)
    assert sorted(map(str, Path("out").iterdir())) == sorted(record["files"].values())
    assert json.loads(Path("out/one.compare.json").read_text()) == record

    made = bitrate_ext.compare("one.png", "demo", f"{own}:even,bytes=a", c=f"{own}:even:7,name=seven")
    assert [one["name"] for one in record["codecs"]] == [row.name for row in made.rows]
    assert [one["bytes"] for one in record["codecs"]] == [row.bytes for row in made.rows]
    assert record["codecs"][2]["elsewhere"] == {"headers": 16.0}
    assert record["codecs"][2]["latent_bits"] == {"all": 2800.0}
    assert (record["limit"], record["difference_limit"]) == (made.limit, made.difference_limit)
    with open("out/one.compare.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["bytes"]) for row in rows] == [row.bytes for row in made.rows]
    with open("out/one.compare.blocks.csv") as file:
        first = next(csv.DictReader(file))
    expected = made.top_blocks()[0]
    assert (int(first["left"]), float(first["bits b"])) == (expected.left, expected.bits["b"])
    assert float(first["a-c"]) == expected.difference["c"]
    kept, saved = made.pictures["a"], PictureBits.load("out/one.compare.a.npz")
    assert torch.equal(saved.grids["y"].bits, kept.grids["y"].bits)
    assert (saved.canvas, saved.crop, saved.name) == (kept.canvas, kept.crop, kept.name)


def test_one_scale_for_all_pictures(photos: Photos, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photos("one.png", "two.png")
    drawn: list[tuple[bool, float]] = []
    draw = command.map_figure

    def watch(bits: object, **options: object) -> object:
        drawn.append((bool(options.get("signed")), float(options["limit"])))  # type: ignore[arg-type]
        return draw(bits, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "map_figure", watch)
    argv = ["compare", "one.png", "two.png", "--a", "demo", "--b", f"{own}:even:30", "--overwrite"]
    assert cli.main(argv) == 0
    limits = {signed: {limit for one, limit in drawn if one == signed} for signed in (True, False)}
    assert len(drawn) == 6
    both = bitrate_ext.compare(["one.png", "two.png"], "demo", f"{own}:even:30")
    assert limits == {False: {both[0].limit}, True: {both[0].difference_limit}}
    drawn.clear()
    assert cli.main([*argv, "--limit", "3"]) == 0
    assert {limit for signed, limit in drawn if not signed} == {3.0}


def test_what_is_printed(photos: Photos, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos("one.png")
    assert cli.main(["compare", "one.png", "--a", f"{own}:even:8", "--b", f"{own}:even:4"]) == 0
    printed = capsys.readouterr().out
    assert "one.png: 100 x 70 pixels" in printed
    assert "a minus b +" in printed
    assert "64 x 64 at 0, 0" in printed


def test_default_codecs(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    photos("one.png")
    assert cli.main(["compare", "one.png", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["images"]
    assert [one["name"] for one in record["codecs"]] == ["demo codec, quality 3", "demo codec, quality 6"]


def test_nothing_is_overwritten(photos: Photos, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos("one.png")
    argv = ["compare", "one.png", "--a", f"{own}:even:8", "--b", f"{own}:even:4"]
    Path("one.compare.b.npz").write_text("kept")
    assert "one.compare.b.npz exists; choose another name" in error_of(capsys, *argv)
    assert Path("one.compare.b.npz").read_text() == "kept"
    assert sorted(one.name for one in Path().iterdir() if "compare" in one.name) == ["one.compare.b.npz"]
    assert cli.main([*argv, "--overwrite"]) == 0
    assert Path("one.compare.b.npz").read_bytes()[:2] == b"PK"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--a", "demo:3"], "two codecs are compared at least, got 1 (--a SPEC --b SPEC)"),
        (["--a", "demo:3", "--b", "demo:9"], "--b: quality of the demo codec must be from 1 to 8, got 9"),
        (["--a", "demo:3", "--b", "demo,bytes=c"], "--b: bytes=c names no other codec"),
        (["--a", "demo:3", "--b", "checkpoint=no.pth"], "--b: there is no checkpoint file no.pth"),
        (["--a", "demo:3", "--b", "no.module:f"], "--b: there is no module 'no'"),
        (["--a", "demo:3", "--b", "own.py:events"], "own.py) has no 'events'; it has even"),
        (["--a", "demo:3", "--b", "own.py:small"], "a and b cannot be compared: their pictures differ"),
        (
            ["--a", "demo:3", "--b", "own.py:ill"],
            "b: the codec function ill raised KeyError: 'table' (own.py, line 16)",
        ),
        (["--a", "demo:3", "--b", "own.py:ill,bytes=a"], "give ill the attribute qualities"),
        (["--device", "gpu"], "--device: unknown device 'gpu'"),
    ],
)
def test_what_cannot_be_compared(
    photos: Photos, own: str, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos("one.png")
    assert message in error_of(capsys, "compare", "one.png", *argv)
    assert not [one for one in Path().iterdir() if "compare" in one.name]


def test_other_images_go_on(photos: Photos, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos("one.png", "two.png")
    Path("bad.png").write_text("no picture")
    argv = ["compare", "one.png", "bad.png", "two.png", "--a", "demo", "--b", f"{own}:even", "--json"]
    assert cli.main(argv) == 2
    document = json.loads(capsys.readouterr().out)
    assert [one["image"] for one in document["images"]] == ["one.png", "two.png"]
    assert [one["image"] for one in document["failures"]] == ["bad.png"]


def test_pictures_that_are_read_are_never_replaced(
    photos: Photos, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos("one.png")
    Path("one.png").rename("one.compare.png")
    photos("one.png")
    argv = ["compare", "one.png", "one.compare.png", "--a", "demo", "--b", f"{own}:even", "--overwrite"]
    assert cli.main(argv) == 2
    assert "one.compare.png would replace an input" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(40, 300), (300, 40), (64, 64)])
def test_pictures_of_any_shape(size: tuple[int, int], tmp_path: Path) -> None:
    from bitrate_ext.viz.compare_figure import compare_figure

    maps = {letter: torch.rand(*size) for letter in "abc"}
    apart = {letter: maps["a"] - maps[letter] for letter in "bc"}
    captions = {letter: (letter.upper(), "a long line of numbers " * 4) for letter in maps}
    figure = compare_figure(
        torch.rand(1, 1, *size),
        maps,
        apart,
        captions,
        title="a title that has to be cut " * 20,
        limit=1.0,
        difference_limit=0.5,
        ends=("A spends less", "A spends more"),
        rim=(2, 2, 0, 0),
    )
    assert figure.mode == "RGB"
    assert figure.width < 4000


def test_figures_for_print(photos: Photos, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos("one.png")
    argv = ["compare", "one.png", "--a", f"{own}:even:20", "--b", f"{own}:even:30"]
    assert cli.main([*argv, "--format", "pdf,svg", "--width", "column"]) == 0
    assert Path("one.compare.figure.pdf").read_bytes()[:5] == b"%PDF-"
    assert "bits per pixel" in Path("one.compare.figure.svg").read_text()
    capsys.readouterr()
    assert "--width is of figures for print" in error_of(capsys, *argv, "--width", "3", "--overwrite")
    assert "expected some of png, pdf, svg" in error_of(capsys, *argv, "--format", "npz")
