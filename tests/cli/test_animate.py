"""``bitrate-ext map --animate``: one image over qualities or checkpoints, in one scale of colours."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from block_codecs import BlockCodec
from commands import error_of
from map_results import files
from torch import nn

from bitrate_ext.choices import DEMO_QUALITIES
from bitrate_ext.cli import main as cli
from bitrate_ext.cli.map import tiled as map_tiled
from bitrate_ext.io.images import load_image
from bitrate_ext.mapping.mapper import BitrateMapper
from bitrate_ext.models import demo_codec, zoo
from bitrate_ext.viz.animation import animation_frames

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
ENDS = (".animation.png", ".bitrate.npz", ".bitrate.png", ".json", ".overlay.png")


class Costly(BlockCodec):
    """Costs as many times the bits as its quality; the better, the brighter what it makes of a picture."""

    def __init__(self, quality: float) -> None:
        super().__init__()
        self.quality = quality

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        output = super().forward(x)
        likelihoods = {name: p**self.quality for name, p in output["likelihoods"].items()}
        return {"likelihoods": likelihoods, "x_hat": x * (1 - 0.1 / self.quality)}


@pytest.fixture
def work(photos: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes photographs; the demo codec and the zoo's are small stand-ins, checkpoints are called after qualities."""
    monkeypatch.setattr(demo_codec, "load_demo_forward", lambda quality: Costly(quality).eval())
    monkeypatch.setattr(zoo, "load_zoo_model", lambda name, quality, metric: Costly(quality).eval())
    monkeypatch.setattr(zoo, "load_checkpoint", lambda path, name, key: Costly(float(Path(path).name[0])).eval())
    return photos


def frames_of(path: str) -> list[np.ndarray]:
    with Image.open(path) as animation:
        assert (animation.format, animation.info["loop"]) == ("PNG", 0)
        pictures, shown = [], []
        for index in range(animation.n_frames):
            animation.seek(index)
            shown.append(animation.info["duration"])
            pictures.append(np.asarray(animation.convert("RGB")).astype(int))
    assert shown == [1000] * (len(shown) - 1) + [2000]
    return pictures


def record_of(stem: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(Path(f"{stem}.json").read_text())
    with np.load(f"{stem}.bitrate.npz") as arrays:
        assert json.loads(str(arrays["metadata"])) == record
    return record


def test_over_the_demo_codecs_qualities(work: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    work("cat.png")
    assert cli.main(["map", "cat.png", "--animate"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert files() == sorted(["cat.png", *(f"cat{end}" for end in ENDS)])
    record = record_of("cat")
    assert record["model"] == "demo codec, quality 5"
    assert record["files"]["animation"] == "cat.animation.png"
    rows = record["animation"]
    assert [row["model"] for row in rows] == [f"demo codec, quality {quality}" for quality in DEMO_QUALITIES]
    for quality, row in zip(DEMO_QUALITIES, rows, strict=True):
        assert row["bpp"] == pytest.approx(quality * rows[0]["bpp"])
        assert row["bpp"] * 7000 == pytest.approx(row["total_bits"])
    assert [row["psnr_db"] for row in rows] == sorted(row["psnr_db"] for row in rows)
    assert {key: record[key] for key in ("total_bits", "bpp", "psnr_db")} == {
        key: rows[4][key] for key in ("total_bits", "bpp", "psnr_db")
    }
    said = captured.out.splitlines()
    assert said[1:-1] == [
        f"  {row['model']}, {row['bpp']:.3f} bits per pixel, PSNR {row['psnr_db']:.2f} dB" for row in rows
    ]
    assert "cat.animation.png" in said[-1]


@pytest.mark.medium
def test_the_frames_are_those_of_the_library_in_one_scale(work: Callable) -> None:
    work("cat.png")
    x = load_image(Path("cat.png"))
    results = [BitrateMapper(Costly(quality).eval(), projection="bilinear")(x) for quality in DEMO_QUALITIES]
    for view in ("side", "overlay", "map"):
        assert cli.main(["map", "cat.png", "--animate", "--view", view, "-o", view]) == 0
        rows = record_of(f"{view}/cat")["animation"]
        words = "{model}    {bpp:.3f} bits per pixel    PSNR {psnr_db:.2f} dB"
        frames = animation_frames(
            [x if view == "overlay" else result.x_hat for result in results],  # type: ignore[misc]
            [result.map for result in results],
            [words.format(**row) for row in rows],
            subtitle="cat.png   100 x 70   estimated, bilinear",
            view=view,
            rim=results[0].rim,
        )
        for written, expected in zip(frames_of(f"{view}/cat.animation.png"), frames, strict=True):
            np.testing.assert_array_equal(written, np.asarray(expected))
    limit = record_of("map/cat")["animation_limit"]
    assert cli.main(["map", "cat.png", "--animate", "--limit", str(2 * limit), "-o", "dark"]) == 0
    assert record_of("dark/cat")["animation_limit"] == 2 * limit


@pytest.mark.medium
@pytest.mark.parametrize(
    ("options", "middle", "names"),
    [
        (["--model", "cheng2020-attn"], 4, [f"cheng2020-attn, quality {q}, mse" for q in range(1, 7)]),
        (["--model", "mbt2018", "--quality", "2"], 2, [f"mbt2018, quality {q}, mse" for q in range(1, 9)]),
        (["--quality", "8"], 8, [f"demo codec, quality {q}" for q in range(1, 9)]),
    ],
)
def test_the_other_files_are_of_one_quality(work: Callable, options: list[str], middle: int, names: list[str]) -> None:
    work("cat.png", "dog.png")
    assert cli.main(["map", "cat.png", "dog.png", "--animate", *options]) == 0
    for stem in ("cat", "dog"):
        record = record_of(stem)
        assert [row["model"] for row in record["animation"]] == names
        assert record["model"] == names[middle - 1]
        assert record["bpp"] == record["animation"][middle - 1]["bpp"]
        assert len(frames_of(f"{stem}.animation.png")) == len(names)


@pytest.mark.parametrize(("given", "chosen"), [([], "1.pth"), (["--checkpoint", "2.pth"], "2.pth")])
def test_over_checkpoints(work: Callable, given: list[str], chosen: str) -> None:
    work("cat.png")
    for name in ("1.pth", "2.pth", "3.pth"):
        Path(name).write_bytes(b"weights")
    assert cli.main(["map", "cat.png", "--model", "mbt2018", *given, "--animate", "3.pth", "1.pth"]) == 0
    record = record_of("cat")
    assert [row["model"] for row in record["animation"]] == ["3.pth (mbt2018)", "1.pth (mbt2018)"]
    assert record["model"] == f"{chosen} (mbt2018)"
    costly, cheap = frames_of("cat.animation.png")
    assert costly[150:-150, -300:-50].mean() > cheap[150:-150, -300:-50].mean()


def test_each_model_is_run_once_an_image(work: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    work("cat.png")
    seen: list[float] = []
    call = BitrateMapper.__call__

    def watch(self: BitrateMapper, x: torch.Tensor, **more: Any) -> Any:
        seen.append(self.adapter.model.quality)
        return call(self, x, **more)

    monkeypatch.setattr(BitrateMapper, "__call__", watch)
    assert cli.main(["map", "cat.png", "--animate"]) == 0
    assert sorted(seen) == list(DEMO_QUALITIES)


@pytest.mark.medium
@pytest.mark.parametrize("options", [["--projection", "jacobian", "--passes", "4"], ["--bits", "coded"]])
def test_any_kind_of_map_is_animated(work: Callable, options: list[str]) -> None:
    """Those that need CompressAI's own codec: the bundled one, at all its qualities."""
    pytest.importorskip("compressai")
    work("cat.png")
    assert cli.main(["map", "cat.png", "--animate", *options]) == 0
    record = record_of("cat")
    bits = [row["total_bits"] for row in record["animation"]]
    assert bits == sorted(bits)
    assert record["total_bits"] == bits[4]
    assert record["ledger"] is None or record["ledger"]["closes"]
    assert len(frames_of("cat.animation.png")) == 8


def test_results_that_exist_are_kept_and_nothing_is_left_of_a_failure(
    work: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work("cat.png")
    Path("cat.animation.png").write_bytes(b"mine")
    assert "cat.animation.png exists" in error_of(capsys, "map", "cat.png", "--animate")
    assert Path("cat.animation.png").read_bytes() == b"mine"
    assert cli.main(["map", "cat.png", "--animate", "--overwrite"]) == 0
    before = {name: Path(name).read_bytes() for name in files()}
    capsys.readouterr()
    forward = Costly.forward

    def fail(self: Costly, x: torch.Tensor) -> dict[str, Any]:
        if self.quality == 8 and x.shape[-1] > 64:
            raise ValueError("no more")
        return forward(self, x)

    monkeypatch.setattr(Costly, "forward", fail)
    said = error_of(capsys, "map", "cat.png", "--animate", "--overwrite")
    assert "no more" in said
    assert {name: Path(name).read_bytes() for name in files()} == before
    Path("1.animation.png").write_bytes(b"weights")
    Path("1.png").write_bytes(Path("cat.png").read_bytes())
    said = error_of(capsys, "map", "1.png", "--model", "mbt2018", "--animate", "1.animation.png", "--overwrite")
    assert "1.animation.png would replace an input" in said


def test_a_picture_that_does_not_fit_is_refused(
    work: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work("cat.png")
    kept: list[int] = []
    monkeypatch.setattr(map_tiled, "MODEST", 1)
    monkeypatch.setattr(map_tiled, "fits", lambda *arguments: bool(kept.append(arguments[-1])))
    said = error_of(capsys, "map", "cat.png", "--animate")
    assert "cat.png: does not fit into memory as a whole, as --animate needs it" in said
    assert kept == [8 * map_tiled.KEPT]


def test_from_the_standard_input(work: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    work("cat.png")
    data = Path("cat.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert cli.main(["map", "-", "--animate", "-o", "out"]) == 0
    assert files("out") == sorted(f"stdin{end}" for end in ENDS)


def test_a_codec_without_reconstruction_shows_the_photograph(work: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    work("cat.png")

    class Bits(nn.Module):
        def __init__(self, quality: int) -> None:
            super().__init__()
            self.inner = Costly(quality)

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"likelihoods": self.inner(x)["likelihoods"]}

    monkeypatch.setattr(demo_codec, "load_demo_forward", lambda quality: Bits(quality).eval())
    assert cli.main(["map", "cat.png", "--animate"]) == 0
    assert {row["psnr_db"] for row in record_of("cat")["animation"]} == {None}
    assert len(frames_of("cat.animation.png")) == 8
