"""What rows come to, beside NumPy, and BD-rates that are known."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")
from commands import error_of  # noqa: E402
from dataset_runs import go, names  # noqa: E402
from free_codecs import FreeCodec  # noqa: E402

from bitrate_ext.cli import main as cli  # noqa: E402
from bitrate_ext.dataset import DatasetError  # noqa: E402
from bitrate_ext.dataset.summary import bd_rate, summarise  # noqa: E402


class CurveCodec(FreeCodec):
    """Bits per pixel that double with each 6 dB, more or fewer by the picture, times a factor."""

    def __init__(self, quality: int, factor: float = 1.0, spread: float = 0.0) -> None:
        super().__init__(setting=quality)
        self._quality, self._factor, self._spread = quality, factor, spread

    def _numbers(self, name: str) -> dict[str, Any]:
        own = super()._numbers(name)
        wild = 1 + self._spread * (own["psnr_db"] - 34.5)
        bpp = 0.1 * 2**self._quality * self._factor * wild
        return {**own, "bpp": bpp, "bits": bpp * 65536, "psnr_db": 24.0 + 6 * self._quality}


class BareCodec(FreeCodec):
    """Tells what every codec must, and no more."""

    def _numbers(self, name: str) -> dict[str, Any]:
        own = super()._numbers(name)
        return {key: value for key, value in own.items() if key not in ("padding_bits", "psnr_db")}


def test_codecs_that_tell_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tmp_path, names(40), BareCodec)
    assert cli.main(["dataset", "summary", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "Mpixel" in told
    assert "padding" not in told
    assert cli.main(["dataset", "summary", str(tmp_path), "--table", str(tmp_path / "table.html")]) == 0


def test_totals_percentiles_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tmp_path, names(200), part_items=50)
    rows = [row for path in tmp_path.glob("part-*") for row in pq.read_table(path).to_pylist() if row["bits"]]
    told = summarise(tmp_path, top=3)
    assert (told["items"], told["ok"]) == (200, len(rows))
    assert told["complete"]
    for name in ("bits", "padding_bits"):
        assert told[name] == pytest.approx(sum(row[name] for row in rows))
    assert sum(told["latents"].values()) == pytest.approx(told["bits"])
    assert told["pixels"] == 65536 * len(rows)
    rates = np.array([row["bpp"] for row in rows])
    for key, value in told["percentiles"]["bpp"].items():
        assert value == pytest.approx(np.percentile(rates, float(key)))
    assert [row["bpp"] for row in told["most"]] == sorted(rates)[:-4:-1]
    assert [row["bpp"] for row in told["fewest"]] == sorted(rates)[:3]
    assert [(row["reason"], row["pictures"]) for row in told["errors"]] == [
        ("not an image", 12),
        ("RuntimeError: no bits here", 200 - 12 - len(rows)),
    ]
    assert cli.main(["dataset", "summary", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["bits"] == told["bits"]
    assert cli.main(["dataset", "summary", str(tmp_path)]) == 0
    assert "12 errors: not an image, such as x/000005" in capsys.readouterr().out


def test_doubles_count_once_and_unfinished_runs_are_told(tmp_path: Path) -> None:
    go(tmp_path, names(100), part_items=20)
    once = summarise(tmp_path)
    shutil.copy(tmp_path / "part-00003-of-00005.parquet", tmp_path / "part-00003-again.parquet")
    assert summarise(tmp_path)["bits"] == pytest.approx(once["bits"], rel=1e-12)
    (tmp_path / "_SUCCESS").unlink()
    assert not summarise(tmp_path)["complete"]


def test_an_odd_picture_is_named(tmp_path: Path) -> None:
    class Odd(CurveCodec):
        def _numbers(self, name: str) -> dict[str, Any]:
            own = super()._numbers(name)
            return {**own, "bpp": own["bpp"] * 50} if name == "000033.png" else own

    go(tmp_path, names(60), partial(Odd, 1, spread=0.01), part_items=20)
    assert [row["path"] for row in summarise(tmp_path)["odd"]] == ["x/000033.png"]


def test_bd_rate_of_a_known_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed, folders = names(40), {}
    for name, factor, spread in (("ours", 0.9, 0.02), ("theirs", 1.0, 0.02), ("other", 0.8, 0.0)):
        folders[name] = [tmp_path / f"{name}{quality}" for quality in range(4)]
        for quality, folder in enumerate(folders[name]):
            go(folder, listed, partial(CurveCodec, quality, factor, spread), part_items=40)
    found = bd_rate(folders["ours"], folders["theirs"])
    assert found["bd_rate"] == pytest.approx(-10)
    assert found["interval"] == pytest.approx([-10, -10])  # of pictures that all save as much
    assert found["psnr_db"] == [24.0, 42.0]
    other = bd_rate(folders["other"], folders["theirs"])
    low, high = other["interval"]
    assert low < other["bd_rate"] < high
    assert high - low < 10
    with pytest.raises(DatasetError, match="4 runs"):
        bd_rate(folders["ours"][:3], folders["theirs"])
    argv = ["dataset", "summary", *map(str, folders["ours"]), "--against", *map(str, folders["theirs"])]
    assert cli.main(argv) == 0
    assert "BD-rate -10.00 %" in capsys.readouterr().out
    go(tmp_path / "elsewhere", [f"y{name}" for name in listed], partial(CurveCodec, 0))
    with pytest.raises(DatasetError, match="same names"):
        bd_rate([tmp_path / "elsewhere", *folders["ours"][1:]], folders["theirs"])


def test_no_run_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "manifest.json" in error_of(capsys, "dataset", "summary", str(tmp_path))
