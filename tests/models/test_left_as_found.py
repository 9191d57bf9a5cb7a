"""A model that was looked at is the model that it was: tensors, flags, hooks, attributes, and the process around it.

What it does afterwards, coding and training, is what a twin does that nobody has looked at.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from coded_models import photograph
from torch import nn

import bitrate_ext
from bitrate_ext.coding.recorder import EntropyModels, record_encoding
from bitrate_ext.models.accelerate import accelerate
from bitrate_ext.models.observe import leave_as_found, watch_calls
from bitrate_ext.receptive_field import calibration
from bitrate_ext.receptive_field.calibration import calibrate

ans = pytest.importorskip("compressai.ans")
pytest.importorskip("captum")
from compressai.entropy_models import EntropyModel  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:integrated gradients:UserWarning"),
]
X = photograph()[:, :, 80:150, 100:201]
FRAMES = [(X[0].permute(1, 2, 0) * 255).byte()] * 2
VIDEO = "ssf2020"
NEEDS_NO_GRAD = ("elic2022-official", "elic2022-chandelier")  # CompressAI's channel groups write into views
Look = Callable[[Any, Path, dict[str, Any]], object]


def estimated(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return bitrate_ext.BitrateMapper(model)(X, **kwargs)


def coded(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return bitrate_ext.BitrateMapper(model, bits="coded")(X, **kwargs)


def coded_with_gap(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return bitrate_ext.BitrateMapper(model, bits="coded", gap=True)(X, **kwargs)


def in_inference_mode(model: Any, _: Path, kwargs: dict[str, Any]) -> None:
    with torch.inference_mode():
        bitrate_ext.BitrateMapper(model, bits="coded", gap=True)(X, **kwargs)
        bitrate_ext.BitrateMapper(model)(X.clone(), **kwargs)


def jacobian(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return bitrate_ext.attribute(model, X, passes=4, **kwargs)


def integrated_gradients(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return bitrate_ext.attribute(model, X, "integrated-gradients", 4, **kwargs)


def grad_cam(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return bitrate_ext.attribute(model, X, "grad-cam", **kwargs)


def frames(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return list(bitrate_ext.FrameMapper(model, forward_kwargs=kwargs)(FRAMES))


def accelerated(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return accelerate(model, dtype=torch.bfloat16)


def tiles(model: Any, folder: Path, kwargs: dict[str, Any]) -> object:
    return bitrate_ext.map_picture(model, X, folder / "map.npz", psnr=True, **kwargs)


def video(model: Any, _: Path, kwargs: dict[str, Any]) -> object:
    return bitrate_ext.coded_video(model, [X, X.flip(3)])


QUICK: list[Look] = [
    estimated,
    coded,
    coded_with_gap,
    in_inference_mode,
    jacobian,
    integrated_gradients,
    grad_cam,
    frames,
    accelerated,
    tiles,
]
LOOKS = {name: QUICK for name in (*zoo.SMALL, "demo codec")} | {VIDEO: [video, frames]}


def make(name: str) -> tuple[Any, dict[str, Any]]:
    """A model, ready to code, and what its calls take besides."""
    if name == VIDEO:
        return zoo.video_model(), {}
    model = bitrate_ext.load_demo_codec() if name == "demo codec" else zoo.coded_model(name)
    return model, zoo.set_rate(model, 2)


# What must stay.


def contents(value: Any) -> Any:
    """Of a container what is in it, each by its identity; of others nothing."""
    if isinstance(value, dict):
        return [(key, id(one)) for key, one in value.items()]
    return [id(one) for one in value] if isinstance(value, (list, tuple, set)) else None


def state_of(model: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        state[f"{name} ({type(module).__name__})"] = [
            (key, value if isinstance(value, (bool, int, float, str)) else id(value), contents(value))
            for key, value in module.__dict__.items()
        ]
    for name, one in itertools.chain(model.named_parameters(), model.named_buffers()):
        state[name] = (id(one), one.data_ptr(), one.stride(), one.is_inference(), one.requires_grad, one.is_leaf)
        state[f"{name}: values"] = one.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        state[f"{name}: version"] = None if one.is_inference() else one._version
        state[f"{name}: grad"] = None if one.grad is None else (id(one.grad), one.grad.numpy().tobytes())
    return state


def state_of_process() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002, the global one
        "random": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "running": [one.name for one in threading.enumerate()],
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "strict": (torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled(), np.geterr()),
        "cudnn": tuple(getattr(torch.backends.cudnn, one) for one in ("enabled", "benchmark", "deterministic")),
        "warnings": list(warnings.filters),
        "coders": [dict(vars(coder)) for coder in (ans.RansEncoder, ans.BufferedRansEncoder, ans.RansDecoder)],
        "hooks": [dict(one) for name, one in vars(nn.modules.module).items() if name.startswith("_global_")
                  and isinstance(one, dict)],
        "environment": (dict(os.environ), Path.cwd(), torch.hub.get_dir()),
    }  # fmt: skip


@contextlib.contextmanager
def untouched(model: nn.Module, what: str) -> Iterator[None]:
    before, around = state_of(model), state_of_process()
    yield
    after = state_of(model)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set(), what
    process = state_of_process()
    assert {name for name in around if around[name] != process[name]} == set(), what


def later(name: str, model: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a model codes, decodes without ``no_grad``, and what one step of training makes of it."""
    x = photograph()[:, :, :128, :128].clone()
    inputs = [x, x.flip(3)] if name == VIDEO else x
    found: dict[str, Any] = {}
    with torch.no_grad() if name in NEEDS_NO_GRAD else contextlib.nullcontext():
        if name == VIDEO:
            strings, shapes = model.compress(inputs)
            found["strings"] = strings
            found["decoded"] = [one.detach() for one in model.decompress(strings, shapes)]
        else:
            compressed = model.compress(x, **kwargs)
            found["strings"] = compressed["strings"]
            found["decoded"] = [model.decompress(**compressed, **kwargs)["x_hat"].detach()]
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    torch.manual_seed(1)
    output = model(inputs, **kwargs)
    images = output["x_hat"] if name == VIDEO else [output["x_hat"]]
    bits = [one for frame in ([output] if name != VIDEO else output["likelihoods"]) for one in likelihoods_in(frame)]
    loss = sum(-p.log2().sum() for p in bits) / 1000 + sum((one - x).square().sum() for one in images)
    loss.backward()
    optimizer.step()
    found["grads"] = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    found["trained"] = [one.detach().clone() for one in (*model.parameters(), *model.buffers())]
    return found


def likelihoods_in(nested: dict[str, Any]) -> Iterator[torch.Tensor]:
    for one in nested.get("likelihoods", nested).values():
        if isinstance(one, dict):
            yield from likelihoods_in(one)
        else:
            yield one


def assert_twins(name: str, model: Any, twin: Any, kwargs: dict[str, Any]) -> None:
    ours, theirs = later(name, model, kwargs), later(name, twin, kwargs)
    assert ours["strings"] == theirs["strings"]
    for what in ("decoded", "grads", "trained"):
        for one, other in zip(ours[what], theirs[what], strict=True):
            assert (one is None and other is None) or torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)), what


# Every model, every call.


SOON = ("mbt2018", "bmshj2018-hyperprior-vbr")


@pytest.mark.parametrize(
    "name", [*SOON, *(pytest.param(name, marks=pytest.mark.medium) for name in LOOKS if name not in SOON)]
)
def test_a_model_is_left_as_it_was_found(name: str, tmp_path: Path) -> None:
    model, kwargs = make(name)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        for number, parameter in enumerate(one.parameters()):
            parameter.requires_grad_(number % 5 != 1)  # some are frozen
            parameter.grad = torch.ones_like(parameter) if number % 5 == 2 else None
    for look in LOOKS[name]:
        with untouched(model, look.__name__):
            look(model, tmp_path, kwargs)
    assert_twins(name, model, twin, kwargs)


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(model: Any, latent: str = "y", images: Any = None, *_: Any, **arguments: Any) -> Any:
        return calibrate(model, latent, images, 2, **{**arguments, "cache": False})

    monkeypatch.setattr(calibration, "calibrate", quick)


@pytest.mark.medium
@pytest.mark.parametrize(
    "name", [*SOON, *(pytest.param(name, marks=pytest.mark.slow) for name in LOOKS if name not in (*SOON, VIDEO))]
)
def test_measuring_a_receptive_field(few_samples: None, name: str, tmp_path: Path) -> None:
    model, kwargs = make(name)
    with untouched(model, name):
        calibrate(model, samples=2, cache=tmp_path, **kwargs)
        bitrate_ext.BitrateMapper(model, projection="receptive-field")(X, **kwargs)


@pytest.mark.slow
def test_measuring_a_receptive_field_of_a_video_model(tmp_path: Path) -> None:
    model, _ = make(VIDEO)
    with untouched(model, VIDEO):
        calibrate(model, "motion.y", samples=2, cache=tmp_path)


# In the middle.


class FaultError(Exception):
    """Of no kind that is expected anywhere."""


FAULTS = {"convolution": (nn.Conv2d, "forward"), "entropy model": (EntropyModel, "quantize")}


@pytest.mark.medium
@pytest.mark.parametrize("look", [one for one in QUICK if one is not accelerated], ids=lambda look: look.__name__)
@pytest.mark.parametrize("place", FAULTS)
def test_trouble_in_the_middle(look: Look, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is that ends a call, an error or an interrupt, and wherever: at the first, a middle or the last."""
    owner, method = FAULTS[place]
    original = getattr(owner, method)
    calls, fatal, error = 0, 0, FaultError

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise error
        return original(self, *args, **kwargs)

    model, kwargs = make("mbt2018")
    monkeypatch.setattr(owner, method, counted)
    with untouched(model, "no fault"):
        look(model, tmp_path, kwargs)
    count = calls
    for fatal, error in zip((1, count // 2, count), (FaultError, KeyboardInterrupt, RuntimeError), strict=True):
        calls = 0
        with untouched(model, f"{error.__name__} at {fatal} of {count}"), contextlib.suppress(error):
            look(model, tmp_path, kwargs)
        assert calls >= fatal


# In several threads.


def test_the_last_of_several_threads_puts_things_back() -> None:
    """Blocks that overlap, the first ends first; and the same inside each other."""
    model, _ = make("mbt2018")
    convolution, entropy_models = model.context_prediction, EntropyModels(model)
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with torch.no_grad(), leave_as_found(model), record_encoding(entropy_models):
            convolution(torch.zeros(1, 12, 4, 4))
            entered.set()
            leave.wait(60)

    with untouched(model, "threads"):
        thread = threading.Thread(target=first)
        thread.start()
        entered.wait(60)
        with torch.no_grad(), leave_as_found(model), record_encoding(entropy_models) as recorder:
            leave.set()
            thread.join()
            with leave_as_found(model):
                convolution(torch.zeros(1, 12, 4, 4))
            model.compress(X[:, :, :64, :64])
        assert len(recorder.strings) == 2


def test_models_made_in_inference_mode_serve() -> None:
    with torch.inference_mode():
        model, _ = make("mbt2018")
        assert all(one.is_inference() for one in model.parameters())
    before = {name: one.data_ptr() for name, one in model.named_parameters()}
    result = bitrate_ext.BitrateMapper(model, bits="coded", gap=True)(X)
    assert result.ledger is not None
    assert result.ledger.closes.all()
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == before
    assert all(one.is_inference() for one in model.parameters())


def test_results_can_be_used_with_gradients() -> None:
    """Also those of a call in inference mode: none of a model's or of a result's tensors is one of that mode."""
    model, _ = make("mbt2018-mean")
    with torch.inference_mode():
        result = bitrate_ext.BitrateMapper(model, bits="coded", gap=True)(X)
    weight = torch.ones((), requires_grad=True)
    for one in (result.map, result.x_hat, result.gap, result.entropy, *result.latent_bits.values()):
        assert one is not None
        (one * weight).sum().backward()
    assert weight.grad is not None


def test_hooks_go_when_one_cannot_be_set() -> None:
    first, last = nn.Identity(), nn.Identity()
    last._forward_hooks = None  # type: ignore[assignment]
    with pytest.raises(TypeError), watch_calls([("a", first), ("b", last)], lambda *_: None, lambda *_: None):
        pass
    assert not first._forward_hooks
    assert not first._forward_pre_hooks
    assert not last._forward_pre_hooks


class Folding(nn.Module):
    """Two branches that become one at the first call in eval mode, which is noted; or at each call, which is not."""

    def __init__(self, *, notes: bool, wider: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, 4, 16, stride=16) for _ in range(2))
        self.both = nn.Conv2d(3, 2 if wider else 4, 16, stride=16)
        self.notes, self.folded = notes, False

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        if not self.folded:
            self.both.weight.data = sum(one.weight.data for one in self.branches)  # type: ignore[assignment]
            self.both.bias.data = sum(one.bias.data for one in self.branches)  # type: ignore[assignment]
            self.folded = self.notes
        return {"x_hat": x, "likelihoods": {"y": torch.exp2(-1 - self.both(x).abs())}}


@pytest.mark.parametrize("wider", [False, True])
@pytest.mark.parametrize("notes", [False, True])
def test_what_a_model_notes_that_it_has_done_stays_done(notes: bool, wider: bool) -> None:
    model, x = Folding(notes=notes, wider=wider).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = copy.deepcopy(model)(x)["likelihoods"]["y"]
    held, memory = model.both.weight, model.both.weight.data_ptr()
    before = held.detach().clone()
    result = bitrate_ext.BitrateMapper(model)(x)
    torch.testing.assert_close(result.total_bits.double(), -expected.double().log2().sum()[None], rtol=1e-6, atol=0)
    assert model.both.weight is held
    if not (notes and wider):
        assert held.data_ptr() == memory
    assert torch.equal(held, before) == (not notes)
    with torch.no_grad():
        assert torch.equal(model(x)["likelihoods"]["y"], expected)
