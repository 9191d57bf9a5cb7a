"""What strangers' models return: dicts, tuples, namedtuples, objects, latents at the top, lists, other units."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitrate_ext import BitrateMapper
from bitrate_ext.models.adapter import ModelAdapter


def latents(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.avg_pool2d(x, 8).clamp(0.1, 0.9), F.avg_pool2d(x[:, :1], 16).clamp(0.1, 0.9)


class Output(NamedTuple):
    x_hat: Tensor
    likelihoods: dict[str, Tensor]
    loss: float = 0.0


Flat = namedtuple("Flat", "x_hat y_likelihoods z_likelihoods")


@dataclass
class Record:
    x_hat: Tensor
    likelihoods: dict[str, Tensor]


SHAPES: dict[str, Any] = {
    "dict": lambda x, y, z: {"x_hat": x, "likelihoods": {"y": y, "z": z}},
    "nested dict": lambda x, y, z: {"x_hat": x, "likelihoods": {"y": {"anchor": y}, "z": z}},
    "slices": lambda x, y, z: {"x_hat": x, "likelihoods": {"y": list(y.split(1, dim=1)), "z": z}},
    "a latent that is None": lambda x, y, z: {"x_hat": x, "likelihoods": {"y": y, "z": z, "w": None}},
    "hierarchy": lambda x, y, z: {"x_hat": x, "likelihoods": [y, z]},
    "namedtuple": lambda x, y, z: Output(x, {"y": y, "z": z}),
    "tuple": lambda x, y, z: (x, {"y": y, "z": z}),
    "tuple around a dict": lambda x, y, z: ({"x_hat": x, "likelihoods": {"y": y, "z": z}}, torch.zeros(())),
    "tuple the other way": lambda x, y, z: [{"y": y, "z": z}, x],
    "dataclass": lambda x, y, z: Record(x, {"y": y, "z": z}),
    "namespace": lambda x, y, z: SimpleNamespace(x_hat=x, likelihoods={"y": y, "z": z}),
    "at the top": lambda x, y, z: {"x_hat": x, "y_likelihoods": y, "z_likelihoods": z, "loss": 1.0},
    "long names": lambda x, y, z: {"x_hat": x, "likelihoods": {"y_likelihoods": y, "z_likelihoods": z}},
    "before and after quantisation": lambda x, y, z: SimpleNamespace(
        x_hat=x,
        y_likelihoods=y / 2,
        quantized_y_likelihoods=y,
        z_likelihoods=z / 2,
        quantized_z_likelihoods=z,
    ),
    "at the top of a namedtuple": lambda x, y, z: Flat(x, y, z),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_outputs(shape: str) -> None:
    x = torch.rand(2, 3, 40, 72)
    result = BitrateMapper(lambda x: SHAPES[shape](x, *latents(x)))(x)
    expected = BitrateMapper(lambda x: SHAPES["dict"](x, *latents(x)))(x)
    torch.testing.assert_close(result.map, expected.map)
    assert {name.split(".")[0] for name in result.maps} == ({"0", "1"} if shape == "hierarchy" else {"y", "z"})
    assert torch.equal(result.x_hat, x)  # type: ignore[arg-type]


def test_one_tensor_is_y() -> None:
    x = torch.rand(1, 3, 32, 32)
    result = BitrateMapper(lambda x: (x, latents(x)[0]))(x)
    assert list(result.maps) == ["y"]
    assert result.x_hat is not None


UNITS = {
    "bits": lambda p: -p.log2(),
    "nats": lambda p: -p.log(),
    "log2": lambda p: p.log2(),
    "log": lambda p: p.log(),
    "likelihood": lambda p: p,
}


@pytest.mark.parametrize(
    ("unit", "sums"), [(unit, sums) for unit in UNITS for sums in (False, True) if not sums or unit != "likelihood"]
)
def test_units_by_a_function(unit: str, sums: bool) -> None:
    x = torch.rand(2, 3, 40, 72)

    def model(x: Tensor) -> dict[str, Any]:
        values = {f"cost_{k}": UNITS[unit](p) for k, p in enumerate(latents(x))}
        return {"picture": x} | ({name: v.sum(dim=1) for name, v in values.items()} if sums else values)

    def read(output: dict[str, Any]) -> dict[str, Tensor]:
        return {"y": output["cost_0"], "z": output["cost_1"]}

    result = BitrateMapper(model, likelihoods=read, unit=unit)(x)
    expected = BitrateMapper(lambda x: SHAPES["dict"](x, *latents(x)))(x)
    torch.testing.assert_close(result.map, expected.map, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.total_bits, expected.total_bits, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"got the keys 'picture', 'cost_0', 'cost_1'.*likelihoods=lambda output"):
        BitrateMapper(model)(x)


def test_calls_of_another_kind() -> None:
    class Codec(nn.Module):
        def encode_decode(self, batch: dict[str, Tensor], quality: float) -> dict[str, Any]:
            y, z = latents(batch["image"])
            return {"likelihoods": {"y": y**quality, "z": z}}

    x = torch.rand(1, 3, 40, 72)
    mapper = BitrateMapper(Codec().eval(), call=lambda model, x, quality: model.encode_decode({"image": x}, quality))
    assert mapper(x, quality=3.0).total_bits > mapper(x, quality=1.0).total_bits
    with pytest.raises(TypeError, match="call must be a function, got str"):
        BitrateMapper(Codec(), call="encode_decode")  # type: ignore[arg-type]


def test_wrappers_come_off() -> None:
    class Codec(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"likelihoods": latents(x)[0]}

    codec = Codec().eval()
    assert ModelAdapter(nn.DataParallel(codec)).model is codec
    assert BitrateMapper(nn.DataParallel(codec))(torch.rand(1, 3, 16, 16)).map.shape == (1, 1, 16, 16)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x, y, z: (x, y, z), "a tuple with 2 parts that may be likelihoods"),
        (lambda x, y, z: (x, x), "got tuple of Tensor, Tensor"),
        (lambda x, y, z: x, "got Tensor"),
        (lambda x, y, z: {"bpp": y.mean()}, "got the keys 'bpp'"),
        (lambda x, y, z: {"likelihoods": y.mean()}, r"got shape \[\]; .*cannot be mapped"),
        (lambda x, y, z: {"likelihoods": [{"y": y}, {"y": y}]}, "one entry a frame"),
        (lambda x, y, z: {"likelihoods": {"y": None}}, "no likelihoods"),
    ],
)
def test_outputs_without_a_clear_meaning(output: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        BitrateMapper(lambda x: output(x, *latents(x)))(torch.rand(1, 3, 32, 32))
    if "one entry" not in message and message != "no likelihoods":
        assert "likelihoods=lambda output" in str(raised.value)


def test_units_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="unit must be one of"):
        BitrateMapper(lambda x: {}, unit="bytes")
