"""What is said before PyTorch is imported: help, every usage error, files that are not there."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
import torch
from commands import in_new_process

from bitrate_ext import choices

HEAVY = ("torch", "numpy", "compressai", "PIL", "matplotlib", "tqdm")
SAID = {  # arguments, with "a.png" there: what has to be said, on stdout or stderr
    "": "the following arguments are required: COMMAND (see bitrate-ext --help)",
    "--help": "Where a learned image codec spends its bits.",
    "--version": "bitrate-ext ",
    "map --help": "STEM.overlay.png   the map laid over the photograph",
    "check --help": "image + padding + overhead, where the ledger closes",
    "calibrate --help": "terms            how many products",
    "video --help": "damaged or cut short is mapped as far as it goes",
    "bench --help": "--device",
    "doctor --help": "bitrate-ext doctor",
    "paint a.png": "invalid choice: 'paint'",
    "map": "the following arguments are required: IMAGE (see bitrate-ext map --help)",
    "map a.png --projection cubic": "argument --projection: invalid choice: 'cubic'",
    "map a.png --passes 8": "--passes 8 goes with --projection jacobian",
    "map a.png --passes 3 --projection jacobian": "argument --passes: expected a whole number of at least 4, got '3'",
    "map a.png --gap": "--gap needs --bits coded",
    "map a.png --bits coded --projection jacobian": "--projection jacobian follows estimated bits",
    "map a.png --channels --tile 64": "--channels is for whole pictures; it has no --max-memory, --tile, --format npz",
    "map a.png --tile 0": "argument --tile: expected a whole number of at least 1, got '0'",
    "map a.png --max-memory lots": "expected a number of bytes such as 4GiB",
    "map a.png --format jpeg": "--format: expected some of png, pdf, svg, and npz or tiff, with commas between",
    "map a.png --format npz,tiff": "npz or tiff, with commas between, got 'npz,tiff'",
    "map a.png --width 3": "--width 3 is of figures for print; it needs --format, such as --format pdf",
    "map a.png --format pdf --width 0.5": "--width: width must be 'column', 'page' or inches from 1.5 to 60, got '0.5'",
    "map a.png --quality 9": "--quality: quality of the demo codec must be one of 1, 2, 3, 4, 5, 6, 7, 8, got 9",
    "map a.png --checkpoint a.png --quality 3": "--quality is for published weights and cannot go with checkpoints",
    "map a.png --checkpoint absent.pth": "--checkpoint: there is no checkpoint file absent.pth",
    "map a.png --checkpoint .": "--checkpoint: .: is a folder, not a checkpoint file",
    "map a.png --model jpeg --quality 3": "--model: name must be one of 'bmshj2018-factorized', ",
    "map a.png --model mbt2018 --quality 9": "--model: quality of 'mbt2018' must be one of 1, 2, 3, 4,",
    "map a.png --model my.codec:": "--model: your own model must be package.module:Class",
    "map a.png --model codec.py:Codec:x": "a module's name with dots, got 'codec.py:Codec:x'",
    "map a.png --model a:B --quality 3": "--quality is for published weights; your own are given with --checkpoint",
    "map a.png --model a:B --checkpoint absent.pth": "--checkpoint: there is no checkpoint file absent.pth",
    "map a.png --model no_such:B": "--model: there is no module 'no_such', neither in ",
    "check a.png --model no_such.deep:B": "--model: there is no module 'no_such', neither in ",
    "map a.png --model a:B --model-args 3": "argument --model-args: expected a JSON object such as",
    "map a.png --model-args {}": "--model-args is for your own model, --model package.module:Class",
    "map a.png --key a.b": "--key a.b needs --checkpoint FILE",
    "map a.png --forward s": "argument --forward: expected NAME=VALUE such as s=3, got 's'",
    "map a.png --forward s=1 --forward s=2": "--forward s=... is given 2 times",
    "map a.png --unit bytes": "argument --unit: invalid choice: 'bytes'",
    "check a.png --multiple 0": "argument --multiple: expected a number of pixels such as 64, or HxW",
    "video a.png --multiple 64x": "or HxW such as 64x128, got '64x'",
    "calibrate --padding ones": "argument --padding: invalid choice: 'ones'",
    "map a.png --view map": "--view map is of the animation; it needs --animate",
    "map a.png --animate --view both": "argument --view: invalid choice: 'both'",
    "map a.png --animate --tile 64": "--animate is for whole pictures; it has no --max-memory, --tile, --format npz",
    "map a.png --animate --checkpoint a.png": "--animate goes over published qualities; checkpoints follow it",
    "map a.png --animate --model a:B": "--animate goes over published qualities; checkpoints follow it: --animate LOW",
    "map a.png --animate --model mbt2018 --key a": "--key a needs --checkpoint FILE",
    "map a.png --animate a.png --quality 3": "--quality is for published weights and cannot go with checkpoints",
    "map a.png --animate a.png --metric mse": "--metric is for published weights and cannot go with checkpoints",
    "map a.png --animate --model elic2022-official": "no published qualities of 'elic2022-official' for mse",
    "map a.png --animate absent.pth": "--animate: there is no checkpoint file absent.pth",
    "map a.png --animate .": "--animate: .: is a folder, not a checkpoint file",
    "map a.png --animate --quality 9": "--quality: quality of the demo codec must be one of 1, 2",
    "map a.png --model mbt2018-vbr --quality 3": "--model: quality of 'mbt2018-vbr' must be None, got 3",
    "map a.png --model ssf2020 --quality 3 --metric ms-ssim": "--model: metric of 'ssf2020' must be one of 'mse'",
    "map a.png --device abacus": "--device: unknown device 'abacus'; use cpu, cuda or cuda:N",
    "map a.png --device cpu:x": "--device: unknown device 'cpu:x'; use cpu, cuda or cuda:N",
    "bench --device abacus": "--device: unknown device 'abacus'",
    "map a.png -o a.png": "--output a.png: the folder cannot be made (File exists)",
    "map absent.png -o new": "bitrate-ext: error: absent.png: no such file",
    "map absent.png .": "Failed: 2 of 2 images: absent.png, .",
    "map .": "bitrate-ext: error: .: is a folder, not an image file",
    "map empty.png --json": "empty.png: the file is empty",
    "check absent.png": "bitrate-ext: error: absent.png: no such file",
    "check absent.png --json": '"error": "absent.png: no such file"',
    "calibrate --images a.png absent.png": "--images: absent.png: no such file",
    "calibrate --samples 1": "argument --samples: expected a whole number of at least 2, got '1'",
    "video absent.mp4": "bitrate-ext: error: absent.mp4: no such file",
    "video sub": "bitrate-ext: error: sub: is a folder without images; name the videos in it, if there are (sub/*)",
    "video f%d.png": "bitrate-ext: error: f%d.png: no such file, and none in . that has a number there",
    "video absent/f%d.png": "bitrate-ext: error: absent/f%d.png: no such file",
    "video raw.yuv": "bitrate-ext: error: raw.yuv: raw video states no size, and its name none such as _1920x1080_",
    "video raw.yuv --size 64x48": "bitrate-ext: error: raw.yuv: its 4 bytes are 0.00 frames of 64 x 48 yuv420p",
    "video a.png --rate 25": "bitrate-ext: error: a.png: states its own times; rate is for raw video",
    "video - -": "-: the standard input can be read once",
    "video a.png --size 64": "argument --size: expected width and height in pixels such as 1920x1080, got '64'",
    "video a.png --pixel-format yuv": "argument --pixel-format: pixel_format must be yuv420p, ",
    "video a.png --rate 0": "argument --rate: expected 0.001 to 1000 frames a second, ",
    "video a.png --range tv": "argument --range: invalid choice: 'tv'",
    "video a.png --crf 99": "argument --crf: expected a whole number from 0 to 51, got '99'",
    "video a.png --scale 0": "expected clip, frame or a positive number of bits per pixel, got '0'",
    "video a.png a.png -o out.mp4": "--output out.mp4: one file for 2 videos; name a folder",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each command says, one after the other in one process, and what it has imported by then."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "a.png").write_bytes(b"not looked at")
    (folder / "empty.png").touch()
    (folder / "raw.yuv").write_bytes(b"abcd")
    (folder / "sub").mkdir()
    printed = in_new_process(f"""
        import contextlib, io, os, sys
        os.chdir({str(folder)!r})
        from bitrate_ext.cli.main import main
        for line in {list(SAID)!r}:
            with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
                code = main(line.split())
            heavy = [name for name in {HEAVY!r} if name in sys.modules]
            print(repr((code, heavy, said.getvalue())))
    """)
    assert sorted(entry.name for entry in folder.iterdir()) == ["a.png", "empty.png", "raw.yuv", "sub"]
    return printed.splitlines()


@pytest.mark.parametrize("line", SAID)
def test_it_is_said_without_pytorch(said: list[str], line: str) -> None:
    code, heavy, words = ast.literal_eval(said[list(SAID).index(line)])
    assert SAID[line] in words
    assert heavy == []
    helps = line.endswith(("--help", "--version"))
    assert code == (0 if helps else 2)
    assert helps or "Traceback" not in words


def test_importing_the_package_is_quick() -> None:
    assert in_new_process("import sys, bitrate_ext; dir(bitrate_ext); print('torch' in sys.modules)") == "False\n"


def test_the_published_weights_are_those_of_compressai() -> None:
    pytest.importorskip("compressai")
    from compressai.zoo import image, image_vbr, video

    urls = {**image.model_urls, **image_vbr.model_urls, **video.model_urls}
    found = {
        name: {metric: tuple(one) if isinstance(one, dict) else () for metric, one in metrics.items()}
        for name, metrics in urls.items()
    }
    assert found == choices.PUBLISHED


def test_every_device_of_pytorch_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.device("abacus")
    names = str(caught.value).split("one of ")[1].split(" device type")[0].split(", ")
    assert set(names) <= set(choices.DEVICES)
    assert len(names) > 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bitrate_ext.cli.main import main

    os.mkfifo(tmp_path / "pipe.png")
    assert main(["map", str(tmp_path / "pipe.png")]) == 2
    assert capsys.readouterr().err.endswith("pipe.png: is not a regular file\n")
