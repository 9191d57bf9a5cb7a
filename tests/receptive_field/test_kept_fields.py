"""Receptive fields that are kept: those that ship are of the shipped codec, and found where nothing was measured."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from measure_demo_fields import measure, shipped

from bitrate_ext import BitrateMapper, calibrate, load_demo_codec
from bitrate_ext.choices import DEMO_QUALITIES
from bitrate_ext.receptive_field import kept
from bitrate_ext.receptive_field.field import ReceptiveField

pytest.importorskip("compressai")


@pytest.mark.medium
def test_what_ships_is_of_these_weights_and_this_way_of_measuring() -> None:
    """Run tools/measure_demo_fields.py where this fails."""
    wanted = [f"{key}.npz" for _, _, _, keys in shipped() for key in keys]
    with zipfile.ZipFile(kept.SHIPPED) as archive:
        assert sorted(wanted) == archive.namelist()
    assert len(wanted) == len(set(wanted)) == len(DEMO_QUALITIES) * 2 * (2 + 1)


def test_nothing_is_measured_of_the_demo_codec(tmp_path: Path) -> None:
    model = load_demo_codec()
    y, also_y, z = (calibrate(model, latent, cache=tmp_path, notice=pytest.fail) for latent in ("y", None, "z"))
    assert (y.latent, also_y.latent, z.latent) == ("y", "y", "z")
    assert y.guide is None
    guided = calibrate(model, guide=True, cache=tmp_path, notice=pytest.fail)
    assert guided.guide is not None
    assert guided.fit["guided_distance"] < guided.fit["unguided_distance"]
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(guided.dense(), y.dense())


@pytest.mark.slow
def test_what_ships_is_what_is_measured() -> None:
    measured, found = (calibrate(load_demo_codec(3), "z", cache=cache, samples=64) for cache in (False, True))
    np.testing.assert_allclose(found.dense(), measured.dense(), atol=1e-3 * measured.dense().max())


def test_other_questions_are_measured(tmp_path: Path) -> None:
    seen: list[str] = []
    calibrate(load_demo_codec(), "y", samples=2, cache=tmp_path, notice=seen.append)
    assert seen == ["y"]


def test_a_package_without_them_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SHIPPED", tmp_path / "absent.zip")
    assert kept.KeptFields(tmp_path).find("anything") is None


@pytest.mark.medium
def test_the_tool_writes_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what its state holds: nothing is measured here."""
    with zipfile.ZipFile(kept.SHIPPED) as archive:
        archive.extractall(tmp_path / "state")
    measure(tmp_path / "state", tmp_path / "again.zip")
    with zipfile.ZipFile(kept.SHIPPED) as one, zipfile.ZipFile(tmp_path / "again.zip") as other:
        assert one.namelist() == other.namelist()
        assert all(one.read(name) == other.read(name) for name in one.namelist())


def test_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    key = next(iter(shipped()))[3][0]
    (tmp_path / f"{key}.npz").write_bytes(b"damaged")
    assert isinstance(kept.KeptFields(tmp_path).find(key), ReceptiveField)


def test_guided_maps_of_the_demo_codec_begin_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitrate_ext.receptive_field.calibration._Calibration.measure", pytest.fail)
    result = BitrateMapper(load_demo_codec(), projection="guided")(torch.rand(1, 3, 64, 64))
    assert float(result.map.sum()) > 0
