"""Regions on the command line: boxes, masks and folders of them; tables on paper and in files; what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import error_of
from map_results import files, outputs
from zoo import coded_model

from bitrate_ext import PictureBits
from bitrate_ext.cli import main as cli
from bitrate_ext.models import demo_codec

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


def labels(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    made = np.zeros((70, 100), np.uint8)
    for label, x, y, width, height in boxes:
        made[y : y + height, x : x + width] = label
    return made


@pytest.fixture
def masked(photos: Callable) -> Callable:
    """Photographs, and a folder ``masks`` with labels of each: 1 in all, 2 in the first alone."""
    Path("masks").mkdir()

    def make(*names: str) -> None:
        photos(*names)
        for number, name in enumerate(names):
            boxes = [(1, 5, 10, 30, 20), *([(2, 50, 30, 40, 40)] * (number == 0))]
            Image.fromarray(labels(*boxes)).save(f"masks/{Path(name).stem}.png")

    return make


def rows_of(path: str) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def record_of(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def test_boxes(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("cat.png")
    argv = ["map", "cat.png", "--roi", "10,20,40,5", "--roi", "0,0,100,70", "--names", "mouth,all", "-o", "out"]
    assert cli.main([*argv, "--latex", "--pixels"]) == 0
    assert files("out") == sorted([*outputs("cat"), "cat.regions.csv", "cat.regions.tex"])
    record = record_of("out/cat.json")
    mouth, everything = record["regions"]["rows"]
    assert (mouth["name"], mouth["pixels"], everything["name"], everything["pixels"]) == ("mouth", 200, "all", 7000)
    with np.load("out/cat.bitrate.npz") as arrays:
        assert mouth["bits"] == pytest.approx(arrays["map"][20:25, 10:50].sum(dtype=np.float64), rel=1e-6)
        assert mouth["latents"]["z"] == pytest.approx(arrays["maps/z"][20:25, 10:50].sum(dtype=np.float64), rel=1e-6)
    assert everything["bits"] + record["regions"]["padding_bits"] == pytest.approx(record["total_bits"], rel=1e-12)
    assert everything["psnr_db"] == pytest.approx(record["psnr_db"], abs=1e-4)
    assert "channels" not in mouth
    assert float(rows_of("out/cat.regions.csv")["mouth"]["bits"]) == mouth["bits"]
    assert Path("out/cat.regions.tex").read_text().count("mouth & 200 & ") == 1
    assert record["files"]["regions"] == "out/cat.regions.csv"
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["region", "pixels", "bits"]
    assert lines[2].split()[:3] == ["mouth", "200", f"{mouth['bits']:,.1f}"]
    assert lines[4] == f"  and {record['padding_bits']:,.1f} bits in padding"


def test_a_folder_of_masks_and_classes_of_all_pictures(masked: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    masked("a.png", "b.png")
    argv = ["map", "a.png", "b.png", "--mask", "masks", "--names", "1=face,2=sky", "-o", "out", "--json"]
    assert cli.main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    tables = [one["regions"] for one in document["images"]]
    assert [[row["name"] for row in table["rows"]] for table in tables] == [["face", "sky", "rest"], ["face", "rest"]]
    total = document["regions"]
    assert total["pictures"] == 2
    assert {row["name"]: row["pixels"] for row in total["rows"]} == {"face": 1200, "sky": 1600, "rest": 11200}
    for row in total["rows"]:
        parts = [one for table in tables for one in table["rows"] if one["name"] == row["name"]]
        assert row["bits"] == pytest.approx(sum(one["bits"] for one in parts), rel=1e-12)
        assert float(rows_of("out/regions.csv")[row["name"]]["bits"]) == row["bits"]
    assert sum(row["share"] for row in total["rows"]) == pytest.approx(1)
    assert error_of(capsys, *argv[:-1]) == (
        "bitrate-ext: error: out/regions.csv exists; choose another name or folder with -o, or replace it with "
        "--overwrite\n"
    )
    assert cli.main([*argv[:-1], "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-7].strip() == "2 images together:"
    assert said.count("face") == 3


@pytest.mark.parametrize("kind", ["alpha", "labels", "black and white"])
def test_kinds_of_masks(photos: Callable, kind: str) -> None:
    photos("cat.png")
    inside = labels((255, 5, 10, 30, 20))
    if kind == "alpha":
        image = Image.open("cat.png").convert("RGBA")
        image.putalpha(Image.fromarray(inside))
    else:
        image = Image.fromarray(inside // (85 if kind == "labels" else 1))
    image.save("mask.png")
    assert cli.main(["map", "cat.png", "--mask", "mask.png"]) == 0
    names = {"alpha": "mask", "labels": "3", "black and white": "mask"}
    assert [(one["name"], one["pixels"]) for one in record_of("cat.json")["regions"]["rows"]] == [
        (names[kind], 600),
        ("rest", 6400),
    ]


@pytest.mark.medium
@pytest.mark.parametrize("bits", ["estimated", "coded"])
def test_channels_of_regions(photos: Callable, monkeypatch: pytest.MonkeyPatch, bits: str) -> None:
    for name in ("load_demo_codec", "load_demo_forward"):
        monkeypatch.setattr(demo_codec, name, lambda quality: coded_model("bmshj2018-hyperprior"))
    photos("cat.png")
    argv = ["map", "cat.png", "--roi", "10,20,40,30", "--channels", "--channel", "y:3", "--pixels", "--bits", bits]
    assert cli.main(argv) == 0
    one, rest = record_of("cat.json")["regions"]["rows"]
    for row in (one, rest):
        for latent, channels in row["channels"].items():
            assert sum(channels) == pytest.approx(row["latents"][latent], rel=1e-12)
    with np.load("cat.bitrate.npz") as arrays:
        part = arrays["channel"][20:50, 10:50].sum(dtype=np.float64)
    assert one["channels"]["y"][3] == pytest.approx(part, rel=1e-5)
    assert float(rows_of("cat.regions.csv")["rest"]["bits.y.3"]) == rest["channels"]["y"][3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--roi", "90,0,20,20"],
            "cat.png: --roi: box must be (x, y, width, height) in whole pixels, not empty",
        ),
        (["--roi", "0,0,0,20"], "argument --roi: expected X,Y,W,H in pixels such as 40,60,200,100, got '0,0,0,20'"),
        (["--roi", "0,0,9,9", "--names", "a,b"], "cat.png: --roi: names must be a text for each of 1 regions"),
        (["--roi", "0,0,9,9", "--mask", "masks"], "--roi and --mask are two ways to name regions; give one of them"),
        (["--roi", "0,0,9,9", "--tile", "64"], "--roi is for whole pictures; it has no --max-memory, --tile, --format"),
        (["--names", "a"], "--names is of regions; it needs --roi or --mask"),
        (["--latex"], "--latex is of regions; it needs --roi or --mask"),
        (["--mask", "masks", "--names", "1=a,b"], "expected LABEL=NAME,... such as 1=face,2=sky, or names alone"),
        (
            ["--mask", "masks", "--names", "1=a"],
            "cat.png: --mask masks/cat.png: names must name every label",
        ),
        (["--mask", "absent.png"], "--mask absent.png: no such file"),
        (
            ["--mask", "small.png"],
            "cat.png: --mask small.png: regions must be [H, W] = [70, 100] like the",
        ),
        (["--mask", "black.png"], "cat.png: --mask black.png: the mask is empty"),
        (["--mask", "cat.png"], "cat.png: --mask cat.png: colours are no labels"),
        (["--mask", "text.png"], "cat.png: --mask text.png: not a PNG"),
        (["--mask", "none"], "cat.png: --mask none: has no file of stem cat; one is needed"),
        (["--mask", "two"], "cat.png: --mask two: has cat.bmp, cat.png of stem cat; one is needed"),
        (["--pixels", "--format", "tiff"], "--pixels is of npz files; --format tiff has pixels alone"),
    ],
)
def test_what_is_refused(
    masked: Callable, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    masked("cat.png")
    Image.fromarray(labels()[:50]).save("small.png")
    Image.fromarray(labels()).save("black.png")
    Path("text.png").write_text("text")
    for folder in ("none", "two"):
        Path(folder).mkdir()
    for name in ("two/cat.png", "two/cat.bmp"):
        Image.fromarray(labels()).save(name)
    assert message in error_of(capsys, "map", "cat.png", "-o", "out", *options)
    assert not list(Path("out").rglob("*.*"))


def test_a_mask_is_not_replaced(masked: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    masked("cat.png")
    Path("masks/cat.png").rename("cat.overlay.png")
    argv = ["map", "cat.png", "--mask", "cat.overlay.png", "--overwrite"]
    assert "cat.overlay.png would replace an input" in error_of(capsys, *argv)


@pytest.mark.parametrize("options", [[], ["--tile", "64"], ["--projection", "receptive-field"], ["--pixels"]])
def test_the_arrays_are_cells(photos: Callable, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    if "receptive-field" in options:
        for name in ("load_demo_codec", "load_demo_forward"):
            monkeypatch.setattr(demo_codec, name, lambda quality: coded_model("bmshj2018-hyperprior"))
    photos("cat.png")
    assert cli.main(["map", "cat.png", *options]) == 0
    record = record_of("cat.json")
    bits = PictureBits.load("cat.bitrate.npz")
    assert bits.name == record["model"]
    assert bits.size == (70, 100)
    assert bits.total_bits == pytest.approx(record["total_bits"], rel=1e-12)
    assert bits.padding_bits == pytest.approx(record["padding_bits"], rel=1e-12)
    with np.load("cat.bitrate.npz") as arrays:
        assert ("map" in arrays) == (options == ["--pixels"])
        assert json.loads(str(arrays["metadata"])) == record
        if "map" in arrays:
            np.testing.assert_allclose(bits.map().numpy(), arrays["map"], rtol=1e-5)
