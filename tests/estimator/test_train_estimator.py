"""Estimators that are trained: of a codec whose bits are known, and the one that ships."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitrate_ext import BitrateMapper, ModelAdapter, RateEstimator, load_demo_codec, train_estimator
from bitrate_ext.choices import DEMO_QUALITIES
from bitrate_ext.estimator import training
from bitrate_ext.estimator.codec import CodecBits
from bitrate_ext.estimator.estimator import DEMO
from bitrate_ext.estimator.training import correlation
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph, load_demo_forward
from bitrate_ext.receptive_field.fingerprint import weights_fingerprint

pytest.importorskip("safetensors")
SOON: dict[str, Any] = {"windows": 4, "steps": 2, "projection": "bilinear"}


class TextureCodec(nn.Module):
    """Spends bits by the texture of each block of 16 x 16 pixels, ``gain`` times as many."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.eval()

    def forward(self, x: Tensor) -> dict[str, Any]:
        grey = x.mean(dim=1, keepdim=True)
        fine = (grey[..., 1:] - grey[..., :-1]).abs()
        texture = F.avg_pool2d(F.pad(fine, (0, 1)), 16)[:, 0]
        return {"likelihoods": {"y": self.gain * (10 + 2000 * texture)}}


def texture(gain: float = 1.0) -> ModelAdapter:
    return ModelAdapter(TextureCodec(gain), unit="bits")


def mirrored() -> ModelAdapter:
    return ModelAdapter(TextureCodec(), unit="bits", padding="reflect")


def pictures(count: int, height: int = 80, width: int = 112, seed: int = 0) -> list[Tensor]:
    """Noise whose strength differs from place to place."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        strength = F.interpolate(torch.rand(1, 1, 3, 4, generator=generator), (height, width), mode="bilinear")
        noise = torch.rand(1, 3, height, width, generator=generator) - 0.5
        found.append((0.5 + 0.9 * strength.square() * noise).clamp(0, 1))
    return found


class BatchedCodec(TextureCodec):
    """Codes the first picture of a batch at gain 1, and the second at 3."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        gains = torch.tensor([1.0, 3.0])[: len(x), None, None]
        return {"likelihoods": {"y": gains * super().forward(x)["likelihoods"]["y"]}}


@pytest.mark.medium
@pytest.mark.parametrize("batched", [False, True])
def test_bits_of_a_known_codec_are_learnt_at_each_quality(batched: bool) -> None:
    model = ModelAdapter(BatchedCodec(), unit="bits") if batched else {1: texture(), 4: texture(3.0)}
    estimator = train_estimator(
        model,
        pictures(8),
        qualities=(1, 4) if batched else (),
        held_out=pictures(3, seed=1),
        projection="nearest",
        windows=40,
        steps=160,
    )
    x = pictures(1, seed=2)[0]
    for quality, gain, error in zip((1, 4), (1.0, 3.0), estimator.about.errors, strict=True):
        truth = TextureCodec(gain)(x)["likelihoods"]["y"].detach()
        made = estimator(x, quality)
        assert made.total_bits.item() == pytest.approx(truth.sum().item(), rel=0.1)
        blocks = F.avg_pool2d(made.map, 16)[0, 0]
        assert correlation(blocks, truth[0]) > 0.9
        assert error.total < 0.1
        assert error.correlation > 0.9
        assert error.photographs == 3


def test_training_is_repeated_exactly_and_leaves_the_model_alone() -> None:
    adapter = texture()
    before = copy.deepcopy(adapter.model.state_dict())
    first, second = (train_estimator(adapter, pictures(2), held_out=pictures(1), **SOON) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.about == second.about
    assert not adapter.model.training
    assert adapter.model.gain.grad is None
    assert adapter.model.state_dict() == before
    other = train_estimator(adapter, pictures(2), held_out=pictures(1), seed=1, **SOON)
    assert not torch.equal(first.network.eight.weight, other.network.eight.weight)


class Listed(Sequence[Tensor]):
    """Pictures that note which of them are read."""

    def __init__(self, count: int) -> None:
        self._all, self.read = pictures(count, 64, 64), []

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        return self._all[index]


def test_one_of_eight_is_held_out_and_few_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[Tensor] = []
    parts = training._parts
    monkeypatch.setattr(training, "_parts", lambda p, *rest: (learnt.extend(p), parts(p, *rest))[1])
    images = pictures(9, 64, 64)
    with pytest.warns(UserWarning, match=r"errors are measured on 1 of the photographs"):
        estimator = train_estimator(texture(), images, **SOON)
    assert estimator.about.errors[0].photographs == 1
    assert not any(one is images[7] for one in learnt)
    assert len(learnt) == 8 == estimator.about.training["photographs"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = train_estimator(texture(), pictures(64, 64, 64), **SOON)
    assert estimator.about.errors[0].photographs == 8


def test_it_stops_in_the_time_given() -> None:
    start = time.monotonic()
    with pytest.warns(UserWarning, match="errors are measured on 1"):
        estimator = train_estimator(texture(), pictures(2, 64, 64), projection="bilinear", minutes=0.02)
    assert estimator.about.training["windows"] >= 1
    assert time.monotonic() - start < 30


def test_windows_need_padding_now_and_then_and_fit_in_the_photograph() -> None:
    sizes = []
    parts = training._parts(pictures(1, 100, 700), (64, 64), training.np.random.default_rng(0))
    for _, part in zip(range(20), parts, strict=False):
        sizes.append(tuple(part.shape[2:]))
    assert set(sizes[::2]) == {(64, 256)}
    assert all(50 <= height <= 100 and 128 <= width <= 256 for height, width in sizes[1::2])
    assert len(set(sizes)) > 5


def test_of_large_photographs_that_are_held_out_the_middle_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LARGEST", 64)
    seen = []
    run = CodecBits.__call__
    monkeypatch.setattr(CodecBits, "__call__", lambda self, x, *rest: (seen.append(x), run(self, x, *rest))[1])
    (large,) = pictures(1, 100, 60)
    train_estimator(texture(), pictures(2, 64, 64), held_out=[large], **SOON)
    assert torch.equal(seen[-1], large[:, :, 18:82])


def test_blocks_are_the_map_of_the_padded_picture() -> None:
    x = pictures(1, 40, 70)[0]
    codec = CodecBits([texture()], "bilinear", x, {})
    padded, (blocks,) = codec(x)
    result = BitrateMapper(texture())(x)
    assert padded.shape[2:] == (48, 80)
    assert blocks.shape == (3, 5)
    assert blocks.double().sum().item() == pytest.approx(result.total_bits.item(), rel=1e-6)
    assert codec.multiple == (16, 16)


def test_windows_are_coded_at_one_quality_after_the_other_or_at_all_in_one_batch() -> None:
    x = pictures(1, 64, 64)[0]
    several = CodecBits([texture(), texture(3.0)], "bilinear", x, {})
    batched = CodecBits([ModelAdapter(BatchedCodec(), unit="bits")], "bilinear", x, {}, 2)
    padded, both = batched(x, 5)
    assert padded.shape == (1, 3, 64, 64)
    torch.testing.assert_close(both, several(x)[1])
    for number in range(4):
        blocks = several(x, number)[1]
        torch.testing.assert_close(blocks[number % 2], both[number % 2])
        assert blocks[1 - number % 2].isnan().all()


def test_a_model_of_another_stride_and_without_parameters() -> None:
    def codec(x: Tensor) -> dict[str, Any]:
        return {"likelihoods": F.avg_pool2d(x, 6).clamp(0.1, 0.9)}

    estimator = train_estimator(codec, pictures(2, 50, 64), held_out=pictures(1, 50, 64), **SOON)
    assert estimator.about.multiple == (6, 6)
    assert estimator.about.weights == ""
    x = pictures(1, 50, 64)[0]
    assert estimator(x).block_bits.shape == (1, 4, 5)  # 54 x 66, up to whole blocks
    assert estimator.about.model == "function"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"images": "photo.png"}, TypeError, "images must be a list"),
        ({"images": torch.zeros(2, 3, 8, 8)}, TypeError, "images must be a list"),
        ({"images": pictures(1)}, ValueError, "images must be at least 2"),
        ({"images": [torch.zeros(2, 3, 64, 64)] * 2}, ValueError, "each image of a batch"),
        ({"held_out": 3}, TypeError, "held_out must be a list"),
        ({"minutes": 0}, ValueError, "minutes must be a positive number"),
        ({"minutes": float("inf")}, ValueError, "minutes must be"),
        ({"windows": 0}, ValueError, "windows must be"),
        ({"steps": 1.5}, TypeError, "steps must be"),
        ({"model": {}}, ValueError, "dict of them by quality"),
        ({"model": {"low": texture()}}, TypeError, "quality must be a whole number"),
        ({"model": {1: texture()}, "qualities": (1,)}, ValueError, "qualities are those of one model"),
        ({"qualities": (1, 1.5)}, TypeError, "quality must be a whole number"),
        ({"projection": "gaussian"}, ValueError, "projection"),
        (
            {"model": {1: texture(), 2: mirrored()}},
            ValueError,
            "alike",
        ),
        ({"model": texture(float("inf"))}, ValueError, "no finite positive numbers"),
        ({"model": texture(0.0)}, ValueError, "no finite positive numbers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:the errors are measured")
def test_bad_arguments_are_refused(given: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"model": texture(), "images": pictures(2, 64, 64), **SOON, **given}
    with pytest.raises(error, match=words):
        train_estimator(arguments.pop("model"), arguments.pop("images"), **arguments)


def test_fingerprints_tell_weights_apart() -> None:
    one, other = TextureCodec(1.0), TextureCodec(2.0)
    assert weights_fingerprint([one]) == weights_fingerprint([copy.deepcopy(one)]) != weights_fingerprint([other])
    assert weights_fingerprint([one, other]) != weights_fingerprint([other, one])


def test_the_shipped_estimator_is_small_and_that_of_the_shipped_codec() -> None:
    pytest.importorskip("compressai")
    assert DEMO.stat().st_size <= 400_000
    about = RateEstimator.demo().about
    assert about.qualities == DEMO_QUALITIES
    assert about.weights == weights_fingerprint([load_demo_codec(quality) for quality in DEMO_QUALITIES]), (
        "the demo codec's weights have changed; train its estimator anew with tools/train_demo_estimator.py"
    )


def test_the_shipped_estimator_does_what_its_card_says() -> None:
    about = RateEstimator.demo().about
    assert sum(error.total for error in about.errors) / 8 <= 0.06
    assert sum(error.correlation for error in about.errors) / 8 >= 0.9
    card = DEMO.with_suffix(".md").read_text()
    for quality, error in zip(about.qualities, about.errors, strict=True):
        assert f"| {quality} | {100 * error.total:.1f} % | {error.correlation:.3f} |" in card


@pytest.mark.parametrize("quality", [1, pytest.param(5, marks=pytest.mark.medium), 8])
def test_the_shipped_estimator_foretells_the_bundled_photograph(quality: int) -> None:
    x, estimator = load_image(demo_photograph()), RateEstimator.demo()
    result = estimator(x, quality)
    truth = BitrateMapper(load_demo_forward(quality))(x)
    assert result.total_bits.item() == pytest.approx(truth.total_bits.item(), rel=0.2)
    blocks = [F.avg_pool2d(one.map, 16)[0, 0] for one in (result, truth)]
    assert correlation(*blocks) > 0.8
