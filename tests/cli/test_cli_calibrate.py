"""Receptive fields on the command line: files, words and exit codes. Nothing touches the user's cache."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import error_of
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import ReceptiveField
from bitrate_ext.cli import calibrate, console
from bitrate_ext.cli import main as cli
from bitrate_ext.models import demo_codec, zoo
from bitrate_ext.receptive_field import calibration

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytest.importorskip("compressai")
pytestmark = pytest.mark.medium

LOAD_DEMO_CODEC = demo_codec.load_demo_codec
KERNEL, PICTURE = (f"demo-codec-quality-5.y.receptive-field.{end}" for end in ("npz", "png"))


class PaintingCodec(nn.Module):
    """Latents y, 16 pixels a cell, painted on 24 rows and the first 12 of 24 columns, and z, 64, which paints nothing.

    The kernel follows: reach [-4, 19] each way, centroid 7.5 and 1.5, and a uniform distribution's spread.
    """

    side, margin = 24, 4  # of the kernel, and what of it lies before the cell, pixels

    def __init__(self) -> None:
        super().__init__()
        self.g_s = nn.ConvTranspose2d(3, 3, self.side, stride=16, padding=self.margin, bias=False)
        weight = torch.ones_like(self.g_s.weight)
        weight[..., 12:] = 0
        self.g_s.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, z = (F.avg_pool2d(x, stride).mul(0.9).add(0.05) for stride in (16, 64))
        return {"likelihoods": {"y": y, "z": z}, "x_hat": self.g_s(y)}


class BroadCodec(PaintingCodec):
    side, margin = 112, 48


class AttentiveCodec(nn.Module):
    """Each cell paints the whole picture."""

    class Synthesis(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return F.interpolate(y - y.mean(dim=(2, 3), keepdim=True), scale_factor=16)

    def __init__(self) -> None:
        super().__init__()
        self.decoder = self.Synthesis()

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = F.avg_pool2d(x, 16).mul(0.9).add(0.05)
        return {"likelihoods": {"y": y}, "x_hat": self.decoder(y)}


class SilentCodec(nn.Module):
    """No part of it makes a picture."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"likelihoods": {"y": F.avg_pool2d(x, 16).mul(0.9).add(0.05)}, "x_hat": x}


@pytest.fixture(autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept; in place of the user's folder."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder))
    assert Path(torch.hub.get_dir()) == folder
    return folder / "bitrate_ext"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An empty current folder, and a small stand-in for the demo codec; the fixture is called to make photographs."""
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, PaintingCodec)
    rng = np.random.default_rng(0)

    def make(*names: str, size: tuple[int, int] = (70, 100)) -> None:
        for name in names:
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(name)

    return make


def use(monkeypatch: pytest.MonkeyPatch, codec: type[nn.Module]) -> None:
    for name in ("load_demo_codec", "load_demo_forward"):
        monkeypatch.setattr(demo_codec, name, lambda quality: codec().eval())


def files(folder: Path | str = ".") -> list[str]:
    return sorted(entry.name for entry in Path(folder).iterdir())


def test_calibrate_prints_a_table_and_writes_two_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "--samples", "4", "-o", "new/out"]) == 0
    assert files("new/out") == [KERNEL, PICTURE]
    captured = capsys.readouterr()
    assert captured.err == ""
    head, *rows, written = captured.out.splitlines()
    assert head == "Receptive field of latent 'y', demo codec, quality 5"
    values = {row[2:17].strip(): row[19:] for row in rows}
    assert float(values.pop("seconds")) < 60
    assert float(values.pop("sampling error").removesuffix(" %")) < 20
    assert int(values.pop("cells probed").replace(",", "")) > 4
    assert values == {
        "stride": "16 x 16 pixels",
        "reach": "-4 to 19, -4 to 19 (24 x 24 pixels)",
        "center": "7.5, 7.5",
        "centroid": "7.50, 1.50",
        "spread": "6.92, 3.45",
        "terms": "1",
        "separable error": "0.0 %",
    }
    assert written == f"Written: new/out/{KERNEL}, new/out/{PICTURE}"
    assert ReceptiveField.load(f"new/out/{KERNEL}").reach == ((-4, 19), (-4, 19))
    with Image.open(f"new/out/{PICTURE}") as drawn:
        assert (drawn.format, drawn.mode) == ("PNG", "RGB")


def test_json_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "--samples", "4", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    said = json.loads(captured.out)
    field = ReceptiveField.load(KERNEL)
    assert said.pop("seconds") > 0
    assert said == {
        "model": "demo codec, quality 5",
        "latent": "y",
        "device": "cpu",
        "stride": [16, 16],
        "reach": [[-4, 19], [-4, 19]],
        "size": [24, 24],
        "center": [7.5, 7.5],
        "centroid": pytest.approx([7.5, 1.5]),
        "spread": pytest.approx([(575 / 12) ** 0.5, (143 / 12) ** 0.5]),
        "terms": 1,
        "separable_error": field.fit["separable_error"],
        "sampling_error": field.fit["sampling_error"],
        "cells_probed": field.fit["locations"],
        "origin": field.origin,
        "kept": False,
        "guide": None,
        "pictures": [],
        "version": bitrate_ext.__version__,
        "files": {"kernel": KERNEL, "picture": PICTURE},
    }
    assert field.origin.startswith("g_s, 4 samples")


@pytest.mark.medium
def test_results_are_kept_for_the_next_time(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "--samples", "4", "--no-cache"]) == 0
    assert not hub.exists()
    for said in ("", " (kept from an earlier time)"):
        capsys.readouterr()
        assert cli.main(["calibrate", "--samples", "4", "--overwrite"]) == 0
        (seconds,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  seconds"))
        assert seconds.partition(".")[2][1:] == said
        assert len(files(hub)) == 1
    assert cli.main(["calibrate", "--samples", "4", "--no-cache", "--json", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] is False


@pytest.mark.medium
def test_a_guide_is_fitted_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights, or that there is none, and what it does where it was not fitted; in the file, too."""
    assert cli.main(["calibrate", "--samples", "4", "--guide", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["guide"]
    field = ReceptiveField.load(KERNEL)
    assert said["weights"] == (None if field.guide is None else list(field.guide.weights))
    assert said["unguided_distance"] == field.fit["unguided_distance"] > 0
    assert cli.main(["calibrate", "--samples", "4", "--guide", "--overwrite"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("guide"))
    assert f"{said['unguided_distance']:.1f} % without" in row


def test_arguments_reach_the_measurement(
    work: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work("a.png", "b.png", size=(200, 300))
    measure, asked = calibration.calibrate, []

    def noted(model: nn.Module, *arguments: Any, notice: Any, progress: Any, **options: Any) -> ReceptiveField:
        asked.append((arguments, options))
        return measure(model, *arguments, notice=notice, progress=progress, **options)

    monkeypatch.setattr(calibration, "calibrate", noted)
    argv = ["calibrate", "--images", "a.png", "b.png", "--samples", "6", "--synthesis", "g_s", "--no-cache"]
    assert cli.main([*argv, "--latent", "y"]) == 0
    ((latent, images, samples), options) = asked[0]
    assert (latent, samples, options) == ("y", 6, {"synthesis": "g_s", "guide": False, "cache": False})
    assert [tuple(image.shape) for image in images] == [(1, 3, 200, 300)] * 2
    assert cli.main(["calibrate", "--samples", "4", "--overwrite"]) == 0
    assert asked[1] == ((None, None, 4), {"synthesis": None, "guide": False, "cache": True})


@pytest.mark.parametrize(
    ("codec", "argv", "message"),
    [
        (PaintingCodec, ["--latent", "w"], "latent must be one of the model's, 'y', 'z', got 'w'"),
        (PaintingCodec, ["--latent", "z"], "no synthesis transform found for latent 'z'"),
        (PaintingCodec, ["--synthesis", "decoder"], "looked for a module 'decoder'"),
        (PaintingCodec, ["--samples", "1"], "argument --samples: expected a whole number of at least 2, got '1'"),
        (PaintingCodec, ["--samples", "many"], "argument --samples: expected a whole number of at least 2, got 'many'"),
        (BroadCodec, ["--images", "small.png"], "images must have at least 112 x 112 pixels"),
        (PaintingCodec, ["--images", "small.png", "absent.png"], "--images: absent.png: no such file"),
        (PaintingCodec, ["--images"], "argument --images: expected at least one argument"),
        (PaintingCodec, ["--quality", "0"], "--quality: quality of the demo codec must be one of 1, 2"),
        (PaintingCodec, ["--checkpoint", "absent.pth"], "--checkpoint: there is no checkpoint file absent.pth"),
        (PaintingCodec, ["--device", "abacus"], "--device: unknown device 'abacus'"),
        (PaintingCodec, ["-o", "small.png"], "--output small.png: the folder cannot be made"),
        (PaintingCodec, ["small.png"], "unrecognized arguments: small.png"),
        (AttentiveCodec, [], "decoder spreads one cell over all of 64 x 64 cells"),
        (SilentCodec, [], "no synthesis transform found for latent 'y'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else getattr(value, "__name__", ""),
)
def test_what_cannot_be_measured(
    work: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codec: type[nn.Module],
    argv: list[str],
    message: str,
) -> None:
    work("small.png", size=(20, 20))
    use(monkeypatch, codec)
    assert message in error_of(capsys, "calibrate", *argv)
    assert files() == ["small.png"]


def test_memory_running_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")):

        def measure(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(calibration, "calibrate", measure)
        assert "not enough memory to measure the receptive field" in error_of(capsys, "calibrate")


def test_other_runtime_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(calibration, "calibrate", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["calibrate"])


@pytest.mark.parametrize("failing", ["picture", "replace", "folder"])
def test_a_failure_keeps_old_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    Path(KERNEL).write_text("old")
    if failing == "picture":
        monkeypatch.setattr("bitrate_ext.viz.kernel_figure.kernel_figure", full)
    elif failing == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        Path(PICTURE).mkdir()
    before = files()
    reason = f"{PICTURE} is a folder" if failing == "folder" else "No space left on device"
    expected = f"bitrate-ext: error: demo-codec-quality-5.y: the results cannot be written ({reason})\n"
    assert error_of(capsys, "calibrate", "--samples", "4", "--no-cache", "--overwrite") == expected
    assert files() == before
    assert Path(KERNEL).read_text() == "old"


@pytest.mark.parametrize("argv", [["--no-cache"], ["--no-cache", "--latent", "y"]], ids=["finest", "named"])
def test_results_that_exist_are_seen_before_anything_is_measured(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(PICTURE).write_text("old")
    monkeypatch.setattr(calibration._Calibration, "measure", lambda *_: pytest.fail("measured"))
    assert f"{PICTURE} exists; choose another name" in error_of(capsys, "calibrate", *argv)
    assert files() == [PICTURE]


def test_lines_of_a_long_measurement_count_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "PATIENCE", 0.001)
    told: list[tuple[int, int]] = []
    count = console.count_passes

    def counted(done: int, total: int) -> None:
        told.append((done, total))
        count(done, total)
        time.sleep(0.01)

    monkeypatch.setattr("bitrate_ext.cli.calibrate.count_passes", counted)
    assert cli.main(["calibrate", "--samples", "4", "--no-cache"]) == 0
    assert told == [(done, 20) for done in range(1, 21)]  # 16 in reverse mode, 4 in forward mode
    assert re.search(r"Measuring the receptive field \.\.\. \d+ s, pass \d+ of 20\n", capsys.readouterr().err)


def test_pictures_are_told_of(work: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    work("a.png", size=(200, 300))
    with Image.open("a.png") as image:
        image.convert("RGBA").save("b.png")
        image.save("b.gif", save_all=True, append_images=[image.rotate(90)])
    assert cli.main(["calibrate", "--images", "b.png", "b.gif", "--samples", "4", "--no-cache", "--json"]) == 0
    captured = capsys.readouterr()
    assert [(one["format"], one["frames"]) for one in json.loads(captured.out)["pictures"]] == [("PNG", 1), ("GIF", 2)]
    assert captured.err == "bitrate-ext: warning: b.gif: has 2 frames or pages; only the first is read\n"


def test_inputs_are_not_overwritten(work: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    work(PICTURE, size=(200, 300))
    before = Path(PICTURE).read_bytes()
    said = error_of(capsys, "calibrate", "--samples", "4", "--images", f"./{PICTURE}")
    assert f"{PICTURE} would replace an input; choose another name or folder with -o" in said
    assert files() == [PICTURE]
    assert Path(PICTURE).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("demo codec, quality 5", "demo-codec-quality-5"),
        ("mbt2018-mean, quality 3, ms-ssim", "mbt2018-mean-quality-3-ms-ssim"),
        ("c.pth (mbt2018)", "c.pth-mbt2018"),
        ("motion.y", "motion.y"),
        ("../up/and\\away", "up-and-away"),
        ("\udcff\n", "unnamed"),
    ],
)
def test_file_names(text: str, name: str) -> None:
    assert calibrate._file_name(text) == name


def test_files_are_named_after_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "load_zoo_model", lambda *_: PaintingCodec().eval())
    assert cli.main(["calibrate", "--samples", "4", "--model", "mbt2018-mean", "--quality", "3"]) == 0
    stem = "mbt2018-mean-quality-3-mse.y.receptive-field"
    assert files() == [f"{stem}.npz", f"{stem}.png"]


@pytest.mark.medium
@pytest.mark.parametrize("command", ["calibrate", "map", "check"])
@pytest.mark.parametrize("seconds", [0.001, 60])
def test_what_takes_long_is_told(
    work: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, seconds: float
) -> None:
    work("a.png")
    monkeypatch.setattr(console, "PATIENCE", seconds)
    if command == "check":
        monkeypatch.setattr(demo_codec, "load_demo_codec", LOAD_DEMO_CODEC)
    argv = {"calibrate": [], "map": ["a.png", "--projection", "jacobian"], "check": ["a.png"]}[command]
    assert cli.main([command, *argv]) == 0
    said = capsys.readouterr().err
    expected = {
        "calibrate": "Measuring the receptive field ... ",
        "map": "Following the bits of a.png ... ",
        "check": "Coding a.png ... ",
    }[command]
    assert (expected in said) == (seconds < 1)
    assert "Traceback" not in said


def test_map_with_receptive_fields(work: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    work("a.png", "b.png")
    assert cli.main(["map", "a.png", "b.png", "--projection", "receptive-field", "--pixels"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["map", "a.png", "-o", "other", "--pixels"]) == 0
    record, other = (json.loads(Path(name).read_text()) for name in ("a.json", "other/a.json"))
    assert (record["projection"], other["projection"]) == ("receptive-field", "bilinear")
    assert other["receptive_field"] is None
    assert record["receptive_field"] == {
        "y": {
            "projection": "receptive-field",
            "stride": [16, 16],
            "reach": [[-4, 19], [-4, 19]],
            "center": [7.5, 7.5],
            "centroid": pytest.approx([7.5, 1.5]),
            "spread": pytest.approx([(575 / 12) ** 0.5, (143 / 12) ** 0.5]),
        },
        "z": {
            "projection": "nearest",
            "stride": [64, 64],
            "reach": [[0, 63], [0, 63]],
            "center": [31.5, 31.5],
            "centroid": [31.5, 31.5],
            "spread": pytest.approx([np.arange(64).std()] * 2),
        },
    }
    with np.load("a.bitrate.npz") as arrays, np.load("other/a.bitrate.npz") as bilinear:
        assert json.loads(str(arrays["metadata"])) == record
        total = arrays["map"].sum(dtype=np.float64) + record["padding_bits"]
        assert total == pytest.approx(record["total_bits"], rel=1e-6)
        assert np.abs(arrays["maps/y"] - bilinear["maps/y"]).max() > 0.1 * bilinear["maps/y"].mean()
        z = arrays["maps/z"]
        assert len(np.unique(z)) == 4  # cells of 64 pixels, each of one colour
    assert record["total_bits"] == pytest.approx(other["total_bits"])


@pytest.mark.parametrize(("codec", "said"), [(AttentiveCodec, "spreads one cell"), (SilentCodec, "no synthesis")])
def test_map_says_once_that_a_model_has_no_receptive_field(
    work: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], codec: type, said: str
) -> None:
    work("a.png", "b.png")
    use(monkeypatch, codec)
    error = error_of(capsys, "map", "a.png", "b.png", "--projection", "receptive-field")
    assert error.startswith("bitrate-ext: error: --projection receptive-field: ")
    assert said in error
    assert files() == ["a.png", "b.png"]


def test_help_explains_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "--samples", "4"]) == 0
    _, *rows, _ = capsys.readouterr().out.splitlines()
    assert cli.main(["calibrate", "--help"]) == 0
    explained = capsys.readouterr().out.splitlines()
    assert len(rows) == 10
    for row in rows:
        assert any(line.startswith(row[:19]) and len(line) > 30 for line in explained), row


@pytest.mark.medium
def test_the_demo_codec_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo_codec, "load_demo_codec", LOAD_DEMO_CODEC)
    assert cli.main(["calibrate", "--samples", "2", "--no-cache", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["reach"] == [[-30, 30], [-30, 30]]
    assert all(4 < one < 8 for one in said["centroid"])


def test_map_by_the_jacobian(work: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    work("a.png")
    for folder, passes in (("few", []), ("many", ["--passes", "64"])):
        assert cli.main(["map", "a.png", "--projection", "jacobian", *passes, "-o", folder, "--pixels"]) == 0
        record = json.loads(Path(folder, "a.json").read_text())
        assert (record["projection"], record["receptive_field"]) == ("jacobian", None)
        assert record["jacobian"]["passes"] == (64 if passes else 16)
        assert 0 <= record["jacobian"]["error"] < 0.3
        with np.load(Path(folder, "a.bitrate.npz")) as arrays:
            maps = {name: arrays[name] for name in ("map", "maps/y", "maps/z")}
        kept = maps["map"].sum(dtype=np.float64) + record["padding_bits"]
        assert kept == pytest.approx(record["total_bits"], rel=1e-6)
        np.testing.assert_allclose(maps["maps/y"] + maps["maps/z"], maps["map"], rtol=1e-5)
        painted, rest = (np.tile(np.arange(100) + 14, (70, 1)) % 16 // 8 == half for half in (0, 1))
        assert maps["maps/y"][painted].mean() > 1.5 * maps["maps/y"][rest].mean()  # the decoder's rows of 12 columns
    capsys.readouterr()
    assert "--passes 8 goes with --projection jacobian" in error_of(capsys, "map", "a.png", "--passes", "8")
    argv = ["map", "a.png", "--projection", "jacobian", "--passes", "3"]
    assert "--passes: expected a whole number of at least 4, got '3'" in error_of(capsys, *argv)


def test_the_jacobian_serves_decoders_of_global_reach(
    work: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, AttentiveCodec)
    work("a.png")
    assert cli.main(["map", "a.png", "--projection", "jacobian"]) == 0
    use(monkeypatch, SilentCodec)
    capsys.readouterr()
    error = error_of(capsys, "map", "a.png", "--projection", "jacobian", "--overwrite")
    assert "no synthesis transform found for latent 'y'" in error
