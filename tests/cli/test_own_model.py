"""Models of one's own on the command line: their code, their weights, and what is said to their ``forward``."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from commands import error_of

from bitrate_ext import latent_bits
from bitrate_ext.cli import calibrate, check, video
from bitrate_ext.cli import main as cli
from bitrate_ext.cli.map import work as map_command
from bitrate_ext.models.own import load_own_model

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("one_thread")
SOURCE = '''
import torch
from torch import nn
import torch.nn.functional as F

NUMBER = 3

class Codec(nn.Module):
    """Latents of 8 pixels a cell, at a price that follows the level."""

    def __init__(self, N=4, wide=False):
        if N < 1:
            raise IndexError(f"N is {N}")
        super().__init__()
        self.g_a = nn.Conv2d(3, N, 8, 8)
        self.g_s = nn.ConvTranspose2d(N, 3, 8, 8)
        self.register_buffer("scale_table", torch.zeros(0))

    def forward(self, x, s=1, *, tag="none"):
        y = self.g_a(x)
        if tag == "fail":
            return {}[tag]
        p = torch.sigmoid(y).clamp(0.01, 0.99) ** s
        return {"likelihoods": {"y": p}, "x_hat": self.g_s(y)}

class Free(Codec):
    def forward(self, x, **options):
        return super().forward(x, s=options.get("level", 1))

class Bits(Codec):
    def forward(self, x):
        out = super().forward(x)
        return {**out, "likelihoods": {"y": -out["likelihoods"]["y"].log2()}}

class Tensors(Codec):
    def forward(self, x):
        return self.g_a(x)

class Spoiled(Codec):
    def update(self, force=False):
        raise OverflowError("no tables")

class Video(Codec):
    forward_keyframe = forward_inter = None.__init__

def make(**arguments):
    return Codec(**arguments)

def nothing():
    return None

model = Codec(2)
'''


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a picture and modules that are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 100, 3), dtype=np.uint8)).save("a.png")
    Path("mycodec.py").write_text(SOURCE)
    Path("broken.py").write_text("import no_such_dependency")
    Path("script.py").write_text("import sys; sys.exit('usage: script.py FOLDER')")
    Path("package/deep").mkdir(parents=True)
    Path("package/deep/codec.py").write_text("from mycodec import Codec\nclass Home:\n    Codec = Codec\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def bits(*argv: str) -> float:
    assert cli.main(["map", "a.png", "--overwrite", *argv]) == 0
    return float(json.loads(Path("a.json").read_text())["total_bits"])


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--model", "mycodec:Codec"], "Codec"),
        (["--model", "mycodec:Codec", "--model-args", '{"N": 6, "wide": true}'], "Codec"),
        (["--model", "mycodec:make", "--model-args", '{"N": 6}'], "make"),
        (["--model", "package.deep.codec:Home.Codec"], "Home.Codec"),
    ],
)
def test_models_are_made_by_name(work: Path, argv: list[str], named: str) -> None:
    assert bits(*argv) > 0
    assert json.loads(Path("a.json").read_text())["model"] == named


@pytest.mark.parametrize("place", ["installed", "here"])
def test_the_current_folder_is_searched_first(work: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other").mkdir()
    Path("other/mycodec.py").write_text("class Other:\n    pass\n")
    monkeypatch.syspath_prepend(str(work / "other"))
    if place == "installed":
        monkeypatch.chdir("other")
    with pytest.raises(ValueError, match="no 'Codec'") if place == "installed" else pytest.MonkeyPatch.context():
        load_own_model("mycodec:Codec")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere:Codec"], "--model: there is no module 'nowhere', neither in {} nor among what is installed"),
        (["package.nowhere:Codec"], "there is no module 'package.nowhere', neither in"),
        (["broken:Codec"], "module 'broken' cannot be imported: ModuleNotFoundError: No module named 'no_such_dep"),
        (["script:Codec"], "module 'script' cannot be imported: SystemExit: usage: script.py FOLDER"),
        (["mycodec:Codex"], "'mycodec' ({}/mycodec.py) has no 'Codex'; it has Codec"),
        (["mycodec:xyz"], "has no 'xyz'; it has Codec, Free, Bits, Tensors, Spoiled"),
        (["mycodec:Codec.tiny"], "'Codec' has no 'tiny'"),
        (["mycodec:NUMBER"], "mycodec:NUMBER must be a class or a function that makes a model, got int"),
        (["mycodec:Codec", "--model-args", '{"N": 0}'], "Codec(N=0) raised IndexError: N is 0"),
        (["mycodec:Codec", "--model-args", '{"M": 0}'], "Codec(M=0) raised TypeError: "),
        (["mycodec:Spoiled"], "coder tables of Spoiled() cannot be built: OverflowError: no tables"),
        (["mycodec:Video"], "Video is a video codec; bitrate-ext video takes it"),
        (["mycodec:nothing"], "nothing() must make a torch.nn.Module, got NoneType"),
        (["mycodec:model"], "model() raised TypeError: "),
        (
            ["mycodec:Codec", "--forward", "q=3"],
            "--forward q=...: forward of Codec has no such argument; it has s, tag",
        ),
        (
            ["mycodec:Tensors", "--forward", "s=3"],
            "forward of Tensors has no such argument; it has none but the images",
        ),
        (["mycodec:Codec", "--forward", "x=3"], "--forward x=...: this command sets x itself"),
        (["mycodec:Free", "--forward", "gradients=3"], "--forward gradients=...: this command sets gradients itself"),
        (
            ["mycodec:Free", "--projection", "jacobian", "--forward", "seed=3"],
            "--forward seed=...: this command sets seed",
        ),
        (["mycodec:Codec", "--forward", "tag=fail"], "a.png: the model raised KeyError: 'fail' (mycodec.py, line 2"),
        (["mycodec:Codec", "--forward", "s=[1]"], "a.png: the model raised TypeError: "),
    ],
)
def test_what_does_not_work(work: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message.format(work) in error_of(capsys, "map", "a.png", "--model", *argv)


def test_a_model_of_another_output(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "map", "a.png", "--model", "mycodec:Tensors")
    assert "likelihoods" in error
    assert "Tensor" in error


@pytest.mark.medium
def test_weights_go_into_it(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    source = load_own_model("mycodec:Codec")
    weights = source.state_dict()
    del weights["scale_table"]
    argv = ["--model", "mycodec:Codec", "--checkpoint", "w.pth"]
    counted = set()
    for content in (
        weights,
        {"state_dict": {f"module.{name}": weight for name, weight in weights.items()}, "optimizer": {"state": {}}},
        {"model": {f"model._orig_mod.{name}": weight for name, weight in weights.items()}},
        {"a": {"net": weights}, "b": {"w.v": torch.ones(2)}},
        {"net": {**weights, "scale_table": torch.ones(64)}},
    ):
        torch.save(content, "w.pth")
        counted.add(bits(*argv))
    assert len(counted) == 1
    assert json.loads(Path("a.json").read_text())["model"] == "Codec, w.pth"
    pytest.importorskip("safetensors.torch").save_file(weights, "w.safetensors")
    assert {bits("--model", "mycodec:Codec", "--checkpoint", "w.safetensors")} == counted
    torch.save({"a": weights, "b": dict(weights)}, "w.pth")
    capsys.readouterr()
    assert "holds no state dict under the key 'c'" in error_of(capsys, "map", "a.png", *argv, "--key", "c")
    assert "holds 2 state dicts, under 'a', 'b'; choose one" in error_of(capsys, "map", "a.png", *argv)
    assert {bits(*argv, "--key", key) for key in "ab"} == counted


def test_weights_of_a_wrapper_keep_their_prefix(work: Path) -> None:
    Path("wrapped.py").write_text(
        "from torch import nn\nfrom mycodec import Codec\n"
        "class Wrapped(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.model = Codec()\n"
        "    def forward(self, x):\n        return self.model(x)\n"
    )
    torch.save(load_own_model("wrapped:Wrapped").state_dict(), "w.pth")
    load_own_model("wrapped:Wrapped", checkpoint="w.pth")


def test_weights_that_do_not_fit(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_own_model("mycodec:Codec").state_dict()
    argv = ["map", "a.png", "--model", "mycodec:Codec", "--checkpoint", "w.pth"]
    torch.save({"g_a.weight": weights["g_a.weight"], **{f"h.{k}": torch.ones(1) for k in range(5)}}, "w.pth")
    assert (
        "the weights in w.pth do not fit Codec(): of the model's 4, 3 are missing (g_a.bias, g_s.weight, g_s.bias); "
        "of the file's 6, 5 are unexpected (h.0, h.1, h.2, ...). Give the class and the arguments"
    ) in error_of(capsys, *argv)
    torch.save(weights, "w.pth")
    assert (
        "do not fit Codec(N=6): 3 of 4 have another shape, as g_a.weight: [4, 3, 8, 8] in the file, [6, 3, 8, 8] in "
        "the model; give the arguments that it was trained with (--model-args)"
    ) in error_of(capsys, *argv, "--model-args", '{"N": 6}')
    Path("w.pth").write_bytes(b"none")
    assert "w.pth is not a readable PyTorch file" in error_of(capsys, *argv)


@pytest.mark.medium
def test_codecs_of_ones_own_built_on_compressai_are_coded(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("hyper.py").write_text("from compressai.models import MeanScaleHyperprior as Own\n")
    torch.save(
        {"net": {k: w for k, w in zoo.coded_model("mbt2018-mean").state_dict().items() if "table" not in k}}, "w.pth"
    )
    argv = ["--model", "hyper:Own", "--model-args", '{"N": 8, "M": 12}', "--checkpoint", "w.pth"]
    assert cli.main(["check", "a.png", *argv]) == 0
    assert "The ledger closes" in capsys.readouterr().out


# What forward is given.


@pytest.mark.medium
def test_arguments_of_forward(work: Path) -> None:
    torch.save(load_own_model("mycodec:Codec").state_dict(), "w.pth")
    argv = ["--model", "mycodec:Codec", "--checkpoint", "w.pth"]
    one = bits(*argv)
    assert bits(*argv, "--forward", "s=3", "--forward", "tag=text") == pytest.approx(3 * one, rel=1e-5)
    assert bits(*argv, "--forward", "s=2.5", "--tile", "32") == pytest.approx(2.5 * one, rel=1e-3)
    free = ["--model", "mycodec:Free", "--checkpoint", "w.pth"]
    assert bits(*free, "--forward", "level=2") == pytest.approx(2 * one, rel=1e-5)
    assert bits(*argv, "--forward", "s=2", "--projection", "jacobian") == pytest.approx(2 * one, rel=1e-4)
    assert bits(*argv, "--forward", "s=2", "--projection", "receptive-field") == pytest.approx(2 * one, rel=1e-4)


@pytest.mark.medium
def test_levels_of_variable_rate_models(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(zoo.coded_model("mbt2018-mean-vbr").state_dict(), "w.pth")
    argv = ["--checkpoint", "w.pth", "--model", "mbt2018-mean-vbr"]
    found = [bits(*argv, *level) for level in ([], ["--forward", "s=1"], ["--forward", "s=6"])]
    assert found[0] == found[1] != found[2]
    capsys.readouterr()
    error = error_of(capsys, "map", "a.png", *argv, "--forward", "s=low", "--overwrite")
    assert error.startswith("bitrate-ext: error: a.png: the model raised TypeError: ")
    assert "has no such argument; it has" in error_of(capsys, "check", "a.png", *argv, "--forward", "level=3")
    assert cli.main(["check", "a.png", *argv, "--forward", "s=6"]) == 0
    said = capsys.readouterr().out
    assert "The ledger closes" in said
    assert "tables" not in said
    for argument in ("samples=3", "cache=1"):
        error = error_of(capsys, "calibrate", *argv, "--forward", argument)
        assert f"--forward {argument[:-2]}=...: this command sets {argument[:-2]} itself" in error
    assert cli.main(["calibrate", *argv, "--forward", "s=2", "--samples", "2", "--no-cache"]) == 0


def test_video_codecs_and_the_demo_codec_have_no_such_arguments(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "video", "a.png", "--model", "mycodec:Video", "--forward", "s=1")
    assert "--forward: Video is a video codec, which is not run by its forward" in error
    assert "has no such argument; it has none but the images" in error_of(capsys, "map", "a.png", "--forward", "s=1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["s"], "argument --forward: expected NAME=VALUE such as s=3, got 's'"),
        (["3=s"], "expected NAME=VALUE such as s=3, got '3=s'"),
        (["s=1", "s=2"], "--forward s=... is given 2 times; one value is used"),
    ],
)
def test_forward_arguments_that_cannot_be_read(
    work: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    argv = [part for one in given for part in ("--forward", one)]
    assert message in error_of(capsys, "map", "a.png", *argv)


# What the mapper is given.


@pytest.mark.skipif("unit" not in inspect.signature(latent_bits).parameters, reason="costs are no cells' bits yet")
def test_units(work: Path) -> None:
    torch.save(load_own_model("mycodec:Codec").state_dict(), "w.pth")
    one = bits("--model", "mycodec:Codec", "--checkpoint", "w.pth")
    argv = ["--model", "mycodec:Bits", "--checkpoint", "w.pth", "--unit", "bits"]
    assert bits(*argv) == pytest.approx(one, rel=1e-5)


@pytest.mark.medium
def test_units_and_padding(work: Path) -> None:
    torch.save(load_own_model("mycodec:Codec").state_dict(), "w.pth")
    weights = ["--checkpoint", "w.pth"]
    one = bits("--model", "mycodec:Codec", *weights)
    assert bits("--model", "mycodec:Codec", *weights, "--multiple", "64") > 1.2 * one
    record = json.loads(Path("a.json").read_text())
    assert record["padding_bits"] > 0.2 * record["total_bits"]
    ends = {bits("--model", "mycodec:Codec", *weights, "--padding", mode) for mode in ("zeros", "replicate", "reflect")}
    sides = {bits("--model", "mycodec:Codec", *weights, "--padding-side", side) for side in ("centre", "end")}
    tiles = bits("--model", "mycodec:Codec", *weights, "--padding", "reflect", "--multiple", "32x8", "--tile", "32")
    whole = bits("--model", "mycodec:Codec", *weights, "--padding", "reflect", "--multiple", "32x8")
    assert (len(ends), len(sides)) == (3, 2)
    assert tiles == pytest.approx(whole, rel=1e-5)
    way = ["--padding", "reflect", "--multiple", "32x8", "--projection", "jacobian"]
    assert bits("--model", "mycodec:Codec", *weights, *way) == pytest.approx(whole, rel=1e-5)


OPTIONS = ["--unit", "log2", "--multiple", "32x64", "--padding", "reflect", "--padding-side", "end"]
KEYWORDS = {"unit": "log2", "multiple": (32, 64), "padding": "reflect", "padding_side": "end"}


@pytest.mark.parametrize(
    ("module", "attribute", "argv"),
    [
        (map_command, "BitrateMapper", ["map", "a.png"]),
        (map_command, "BitrateMapper", ["map", "a.png", "--tile", "64"]),
        (calibrate, "BitrateMapper", ["map", "a.png", "--projection", "receptive-field"]),
        (check, "BitrateMapper", ["check", "a.png"]),
        (video, "FrameMapper", ["video", "a.png"]),
        (map_command, "BitrateMapper", ["map", "a.png", "--animate", "w.pth"]),
        (calibrate.calibration, "calibrate", ["calibrate"]),
    ],
)
def test_mapper_options_are_handed_on_alike(
    work: Path, monkeypatch: pytest.MonkeyPatch, module: Any, attribute: str, argv: list[str]
) -> None:
    """Each of the four where it is asked for, and none where it is not, whoever runs the model."""
    known = set(KEYWORDS)
    given: list[dict[str, Any]] = []

    class Given(Exception):
        pass

    def spy(
        *_: Any, unit: Any = None, multiple: Any = None, padding: Any = None, padding_side: Any = None, **__: Any
    ) -> None:
        pass

    def take(*_: Any, **options: Any) -> None:
        given.append({name: value for name, value in options.items() if name in known})
        raise Given

    take.__signature__ = inspect.signature(spy)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, attribute, take)
    argv = [*argv, "--model", "mycodec:Codec"]
    torch.save(load_own_model("mycodec:Codec").state_dict(), "w.pth")
    for options, expected in ((OPTIONS, KEYWORDS), ([], {}), (["--multiple", "64"], {"multiple": 64})):
        with pytest.raises(Given):
            cli.main([*argv, *options])
        assert given.pop() == expected
