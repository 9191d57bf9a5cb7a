"""``bitrate-ext map --format pdf,svg,png``: figures for print beside the other results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from block_codecs import BlockCodec
from commands import error_of
from map_results import files, outputs

from bitrate_ext.cli import main as cli
from bitrate_ext.cli.map import tiled

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


def svg_of(path: str) -> tuple[float, list[str]]:
    """Width in inches, and texts."""
    text = Path(path).read_text()
    width = re.search(r'<svg[^>]* width="([\d.]+)pt"', text)
    assert width is not None
    return float(width[1]) / 72, re.findall(r"<text[^>]*>([^<]*)</text>", text)


def test_figures_beside_the_other_results(photos: Callable) -> None:
    photos("cat.png")
    assert cli.main(["map", "cat.png", "--format", "svg,pdf,png", "-o", "out"]) == 0
    assert files("out") == sorted([*outputs("cat"), *(f"cat.figure.{kind}" for kind in ("svg", "pdf", "png"))])
    width, texts = svg_of("out/cat.figure.svg")
    record = json.loads(Path("out/cat.json").read_text())
    assert width == pytest.approx(3.4, abs=0.001)
    assert record["files"]["figure.svg"] == "out/cat.figure.svg"
    assert {"picture", "100 \N{MULTIPLICATION SIGN} 70 pixels", record["model"], "bits per pixel"} <= set(texts)
    assert any(text.startswith(f"{record['bpp']:.3f} bpp") for text in texts)
    with Image.open("out/cat.figure.png") as drawn:
        assert drawn.width == pytest.approx(3.4 * 300, abs=1)
    assert Path("out/cat.figure.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.medium
def test_with_an_animation_there_is_the_grid_of_its_qualities(photos: Callable) -> None:
    photos("cat.png")
    assert cli.main(["map", "cat.png", "--animate", "--format", "svg", "--limit", "2.5"]) == 0
    width, texts = svg_of("cat.grid.svg")
    assert width == pytest.approx(7.0, abs=0.001)
    assert [text for text in texts if text.startswith("demo codec")] == [
        f"demo codec, quality {q}" for q in range(1, 9)
    ]
    assert "2.5" in texts
    assert svg_of("cat.figure.svg")[0] == pytest.approx(3.4, abs=0.001)
    assert cli.main(["map", "cat.png", "--animate", "--format", "svg", "--width", "5", "-o", "wide"]) == 0
    assert [svg_of(f"wide/cat.{name}.svg")[0] for name in ("figure", "grid")] == pytest.approx([5.0, 5.0], abs=0.001)


def test_in_tiles_too(photos: Callable) -> None:
    photos("cat.png")
    assert cli.main(["map", "cat.png", "--tile", "64", "--format", "svg", "--width", "page"]) == 0
    width, texts = svg_of("cat.figure.svg")
    assert width == pytest.approx(7.0, abs=0.001)
    assert "100 \N{MULTIPLICATION SIGN} 70 pixels" in texts


def test_a_figure_that_exists_is_kept(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("cat.png")
    Path("cat.figure.pdf").write_bytes(b"mine")
    assert "cat.figure.pdf exists" in error_of(capsys, "map", "cat.png", "--format", "pdf")
    assert files() == ["cat.figure.pdf", "cat.png"]


def test_errors_beside_bits(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytorch_msssim")
    photos("cat.png")
    assert cli.main(["map", "cat.png", "--errors", "--pixels"]) == 0
    account = json.loads(Path("cat.json").read_text())["errors"]
    with np.load("cat.bitrate.npz") as arrays:
        assert account["bits"] == pytest.approx(float(arrays["maps/y"].sum()), rel=1e-5)
    assert account["cells_without_gain"] == account["bits_without_gain"] == 0  # noise, of which a tenth is lost
    worst = [one["bits"] / one["gain_db"] for one in account["worst"]]
    assert len(worst) == 10
    assert worst == sorted(worst, reverse=True)
    with Image.open("cat.errors.png") as drawn:
        assert drawn.width == 2100
    assert cli.main(["map", "cat.png", "--errors", "--format", "svg", "-o", "out"]) == 0
    assert files("out") == sorted([*outputs("cat"), "cat.errors.svg", "cat.figure.svg"])
    assert {"squared error", "SSIM", "bits of the cell"} <= set(svg_of("out/cat.errors.svg")[1])
    capsys.readouterr()
    said = error_of(capsys, "map", "cat.png", "--errors", "--bits", "coded")
    assert "--errors needs a reconstruction, which --bits coded has with --gap alone" in said


def test_errors_of_a_model_without_reconstruction(
    photos: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos("cat.png")
    forward = BlockCodec.forward
    monkeypatch.setattr(BlockCodec, "forward", lambda self, x: {"likelihoods": forward(self, x)["likelihoods"]})
    assert "cat.png: --errors needs a reconstruction" in error_of(capsys, "map", "cat.png", "--errors")
    assert files() == ["cat.png"]


def test_pictures_larger_than_a_figure(photos: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture in tiles is reduced as its map is."""
    monkeypatch.setattr(tiled, "PANEL", 40)
    photos("cat.png")
    assert cli.main(["map", "cat.png", "--tile", "64", "--format", "svg"]) == 0
    _, texts = svg_of("cat.figure.svg")
    assert "100 \N{MULTIPLICATION SIGN} 70 pixels" in texts
