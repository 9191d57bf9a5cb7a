"""What an estimator gives: maps that add up, regions, files; and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import bitrate_ext
from bitrate_ext.estimator.estimator import About, EstimatorError, RateEstimator
from bitrate_ext.estimator.network import BLOCK, MOST_WEIGHTS, RateNetwork

safetensors = pytest.importorskip("safetensors.torch")
ERROR = EstimatorError(0.05, 0.9, 3)
ABOUT = About("a codec", (), (ERROR,), (64, 64))


def made(about: About = ABOUT, seed: int = 0) -> RateEstimator:
    torch.manual_seed(seed)
    return RateEstimator(RateNetwork(about.channels, about.outputs), about)


def even(bits: float, about: About = ABOUT) -> RateEstimator:
    """One that gives every block so many bits."""
    estimator = made(about)
    estimator.network.start(torch.full((about.outputs,), float(bits)))
    return estimator


def picture(height: int = 70, width: int = 100, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (70, 100), (129, 31)])
def test_map_and_padding_are_the_total(size: tuple[int, int]) -> None:
    result = made()(picture(*size, count=2))
    assert result.map.shape == (2, 1, *size)
    total = result.map.double().sum(dim=(1, 2, 3)) + result.padding_bits
    torch.testing.assert_close(total, result.total_bits, rtol=6e-8, atol=0)
    torch.testing.assert_close(result.block_bits.double().sum(dim=(1, 2)), result.total_bits)
    torch.testing.assert_close(result.bpp, result.total_bits / math.prod(size))
    assert (result.total_bits > 0).all()
    assert result.error == ERROR


def test_blocks_lie_where_the_map_has_them() -> None:
    result = made()(picture(128, 192))
    blocks = result.map.reshape(8, BLOCK, 12, BLOCK).sum(dim=(1, 3))
    torch.testing.assert_close(blocks, result.block_bits[0])


def test_regions_by_hand() -> None:
    result = even(256.0)(picture(70, 100))  # one bit a pixel; the canvas is 128 x 128
    assert result.total_bits.item() == pytest.approx(128 * 128)
    assert result.padding_bits.item() == pytest.approx(128 * 128 - 70 * 100)
    assert result.region_bits((0, 0, 70, 100)).item() == pytest.approx(7000)
    assert result.region_bits((3, 5, 10, 20)).item() == pytest.approx(200)
    assert result.share([3, 5, 10, 20]).item() == pytest.approx(200 / 128**2)
    mask = torch.zeros(70, 100, dtype=torch.bool)
    mask[0, 0] = mask[69, 99] = mask[40:50, 7] = True
    assert result.region_bits(mask).item() == pytest.approx(12)
    assert result.share(mask).item() == pytest.approx(12 / 128**2)


def test_a_box_is_the_mask_of_its_pixels() -> None:
    result = made()(picture(count=2))
    mask = torch.zeros(70, 100, dtype=torch.bool)
    mask[11:51, 8:99] = True
    torch.testing.assert_close(result.region_bits((11, 8, 40, 91)), result.region_bits(mask))
    torch.testing.assert_close(
        result.region_bits(mask) + result.region_bits(~mask), result.total_bits - result.padding_bits
    )


@pytest.mark.parametrize(
    ("region", "error", "words"),
    [
        ((0, 0, 71, 10), ValueError, "inside the image of 70 x 100"),
        ((-1, 0, 10, 10), ValueError, "inside"),
        ((0, 0, 0, 10), ValueError, "at least one"),
        ((0, 0, 10), TypeError, "top, left, height, width"),
        ((0, 0, 10, 1.5), TypeError, "whole pixels"),
        ("abcd", TypeError, "whole pixels"),
        (torch.ones(70, 100), ValueError, "boolean mask"),
        (torch.ones(100, 70, dtype=torch.bool), ValueError, r"\[70, 100\]"),
    ],
)
def test_bad_regions_are_refused(region: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        even(1.0)(picture()).share(region)  # type: ignore[arg-type]


def test_images_are_padded_as_the_codec_pads_them() -> None:
    x, estimator = picture(70, 100), made()
    canvas = torch.zeros(1, 3, 128, 128)
    canvas[..., 29:99, 14:114] = x
    torch.testing.assert_close(estimator(x).block_bits, estimator(canvas).block_bits)
    end = made(replace(ABOUT, padding="replicate", padding_side="end"))
    repeated = torch.nn.functional.pad(x, (0, 28, 0, 58), mode="replicate")
    torch.testing.assert_close(end(x).block_bits, end(repeated).block_bits)


def test_canvases_that_are_no_whole_blocks_go_on_with_zeros() -> None:
    result = made(replace(ABOUT, multiple=(8, 24)))(picture(70, 100))  # 72 x 120
    assert result.block_bits.shape == (1, 5, 8)
    total = result.map.double().sum() + result.padding_bits[0]
    torch.testing.assert_close(total, result.total_bits[0], rtol=6e-8, atol=0)


def test_each_quality_has_its_output() -> None:
    about = replace(ABOUT, qualities=(2, 5), errors=(ERROR, replace(ERROR, total=0.1)))
    estimator = made(about)
    low, high = estimator(picture(), 2), estimator(picture(), quality=5)
    assert low.total_bits.item() != high.total_bits.item()
    assert (low.error.total, high.error.total) == (0.05, 0.1)
    with pytest.raises(ValueError, match="quality must be one of 2, 5, got 3"):
        estimator(picture(), 3)
    with pytest.raises(ValueError, match="quality must be one of 2, 5, got None"):
        estimator(picture())
    with pytest.raises(ValueError, match="quality must be None"):
        made()(picture(), 2)
    alone = made(replace(ABOUT, qualities=(4,)))
    torch.testing.assert_close(alone(picture()).map, alone(picture(), 4).map)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.rand(3, 8, 8), ValueError, "x must be"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, r"give x\.float\(\)\.div\(255\)"),
        (torch.full((1, 3, 8, 8), 2.0), ValueError, r"\[0, 1\]"),
        (torch.rand(1, 1, 8, 8), ValueError, "3 channels"),
    ],
)
def test_bad_images_are_refused(x: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made()(x)


def test_bits_are_differentiable_in_the_picture() -> None:
    x, estimator = picture(64, 64).requires_grad_(), made()
    assert not estimator(x.detach()).map.requires_grad
    (gradient,) = torch.autograd.grad(estimator(x).region_bits((0, 0, 32, 40)), x)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        above, below = (estimator((x + sign * step).clamp(0, 1)).region_bits((0, 0, 32, 40)) for sign in (1, -1))
    inside = ((x + step).clamp(0, 1) - (x - step).clamp(0, 1)).mul(gradient).sum()
    torch.testing.assert_close((above - below)[0], inside.double(), rtol=0.05, atol=0)


@pytest.mark.parametrize("outputs", [1, 8])
def test_the_network_is_small(outputs: int) -> None:
    weights = sum(weight.numel() for weight in RateNetwork(3, outputs).parameters())
    assert weights <= MOST_WEIGHTS == 200_000


def test_saved_and_loaded(tmp_path: Path) -> None:
    about = replace(ABOUT, qualities=tuple(range(1, 9)), errors=(ERROR,) * 8, weights="abc", training={"seed": 1})
    estimator, file = made(about), tmp_path / "e.safetensors"
    estimator.save(file)
    assert file.stat().st_size <= 400_000
    loaded = bitrate_ext.RateEstimator.load(file)
    assert loaded.about == about
    assert not loaded.training
    torch.testing.assert_close(loaded(picture(), 3).map, estimator(picture(), 3).map, rtol=0.02, atol=1e-4)
    loaded.save(tmp_path / "again.safetensors")
    again = RateEstimator.load(tmp_path / "again.safetensors")
    assert torch.equal(again(picture(), 3).map, loaded(picture(), 3).map)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["again.safetensors", "e.safetensors"]


def _file(path: Path, **changes: object) -> Path:
    """A saved estimator with other metadata; ``weights`` changes the weights in place."""
    made().save(path)
    with safetensors.safe_open(path, "pt") as opened:
        about = json.loads(opened.metadata()["estimator"])
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    about.update(changes)
    if changes.get("model") == "NaN":
        weights["last.bias"][0] = math.nan
    safetensors.save_file(weights, path, {"estimator": json.dumps(about)})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 99},
        {"padding": "wrap"},
        {"padding_side": "left"},
        {"errors": []},
        {"errors": [{"total": 0}]},
        {"qualities": [1, 2]},
        {"qualities": 3},
        {"multiple": [0, 64]},
        {"multiple": [64]},
        {"channels": 10**9},
        {"unknown": 1},
        {"model": "NaN"},
    ],
    ids=str,
)
def test_files_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is no saved estimator"):
        RateEstimator.load(_file(tmp_path / "e.safetensors", **changes))


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert isinstance(RateEstimator.load(_file(tmp_path / "e.safetensors")), RateEstimator)
    content = (tmp_path / "e.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    safetensors.save_file({"a": torch.ones(1)}, tmp_path / "weights.safetensors")
    for name in ("cut.safetensors", "arrays.npz", "weights.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is no saved estimator"):
            RateEstimator.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no estimator file"):
        RateEstimator.load(tmp_path / "absent")
