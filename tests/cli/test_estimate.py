"""``bitrate-ext train-estimator`` and ``bitrate-ext estimate``: files, words, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from block_codecs import BlockCodec
from commands import error_of

from bitrate_ext import RateEstimator
from bitrate_ext.cli import main as cli
from bitrate_ext.estimator.estimator import About, EstimatorError
from bitrate_ext.estimator.network import RateNetwork
from bitrate_ext.models import demo_codec

pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
Photos = Callable[..., list[str]]
ENDINGS = ["estimate.json", "estimate.npz", "estimate.png"]


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_codec, "load_demo_codec", lambda quality: BlockCodec().eval())


@pytest.fixture
def estimator(tmp_path: Path) -> str:
    """The file of one that gives every block 256 bits, at qualities 3 and 4."""
    error = EstimatorError(0.05, 0.9, 12)
    network = RateNetwork(3, 2)
    network.start(torch.full((2,), 256.0))
    RateEstimator(network, About("a codec", (3, 4), (error, error), (64, 64))).save(tmp_path / "e.safetensors")
    return "e.safetensors"


def results() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if "estimate." in path.name)


def test_estimate_writes_and_prints(photos: Photos, estimator: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png", "b.png")  # 100 x 70
    roi = ["--roi", "10,20,40,5", "--roi", "0,0,100,70"]
    assert cli.main(["estimate", "a.png", "b.png", "--estimator", estimator, "--quality", "3", *roi]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("a.png: 100 x 70, 2.3")
    assert "off by 5.0 % on photographs it had not seen (12)" in lines[0]
    assert lines[1] == "  region 10,20,40,5: 200 bits, 1.2 %"
    assert results() == sorted(f"{stem}.{ending}" for stem in "ab" for ending in ENDINGS)
    record = json.loads(Path("a.estimate.json").read_text())
    assert record["total_bits"] == pytest.approx(128 * 128, rel=3e-3)
    assert record["bpp"] == pytest.approx(128 * 128 / 7000, rel=3e-3)
    assert record["regions"][0]["share"] == pytest.approx(200 / 128**2, rel=3e-3)
    arrays = np.load("a.estimate.npz")
    assert arrays["map"].shape == (70, 100)
    assert arrays["blocks"].shape == (8, 8)
    assert json.loads(str(arrays["metadata"])) == record
    assert "exists" in error_of(capsys, "estimate", "a.png", "--estimator", estimator, "--quality", "4")
    assert cli.main(["estimate", "a.png", "--estimator", estimator, "--quality", "4", "--overwrite", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert image["quality"] == 4


def test_the_demo_codec_is_the_default(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png")
    assert cli.main(["estimate", "a.png", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert (image["quality"], image["estimator"]) == (5, "demo codec")
    assert cli.main(["estimate", "a.png", "--json", "--quality", "8", "--overwrite"]) == 0
    (finer,) = json.loads(capsys.readouterr().out)["images"]
    assert finer["total_bits"] > image["total_bits"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--roi", "0,0,101,10"], "--roi: region (top, left, height, width) must lie inside the image of 70 x 100"),
        (["--roi", "0,0,0,10"], "expected X,Y,W,H"),
        (["--roi", "a"], "expected X,Y,W,H"),
        (["--quality", "9"], "--quality must be one of 3, 4, got 9"),
        (["--quality", "2", "--estimator", "absent"], "--estimator: there is no checkpoint file absent"),
        (["--estimator", "a.png"], "--estimator: a.png is no saved estimator"),
        (["--device", "gpu"], "--device"),
    ],
)
def test_what_estimate_refuses(
    photos: Photos, estimator: str, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    photos("a.png")
    given = argv if "--estimator" in argv else ["--estimator", estimator, *argv]
    given = given if "--quality" in given else [*given, "--quality", "3"]
    assert words in error_of(capsys, "estimate", "a.png", *given)
    assert results() == []


@pytest.mark.medium
@pytest.mark.usefixtures("codec")
def test_trained_at_all_qualities_and_used(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    images = photos("a.png", "b.png", "c.png")
    train = ["train-estimator", *images, "-o", "new/e.safetensors", "--projection", "bilinear", "--minutes", "0.03"]
    assert cli.main(train) == 0
    captured = capsys.readouterr()
    assert "errors are measured on 1 of the photographs alone" in captured.err
    lines = captured.out.splitlines()
    assert lines[0].startswith("Estimator of demo codec, qualities 1 to 8: 1")
    assert lines[-1] == "Written: new/e.safetensors"
    assert sum("  quality " in line for line in lines) == 8
    assert RateEstimator.load("new/e.safetensors").qualities == tuple(range(1, 9))
    assert cli.main(["estimate", "a.png", "--estimator", "new/e.safetensors", "--quality", "2"]) == 0
    capsys.readouterr()
    assert "exists" in error_of(capsys, *train)


@pytest.mark.medium
@pytest.mark.usefixtures("codec")
def test_trained_at_one_quality_with_photographs_held_out(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png", "b.png")
    Path("broken.png").write_bytes(Path("a.png").read_bytes()[:20])
    argv = ["a.png", "broken.png", "-o", "e.safetensors", "--projection", "nearest", "--minutes", "0.02", "--json"]
    assert cli.main(["train-estimator", *argv, "--quality", "2", "--held-out", "b.png"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["qualities"] == [2]
    assert document["model"] == "demo codec, quality 2"
    assert document["training"]["photographs"] == 1
    assert [failure["image"] for failure in document["failures"]] == ["broken.png"]
    assert RateEstimator.load("e.safetensors").qualities == (2,)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-o", "."], "is a folder; name a file"),
        (["-o", "a.png", "--overwrite"], "would replace an input"),
        (["-o", "e", "--minutes", "0"], "positive number of minutes"),
        (["-o", "e", "--quality", "9"], "--quality: quality of the demo codec must be one of"),
        (["-o", "e", "--held-out", "absent.png"], "--held-out: absent.png: no such file"),
        (["-o", "e", "--model", "mbt2018-mean", "--checkpoint", "absent.pth"], "there is no checkpoint file"),
        (["-o", "e", "--model", "unknown"], "--model: name must be one of"),
        (["-o", "e", "--held-out", "-"], "read more than once"),
        ([], "required: -o/--output"),
    ],
)
@pytest.mark.usefixtures("codec")
def test_what_training_refuses(photos: Photos, capsys: pytest.CaptureFixture[str], argv: list[str], words: str) -> None:
    photos("a.png", "b.png")
    assert words in error_of(capsys, "train-estimator", "a.png", "b.png", *argv)
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "b.png"]


@pytest.mark.usefixtures("codec")
def test_one_photograph_is_too_few(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png")
    argv = ["a.png", "-o", "e.safetensors", "--projection", "nearest"]
    assert "images must be at least 2" in error_of(capsys, "train-estimator", *argv)
