"""Bits laid out by hand, and the books of coded latents beside an estimate."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases import random_field

from bitrate_ext import BitrateMapper
from bitrate_ext.coding.coder import CodedLatent
from bitrate_ext.coding.ledger import Ledger, LedgerBuilder
from bitrate_ext.coding.symbol_layout import ChannelBlock
from bitrate_ext.mapping.coded import _compared, _disagreements, in_dtype, lay_out_coded
from bitrate_ext.mapping.layout import BitrateResult, estimate, lay_out, sum_cells
from bitrate_ext.ops.projection import get_projection

CELLS = {
    "y": torch.tensor([[[1.0, 2], [3, 4]]], dtype=torch.float64),
    "z": torch.tensor([[[8.0]]], dtype=torch.float64),
}
PLACES = dict.fromkeys(CELLS, get_projection("nearest"))


def laid(each: bool = True, **cells: Any) -> BitrateResult:
    """On 4 x 4 pixels, of which the image is the middle two rows and the last three columns."""
    return lay_out(cells or CELLS, PLACES, (4, 4), (1, 1, 2, 3), torch.float64, each=each)


def test_two_latents_on_a_padded_image() -> None:
    result = laid()
    assert result.maps["y"].tolist() == [[[[0.25, 0.5, 0.5], [0.75, 1, 1]]]]
    assert result.maps["z"].tolist() == [[[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]]
    assert torch.equal(result.map, result.maps["y"] + result.maps["z"])
    assert result.total_bits.tolist() == [10 + 8]
    assert result.padding_bits.tolist() == [6 + 5]
    assert result.bpp.tolist() == [18 / 6]
    assert result.latent_bits["y"].tolist() == CELLS["y"].tolist()
    assert laid(each=False).maps == {}
    single = laid(z=CELLS["z"])
    assert single.maps["z"] is single.map
    assert laid(each=False, z=CELLS["z"]).maps == {}


def test_padding_gets_what_the_map_leaves(rng: np.random.Generator) -> None:
    bits = {"y": torch.from_numpy(rng.uniform(0, 9, (2, 3, 4)))}
    for projection, canvas in ((get_projection("bilinear"), (7, 11)), (random_field(rng, 2, (-3, 4)), (6, 8))):
        result = lay_out(bits, {"y": projection}, canvas, (1, 2, 4, 5), torch.float64)
        found = result.map.sum(dim=(1, 2, 3)) + result.padding_bits
        torch.testing.assert_close(found, result.total_bits, rtol=1e-13, atol=0)


def test_maps_are_float32_unless_the_model_is_float64() -> None:
    result = laid()
    result = replace(result, entropy=result.map + 1, gap=result.map + 2)
    assert in_dtype(result, torch.float64) is result
    for model in (torch.float32, torch.bfloat16):
        coarse = in_dtype(result, model)
        maps = {"map": coarse.map, "entropy": coarse.entropy, "gap": coarse.gap, **coarse.maps}
        for name, expected in {"map": 0.75, "entropy": 1.75, "gap": 2.75, "y": 0.25, "z": 0.5}.items():
            assert maps[name].dtype == torch.float32
            assert maps[name][0, 0, 0, 0] == expected
        assert coarse.latent_bits["y"].dtype == torch.float32
        assert coarse.latent_bits["y"].tolist() == CELLS["y"].tolist()
        assert coarse.total_bits.dtype == torch.float64
    assert in_dtype(laid(), torch.float32).gap is in_dtype(laid(), torch.float32).entropy is None


def test_coded_latents() -> None:
    books = LedgerBuilder(1)
    books.enter(0, 10, 40.0, 0, 8)
    bits = torch.stack([CELLS["y"], 3 * CELLS["y"]], dim=1)
    costs = torch.stack([bits, bits + torch.tensor([[0.0, 4], [8, 12]]), torch.eye(2).expand(1, 2, 2, 2)], dim=1)
    latents = {"y": CodedLatent(costs, books, False)}
    result = lay_out_coded(latents, PLACES, (4, 4), (1, 1, 2, 3), torch.zeros(1, 3, 4, 4))
    assert result.bits == "coded"
    assert result.map.tolist() == [[[[1, 2, 2], [3, 4, 4]]]]
    assert result.entropy is not None
    assert result.entropy.tolist() == [[[[1, 4, 4], [7, 10, 10]]]]
    assert result.channel_bits["y"].tolist() == [[10, 30]]
    beside = result.image(0).beside
    assert beside["expected"]["y"].tolist() == (4 * CELLS["y"][0] + torch.tensor([[0, 8], [16, 24]])).tolist()
    assert beside["escapes"]["y"].tolist() == [[2, 0], [0, 2]]
    assert result.ledger is not None
    account = result.ledger.latents["y"]
    assert (account.located.tolist(), account.padding.tolist(), account.overhead.tolist()) == ([16], [24], [40])


def test_an_estimate_beside_coded_bits() -> None:
    account = LedgerBuilder(2).account(torch.zeros(2), torch.zeros(2))
    y, z = (torch.cat([one, 2 * one]) for one in CELLS.values())
    coded = replace(laid(y=y, z=z), ledger=Ledger({"y": account, "z": account}))
    accounts = _compared(coded, laid(y=y + torch.tensor([[0, 1.0], [0, -2]]), z=z))
    assert [one.estimated.tolist() for one in accounts.values()] == [[9, 19], [8, 16]]
    assert [one.disagreement.tolist() for one in accounts.values()] == [pytest.approx([0.3, 0.15]), [0, 0]]
    for positions, ahead, told in ((True, False, 1), (True, True, 0), (False, False, 0)):
        coder: Any = SimpleNamespace(blocks={None: [ChannelBlock("y", 0, 1, ahead), ChannelBlock("z", 0, 1, False)]})
        latents: Any = {"z": SimpleNamespace(positions=False), "y": SimpleNamespace(positions=positions)}
        notes = list(_disagreements(coder, latents, accounts))
        assert [("'y'" in note, "22.5 %" in note) for note in notes] == [(True, True)] * told
    assert not list(_disagreements(coder, {"y": SimpleNamespace(positions=True)}, {"y": account}))  # type: ignore[dict-item]


P = {
    name: torch.rand(2, 5, n, n, generator=torch.Generator().manual_seed(n)).clamp_min(1e-3)
    for name, n in (("y", 8), ("z", 2))
}
COSTS = {
    "bits": lambda p: -p.log2(),
    "nats": lambda p: -p.log(),
    "log2": lambda p: p.log2(),
    "log": lambda p: p.log(),
}


def model_of(likelihoods: dict[str, torch.Tensor]) -> Any:
    """Return a model with these latents of two images of 128 x 128 pixels, y 16 pixels a cell and z 64."""
    blank = {"y": 16, "z": 64}

    def model(x: torch.Tensor) -> dict[str, Any]:
        if x.shape[0] == 2:
            return {"likelihoods": likelihoods, "x_hat": x}
        return {"likelihoods": {n: torch.full((1, 5, *(s // k for s in x.shape[2:])), 0.5) for n, k in blank.items()}}

    return model


def estimated(values: dict[str, torch.Tensor], unit: str = "likelihood") -> BitrateResult:
    adapter: Any = SimpleNamespace(run=lambda *_, **__: ({}, values), unit=unit, model=None)
    places = dict.fromkeys(values, get_projection("bilinear"))
    return estimate(adapter, places, torch.zeros(2, 3, 128, 128), (2, 4, 100, 90), {}, channels=True)


@pytest.mark.parametrize("unit", COSTS)
def test_costs_given_as_likelihoods_are_told(unit: str) -> None:
    x = torch.zeros(2, 3, 128, 128)
    assert BitrateMapper(model_of(P))(x).warnings == ()
    result = BitrateMapper(model_of({"y": COSTS[unit](P["y"]), "z": P["z"]}))(x)
    (line,) = result.warnings
    assert line.startswith("likelihoods of latent 'y' must be in [0, 1], got values from ")
    fitting = ("bits", "nats") if unit in ("bits", "nats") else ("log2", "log")
    assert line.endswith("which unit={!r} or unit={!r} would fit".format(*fitting))


def test_only_what_is_out_of_range_is_told() -> None:
    x = torch.zeros(2, 3, 128, 128)
    for value, told in ((0.0, 1), (1.0, 0), (1 + 4e-7, 0), (1.0001, 1), (-1e-9, 1), (float("nan"), 1), (1e-9, 1)):
        likelihoods = {name: p.clone() for name, p in P.items()}
        likelihoods["z"][1, 4, 1, 0] = value
        warnings = BitrateMapper(model_of(likelihoods))(x).warnings
        assert len([line for line in warnings if "latent 'z'" in line]) == len(warnings) == told, (value, warnings)
    (coarse,) = BitrateMapper(model_of({name: p.half() for name, p in P.items()}))(x).warnings[:1]
    assert "float16" in coarse


@pytest.mark.parametrize("unit", COSTS)
def test_an_estimate_of_costs_is_that_of_their_likelihoods(unit: str) -> None:
    expected = estimated(P)
    costs = {name: COSTS[unit](p) for name, p in P.items()}
    for values in (costs, {name: one.sum(dim=1) for name, one in costs.items()}, {**costs, "y": costs["y"].sum(1)}):
        found = estimated(values, unit)
        assert found.warnings == ()
        torch.testing.assert_close(found.map, expected.map, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.total_bits, expected.total_bits, rtol=1e-6, atol=0)
        assert set(found.channel_bits) == {name for name, one in values.items() if one.dim() == 4}
        for name, bits in found.channel_bits.items():
            torch.testing.assert_close(bits, expected.channel_bits[name], rtol=1e-6, atol=0)
        torch.testing.assert_close(sum_cells(values, unit), sum_cells(P), rtol=1e-6, atol=1e-6)
    wrong = estimated({name: -one for name, one in costs.items()}, unit).warnings
    assert [line.partition(" must be ")[0].rpartition(" of ")[2] for line in wrong] == ["latent 'y'", "latent 'z'"]


@pytest.mark.parametrize("unit", COSTS)
def test_a_mapper_of_costs(unit: str) -> None:
    """In a list, of symbols and of cells, in and out of range."""
    x = torch.zeros(2, 3, 120, 100)
    expected = BitrateMapper(model_of(P), channels=True)(x)

    def model(images: torch.Tensor) -> dict[str, Any]:
        y, z = (COSTS[unit](p) for p in model_of(P)(images)["likelihoods"].values())
        return {"likelihoods": [y, None, z.sum(dim=1)]}

    result = BitrateMapper(model, unit=unit, channels=True)(x)
    assert result.warnings == ()
    assert list(result.maps) == ["0", "2"]
    assert list(result.channel_bits) == ["0"]
    torch.testing.assert_close(result.map, expected.map, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.bpp, expected.bpp, rtol=1e-6, atol=0)
