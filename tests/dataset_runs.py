"""Runs of data sets that are disturbed, and what must hold after each."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import random
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from free_codecs import FreeCodec

from bitrate_ext.dataset import DatasetError, Listing, Report, run, storage
from bitrate_ext.dataset.part import Flight, Part, do_part

CALLS = ("open", "write", "fsync", "close", "replace", "unlink", "link")  # of the system, by which output comes about


def names(count: int) -> list[str]:
    """Names of items; every 17th is no picture, every 29th raises."""
    kinds = [(17, "not-a-picture"), (29, "raise-measure")]
    return [f"x/{n:06d}{next((f'-{kind}' for each, kind in kinds if n % each == 5), '')}.png" for n in range(count)]


def go(folder: Path, listed: list[str], make: Callable[[], Any] = FreeCodec, **options: Any) -> Report:
    return run(Listing(listed), folder, make, **{"jobs": 0, **options})


def rows_of(folder: Path) -> dict[str, bytes]:
    """All files with rows, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


def holds(folder: Path, listed: list[str], undisturbed: Path | None = None) -> None:
    """Every item has one row, nothing is left of work, and the rows are those of a run that nothing disturbed."""
    table = [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["path"] for row in table] == listed
    assert len({row["id"] for row in table}) == len(listed)
    assert all((row["status"] == "ok") == (row["error"] is None) == (row["bits"] is not None) for row in table)
    assert (folder / "_SUCCESS").exists()
    left = [one for one in os.listdir(folder) if not one.endswith((".parquet", ".csv", ".json", "_SUCCESS"))]
    assert left == []
    if undisturbed is not None:
        assert rows_of(folder) == rows_of(undisturbed)
        assert (folder / "rows.csv").read_bytes() == (undisturbed / "rows.csv").read_bytes()


class Disturbed:
    """The module ``os`` for ``storage``, in which the n-th call that makes output does not end well.

    Args:
        at: which call, from 1.
        how: "before" or "after" the call the process is killed, "half" of a write is done first; a number is an error.
    """

    def __init__(self, at: int, how: str | int) -> None:
        self._left, self._how = at, how

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return partial(self._call, name, real) if name in CALLS else real

    def _call(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        self._left -= 1
        now = self._left == 0
        if now and isinstance(self._how, int) and name in ("open", "write", "fsync", "replace"):
            raise OSError(self._how, os.strerror(self._how))
        if now and self._how == "half" and name == "write":
            real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        if now and self._how in ("before", "half"):
            os.kill(os.getpid(), signal.SIGKILL)
        result = None if name == "fsync" else real(*arguments)  # no power fails here
        if now and self._how == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def in_child(work: Callable[[], Any]) -> int:
    """Do something in a fork; return its exit status, negative where a signal has killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except DatasetError:
            os._exit(2)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def disturb(folder: Path, listed: list[str], at: int, how: str | int, **options: Any) -> int:
    """Run in a fork whose n-th call does not end well; return its exit status."""

    def work() -> None:
        storage.os = Disturbed(at, how)  # type: ignore[assignment]
        go(folder, listed, **options)

    return in_child(work)


def kill_until_done(folder: Path, listed: list[str], seed: int, most_calls: int, **options: Any) -> int:
    """Kill run after run at a random call, until one ends; return how many were killed."""
    generator, kills = random.Random(seed), 0
    while True:
        how = generator.choice(("before", "half", "after"))
        status = disturb(folder, listed, generator.randrange(1, most_calls), how, **options)
        if status == 0:
            return kills
        assert status == -signal.SIGKILL
        kills += 1


def kill_in_parts(folder: Path, listed: list[str], seed: int, most_calls: int) -> int:
    """Kill whoever does a part, again and again, at random calls until it is published, and now and then a whole run.

    Return how many were killed.
    """
    generator, kills = random.Random(seed), 0

    def draw() -> tuple[int, str]:
        return generator.randrange(1, most_calls), generator.choice(("before", "half", "after"))

    assert disturb(folder, listed, 40, "after") < 0  # which has made the output
    manifest = json.loads((folder / "manifest.json").read_text())
    codec, size, every = FreeCodec(), manifest["part_items"], Listing(listed).items()
    places = list(range(0, len(listed), size))
    parts = [
        Part(folder, number, len(places), every[at : at + size], manifest["key"], "free", codec.about.latents)
        for number, at in enumerate(places)
    ]
    for part in generator.sample(parts, len(parts)):

        def work(at: int, how: str, part: Part = part) -> None:
            storage.os = Disturbed(at, how)  # type: ignore[assignment]
            do_part(part, codec)

        while status := in_child(partial(work, *draw())):
            assert status == -signal.SIGKILL
            kills += 1
            if kills % 40 == 0:
                kills += disturb(folder, listed, *draw()) == -signal.SIGKILL
    return kills


def kill_workers(folder: Path, done: threading.Event, killed: list[int], most: float = math.inf) -> None:
    """Kill a process that is at work, again and again, at random times, once it has got on with its part."""
    generator = random.Random(0)
    while len(killed) < most and not done.wait(generator.uniform(0.02, 0.15)):
        for journal in folder.glob("part-*.journal"):
            flight = Flight()
            flight.follow(journal, json.loads((folder / "manifest.json").read_text())["key"])
            got_on = flight.counts.ok + flight.counts.error > 4  # over one item three deaths would be its own fault
            if got_on and flight.pid not in killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(flight.pid, signal.SIGKILL)
                    killed.append(flight.pid)
                    break


FULL, READ_ONLY, BROKEN, QUOTA = errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT
