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

from bitrate_ext.dataset import About, Item, Read, ray_engine  # noqa: E402


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


@pytest.mark.slow
def test_tasks_read_for_an_actor(tmp_path: Path) -> None:
    """What they die over, and what is no picture, is in the rows as if the actor had read it; three of them died."""
    listed = names(120)
    listed[10], listed[40] = "x/000010-not-a-picture.png", "x/000040-die-read-once.png"
    listed[70], listed[90] = "x/000070-die-read-always.png", "x/000090-large-read.png"
    (tmp_path / "here").mkdir()
    go(tmp_path / "undisturbed", listed, partial(FreeCodec, str(tmp_path / "here")), jobs=1, part_items=20)
    (tmp_path / "there").mkdir()
    make = partial(FreeCodec, str(tmp_path / "there"))
    go(tmp_path / "out", listed, make, engine="ray", jobs=1, readers=3, part_items=20)
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")
    works = [row for path in sorted((tmp_path / "out").glob("work-*")) for row in pq.read_table(path).to_pylist()]
    deaths = {row["item"]: row["deaths"] for row in works if row["deaths"]}
    assert 70 in deaths
    assert 40 not in deaths, "the actor died over what a task of its own had died over once"


@pytest.mark.slow
def test_an_actor_reads_by_itself_where_there_is_no_room_for_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "PATIENCE", 1.0)
    listed = names(60)
    go(tmp_path / "undisturbed", listed, part_items=20)
    go(tmp_path / "out", listed, engine="ray", jobs=2, readers=2, part_items=20)
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")


def test_readers_need_a_codec_that_can_be_read_apart() -> None:
    with pytest.raises(ValueError, match="readers need a codec that has a reader, got Whole; leave them out"):
        ray_engine.Readers(2, 1.0, ".", Whole())


class Whole:
    """A codec whose reading needs the codec."""

    about = About("whole")

    def read(self, item: Item) -> Read:
        raise NotImplementedError

    def measure(self, pictures: object) -> list[dict[str, object]]:
        raise NotImplementedError
