"""Entropy models that models bring along, older ones or copies in packages of their own: fused where they agree."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import BitrateMapper, RateLoss, fuse, rate
from bitrate_ext.ops.rate.deferred import DeferredLikelihoods

pytestmark = pytest.mark.usefixtures("one_thread")


class Coder:
    """Of C++, as in an older CompressAI: it cannot be copied."""

    def __reduce_ex__(self, _: Any) -> Any:
        raise TypeError("cannot pickle 'Coder' object")


class LowerBound(nn.Module):
    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([bound]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.max(x, self.bound)


class Coded(nn.Module):
    """What entropy models have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.entropy_coder, self.use_likelihood_bound = Coder(), True
        self.likelihood_lower_bound, self.lower_bound_scale = LowerBound(1e-9), LowerBound(0.11)
        for name in ("_quantized_cdf", "_cdf_length", "_offset"):
            self.register_buffer(name, torch.IntTensor())

    def quantize(self, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        if mode == "noise":
            self.last_noise = torch.empty_like(inputs).uniform_(-0.5, 0.5)  # which is kept, as some do
            return inputs + self.last_noise
        return inputs.round() if means is None else (inputs - means).round() + means


class GaussianConditional(Coded):
    def _standardized_cumulative(self, inputs: Tensor) -> Tensor:
        return torch.erfc(-inputs / 2**0.5) / 2

    def _likelihood(self, inputs: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
        away, scales = (inputs if means is None else inputs - means).abs(), self.lower_bound_scale(scales)
        near, far = ((side - away) / scales for side in (0.5, -0.5))
        return self._standardized_cumulative(near) - self._standardized_cumulative(far)

    def forward(self, inputs: Tensor, scales: Tensor, means: Tensor | None = None) -> tuple[Tensor, Tensor]:
        outputs = self.quantize(inputs, "noise" if self.training else "dequantize", means)
        return outputs, self.likelihood_lower_bound(self._likelihood(outputs, scales, means))


class EntropyBottleneck(Coded):
    """A factorised prior, of parameters in lists, or by number, that draws its noise image after image or not."""

    def __init__(self, channels: int, *, lists: bool, images_last: bool) -> None:
        super().__init__()
        self.channels, self.filters, self.lists, self.images_last = channels, (3, 3), lists, images_last
        sides = (1, *self.filters, 1)
        self.quantiles = nn.Parameter(torch.randn(channels, 1, 3))
        kinds = ("matrix", "matrices"), ("bias", "biases"), ("factor", "factors")
        for k, (wide, high) in enumerate(pairwise(sides)):
            for (one, many), shape in zip(kinds, ((high, wide), (high, 1), (high, 1)), strict=True):
                if one == "factor" and k == len(self.filters):
                    continue
                parameter = nn.Parameter(0.5 * torch.randn(channels, *shape))
                if lists:
                    if not hasattr(self, f"_{many}"):
                        setattr(self, f"_{many}", nn.ParameterList())
                    getattr(self, f"_{many}").append(parameter)
                else:
                    setattr(self, f"_{one}{k}", parameter)

    def _medians(self) -> Tensor:
        return self.quantiles[:, :, 1:2].detach()

    def _logits_cumulative(self, logits: Tensor) -> Tensor:
        for k in range(len(self.filters) + 1):
            parts = (
                [getattr(self, f"_{many}")[k] for many in ("matrices", "biases")]
                if self.lists
                else [getattr(self, f"_{one}{k}") for one in ("matrix", "bias")]
            )
            logits = F.softplus(parts[0]) @ logits + parts[1]
            if k < len(self.filters):
                factor = self._factors[k] if self.lists else getattr(self, f"_factor{k}")
                logits = logits + torch.tanh(factor) * torch.tanh(logits)
        return logits

    def _likelihood(self, inputs: Tensor) -> Tensor:
        lower, upper = (self._logits_cumulative(inputs + side) for side in (-0.5, 0.5))
        sign = -torch.sign(lower + upper).detach()
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        there, back = ((1, 2, 3, 0), (3, 0, 1, 2)) if self.images_last else ((1, 0, 2, 3),) * 2
        turned = x.permute(there).contiguous()
        flat = turned.reshape(self.channels, 1, -1)
        outputs = self.quantize(flat, "noise" if self.training else "dequantize", self._medians())
        both = outputs, self.likelihood_lower_bound(self._likelihood(outputs))
        values, likelihoods = (one.reshape(turned.shape).permute(back).contiguous() for one in both)
        return values, likelihoods


class Codec(nn.Module):
    """A hyperprior on entropy models that are no CompressAI's."""

    def __init__(self, lists: bool = False, images_last: bool = False) -> None:
        super().__init__()
        self.analysis, self.hyper = nn.Conv2d(3, 4, 16, stride=16), nn.Conv2d(4, 2, 4, stride=4)
        self.synthesis = nn.ConvTranspose2d(2, 8, 4, stride=4)
        self.paint = nn.ConvTranspose2d(4, 3, 16, stride=16)
        self.prior = EntropyBottleneck(2, lists=lists, images_last=images_last)
        self.gaussian = GaussianConditional()

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = 6 * self.analysis(x)
        z, pz = self.prior(3 * self.hyper(y))
        scales, means = self.synthesis(z).chunk(2, 1)
        y, py = self.gaussian(y, scales.abs() + 2, means)
        return {"x_hat": self.paint(y), "likelihoods": {"y": py, "z": pz}}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("lists", "images_last"), [(False, False), (False, True), (True, True)])
def test_copies_that_agree_are_fused(lists: bool, images_last: bool) -> None:
    model, x = Codec(lists, images_last).double(), torch.rand(2, 3, 64, 128).double()
    result = BitrateMapper(model.eval())(x)
    assert set(result.sources) == {"y", "z"}
    assert not result.unseen
    with torch.no_grad():
        bits = {name: -p.double().log2().sum() for name, p in model(x)["likelihoods"].items()}
    for name, expected in bits.items():
        torch.testing.assert_close(result.latent_bits[name].double().sum(), expected, rtol=1e-5, atol=0)
    model.train()
    found = []
    for fused in (False, True):
        torch.manual_seed(1)
        model.zero_grad()
        with fuse(model) if fused else torch.enable_grad():
            out = model(x)
            assert all(isinstance(p, DeferredLikelihoods) == fused for p in out["likelihoods"].values())
            loss = RateLoss()(out, x)
        loss.backward()
        found.append(
            (loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        )
    (theirs, gradients), (ours, others) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name


def test_a_look_at_a_class_moves_nothing() -> None:
    class Fresh(GaussianConditional):
        pass

    module = Fresh()
    before, seen = torch.get_rng_state(), dict(vars(module))
    with fuse(module) as fused:
        assert fused.names == ("",)
    assert torch.equal(torch.get_rng_state(), before)
    assert vars(module) == seen
    assert type(module) is Fresh


def copied(**changed: Any) -> nn.Module:
    """Return a Gaussian of a copy of its own, with other methods."""
    kind: Any = type("GaussianConditional", (Coded,), {**vars(GaussianConditional), **changed})
    return kind()  # type: ignore[no-any-return]


def laplace(self: Any, inputs: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
    return 0.5 * torch.exp(-(inputs - (0 if means is None else means)).abs() / scales)


def narrow(self: Any, inputs: Tensor, scales: Tensor, means: Tensor | None = None) -> tuple[Tensor, Tensor]:
    mode = "noise" if self.training else "dequantize"
    outputs = self.quantize(inputs / 2, mode, means) * 2 if self.training else self.quantize(inputs, mode, means)
    return outputs, self.likelihood_lower_bound(self._likelihood(outputs, scales, means))


def broken(self: Any, inputs: Tensor, scales: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    return inputs, inputs


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, ""),
        ({"_likelihood": laplace}, "GaussianConditional has other likelihoods than CompressAI's in eval mode"),
        ({"forward": narrow}, "GaussianConditional quantises in another way than CompressAI's in train mode"),
        ({"forward": broken}, "GaussianConditional cannot be compared with CompressAI's: TypeError: "),
    ],
    ids=["alike", "laplace", "noise", "arguments"],
)
def test_copies_that_differ_are_left_alone(changed: dict[str, Any], why: str) -> None:
    model = nn.ModuleDict({"gaussian": copied(**changed)}).eval()
    with fuse(model) as fused:
        assert fused.names == (() if why else ("gaussian",))
        assert fused.left.get("gaussian", "").startswith(why)


def test_a_compressai_without_variable_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    entropy = pytest.importorskip("compressai.entropy_models")
    monkeypatch.delattr(entropy, "EntropyBottleneckVbr")
    model = nn.ModuleDict({"gaussian": entropy.GaussianConditional(None)}).eval()
    with bitrate_ext.fuse(model), torch.no_grad():
        _, p = model["gaussian"](torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
        assert isinstance(p, DeferredLikelihoods)
        assert rate(p).shape == (1,)


def test_distributions_that_do_not_fit_at_all_are_told() -> None:
    model, x = Codec().eval(), torch.rand(1, 3, 64, 128)
    assert not BitrateMapper(model)(x).warnings
    with torch.no_grad():
        model.synthesis.bias[4:] = 1e4  # means
    result = BitrateMapper(model)(x)
    assert [line[:37] for line in result.warnings] == ["32 of 32 cells of latent 'y' cost mor"]
    assert result.total_bits > BitrateMapper(model, sources=False)(x).total_bits
