"""What entropy models believed: scales and means of their distributions, over the picture."""

from __future__ import annotations

import math

import pytest
import torch
from block_codecs import BlockCodec

import bitrate_ext
from bitrate_ext import BitrateMapper
from bitrate_ext.mapping.beliefs import beliefs_of, expected_bits
from bitrate_ext.ops.rate.cells import symbol_bits
from bitrate_ext.ops.rate.packed import Concatenated
from bitrate_ext.ops.sources import Factorized, Gaussian, GaussianMixture, Laplace, Logistic, Source


def ones(count: int, value: float = 1.0) -> torch.Tensor:
    return torch.full((1, count, 2, 2), value)


@pytest.mark.parametrize(
    ("kind", "deviation"), [(Gaussian, 1.0), (Laplace, math.sqrt(2)), (Logistic, math.pi / math.sqrt(3))]
)
def test_standard_deviations_of_each_distribution(kind: type[Source], deviation: float) -> None:
    source = kind(ones(3), ones(3, 0.01), ones(3, -2.0))  # type: ignore[call-arg]
    believed = beliefs_of({"y": source})["y"]
    torch.testing.assert_close(believed["scales"], ones(3, 0.11 * deviation))  # bounded
    torch.testing.assert_close(believed["means"], ones(3, -2.0))


@pytest.mark.parametrize("kind", [Gaussian, Laplace, Logistic])
def test_expected_bits_are_the_entropy(kind: type[Source]) -> None:
    scales = [0.05, 0.11, 0.3, 1.0, 2.7, 40.0, 300.0]
    steps = torch.arange(-20_000.0, 20_001.0)
    for scale in scales:
        alike = torch.full((1, 1, 1, len(steps)), scale, dtype=torch.float64)
        bits = symbol_bits(kind(steps[None, None, None].double(), alike).flat())  # type: ignore[call-arg]
        entropy = float((bits * (-bits).exp2()).nan_to_num().sum())
        source = kind(ones(3, 2.25), ones(3, scale), ones(3, 1.25))  # type: ignore[call-arg]
        found = expected_bits({"y": source, "z": Gaussian(ones(1, 0.5), ones(1))})
        assert list(found) == ["y"]  # z: noisy, in no steps from its means
        torch.testing.assert_close(found["y"], torch.full((1, 2, 2), 3 * entropy).double(), rtol=0, atol=3e-4)


def test_expected_bits_of_a_factorised_prior() -> None:
    pytest.importorskip("compressai")
    from compressai.entropy_models import EntropyBottleneck

    torch.manual_seed(1)
    prior = EntropyBottleneck(3, init_scale=30).eval()
    with torch.no_grad():
        prior.quantiles[:, 0, 1] = torch.tensor([0.3, -7.4, 0.0])
    lattice = prior.quantiles[:, :, 1:2].detach().transpose(0, 1)[..., None] + torch.arange(-3000.0, 3001.0)
    bits = symbol_bits(Factorized(prior, lattice.reshape(1, 3, 1, -1).clone()).flat()).detach()
    entropy = float((bits * (-bits).exp2()).nan_to_num().sum())
    values = lattice.reshape(1, 3, 1, -1)[..., 2990:3002].reshape(1, 3, 2, 6).clone()
    found = expected_bits({"z": Factorized(prior, values), "noisy": Factorized(prior, values + torch.rand(1, 3, 2, 6))})
    assert list(found) == ["z"]
    torch.testing.assert_close(found["z"], torch.full((1, 2, 6), entropy).double(), rtol=0, atol=3e-4)


def test_a_mixture_is_one_distribution() -> None:
    parts = [torch.cat([ones(3, low), ones(3, high)], dim=1) for low, high in ((1.0, 2.0), (-1.0, 3.0), (0.25, 0.75))]
    believed = beliefs_of({"y": GaussianMixture(ones(3), *parts)})["y"]
    torch.testing.assert_close(believed["means"], ones(3, 2.0))
    variance = 0.25 * (1 + 9) + 0.75 * (4 + 1)
    torch.testing.assert_close(believed["scales"], ones(3, math.sqrt(variance)))


def test_slices_are_put_together() -> None:
    parts = (Gaussian(ones(1), ones(1, 2.0)), Laplace(ones(2), ones(2), ones(2)))
    believed = beliefs_of({"y": Concatenated(parts)})["y"]
    assert believed["scales"][0, :, 0, 0].tolist() == pytest.approx([2.0, math.sqrt(2), math.sqrt(2)])
    assert believed["means"][0, :, 0, 0].tolist() == [0.0, 1.0, 1.0]


def test_of_a_codec() -> None:
    pytest.importorskip("compressai")
    from compressai.models import MeanScaleHyperprior

    torch.manual_seed(1)
    model = MeanScaleHyperprior(8, 12).eval()
    seen = {}
    model.gaussian_conditional.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(scales=args[1], means=kwargs.get("means")), with_kwargs=True
    )
    x = torch.rand(2, 3, 70, 101)
    result = BitrateMapper(model, beliefs=True)(x)
    assert set(result.beliefs) == {"y"}
    torch.testing.assert_close(result.beliefs["y"]["scales"], seen["scales"].clamp(min=0.11))
    torch.testing.assert_close(result.beliefs["y"]["means"], seen["means"])
    laid = result.belief_map("y", "means", [3, -1])
    assert laid.shape == (2, 1, 70, 101)
    top, left, _, _ = result.crop
    expected = seen["means"][1, [3, 11], (top + 20) // 16, (left + 90) // 16].mean()
    assert float(laid[1, 0, 20, 90]) == pytest.approx(float(expected))
    torch.testing.assert_close(result.belief_map("y"), result.belief_map("y", "scales", slice(None)))
    with pytest.raises(ValueError, match="channel of latent 'y' must be from 0 to 11, got 12"):
        result.belief_map("y", "scales", 12)
    with pytest.raises(ValueError, match="got 'scales' of 'z'; known: 'scales' of latent 'y', 'means' of latent 'y'"):
        result.belief_map("z")
    assert not BitrateMapper(model)(x).beliefs


def test_nothing_is_known_of_likelihoods_alone() -> None:
    result = BitrateMapper(BlockCodec().eval(), beliefs=True)(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="known: nothing; the mapper keeps them with beliefs=True"):
        result.belief_map("y")


@pytest.mark.parametrize("options", [{"bits": "coded"}, {"sources": False}])
def test_beliefs_are_of_estimates(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="they need bits='estimated', sources=True"):
        BitrateMapper(bitrate_ext.load_demo_codec(), beliefs=True, **options)  # type: ignore[arg-type]
