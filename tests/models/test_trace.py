"""Synthesis transforms: how they are found, and what one latent can touch in every model of CompressAI's zoo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import SMALL, small_model

from bitrate_ext import BitrateMapper, calibrate
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.models.trace import ModelTrace, SmallGridError, SynthesisTransform, random_signs, symbol_bits
from bitrate_ext.receptive_field.calibration import _image_adapter

video = pytest.importorskip("compressai.models.video")

# Worked out from the layers: a convolution k widens by k // 2 each way; a deconvolution k5 s2 takes [a, b] to
# [2 a - 2, 2 b + 2], a pixel shuffle by two to [2 a, 2 b + 1]; an attention block adds 3, a residual block 2, ELIC's 1.
GOOGLE, CHENG, ATTENTION, ELIC = (-30, 30), (-104, 119), (-164, 179), (-132, 132)  # pixels relative to 16 i
DECONVOLVED, SHUFFLED, VIDEO = (-7, 7), (-13, 16), (-14, 14)  # of z: cells of y relative to 4 i; of video 8 i
REACHES: dict[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "bmshj2018-factorized": (GOOGLE, None),
    "bmshj2018-factorized-relu": (GOOGLE, None),
    "bmshj2018-hyperprior": (GOOGLE, DECONVOLVED),
    "mbt2018-mean": (GOOGLE, DECONVOLVED),
    "mbt2018": (GOOGLE, DECONVOLVED),
    "cheng2020-anchor": (CHENG, SHUFFLED),
    "cheng2020-anchor-checkerboard": (CHENG, SHUFFLED),
    "cheng2020-attn": (ATTENTION, SHUFFLED),
    "elic2022-official": (ELIC, DECONVOLVED),
    "elic2022-chandelier": (ELIC, DECONVOLVED),
    "bmshj2018-hyperprior-vbr": (GOOGLE, DECONVOLVED),
    "mbt2018-mean-vbr": (GOOGLE, DECONVOLVED),
    "mbt2018-vbr": (GOOGLE, DECONVOLVED),
}
# Its z never touches the picture. That of its variable-rate kin does: scales shift where symbols are reconstructed.
SCALES_ONLY = ("bmshj2018-hyperprior",)


def run_of(model: nn.Module, size: int = 128) -> ModelTrace:
    return ModelTrace(ModelAdapter(model.eval()), torch.rand(1, 3, size, size), {})


@pytest.mark.parametrize("name", REACHES)
def test_reach_of_every_image_model(name: str) -> None:
    run = run_of(small_model(name))
    pixels, cells = REACHES[name]
    synthesis = run.synthesis("y")
    assert synthesis.name == "g_s"
    assert synthesis.reach() == ((pixels, pixels), (16, 16))
    assert run.hyper_synthesis("y") is None
    if cells is None:
        return
    found = run.hyper_synthesis("z")
    assert found is not None
    hyper, onto = found
    assert (hyper.name.rpartition(".")[2], onto) == ("h_s", "y")
    assert hyper.reach() == ((cells, cells), (4, 4))
    assert run.reaches_image(hyper, onto) == (name not in SCALES_ONLY)


def test_every_image_model_is_in_the_table() -> None:
    assert REACHES.keys() == SMALL.keys()


@pytest.mark.medium
def test_reach_of_the_video_model() -> None:
    adapter = _image_adapter(ModelAdapter(video.ScaleSpaceFlow().eval()), torch.rand(1, 3, 32, 32), {}, False)
    run = ModelTrace(adapter, torch.rand(1, 3, 256, 256), {})
    for branch, decoder, prior in (
        ("keyframe", "img_decoder", "img_hyperprior"),
        ("motion", "motion_decoder", "motion_hyperprior"),
        ("residual", "res_decoder", "res_hyperprior"),
    ):
        synthesis = run.synthesis(f"{branch}.y")
        assert synthesis.name == f"model.{decoder}"
        assert synthesis.channels == slice(0, 192)
        assert synthesis.reach() == ((GOOGLE, GOOGLE), (16, 16))
        found = run.hyper_synthesis(f"{branch}.z")
        assert found is not None
        assert found[0].name == f"model.{prior}.hyper_decoder_mean"
        assert found[1] == f"{branch}.y"
        assert found[0].reach() == ((VIDEO, VIDEO), (8, 8))
        assert run.reaches_image(*found)


class Decoder(nn.Module):
    """Twice the size, a pixel to each side of a cell's own two."""

    def __init__(self, channels: int, relu: bool = False) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.up = nn.ConvTranspose2d(channels, 3, 4, stride=2, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        return self.up(self.relu(y))


class Codec(nn.Module):
    """Likelihoods and an image from a latent of stride two; ``decode`` may be changed by the tests."""

    def __init__(self, channels: int = 4, decoder: nn.Module | None = None) -> None:
        super().__init__()
        self.analysis = nn.Conv2d(3, channels, 2, stride=2)
        self.decoder = decoder or Decoder(channels)
        self.eval()

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.analysis(x).mul(4).round()
        return {"x_hat": self.decoder(y), "likelihoods": {"y": torch.exp2(-1 - y.abs())}}


class Mixed(nn.Module):
    """Attention over the whole picture, in its simplest form."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Decoder(4)

    def forward(self, y: Tensor) -> Tensor:
        return self.up(y * y.mean(dim=(2, 3), keepdim=True).sigmoid())


def test_a_model_of_ones_own() -> None:
    run = run_of(Codec(), 12)
    synthesis = run.synthesis("y")
    assert synthesis.name == "decoder"
    assert synthesis.reach() == (((-1, 2), (-1, 2)), (2, 2))


def test_a_decoder_that_works_in_place_is_seen_as_it_was_called() -> None:
    codec = Codec(decoder=Decoder(4, relu=True))
    run = run_of(codec, 12)
    assert (run.synthesis("y").latent < 0).any()


def test_a_decoder_with_other_inputs_beside() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = Decoder(4)

        def forward(self, y: Tensor, gain: float, *, shift: Tensor) -> Tensor:
            return self.up(gain * y) + shift

    class Conditioned(Codec):
        def forward(self, x: Tensor) -> dict[str, Any]:
            y = self.analysis(x).round()
            return {
                "x_hat": self.decoder(y, 3.0, shift=torch.ones(1)),
                "likelihoods": {"y": torch.full_like(y, 0.5)},
            }

    plain, gained = Codec(), Conditioned(decoder=Conditional())
    gained.decoder.up.load_state_dict(plain.decoder.state_dict())
    tangent = torch.ones(1, 4, 6, 6)
    one, nine = (run_of(codec, 12).synthesis("y").energy(tangent) for codec in (plain, gained))
    torch.testing.assert_close(nine, 9 * one)


def test_energy_is_the_squared_response() -> None:
    codec = Codec()
    synthesis = run_of(codec, 12).synthesis("y")
    tangent = torch.randn(1, 4, 6, 6)
    response = codec.decoder(tangent) - codec.decoder(torch.zeros_like(tangent))  # linear but for its bias
    torch.testing.assert_close(synthesis.energy(tangent), response.square().sum(1))


@pytest.mark.medium
def test_symbol_energy_is_that_of_impulse_responses() -> None:
    codec = Codec()
    synthesis = run_of(codec, 12).synthesis("y")
    exact = torch.empty(1, 4, 6, 6)
    for index in torch.cartesian_prod(torch.arange(4), torch.arange(6), torch.arange(6)).tolist():
        impulse = torch.zeros(1, 4, 6, 6)
        impulse[0][tuple(index)] = 1
        exact[0][tuple(index)] = synthesis.energy(impulse).sum()
    found = synthesis.symbol_energy(4000, torch.Generator().manual_seed(1))
    assert ((found / exact - 1).abs() < 5 * (2 / 4000) ** 0.5).all()
    assert all(p.grad is None for p in codec.parameters())


def test_a_latent_among_other_channels() -> None:
    whole = torch.randn(1, 6, 8, 8)
    decoder = Decoder(6)
    part = SynthesisTransform("decoder", decoder, whole, slice(2, 5))
    assert torch.equal(part.latent, whole[:, 2:5])
    tangent = torch.randn(1, 3, 8, 8)
    padded = torch.cat([torch.zeros(1, 2, 8, 8), tangent, torch.zeros(1, 1, 8, 8)], dim=1)
    torch.testing.assert_close(part.energy(tangent), SynthesisTransform("", decoder, whole, slice(0, 6)).energy(padded))
    assert part.symbol_energy(1, torch.Generator()).shape == tangent.shape


def test_a_global_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder spreads one cell over all of 64 x 64 cells .*global.*attribute\("):
        run_of(Codec(decoder=Mixed()), 12).synthesis("y").reach()
    with pytest.raises(ValueError, match="its reach is global"):
        BitrateMapper(Codec(decoder=Mixed()), projection="receptive-field")(torch.rand(1, 3, 16, 16))


class Conditional(Decoder):
    """Given a map of gains on the latent's grid, and the size of what it is to return."""

    def forward(self, y: Tensor, gain: Tensor, size: tuple[int, int]) -> Tensor:
        return super().forward(y * torch.cat([gain] * 4, dim=1)).reshape(-1, 3, *size)


class Conditioned(Codec):
    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.analysis(x).mul(4).round()
        gain = 1 + torch.nn.functional.avg_pool2d(x[:, :1], 2)
        return {"x_hat": self.decoder(y, gain, x.shape[2:]), "likelihoods": {"y": torch.exp2(-1 - y.abs())}}


def test_the_reach_of_a_decoder_that_is_given_more_of_the_images_size() -> None:
    model = Conditioned(decoder=Conditional(4))
    assert run_of(model, 12).synthesis("y").reach() == (((-1, 2), (-1, 2)), (2, 2))
    for size in (2, 4):
        cells = f"{size // 2} x {size // 2}"
        with pytest.raises(SmallGridError, match=f"of decoder cannot be measured.* 16 x 16 cells .* all of {cells}"):
            run_of(model, size).synthesis("y").reach()
    torch.manual_seed(0)
    plain = Codec(decoder=Decoder(4))
    plain.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 64, 64)
    one, other = (calibrate(codec, "y", images, 8, cache=False) for codec in (model, plain))
    assert (one.reach, one.stride) == (other.reach, other.stride) == (((-1, 2), (-1, 2)), (2, 2))
    assert calibrate(model, "y", images[..., :6, :6], 2, cache=False).reach == one.reach  # measured on a larger one


def test_a_decoder_in_pieces_is_refused_and_a_name_helps() -> None:
    class Pieces(Codec):
        def forward(self, x: Tensor) -> dict[str, Any]:
            output = super().forward(x)
            return {**output, "x_hat": output["x_hat"] + self.decoder.up.bias.mean()}

    assert run_of(Pieces(), 12).synthesis("y", "decoder.up").name == "decoder.up"
    with pytest.raises(ValueError, match=r"no synthesis transform found for latent 'y': looked for a module 'g_s' of"):
        run_of(Pieces(), 12).synthesis("y", "g_s")

    class Functional(Codec):
        def forward(self, x: Tensor) -> dict[str, Any]:
            y = self.analysis(x)
            x_hat = torch.nn.functional.interpolate(y[:, :3], scale_factor=2)
            return {"x_hat": x_hat, "likelihoods": {"y": torch.full_like(y, 0.5)}}

    with pytest.raises(
        ValueError, match=r"looked for a module .* given a tensor \[N, 4, 6, 6\] and returns one \[N, C, 12, 12\]"
    ):
        run_of(Functional(), 12).synthesis("y")
    with pytest.raises(ValueError, match="no synthesis transform found"):
        BitrateMapper(Functional(), projection="receptive-field")(torch.rand(1, 3, 16, 16))


def test_a_latent_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="latent must be one of the model's, 'y', got 'w'"):
        run_of(Codec(), 12).synthesis("w")


def test_a_callable_that_is_no_module() -> None:
    codec = Codec()
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, whose parts can be watched, got function"):
        ModelTrace(ModelAdapter(lambda x: codec(x)), torch.rand(1, 3, 12, 12), {})


def test_watching_leaves_no_hooks() -> None:
    codec = Codec()
    run_of(codec, 12)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in codec.modules())


def test_signs_and_bits() -> None:
    like = torch.empty(3, 1000, dtype=torch.float64)
    signs = random_signs(like, torch.Generator().manual_seed(0))
    assert signs.dtype == torch.float64
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean().abs() < 0.1
    p = torch.rand(2, 3, 4, 5).clamp_min(1e-3)
    torch.testing.assert_close(symbol_bits(p), -p.log2())


def test_the_reach_does_not_depend_on_dead_units() -> None:
    codec = Codec(decoder=Decoder(4, relu=True))
    with torch.no_grad():
        codec.decoder.up.weight.zero_()
    assert run_of(codec, 12).synthesis("y").reach() == (((-1, 2), (-1, 2)), (2, 2))


def test_calibrate_reads_images_on_its_own() -> None:
    assert calibrate(Codec(), samples=2, cache=False).reach == ((-1, 2), (-1, 2))
