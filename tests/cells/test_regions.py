"""Regions: sums by hand and against float64 maps, every way to name them, what crosses borders, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cases import random_field, some_guide, with_guide
from zoo import coded_model

import bitrate_ext
from bitrate_ext import CellGrid, PictureBits
from bitrate_ext.cells.regions import RegionTable, add_up
from bitrate_ext.cells.tables import latex_table, text_table
from bitrate_ext.ops.projection import get_projection

CANVAS, CROP = (4, 4), (0, 0, 3, 4)
LABELS = np.array([[1, 1, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0]])


def by_hand(**changes: Any) -> PictureBits:
    """Cells of 2 x 2 pixels with 4, 8, 12 and 16 bits; of the lower two half lies in the padding."""
    bits = torch.tensor([[4.0, 8.0], [12.0, 16.0]], dtype=torch.float64)
    made = PictureBits({"y": CellGrid(bits)}, CANVAS, CROP, elsewhere={"headers": 24.0}, file_bytes=8)
    return replace(made, **changes)


def total(table: RegionTable) -> float:
    return sum(one.bits for one in table.rows) + table.padding_bits + table.elsewhere_bits


def told(table: RegionTable) -> list[tuple[str, int, float]]:
    return [(one.name, one.pixels, one.bits) for one in table.rows]


def test_labels_by_hand() -> None:
    table = by_hand().region(LABELS, names={1: "eye", 2: "sky"})
    assert told(table) == [
        ("eye", 2, 2.0),
        ("sky", 4, 8.0),
        ("rest", 6, 16.0),
    ]
    assert (table.padding_bits, table.elsewhere_bits, table.total_bits, total(table)) == (14.0, 24.0, 64.0, 64.0)
    sky = table["sky"]
    assert (sky.share, sky.pixel_share, sky.density, sky.bpp) == (8 / 26, 4 / 12, (8 / 26) / (4 / 12), 2.0)
    assert (sky.moved_bits, sky.psnr_db, sky.latents) == (0.0, None, {"y": 8.0})
    assert "-0.0" not in str(replace(table, rest=replace(sky, own_bits=8.01)))
    with pytest.raises(KeyError, match="no region 'ear'; there are 'eye', 'sky', 'rest'"):
        table["ear"]


@pytest.mark.parametrize(
    ("where", "names", "expected"),
    [
        ((1, 0, 2, 2), None, {"1,0,2,2": 6.0, "rest": 20.0}),
        ((0, 0, 4, 3), "all", {"all": 26.0}),
        ([(0, 0, 2, 2), (1, 0, 2, 2)], ["a", "b"], {"a": 4.0, "b": 6.0, "rest": 18.0}),
        ([(0, 0, 1, 1), (3, 2, 1, 1)], ["corners"] * 2, {"corners": 5.0, "rest": 21.0}),
        (LABELS == 2, None, {"mask": 8.0, "rest": 18.0}),
        (torch.from_numpy(LABELS == 2), ["sky"], {"sky": 8.0, "rest": 18.0}),
        (LABELS, None, {"1": 2.0, "2": 8.0, "rest": 16.0}),
        (LABELS, ["ground", "eye", "sky"], {"ground": 16.0, "eye": 2.0, "sky": 8.0}),
        (torch.from_numpy(LABELS - 1), {1: "sky"}, {"sky": 8.0, "rest": 18.0}),
        (
            LABELS * 10**9 + 5,
            {5: "ground"} | dict.fromkeys((10**9 + 5, 2 * 10**9 + 5), "a"),
            {"ground": 16.0, "a": 10.0},
        ),
        (LABELS.astype(np.uint16) * 9000, {9000: "a", 18000: "a", 7: "absent"}, {"a": 10.0, "rest": 16.0}),
    ],
)
def test_every_way_to_name_regions(where: Any, names: Any, expected: dict[str, float]) -> None:
    table = by_hand().region(where, names=names)
    assert {one.name: one.bits for one in table.rows} == expected
    assert (table.rest is None) == ("rest" not in expected)


@pytest.mark.parametrize(
    ("where", "names", "message"),
    [
        (
            (3, 0, 2, 2),
            None,
            r"box must be \(x, y, width, height\).* of the picture of 4 x 3, got \(3, 0, 2, 2\)",
        ),
        ((-1, 0, 2, 2), None, r"got \(-1, 0, 2, 2\)"),
        ((0, 0, 0, 2), None, r"not empty .* got \(0, 0, 0, 2\)"),
        ((0, 0, 1.0, 2), None, "in whole pixels"),
        ((0, 0, 1), None, r"got \(0, 0, 1\)"),
        ([], None, "boxes must be 1 to 62 at a time, got 0"),
        ([(0, 0, 1, 1)] * 63, None, "boxes must be 1 to 62 at a time, got 63"),
        ("face", None, "regions must be a box, several boxes, a mask or labels, got str"),
        (None, None, "got NoneType"),
        (np.zeros((4, 4), bool), None, r"regions must be \[H, W\] = \[3, 4\] like the picture, got \[4, 4\]"),
        (np.zeros((3, 4), bool), None, "the mask is empty"),
        (np.zeros((3, 4), int), None, "the labels are empty"),
        (LABELS / 2, None, "a mask of bool or labels of whole numbers, got float64"),
        (LABELS, {1: "eye"}, "names must name every label above 0, and label 2 has none; named are 1"),
        (LABELS, ["ground", "eye"], "label 2 has none; named are 0, 1"),
        (LABELS > 1, ["a", "b"], r"names must be a text for each of 1 regions, got \['a', 'b'\]"),
        (LABELS > 1, {1: "a"}, "names must be a text for each of 1 regions"),
    ],
)
def test_what_is_no_region(where: Any, names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand().region(where, names=names)


def test_what_the_projection_moves_over_the_border() -> None:
    """Two cells of 4 pixels: bilinear taps reach two pixels beyond the border that the cells share."""
    grid = CellGrid(torch.tensor([[32.0, 0.0]], dtype=torch.float64), get_projection("bilinear"))
    table = PictureBits({"y": grid}, (4, 8), (0, 0, 4, 8)).region([(0, 0, 4, 4), (4, 0, 4, 4)], names=["left", "right"])
    expected = float(grid.map((4, 8), (0, 0, 4, 8))[:, 4:].sum())
    assert expected > 3
    assert table["right"].own_bits == 0.0
    assert table["right"].moved_bits == pytest.approx(expected, rel=1e-15)
    assert table["left"].moved_bits == pytest.approx(-expected, rel=1e-12)


def laid_out(rng: np.random.Generator, kind: str) -> PictureBits:
    fields: dict[str, Any] = {"y": random_field(rng, 16, (-30, 30)), "z": random_field(rng, 64, (-90, 80), 1)}
    grids = {}
    for name, stride in (("y", 16), ("z", 64)):
        bits = torch.from_numpy(rng.gamma(0.3, 300.0, (256 // stride, 320 // stride)))
        projection = fields[name] if kind in ("field", "guided") else get_projection(kind)
        guide = None
        if kind == "guided":
            projection = with_guide(projection, some_guide(rng, stride))
            guide = torch.from_numpy(rng.gamma(1.0, 1.0, (1, 1, 256, 320))).float() + 0.05
        grids[name] = CellGrid(bits, projection, guide)
    return PictureBits(grids, (256, 320), (20, 30, 201, 270), elsewhere={"headers": 100.0})


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "area", "field", "guided"])
def test_sums_are_those_of_the_float64_map(rng: np.random.Generator, kind: str) -> None:
    bits = laid_out(rng, kind)
    labels = rng.integers(0, 40, bits.size) // 3
    table = bits.region(labels)
    maps = {name: bits.map(name).numpy() for name in bits.grids}
    for one in table.rows:
        inside = labels == (0 if one.name == "rest" else int(one.name))
        assert one.pixels == inside.sum()
        for name, laid in maps.items():
            assert one.latents[name] == pytest.approx(math.fsum(laid[inside]), rel=1e-9)
        assert one.bits == pytest.approx(math.fsum(one.latents.values()), rel=1e-12)
    assert total(table) == pytest.approx(bits.total_bits, rel=1e-12)
    assert table.total_bits == pytest.approx(bits.total_bits, rel=1e-12)


@pytest.mark.parametrize("kind", ["bilinear", "field", "guided"])
def test_channels_add_up_to_their_latents(rng: np.random.Generator, kind: str) -> None:
    bits = laid_out(rng, kind)
    symbols = {}
    for name, grid in bits.grids.items():
        parts = torch.from_numpy(rng.gamma(1.0, 1.0, (5, *grid.bits.shape)))
        symbols[name] = parts / parts.sum(dim=0) * grid.bits
    bits = replace(bits, symbol_bits=symbols)
    mask = torch.from_numpy(rng.random(bits.size) < 0.3)
    for one in bits.region(mask, channels=True).rows:
        inside = mask if one.name == "mask" else ~mask
        for name, found in one.channels.items():
            assert found.sum() == pytest.approx(one.latents[name], rel=1e-12)
            grid = replace(bits.grids[name], bits=symbols[name][3])
            assert found[3] == pytest.approx(float(grid.map(bits.canvas, bits.crop)[inside].sum()), rel=1e-12)
    with pytest.raises(ValueError, match="channels are not known"):
        laid_out(rng, kind).region(mask, channels=True)


def test_infinite_bits_stay_where_they_are() -> None:
    bits = by_hand(grids={"y": CellGrid(torch.tensor([[4.0, torch.inf], [12.0, 16.0]]))})
    table = bits.region((0, 0, 2, 3))
    assert (table.regions[0].bits, table["rest"].bits) == (10.0, math.inf)
    assert json.loads(json.dumps(table.record(), allow_nan=False))["rows"][1]["bits"] is None


def test_psnr_inside(rng: np.random.Generator) -> None:
    x, made = (torch.from_numpy(rng.random((1, 3, 3, 4))) for _ in range(2))
    bits = by_hand(picture=x, reconstruction=made)
    table = bits.region(LABELS)
    for label, name in ((1, "1"), (2, "2"), (0, "rest")):
        error = (x - made).square()[0][:, label == LABELS].mean()
        assert table[name].psnr_db == pytest.approx(-10 * math.log10(error), abs=1e-12)
    assert bits.psnr_db == pytest.approx(-10 * math.log10((x - made).square().mean()), abs=1e-12)
    assert by_hand(picture=x, reconstruction=x).region(LABELS)["1"].psnr_db is None


@pytest.mark.medium
@pytest.mark.parametrize("bits", ["estimated", "coded"])
def test_regions_of_a_result(bits: str) -> None:
    x = torch.rand(2, 3, 70, 100)
    result = bitrate_ext.BitrateMapper(coded_model("bmshj2018-hyperprior"), bits=bits, channels=True)(x)
    table = result.region((10, 20, 30, 40), names="face", channels=True, number=1, picture=x[1:])
    one, size = table["face"], result.map[1, 0, 20:60, 10:40].double()
    assert one.bits == pytest.approx(float(size.sum()), rel=1e-5)
    channel = result.channel_map("y", 3)[1, 0, 20:60, 10:40].double().sum()
    assert one.channels["y"][3] == pytest.approx(float(channel), rel=1e-5)
    assert {name: float(of.sum()) for name, of in one.channels.items()} == pytest.approx(dict(one.latents), rel=1e-12)
    assert total(table) == pytest.approx(result.image(1).total_bits, rel=1e-12)
    if result.x_hat is not None:
        error = (result.x_hat[1:].clamp(0, 1) - x[1:])[..., 20:60, 10:40].square().mean()
        assert one.psnr_db == pytest.approx(-10 * math.log10(error), abs=1e-4)


def test_several_pictures_together() -> None:
    x, made = torch.zeros(1, 3, 3, 4), torch.full((1, 3, 3, 4), 0.5)
    tables = [
        by_hand(picture=x, reconstruction=made).region(LABELS, names={1: "eye", 2: "sky"}),
        by_hand(picture=x, reconstruction=x).region((0, 0, 4, 3), names="sky"),
    ]
    table = add_up(tables)
    assert told(table) == [
        ("eye", 2, 2.0),
        ("sky", 16, 34.0),
        ("rest", 6, 16.0),
    ]
    sky = table["sky"]
    assert (sky.share, sky.pixel_share) == (34 / 52, 16 / 24)
    assert sky.psnr_db == pytest.approx(-10 * math.log10(0.25 * 4 / 16))
    assert (table.padding_bits, table.elsewhere_bits, table.total_bits, table.pictures) == (28.0, 48.0, 128.0, 2)


def test_tables(rng: np.random.Generator) -> None:
    bits = laid_out(rng, "bilinear")
    table = bits.region([(0, 0, 50, 40), (10, 10, 60, 20)], names=["a & b_1", "c,d"])
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [row["name"] for row in rows] == ["a & b_1", "c,d", "rest"]
    for row, one in zip(rows, table.rows, strict=True):
        assert float(row["bits"]) == one.bits
        assert float(row["bits.y"]) == one.latents["y"]
        assert row["psnr_db"] == ""
    latex = table.latex().splitlines()
    assert latex[0].startswith(r"\begin{tabular}{l" + "r" * 10 + "}")
    assert latex[4].startswith(r"a \& b\_1 & 2,000 & ")
    assert all(line.count(" & ") == 10 for line in (latex[2], *latex[4:7]))
    lines = str(table).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[3].split()[:2] == ["rest", format(201 * 270 - 2000 - 1200 + 40 * 20 + 0, ",")]


def test_marks_of_latex_and_columns_of_text() -> None:
    assert r"\textbackslash{}\{x\}\textasciitilde{}\#5 \$" in latex_table(["a"], [["\\{x}~#5\n$"]])
    assert text_table(["a", "bb"], [["long", "1"], [" x", "22"]]) == "a     bb\nlong   1\n x    22"
