"""Coded bits of foreign models: a memory that no probe touches, tables that cannot be compared, forwards put on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from coded_models import model_of
from torch import Tensor, nn

from bitrate_ext import BitrateMapper
from bitrate_ext.coding.coder import Coder, noise

pytest.importorskip("compressai")
pytestmark = pytest.mark.usefixtures("one_thread")
X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_learning_runs_a_copy() -> None:
    model: Any = zoo.coded_model("mbt2018-mean")
    calls: list[int] = []
    model.seen = torch.zeros((), dtype=torch.long)
    forward = type(model).forward

    class Counting(type(model)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Any:
            self.seen += 1
            calls.append(1)
            return forward(self, x)

    model.__class__ = Counting
    coder = Coder(model)
    assert coder.learn(noise((1, 3, 64, 64), X), {}) == {"y": (4, 4), "z": (1, 1)}
    assert calls == [1]
    assert int(model.seen) == 0
    assert set(coder.blocks) == {model.entropy_bottleneck, model.gaussian_conditional}


def test_a_forward_that_was_put_on_from_outside() -> None:
    """A copy of it runs the model's own parts, and not those of the copy."""
    model: Any = zoo.coded_model("mbt2018-mean")
    expected = BitrateMapper(model, bits="coded")(X)
    forward = model.forward
    model.forward = lambda x: forward(x)
    assert torch.equal(BitrateMapper(model, bits="coded")(X).map, expected.map)


def test_a_model_that_cannot_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("mbt2018-mean")
    expected = BitrateMapper(model, bits="coded")(X)

    def refuse(*_: Any) -> None:
        raise RuntimeError("one of a kind")

    for part in (model, model.entropy_bottleneck, model.gaussian_conditional):
        monkeypatch.setattr(type(part), "__deepcopy__", refuse, raising=False)
    result = BitrateMapper(model, bits="coded")(X)
    assert torch.equal(result.map, expected.map)
    assert len(result.warnings) == 2
    assert all("cannot be compared with its parameters: model must be one that copy" in one for one in result.warnings)


def test_tables_that_cannot_be_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("bmshj2018-factorized")
    expected = BitrateMapper(model, bits="coded")(X)

    def update(*_: Any, **__: Any) -> None:
        raise KeyError("force")

    monkeypatch.setattr(type(model.entropy_bottleneck), "update", update)
    result = BitrateMapper(model, bits="coded")(X)
    assert torch.equal(result.map, expected.map)
    assert result.warnings == (
        "the coder's tables in model.entropy_bottleneck cannot be compared with its parameters: 'force'",
    )


def test_another_method_of_the_name_that_a_workaround_calls() -> None:
    class Foreign(nn.Module):
        def forward(self, y: Tensor, qs: Tensor) -> tuple[Tensor, Tensor]:
            return y, torch.full_like(y, 0.5)

        def _likelihood_variable(self, y: Tensor) -> Tensor:
            return y

    class Codec(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entropy_model = Foreign()

        def forward(self, x: Tensor) -> dict[str, Any]:
            y = nn.functional.avg_pool2d(x, 16)
            return {"likelihoods": self.entropy_model(y, qs=torch.ones(1))[1], "x_hat": x}

    result = BitrateMapper(Codec().eval())(X)
    assert result.total_bits.item() == 3 * 16
    assert any("entropy_model cannot be checked for its quantisation step: " in one for one in result.warnings)
