"""Copies of models that ``copy.deepcopy`` fails on, and what is optional where there is no copy."""

from __future__ import annotations

import copy
import threading
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitrate_ext import BitrateMapper, FrameMapper
from bitrate_ext.models.accelerate import accelerate, skip_synthesis
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.models.copies import copy_model

pytest.importorskip("compressai")
from zoo import coded_model, small_model


class Held:
    """A plain object with a state, that has something which cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values = [torch.zeros(2)]


class Awkward(nn.Module):
    """Everything that foreign modules keep and ``copy.deepcopy`` fails on."""

    def __init__(self) -> None:
        super().__init__()
        with pytest.warns(FutureWarning):  # of the older way, which keeps a tensor with a history
            self.conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 16, stride=16))
        self.lock = threading.Lock()
        self.held = Held()
        self.kept = {"history": [self.conv.weight * 2], "locks": (threading.Lock(), 1)}
        self.generator = torch.Generator().manual_seed(3)
        self.called = partial(self.scaled, scale=0.5)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def scaled(self, x: Tensor, scale: float) -> Tensor:
        self.count += 1
        return scale * x

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"likelihoods": self.called(self.conv(x)).sigmoid(), "x_hat": x}


class Refusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=16)

    def __deepcopy__(self, memo: dict[int, Any]) -> Refusing:
        raise RuntimeError("one of a kind")

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = F.avg_pool2d(x, 16)
        return {"likelihoods": y.sigmoid(), "x_hat": self.up(y)}


FRAMES = [torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(k)) for k in range(3)]


@pytest.mark.parametrize("parameters", [True, False])
def test_a_copy_has_a_state_of_its_own_and_shares_what_cannot_be_copied(parameters: bool) -> None:
    model, x = Awkward().eval(), torch.rand(1, 3, 32, 32)
    twin = copy_model(model, parameters=parameters)
    with torch.no_grad():
        assert torch.equal(twin(x)["likelihoods"], model(x)["likelihoods"])
        twin(x)
    assert (int(model.count), int(twin.count)) == (1, 2)  # the copy's methods are bound to it
    assert twin.lock is model.lock
    assert twin.held is not model.held
    assert twin.held.lock is model.held.lock
    assert twin.held.values[0] is not model.held.values[0]
    assert torch.equal(twin.kept["history"][0], model.kept["history"][0])
    assert not twin.kept["history"][0].requires_grad
    assert twin.kept["locks"][0] is model.kept["locks"][0]
    assert twin.conv.weight_g.requires_grad
    assert (twin.conv.weight_g is model.conv.weight_g) == (not parameters)
    expected = torch.rand(3, generator=model.generator)
    assert torch.equal(torch.rand(3, generator=twin.generator), expected)


def test_parameters_that_are_tied_stay_so() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.lock = threading.Lock()
    twin = copy_model(model)
    assert twin[0].weight is twin[1].weight
    assert twin[0].weight is not model[0].weight


def test_what_refuses_to_be_copied_is_named() -> None:
    with pytest.raises(ValueError, match="of Sequential it says: one of a kind; give the module that it fails on"):
        copy_model(nn.Sequential(Refusing()))


def test_memory_that_runs_out_is_not_taken_for_a_refusal() -> None:
    class Large(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> Large:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        copy_model(Large())


@pytest.mark.parametrize("reconstruction", [False, True])
def test_frames_of_a_model_that_cannot_be_copied(reconstruction: bool) -> None:
    model = Refusing().eval()
    adapter = ModelAdapter(model)
    adapter.prepare(FRAMES[0][None], {})
    assert skip_synthesis(adapter, FRAMES[0][None], {}) is adapter
    mapper = BitrateMapper(model)
    for result, frame in zip(FrameMapper(model, reconstruction=reconstruction)(FRAMES), FRAMES, strict=True):
        assert torch.equal(result.map, mapper(frame[None]).map)
        assert len(result.warnings) == 1
        assert (
            "the network runs as it is, slower than it could: model must be one that copy.deepcopy"
            in (result.warnings[0])
        )
    for option in ({"dtype": torch.bfloat16}, {"compile": True}):
        with pytest.raises(ValueError, match=r"model must be one that copy\.deepcopy can copy"):
            FrameMapper(model, **option)  # type: ignore[arg-type]


def test_frames_of_an_awkward_model() -> None:
    model = Awkward().eval()
    mapper = BitrateMapper(model)
    expected = [mapper(frame[None]).map for frame in FRAMES]
    for result, one in zip(FrameMapper(model, channels_last=False)(FRAMES), expected, strict=True):
        assert torch.equal(result.map, one)
        assert result.warnings == ()


@pytest.fixture
def older_compressai(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entropy models that do not leave their coder, a C++ object, out of a copy."""
    from compressai.entropy_models import EntropyModel

    for name in ("__getstate__", "__setstate__"):
        monkeypatch.delattr(EntropyModel, name)


@pytest.mark.usefixtures("older_compressai")
def test_an_older_compressai() -> None:
    model = coded_model("mbt2018-mean")
    with pytest.raises(TypeError, match=r"cannot pickle .*RansEncoder"):
        copy.deepcopy(model)
    x = torch.rand(1, 3, 64, 64)
    (result,) = FrameMapper(model, channels_last=False)([x[0]])
    assert torch.equal(result.total_bits, BitrateMapper(model)(x).total_bits)
    assert type(accelerate(model)) is type(model)
    coded = BitrateMapper(model, bits="coded")(x)
    assert coded.warnings == ()  # the tables were compared, on a copy
    with torch.no_grad():
        model.entropy_bottleneck.quantiles.mul_(3)
    assert any("are not those of its parameters" in one for one in BitrateMapper(model, bits="coded")(x).warnings)


def test_a_copy_in_reduced_precision_runs_its_own_entropy_models() -> None:
    model = small_model("bmshj2018-factorized")
    twin = copy_model(accelerate(model, dtype=torch.bfloat16))
    assert twin.entropy_bottleneck.forward.args[0].__self__ is twin.entropy_bottleneck


def test_a_decoder_that_cannot_be_left_out_costs_time_alone() -> None:
    """Whatever other parts of a model do with the stand-in."""

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Upsample(scale_factor=16)
            self.sizes = {"up": self.up.scale_factor}

        def forward(self, x: Tensor) -> dict[str, Any]:
            y = F.avg_pool2d(x, 16).round()
            if not hasattr(self.up, "scale_factor"):
                raise KeyError("scale_factor")
            return {"likelihoods": y.sigmoid(), "x_hat": self.up(y)}

    model = Asking().eval()
    results = list(FrameMapper(model)(FRAMES))
    assert torch.equal(results[0].total_bits, BitrateMapper(model)(FRAMES[0][None]).total_bits)
