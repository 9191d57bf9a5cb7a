"""Faults by the count: named points of a write, full disks, clocks, damaged journals, doubles, corrupt pictures."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet")
from dataset_runs import Disturbed, disturb, go, holds, names  # noqa: E402
from free_codecs import FreeCodec  # noqa: E402

from bitrate_ext.dataset import DatasetError, Listing, find_items, run, storage  # noqa: E402
from bitrate_ext.dataset.part import Part, do_part  # noqa: E402
from bitrate_ext.dataset.reading import PictureReader  # noqa: E402
from bitrate_ext.dataset.run import close_output  # noqa: E402

FEW = names(20)
SETTINGS: dict[str, Any] = {"part_items": 5}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def undisturbed(tmp_path: Path) -> Path:
    go(tmp_path / "undisturbed", FEW, **SETTINGS)
    return tmp_path / "undisturbed"


class Watched(Disturbed):
    """Ends no call, and notes which there are: the call's name and the kind of file."""

    def __init__(self) -> None:
        super().__init__(0, "before")
        self.points, self._files = list[tuple[str, str]](), dict[int, str]()

    def _call(self, name: str, real: Any, *arguments: Any) -> Any:
        result = None if name == "fsync" else real(*arguments)
        if name == "open":
            self._files[result] = str(arguments[0])
        file = self._files.get(arguments[0], "") if isinstance(arguments[0], int) else str(arguments[0])
        kind = Path(file).name.partition("-")[0] + Path(file).suffix
        self.points.append((name, kind))
        return result


@pytest.mark.medium
def test_killed_at_each_named_point(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    with monkeypatch.context() as patched:
        patched.setattr(storage, "os", watched)
        go(tmp_path / "watched", FEW, **SETTINGS)
    generator, killed = random.Random(0), 0
    named = sorted(set(watched.points))
    assert {("open", "part.partial"), ("write", "part.journal"), ("replace", "part.partial")} <= set(named)
    for point in named:
        for how in ("before", "half", "after") if point[0] == "write" else ("before", "after"):
            at = generator.choice([at for at, one in enumerate(watched.points, 1) if one == point])
            folder = tmp_path / f"{'-'.join(point)}-{how}"
            assert disturb(folder, FEW, at, how, **SETTINGS) < 0
            report = go(folder, FEW, **SETTINGS)
            assert report.ok + report.error + report.skipped == report.items == len(FEW)
            holds(folder, FEW, undisturbed)
            shutil.rmtree(folder)
            killed += 1
    assert killed >= 24


REAL = """
import subprocess, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from dataset_runs import go, names
from bitrate_ext.dataset import DatasetError
out = Path({out!r})
out.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", {options!r}, "none", str(out)], check=True)
stops = 0
while True:
    try:
        go(out / "run", names({count}), part_items=20)
        break
    except DatasetError as error:
        assert {words!r} in str(error), error
        stops += 1
        assert stops < 20
        subprocess.run(["mount", "-o", "remount," + {more!r}.format(stops), str(out)], check=True)
assert stops > 0
go(Path({copy!r}), names({count}), part_items=20)
for path in sorted(Path({copy!r}).glob("part-*")):
    assert path.read_bytes() == (out / "run" / path.name).read_bytes()
assert not list((out / "run").glob("*.partial")) and (out / "run" / "_SUCCESS").exists()
"""


@pytest.mark.medium
@pytest.mark.parametrize("what", ["bytes", "inodes", "read-only"])
def test_a_disk_that_is_really_full(tmp_path: Path, what: str) -> None:
    probe = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    options, more, words = {
        "bytes": ("size=60k", "size={:d}20k", "No space left"),
        "inodes": ("nr_inodes=9", "nr_inodes={:d}9", "No space left"),
        "read-only": ("ro", "rw", "Read-only"),
    }[what]
    root = Path(__file__).parents[2]
    program = REAL.format(
        paths=[str(root), str(root / "tests")],
        out=str(tmp_path / "disk"),
        copy=str(tmp_path / "copy"),
        options=options,
        more=more,
        words=words,
        count=120,
    )
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("step", [9, pytest.param(3, marks=pytest.mark.slow)])
def test_a_clock_that_jumps(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    jumps = random.Random(0)
    now = time.time()
    for name, unit in (("time", 1), ("time_ns", 10**9)):
        monkeypatch.setattr(time, name, lambda unit=unit: unit * (now + jumps.uniform(-1e6, 1e6)))
    for at in range(10, 100, step):
        disturb(tmp_path / "out", FEW, at, "after", **SETTINGS)
        for path in (tmp_path / "out").iterdir():
            os.utime(path, (now + 1e6, now + 1e6))  # the clock has gone back since
        go(tmp_path / "out", FEW, **SETTINGS)
        holds(tmp_path / "out", FEW, undisturbed)
        shutil.rmtree(tmp_path / "out")


def test_an_output_that_is_removed_meanwhile(tmp_path: Path, undisturbed: Path) -> None:
    class Removing(FreeCodec):
        def measure(self, pictures: Any) -> Any:
            if "000007" in str(pictures):
                shutil.rmtree(tmp_path / "out")
            return super().measure(pictures)

    with pytest.raises(DatasetError, match=r"cannot be written \(No such file"):
        go(tmp_path / "out", FEW, Removing, **SETTINGS)
    go(tmp_path / "out", FEW, **SETTINGS)
    holds(tmp_path / "out", FEW, undisturbed)


def test_a_thousand_damaged_journals(tmp_path: Path) -> None:
    key, generator = "k" * 32, random.Random(0)
    journal = storage.Journal(tmp_path / "j", key)
    entries = [{"rows": [{"item": n, "bits": n / 7}], "work": [{"size": n}]} for n in range(40)]
    for entry in entries:
        journal.add(entry)
    journal.close()
    whole = (tmp_path / "j").read_bytes()
    believed = {json.dumps(entry) for entry in entries}
    lost = 0
    for number in range(1000):
        damaged = bytearray(whole)
        if number % 4 == 0:
            damaged = damaged[: generator.randrange(len(whole))]
        for _ in range(generator.randrange(1, 5) if number % 4 else 0):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        found = [json.dumps(entry) for entry, _ in storage.read_entries(bytes(damaged), key)]
        assert set(found) <= believed
        lost += len(entries) - len(found)
    assert lost > 1000


def test_a_manifest_of_a_newer_version_or_none(tmp_path: Path, undisturbed: Path) -> None:
    path = undisturbed / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(DatasetError, match="another version"):
        go(undisturbed, FEW, **SETTINGS)
    path.unlink()
    with pytest.raises(DatasetError, match=r"holds no manifest\.json"):
        go(undisturbed, FEW, **SETTINGS)


@pytest.mark.medium
def test_two_jobs_at_once(tmp_path: Path, undisturbed: Path) -> None:
    for number in range(20):
        folder, children = tmp_path / str(number), list[int]()
        for _ in range(2):
            child = os.fork()
            if child == 0:
                try:
                    go(folder, FEW, partial(FreeCodec, None, 0.0005), **SETTINGS)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(3)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        holds(folder, FEW, undisturbed)


def test_parts_delivered_twice_and_out_of_order(tmp_path: Path, undisturbed: Path) -> None:
    key = json.loads((undisturbed / "manifest.json").read_text())["key"]
    items, generator, delivered = Listing(FEW).items(), random.Random(0), 0
    for number in range(17):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(undisturbed / "manifest.json", folder)
        codec = FreeCodec()
        parts = [Part(folder, n, 4, items[5 * n : 5 * n + 5], key, "free", codec.about.latents) for n in range(4)]
        for part in generator.sample(parts * 3, 12):
            assert do_part(part, codec) is not None
            delivered += 1
        close_output(folder, iter(parts), codec.about.latents, key)
        holds(folder, FEW, undisturbed)
    assert delivered > 200


class Decoding:
    """A codec that reads pictures and measures nothing."""

    def __init__(self) -> None:
        self.about, self.read = FreeCodec().about, PictureReader()

    def measure(self, pictures: Any) -> list[dict[str, Any]]:
        return [FreeCodec()._numbers(str(one.pixels.shape)) for one in pictures]


def spoil(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Spoil 50 of the pictures; yield their names and what their rows say."""
    data = (folder / "000000.png").read_bytes()
    for number in range(50):
        path = folder / f"{number * count // 50:06d}.png"
        path.unlink()
        kind = number % 5
        if kind == 0:
            path.write_bytes(data[: len(data) // 2])
        elif kind == 1:
            path.write_bytes(b"")
        elif kind == 2:
            path.write_text("not a picture")
        elif kind == 3:
            os.mkfifo(path)
        else:
            path.symlink_to("nowhere")
        yield (
            str(path),
            ("truncated|damaged|broken|end", "empty|0 bytes|not a", "not a", "regular|pipe", "[Nn]o such")[kind],
        )


@pytest.mark.parametrize(
    "count", [pytest.param(500, marks=pytest.mark.medium), pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_fifty_corrupt_among_many(tmp_path: Path, count: int) -> None:
    Image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "000000.png")
    for number in range(1, count):
        shutil.copy(folder / "000000.png", folder / f"{number:06d}.png")
    spoilt = dict(spoil(folder, count))
    report = run(find_items([str(folder)]), tmp_path / "out", Decoding, jobs=0)
    assert (report.ok, report.error) == (count - 50, 50)
    table = [row for path in sorted((tmp_path / "out").glob("part-*")) for row in pq.read_table(path).to_pylist()]
    wrong = {row["path"]: row["error"] for row in table if row["status"] == "error"}
    assert wrong.keys() == spoilt.keys()
    for name, error in wrong.items():
        assert re.search(spoilt[name], error), (spoilt[name], error)
