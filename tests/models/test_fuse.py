"""``fuse``: CompressAI's models through the operator, with their outputs, their values and their gradients."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import BitrateMapper, fuse, latent_bits, rate
from bitrate_ext.models.compressai_quirks import apply_workarounds
from bitrate_ext.ops.rate.deferred import DeferredLikelihoods, StaleSourceError, sources_of
from bitrate_ext.ops.rate.packed import Concatenated

entropy = pytest.importorskip("compressai.entropy_models")
latent_codecs = pytest.importorskip("compressai.latent_codecs")
pytestmark = pytest.mark.usefixtures("one_thread")
FLOOR = 1.00001e-9


def named(likelihoods: Any, name: str = "") -> dict[str, Tensor]:
    if isinstance(likelihoods, Tensor):
        return {name: likelihoods}
    items = likelihoods.items() if isinstance(likelihoods, dict) else enumerate(likelihoods)
    return {k: v for key, one in items for k, v in named(one, f"{name}.{key}").items()}


def state(model: nn.Module) -> list[Any]:
    """Return all that can be seen of a model: classes, attributes, hooks, and the bytes of its tensors."""
    seen: list[Any] = [(key, value.clone()) for key, value in model.state_dict().items()]
    for name, module in model.named_modules():
        attributes = {k: v for k, v in vars(module).items() if not isinstance(v, (dict, Tensor))}
        registries = {k: list(v.items()) for k, v in vars(module).items() if isinstance(v, dict)}
        seen.append((name, type(module), attributes, registries))
    return seen


def same(found: list[Any], before: list[Any]) -> bool:
    if len(found) != len(before):
        return False
    for one, other in zip(found, before, strict=True):
        if len(one) == 2 and isinstance(one[1], Tensor):
            if one[0] != other[0] or not torch.equal(one[1], other[1]):
                return False
        elif repr(one) != repr(other) or one[1] is not other[1]:
            return False
    return True


def both(model: nn.Module, *given: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Run a model as CompressAI does, and fused, with the same noise."""
    torch.manual_seed(3)
    theirs = model(*given, **kwargs)
    with fuse(model) as fused:
        assert fused.left == {}
        torch.manual_seed(3)
        return theirs, model(*given, **kwargs)


@pytest.mark.medium
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_registered_image_model(name: str, training: bool) -> None:
    model = zoo.coded_model(name)
    kwargs = zoo.set_rate(model, 2)
    model.train(training)
    x = torch.rand(2, 3, 64, 128)
    model(x, **kwargs)  # CompressAI's masked convolutions set their weights
    before = state(model)
    theirs, ours = both(model, x, **kwargs)
    assert same(state(model), before)
    assert torch.equal(ours["x_hat"], theirs["x_hat"])
    total, expected = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for latent, p in theirs["likelihoods"].items():
        made = ours["likelihoods"][latent]
        deferred = isinstance(made, DeferredLikelihoods)
        assert deferred != (name == "mbt2018-vbr" and latent == "y")  # which the model writes cell by cell
        assert latent in sources_of(ours["likelihoods"])
        assert (made.shape, made.dtype, made.requires_grad) == (p.shape, p.dtype, p.requires_grad)
        total = total + rate(made).sum()  # before anything is made
        assert not deferred or made._held._made is None
        torch.testing.assert_close(made.clone(), p, rtol=1e-4, atol=3e-7)
        assert (made.min() <= FLOOR) == (p.min() <= FLOOR)
        expected = expected - p.double().log2().sum()
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    if training:
        parameters = list(model.parameters())
        got, wanted = (torch.autograd.grad(one, parameters, allow_unused=True) for one in (total, expected))
        for one, other in zip(got, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert (one - other).norm() <= 2e-5 * other.norm() + 1e-12


@pytest.mark.medium
def test_a_video_model() -> None:
    model = zoo.video_model()
    frames = [torch.rand(1, 3, 128, 128) for _ in range(2)]
    before = state(model)
    with torch.no_grad():
        theirs, ours = both(model, frames)
    assert same(state(model), before)
    for one, other in zip(ours["x_hat"], theirs["x_hat"], strict=True):
        assert torch.equal(one, other)
    for made, p in zip(named(ours["likelihoods"]).values(), named(theirs["likelihoods"]).values(), strict=True):
        assert isinstance(made, DeferredLikelihoods)
        torch.testing.assert_close(rate(made).sum(), -p.double().log2().sum(), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(made.clone(), p, rtol=1e-4, atol=3e-7)


def mixture_codec(channels: int = 3) -> tuple[Any, list[Tensor]]:
    torch.manual_seed(0)
    module = entropy.GaussianMixtureConditional(K=2)
    wide = [torch.rand(2, 2 * channels, 4, 5) for _ in range(2)]
    weights = torch.softmax(torch.randn(2, 2, channels, 4, 5), 1).flatten(1, 2)
    return module, [torch.randn(2, channels, 4, 5) * 3, *wide, weights]


@pytest.mark.parametrize("training", [False, True])
def test_mixtures(training: bool) -> None:
    module, given = mixture_codec()
    leaves = [one.requires_grad_() for one in given]
    (outputs, p), (same_outputs, made) = both(module.train(training), *leaves)
    assert torch.equal(outputs, same_outputs)
    torch.testing.assert_close(made.clone(), p, rtol=1e-5, atol=3e-7)
    wanted = torch.autograd.grad(-p.double().log2().sum(), leaves)
    for got, other in zip(torch.autograd.grad(rate(made).sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", [None, 0.7])
@pytest.mark.parametrize("ste", [False, True])
def test_the_prior_of_variable_rates(step: float | None, ste: bool) -> None:
    module = entropy.EntropyBottleneckVbr(4)
    qs = None if step is None else torch.tensor(step)
    x = (torch.randn(2, 4, 3, 5) * 4).requires_grad_()
    leaves = [x, *(p for name, p in module.named_parameters() if name != "quantiles")]
    for training in (False, True):
        (outputs, p), (same_outputs, made) = both(module.train(training), x, qs=qs, ste=ste)
        assert torch.equal(outputs, same_outputs)
        torch.testing.assert_close(made.clone(), p, rtol=1e-4, atol=3e-7)
        got, wanted = (
            torch.autograd.grad(one, leaves, allow_unused=True) for one in (rate(made).sum(), -p.double().log2().sum())
        )
        assert [one is None for one in got] == [one is None for one in wanted]
        for one, other in zip(got, wanted, strict=True):
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_step_s_true_cost_is_corrected_in_either_way() -> None:
    model = zoo.coded_model("mbt2018-mean-vbr")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), apply_workarounds(model) as said:
        theirs = model(x, s=3)["likelihoods"]["z"]
    with torch.no_grad(), fuse(model), apply_workarounds(model) as same:
        ours = model(x, s=3)["likelihoods"]["z"]
    assert said == same != []
    assert isinstance(ours, DeferredLikelihoods)
    torch.testing.assert_close(rate(ours).sum(), -theirs.double().log2().sum(), rtol=1e-6, atol=0)


class Own(entropy.GaussianConditional):  # type: ignore[misc]
    """A stranger's: Laplace under a Gaussian's name."""

    def _likelihood(self, inputs: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
        return 0.5 * torch.exp(-(inputs - (0 if means is None else means)).abs() / scales)


class Rounding(entropy.GaussianConditional):  # type: ignore[misc]
    """A stranger's with another way to quantise, and CompressAI's likelihoods."""

    def quantize(self, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        return inputs.floor()


def test_what_computes_likelihoods_its_own_way_is_left_alone() -> None:
    gaussian, given = entropy.GaussianConditional(None), (torch.randn(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    models = nn.ModuleDict({"own": Own(None), "rounding": Rounding(None), "patched": copy.deepcopy(gaussian)})
    models["patched"]._likelihood = lambda inputs, *_: torch.full_like(inputs, 0.25)
    models["called"] = copy.deepcopy(gaussian)
    models["called"].forward = models["called"].forward
    models["bound"] = copy.deepcopy(gaussian)
    models["bound"].lower_bound_scale = nn.Identity()
    expected = {name: module(*given) for name, module in models.eval().items()}
    with fuse(models) as fused:
        assert fused.names == ("rounding",)
        assert fused.left == {
            "own": "Own has a _likelihood of its own",
            "patched": "GaussianConditional has a _likelihood of its own",
            "called": "GaussianConditional has a forward of its own",
            "bound": "its lower_bound_scale is no LowerBound of CompressAI's",
        }
        assert "patched left alone: GaussianConditional has a _likelihood of its own" in repr(fused)
        for name, module in models.items():
            outputs, p = module(*given)
            assert torch.equal(outputs, expected[name][0])
            assert isinstance(p, DeferredLikelihoods) == (name == "rounding")
            torch.testing.assert_close(p.clone(), expected[name][1], rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize(
    "given",
    [
        (torch.randn(1, 2, 8), torch.ones(1, 2, 8)),
        (torch.randn(1, 2, 3, 4).double(), torch.ones(1, 2, 3, 4)),
        (torch.randn(1, 2, 3, 4).half(), torch.ones(1, 2, 3, 4).half()),
        (torch.randn(1, 2, 3, 1), torch.ones(1, 2, 3, 4)),
    ],
    ids=["three dimensions", "two dtypes", "half", "values that spread"],
)
def test_what_no_source_takes_is_compressais(given: tuple[Tensor, Tensor]) -> None:
    theirs, ours = both(entropy.GaussianConditional(None).eval(), *given)
    assert type(ours[1]) is Tensor
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_scales_for_each_channel_spread() -> None:
    theirs, ours = both(entropy.GaussianConditional(None).eval(), torch.randn(2, 3, 4, 5) * 3, torch.rand(3, 1, 1) + 1)
    assert isinstance(ours[1], DeferredLikelihoods)
    torch.testing.assert_close(ours[1].clone(), theirs[1], rtol=1e-5, atol=3e-7)


class Sliced(nn.Module):
    """A stranger's codec: slices, one after the other, whose likelihoods are put together or changed by hand."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.analysis, self.change = nn.Conv2d(3, 6, 8, stride=8), change
        self.gaussian_conditional = entropy.GaussianConditional(None)
        self.synthesis = nn.ConvTranspose2d(6, 3, 8, stride=8)

    def forward(self, x: Tensor) -> dict[str, Any]:
        parts = (20 * self.analysis(x)).chunk(2, 1)
        coded = [self.gaussian_conditional(part, part.detach().abs() + 0.3) for part in parts]
        if self.change == "outputs":
            coded[0][0].add_(1)
        p = torch.cat([one[1] for one in coded], 1)
        if self.change == "product":
            p = p * 0.5
        if self.change == "mask":
            p[:, :, 0] = 1.0
        if self.change == "view":
            p.detach().view(-1)[:5].fill_(0.125)
        return {"x_hat": self.synthesis(torch.cat([one[0] for one in coded], 1)), "likelihoods": {"y": p}}


@pytest.mark.parametrize("change", ["", "outputs", "product", "mask", "view"])
def test_likelihoods_that_the_model_changes_are_what_it_says(change: str) -> None:
    model = Sliced(change).eval()
    x = torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        theirs, ours = both(model, x)
    assert torch.equal(ours["x_hat"], theirs["x_hat"])
    p, made = theirs["likelihoods"]["y"], ours["likelihoods"]["y"]
    torch.testing.assert_close(latent_bits(made), latent_bits(p), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.clone(), p, rtol=1e-5, atol=3e-7)
    result = BitrateMapper(model)(x)
    assert result.sources == (("y",) if change in ("", "outputs") else ())
    assert list(result.unseen) == ([] if result.sources else ["y"])
    torch.testing.assert_close(result.total_bits, -p.double().log2().sum((1, 2, 3)), rtol=1e-5, atol=0)


class Writing(Sliced):
    """It writes into the scales once the likelihoods are known."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = 20 * self.analysis(x)
        scales = y.detach().abs() + 0.3
        y_hat, p = self.gaussian_conditional(y, scales)
        scales.mul_(2)
        return {"x_hat": self.synthesis(y_hat), "likelihoods": {"y": p}}


def test_distributions_that_are_written_into_never_give_a_wrong_number() -> None:
    model = Writing("").eval()
    x = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        theirs, ours = both(model, x)
    for use in (rate, latent_bits, torch.log):
        with pytest.raises(StaleSourceError, match="before the scales, means or weights that they are made of"):
            use(ours["likelihoods"]["y"])
    result = BitrateMapper(model)(x)  # which runs the model once more, as it is
    assert result.sources == ()
    torch.testing.assert_close(
        result.total_bits, -theirs["likelihoods"]["y"].double().log2().sum((1, 2, 3)), rtol=1e-6, atol=0
    )


def test_a_prior_that_has_been_trained_since_is_the_one_of_the_call() -> None:
    module = entropy.EntropyBottleneck(3).eval()
    x = torch.randn(1, 3, 4, 4) * 3
    theirs, ours = both(module, x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    torch.testing.assert_close(rate(ours[1]).sum(), -theirs[1].double().log2().sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(ours[1].clone(), theirs[1], rtol=1e-5, atol=3e-7)


def test_blocks_nest_and_end_with_errors() -> None:
    model = zoo.coded_model("mbt2018-mean")
    before, x = state(model), torch.rand(1, 3, 64, 64)
    kinds = [type(module) for module in model.modules()]

    def deferred() -> bool:
        with torch.no_grad():
            return isinstance(model(x)["likelihoods"]["y"], DeferredLikelihoods)

    with fuse(model):
        with fuse(model):
            assert deferred()
        assert deferred()
        assert isinstance(model.gaussian_conditional, entropy.GaussianConditional)
    assert not deferred()
    with contextlib.suppress(ZeroDivisionError), fuse(model):
        raise ZeroDivisionError
    assert not deferred()
    fused, other = fuse(model), fuse(model)
    fused.undo()
    fused.undo()
    assert deferred()  # until the last has ended
    other.undo()
    assert not deferred()
    assert [type(module) for module in model.modules()] == kinds
    assert same(state(model), before)


def test_copies_and_pickles_are_not_fused() -> None:
    model = zoo.small_model("bmshj2018-factorized")
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad(), fuse(model):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model.entropy_bottleneck)]
        expected = model(x)["x_hat"]
    assert type(copies[2]) is entropy.EntropyBottleneck
    for one in copies[:2]:
        with torch.no_grad():
            found = one(x)
        assert type(one.entropy_bottleneck) is entropy.EntropyBottleneck
        assert type(found["likelihoods"]["y"]) is Tensor
        assert torch.equal(found["x_hat"], expected)


def test_coding_and_tables_are_compressais() -> None:
    model = zoo.coded_model("mbt2018-mean")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.compress(x)["strings"]
        with fuse(model):
            model.update(force=True)
            assert model.compress(x)["strings"] == expected
            assert model.aux_loss() == model.aux_loss()


def test_several_threads_share_a_model() -> None:
    model = zoo.coded_model("bmshj2018-factorized")
    x, wrong = torch.rand(1, 3, 32, 32), list[str]()
    with torch.no_grad():
        expected = -model(x)["likelihoods"]["y"].double().log2().sum()

    def look() -> None:
        for _ in range(20):
            with torch.no_grad(), fuse(model):
                p = model(x)["likelihoods"]["y"]
                if not isinstance(p, DeferredLikelihoods) or abs(rate(p).sum() - expected) > 1e-6 * expected:
                    wrong.append(type(p).__name__)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert type(model.entropy_bottleneck) is entropy.EntropyBottleneck


def test_a_forgotten_model_is_freed() -> None:
    model = zoo.coded_model("bmshj2018-factorized")
    forgotten = weakref.ref(model.entropy_bottleneck)
    fuse(model)
    del model
    gc.collect()
    assert forgotten() is None


@pytest.mark.medium
def test_compiled_models_are_left_alone() -> None:
    model = zoo.coded_model("bmshj2018-factorized")
    compiled = torch.compile(model, backend="eager")
    with fuse(nn.ModuleList([compiled])) as fused:
        assert fused.names == ()
        assert fused.left == {"0._orig_mod.entropy_bottleneck": "torch.compile runs it"}
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad(), fuse(model):  # whatever compiles a fused one sees CompressAI's own code
        p = torch.compile(model, backend="eager")(x)["likelihoods"]["y"]
        assert type(p) is Tensor


def test_inference_mode() -> None:
    model = zoo.coded_model("mbt2018-mean")
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode(), fuse(model):
        out = model(x)
        assert isinstance(out["likelihoods"]["y"], DeferredLikelihoods)
        before = rate(out["likelihoods"]).clone()
        out["x_hat"].zero_()
        torch.testing.assert_close(before, -sum(p.double().log2().sum() for p in out["likelihoods"].values())[None])


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got function"):
        fuse(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one of CompressAI's entropy models in it, got Conv2d with none"):
        bitrate_ext.fuse(nn.Conv2d(1, 1, 1))


def test_slices_of_slices() -> None:
    module, y = entropy.GaussianConditional(None).eval(), torch.randn(2, 3, 4, 5) * 2
    with fuse(module):
        p = [module(y + shift, torch.ones_like(y))[1] for shift in (0.0, 0.2, 0.4)]
    joined = torch.cat([torch.cat(p[:2], dim=-3), p[2]], 1)
    assert isinstance(joined, DeferredLikelihoods)
    assert isinstance(joined.source, Concatenated)
    assert joined.shape == (2, 9, 4, 5)
    expected = sum(rate(one) for one in p)
    torch.testing.assert_close(rate({"y": joined}), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(joined.clone(), torch.cat([one.clone() for one in p], 1))
    assert torch.cat(p, 0).source.shape == (6, 3, 4, 5)
    assert type(torch.cat([p[0], torch.ones(2, 1, 4, 5)], 1)) is Tensor


@pytest.mark.medium
@pytest.mark.parametrize("name", zoo.SMALL)
def test_the_whole_zoo_is_seen_and_its_channels_add_up(name: str) -> None:
    model = zoo.coded_model(name)
    result = BitrateMapper(model, channels=True)(torch.rand(2, 3, 60, 70), **zoo.set_rate(model, 2))
    assert result.sources == tuple(result.maps)
    assert result.unseen == {}
    for bits in result.channel_bits.values():
        assert bits.dtype == torch.float64
    total = sum(bits.sum(1) for bits in result.channel_bits.values())
    torch.testing.assert_close(total, result.total_bits, rtol=1e-12, atol=0)
    whole = result.channel_map("y", slice(None))
    torch.testing.assert_close(whole, result.maps["y"], rtol=1e-6, atol=1e-9)


def test_maps_of_sources_have_gradients() -> None:
    model = zoo.coded_model("mbt2018-mean")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():  # spread out, where the float32 chain's gradients have not vanished
        model.entropy_bottleneck.quantiles.zero_()
    parameters = [p for name, p in model.named_parameters() if name.startswith("h_s") or "entropy_b" in name]
    with fuse(model):
        expected = rate(model(x)["likelihoods"]).sum()
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    result = BitrateMapper(model)(x, gradients=True)
    assert result.sources == ("y", "z")
    got = torch.autograd.grad(result.total_bits.sum(), parameters, allow_unused=True)
    assert any(one is not None and one.abs().sum() > 0 for one in got)
    assert [one is None for one in got] == [one is None for one in wanted]


def test_what_is_not_finite_is_told() -> None:
    model = zoo.small_model("mbt2018-mean")
    with torch.no_grad():
        model.g_a[-1].bias[0] = torch.nan
    result = BitrateMapper(model)(torch.rand(1, 3, 64, 64))
    assert result.total_bits.isnan().all()
    told = [
        line for line in result.warnings if line.startswith("the bits of latent 'y' are not finite in 16 of 16 cells")
    ]
    assert len(told) == 1
