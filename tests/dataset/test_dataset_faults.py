"""Nothing is lost and nothing is there twice: processes killed anywhere, full disks, hung and deadly pictures."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from functools import partial
from pathlib import Path

import pytest

pq = pytest.importorskip("pyarrow.parquet")
from dataset_runs import (  # noqa: E402
    BROKEN,
    FULL,
    QUOTA,
    READ_ONLY,
    disturb,
    go,
    holds,
    in_child,
    kill_in_parts,
    kill_until_done,
    kill_workers,
    names,
    rows_of,
)
from free_codecs import FreeCodec, Unreturning  # noqa: E402
from full_disk import largest_file  # noqa: E402

from bitrate_ext.dataset import DatasetError, Listing, Progress, run  # noqa: E402
from bitrate_ext.dataset.part import Flight  # noqa: E402

FEW = names(20)
SLOW = partial(FreeCodec, None, 0.002)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def undisturbed(tmp_path: Path) -> Path:
    go(tmp_path / "undisturbed", FEW, part_items=5)
    return tmp_path / "undisturbed"


@pytest.mark.medium
@pytest.mark.parametrize("how", ["before", "half", "after"])
def test_killed_at_each_call_of_the_system(tmp_path: Path, undisturbed: Path, how: str) -> None:
    at, step = 1, 3 if how == "half" else 2
    while True:
        folder = tmp_path / str(at)
        status = disturb(folder, FEW, at, how, part_items=5)
        if status == 0:
            break
        report = go(folder, FEW, part_items=5)
        assert report.ok + report.error + report.skipped == report.items == len(FEW)
        holds(folder, FEW, undisturbed)
        at += step
    assert at > 90  # there are as many calls


@pytest.mark.medium
@pytest.mark.parametrize("batch", [1, 4])
def test_killed_again_and_again(tmp_path: Path, batch: int) -> None:
    listed = names(2000)
    go(tmp_path / "undisturbed", listed, batch=batch)
    kills = kill_until_done(tmp_path / "out", listed, seed=batch, most_calls=75, batch=batch)
    assert kills >= 100
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")


@pytest.mark.slow
def test_two_thousand_kills(tmp_path: Path) -> None:
    listed = names(50_000)
    go(tmp_path / "undisturbed", listed)
    kills = kill_in_parts(tmp_path / "out", listed, seed=0, most_calls=90)
    report = go(tmp_path / "out", listed)
    assert (report.complete, report.skipped) == (True, len(listed))
    print(f"{kills} kills")
    assert kills >= 2000
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")


@pytest.mark.medium
def test_workers_killed_at_any_time(tmp_path: Path) -> None:
    listed, killed, done = names(1200), list[int](), threading.Event()
    go(tmp_path / "undisturbed", listed)

    killer = threading.Thread(target=kill_workers, args=(tmp_path / "out", done, killed))
    killer.start()
    try:
        report = go(tmp_path / "out", listed, SLOW, jobs=2)
    finally:
        done.set()
        killer.join()
    assert len(killed) >= 10
    assert (report.ok + report.error, report.skipped) == (len(listed), 0)
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")


@pytest.mark.medium
@pytest.mark.parametrize("resumed", [False, True])
def test_what_a_worker_published_as_it_died_is_of_this_run(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    out, told, before = tmp_path / "out", list[Progress](), 0
    if resumed:  # an earlier run has done some: whole parts, and some of one
        disturb(out, FEW, 66, "after", part_items=5)
        before += sum(pq.read_metadata(path).num_rows for path in out.glob("part-*.parquet"))
        (journal,) = out.glob("part-*.journal")
        flight = Flight()
        flight.follow(journal, json.loads((out / "manifest.json").read_text())["key"])
        before += flight.counts.ok + flight.counts.error
        assert 5 < before < 20
        assert before % 5
    make = partial(Unreturning, str(tmp_path))
    monkeypatch.setattr(Flight, "follow", lambda *_: False)  # the driver has not looked in between
    report = run(Listing(FEW), out, make, jobs=2, part_items=5, look=told.append)
    assert len(list(tmp_path.glob("*.journal"))) == 4 - before // 5  # that many died
    assert (report.ok + report.error, report.skipped) == (20 - before, before)
    rows = [row for path in sorted(out.glob("part-*")) for row in pq.read_table(path).to_pylist()]
    assert told[-1].items == 20
    assert told[-1].bits == pytest.approx(sum(row["bits"] or 0 for row in rows[before:]))
    holds(out, FEW, undisturbed)


PROGRAM = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
from dataset_runs import go, names
from free_codecs import FreeCodec
if __name__ == "__main__":
    go(Path({out!r}), names({count}), partial(FreeCodec, None, {seconds}), jobs=2)
"""


def _program(tmp_path: Path, count: int, seconds: float) -> subprocess.Popen[bytes]:
    path = tmp_path / "program.py"
    tests = str(Path(__file__).parents[1])
    path.write_text(PROGRAM.format(tests=tests, out=str(tmp_path / "out"), count=count, seconds=seconds))
    return subprocess.Popen([sys.executable, str(path)], start_new_session=True, stderr=subprocess.PIPE)


def _wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.medium
def test_driver_and_group_killed(tmp_path: Path) -> None:
    listed = names(1500)
    go(tmp_path / "undisturbed", listed)
    generator = random.Random(0)
    for round in range(6):
        before = len(rows_of(tmp_path / "out"))
        with _program(tmp_path, 1500, 0.002) as program:
            _wait_for(lambda: program.poll() is not None or len(rows_of(tmp_path / "out")) > before)  # noqa: B023
            time.sleep(generator.uniform(0, 0.2))
            (os.killpg if round % 2 else os.kill)(program.pid, signal.SIGKILL)
    assert len(rows_of(tmp_path / "out")) < 64
    go(tmp_path / "out", listed)
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")


@pytest.mark.medium
def test_workers_end_with_their_driver(tmp_path: Path) -> None:
    with _program(tmp_path, 10_000, 0.01) as program:
        _wait_for(lambda: rows_of(tmp_path / "out") != {} or program.poll() is not None)
        program.kill()
    group = program.pid
    _wait_for(lambda: not any(_group(int(one)) == group for one in os.listdir("/proc") if one.isdigit()), 5)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


@pytest.mark.medium
@pytest.mark.parametrize(
    ("trouble", "step"),
    [
        *((one, 3) for one in (FULL, READ_ONLY, BROKEN)),
        *(pytest.param(one, 1, marks=pytest.mark.slow) for one in (FULL, READ_ONLY, BROKEN, QUOTA)),
    ],
)
def test_output_that_cannot_be_written(tmp_path: Path, undisturbed: Path, trouble: int, step: int) -> None:
    stopped = 0
    for at in range(1 if step == 1 else 2 + trouble % 3, 100, step):
        folder = tmp_path / str(at)
        status = disturb(folder, FEW, at, trouble, part_items=5)
        assert status in (0, 2)
        stopped += status == 2
        assert all(pq.read_table(path).num_rows == 5 for path in folder.glob("part-*.parquet"))
        go(folder, FEW, part_items=5)
        holds(folder, FEW, undisturbed)
    assert stopped > 60 // step


def test_a_full_disk_is_told_and_room_mends_it(tmp_path: Path, undisturbed: Path) -> None:
    def work() -> None:
        with largest_file(3000), pytest.raises(DatasetError, match=r"cannot be written.*File too large.*goes on"):
            go(tmp_path / "out", FEW, part_items=5)

    assert in_child(work) == 0
    go(tmp_path / "out", FEW, part_items=5)
    holds(tmp_path / "out", FEW, undisturbed)


@pytest.mark.medium
def test_a_full_disk_of_workers(tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "out"
    go(out, FEW, part_items=5)
    for path in (*out.glob("*.parquet"), out / "_SUCCESS"):
        path.unlink()
    blocked = out / "part-00002-of-00004.parquet"
    blocked.mkdir()  # what is written cannot have its name
    (blocked / "x").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        go(out, FEW, jobs=2, part_items=5)
    (blocked / "x").unlink()
    blocked.rmdir()
    go(out, FEW, jobs=2, part_items=5)
    holds(out, FEW, undisturbed)


@pytest.mark.medium
@pytest.mark.parametrize("when", ["read", "measure"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_deadly_item_costs_itself_alone(tmp_path: Path, when: str, batch: int) -> None:
    listed = names(60)
    listed[30] = f"x/000030-die-{when}-always.png"
    listed[40] = f"x/000040-die-{when}-once.png"
    report = go(tmp_path / "out", listed, partial(FreeCodec, str(tmp_path)), jobs=2, part_items=20, batch=batch)
    rows = [row for path in sorted((tmp_path / "out").glob("part-*")) for row in pq.read_table(path).to_pylist()]
    assert "died" in rows[30]["error"]
    plain = names(60)
    assert {n for n in range(60) if rows[n]["status"] == "error"} - {30} == {n for n in range(60) if "-" in plain[n]}
    assert report.ok + report.error == 60
    holds(tmp_path / "out", listed)


@pytest.mark.medium
def test_a_hung_item_ends_at_its_limit(tmp_path: Path) -> None:
    listed = names(30)
    listed[10] = "x/000010-hang-read.png"
    listed[20] = "x/000020-hang-measure.png"
    start = time.monotonic()
    go(tmp_path / "out", listed, jobs=2, time_limit=0.5, part_items=10)
    rows = [row for path in sorted((tmp_path / "out").glob("part-*")) for row in pq.read_table(path).to_pylist()]
    assert [rows[n]["error"] for n in (10, 20)] == ["took longer than the time limit of 0.5 s"] * 2
    assert time.monotonic() - start < 30
    holds(tmp_path / "out", listed)


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_damaged_journal_is_never_believed(tmp_path: Path, rng, count: int) -> None:
    listed = names(40)
    go(tmp_path / "undisturbed", listed, part_items=40)
    disturb(tmp_path / "once", listed, 75, "after", part_items=40)
    (journal,) = (tmp_path / "once").glob("*.journal")
    whole = journal.read_bytes()
    assert len(whole) > 3000
    for number in range(count):
        damaged = bytearray(whole)
        if number % 5 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            for at in rng.integers(len(whole), size=int(rng.integers(1, 4))):
                damaged[at] ^= 1 << int(rng.integers(8))
        journal.write_bytes(bytes(damaged))
        go(tmp_path / "once", listed, part_items=40)
        holds(tmp_path / "once", listed, tmp_path / "undisturbed")
        for path in (tmp_path / "once").glob("part-*"):
            path.unlink()
    text = b'{"rows":[]}'
    journal.write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))  # of no run
    go(tmp_path / "once", listed, part_items=40)
    holds(tmp_path / "once", listed, tmp_path / "undisturbed")


@pytest.mark.medium
def test_two_runs_share_one_output(tmp_path: Path) -> None:
    listed = names(600)
    go(tmp_path / "undisturbed", listed)
    with _program(tmp_path, 600, 0.015) as program:
        _wait_for(lambda: list((tmp_path / "out").glob("*.journal")) != [])
        report = go(tmp_path / "out", listed, partial(FreeCodec, None, 0.015))
        assert program.wait() == 0
    assert report.complete
    assert 0 < report.ok + report.error < 600  # the other one has done the rest
    assert report.ok + report.error + report.skipped == 600
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")


@pytest.mark.medium
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_interrupted_it_stops_at_once_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    for name in names(30):
        (tmp_path / Path(name).name).write_bytes(b"P6 64 64 255\n" + bytes(64 * 64 * 3))
    tests = str(Path(__file__).parents[1])
    argv = [sys.executable, "-m", "bitrate_ext", "dataset", str(tmp_path), "-o", str(tmp_path / "out"), "--jobs", "1"]
    argv += ["--model", "slow_codecs:SlowCodec"]
    environment = {**os.environ, "PYTHONPATH": tests}
    with subprocess.Popen(argv, stderr=subprocess.PIPE, env=environment, start_new_session=True) as command:
        _wait_for(lambda: len(rows_of(tmp_path / "out")) > 2, 120)
        start = time.monotonic()
        command.send_signal(number)
        assert command.wait() == 130
        assert time.monotonic() - start < 5
        assert command.stderr is not None
        assert command.stderr.read().endswith(b"bitrate-ext: interrupted\n")
    _wait_for(lambda: not any(_group(int(one)) == command.pid for one in os.listdir("/proc") if one.isdigit()), 5)
    assert subprocess.run(argv, env=environment, check=False, stderr=subprocess.DEVNULL).returncode == 0
    holds(tmp_path / "out", sorted(str(path) for path in tmp_path.glob("*.png")))
