"""Checkpoints as people publish them: wherever their weights are, and whatever is kept beside them."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import fractions
import pathlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext.checkpoints import inert
from bitrate_ext.checkpoints.weights import choose_weights, find_weights, prefixes_off
from bitrate_ext.models.zoo import is_table, load_checkpoint

NAME = "mbt2018-mean"
pytestmark = pytest.mark.usefixtures("one_thread")
Weights = dict[str, Tensor]


class Settings(dict):  # type: ignore[type-arg]
    """A dict with attributes, as Lightning's and others' settings are."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.__dict__.update(items)


class Loss(enum.Enum):
    MSE = "mse"


@dataclasses.dataclass
class Run:
    """What a script may keep."""

    folder: pathlib.Path
    loss: Loss
    history: list[float]


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("size",)
    size: int

    def __getstate__(self) -> Any:
        return (None, {"size": self.size})


class Ticks(list):  # type: ignore[type-arg]
    pass


def codec(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = zoo.MODELS[NAME](8, 12)
    model.update(force=True)
    return model


def weights(seed: int = 0) -> Weights:
    return dict(codec(seed).state_dict())


def named(prefix: str) -> Weights:
    return {f"{prefix}{name}": weight for name, weight in weights().items()}


def optimizer(kind: Callable[..., Any] = torch.optim.Adam) -> Any:
    """After a step, so that it has a state."""
    model = codec()
    made = kind(model.parameters(), lr=1e-4)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    made.step()
    return made.state_dict()


def training() -> dict[str, Any]:
    return {"epoch": 12, "state_dict": weights(), "loss": torch.tensor(0.3), "optimizer": optimizer()}


def lightning() -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": named("model."),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': None}": {
                "best_model_score": torch.tensor(0.3),
                "dirpath": pathlib.PurePosixPath("runs/1"),
                "best_k_models": {"a.ckpt": torch.tensor(0.3)},
            }
        },
        "optimizer_states": [optimizer()],
        "lr_schedulers": [{"last_epoch": 3, "milestones": collections.Counter({4: 1})}],
        "hparams_name": "args",
        "hyper_parameters": Settings(N=8, lr=1e-4, loss=Loss.MSE, folder=Settings(name="runs")),
    }


def anything() -> dict[str, Any]:
    return {
        "run": Run(pathlib.Path("runs"), Loss.MSE, [0.1]),
        "types": types.SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, size=torch.Size([3, 4])),
        "when": [datetime.datetime(2024, 1, 2), datetime.timedelta(1), fractions.Fraction(1, 2), frozenset({1})],
        "queue": collections.deque([1.0, 2.0], maxlen=3),
        "by name": collections.defaultdict(list, a=[1]),
        "bytes": [b"\xff\x00", complex(1, 2), 2**70, {1, 2}, range(3), slice(1, 2)],
        "order": collections.OrderedDict(a=None),
    }


LAYOUTS: dict[str, tuple[Callable[[], Any], str | None]] = {  # what is saved, and the key where one is needed
    "bare": (weights, None),
    "state_dict": (lambda: {"state_dict": weights()}, None),
    "model": (lambda: {"model": weights(), "iteration": 5}, None),
    "net": (lambda: {"net": weights(), "best": torch.tensor(1.0)}, None),
    "params_ema": (lambda: {"params_ema": weights()}, None),
    "two deep": (lambda: {"checkpoint": {"network": {"model_state": weights()}, "epoch": 1}}, None),
    "DataParallel": (lambda: named("module."), None),
    "compiled": (lambda: {"model_state_dict": named("_orig_mod.")}, None),
    "part of a wrapper": (lambda: {"state_dict": named("model.")}, None),
    "DataParallel, compiled": (lambda: {"state_dict": named("module._orig_mod.")}, None),
    "wrapper, DataParallel, compiled": (lambda: named("model.module._orig_mod."), None),
    "Lightning": (lightning, None),
    "Namespace": (lambda: {"model": weights(), "args": argparse.Namespace(N=8, out=pathlib.Path("runs"))}, None),
    "NumPy": (
        lambda: {
            "net": weights(),
            "psnr": np.float64(31.2),
            "steps": np.arange(3),
            "rng": ("MT19937", np.arange(4, dtype=np.uint32), 1),
        },
        None,
    ),
    "optimizer": (training, None),
    "no tables": (lambda: {k: weight for k, weight in weights().items() if not is_table(k)}, None),
    "EMA and params": (lambda: {"params": weights(1), "params_ema": weights()}, None),
    "EMA and params, by key": (lambda: {"params": weights(), "params_ema": weights(1)}, "params"),
    "generator and discriminator": (
        lambda: {"g": weights(), "d": nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 1)).state_dict()},
        None,
    ),
    "beside other modules": (lambda: {"state_dict": {**named("codec."), "loss.net.weight": torch.ones(2)}}, "codec"),
    "teacher and student": (lambda: {"teacher": weights(1), "student": weights()}, "student"),
    "averaged by PyTorch": (lambda: {"ema": torch.optim.swa_utils.AveragedModel(codec()).state_dict()}, None),
    "versions": (lambda: {"net": weights(), "version": torch.__version__, "numpy": np.dtype("f4")}, None),
    "schedules": (
        lambda: {"net": weights(), "optimizer": torch.optim.SGD([torch.ones(1)], 0.1), "rng": np.random.default_rng()},
        None,
    ),
    "objects of all kinds": (lambda: {"state_dict": weights(), **anything()}, None),
    "slots": (lambda: {"state_dict": weights(), "settings": Slotted(3)}, None),
    "one and the same twice": (lambda: (lambda one: {"model": one, "best": one})(weights()), None),
}


@pytest.mark.medium
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, legacy: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    make, key = LAYOUTS[layout]
    if layout == "beside other modules":
        key = "state_dict.codec"
    path, expected = tmp_path / "weights.pth", codec()
    torch.save(make(), path, _use_new_zipfile_serialization=not legacy)
    loaded: Any = load_checkpoint(path, NAME, key)
    assert type(loaded) is type(expected)
    assert not loaded.training
    for name, weight in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    told = [str(one.message) for one in recwarn if "average" in str(one.message)]
    assert told == (
        ["weights.pth holds weights and their average; params_ema is used, and key=params (--key params) asks for the "
         "other"] if layout == "EMA and params" else []
    )  # fmt: skip


def test_a_whole_model_is_refused_with_advice_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = r"\(.*compressai\.models\.google\.MeanScaleHyperprior, .* and \d+ more\)"
    for content in (codec(), {"epoch": 3, "args": argparse.Namespace(), "a": {"model": codec()}}):
        torch.save(content, "whole.pth")
        with pytest.raises(ValueError, match=rf"whole\.pth .*holds Python objects .* {objects}") as caught:
            load_checkpoint("whole.pth", NAME)
        exec(str(caught.value).partition("save its weights alone: ")[2], {"torch": torch})
        assert_loads("weights.pth")
        Path("weights.pth").unlink()


def test_a_whole_model_beside_its_weights_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "both.pth"
    torch.save({"model": codec(1), "state_dict": weights(), "optimizer": torch.optim.Adam(codec().parameters())}, path)
    assert_loads(path)


def assert_loads(path: str | Path) -> None:
    loaded = load_checkpoint(path, NAME)
    for (name, p), (_, expected) in zip(loaded.named_parameters(), codec().named_parameters(), strict=True):
        assert torch.equal(p, expected), name


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_program_is_refused_with_advice_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.trace(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.ones(1, 3, 8, 8)), "program.pt")
    with pytest.raises(ValueError, match=r"program.pt is a TorchScript program; its code is not run") as caught:
        load_checkpoint("program.pt", NAME)
    exec(str(caught.value).partition("save its weights alone: ")[2], {"torch": torch})
    assert list(torch.load("weights.pth")) == ["0.weight", "0.bias"]


def test_a_list_of_its_own_kind_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ticks.pth"
    torch.save({"state_dict": weights(), "ticks": Ticks([1.0, 2.0])}, path)
    with pytest.raises(ValueError, match=r"those are refused, .* \(.*\.Ticks\)\. If you trust it"):
        load_checkpoint(path, NAME)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": weights(), "b": weights(1)}, r"holds 2 state dicts, under 'a', 'b'; choose one with key \(--key a\)"),
        ({"ema": {"ema": weights()}, "b": {"ema": weights()}}, "holds 2 state dicts, under 'ema.ema', 'b.ema'"),
        ({"params": weights(), "ema": {"v.quantiles": torch.ones(2)}}, "holds 2 state dicts"),
        ({str(one): {"w.quantiles": torch.ones(2)} for one in range(20)}, r"under '0', .* and 12 more"),
        ({"net": {}, "epoch": 3}, "got the keys 'net', 'epoch'"),
        ({"net": {"loss": torch.tensor(3.0)}}, "got the keys 'net'"),
        ([weights()], "got list"),
        ({"net": {**weights(), "g_a.0.bias": {"deep": torch.ones(3)}}}, "must hold a state dict"),
    ],
)
def test_what_is_not_clear(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "some.pth")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "some.pth", NAME)


def test_keys_that_lead_nowhere() -> None:
    content = {"a": {"b": {"x.w": torch.ones(2), "y": torch.ones(1)}}, "c": {"w.v": torch.ones(3)}}
    path = Path("some.pth")
    assert list(choose_weights(path, content, "a.b")) == ["x.w", "y"]
    assert list(choose_weights(path, content, "a.b.x")) == ["w"]
    assert list(choose_weights(path, {"x.w": torch.ones(2), "y": torch.ones(1)}, "x")) == ["w"]
    for key in ("a", "a.b.z", "a.b.x.w", "d", ""):
        with pytest.raises(ValueError, match=rf"some.pth holds no state dict under the key '{key}'.* under 'c', 'a.b'"):
            choose_weights(path, content, key)


def test_weights_are_found_in_flat_time() -> None:
    """Mappings that are many times in one another are looked at once, and those too deep not at all."""
    shared: dict[str, Any] = {"w.v": torch.ones(2)}
    for _ in range(60):
        shared = {str(number): shared for number in range(50)}
    assert find_weights(shared) == {}
    shared = {"w.v": torch.ones(2)}
    for _ in range(6):
        shared = {str(number): shared for number in range(50)}
    assert list(find_weights(shared)) == ["0.0.0.0.0.0"]
    circle: dict[str, Any] = {}
    circle["again"] = circle
    assert find_weights(circle) == {}


def test_prefixes() -> None:
    one = torch.ones(1)
    assert [list(w) for w in prefixes_off({"a.b.c": one, "a.b.d": one})] == [
        ["a.b.c", "a.b.d"],
        ["b.c", "b.d"],
        ["c", "d"],
    ]
    assert [list(w) for w in prefixes_off({"a": one, "a.b": one})] == [["a", "a.b"]]
    assert [list(w) for w in prefixes_off({})] == [[]]


def test_stand_ins_keep_nothing(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(secret=torch.ones(3)), "items": Settings(a=1)}, tmp_path / "some.pth")
    content, names = inert.read_inert(tmp_path / "some.pth")
    assert type(content["args"]) is inert.Inert
    assert vars(content["args"]) == {}
    assert content["items"] == {"a": 1}
    assert names == ["argparse.Namespace", f"{Settings.__module__}.Settings"]


def test_what_others_have_told_pytorch_is_neither_used_nor_lost(tmp_path: Path) -> None:
    torch.save({"run": Run(pathlib.Path("x"), Loss.MSE, [])}, tmp_path / "some.pth")
    with torch.serialization.safe_globals([Run, Loss]):
        before = set(map(str, torch.serialization.get_safe_globals()))
        content, _ = inert.read_inert(tmp_path / "some.pth")
        assert not isinstance(content["run"], Run)
        assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_the_average_is_mapped_with_a_word_about_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    from bitrate_ext.cli import main as cli

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")
    torch.save({"params": weights(1), "params_ema": weights()}, "w.pth")
    assert cli.main(["map", "a.png", "--checkpoint", "w.pth", "--model", NAME, "--key", "params"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["map", "a.png", "--checkpoint", "w.pth", "--model", NAME, "--overwrite"]) == 0
    assert capsys.readouterr().err.startswith("bitrate-ext: warning: w.pth holds weights and their average; params_ema")


def test_models_without_tables_in_their_file_code(tmp_path: Path) -> None:
    torch.save({k: weight for k, weight in weights().items() if not is_table(k)}, tmp_path / "w.pth")
    mapper = bitrate_ext.BitrateMapper(load_checkpoint(tmp_path / "w.pth", NAME), bits="coded")
    assert mapper(torch.rand(1, 3, 64, 64)).ledger.closes.all()  # type: ignore[union-attr]
