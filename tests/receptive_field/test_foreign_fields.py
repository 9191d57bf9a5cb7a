"""Receptive fields of foreign models: weights of any kind in the cache's key, decoders that are given as callables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import AsMethod, OwnDerivative, Tokens, Whole, alike
from torch import Tensor, nn

from bitrate_ext import BitrateMapper, FrameMapper, ReceptiveField, attribute, calibrate
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.receptive_field.calibration import receptive_fields
from bitrate_ext.receptive_field.fingerprint import fingerprint

FLOATS = torch.arange(12.0).reshape(3, 4)
TENSORS = {
    "float": torch.tensor(1.5),
    "int": torch.tensor(7),
    "bool": torch.tensor(True),
    "bfloat16": torch.tensor(1.5, dtype=torch.bfloat16),
    "complex": torch.tensor(1 + 2j).conj(),
    "empty": torch.empty(0),
    "empty rows": torch.empty(0, 3),
    "turned": FLOATS.mT,
    "strided": FLOATS[:, ::2],
    "strided, one": FLOATS.reshape(-1)[3::12],
    "repeated": FLOATS[:1].expand(5, 4),
    "sparse": FLOATS.to_sparse(),
}


class Small(nn.Module):
    """A decoder with normalisation, and whatever else a model may hold."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flag = nn.Parameter(torch.tensor(3), requires_grad=False)  # the first of its parameters is no float
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.decoder = nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 3, 4, stride=2, padding=1))
        for name, value in tensors.items():
            self.register_buffer(name, value)
        self.eval()

    def forward(self, x: Tensor, shift: Any = 0.0) -> dict[str, Any]:
        y = (9 * nn.functional.avg_pool2d(x, 2)).round()
        return {"x_hat": self.decoder(y), "likelihoods": {"y": torch.exp2(-1 - y.abs() / self.temperature)}}


def key(model: nn.Module, **kwargs: Any) -> str:
    return fingerprint(model, ("y", 2, None), [], kwargs)


@pytest.mark.parametrize("name", TENSORS)
def test_every_tensor_counts(name: str) -> None:
    value = TENSORS[name]
    keys = {key(Small(held=value)), key(Small()), key(Small(), held=value), key(Small(), held=[{"a": (value,)}])}
    assert len(keys) == 4
    assert key(Small(held=value.clone())) in keys
    if value.numel():
        other = value.clone()
        other.copy_(value.logical_not() if value.dtype == torch.bool else value * 2)
        assert key(Small(held=other)) not in keys
        assert key(Small(), held=[{"a": (other,)}]) not in keys
    assert key(Small(), held=value.to(torch.complex128 if value.is_complex() else torch.float64)) not in keys


def test_long_arguments_are_read_to_their_end() -> None:
    """``repr`` leaves the middle of a long tensor out."""
    one, other = torch.zeros(5000), torch.zeros(5000)
    other[2500] = 1
    assert key(Small(), scales=[one]) != key(Small(), scales=[other])


def test_a_model_with_normalisation_and_single_numbers(tmp_path: Path) -> None:
    model = Small(**{"held_" + re.sub(r"\W+", "_", name): value for name, value in TENSORS.items()})
    field = calibrate(model, samples=2, cache=tmp_path, shift=torch.tensor(2))
    assert field.reach == ((-1, 2), (-1, 2))
    assert len(list(tmp_path.iterdir())) == 1
    again = calibrate(model, samples=2, cache=tmp_path, shift=torch.tensor(2), notice=pytest.fail)
    np.testing.assert_array_equal(field.dense(), again.dense())
    with torch.no_grad():
        model.decoder[0].num_batches_tracked += 1
    seen: list[str] = []
    calibrate(model, samples=2, cache=tmp_path, shift=torch.tensor(2), notice=seen.append)
    assert seen == ["y"]


@pytest.mark.filterwarnings("ignore:.*(nested tensors|deprecated|Sparse CSR)")
@pytest.mark.parametrize("name", ["nested", "jagged", "quantised", "no values", "sparse rows", "float8", "inference"])
def test_tensors_that_have_no_memory_to_compare(name: str) -> None:
    """A model may hold what it likes beside its weights: it is hashed, and otherwise left alone."""
    parts = [torch.ones(2), torch.ones(3)]
    made = {
        "nested": lambda: torch.nested.nested_tensor(parts),
        "jagged": lambda: torch.nested.nested_tensor(parts, layout=torch.jagged),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "no values": lambda: torch.empty(3, device="meta"),
        "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
        "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
        "inference": lambda: torch.ones(3),
    }
    with torch.inference_mode(name == "inference"):
        held = made[name]()
    model = Small(held=held)
    x = torch.rand(1, 3, 32, 32)
    expected = BitrateMapper(Small())(x)
    assert torch.equal(BitrateMapper(model)(x).map, expected.map)
    (frame,) = FrameMapper(model, channels_last=False)([x[0]])
    assert torch.equal(frame.map, expected.map)
    assert calibrate(model, samples=2, cache=False).reach == ((-1, 2), (-1, 2))
    assert attribute(model, x, passes=4).map.shape == x[:, :1].shape
    assert model.held is held


def test_the_photograph_has_the_dtype_of_the_weights() -> None:
    assert calibrate(Small().double(), samples=2, cache=False).reach == ((-1, 2), (-1, 2))


@pytest.mark.medium
def test_the_mapper_with_such_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    result = BitrateMapper(Small(), projection="receptive-field")(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(result.map.double().sum() + result.padding_bits[0], result.total_bits[0])


IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", [AsMethod, OwnDerivative, Tokens])
def test_decoders_of_all_kinds_have_the_same_kernel(kind: Any) -> None:
    torch.manual_seed(0)
    whole = Whole()
    expected = calibrate(whole, images=IMAGE, samples=4, cache=False)
    model = alike(kind, whole)
    synthesis: dict[type, Any] = {
        AsMethod: model.decode,
        Tokens: lambda y: model.from_tokens(y.flatten(2).mT),
    }
    found = calibrate(model, images=IMAGE, samples=4, cache=False, synthesis=synthesis.get(kind))
    assert found.reach == expected.reach == ((-1, 4), (-1, 4))
    np.testing.assert_allclose(found.dense(), expected.dense(), rtol=1e-3, atol=1e-6)


def test_a_projection_for_each_latent_by_a_decoder_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = AsMethod()
    adapter = ModelAdapter(model)
    adapter.prepare(IMAGE, {})
    chosen = receptive_fields(adapter, IMAGE, {}, synthesis=model.decode)
    assert isinstance(chosen["y"], ReceptiveField)
    mapper = BitrateMapper(model, projection=chosen)  # type: ignore[arg-type]
    assert mapper(IMAGE).map.shape == (1, 1, 64, 64)


def test_a_function_is_measured_each_time_and_a_method_once(tmp_path: Path) -> None:
    model = AsMethod()
    seen: list[str] = []

    def measured(synthesis: Any) -> int:
        seen.clear()
        calibrate(model, images=IMAGE, samples=2, cache=tmp_path, synthesis=synthesis, notice=seen.append)
        return len(seen)

    assert [measured(lambda y: model.decode(y)) for _ in range(2)] == [1, 1]
    assert not list(tmp_path.iterdir())
    assert [measured(model.decode) for _ in range(2)] == [1, 0]
    assert measured(model.decoder) == 1


def test_a_name_serves_a_model_of_frames_too() -> None:
    class Frames(Whole):
        def forward(self, frames: Any) -> dict[str, Any]:  # type: ignore[override]
            outputs = [super(Frames, self).forward(frame) for frame in frames]
            return {"x_hat": [one["x_hat"] for one in outputs], "likelihoods": [one["likelihoods"] for one in outputs]}

    for synthesis in (None, "whole"):
        assert calibrate(Frames(), images=IMAGE, samples=2, cache=False, synthesis=synthesis).reach == (
            (-1, 4),
            (-1, 4),
        )
    with pytest.raises(TypeError, match="synthesis must be the name of a module, or a callable"):
        calibrate(Frames(), images=IMAGE, samples=2, cache=False, synthesis=4)  # type: ignore[arg-type]
