"""Fifteen shapes that strangers' codecs come in, each with what its user has to say, at sizes that nobody chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import foreign_models
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import BitrateMapper, FrameMapper

pytest.importorskip("compressai")
import packed_codecs
from packed_codecs import Packed


class Plain(nn.Module):
    """A transform of stride 16, a decoder, and a hyper-latent of stride 64, on small weights."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU(), nn.Conv2d(6, 8, 2, stride=2))
        self.decode = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ConvTranspose2d(6, 3, 8, stride=8))
        self.hyper = nn.Conv2d(8, 2, 4, stride=4)
        self.eval()

    def latents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = 4 * self.encode(x)
        return y.round(), self.hyper(y).round()

    def forward(self, x: Tensor) -> Any:
        y, z = self.latents(x)
        return {"x_hat": self.decode(y), "likelihoods": {"y": probability(y), "z": probability(z)}}


def probability(values: Tensor) -> Tensor:
    return torch.exp2(-1 - values.abs())


class Bits(Plain):
    def forward(self, x: Tensor) -> Any:
        y, z = self.latents(x)
        return {"image": self.decode(y), "y_bits": 1 + y.abs(), "z_bits": (1 + z.abs()).sum(dim=1)}


class Nats(Plain):
    def forward(self, x: Tensor) -> Any:
        y, z = self.latents(x)
        return self.decode(y), {"kl": [-probability(y).log(), -probability(z).log()]}


class Hierarchy(Plain):
    def forward(self, x: Tensor) -> Any:
        y, z = self.latents(x)
        return {"x_hat": self.decode(y), "likelihoods": [probability(z), probability(y)]}


class Tuple(Plain):
    class Output(NamedTuple):
        reconstruction: Tensor
        likelihoods: dict[str, Tensor]

    def forward(self, x: Tensor) -> Any:
        return self.Output(*super().forward(x).values())


class WindowAttention(Plain):
    """Attention in windows of 8 x 8 cells."""

    def latents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = super().latents(x)
        n, c, h, w = y.shape
        windows = y.reshape(n, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, c)
        mixed = F.scaled_dot_product_attention(windows, windows, windows)
        y = mixed.reshape(n, h // 8, w // 8, 8, 8, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
        return y.round(), self.hyper(y).round()


class Scalar(Plain):
    def forward(self, x: Tensor, level: int) -> Any:
        y, z = self.latents(x * level)
        return {"x_hat": self.decode(y), "likelihoods": {"y": probability(y), "z": probability(z)}}


class Map(Plain):
    def forward(self, x: Tensor, quality_map: Tensor) -> Any:
        return super().forward(torch.cat((x[:, :2], x[:, 2:] * quality_map), dim=1))


class BatchNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.decode = nn.Sequential(self.decode, nn.BatchNorm2d(3))
        self.eval()


def packed(parts: Callable[[Tensor], list[Tensor]], how: str = "packed") -> Callable[[], Any]:
    return lambda: Packed(parts=parts, how=how).prepared()


class Shape(NamedTuple):
    model: Callable[[], Any]
    said: Mapping[str, Any] = MappingProxyType({})  # to the mapper, by the user
    forward: Callable[[Tensor], dict[str, Any]] = lambda x: {}
    field: Callable[[Any], Any] | None = lambda model: None  # the synthesis transform that is named; no field at all
    coded: bool = False


SHAPES = {
    "likelihood dict": Shape(Plain),
    "bits": Shape(
        Bits, {"likelihoods": lambda out: {"y": out["y_bits"], "z": out["z_bits"]}, "unit": "bits"}, field=None
    ),
    "nats": Shape(Nats, {"likelihoods": lambda out: out[1]["kl"], "unit": "nats"}),
    "hierarchy": Shape(Hierarchy),
    "tuple": Shape(Tuple),
    "window attention": Shape(WindowAttention),
    "scalar argument": Shape(Scalar, forward=lambda x: {"level": 2}),
    "map argument": Shape(Map, forward=lambda x: {"quality_map": x.mean(dim=1, keepdim=True)}),
    "BatchNorm": Shape(BatchNorm),
    "method decoder": Shape(foreign_models.AsMethod, field=lambda model: model.decode),
    "custom autograd": Shape(foreign_models.OwnDerivative),
    "own checkerboard": Shape(packed(packed_codecs.checkerboard), coded=True, field=None),
    "quarter grids": Shape(packed(packed_codecs.quarters), coded=True, field=None),
    "slices": Shape(packed(packed_codecs.slices, "late"), coded=True, field=None),
}


@pytest.mark.parametrize("size", [(256, 256), (300, 451), (37, 90)])
@pytest.mark.parametrize("name", SHAPES)
def test_maps(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(5)
    shape, x = SHAPES[name], torch.rand(1, 3, *size)
    model = shape.model()
    mapper = BitrateMapper(model, **shape.said)
    result = mapper(x, **shape.forward(x))
    assert result.map.shape == (1, 1, *size)
    assert float(result.map.double().sum() + result.padding_bits) == pytest.approx(float(result.total_bits), rel=1e-6)
    if isinstance(model, Plain) and not shape.forward(x) and result.x_hat is not None:
        with torch.no_grad():
            y, z = model.latents(mapper.adapter.pad(x)[0])
        expected = float((1 + y.abs()).sum() + (1 + z.abs()).sum())
        assert float(result.total_bits) == pytest.approx(expected, rel=1e-6)


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.field is not None])
def test_receptive_fields(name: str) -> None:
    torch.manual_seed(5)
    shape, x = SHAPES[name], torch.rand(1, 3, 150, 200)
    model = shape.model()
    assert shape.field is not None
    synthesis = shape.field(model)
    mapper = BitrateMapper(model, projection="receptive-field", synthesis=synthesis, **shape.said)
    plain = BitrateMapper(model, **shape.said)(x, **shape.forward(x))
    result = mapper(x, **shape.forward(x))
    torch.testing.assert_close(result.total_bits, plain.total_bits)
    assert any(isinstance(one, bitrate_ext.ReceptiveField) for one in mapper.projections.values())
    torch.testing.assert_close(result.map.double().sum() + result.padding_bits[0], plain.total_bits[0])


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.coded])
@pytest.mark.parametrize("size", [(60, 90), (128, 64)])
def test_ledgers(name: str, size: tuple[int, int]) -> None:
    result = BitrateMapper(SHAPES[name].model(), bits="coded")(torch.rand(1, 3, *size))
    assert result.ledger is not None
    assert result.ledger.closes.all()


def test_the_fifteenth_is_a_video_that_keeps_its_buffer() -> None:
    """Its bits are those of the plain loop, however often it is tried before."""

    class Keeping(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("before", torch.zeros(()), persistent=False)

        def forward_keyframe(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            self.before = torch.zeros_like(x)
            return self.forward_inter(x, x)

        def forward_inter(self, x: Tensor, _: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            y, z = self.latents(x - self.before)
            self.before = x.clone()
            return self.decode(y), {"y": probability(y), "z": probability(z)}

    torch.manual_seed(5)
    model, frames = Keeping().eval(), [torch.rand(3, 64, 128) for _ in range(4)]
    found = [float(one.total_bits) for one in FrameMapper(model, channels_last=False)(frames)]
    with torch.no_grad():
        outputs = [
            (model.forward_inter if k else model.forward_keyframe)(x[None], *([x] * (k > 0)))
            for k, x in enumerate(frames)
        ]
    expected = [float(sum(-p.double().log2().sum() for p in likelihoods.values())) for _, likelihoods in outputs]
    assert found == pytest.approx(expected, rel=1e-9)
