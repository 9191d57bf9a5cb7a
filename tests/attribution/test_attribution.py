"""Attribution of each image's bits: exact maps by combs, answers known by hand, completeness, bad input."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import pytest
import torch
from compare_projections import distance, exact
from foreign_models import AsMethod, AsModule, OwnDerivative, Tokens, Whole, alike
from torch import Tensor, nn
from zoo import small_model

import bitrate_ext
from bitrate_ext import BitrateMapper, attribute
from bitrate_ext.attribution.encoder_side import _Unrounded, rate
from bitrate_ext.io.images import load_image
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.models.demo_codec import demo_photograph
from bitrate_ext.models.trace import ModelTrace, symbol_bits

pytest.importorskip("captum")


class Codec(nn.Module):
    """Latents of stride four, each symbol's bits ``1 + y^2``, and any decoder."""

    def __init__(self, decoder: nn.Module, channels: int = 3) -> None:
        super().__init__()
        self.analysis = nn.Conv2d(3, channels, 4, stride=4, bias=False)
        self.decoder = decoder
        self.eval()

    def forward(self, x: Tensor, bits: float = 1.0) -> dict[str, Any]:
        y = torch.round(3 * self.analysis(x))
        return {"x_hat": self.decoder(y), "likelihoods": {"y": torch.exp2(-bits - y.square())}}


class Blocks(nn.Module):
    """Each symbol paints its own cell, brighter from channel to channel."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=4)
        self.gain = nn.Parameter(torch.tensor([1.0, 10.0, 100.0])[:, None, None])

    def forward(self, y: Tensor) -> Tensor:
        return self.up(self.gain * y)


class Curved(nn.Module):
    """A decoder with overlapping responses that depend on the picture."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.ConvTranspose2d(channels, 6, 4, stride=2, padding=1)
        self.second = nn.ConvTranspose2d(6, 3, 4, stride=2, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(y)))


def cat(height: int, width: int) -> Tensor:
    return load_image(demo_photograph())[..., 60 : 60 + height, 100 : 100 + width]


@pytest.mark.parametrize("method", ["jacobian", "integrated-gradients"])
def test_costs_are_attributed_as_their_likelihoods_are(method: str) -> None:
    class Costs(Codec):
        of_cells = False

        def forward(self, x: Tensor, bits: float = 1.0) -> dict[str, Any]:
            output = super().forward(x, bits)
            costs = -output["likelihoods"]["y"].log()
            return {**output, "likelihoods": {"y": costs.sum(dim=1) if self.of_cells else costs}}

    torch.manual_seed(0)
    likelihoods, x = Codec(Blocks()), torch.rand(1, 3, 16, 24)
    costs = Costs(Blocks())
    costs.load_state_dict(likelihoods.state_dict())
    expected = attribute(likelihoods, x, method, passes=8)
    found = attribute(ModelAdapter(costs, unit="nats"), x, method, passes=8)
    torch.testing.assert_close(found.map, expected.map, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-5)
    costs.of_cells = True
    if method == "jacobian":
        with pytest.raises(ValueError, match=r"latent 'y' must have a cost for each symbol, \[N, C, h, w\], which a"):
            attribute(ModelAdapter(costs, unit="nats"), x, method, passes=8)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (13, 22)])
def test_decoders_that_paint_blocks_spread_evenly(height: int, width: int) -> None:
    codec, x = Codec(Blocks()), torch.rand(1, 3, height, width)
    result = attribute(codec, x, passes=64)  # more passes than symbols that overlap
    mapper = BitrateMapper(codec, projection="nearest")
    expected = mapper(x).map
    torch.testing.assert_close(result.map, expected, rtol=0.3, atol=0)  # a cell's bits: the noise of 128 reverse passes
    (top, left, *_), size = mapper.adapter.pad(x)[1], (height, width)
    cell = 100 * ((torch.arange(height) + top) // 4)[:, None] + (torch.arange(width) + left) // 4
    for number in cell.unique():
        values = result.map[0, 0][cell == number]
        torch.testing.assert_close(values, values.mean().expand_as(values), rtol=0.1, atol=0)
    assert result.map.shape[2:] == size


@pytest.mark.parametrize("passes", [16, 256])
def test_against_the_exact_map(passes: int) -> None:
    codec, x = Codec(Curved()), torch.rand(1, 3, 64, 64)
    truth = exact(ModelTrace(ModelAdapter(codec), x, {}))
    result = attribute(codec, x, passes=passes)
    assert distance(result.map[0, 0], truth) < {16: 18, 256: 3.9}[passes]  # 256: fewer symbols overlap
    torch.testing.assert_close(truth.sum(), result.total[0], rtol=1e-6, atol=0)


def test_the_exact_map_by_single_impulses() -> None:
    """The oracle of the other tests, by one impulse at a time."""
    codec, x = Codec(Curved()), torch.rand(1, 3, 32, 24)
    run = ModelTrace(ModelAdapter(codec), x, {})
    y, bits = codec.analysis(x).mul(3).round().detach(), symbol_bits(run.likelihoods["y"])
    expected = torch.zeros(32, 24, dtype=torch.float64)
    for place in torch.cartesian_prod(torch.arange(3), torch.arange(8), torch.arange(6)).tolist():
        impulse = torch.zeros_like(y)
        impulse[0][tuple(place)] = 1
        _, response = torch.autograd.functional.jvp(codec.decoder, y, impulse)
        energy = response[0].double().square().sum(0)
        expected += bits[0][tuple(place)] * energy / energy.sum()
    torch.testing.assert_close(exact(run), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.medium
def test_the_demo_codec_against_the_exact_map() -> None:
    codec, x = bitrate_ext.load_demo_codec(), cat(128, 128)
    truth = exact(ModelTrace(ModelAdapter(codec), x, {}))
    errors = {}
    for passes in (16, 64):
        result = attribute(codec, x, passes=passes)
        errors[passes] = distance(result.maps["y"][0, 0], truth)
        said = 100 * (result.error * result.total).item() / truth.sum().item()
        assert 0.6 < said / errors[passes] < 1.5
    assert errors[16] < 16
    assert errors[64] < 8
    likelihoods = {"y": codec(x)["likelihoods"]["y"]}
    fields = {"receptive field": bitrate_ext.calibrate(codec), "nearest": "nearest", "bilinear": "bilinear"}
    static = {
        name: distance(bitrate_ext.bitrate_map(likelihoods, size=(128, 128), projection={"y": one})[0, 0], truth)
        for name, one in fields.items()
    }
    assert errors[16] < static["receptive field"] < min(static["nearest"], static["bilinear"])


@pytest.mark.medium
@pytest.mark.parametrize("size", [(64, 64), (50, 83), (1, 1)])
def test_nothing_is_lost(size: tuple[int, int]) -> None:
    model, x = small_model("mbt2018-mean"), torch.rand(2, 3, *size)
    result, mapped = attribute(model, x, passes=4), BitrateMapper(model)(x)
    assert mapped.sources == ("y", "z")
    if size != (1, 1):  # true values: symbols of this model lie far below the floor of likelihoods
        assert (result.total > 2 * BitrateMapper(model, sources=False)(x).total_bits).all()
    assert result.map.shape == (2, 1, *size)
    assert (result.adds_up, result.unit, result.method) == (True, "bits per pixel", "jacobian")
    torch.testing.assert_close(result.total, mapped.total_bits, rtol=1e-7, atol=0)  # convolutions of one and of two
    kept = result.map.double().sum(dim=(1, 2, 3))
    torch.testing.assert_close(kept + result.padding, result.total, rtol=6e-8, atol=0)
    assert (result.padding >= -1e-6 * result.total).all()
    assert size != (64, 64) or (result.padding.abs() < 1e-6 * result.total).all()
    torch.testing.assert_close(sum(result.maps.values()), result.map)


def test_a_latent_that_no_synthesis_reads_is_spread_over_its_cells() -> None:
    model, x = small_model("mbt2018-mean"), torch.rand(1, 3, 128, 128)
    z = attribute(model, x, passes=4).maps["z"]
    expected = bitrate_ext.bitrate_map(model(x)["likelihoods"]["z"], size=(128, 128), projection="nearest")
    torch.testing.assert_close(z, expected, rtol=1e-6, atol=0)


def test_a_batch_is_its_images_one_by_one() -> None:
    codec, x = Codec(Curved()), torch.rand(3, 3, 16, 20)
    together = attribute(codec, x, passes=4)
    for index, one in enumerate(x.split(1)):
        alone = attribute(codec, one, passes=4)
        torch.testing.assert_close(together.map[index : index + 1], alone.map)
        torch.testing.assert_close(together.total[index], alone.total[0])


def test_the_same_for_the_same_seed() -> None:
    codec, x = Codec(Curved()), torch.rand(1, 3, 32, 32)
    one = attribute(codec, x, passes=4).map
    torch.rand(7)
    assert torch.equal(attribute(codec, x, passes=4).map, one)
    assert not torch.equal(attribute(codec, x, passes=4, seed=1).map, one)


@pytest.mark.parametrize("method", ["jacobian", "integrated-gradients", "grad-cam"])
@pytest.mark.parametrize("trainable", [True, False])
def test_the_model_is_left_as_it_was(method: str, trainable: bool) -> None:
    codec = Codec(Curved()).requires_grad_(trainable)
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = attribute(codec, torch.rand(1, 3, 16, 16), method, 4)
    assert not result.map.requires_grad
    assert all(p.requires_grad == trainable and p.grad is None for p in codec.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in codec.modules())
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())


@pytest.mark.parametrize("method", ["jacobian", "integrated-gradients", "grad-cam"])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_mode_does_not_matter(method: str, mode: Any) -> None:
    codec, x = Codec(Curved()), torch.rand(1, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = attribute(codec, x, method, 4)
        with mode():
            found = attribute(codec, x.clone(), method, 4)
    torch.testing.assert_close(found.map, expected.map)


def test_float64_models_and_forward_arguments() -> None:
    codec, x = Codec(Curved()).double(), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    result = attribute(codec, x, passes=4)
    assert result.map.dtype == torch.float64
    more = attribute(codec, x, passes=4, bits=3.0)
    torch.testing.assert_close(more.total - result.total, torch.full((1,), 2.0 * 48, dtype=torch.float64))


def test_symbols_of_no_bits_give_an_empty_map() -> None:
    class Free(Codec):
        def forward(self, x: Tensor) -> dict[str, Any]:
            output = super().forward(x)
            return {**output, "likelihoods": {"y": torch.ones_like(output["likelihoods"]["y"])}}

    result = attribute(Free(Curved()), torch.rand(1, 3, 16, 16), passes=4)
    assert not result.map.any()
    assert result.total.item() == result.padding.item() == result.error.item() == 0


class TestIntegratedGradients:
    def test_a_rate_that_is_known(self) -> None:
        """Bits are ``48 + 9 |A x|^2``: along a straight path the gradients average to that of its middle."""
        codec, x = Codec(Curved()).double(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
        baseline = torch.full((1, 3, 1, 1), 0.25, dtype=torch.float64)
        result = attribute(codec, x, "integrated-gradients", baseline=baseline)
        middle = ((x + baseline) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(9 * codec.analysis(middle).square().sum(), middle)
        expected = ((x - baseline) * slope).sum(dim=1, keepdim=True)
        torch.testing.assert_close(result.map, expected, rtol=1e-9, atol=1e-9)
        bits = [9 * codec.analysis(image).square().sum(dim=(1, 2, 3)) for image in (x, baseline.expand_as(x))]
        torch.testing.assert_close(result.total, (bits[0] - bits[1]).detach(), rtol=1e-9, atol=1e-9)
        assert (result.adds_up, result.unit) == (True, "bits per pixel")
        assert (result.error < 1e-9).all()

    def test_completeness_on_a_codec(self) -> None:
        x = cat(50, 70)
        result = attribute(bitrate_ext.load_demo_codec(), x, "integrated-gradients", 24)
        assert result.map.shape == (1, 1, 50, 70)
        assert result.error.item() < 0.05
        kept = result.map.double().sum()
        assert (
            abs(kept + result.padding.item() - result.total.item()) <= 1.001 * result.error.item() * result.total.item()
        )
        assert result.padding.item() == pytest.approx(0, abs=1e-3)
        assert result.total.item() > 500
        assert result.map.min() < 0 < result.map.max()

    def test_the_default_baseline_is_the_mean_colour(self) -> None:
        codec, x = Codec(Curved()), torch.rand(2, 3, 16, 16)
        default = attribute(codec, x, "integrated-gradients")
        given = attribute(codec, x, "integrated-gradients", baseline=x.mean(dim=(2, 3), keepdim=True))
        assert torch.equal(default.map, given.map)

    def test_a_gap_is_told(self) -> None:
        class Steep(Codec):
            def forward(self, x: Tensor) -> dict[str, Any]:
                y = self.analysis(x)
                return {
                    "x_hat": self.decoder(y),
                    "likelihoods": {"y": torch.exp2(-torch.sigmoid(900 * (x.mean(1, True) - 0.6)))},
                }

        with pytest.warns(UserWarning, match=r"4 steps miss .* raise passes"):
            result = attribute(Steep(Curved()), torch.rand(1, 3, 16, 16), "integrated-gradients", 4)
        assert result.error.item() > 0.05


class TestGradCam:
    def test_shape_label_and_sign(self) -> None:
        x = cat(50, 70)
        result = attribute(bitrate_ext.load_demo_codec(), x, "grad-cam")
        assert result.map.shape == (1, 1, 50, 70)
        assert (result.adds_up, result.unit, result.error) == (False, "sensitivity", None)
        assert result.map.min() >= 0
        assert result.map.max() > 0
        torch.testing.assert_close(result.map.double().sum() + result.padding[0], result.total[0], rtol=1e-6, atol=0)

    def test_a_rate_that_is_known(self) -> None:
        codec, x = Codec(Curved()), torch.rand(1, 3, 16, 24)
        features = codec.analysis(x).detach()
        weights = (2 * 9 * features).mean(dim=(2, 3), keepdim=True)
        coarse = torch.relu((weights * features).sum(dim=1, keepdim=True))
        expected = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
        for layer in (None, "analysis"):
            found = attribute(codec, x, "grad-cam", layer=layer)
            torch.testing.assert_close(found.map, expected, rtol=1e-4, atol=1e-5)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"method": "saliency"},
                "method must be one of 'jacobian', 'integrated-gradients', 'grad-cam', got 'saliency'",
            ),
            ({"passes": 3}, "passes must be a whole number of at least 4, got 3"),
            ({"passes": True}, "passes must be"),
            ({"passes": 16.0}, "passes must be"),
            ({"layer": "analysis"}, "layer belongs to method 'grad-cam', and method is 'jacobian'"),
            ({"baseline": torch.zeros(1)}, "baseline belongs to method 'integrated-gradients'"),
            ({"synthesis": "decoder", "method": "grad-cam"}, "synthesis belongs to method 'jacobian'"),
            ({"synthesis": "encoder"}, "no synthesis transform found for latent 'y': looked for a module 'encoder'"),
            (
                {"method": "grad-cam", "layer": "g_a.7"},
                "layer must name a module of the model, such as 'analysis', got",
            ),
            (
                {"method": "integrated-gradients", "baseline": torch.zeros(1, 3, 5, 5)},
                r"baseline must broadcast to the shape of x, \[1, 3, 16, 16\], got \[1, 3, 5, 5\]",
            ),
        ],
    )
    def test_values(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            attribute(Codec(Curved()), torch.rand(1, 3, 16, 16), **options)

    def test_types(self) -> None:
        codec, x = Codec(Curved()), torch.rand(1, 3, 16, 16)
        for baseline, got in ((torch.zeros(1, dtype=torch.uint8), r"torch\.uint8"), (0.5, "float")):
            with pytest.raises(TypeError, match=f"baseline must be a floating-point tensor .*, got {got}"):
                attribute(codec, x, "integrated-gradients", baseline=baseline)  # type: ignore[arg-type]
        for method in ("jacobian", "grad-cam"):
            with pytest.raises(TypeError, match=r"model must be an nn\.Module"):
                attribute(lambda image: codec(image), x, method)  # type: ignore[arg-type, return-value]

    def test_infinite_bits(self) -> None:
        with pytest.raises(ValueError, match="latent 'y' has symbols of infinite or undefined bits"):
            attribute(Codec(Curved()), torch.rand(1, 3, 16, 16), passes=4, bits=math.inf)

    def test_symbols_that_change_nothing(self) -> None:
        codec = Codec(Curved())
        with torch.no_grad():
            codec.decoder.second.weight.zero_()
        with pytest.raises(ValueError, match="symbols that cost bits change nothing of what decoder returns"):
            attribute(codec, torch.rand(1, 3, 16, 16), passes=4)

    def test_no_images(self) -> None:
        with pytest.raises(ValueError, match=r"x must hold at least one image, got shape \[0, 3, 16, 16\]"):
            attribute(Codec(Curved()), torch.rand(0, 3, 16, 16))

    def test_no_analysis_transform(self) -> None:
        class Functional(Codec):
            def forward(self, x: Tensor) -> dict[str, Any]:
                y = torch.nn.functional.conv2d(x, self.analysis.weight, stride=4)
                return {"x_hat": self.decoder(y), "likelihoods": {"y": torch.exp2(-y.square())}}

        with pytest.raises(ValueError, match=r"no analysis transform found: looked for a module that takes .* layer"):
            attribute(Functional(Curved()), torch.rand(1, 3, 16, 16), "grad-cam")

    def test_captum_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "captum.attr", None)
        for method in ("integrated-gradients", "grad-cam"):
            with pytest.raises(ImportError, match=r'captum.attr cannot be imported .* pip install .*"captum>=0\.7"'):
                attribute(Codec(Curved()), torch.rand(1, 3, 16, 16), method)


def test_a_decoder_of_global_reach_is_served() -> None:
    class Mixed(Curved):
        def forward(self, y: Tensor) -> Tensor:
            return super().forward(y * y.mean(dim=(2, 3), keepdim=True).sigmoid())

    result = attribute(Codec(Mixed()), torch.rand(1, 3, 16, 16), passes=8)
    torch.testing.assert_close(result.map.double().sum(), result.total[0], rtol=6e-8, atol=0)


@pytest.mark.parametrize("kind", [AsMethod, OwnDerivative, Tokens])
def test_decoders_of_other_kinds_get_the_same_map(kind: Any) -> None:
    torch.manual_seed(0)
    whole, x = Whole(), torch.rand(1, 3, 32, 32)
    model = alike(kind, whole)
    synthesis: dict[type, Any] = {AsMethod: model.decode, Tokens: lambda y: model.from_tokens(y.flatten(2).mT)}
    found, expected = attribute(model, x, passes=8, synthesis=synthesis.get(kind)), attribute(whole, x, passes=8)
    torch.testing.assert_close(found.map, expected.map, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="synthesis belongs to method 'jacobian'"):
        attribute(model, x, "grad-cam", synthesis=model.decode)


def test_the_rate_that_pixels_cause_has_no_floor() -> None:
    """Symbols far below it go on pulling at the pixels."""
    model = small_model("mbt2018-mean")
    with torch.no_grad():
        model.g_a[-1].weight.mul_(3000)
    x = torch.rand(1, 3, 64, 64).requires_grad_()
    adapter = ModelAdapter(model)
    adapter.prepare(x, {})
    with torch.no_grad(), _Unrounded():
        floored = sum(-p.double().log2().sum() for p in model(x)["likelihoods"].values())
    bits = rate(adapter, x, {})
    assert bits > 1.1 * floored
    (gradient,) = torch.autograd.grad(bits.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


class NamesBoth(AsModule):
    """Likelihoods as they were before quantisation, and after it without gradients; or without any gradient."""

    def __init__(self, before: bool = True) -> None:
        super().__init__()
        self.before = before

    def forward(self, x: Tensor) -> dict[str, Any]:
        out = super().forward(x)
        after = {"quantized_y_likelihoods": out["likelihoods"]["y"].detach()}
        return {"image": out["x_hat"], **after, **({"y_likelihoods": out["likelihoods"]["y"]} if self.before else {})}


def test_likelihoods_that_are_detached_are_left_for_those_that_are_not() -> None:
    model, x = NamesBoth(), torch.rand(1, 3, 32, 32)
    plain = alike(AsModule, model)
    for method in ("grad-cam", "integrated-gradients"):
        found, expected = (attribute(one, x, method, passes=8) for one in (model, plain))
        torch.testing.assert_close(found.map, expected.map)
    assert BitrateMapper(model)(x).total_bits == BitrateMapper(plain)(x).total_bits
    model.before = False
    with pytest.raises(ValueError, match="likelihoods that have gradients for this method, got quantized_y without"):
        attribute(model, x, "grad-cam")


class Aside(AsModule):
    """A module that fits as the analysis transform, and whose features are not coded."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {**super().forward(x), "features": self.aside(x)}


def test_a_layer_that_no_bits_hang_on_is_named() -> None:
    model, x = Aside().eval(), torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="no bits hang on what layer 'aside' returns; name another as layer"):
        attribute(model, x, "grad-cam", layer="aside")
    assert attribute(model, x, "grad-cam", layer="analysis").map.shape == (1, 1, 32, 32)
