"""Pictures in tiles under a guide: the maps, totals and padding of the whole picture, in rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import random_field, some_guide, with_guide
from test_map_picture import Blocks, loaded, photograph
from torch import Tensor

import bitrate_ext
from bitrate_ext.mapping.guides import FROM_IMAGE
from bitrate_ext.tiled.guide_rows import GuideRows

SIZE = 413, 530


class Blind(Blocks):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"likelihoods": super().forward(x)["likelihoods"]}


def projections(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    y, z = random_field(rng, 16, (-30, 30)), random_field(rng, 64, (-200, 150), 1)
    guide = some_guide(rng, 16)
    beside = {"alone": z, "shared": with_guide(z, guide), "two": with_guide(z, some_guide(rng, 64))}
    return {"y": with_guide(y, guide), "z": beside[kind]}


@pytest.mark.medium
@pytest.mark.parametrize(("kind", "tile"), [("alone", 64), ("shared", 64), ("two", 100), ("shared", 10_000)])
def test_maps_are_those_of_the_mapper(tmp_path: Path, rng: np.random.Generator, kind: str, tile: int) -> None:
    model, x, projection = Blocks().eval(), photograph(*SIZE), projections(rng, kind)
    expected = bitrate_ext.BitrateMapper(model, projection=projection)(x[None].float() / 255)
    result = bitrate_ext.map_picture(model, x, tmp_path / "a.npz", projection=projection, tile=tile)
    arrays = loaded(tmp_path / "a.npz")
    for name, one in {"map": expected.map, **{f"maps/{name}": one for name, one in expected.maps.items()}}.items():
        np.testing.assert_allclose(arrays[name], one[0, 0].numpy(), rtol=2e-5, atol=0, err_msg=name)
    assert float(expected.padding_bits) > 0
    for name in ("total_bits", "padding_bits", "bpp"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name).item(), rel=1e-6), name
    total = arrays["map"].sum(dtype=np.float64) + result.padding_bits
    assert abs(total - result.total_bits) <= 6e-8 * result.total_bits
    assert result.warnings == ()


def test_the_image_itself_where_there_is_no_reconstruction(tmp_path: Path, rng: np.random.Generator) -> None:
    model, x, projection = Blind().eval(), photograph(200, 330), projections(rng, "shared")
    expected = bitrate_ext.BitrateMapper(model, projection=projection)(x[None].float() / 255)
    result = bitrate_ext.map_picture(model, x, tmp_path / "a.npz", projection=projection, tile=64)
    np.testing.assert_allclose(loaded(tmp_path / "a.npz")["map"], expected.map[0, 0].numpy(), rtol=2e-5)
    assert result.warnings == expected.warnings == (FROM_IMAGE,)


def test_rows_stay_only_as_long_as_they_are_needed(rng: np.random.Generator) -> None:
    """However tall the picture, as many as one row of cells reaches, one band of tiles, and a few."""
    places = projections(rng, "shared")
    canvas, crop = (64 * 40, 64), (0, 0, 64 * 40, 64)
    rows = GuideRows(places["y"].guide, places, {"y": (160, 4), "z": (40, 1)}, canvas, crop)
    most, done = 0, 0
    for _ in range(40):
        rows.add(torch.rand(1, 3, 64, 64))
        most = max(most, rows._rows.shape[2])
        ready = min(rows.done["y"] * 16, rows.done["z"] * 64)
        if ready > done:
            assert rows.rows(done, ready - done).shape[2] == ready - done
            done = ready
    assert done == canvas[0]
    assert most <= rows.most_rows + 2 * 64


def test_pictures_need_the_memory_that_is_planned(tmp_path: Path, rng: np.random.Generator) -> None:
    """A guide's rows are in the plan."""
    x, field = photograph(*SIZE), {"y": random_field(rng, 16, (-30, 30)), "z": "nearest"}
    guided = field | {"y": with_guide(field["y"], some_guide(rng, 16))}
    limit = 1 << 36
    peaks = [
        bitrate_ext.map_picture(
            Blocks().eval(), x, tmp_path / "a.npz", projection=one, tile=64, max_memory=limit
        ).plan.peak
        for one in (field, guided)
    ]
    rows = 3 * (128 + 2 * 256)  # of the picture alone
    assert peaks[1] - peaks[0] > 0.2 * 4 * rows * SIZE[1]
