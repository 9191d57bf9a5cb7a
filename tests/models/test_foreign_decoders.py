"""Decoders that are no module, take no grid, or have no forward mode, given as ``synthesis``."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from foreign_models import AsMethod, AsModule, Functional, OwnDerivative, Tokens, Whole, alike
from torch import Tensor, nn

from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.models.observe import watch_method
from bitrate_ext.models.trace import ModelTrace, SynthesisTransform

X = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
REACH = (((-1, 4), (-1, 4)), (4, 4))


@pytest.fixture
def whole() -> Whole:
    torch.manual_seed(0)
    return Whole()


def transform_of(model: nn.Module, synthesis: Any = None) -> SynthesisTransform:
    return ModelTrace(ModelAdapter(model), X, {}, synthesis).synthesis("y")


def test_a_method_is_found_with_all_that_it_is_given(whole: Whole) -> None:
    expected = transform_of(whole)
    tangent = torch.randn(1, 4, 8, 8)
    for kind in (AsMethod, Functional):
        model = alike(kind, whole)
        found = transform_of(model, model.decode)
        assert found.name == "AsModule.decode"
        assert torch.equal(found.inputs, expected.inputs)
        torch.testing.assert_close(found.energy(tangent), 4 * expected.energy(tangent))  # its gain is 2
        assert found.reach() == REACH
        assert "decode" not in vars(model)


def test_a_function_is_given_the_values_of_the_entropy_model(whole: Whole) -> None:
    expected, tangent = transform_of(whole), torch.randn(1, 4, 8, 8)
    model = alike(Tokens, whole)
    found = transform_of(model, lambda y: model.from_tokens(y.flatten(2).mT))
    assert torch.equal(found.inputs, expected.inputs)
    torch.testing.assert_close(found.energy(tangent), expected.energy(tangent))
    assert found.reach() == REACH


def test_a_module_of_the_model_goes_by_its_name(whole: Whole) -> None:
    assert transform_of(whole, whole.whole).name == "whole"
    assert transform_of(whole, "whole").name == "whole"
    other = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(4, 3, 1))  # of no model's: as any callable
    assert transform_of(whole, other).name == "Sequential"


def test_double_backward_stands_in_for_forward_mode(whole: Whole) -> None:
    expected, found = transform_of(whole), transform_of(alike(OwnDerivative, whole))
    tangent = torch.randn(1, 4, 8, 8)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError):
        found.transform(torch.autograd.forward_ad.make_dual(found.inputs, tangent))
    torch.testing.assert_close(found.energy(tangent), expected.energy(tangent))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    torch.testing.assert_close(found.symbol_energy(3, generators[0]), expected.symbol_energy(3, generators[1]))
    assert all(p.grad is None for p in whole.parameters())


def test_a_latent_among_other_channels_by_double_backward(whole: Whole) -> None:
    inputs, tangent = torch.randn(1, 4, 8, 8), torch.randn(1, 2, 8, 8)
    energies = [
        SynthesisTransform("", model.whole, inputs, slice(1, 3)).energy(tangent)
        for model in (whole, alike(OwnDerivative, whole))
    ]
    torch.testing.assert_close(*energies)


@pytest.mark.parametrize("way", ["no_grad", "once"])
def test_a_decoder_without_derivatives_is_named(whole: Whole, way: str) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, y: Tensor) -> Tensor:
            return 2 * y

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return 2 * gradient

    class Detached(Whole):
        def curved(self, y: Tensor) -> Tensor:
            if way == "once":
                return Once.apply(y)
            with torch.no_grad():
                return 2 * y

    found = transform_of(alike(Detached, whole))
    if way == "once":
        with pytest.raises(ValueError, match=r"whole must be differentiable, .* or jvp"):
            found.energy(torch.ones(1, 4, 8, 8))
    else:
        with pytest.raises(ValueError, match=r"whole must be differentiable, .*run without no_grad"):
            found.symbol_energy(1, torch.Generator())


@pytest.mark.parametrize(
    ("synthesis", "error", "words"),
    [
        (3, TypeError, "synthesis must be the name of a module, or a callable that takes a latent .*, got int"),
        (lambda y: y[:, :3], ValueError, r"must take latent 'y', \[1, 4, 8, 8\], to a tensor \[N, C, 32, 32\], got \["),
        (lambda y: None, ValueError, r"to a tensor \[N, C, 32, 32\], got NoneType"),
        (lambda y: y @ torch.ones(3, 3), ValueError, "does not take latent 'y': "),
        (lambda y, z: y, ValueError, "does not take latent 'y': .*missing 1 required positional argument"),
        ("decode", ValueError, "looked for a module 'decode' of the model.*give the decoder as `synthesis` to"),
    ],
)
def test_what_serves_as_no_decoder_is_named(whole: Whole, synthesis: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        transform_of(whole, synthesis)


def test_values_that_are_not_seen_are_told(whole: Whole) -> None:
    model = alike(Functional, whole)
    with pytest.raises(ValueError, match=r"is not called with latent 'y', \[1, 4, 8, 8\], in a run.*as model\.decode"):
        transform_of(model, lambda y: model.decode(y))
    assert transform_of(model, model.decode).reach() == REACH  # the remedy


def test_a_latent_behind_another_is_still_found(whole: Whole) -> None:
    class Hyper(AsMethod):
        def __init__(self) -> None:
            super().__init__()
            self.hyper_analysis = nn.Conv2d(4, 2, 2, stride=2)
            self.hyper_entropy_model = type(self.entropy_model)()
            self.hyper_synthesis = nn.ConvTranspose2d(2, 4, 2, stride=2)

        def forward(self, x: Tensor) -> dict[str, Any]:
            y = 6 * self.analysis(x)
            z_hat, z = self.hyper_entropy_model(self.hyper_analysis(y))
            shift = self.hyper_synthesis(z_hat)
            y_hat, p = self.entropy_model(y - shift)
            return {"x_hat": self.decoded(y_hat + shift), "likelihoods": {"y": p, "z": z}}

    model = Hyper().eval()
    run = ModelTrace(ModelAdapter(model), X, {}, model.decode)
    found = run.hyper_synthesis("z")
    assert found is not None
    assert (found[0].name, found[1]) == ("hyper_synthesis", "y")
    assert run.reaches_image(*found)
    assert run.synthesis("y").name == "AsModule.decode"


def test_a_method_that_was_replaced_on_the_object_is_put_back(whole: Whole) -> None:
    model = alike(AsMethod, whole)
    replaced = AsModule.decode.__get__(model)
    model.decode = replaced
    calls: list[str] = []

    def after(name: str, *_: Any) -> None:
        calls.append(name)

    def interrupted() -> None:
        with watch_method(model.decode, after, lambda *_: None):
            model(X)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert vars(model)["decode"] is replaced
    assert calls == ["AsModule.decode"]


def test_threads_that_watch_one_method_take_turns(whole: Whole) -> None:
    model = alike(AsMethod, whole)
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(transform_of(model, model.decode).name)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["AsModule.decode"] * 4
    assert "decode" not in vars(model)
