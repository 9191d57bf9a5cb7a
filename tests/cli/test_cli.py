"""The command line: files, words and exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from block_codecs import BlockCodec
from commands import error_of, in_new_process
from map_results import files, outputs
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext.cli import main as cli
from bitrate_ext.io.facts import PictureFacts
from bitrate_ext.models import demo_codec, zoo
from bitrate_ext.viz import map_figure

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytest.importorskip("compressai")


def test_map_writes_four_files(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("cat.png")
    assert cli.main(["map", "cat.png", "-o", "new/out"]) == 0
    assert files("new/out") == outputs("cat")
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert first.startswith("cat.png: 100 x 70, ")
    assert "bits per pixel" in first
    assert "dB" in first
    written = [f"new/out/cat{end}" for end in (".bitrate.png", ".overlay.png", ".bitrate.npz", ".json")]
    assert second == f"Written: {', '.join(written)}"
    assert captured.err == ""
    with Image.open("new/out/cat.overlay.png") as overlay:
        legend = map_figure.legend(100, 1.0)
        assert overlay.size == (legend.width, 70 + legend.height)
    with Image.open("new/out/cat.bitrate.png") as picture:
        assert picture.mode == "RGB"
        assert picture.width > 700


def test_numbers_agree_with_one_another(photos: Callable) -> None:
    photos("cat.png")
    assert cli.main(["map", "cat.png", "--pixels"]) == 0
    record = json.loads(Path("cat.json").read_text())
    with np.load("cat.bitrate.npz") as arrays:
        assert sorted(arrays) == ["bits", "cells/y", "cells/z", "map", "maps/y", "maps/z", "metadata"]
        assert json.loads(str(arrays["metadata"])) == record
        maps = {name: arrays[name] for name in ("map", "maps/y", "maps/z")}
    assert {(one.shape, one.dtype) for one in maps.values()} == {((70, 100), np.dtype(np.float32))}
    np.testing.assert_allclose(maps["maps/y"] + maps["maps/z"], maps["map"], rtol=1e-5)
    assert maps["map"].sum(dtype=np.float64) + record["padding_bits"] == pytest.approx(record["total_bits"], rel=1e-6)
    assert sum(record["latent_bits"].values()) == pytest.approx(record["total_bits"], rel=1e-6)
    assert record["bpp"] == pytest.approx(record["total_bits"] / 7000)
    pixels = np.asarray(Image.open("cat.png"), dtype=np.float64) / 255
    assert record["psnr_db"] == pytest.approx(-10 * np.log10(((0.1 * pixels) ** 2).mean()), abs=1e-4)
    del record["total_bits"], record["padding_bits"], record["bpp"], record["latent_bits"], record["psnr_db"]
    assert record == {
        "image": "cat.png",
        "width": 100,
        "height": 70,
        "model": "demo codec, quality 5",
        "projection": "bilinear",
        "device": "cpu",
        "version": bitrate_ext.__version__,
        "receptive_field": None,
        "jacobian": None,
        "tiles": None,
        "bits": "estimated",
        "picture": asdict(PictureFacts("PNG", "RGB", 8, 8)),
        "warnings": [],
        "ledger": None,
        "channels": None,
        "regions": None,
        "errors": None,
        "sources": [],
        "channel": None,
        "animation": None,
        "animation_limit": None,
        "files": {
            "map": "cat.bitrate.png",
            "overlay": "cat.overlay.png",
            "arrays": "cat.bitrate.npz",
            "record": "cat.json",
        },
    }


def test_psnr_is_that_of_values_a_picture_can_have(photos: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    photos("cat.png")
    forward = BlockCodec.forward
    monkeypatch.setattr(BlockCodec, "forward", lambda self, x: {**forward(self, x), "x_hat": 3 * x - 1})
    assert cli.main(["map", "cat.png"]) == 0
    pixels = np.asarray(Image.open("cat.png"), dtype=np.float64) / 255
    error = ((3 * pixels - 1).clip(0, 1) - pixels) ** 2
    assert json.loads(Path("cat.json").read_text())["psnr_db"] == pytest.approx(-10 * np.log10(error.mean()), abs=1e-4)


def test_json_is_one_document_and_nothing_else(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png", "b.png")
    assert cli.main(["map", "a.png", "absent.png", "b.png", "--json", "--projection", "nearest"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["version"] == bitrate_ext.__version__
    assert document["images"] == [json.loads(Path(name).read_text()) for name in ("a.json", "b.json")]
    assert document["images"][0]["projection"] == "nearest"
    assert document["failures"] == [{"image": "absent.png", "error": "absent.png: no such file"}]
    assert captured.err == "bitrate-ext: error: absent.png: no such file\n"


def test_other_images_are_done_when_some_fail(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png", "b.png")
    Path("text.png").write_text("hello")
    assert cli.main(["map", "text.png", "a.png", "absent.png", "b.png", "-o", "out"]) == 2
    assert files("out") == sorted(outputs("a") + outputs("b"))
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "Failed: 2 of 4 images: text.png, absent.png"
    last = captured.out.splitlines()[-1]
    assert last.startswith("Written: out/a.bitrate.png, ")
    assert last.endswith("out/a.json, and 1 times the like")


def test_names_cannot_steer_the_terminal(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    odd = ["good\n\x1b[31m.png", "bad\n\x1b]0;title\x07.png"]
    photos(*odd, "c.png")
    Path(odd[1]).write_text("no image")
    for argv in (
        ["map", *odd],
        ["map", odd[0], "-o", odd[1]],
        ["map", "c.png", "--checkpoint", odd[1]],
        ["calibrate", "--images", odd[1]],
    ):
        assert cli.main(argv) == 2
        captured = capsys.readouterr()
        for said in (captured.out, captured.err):
            assert all(line.isprintable() for line in said.splitlines())
            assert not any(line.startswith(("\\x1b", "[31m")) for line in said.splitlines())
        assert "'bad\\n\\x1b]0;title\\x07.png'" in captured.err


@pytest.mark.medium
@pytest.mark.parametrize("command", ["map", "check", "calibrate"])
def test_commands_start_without_modules_of_unix(command: str) -> None:
    program = f"""
        import sys
        sys.modules.update(fcntl=None, resource=None)
        from bitrate_ext import video  # the room alone
        import bitrate_ext.cli.{command}, bitrate_ext.cli.video, bitrate_ext.memory
        from bitrate_ext.video.reader import VideoReader
        from bitrate_ext.models.demo_codec import demo_photograph
        try:
            VideoReader(demo_photograph())
        except ImportError as error:
            print(error)
    """
    assert in_new_process(program) == "videos can be read on Linux and other Unix systems: this Python has no fcntl\n"


def test_memory_running_out(
    photos: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos("a.png")
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")):

        def forward(self: nn.Module, x: Tensor, error: Exception = error) -> dict[str, Any]:
            raise error

        monkeypatch.setattr(BlockCodec, "forward", forward)
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            monkeypatch.setattr("bitrate_ext.mapping.mapper.BitrateMapper.__call__", forward)
        assert error_of(capsys, "map", "a.png").endswith("a.png: not enough memory to map it on this device\n")


def test_other_runtime_errors_are_not_hidden(photos: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    photos("a.png")

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("bitrate_ext.mapping.mapper.BitrateMapper.__call__", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["map", "a.png"])
    assert files() == ["a.png"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["map"], "the following arguments are required: IMAGE"),
        ([], "the following arguments are required: COMMAND"),
        (["paint", "a.png"], "invalid choice: 'paint'"),
        (["map", "a.png", "--projection", "cubic"], "argument --projection: invalid choice: 'cubic'"),
        (["map", "a.png", "--metric", "vmaf"], "argument --metric: invalid choice: 'vmaf'"),
        (["map", "a.png", "--quality", "two"], "argument --quality: invalid int value: 'two'"),
        (["map", "a.png", "--proj", "area"], "unrecognized arguments: --proj"),
        (["map", "a.png", "--quality", "9"], "--quality: quality of the demo codec must be one of 1, 2, 3"),
        (["map", "a.png", "--metric", "mse"], "--metric mse needs --model NAME"),
        (["map", "a.png", "--checkpoint", "c.pth", "--quality", "3"], "--quality is for published weights"),
        (["map", "a.png", "--device", "abacus"], "--device: unknown device 'abacus'"),
        (["map", "a.png", "--device", "cpu:x"], "--device: unknown device 'cpu:x'"),
        (["map", "a.png", "--device", "meta"], "--device meta: PyTorch cannot compute there"),
        (["bench", "--device", "abacus"], "--device: unknown device 'abacus'"),
        (["map", "a.png", "-o", "a.png"], "--output a.png: the folder cannot be made (File exists)"),
        (["map", "a.png", "-o", "a.png/b"], "--output a.png/b: the folder cannot be made (Not a directory)"),
        (["map", "a.png", "--checkpoint", "absent.pth"], "--checkpoint: there is no checkpoint file absent.pth"),
        (["map", "a.png", "--model", "jpeg", "--quality", "3"], "--model: name must be one of"),
        (["map", "a.png", "--model", "mbt2018-mean", "--quality", "9"], "--model: quality of 'mbt2018-mean' must be"),
        (["map", "a.png", "--model", "mbt2018-mean"], "--model: quality of 'mbt2018-mean' must be"),
        (["map", ""], "not the name of an image file"),
        (["map", "absent.png"], "absent.png: no such file"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_bad_arguments(photos: Callable, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    photos("a.png")
    assert message in error_of(capsys, *argv)
    assert files() == ["a.png"]


def test_cuda_that_is_not_there(
    photos: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos("a.png")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: PyTorch finds no CUDA device here" in error_of(capsys, "map", "a.png", "--device", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "there are 2 CUDA devices, counted from 0" in error_of(capsys, "map", "a.png", "--device", "cuda:2")


def test_missing_package_says_what_to_install(
    photos: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos("a.png")

    def absent(quality: int) -> None:
        raise ModuleNotFoundError("No module named 'compressai.ans'", name="compressai.ans")

    monkeypatch.setattr(demo_codec, "load_demo_codec", absent)
    message = error_of(capsys, "map", "a.png", "--bits", "coded")
    assert "No module named 'compressai.ans'; install it with pip install " in message


def test_models_are_asked_for_as_the_arguments_say(photos: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    photos("a.png")
    asked: list[tuple[Any, ...]] = []

    def load(*arguments: Any) -> nn.Module:
        asked.append(arguments)
        return BlockCodec().eval()

    monkeypatch.setattr(zoo, "load_zoo_model", load)
    monkeypatch.setattr(zoo, "load_checkpoint", load)
    Path("sub").mkdir()
    Path("sub/c.pth").write_bytes(b"weights")
    named = []
    for options in (
        ["--model", "mbt2018-mean", "--quality", "3", "--metric", "ms-ssim"],
        ["--model", "mbt2018-mean", "--quality", "3"],
        ["--model", "mbt2018-vbr"],
        ["--checkpoint", "sub/c.pth"],
        ["--checkpoint", "sub/c.pth", "--model", "mbt2018", "--key", "a.b"],
    ):
        assert cli.main(["map", "a.png", "--overwrite", *options]) == 0
        named.append(json.loads(Path("a.json").read_text())["model"])
    assert asked == [
        ("mbt2018-mean", 3, "ms-ssim"),
        ("mbt2018-mean", 3, "mse"),
        ("mbt2018-vbr", None, "mse"),
        ("sub/c.pth", None, None),
        ("sub/c.pth", "mbt2018", "a.b"),
    ]
    assert named == [
        "mbt2018-mean, quality 3, ms-ssim",
        "mbt2018-mean, quality 3, mse",
        "mbt2018-vbr, mse",
        "c.pth (BlockCodec)",
        "c.pth (mbt2018)",
    ]


def test_warnings_are_one_plain_line(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    photos()
    first.save("a.tiff", save_all=True, append_images=[second])
    assert cli.main(["map", "a.tiff"]) == 0
    expected = "bitrate-ext: warning: a.tiff: has 2 frames or pages; only the first is read\n"
    assert capsys.readouterr().err == expected


def test_infinite_bits_are_null_in_json(
    photos: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos("a.png")

    def forward(self: nn.Module, x: Tensor) -> dict[str, Any]:
        p = F.avg_pool2d(x, 16)
        p[..., 0, 0] = 0
        return {"likelihoods": {"y": p}, "x_hat": x}

    monkeypatch.setattr(BlockCodec, "forward", forward)
    assert cli.main(["map", "a.png"]) == 0
    record = json.loads(Path("a.json").read_text(), parse_constant=pytest.fail)
    assert record["total_bits"] is None
    assert record["latent_bits"] == {"y": None}
    assert record["psnr_db"] is None
    assert "infinitely many bits" in capsys.readouterr().out


def test_names_that_a_terminal_cannot_show(photos: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    photos("a.png")
    odd = os.fsdecode(b"\xff$x$.png")
    Path("a.png").rename(odd)
    assert cli.main(["map", odd]) == 0
    assert capsys.readouterr().out.startswith("'\\udcff$x$.png': 100 x 70")
    assert len(files()) == 5


@pytest.mark.parametrize(("terminal", "count"), [(True, 2), (True, 1), (False, 2)])
def test_progress_only_for_several_images_on_a_terminal(
    photos: Callable, monkeypatch: pytest.MonkeyPatch, terminal: bool, count: int
) -> None:
    names = photos(*[f"{i}.png" for i in range(count)])
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    assert cli.main(["map", *names]) == 0
    assert ("image/s" in stream.getvalue() or "s/image" in stream.getvalue()) == (terminal and count > 1)


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("map", "compare", "calibrate", "estimate", "train-estimator")),
        *([name, "--help"] for name in ("bench", "doctor")),
    ],
)
def test_help_and_version(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert cli.main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "bitrate-ext" in captured.out


def test_main_leaves_warnings_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    before = (warnings.showwarning, list(warnings.filters))
    cli.main(["--version"])
    assert (warnings.showwarning, list(warnings.filters)) == before


@pytest.mark.medium
def test_the_command_itself(tmp_path: Path) -> None:
    """The demo codec on the bundled photograph, in a process of its own."""
    photograph = str(demo_codec.demo_photograph())
    command = [sys.executable, "-m", "bitrate_ext", "map", photograph, "absent.png", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    # On a busy machine it also tells what takes long, and of some weights that likelihoods are at the floor.
    told = [line for line in done.stderr.splitlines() if " ... " not in line and "likelihoods" not in line]
    assert told == ["bitrate-ext: error: absent.png: no such file"]
    (record,) = json.loads(done.stdout)["images"]
    assert (record["width"], record["height"]) == (451, 300)
    assert 0.1 < record["bpp"] < 2
    assert record["psnr_db"] > 25
    assert files(str(tmp_path)) == outputs("chelsea")


@pytest.mark.medium
def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    program = (
        "import sys\n"
        "from bitrate_ext.cli import doctor, main\n"
        "doctor.examine = lambda: [doctor.Finding('name', 'state')]\n"
        "sys.exit(main.main(['doctor']))\n"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(write)
    assert (done.returncode, done.stderr) == (2, "")


def test_one_scale_for_all_images(photos: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    photos("a.png", "b.png")
    asked = []
    for name in ("map_figure", "overlay"):
        real = getattr(map_figure, name)
        monkeypatch.setattr(map_figure, name, lambda *a, real=real, **k: asked.append(k["limit"]) or real(*a, **k))
    assert cli.main(["map", "a.png", "b.png", "--limit", "0.5"]) == 0
    assert asked == [0.5] * 4
    assert cli.main(["map", "a.png", "--limit", "0"]) == 2
