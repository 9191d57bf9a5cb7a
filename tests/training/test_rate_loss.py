"""``RateLoss``: CompressAI's numbers, importance brought down to the cells, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

from bitrate_ext import Gaussian, RateLoss, bitrate_map, calibrate, fuse
from bitrate_ext.ops.rate.deferred import DeferredLikelihoods

RateDistortionLoss = pytest.importorskip("compressai.losses").RateDistortionLoss
pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (70, 101)


def latents(batch: int = 2) -> dict[str, Tensor]:
    return {"y": torch.rand(batch, 5, 5, 7) * 0.9 + 0.05, "z": torch.rand(batch, 2, 2, 2) * 0.9 + 0.05}


def output(batch: int = 2) -> dict[str, Any]:
    return {"likelihoods": latents(batch), "x_hat": torch.rand(batch, 3, *SIZE)}


def test_an_output_of_named_fields() -> None:
    p, x = latents(), torch.rand(2, 3, *SIZE)
    Output = namedtuple("Output", "x_hat y y_likelihoods quantized_y_likelihoods z_likelihoods")
    found = RateLoss(lmbda=0.01)(Output(x, x, p["y"], p["y"] ** 2, p["z"]), x)
    torch.testing.assert_close(found["bpp_loss"], RateLoss()(p, x))
    assert found["mse_loss"] == 0


@pytest.mark.parametrize("fused", [False, True], ids=["likelihoods", "sources"])
@pytest.mark.parametrize("metric", ["mse", "ms-ssim"])
def test_it_stands_in_for_compressais_loss(metric: str, fused: bool) -> None:
    model = zoo.coded_model("mbt2018-mean").train()
    x = torch.rand(2, 3, 192, 192)
    theirs, ours = RateDistortionLoss(0.02, metric), RateLoss(lmbda=0.02, metric=metric)
    torch.manual_seed(1)
    expected = theirs(model(x), x)
    torch.manual_seed(1)
    if fused:
        with fuse(model):
            out = model(x)
            found = ours(out, x)
        assert all(one._held._made is None for one in out["likelihoods"].values())
    else:
        found = ours(model(x), x)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    parameters = [p for p in model.parameters() if p.requires_grad]
    got, wanted = (torch.autograd.grad(one["loss"], parameters, allow_unused=True) for one in (found, expected))
    for one, other in zip(got, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one - other).norm() <= 1e-4 * other.norm() + 1e-9
    out = model.eval()(x)
    assert torch.equal(RateLoss(lmbda=0.02, metric=metric, return_type="loss")(out, x), ours(out, x)["loss"])


def test_it_is_in_compressais_registry() -> None:
    from compressai.registry import CRITERIONS

    assert CRITERIONS["RateLoss"] is RateLoss
    assert isinstance(CRITERIONS["RateLoss"](lmbda=0.01), nn.Module)


def test_reductions() -> None:
    out, x = output(3), torch.rand(3, 3, *SIZE)
    each = RateLoss("none")(out, x)
    bits = sum(-p.double().log2().sum((1, 2, 3)) for p in out["likelihoods"].values())
    torch.testing.assert_close(each, (bits / (70 * 101)).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(RateLoss()(out, x), each.mean())
    torch.testing.assert_close(RateLoss("sum")(out, x), each.sum())
    for metric, name in (("mse", "mse_loss"), ("ms-ssim", "ms_ssim_loss")):
        out["x_hat"] = x_hat = torch.rand(3, 3, 180, 180)
        target = (x_hat + 0.1 * torch.rand_like(x_hat)).clamp(0, 1)
        singles = RateLoss("none", lmbda=2.0, metric=metric)(out, target)
        for one in range(3):
            alone = {"x_hat": x_hat[one][None], "likelihoods": {k: p[one][None] for k, p in out["likelihoods"].items()}}
            for key, value in RateDistortionLoss(2.0, metric)(alone, target[one][None]).items():
                torch.testing.assert_close(singles[key][one], value, rtol=1e-5, atol=1e-7)
        for reduction in ("mean", "sum"):
            whole = RateLoss(reduction, lmbda=2.0, metric=metric)(out, target)
            for key in ("loss", name, "bpp_loss"):
                torch.testing.assert_close(whole[key], getattr(singles[key], reduction)(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("projection", ["nearest", "bilinear", "area", "measured"])
def test_importance_is_that_of_the_map(projection: Any, impl: str) -> None:
    """The sum over cells is the sum over the map's pixels, at sizes that no stride divides, and so are gradients."""
    size, values = SIZE, {name: p.double().requires_grad_() for name, p in latents().items()}
    if projection == "measured":
        size, values = (80, 112), {"y": values["y"]}
        projection = calibrate(zoo.small_model("bmshj2018-factorized"), samples=2, cache=False)
        assert len(projection.terms) > 1
    for importance in (torch.rand(size), torch.rand(2, 1, *size).double() - 0.3, torch.rand(1, 1, *size) > 0.5):
        found = RateLoss("none", projection=projection, impl=impl)(values, size=size, importance=importance)
        expected = (bitrate_map(values, size, projection=projection) * importance).sum((1, 2, 3)) / (size[0] * size[1])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
        got, wanted = (torch.autograd.grad(one.sum(), list(values.values())) for one in (found, expected))
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_importance_has_gradients() -> None:
    importance, values = torch.rand(SIZE).double().requires_grad_(), latents()
    (got,) = torch.autograd.grad(RateLoss("sum")(values, size=SIZE, importance=importance), importance)
    torch.testing.assert_close(got, bitrate_map(values, SIZE).sum((0, 1)).double() / (70 * 101), rtol=1e-5, atol=1e-9)


def test_the_module_s_own_importance_comes_down_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitrate_ext.training import importance as room

    calls: list[int] = []
    inner = room.sum_guide
    monkeypatch.setattr(room, "sum_guide", lambda *given: calls.append(1) or inner(*given))
    own, values = torch.rand(SIZE), latents()
    loss = RateLoss(importance=own)
    assert "importance" not in loss.state_dict()
    first = loss(values)
    assert loss(values) == first == RateLoss()(values, importance=own)
    assert len(calls) == 2 + 2
    with torch.no_grad():
        loss.importance.mul_(2)
    torch.testing.assert_close(loss(values), 2 * first)
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(copied(values), 2 * first)
    wide = {name: p.double() for name, p in values.items()}
    assert loss.double()(wide).dtype == torch.float64
    with torch.inference_mode():
        loss(values)
    leaf = values["y"].clone().requires_grad_()
    loss({"y": leaf}).backward()
    assert leaf.grad is not None


def test_sizes_are_found_where_they_are() -> None:
    values, x_hat = latents(), torch.rand(2, 3, *SIZE)
    expected = RateLoss()(values, size=SIZE)
    for given in (
        RateLoss()({"likelihoods": values, "x_hat": x_hat}),
        RateLoss()({"likelihoods": values}, x_hat),
        RateLoss(importance=torch.ones(SIZE))(values),
        RateLoss()(values, importance=torch.ones(SIZE)),
    ):
        torch.testing.assert_close(given, expected)
    with pytest.raises(ValueError, match=r"give target= or size=\(H, W\), got neither"):
        RateLoss()(values)


def test_sources_are_taken() -> None:
    y, scales = (torch.randn(2, 3, 4, 5) * 2).round(), torch.rand(2, 3, 4, 5) + 0.5
    found = RateLoss()({"y": Gaussian(y, scales)}, size=(64, 80))
    expected = bitrate_map(Gaussian(y, scales), (64, 80)).sum() / (2 * 64 * 80)
    torch.testing.assert_close(found, expected)


@pytest.mark.medium
def test_a_video_model_s_frames() -> None:
    model, frames = zoo.video_model(), [torch.rand(1, 3, 128, 128) for _ in range(2)]
    with torch.no_grad(), fuse(model):
        out = model(frames)
        found = RateLoss(lmbda=0.1)(out, frames)
        alone = RateLoss()(out)
        weighted = RateLoss()(out, importance=torch.full((128, 128), 2.0))
        assert isinstance(out["likelihoods"][1]["motion"]["y"], DeferredLikelihoods)
        assert out["likelihoods"][1]["motion"]["y"]._held._made is None
    bits = sum(-p.double().log2().sum() for one in out["likelihoods"] for part in one.values() for p in part.values())
    torch.testing.assert_close(found["bpp_loss"].double(), bits / (2 * 128 * 128), rtol=1e-5, atol=0)
    torch.testing.assert_close(alone, found["bpp_loss"])
    torch.testing.assert_close(weighted, 2 * alone)
    mse = torch.stack([(a - b).square().mean() for a, b in zip(out["x_hat"], frames, strict=True)]).mean()
    torch.testing.assert_close(found["mse_loss"], mse)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RateLoss("median"), r"reduction must be one of 'mean', 'sum', 'none', got 'median'"),
        (lambda: RateLoss(lmbda=1.0, metric="psnr"), r"metric must be one of 'mse', 'ms-ssim', got 'psnr'"),
        (lambda: RateLoss(return_type="mse"), r"return_type must be one of 'all', .*'mse_loss', got 'mse'"),
        (lambda: RateLoss(projection="cubic"), "projection"),
        (lambda: RateLoss(importance=[1.0]), "importance must be a floating-point or boolean tensor .*, got list"),
        (lambda: RateLoss(importance=torch.ones(2, 3).int()), r"got torch.int32; convert with .float\(\)"),
        (lambda: RateLoss(importance=torch.ones(2, *SIZE)), r"got shape \[2, 70, 101\]; add the channel"),
        (
            lambda: RateLoss(importance=torch.ones(64, 64))(latents(), size=SIZE),
            r"one weight a pixel, \[70, 101\] or \[2, 1, 70, 101\], got shape \[1, 1, 64, 64\]",
        ),
        (
            lambda: RateLoss(lmbda=1.0)(latents(), size=SIZE),
            r"needs the output's 'x_hat' .*, got NoneType and NoneType",
        ),
        (lambda: RateLoss(lmbda=1.0)(output(), torch.rand(2, 3, 8, 8)), r"got \[2, 3, 70, 101\] and \[2, 3, 8, 8\]"),
        (lambda: RateLoss()({"x_hat": 1}, size=SIZE), "must hold likelihoods alone, got a whole output"),
        (
            lambda: RateLoss()((torch.rand(2, 3, *SIZE), latents())),
            "a pair of a Tensor and a dict, as .*; hand over the",
        ),
        (
            lambda: RateLoss()({"likelihoods": [latents()] * 3}, [torch.rand(2, 3, *SIZE)] * 2),
            "target must be a list of 3 frames, as the likelihoods, got 2",
        ),
    ],
)
def test_what_is_wrong_is_named(build: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build()
