"""What sizes a model takes: multiples that strides do not show, small images, and what is not about size."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitrate_ext import BitrateMapper
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.models.sizes import CallError, SizeError


class Picky:
    """A model of stride 16 that takes what it likes, and remembers what it was given."""

    def __init__(self, likes: Callable[[int, int], bool], says: str = "no") -> None:
        self.likes, self.says, self.sizes = likes, says, list[tuple[int, int]]()

    def __call__(self, x: Tensor) -> dict[str, Any]:
        height, width = x.shape[-2:]
        self.sizes.append((height, width))
        if not self.likes(height, width):
            raise RuntimeError(self.says.format(height=height, width=width))
        return {"x_hat": x, "likelihoods": F.avg_pool2d(x, 16).clamp(1e-3, 1)}


def windows(side: int) -> Callable[[int, int], bool]:
    return lambda height, width: height % side == 0 and width % side == 0


@pytest.mark.parametrize("side", [32, 128, 256, 48, 112, 160])
@pytest.mark.parametrize("size", [(300, 451), (20, 30), (270, 480)])
def test_multiples_of_windows(side: int, size: tuple[int, int]) -> None:
    model = Picky(windows(side), "{height} x {width} cannot be cut into windows")
    mapper = BitrateMapper(model)
    result = mapper(torch.rand(1, 3, *size))
    assert result.map.shape == (1, 1, *size)
    assert model.sizes[-1] == tuple(-(-length // side) * side for length in size)
    mapper(torch.rand(1, 3, 30, 200))
    assert model.sizes[-1] == tuple(-(-length // side) * side for length in (30, 200))


@pytest.mark.parametrize("side", [128, 256, 112])
def test_what_was_found_does_not_depend_on_what_came_before(side: int) -> None:
    sizes = [(512, 512), (450, 450), (300, 451), (20, 30), (384, 384), (130, 700)]

    def canvases(order: list[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
        model = Picky(windows(side), "size")
        mapper, found = BitrateMapper(model), {}
        for size in order:
            mapper(torch.rand(1, 3, *size))
            found[size] = model.sizes[-1]
        return found

    assert canvases(sizes) == canvases(sizes[::-1])


def test_one_run_an_image_once_it_is_known() -> None:
    model = Picky(windows(128), "size")
    mapper = BitrateMapper(model)
    mapper(torch.rand(1, 3, 300, 451))
    del model.sizes[:]
    mapper(torch.rand(1, 3, 200, 200))
    assert model.sizes == [(256, 256)]


def test_too_small_images_are_enlarged_and_large_ones_stay() -> None:
    """As padding by reflection has it, which wants more than a cell."""
    model = Picky(lambda height, width: min(height, width) > 64, "Padding size should be less than the input dimension")
    mapper = BitrateMapper(model)
    mapper(torch.rand(1, 3, 20, 30))
    assert model.sizes[-1] == (128, 128)
    assert mapper.adapter.multiple == (16, 16)
    mapper(torch.rand(1, 3, 100, 130))
    assert model.sizes[-1] == (112, 144)


def test_what_is_not_about_size_is_the_model_s_own_error() -> None:
    model = Picky(windows(16))
    mapper = BitrateMapper(model)
    mapper(torch.rand(1, 3, 40, 40))
    del model.sizes[:]
    model.likes, model.says = (lambda height, width: False), "the entropy coder is tired"
    with pytest.raises(RuntimeError, match="the entropy coder is tired"):
        mapper(torch.rand(1, 3, 40, 40))
    assert max(map(max, model.sizes)) <= 256
    with pytest.raises(TypeError, match="unexpected keyword"):
        mapper(torch.rand(1, 3, 40, 40), s=3)


def test_probing_ends_early_where_size_is_not_why() -> None:
    model = Picky(lambda height, width: False, "expected 4 channels, got 3")
    with pytest.raises(CallError, match=r"whatever the size: tried 128 x 128, 256 x 256, 512 x 512 .*expected 4 ch"):
        BitrateMapper(model)(torch.rand(1, 3, 40, 40))
    assert len(model.sizes) == 6  # of the picture's three channels, and of one


def test_a_bare_assertion_is_quoted() -> None:
    sizes = []

    def model(x: Tensor) -> dict[str, Any]:
        sizes.append(x.shape[-1])
        if x.shape[1] != 4:
            raise AssertionError  # as a bare assertion does; those of tests are given words
        return {}

    with pytest.raises(CallError, match=r"AssertionError: raise AssertionError .*\(line \d+ of .*test_sizes.py\)"):
        BitrateMapper(model)(torch.rand(1, 3, 40, 40))
    assert max(sizes) < 1024


def test_output_that_cannot_be_read_ends_probing() -> None:
    sizes = []

    def model(x: Tensor) -> dict[str, Any]:
        sizes.append(x.shape[-1])
        return {"bpp": x.mean()}

    with pytest.raises(ValueError, match="got the keys 'bpp'"):
        BitrateMapper(model)(torch.rand(1, 3, 40, 40))
    assert len(sizes) == 1


def test_no_size_will_do() -> None:
    model = Picky(lambda height, width: (height, width) == (128, 128), "grid {height}")
    mapper = BitrateMapper(model)
    expected = "takes no image of this size, however it is padded: tried 208 x 304, .* grid .*multiple="
    with pytest.raises(SizeError, match=expected) as raised:
        mapper(torch.rand(1, 3, 200, 300))
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_multiple_of_one_s_own() -> None:
    model = Picky(windows(112), "112")
    x = torch.rand(1, 3, 300, 451)
    mapper = BitrateMapper(model, multiple=112)
    mapper(x)
    assert model.sizes == [(224, 224), (336, 560)]
    BitrateMapper(model, multiple=(112, 224))(x)
    assert model.sizes[-1] == (336, 672)
    with pytest.raises(SizeError, match=re.escape("padded to multiples of (64, 64) pixels: tried 320 x 512")):
        BitrateMapper(Picky(lambda h, w: h in (128, 256)), multiple=64)(x)
    with pytest.raises(ValueError, match=r"multiple must be one of the strides' .* \(16, 16\) pixels, got \(24, 24\)"):
        BitrateMapper(Picky(lambda h, w: True), multiple=24)(torch.rand(1, 3, 48, 48))
    for wrong, error in ((0, ValueError), (1.5, TypeError), ((16, 16, 16), ValueError), (True, TypeError)):
        with pytest.raises(error, match="multiple must be"):
            BitrateMapper(model, multiple=wrong)  # type: ignore[arg-type]


def test_an_adapter_goes_where_a_model_goes() -> None:
    model = Picky(windows(128), "size")
    adapter = ModelAdapter(model, padding="replicate", multiple=128)
    x = torch.rand(1, 3, 40, 40)
    expected = BitrateMapper(model, padding="replicate", multiple=128)(x)
    assert torch.equal(BitrateMapper(adapter)(x).map, expected.map)
    with pytest.raises(ValueError, match="padding is given with the ModelAdapter, and not beside it, got 'reflect'"):
        BitrateMapper(adapter, padding="reflect")
