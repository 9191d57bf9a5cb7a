"""``RateMetric``: the rate of a data set from batches of any kind, in one process and in two that gather by gloo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from commands import in_new_process
from torch import Tensor

from bitrate_ext import BitrateMapper, Gaussian, RateMetric, fuse, rate

SIZES = ((40, 60), (64, 64), (20, 33))
BATCHES = (2, 1, 3)


def likelihoods(batch: int, size: tuple[int, int]) -> dict[str, Tensor]:
    return {
        name: torch.rand(batch, 4, -(-size[0] // step), -(-size[1] // step)).clamp_min(1e-3)
        for name, step in (("y", 8), ("z", 16))
    }


def bits(p: Tensor) -> Tensor:
    return -p.double().log2().sum((1, 2, 3))


@pytest.mark.parametrize("average", ["pixels", "images"])
def test_the_rate_of_a_data_set(average: str) -> None:
    metric, batches = RateMetric(average), [likelihoods(*one) for one in zip(BATCHES, SIZES, strict=True)]
    for (height, width), batch, p in zip(SIZES, BATCHES, batches, strict=True):
        metric.update({"likelihoods": p, "x_hat": None}, torch.rand(batch, 3, height, width))
    found = metric.compute()
    assert list(found) == ["bpp", "bpp_y", "bpp_z"]
    for name in ("y", "z"):
        each = [bits(p[name]) / (h * w) for p, (h, w) in zip(batches, SIZES, strict=True)]
        weights = [torch.full((n,), float(h * w)) for n, (h, w) in zip(BATCHES, SIZES, strict=True)]
        of_all, of_each = torch.cat(each), torch.cat(weights).double()
        expected = of_all.mean() if average == "images" else (of_all * of_each).sum() / of_each.sum()
        assert float(found[f"bpp_{name}"]) == pytest.approx(float(expected), rel=1e-6)
        assert found[f"bpp_{name}"].dtype == torch.float64
    assert float(found["bpp"]) == pytest.approx(float(found["bpp_y"] + found["bpp_z"]), rel=1e-12)
    metric.reset()
    metric.update(batches[0], size=SIZES[0])
    assert float(metric.compute()["bpp"]) == pytest.approx(
        float(sum(map(bits, batches[0].values())).mean()) / (40 * 60),  # type: ignore[union-attr]
        rel=1e-6,
    )


def test_what_it_takes() -> None:
    model, x = zoo.small_model("mbt2018-mean"), torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        output = model(x)
    result = BitrateMapper(model, sources=False)(x)
    latents = output["likelihoods"]
    with fuse(model), torch.no_grad():
        fused = model(x)
    y = torch.randn(2, 3, 8, 8)
    source = Gaussian(y, torch.ones_like(y))
    for given, expected in ((output, bits), (latents, bits), (latents["y"], bits), (source, rate), (result, None)):
        metric = RateMetric()
        metric.update(given, **({} if given is result else {"size": (64, 128)}))
        of = {"y": given} if given in (source,) or isinstance(given, Tensor) else latents
        sums = {f"bpp_{name}": float((expected or bits)(one).sum()) / x[:, 0].numel() for name, one in of.items()}
        found = {name: float(value) for name, value in metric.compute().items()}
        assert found == pytest.approx({"bpp": sum(sums.values()), **sums}, rel=1e-5)
    metric = RateMetric()
    metric.update(fused, x)
    assert all(one._held._made is None for one in fused["likelihoods"].values())  # as training leaves them
    assert float(metric.compute()["bpp"]) == pytest.approx(float(rate(fused["likelihoods"]).sum() / x[:, 0].numel()))


def test_coded_bits_are_those_of_the_result() -> None:
    model, x = zoo.coded_model("mbt2018-mean"), torch.rand(1, 3, 50, 60)
    result = BitrateMapper(model, bits="coded")(x)
    metric = RateMetric()
    metric.update(result)
    found = metric.compute()
    assert float(found.pop("bpp")) == pytest.approx(float(result.bpp), rel=1e-14)
    assert float(result.bpp) == pytest.approx(float(sum(found.values())), rel=1e-14)  # type: ignore[arg-type]


def test_frames_of_a_video_are_images() -> None:
    frames = [{"keyframe": likelihoods(1, (40, 60))}, {"motion": likelihoods(1, (40, 60))}]
    metric, x = RateMetric(), torch.rand(1, 3, 40, 60)
    for target in (x, [x, x]):
        metric.update({"likelihoods": frames, "x_hat": [x, x]}, target)
    found = metric.compute()
    assert list(found) == ["bpp", "bpp_keyframe.y", "bpp_keyframe.z", "bpp_motion.y", "bpp_motion.z"]
    total = sum(float(rate(frame)) for frame in frames)
    assert float(found["bpp"]) == pytest.approx(total / (2 * 40 * 60))


def test_training_is_not_held_up() -> None:
    y = torch.randn(1, 3, 8, 8, requires_grad=True)
    metric = RateMetric()
    metric.update(Gaussian(y, torch.ones_like(y)), size=(64, 64))
    metric.update(Gaussian(y, torch.ones_like(y)), size=(64, 64))
    assert not any(one.requires_grad for one in metric.compute().values())
    with torch.inference_mode():
        metric.update(Gaussian(y, torch.ones_like(y)), size=(64, 64))
    metric.update(Gaussian(y, torch.ones_like(y)), size=(64, 64))


X, P = torch.rand(2, 3, 40, 60), likelihoods(2, (40, 60))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((P,), ValueError, r"give target or size=\(H, W\), got neither"),
        ((P, X, (40, 60)), ValueError, r"give target or size=\(H, W\), got both"),
        ((P, X[:1]), ValueError, "target must hold 2 images, as the likelihoods do, got 1"),
        ((P, X[0]), ValueError, r"target must be .* of shape \[3, 40, 60\]; give target\[None\]"),
        ((P, None, (40, 0)), ValueError, "a side of size, .* must be a whole number of at least 1, got 0"),
        ((P, None, 2400), ValueError, "a side of size"),
        ((P, None, (40, 60.0)), TypeError, "a side of size"),
        (({}, X), ValueError, "likelihoods of at least one latent"),
        (({"x_hat": X}, X), ValueError, "a whole output, with the keys 'x_hat'"),
        (({"likelihoods": [P, {"y": "?"}]}, X), TypeError, "likelihoods"),
    ],
)
def test_what_is_refused_counts_nothing(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    metric = RateMetric()
    output, target, size = (*arguments, None, None)[:3]
    with pytest.raises(error, match=words):
        metric.update(output, target, size=size)
    with pytest.raises(ValueError, match="compute needs at least one image"):
        metric.compute()
    with pytest.raises(ValueError, match="average must be one of 'pixels', 'images', got 'mean'"):
        RateMetric("mean")


@pytest.mark.medium
def test_two_processes(tmp_path: Path) -> None:
    """Each with images of its own: uneven ones, of other sizes and latents; none in one of them; none at all."""
    code = f"""
        import json, os, sys
        import torch, torch.distributed as dist
        from bitrate_ext import RateMetric

        if os.fork() == 0:
            rank = 1
        else:
            rank = 0
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=rank, world_size=2)

        def images(seed, batch, side):
            torch.manual_seed(seed)
            p = {{"y": torch.rand(batch, 3, 8, 8).clamp_min(0.01)}}
            return (p | {{"z": torch.rand(batch, 2, 2, 2).clamp_min(0.01)}} if seed % 2 else p), (side, side)

        WORK = {{"uneven": ([(0, 2, 64), (1, 1, 80)], [(2, 5, 48)]), "empty": ([], [(3, 2, 64)])}}
        found = {{}}
        for average in ("pixels", "images"):
            for name, work in WORK.items():
                metric, alone = RateMetric(average), RateMetric(average, sync_on_compute=False)
                for one in work[rank]:
                    p, size = images(*one)
                    metric.update(p, size=size)
                for one in work[0] + work[1]:
                    p, size = images(*one)
                    alone.update(p, size=size)
                together = metric.compute()
                assert together == metric.compute()
                found[average + " " + name] = [
                    {{key: float(value) for key, value in one.items()}} for one in (together, alone.compute())
                ]
        try:
            RateMetric().compute()
        except ValueError as error:
            found["none"] = str(error)
        dist.barrier()
        with open("{tmp_path}/" + str(rank), "w") as file:
            json.dump(found, file)
        dist.destroy_process_group()
        if rank == 0:
            assert os.wait()[1] == 0
    """
    in_new_process(code)
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1))
    assert first == second
    assert first.pop("none").startswith("compute needs at least one image")
    assert len(first) == 4
    for together, alone in first.values():
        assert together == pytest.approx(alone, rel=1e-14)
        assert set(together) == {"bpp", "bpp_y", "bpp_z"}
