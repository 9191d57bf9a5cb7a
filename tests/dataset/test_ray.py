"""The same files from Ray's actors."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

pq = pytest.importorskip("pyarrow.parquet")
ray = pytest.importorskip("ray")
from dataset_runs import go, holds, names  # noqa: E402
from free_codecs import FreeCodec  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _one_ray():
    tests = Path(__file__).parents[1]
    folders = os.pathsep.join([str(tests), str(tests.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"env_vars": {"PYTHONPATH": folders}}
    ray.init("local", num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env=environment)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_actors_give_the_same_bytes(tmp_path: Path) -> None:
    listed = names(200)
    go(tmp_path / "undisturbed", listed, part_items=20)
    report = go(tmp_path / "out", listed, engine="ray", jobs=2, part_items=20)
    assert report.ok + report.error == 200
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")


@pytest.mark.slow
def test_an_actor_that_dies_or_hangs_costs_one_item(tmp_path: Path) -> None:
    listed = names(60)
    listed[10] = "x/000010-hang-measure.png"
    listed[30] = "x/000030-die-read-always.png"
    go(tmp_path / "out", listed, partial(FreeCodec, str(tmp_path)), engine="ray", jobs=2, part_items=20, time_limit=1)
    rows = [row for path in sorted((tmp_path / "out").glob("part-*")) for row in pq.read_table(path).to_pylist()]
    assert "time limit" in rows[10]["error"]
    assert "died" in rows[30]["error"]
    holds(tmp_path / "out", listed)


@pytest.mark.slow
def test_actors_for_which_there_is_no_room_hold_nothing_up(tmp_path: Path) -> None:
    listed = names(200)
    go(tmp_path / "undisturbed", listed, part_items=10)
    report = go(tmp_path / "out", listed, partial(FreeCodec, None, 0.01), engine="ray", jobs=5, part_items=10)
    assert report.ok + report.error == 200
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")
