"""Sources behind likelihoods that a model puts together itself; and which latents have none, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitrate_ext import BitrateMapper, FrameMapper, fuse, rate
from bitrate_ext.ops.rate.deferred import known_source, sources_of

entropy = pytest.importorskip("compressai.entropy_models")
codecs = pytest.importorskip("compressai.latent_codecs")
layers = pytest.importorskip("compressai.layers")
pytestmark = pytest.mark.usefixtures("one_thread")
Code = Callable[[Tensor], Tensor]  # of a part of a latent: its likelihoods
SHAPE = (2, 6, 4, 5)


def cell_by_cell(y: Tensor, code: Code) -> Tensor:
    p = torch.zeros(y.shape)
    for h in range(y.shape[2]):
        for w in range(y.shape[3]):
            p[:, :, h : h + 1, w : w + 1] = code(y[:, :, h : h + 1, w : w + 1])
    return p


def as_a_checkerboard(y: Tensor, code: Code) -> Tensor:
    p = torch.empty(y.shape)
    for row in (0, 1):
        for column in (0, 1):
            part = (slice(None), slice(None), slice(row, None, 2), slice(column, None, 2))
            p[part] = code(y[part])
    return p


def image_by_image(y: Tensor, code: Code) -> Tensor:
    p = torch.ones(y.shape)
    for k in range(len(y)):
        p[k : k + 1] = code(y[k : k + 1])
    return p


def joined_rows(y: Tensor, code: Code) -> Tensor:
    return torch.cat([torch.cat([code(one) for one in row.split(2, 3)], -1) for row in y.split(1, 2)], 2)


def joined_images(y: Tensor, code: Code) -> Tensor:
    return torch.cat([joined_rows(one, code) for one in y.split(1)])


def written_twice(y: Tensor, code: Code) -> Tensor:
    p = cell_by_cell(y - 1, code)
    for k in range(len(y)):  # each image as cells again, in the same boxes
        p[k : k + 1, :, :, :].copy_(code(y[k : k + 1]))
    p.zero_()
    for w in range(y.shape[3]):
        p[..., w : w + 1].copy_(code(y[..., w : w + 1] + 1))
        p[..., w : w + 1].copy_(code(y[..., w : w + 1]))
    return p


def slices_in_cells(y: Tensor, code: Code) -> Tensor:
    """The channels of a cell in two slices, which are joined; the rest of the channels by themselves."""
    p = torch.zeros(y.shape)
    for w in range(y.shape[3]):
        cell = y[..., w : w + 1]
        p[:, :4, :, w : w + 1] = torch.cat([code(cell[:, :1]), code(cell[:, 1:4])], 1)
        p[:, 4:, :, w : w + 1] = code(cell[:, 4:])
    return p


def overlapping(y: Tensor, code: Code) -> Tensor:
    p = cell_by_cell(y, code)
    p[:, :, :2, :2] = code(y[:, :, :2, :2] + 1)
    return p


def partly(y: Tensor, code: Code) -> Tensor:
    p = torch.full(y.shape, 0.5)
    p[:, :, 1:] = code(y[:, :, 1:])
    return p


def and_changed(y: Tensor, code: Code) -> Tensor:
    p = cell_by_cell(y, code)
    p[0, 0, 0, 0] = 0.25
    return p


def and_changed_between(y: Tensor, code: Code) -> Tensor:
    p = torch.zeros(y.shape)
    p[:, :3] = code(y[:, :3])
    p.mul_(0.5)
    p[:, 3:] = code(y[:, 3:])
    return p


def turned(y: Tensor, code: Code) -> Tensor:
    square = y[..., :4]
    p = torch.zeros(square.shape)
    p.transpose(2, 3).copy_(code(square))
    return p


SEEN = [
    cell_by_cell, as_a_checkerboard, image_by_image, joined_rows, joined_images, written_twice, slices_in_cells
]  # fmt: skip
UNSEEN = [overlapping, partly, and_changed, and_changed_between, turned]


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "gradients"])
@pytest.mark.parametrize("way", [*SEEN, *UNSEEN], ids=lambda way: way.__name__)
def test_likelihoods_that_are_put_together(way: Callable[[Tensor, Code], Tensor], recorded: bool) -> None:
    torch.manual_seed(0)
    module, y = entropy.GaussianConditional(None).eval(), 6 * torch.randn(SHAPE)
    wide = torch.tensor(1.5, requires_grad=recorded)

    def code(part: Tensor) -> Tensor:
        likelihoods: Tensor = module(part, (part.detach() / 20).abs() + wide, means=part * 0.1 * wide)[1]
        return likelihoods

    with torch.set_grad_enabled(recorded):
        expected = way(y, code)
        with fuse(module):
            p = way(y, code)
    assert (way in SEEN) == bool(sources_of({"y": p}))
    bits, other = rate(p).sum(), -expected.double().log2().sum()
    torch.testing.assert_close(bits, other, rtol=1e-6, atol=0)
    assert p.requires_grad == recorded
    if recorded:
        assert known_source(p).requires_grad if way in UNSEEN else known_source(p).scales.requires_grad
        (found,), (wanted,) = (torch.autograd.grad(one, wide) for one in (bits, other))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close(p.clone(), expected, rtol=1e-5, atol=3e-7)


def test_mixtures_and_priors_are_put_together_too() -> None:
    torch.manual_seed(0)
    mixture, prior = entropy.GaussianMixtureConditional(K=2).eval(), entropy.EntropyBottleneck(6).eval()
    y = 4 * torch.randn(SHAPE)

    def code(part: Tensor) -> Tensor:
        wide = torch.cat([part.abs() + 1, part.abs() + 2], 1)
        likelihoods: Tensor = mixture(part, wide, wide / 2, torch.full_like(wide, 0.5))[1]
        return likelihoods

    for model, way in ((mixture, code), (prior, lambda part: prior(part)[1])):
        for together in (cell_by_cell, image_by_image, joined_rows):
            with torch.no_grad():
                expected = together(y, way)
                with fuse(model):
                    p = together(y, way)
            assert sources_of({"": p})
            torch.testing.assert_close(rate(p).sum(), -expected.double().log2().sum(), rtol=1e-6, atol=0)
    with torch.no_grad(), fuse(prior):  # not by one prior
        p = torch.cat([prior(y)[1], prior(y)[1]], 2)
        prior.matrices[0].add_(1)
        assert not sources_of({"": torch.cat([p, prior(y)[1]], 2)})


class Aside(nn.Module):
    """A stranger's codec whose second latent goes another way."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.analysis, self.synthesis = nn.Conv2d(3, 4, 8, stride=8), nn.ConvTranspose2d(4, 3, 8, stride=8)
        self.prior, self.gaussian, self.change = entropy.EntropyBottleneck(4), entropy.GaussianConditional(None), change

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = 9 * self.analysis(x)
        y_hat, seen = self.prior(y)
        return {"x_hat": self.synthesis(y_hat), "likelihoods": {"y": seen, "w": self.change(self.gaussian, y)}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda module, y: module(y, y.abs() + 1)[1] * 0.5, "the model computes them of what its entropy models take"),
        (lambda module, y: module(y, y.abs() + 1)[1].mul_(0.5), "the model writes into what its entropy model returns"),
        (
            lambda module, y: module(y.double(), y.double().abs() + 1)[1].half().clamp_min(1e-4),
            r"sources are .* and these torch.float16 \[1, 4, 4, 4\]",
        ),
    ],
)
def test_the_result_says_which_latent_is_not_seen_and_why(change: Callable[[Any, Tensor], Tensor], why: str) -> None:
    torch.manual_seed(0)
    model, x = Aside(change).eval(), torch.rand(1, 3, 32, 32)
    for result in (BitrateMapper(model, channels=True)(x), *FrameMapper(model)([x[0]])):
        assert result.sources == ("y",)
        assert list(result.unseen) == ["w"]
        assert re.match(why, result.unseen["w"])
    floored = BitrateMapper(model, sources=False, channels=True)(x)
    assert (floored.sources, floored.unseen) == ((), {})
    mixed = BitrateMapper(model, channels=True)(x)  # true values of one latent beside likelihoods of the other
    torch.testing.assert_close(mixed.total_bits, floored.total_bits, rtol=1e-5, atol=0)
    channels = torch.stack([bits.sum(1) for bits in mixed.channel_bits.values()]).sum(0)
    torch.testing.assert_close(channels, mixed.total_bits, rtol=1e-6, atol=0)


def test_models_without_entropy_models_are_told() -> None:
    model = nn.Conv2d(3, 4, 8, stride=8).eval()
    result = BitrateMapper(model, likelihoods=lambda output: {"y": output.sigmoid()})(torch.rand(1, 3, 32, 32))
    assert result.unseen == {"y": "the model has none of CompressAI's entropy models in it"}
    whole = Aside(lambda module, y: module(y, y.abs() + 1)[1]).eval()
    whole.gaussian._likelihood = lambda inputs, *_: torch.full_like(inputs, 0.25)
    assert BitrateMapper(whole)(torch.rand(1, 3, 32, 32)).unseen == {
        "w": "gaussian is left alone: GaussianConditional has a _likelihood of its own"
    }


class Codecs(nn.Module):
    """CompressAI's latent codecs around a hyperprior, those that no model of the zoo has."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.gains = kind == "gains"
        self.analysis, self.synthesis = nn.Conv2d(3, 4, 8, stride=8), nn.ConvTranspose2d(4, 3, 8, stride=8)
        prior = entropy.EntropyBottleneck(4)
        down, up = nn.Conv2d(4, 4, 2, stride=2), nn.ConvTranspose2d(4, 8, 2, stride=2)
        y: Any = codecs.GaussianConditionalLatentCodec(quantizer="ste", entropy_parameters=nn.Identity())
        context: dict[str, Any] = {"entropy_parameters": nn.Conv2d(16, 8, 1), "context_prediction": _context(kind)}
        if kind == "raster scan":
            y = codecs.RasterScanLatentCodec(gaussian_conditional=entropy.GaussianConditional(None), **context)
        elif kind in ("onepass", "twopass", "twopass_faster"):
            y = codecs.CheckerboardLatentCodec({"y": y}, forward_method=kind, **context)
        hyper = (codecs.GainHyperLatentCodec if self.gains else codecs.HyperLatentCodec)(prior, down, up)
        outer = codecs.GainHyperpriorLatentCodec if self.gains else codecs.HyperpriorLatentCodec
        self.latent_codec = outer({"y": y, "hyper": hyper})
        with torch.no_grad():  # scales of which no symbol falls below the floor
            for layer in (up, context["entropy_parameters"]):
                layer.bias[:4] += 4

    def forward(self, x: Tensor) -> dict[str, Any]:
        gains = [torch.full((1, 4, 1, 1), gain) for gain in (2.0, 1.5, 0.5, 1 / 1.5)] if self.gains else []
        out = self.latent_codec(9 * self.analysis(x), *gains)
        return {"x_hat": self.synthesis(out["y_hat"]), "likelihoods": out["likelihoods"]}


def _context(kind: str) -> nn.Module:
    masked: Any = layers.MaskedConv2d if kind == "raster scan" else layers.CheckerboardMaskedConv2d
    made: nn.Module = masked(4, 8, kernel_size=5, padding=2)
    return made


@pytest.mark.parametrize("kind", ["raster scan", "onepass", "twopass", "twopass_faster", "gains"])
def test_latent_codecs_are_seen(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Codecs(kind).eval(), torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        expected = sum(-p.double().log2().sum((1, 2, 3)) for p in model(x)["likelihoods"].values())
    result = BitrateMapper(model)(x)
    assert result.sources == ("y", "z")
    torch.testing.assert_close(result.total_bits, expected, rtol=1e-6, atol=0)


def test_what_is_noted_goes_with_the_tensor() -> None:
    from bitrate_ext.ops.rate import written

    module = entropy.GaussianConditional(None).eval()
    with torch.no_grad(), fuse(module):
        p = cell_by_cell(torch.randn(SHAPE), lambda part: module(part, torch.ones_like(part))[1])
        assert sources_of({"": p})
        before = len(written.noted)
        del p
    assert len(written.noted) == before - 1
