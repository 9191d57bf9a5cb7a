"""Measuring receptive fields: decoders whose kernel is known, latents behind latents, images, the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import small_model

import bitrate_ext
from bitrate_ext import BitrateMapper, ReceptiveField, bitrate_map, calibrate
from bitrate_ext.receptive_field.calibration import separable_terms
from bitrate_ext.receptive_field.field import Term, follow_kernel


class Codec(nn.Module):
    """A linear decoder of stride two, weights ``[C, 3, k, k]``; each channel costs its bits everywhere."""

    def __init__(self, weight: Tensor, bits: tuple[float, ...], padding: int = 0) -> None:
        super().__init__()
        self.bits = nn.Parameter(torch.tensor(bits))
        self.decoder = nn.ConvTranspose2d(*weight.shape[:3], stride=2, padding=padding, bias=False)
        self.decoder.weight.data = weight
        self.calls = 0
        self.eval()

    def forward(self, x: Tensor) -> dict[str, Any]:
        self.calls += 1
        y = torch.nn.functional.avg_pool2d(x[:, :1], 2).repeat(1, len(self.bits), 1, 1)
        likelihoods = torch.exp2(-self.bits)[:, None, None].expand_as(y)
        return {"x_hat": self.decoder(y), "likelihoods": {"y": likelihoods}}


def colours(kernel: list[list[float]]) -> Tensor:
    """``[1, 3, k, k]``: the kernel's square root, shared among the colours so that their squares add up to it."""
    return torch.tensor(kernel)[None, None].sqrt() * torch.tensor([0.6, 0.0, -0.8])[:, None, None]


def test_the_kernel_of_a_linear_decoder() -> None:
    vertical, horizontal = np.array([1.0, 3.0, 0.0, 4.0]), np.array([2.0, 1.0, 1.0, 4.0])
    codec = Codec(colours(np.outer(vertical, horizontal).tolist()).float(), (3.0,), padding=1)
    field = calibrate(codec, samples=4, images=torch.rand(1, 3, 20, 24), cache=False)
    assert (field.stride, field.reach, field.center) == ((2, 2), ((-1, 2), (-1, 2)), (0.5, 0.5))
    (term,) = field.kernel
    np.testing.assert_allclose(term.vertical, vertical / 8, atol=1e-6)
    np.testing.assert_allclose(term.horizontal, horizontal / 8, atol=1e-6)
    assert field.centroid == pytest.approx((-1 / 8 + 8 / 8, (-2 + 1 + 8) / 8), abs=1e-5)
    assert field.fit["separable_error"] < 1e-5
    assert field.fit["sampling_error"] < 1e-5
    assert field.fit["locations"] > 4 * 10


def test_channels_count_with_their_bits_and_not_with_their_strength() -> None:
    left, right = colours([[1.0, 0.0], [1.0, 0.0]]), 100 * colours([[0.0, 1.0], [0.0, 1.0]])
    field = calibrate(Codec(torch.cat([left, right]), (3.0, 1.0)), samples=2, cache=False)
    # Each symbol's strength is measured with random signs, here with a relative error of sqrt(2 / 16) a symbol.
    np.testing.assert_allclose(field.kernel[0].horizontal, [0.75, 0.25], atol=0.02)


def test_a_model_that_was_never_trained_counts_every_symbol_the_same() -> None:
    left, right = colours([[1.0, 0.0], [1.0, 0.0]]), 100 * colours([[0.0, 1.0], [0.0, 1.0]])
    field = calibrate(Codec(torch.cat([left, right]), (0.0, 0.0)), samples=2, cache=False)
    np.testing.assert_allclose(field.kernel[0].horizontal, [0.5, 0.5], atol=0.03)


def test_infinite_bits_are_left_out() -> None:
    left, right = colours([[1.0, 0.0], [1.0, 0.0]]), colours([[0.0, 1.0], [0.0, 1.0]])
    field = calibrate(Codec(torch.cat([left, right]), (3.0, float("inf"))), samples=2, cache=False)
    np.testing.assert_allclose(field.kernel[0].horizontal, [1, 0], atol=1e-6)


def test_a_decoder_that_paints_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match="on these images its symbols change nothing, or no finite amount, of what decoder"
    ):
        calibrate(Codec(torch.zeros(1, 3, 2, 2), (1.0,)), samples=2, cache=False)


def test_several_terms_where_one_does_not_serve() -> None:
    diagonal = colours([[1.0, 0.0], [0.0, 1.0]])
    field = calibrate(Codec(diagonal, (1.0,)), samples=2, cache=False)
    assert len(field.kernel) == 2
    np.testing.assert_allclose(field.dense(), [[0.5, 0], [0, 0.5]], atol=1e-4)
    p = torch.rand(1, 1, 6, 6, dtype=torch.float64).clamp_min(0.1)
    found = bitrate_map(p, scale_factor=2, projection=field)
    expected = torch.kron(-p[0, 0].log2(), torch.tensor([[0.5, 0], [0, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-3)


def test_separable_terms(rng: np.random.Generator) -> None:
    one = np.outer(rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(7)))
    two = 0.6 * one + 0.4 * np.outer(rng.dirichlet(np.ones(9) / 9), rng.dirichlet(np.ones(7) / 9))
    for energy, count in ((one, 1), (two, 2)):
        terms, error = separable_terms(energy)
        total = np.sum([t.share * np.outer(t.vertical, t.horizontal) for t in terms], axis=0)
        assert len(terms) == count
        assert error == pytest.approx(np.abs(total - energy).sum() / 2, abs=1e-12)
        assert error < 0.02
        np.testing.assert_allclose(total.sum(axis=1), energy.sum(axis=1), atol=1e-6)
        np.testing.assert_allclose(total.sum(axis=0), energy.sum(axis=0), atol=1e-6)
        assert total.min() >= 0


def test_no_term_is_spent_on_noise(rng: np.random.Generator) -> None:
    noisy = rng.gamma(1.0, size=(20, 20))
    noisy /= noisy.sum()
    noise = np.abs(noisy - 1 / 400).sum() / 2
    assert len(separable_terms(noisy)[0]) == 3
    terms, error = separable_terms(noisy, noise)
    assert len(terms) == 1
    assert error < 0.05


def test_a_latent_behind_another_is_followed_to_the_pixels() -> None:
    cells = ReceptiveField((2, 2), ((-1, 1), (0, 1)), [Term(1.0, np.array([1.0, 2.0, 1.0]), np.array([1.0, 3.0]))])
    pixels = ReceptiveField((3, 3), ((-2, 0), (0, 0)), [Term(1.0, np.array([1.0, 0.0, 1.0]), np.array([1.0]))])
    field = follow_kernel(cells, pixels)
    assert (field.stride, field.reach) == ((6, 6), ((-5, 3), (0, 3)))
    np.testing.assert_allclose(field.kernel[0].vertical, np.array([1, 0, 1, 2, 0, 2, 1, 0, 1]) / 8)
    np.testing.assert_allclose(field.kernel[0].horizontal, [0.25, 0, 0, 0.75])


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "z"),
    [("bmshj2018-factorized", None), ("bmshj2018-hyperprior", "nearest"), ("mbt2018-mean", "receptive-field")],
)
def test_policies_of_the_mapper(name: str, z: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    mapper = BitrateMapper(small_model(name), projection="receptive-field")
    x = torch.rand(2, 3, 70, 90)
    result = mapper(x)
    projections = {latent: projection.name for latent, projection in mapper.projections.items()}
    assert projections == {"y": "receptive-field", **({"z": z} if z else {})}
    if z == "receptive-field":
        field = mapper.projections["z"]
        assert isinstance(field, ReceptiveField)
        assert (field.stride, field.reach) == ((64, 64), ((-142, 142), (-142, 142)))
    total = result.map.double().sum(dim=(1, 2, 3)) + result.padding_bits
    torch.testing.assert_close(total, result.total_bits, rtol=6e-8, atol=0)
    torch.testing.assert_close(torch.stack(list(result.maps.values())).sum(0), result.map, rtol=1e-5, atol=1e-7)
    kept = {path.name for path in tmp_path.rglob("*.npz")}
    assert len(kept) == sum(name == "receptive-field" for name in projections.values())
    again = BitrateMapper(mapper.model, projection="receptive-field")(x)
    assert torch.equal(again.map, result.map)


@pytest.mark.medium
def test_the_callers_mode_does_not_matter() -> None:
    model, x = small_model("bmshj2018-factorized"), torch.rand(1, 3, 64, 64)
    expected = BitrateMapper(model, projection={"y": calibrate(model, cache=False)})(x).map
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            torch.testing.assert_close(BitrateMapper(model, projection="receptive-field")(x.clone()).map, expected)
            calibrate(model, images=torch.rand(1, 3, 96, 96), samples=2, cache=False)


def test_a_projection_for_each_latent() -> None:
    model = small_model("mbt2018-mean")
    y = calibrate(model, samples=2, cache=False)
    x = torch.rand(1, 3, 64, 64)
    result = BitrateMapper(model, projection={"y": y, "z": "area"}, sources=False)(x)
    expected = bitrate_map(model(x)["likelihoods"], size=(64, 64), projection={"y": y, "z": "area"})
    torch.testing.assert_close(result.map, expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="projection must name each of the latents, 'y', 'z'; 'z' is missing"):
        BitrateMapper(model, projection={"y": y})(x)
    with pytest.raises(ValueError, match="projection must be one of"):
        BitrateMapper(model, projection={"y": y, "z": "cubic"})


@pytest.mark.parametrize(
    ("samples", "noise"),
    [pytest.param(8, 0.09, marks=pytest.mark.medium), pytest.param(64, 0.03, marks=pytest.mark.slow)],
)
def test_the_demo_codec_as_documented(samples: int, noise: float) -> None:
    field = calibrate(bitrate_ext.load_demo_codec(), samples=samples, cache=False)
    assert (field.stride, field.reach, field.center) == ((16, 16), ((-30, 30), (-30, 30)), (0.0, 0.0))
    assert all(4 < one < 9 for one in field.centroid)  # trained away from the middle of its reach, to that of its cell
    assert all(3 < one < 8 for one in field.spread)
    assert field.fit["separable_error"] < 0.06
    assert field.fit["sampling_error"] < noise


def test_the_same_every_time_and_untouched_by_other_random_numbers() -> None:
    codec = small_model("bmshj2018-factorized")
    one = calibrate(codec, samples=2, cache=False)
    torch.manual_seed(99)
    before = torch.rand(1, generator=torch.default_generator.clone_state())
    two = calibrate(codec, samples=2, cache=False)
    assert torch.equal(before, torch.rand(1))
    np.testing.assert_array_equal(one.dense(), two.dense())


@pytest.mark.medium
def test_a_video_model() -> None:
    model = pytest.importorskip("compressai.models.video").ScaleSpaceFlow().eval()
    field = calibrate(model, "residual.y", torch.rand(1, 3, 128, 128), samples=2, cache=False)
    assert field.reach == ((-30, 30), (-30, 30))
    assert field.origin.startswith("model.res_decoder")
    with pytest.raises(ValueError, match=r"latent must be one of the model's, 'keyframe\.y', .*, got 'y'"):
        calibrate(model, "y", samples=2, cache=False)


class TestCache:
    def test_a_second_call_measures_nothing(self, tmp_path: Path) -> None:
        codec = Codec(colours([[1.0, 2.0], [1.0, 2.0]]), (1.0,))
        one = calibrate(codec, samples=2, cache=tmp_path)
        calls = codec.calls
        two = calibrate(codec, samples=2, cache=tmp_path)
        assert codec.calls == calls > 0
        np.testing.assert_array_equal(one.dense(), two.dense())
        assert (one.fit, one.origin, one.latent) == (two.fit, two.origin, two.latent)

    def test_another_question_is_measured(self, tmp_path: Path) -> None:
        codec = Codec(colours([[1.0, 2.0], [1.0, 2.0]]), (1.0,))
        images = torch.rand(1, 3, 16, 16)
        questions: list[dict[str, Any]] = [
            {"samples": 2},
            {"samples": 3},
            {"samples": 2, "images": images},
            {"samples": 2, "images": 1 - images},
            {"samples": 2, "synthesis": "decoder"},
        ]
        for count, question in enumerate(questions, start=1):
            calibrate(codec, **question, cache=tmp_path)
            assert len(list(tmp_path.glob("*.npz"))) == count
        with torch.no_grad():
            codec.decoder.weight[0, 0, 0, 0] += 1
        changed = calibrate(codec, samples=2, cache=tmp_path)
        assert len(list(tmp_path.glob("*.npz"))) == len(questions) + 1
        assert changed.kernel[0].vertical[0] > 0.51

    def test_a_damaged_file_is_replaced(self, tmp_path: Path) -> None:
        codec = Codec(colours([[1.0, 2.0], [1.0, 2.0]]), (1.0,))
        one = calibrate(codec, samples=2, cache=tmp_path)
        (path,) = tmp_path.glob("*.npz")
        path.write_bytes(path.read_bytes()[:100])
        two = calibrate(codec, samples=2, cache=tmp_path)
        np.testing.assert_array_equal(one.dense(), two.dense())
        np.testing.assert_array_equal(ReceptiveField.load(path).dense(), one.dense())

    def test_nothing_is_kept_when_told_not_to(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        calibrate(Codec(colours([[1.0, 2.0], [1.0, 2.0]]), (1.0,)), samples=2, cache=False)
        assert not list(tmp_path.rglob("*"))

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.warns(UserWarning, match="the receptive field cannot be kept in"):
            calibrate(Codec(colours([[1.0, 2.0], [1.0, 2.0]]), (1.0,)), samples=2, cache=tmp_path / "file")


class TestBadInput:
    def test_images_smaller_than_the_reach(self) -> None:
        model = small_model("bmshj2018-factorized")
        images = [torch.rand(1, 3, 96, 128), torch.rand(1, 3, 48, 96)]
        with pytest.raises(ValueError, match=r"at least 63 x 63 pixels, .* latent 'y' .* images\[1\] has 48 x 96"):
            calibrate(model, images=images, samples=2, cache=False)

    def test_images_that_padding_alone_would_make_large_enough(self) -> None:
        with pytest.raises(ValueError, match=r"at least 63 x 63 pixels, .* images\[0\] has 62 x 70, .* 64 x 64"):
            calibrate(small_model("mbt2018-mean"), images=torch.rand(1, 3, 62, 70), samples=2, cache=False)

    @pytest.mark.parametrize("samples", [1, 0, 2.0, True, "2"])
    def test_samples(self, samples: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="samples must be a whole number of at least 2"):
            calibrate(small_model("bmshj2018-factorized"), samples=samples)

    @pytest.mark.parametrize(
        ("images", "error", "message"),
        [
            ([], TypeError, "images must be a tensor"),
            (
                "cat.png",
                TypeError,
                r"images must be .*\[N, C, H, W\], .*got str; give load_image",
            ),
            (torch.rand(3, 96, 96), ValueError, r"images must be .* of shape \[3, 96, 96\]; give images\[None\]"),
            ([torch.rand(1, 3, 96, 96), None], TypeError, r"images\[1\] must be .*, got NoneType"),
            (torch.full((1, 3, 96, 96), 255.0), ValueError, r"images must have values in \[0, 1\]"),
        ],
    )
    def test_images(self, images: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            calibrate(small_model("bmshj2018-factorized"), images=images, samples=2)

    def test_models(self) -> None:
        with pytest.raises(TypeError, match=r"model must be an nn\.Module, .* got function"):
            calibrate(lambda x: x)  # type: ignore[arg-type, return-value]
        with pytest.raises(ValueError, match="in train mode"):
            calibrate(small_model("bmshj2018-factorized").train())
