"""``bitrate-ext report``: pages of photographs, several inputs, folders, and what cannot be served."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import error_of
from map_results import files
from PIL import Image

import bitrate_ext
from bitrate_ext.cli import main as cli
from bitrate_ext.io.images import load_image
from bitrate_ext.models import demo_codec

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("one_thread")
Photos = Callable[..., list[str]]


def told(path: str | Path) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """The document of a page, and what reads its arrays, and its texts by their place."""
    text = Path(path).read_text()
    document = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]

    def held_by(place: int | str) -> bytes:
        blob = re.search(rf'id="blob-{place}">(.*?)</script>', text)[1]  # type: ignore[index]
        return zlib.decompress(base64.b64decode(blob))

    def array(reference: Any) -> Any:
        if isinstance(reference, int):
            return held_by(reference).decode()
        held, start, dtype = held_by(reference["blob"]), reference.get("start", 0), np.dtype(reference["type"])
        size = dtype.itemsize * math.prod(reference["shape"])
        planes = np.frombuffer(held, np.uint8, size, start).reshape(dtype.itemsize, -1)
        return np.ascontiguousarray(planes.T).view(dtype).reshape(reference["shape"])

    return document, array


def test_a_page(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png")
    assert cli.main(["report", "a.png", "-o", "sub/x.html", "--channels", "2"]) == 0
    assert "a.png: " in capsys.readouterr().out
    document, array = told("sub/x.html")
    assert (document["page"], document["title"], document["width"], document["height"]) == ("picture", "a.png", 100, 70)
    assert document["facts"]["SHA-256 of the input"] == hashlib.sha256(Path("a.png").read_bytes()).hexdigest()
    (one,) = document["inputs"]
    result = bitrate_ext.BitrateMapper(demo_codec.load_demo_forward(5), channels=True)(load_image("a.png"))
    assert one["total"] == pytest.approx(float(result.total_bits), rel=1e-9)
    for latent in one["latents"]:
        cells = array(latent["cells"])
        torch.testing.assert_close(torch.from_numpy(cells.copy()), result.grids[latent["name"]].bits[0])
        (bands,) = latent["terms"]
        laid_out = np.zeros((70, 100))
        dense = []
        for axis in ("rows", "columns"):
            start, weight = array(bands[axis]["start"]), array(bands[axis]["weight"])
            matrix = np.zeros((len(start), max(cells.shape)))
            for tap in range(bands[axis]["taps"]):
                matrix[np.arange(len(start)), start + tap] += weight[tap]
            dense.append(matrix)
        laid_out = dense[0][:, : cells.shape[0]] @ cells @ dense[1][:, : cells.shape[1]].T
        np.testing.assert_allclose(laid_out, result.maps[latent["name"]][0, 0].numpy(), rtol=1e-5, atol=1e-6)
        order = result.channel_bits[latent["name"]][0].argsort(descending=True)[:2]
        assert latent["channels"]["numbers"] == order.tolist()
        assert array(latent["channels"]["cells"]).shape == (2, *cells.shape)


@pytest.mark.medium
def test_inputs_beside_each_other(photos: Photos) -> None:
    pytest.importorskip("compressai")
    photos("a.png")
    versus = ["--versus", "--padding replicate", "--versus", "--projection area --padding-side end"]
    assert cli.main(["report", "a.png", *versus, "--channels", "all"]) == 0
    document, _ = told("report.html")
    names = [one["name"] for one in document["inputs"]]
    assert len(set(names)) == 3
    assert names[1].endswith(", --padding replicate")
    crops = [one["crop"] for one in document["inputs"]]
    assert crops[0] == crops[1] != crops[2] == [0, 0, 70, 100]


def test_several_photographs(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png", "b.png")
    Path("c.png").write_bytes(b"no picture")
    assert cli.main(["report", "a.png", "b.png", "c.png", "-o", "all.html"]) == 2
    assert "Failed: 1 of 3 images: c.png" in capsys.readouterr().err
    assert files("all.pages") == ["a.html", "b.html"]
    document, array = told("all.html")
    assert (document["page"], document["count"]) == ("folder", 2)
    columns = {one["name"]: one for one in document["columns"]}
    assert columns["page"]["link"]
    assert array(columns["page"]["texts"]) == "all.pages/a.htmlall.pages/b.html"
    assert array(columns["image"]["texts"]) == "a.pngb.png"
    assert array(columns["image"]["lengths"]).tolist() == [5, 5]
    assert array(columns["width"]["numbers"]).tolist() == [100, 100]
    assert "all.html exists" in error_of(capsys, "report", "a.png", "b.png", "-o", "all.html")
    assert cli.main(["report", "a.png", "b.png", "-o", "all.html", "--overwrite", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [Path(one["page"]) for one in printed["images"]] == [Path("all.pages/a.html"), Path("all.pages/b.html")]


def test_regions_and_their_names(photos: Photos) -> None:
    photos("a.png")
    boxes = ["--roi", "0,0,20,10", "--roi", "10,5,30,30"]
    assert cli.main(["report", "a.png", *boxes, "--names", "sky,sea"]) == 0
    document, array = told("report.html")
    groups = array(document["regions"]["groups"])
    wanted = np.zeros((2, 70, 100), dtype=bool)
    wanted[0, :10, :20] = wanted[1, 5:35, 10:40] = True
    assert [one["label"] for one in document["regions"]["named"]] == ["sky", "sea"]
    for one, inside in zip(document["regions"]["named"], wanted, strict=True):
        assert (np.isin(groups, one["groups"]) == inside).all()
    Path("masks").mkdir()
    Image.fromarray(np.where(wanted[1], 3, 0).astype(np.uint8)).save("masks/a.png")
    assert cli.main(["report", "a.png", "--mask", "masks", "--names", "3=sea", "--overwrite"]) == 0
    document, array = told("report.html")
    (sea,) = document["regions"]["named"]
    assert sea["label"] == "sea"
    assert (np.isin(array(document["regions"]["groups"]), sea["groups"]) == wanted[1]).all()


@pytest.mark.slow
def test_what_is_known_of_cells(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("compressai")
    photos("a.png")
    monkeypatch.setattr(demo_codec, "load_demo_forward", demo_codec.load_demo_codec)
    assert cli.main(["report", "a.png", "--versus", "--bits coded"]) == 0
    document, array = told("report.html")
    estimated, coded = ({one["name"]: one["beside"] for one in each["latents"]} for each in document["inputs"])
    assert [set(one) for one in estimated.values()] == [{"expected"}, {"expected"}]
    for latent in document["inputs"][0]["latents"]:
        beside = coded[latent["name"]]
        assert set(beside) == {"expected", "escapes", "estimated"}
        assert beside["estimated"]["total"] == pytest.approx(latent["bits"], rel=0.02)
        assert array(beside["expected"]["cells"]).shape == tuple(latent["grid"])
        assert estimated[latent["name"]]["expected"]["total"] == pytest.approx(beside["expected"]["total"], rel=0.1)


@pytest.mark.slow
def test_passes(photos: Photos) -> None:
    pytest.importorskip("compressai")
    photos("a.png")
    jacobian = "--projection jacobian --passes 4"
    assert cli.main(["report", "a.png", "--versus", jacobian]) == 0
    document, _ = told("report.html")
    assert [one["raster"] is None for one in (each["latents"][0] for each in document["inputs"])] == [True, False]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--channels", "0"], "expected a number of at least 1, or all, got '0'"),
        (["--versus", ""], "--versus: expected options in which it differs"),
        (["--versus", "--quality 'x"], "--versus"),
        (["--versus", "--nonsense"], "--versus: "),
        (["--versus", "--quality 99"], "quality of the demo codec"),
        (["--bits", "coded", "--projection", "jacobian"], "cannot go with --bits coded"),
        (["--passes", "30"], "--passes 30 goes with --projection jacobian"),
        (["--versus", "--passes 30 --bits coded --projection jacobian"], "cannot go with --bits coded"),
        (["--names", "sky"], "--names is of regions; it needs --roi or --mask"),
        (["--roi", "0,0,9,9", "--mask", "a.png"], "two ways to name regions"),
        (["--roi", "90,0,20,9"], "inside of the picture of 100 x 70"),
        (["-o", "a.png"], "would replace an input"),
        (["-o", ""], "expected the name of a file"),
    ],
)
def test_what_cannot_be_served(
    photos: Photos, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    photos("a.png")
    assert message in error_of(capsys, "report", "a.png", *argv)
    assert files() == ["a.png"]


def test_a_page_that_exists_is_kept(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png")
    Path("report.html").write_text("mine")
    assert "report.html exists" in error_of(capsys, "report", "a.png")
    assert Path("report.html").read_text() == "mine"
