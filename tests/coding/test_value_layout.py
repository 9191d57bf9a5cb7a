"""Coded symbols are found by their values, however a model packs them: against places that are known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zoo
from coded_models import assert_closes, model_of
from torch import Tensor

from bitrate_ext import BitrateMapper, CodingError
from bitrate_ext.coding.coder import LAYOUTS, Coder
from bitrate_ext.coding.rans import CdfTables
from bitrate_ext.coding.symbol_layout import UnknownPlaceError

pytest.importorskip("compressai")
packed_codecs = pytest.importorskip("packed_codecs")
pytestmark = pytest.mark.usefixtures("one_thread")
Packed = packed_codecs.Packed

WAYS = {
    "checkerboard": {},
    "checkerboard, columns": {"parts": packed_codecs.transposed_checkerboard},
    "checkerboard, calls": {"how": "calls"},
    "checkerboard, masked": {"how": "masked"},
    "checkerboard, late": {"how": "late"},
    "checkerboard, turned": {"how": "turned"},
    "checkerboard, rounding": {"how": "rounding"},
    "checkerboard, residual": {"residual": True},
    "checkerboard, other context": {"other_context": True},
    "quarters": {"parts": packed_codecs.quarters},
    "quarters, calls": {"parts": packed_codecs.quarters, "how": "calls", "residual": True},
    "quarters, masked": {"parts": packed_codecs.quarters, "how": "masked"},
    "four parts": {"parts": packed_codecs.four_parts},
    "four parts, masked": {"parts": packed_codecs.four_parts, "how": "masked"},
    "four parts, turned": {"parts": packed_codecs.four_parts, "how": "turned", "residual": True},
    "whole, turned": {"parts": packed_codecs.whole, "how": "turned"},
    "slices": {"parts": packed_codecs.slices, "refine": True},
    "slices, turned": {"parts": packed_codecs.slices, "how": "turned"},
    "slices, calls": {"parts": packed_codecs.slices, "how": "calls", "refine": True},
    "slices, late": {"parts": packed_codecs.slices, "how": "late"},
    "slices of checkerboards": {"parts": packed_codecs.slices_of_checkerboards, "refine": True},
    "slices of checkerboards, masked": {"parts": packed_codecs.slices_of_checkerboards, "how": "masked"},
}


SOON = ("checkerboard", "quarters", "slices")


def true_bits(model: Any) -> np.ndarray:
    """Of each symbol of the last call, on the whole grid, and of the zeros that other passes code there."""
    tables = CdfTables(*model.tables())
    bits = tables.costs(model.symbols.int().flatten().tolist(), model.indexes.int().flatten().tolist()).bits
    zeros = tables.costs([0] * len(bits), [0] * len(bits)).bits
    return (bits + model.idle.flatten().numpy() * zeros).reshape(model.symbols.shape)


def coded(mapper: BitrateMapper, x: Tensor) -> tuple[Any, np.ndarray]:
    """The result for an image, and the bits of each symbol of the latent."""
    result, coder = mapper(x), mapper._source.args[0]
    padded = mapper.adapter.pad(x)[0]
    (latents,) = coder.code(padded, mapper.adapter.grids(padded.shape[2:]), len(x), {})
    return result, latents["y"].bits.numpy()


@pytest.mark.parametrize(
    "way", [*SOON, *(pytest.param(way, marks=pytest.mark.medium) for way in WAYS if way not in SOON)]
)
def test_every_symbol_is_where_it_is(way: str) -> None:
    model = Packed(**WAYS[way]).prepared()
    mapper = BitrateMapper(model, bits="coded", gap=True)
    for x in (torch.rand(1, 3, 60, 90), torch.zeros(1, 3, 64, 96), torch.rand(1, 3, 64, 32)):
        result, bits = coded(mapper, x)
        truth = true_bits(model)
        np.testing.assert_array_equal(bits, truth)
        with torch.no_grad():
            output = model.compress(mapper.adapter.pad(x)[0])
            strings = output["strings"]
            torch.testing.assert_close(model.decompress(strings, output["shape"])["y_hat"], output["y_hat"])
        assert_closes(result, strings, x)
        told = any("are rounded in different ways" in one for one in result.warnings)
        assert told == model.other


@pytest.mark.medium
@pytest.mark.parametrize("name", zoo.SMALL)
def test_values_tell_what_is_known_of_compressai(name: str) -> None:
    """Its own models, as if nothing were known of how they pack symbols."""
    model = model_of(name)
    rate, x = zoo.set_rate(model, 5), torch.rand(1, 3, 128, 192)
    found = []
    for unknown in (None, UnknownPlaceError("as if")):
        coder = Coder(model)
        grids = coder.learn(x, rate)
        coder.unknown = unknown
        (latents,) = coder.code(x, grids, 1, rate)
        found.append(latents)
    assert coder.layouts
    for latent in found[0]:
        assert torch.equal(*(one[latent].costs for one in found)), latent


def test_batches_of_what_entropy_models_code_themselves() -> None:
    model = Packed(parts=packed_codecs.slices_of_checkerboards, how="calls", residual=True).prepared()
    # The parts cut one image; of a batch each by itself.
    cut = model.parts
    model.parts = lambda t: [torch.cat(one) for one in zip(*(cut(each[None]) for each in t), strict=True)]
    model.placed = lambda whole, number, part: torch.cat(
        [Packed.placed(model, w[None], number, p[None]) for w, p in zip(whole, part, strict=True)]
    )
    x = torch.rand(2, 3, 64, 32)
    both, bits = coded(BitrateMapper(model, bits="coded"), x)
    for image in (0, 1):
        single, alone = coded(BitrateMapper(model, bits="coded"), x[image : image + 1])
        np.testing.assert_allclose(bits[image], alone[0])
        torch.testing.assert_close(both.map[image], single.map[0])


def test_layouts_are_found_once_for_a_size_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Packed().prepared()
    runs = {"forward": 0, "compress": 0}
    for name in runs:
        own = getattr(model, name)

        def counted(*args: Any, _own: Any = own, _name: str = name, **kwargs: Any) -> Any:
            runs[_name] += 1
            return _own(*args, **kwargs)

        monkeypatch.setattr(model, name, counted)
    mapper = BitrateMapper(model, bits="coded")
    mapper(torch.rand(1, 3, 64, 64))
    before = dict(runs)
    for _ in range(3):
        mapper(torch.rand(1, 3, 64, 64))
    assert runs == {"forward": before["forward"], "compress": before["compress"] + 3}
    for k in range(1, LAYOUTS + 3):
        mapper(torch.rand(1, 3, 16, 16 * k))
    assert len(mapper._source.args[0].layouts) == LAYOUTS


class Odd(Packed):
    """Something about what it codes cannot be told by values."""

    def __init__(self, what: str) -> None:
        super().__init__(how="calls")
        self.what = what

    def forward(self, x: Tensor) -> dict[str, Any]:
        output = super().forward(x)
        if self.what == "likelihoods":
            output["likelihoods"]["y"] = output["likelihoods"]["y"] ** 2
        return output

    def compress(self, x: Tensor) -> dict[str, Any]:
        y, _ = self.analysis(x)
        if self.what == "image" and float(x.max()) == 0.5:
            x = x.flip(-1)
        if self.what == "noise":
            assert float(x.max()) == 0.5
        output = super().compress(x)
        more = output["strings"][0]
        if self.what == "twice":
            index = self.gaussian.build_indexes(torch.ones_like(self.parts(y)[0]))
            more = [*more, *self.gaussian.compress(self.parts(y)[0], index)]
        if self.what == "other":
            index = self.gaussian.build_indexes(torch.ones_like(y))
            more = [*more, *self.gaussian.compress(y + 0.3, index)]
        if self.what == "half":
            return {"strings": [more, output["strings"][-1]]}
        if self.what == "count" and float(x.max()) == 0.5:
            index = self.gaussian.build_indexes(torch.ones_like(y))
            more = [*more, *self.gaussian.compress(y, index)]
        return {"strings": [more, *output["strings"][1:]]}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("likelihoods", r"768 of 832 likelihoods that forward\(\) returns are not as an entropy model made them"),
        ("noise", r"compress\(\) does not run on noise \(AssertionError: "),
        ("image", r"\d+ of 832 symbols have other values than their cells"),
        ("twice", r"of 768 cells of latent 'y', 0 are coded nowhere and 384 more than once"),
        ("other", r"768 of 1600 symbols have values that no cell has in forward\(\)"),
        ("count", r"compress\(\) hands tensors of other shapes to entropy models, from image to image"),
    ],
)
def test_what_values_do_not_tell(what: str, message: str) -> None:
    x = torch.linspace(0, 0.5, 3 * 64 * 64).reshape(1, 3, 64, 64)
    model = Odd(what).prepared()
    with pytest.raises(CodingError, match=f"nor do values tell: {message}.*; bits='estimated' maps this model without"):
        BitrateMapper(model, bits="coded")(x)


def test_another_order_on_a_later_image_is_refused() -> None:
    x = torch.linspace(0, 0.5, 3 * 64 * 64).reshape(1, 3, 64, 64)
    mapper = BitrateMapper(Odd("count").prepared(), bits="coded")
    mapper(torch.rand(1, 3, 64, 64))
    with pytest.raises(CodingError, match=r"compress\(\) codes other symbols, or in another order, than on an image"):
        mapper(x)


class Pair(Packed):
    """Returns its likelihoods beside the reconstruction, as much code of others does."""

    def forward(self, x: Tensor) -> Any:
        output = super().forward(x)
        return torch.zeros_like(x), output["likelihoods"]


def test_likelihoods_in_a_pair() -> None:
    model = Pair().prepared()
    result, bits = coded(BitrateMapper(model, bits="coded"), torch.rand(1, 3, 64, 64))
    np.testing.assert_array_equal(bits, true_bits(model))
    assert result.ledger.closes.all()


class Quality(Packed):
    """Its ``compress`` takes arguments."""

    def forward(self, x: Tensor, gain: float = 1.0) -> dict[str, Any]:
        return super().forward(gain * x)

    def compress(self, x: Tensor, gain: float = 1.0, *, offset: float) -> dict[str, Any]:
        return super().compress(gain * x + offset)


def test_compress_gets_its_arguments() -> None:
    model = Quality().prepared()
    x, bits = torch.rand(1, 3, 64, 64), []
    for gain in (1.0, 0.25):
        coder = Coder(model, {"offset": 0.0})
        grids = coder.learn(x, {"gain": gain})
        for _ in range(2):  # the second time nothing has to be found
            (latents,) = coder.code(x, grids, 1, {"gain": gain})
        np.testing.assert_array_equal(latents["y"].bits, true_bits(model))
        bits.append(latents["y"].bits)
    assert not torch.equal(*bits)
    with pytest.raises(TypeError, match=r"arguments that Quality.compress\(x, gain, offset\) takes, got 'level'"):
        Coder(model, {"level": 1})
    coder = Coder(model)
    with pytest.raises(TypeError, match=r"wants other arguments than the images and no others \(missing.*'offset'"):
        coder.code(x, coder.learn(x, {}), 1, {})
