"""One part of a data set, from items to a published file: the same work whatever engine hands it out.

A part may be worked on any number of times, by processes that die at any point: what is in its journal is kept, the
rest is done, and what is published depends on items and settings alone.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..threads import prefetch
from .codec import GPU, MEMORY, Codec, Elsewhere, Read, Rescuer, Unreadable
from .items import DatasetError, Item, Stamp, stamps_digest
from .rows import (
    OK,
    Row,
    error_row,
    item_id,
    ok_row,
    read_about,
    read_rows,
    read_work,
    schema,
    to_parquet,
    work_to_parquet,
)
from .storage import Journal, Taken, put, read_entries, writing

_CHUNK = 64  # items that are read and measured before rows are given, without an output
_WAITING = 4  # times a batch: pictures that wait for others of their size, at most
_BEAT = 1.0  # seconds between notes that an item is still at work
ALONE = 2  # deaths of workers over an item after which it is tried alone


class Cause(NamedTuple):
    """Why workers die over an item: what its row says in the end, and whether other means than the usual may help.

    Args:
        reason: for the row.
        lack: of what, as ``Rescuer`` is told.
        rescue: deaths after which those other means are tried, for the last time; 0: never.
    """

    reason: str
    lack: str = ""
    rescue: int = 0


CRASHED = Cause("the worker process died over it, also when it was tried alone", MEMORY, 3)
NO_MEMORY = Cause("its worker process was killed for want of memory, also when it was tried alone", MEMORY, 2)
NO_GPU = Cause("the GPU failed over it, also when it was tried alone", GPU, 2)


@dataclass(frozen=True)
class Part:
    """One part: its place among all, its items, and the settings that its rows are made under.

    Args:
        folder: of the output.
        number: of the part, from 0.
        count: of parts.
        items: of it.
        key: of the run: a hash of all settings.
        model: the codec's name.
        latents: their names.
        batch: pictures of one size that the codec gets together, at most.
        ahead: pictures that are read while the codec measures.
        files: kinds of files that are written beside the rows.
        run: which one has it done, by an id of its own.
    """

    folder: Path
    number: int
    count: int
    items: Sequence[Item]
    key: str
    model: str
    latents: tuple[str, ...]
    batch: int = 1
    ahead: int = 2
    files: tuple[str, ...] = ()
    run: str = ""

    @property
    def name(self) -> str:
        """The part's name, as files have it."""
        return f"{self.number:05d}-of-{self.count:05d}"

    @property
    def rows(self) -> Path:
        """The file that a part is published in."""
        return self.folder / f"part-{self.name}.parquet"

    @property
    def work(self) -> Path:
        """The file beside it: stamps of files, seconds, and deaths of workers."""
        return self.folder / f"work-{self.name}.parquet"

    @property
    def journal(self) -> Path:
        """The file of a part that is at work."""
        return self.folder / f"part-{self.name}.journal"

    def written(self) -> list[Path]:
        """Return the files that lie beside the rows, or are half written there."""
        folders = [self.folder / kind / self.name for kind in self.files]
        return [path for folder in folders if folder.is_dir() for path in folder.iterdir()]

    def published(self, stamps: str) -> Counts | None:
        """Return what the published part has, if it is of the same items and their files have not changed since.

        Args:
            stamps: the digest of the items' stamps now.
        """
        about = read_about(self.work) if self.rows.exists() else {}
        if about.get("key") != self.key or about.get("stamps") != stamps:
            return None
        if self.files and int(about["files"]) != len(self.written()):
            return None
        ok, error, pixels = (int(about[name]) for name in ("ok", "error", "pixels"))
        return Counts(ok, error, 0, float(about["bits"]), pixels)


class Counts(NamedTuple):
    """What became of items: measured, failed, done earlier; bits and pixels of those that are measured."""

    ok: int = 0
    error: int = 0
    skipped: int = 0
    bits: float = 0.0
    pixels: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row], skipped: int = 0) -> Counts:
        """Count rows."""
        good = [row for row in rows if row["status"] == OK]
        pixels = sum(row["height"] * row["width"] * row["frames"] for row in good)
        return cls(len(good), len(rows) - len(good), skipped, sum(float(row["bits"]) for row in good), pixels)

    def plus(self, other: Counts) -> Counts:
        """Add two up."""
        both = {name: one + getattr(other, name) for name, one in self._asdict().items()}
        return Counts(**both)


class Death(NamedTuple):
    """How many workers have died over an item, and why the last one."""

    times: int
    cause: Cause


NONE = Death(0, CRASHED)
Deaths = Mapping[int, Death]  # by the items' numbers


def do_part(
    part: Part, codec: Codec, deaths: Deaths | None = None, elsewhere: Elsewhere | None = None
) -> Counts | None:
    """Work on a part until it is published, and count what its run has done; None where another process works on it.

    Args:
        part: which.
        codec: reads and measures.
        deaths: of items that workers have died over; those are read here.
        elsewhere: other processes that read items.

    Raises:
        OutputError: the output cannot be written.
    """
    try:
        journal = Journal(part.journal, part.key)
    except Taken:
        return None
    try:
        return _Work(part, codec, journal, deaths or {}, elsewhere).publish(journal)
    finally:
        journal.close()


def measure(items: Sequence[Item], codec: Codec, key: str = "", batch: int = 1) -> Iterator[Row]:
    """Yield the rows of items, of those with their own loop: no process is started, and nothing is written.

    Args:
        items: such as ``find_items(["photos"]).items()``; their rows come in this order.
        codec: reads, a few items ahead, and measures.
        key: of settings, for the rows' ids.
        batch: pictures of one size that the codec gets together, at most.
    """
    about, chunk = codec.about, max(_CHUNK, batch)
    for start in range(0, len(items), chunk):
        some = items[start : start + chunk]
        placed = [item._replace(number=place) for place, item in enumerate(some)]  # numbers may be there twice
        part = Part(Path(), 0, 1, placed, key, about.model, about.latents, batch, 2 * batch)
        for item, row in zip(some, _Work(part, codec, None, {}).measured(), strict=True):
            yield row | {"item": item.number}


@dataclass
class Flight:
    """What a journal says of its last process: its id, the items it has begun and not ended, and the rows it has."""

    pid: int = 0
    begun: dict[int, None] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    size: int = 0  # bytes of the journal that were read

    def follow(self, path: Path, key: str) -> bool:
        """Read what has been added since; return whether anything was."""
        try:
            with path.open("rb") as file:
                file.seek(self.size)
                data = file.read()
        except OSError:  # published
            return False
        found = False
        start = self.size
        for entry, end in read_entries(data, key):
            found, self.size = True, start + end
            if "pid" in entry:
                self.pid, self.begun, self.counts = entry["pid"], {}, Counts()
            elif "read" in entry:
                self.begun[entry["read"]] = None
            else:
                for row in entry["rows"]:
                    self.begun.pop(row["item"], None)
                self.counts = self.counts.plus(Counts.of(entry["rows"]))
        return found


class _Reading(NamedTuple):
    item: Item
    stamp: Stamp
    seconds: float
    read: Read | Unreadable | MemoryError


class _Work:
    def __init__(
        self, part: Part, codec: Codec, journal: Journal | None, deaths: Deaths, elsewhere: Elsewhere | None = None
    ) -> None:
        self._part, self._codec, self._deaths, self._elsewhere = part, codec, deaths, elsewhere
        self._rescuer = codec if isinstance(codec, Rescuer) else None
        self._too_large: list[Item] = []
        self._note = journal.add if journal else lambda _: None
        self._rows: dict[int, Row] = {}
        self._work: dict[int, dict[str, Any]] = {}
        self._earlier: dict[int, Row] = {}  # of files that may be others now
        self._beat = time.monotonic()

    def measured(self) -> list[Row]:
        """Return the rows of all items, without an output."""
        self._measure(self._part.items)
        return [row for _, row in sorted(self._rows.items())]

    def publish(self, journal: Journal) -> Counts:
        """Do what is not done yet, write the part, and count."""
        part = self._part
        self._take_over(journal.entries)
        todo = [item for item in part.items if item.number not in self._rows]
        if not todo and part.published(stamps_digest(item.stamp for item in part.items)) is not None:
            journal.remove()
            return self._own()
        journal.add({"pid": os.getpid()})
        self._measure(todo)
        rows = list(self._rows.values())
        stamps = stamps_digest((work["size"], work["mtime_ns"]) for _, work in sorted(self._work.items()))
        files = {part.folder / name for row in rows for name in row.get("files") or ()}
        about = {"key": part.key, "stamps": stamps, "files": len(files), **Counts.of(rows)._asdict()}
        put(part.work, work_to_parquet(self._work, about), durable=False)  # the folder is seen to with the part
        put(part.rows, to_parquet(rows, schema(part.latents)))
        with writing(part.folder):
            for path in set(part.written()) - files:  # of pictures that have changed, or half written
                path.unlink()
        journal.remove()
        return self._own()

    def _own(self) -> Counts:
        """Count what this run has done, in whichever of its processes; all else was done earlier, or by another run."""
        own = [row for number, row in self._rows.items() if self._work[number].get("run") == self._part.run]
        return Counts.of(own, len(self._rows) - len(own))

    def _take_over(self, entries: Sequence[dict[str, Any]]) -> None:
        """Keep what is done of files that are still the same."""
        rows: dict[int, Row] = {}
        works: dict[int, dict[str, Any]] = {}
        try:
            works = read_work(self._part.work) if self._part.rows.exists() else {}
            rows = {row["item"]: row for row in read_rows(self._part.rows).to_pylist()} if works else {}
        except DatasetError:  # damaged: done anew
            pass
        for entry in entries:
            if "rows" in entry:
                rows |= {row["item"]: row for row in entry["rows"]}
                works |= {row["item"]: work for row, work in zip(entry["rows"], entry["work"], strict=True)}
        for item in self._part.items:
            row, work = rows.get(item.number), works.get(item.number)
            if row is None or work is None or row["settings"] != self._part.key or not self._has_files(row):
                continue
            if (work["size"], work["mtime_ns"]) == item.stamp:
                self._rows[item.number], self._work[item.number] = row, work
            else:
                self._earlier[item.number] = row

    def _has_files(self, row: Row) -> bool:
        return all((self._part.folder / name).exists() for name in row.get("files") or ())

    def _measure(self, todo: Sequence[Item]) -> None:
        """Do items, those over which workers died one after the other and first of all."""
        rest = []
        for item in todo:
            times, cause = self._deaths.get(item.number, NONE)
            rescue = cause.rescue if self._rescuer else 0
            if times < ALONE:
                rest.append(item)
            elif times > max(ALONE, rescue):
                self._give_up(item, cause.reason)
            elif rescue and times >= rescue:
                self._rescue(item, cause.lack)
            else:
                self._take(self._read([item]), {}, batch=1)
        suspect = max((at for at, item in enumerate(rest, 1) if item.number in self._deaths), default=0)
        waiting: dict[Any, list[_Reading]] = {}
        self._take(self._read(rest[:suspect]), waiting, self._part.batch)
        ahead = prefetch(self._read(rest[suspect:], self._elsewhere), self._part.ahead)
        try:
            self._take(ahead, waiting, self._part.batch)
        finally:
            ahead.close()
        for group in sorted(waiting.values(), key=lambda group: group[0].item.number):
            self._run(group)
        for item in self._too_large:  # now that nothing else is held
            self._rescue(item, MEMORY)

    def _rescue(self, item: Item, lack: str) -> None:
        """Have the codec measure an item by other means, for the last time."""
        assert self._rescuer is not None

        def alive() -> None:
            self._note({"read": item.number})

        alive()
        start, stamp = time.perf_counter(), item.stamp
        try:
            read, numbers = self._rescuer.rescue(item, lack, alive)
        except Exception as error:
            self._give_up(item, _reason(error))
            return
        reading = _Reading(item, stamp, time.perf_counter() - start, read)
        self._end([(reading, self._ok(reading, numbers), 0.0)])

    def _give_up(self, item: Item, reason: str) -> None:
        reading = _Reading(item, item.stamp, 0.0, Unreadable(reason))
        self._end([(reading, self._error(reading, reason), 0.0)])

    def _out_of_memory(self, reading: _Reading, error: MemoryError, seconds: float) -> None:
        """Put an item off to the end, where the codec can do with less."""
        if self._rescuer:
            self._too_large.append(reading.item)
        else:
            self._end([(reading, self._error(reading, _reason(error)), seconds)])

    def _read(self, items: Sequence[Item], elsewhere: Elsewhere | None = None) -> Iterator[_Reading]:
        begun: deque[tuple[Item, Stamp, Callable[[], Read]]] = deque()
        for item in items:
            self._note({"read": item.number})
            stamp = item.stamp  # before it is read: a file that changes meanwhile is another one to the next run
            begun.append((item, stamp, elsewhere.begin(item) if elsewhere else partial(self._codec.read, item)))
            if elsewhere is None or len(begun) == elsewhere.at_once:
                yield self._reading(*begun.popleft())
        while begun:
            yield self._reading(*begun.popleft())

    def _reading(self, item: Item, stamp: Stamp, read: Callable[[], Read]) -> _Reading:
        start = time.perf_counter()
        try:
            found: Read | Unreadable | MemoryError = read()
        except (Unreadable, MemoryError) as error:
            found = error
        except Exception as error:
            found = Unreadable(_reason(error))
        return _Reading(item, stamp, time.perf_counter() - start, found)

    def _take(self, readings: Iterator[_Reading], waiting: dict[Any, list[_Reading]], batch: int) -> None:
        """Measure pictures in groups of one size; those whose group is not full are left waiting, but not many."""
        for reading in readings:
            read, item = reading.read, reading.item
            if isinstance(read, Unreadable):
                self._end([(reading, self._error(reading, read.reason), 0.0)])
                continue
            if isinstance(read, MemoryError):
                self._out_of_memory(reading, read, 0.0)
                continue
            row = self._earlier.get(item.number)
            if row is not None and row["id"] == item_id(item, read, self._part.key):
                self._end([(reading, row, 0.0)])
                continue
            if read.group is None:
                self._run([reading])
                continue
            group = waiting.setdefault(read.group, [])
            group.append(reading)
            if len(group) == batch:
                self._run(waiting.pop(read.group))
            elif sum(map(len, waiting.values())) > _WAITING * batch:
                self._run(waiting.pop(next(iter(waiting))))  # which has waited for the longest time

    def _run(self, group: list[_Reading]) -> None:
        start, found = time.perf_counter(), []
        try:
            for numbers in self._codec.measure([one.read.picture for one in group if isinstance(one.read, Read)]):
                if numbers is not None:
                    found.append(numbers)
                elif time.monotonic() - self._beat > _BEAT:
                    self._beat = time.monotonic()
                    self._note({"read": group[0].item.number})
        except Exception as error:
            if len(group) > 1:
                for one in group:
                    self._run([one])
                return
            seconds = time.perf_counter() - start
            if isinstance(error, MemoryError):
                self._out_of_memory(group[0], error, seconds)
            else:
                self._end([(group[0], self._error(group[0], _reason(error)), seconds)])
            return
        seconds = (time.perf_counter() - start) / len(group)
        self._end([(one, self._ok(one, numbers), seconds) for one, numbers in zip(group, found, strict=True)])

    def _ok(self, reading: _Reading, numbers: Mapping[str, Any]) -> Row:
        """Return the row of what is measured, whose files are written."""
        part, read = self._part, reading.read
        assert isinstance(read, Read)
        row = ok_row(reading.item, read, part.key, part.model, numbers)
        files: Mapping[tuple[str, str], bytes] = row.pop("files", {}) if part.files else {}
        names = []
        for (kind, ending), data in files.items():
            target = part.folder / kind / part.name / f"{row['id']}{ending}"
            with writing(part.folder):
                target.parent.mkdir(parents=True, exist_ok=True)
            put(target, data)
            names.append(str(target.relative_to(part.folder)))
        return row | ({"files": names} if names else {})

    def _error(self, reading: _Reading, reason: str) -> Row:
        sha256 = None if isinstance(reading.read, MemoryError) else reading.read.sha256
        return error_row(reading.item, sha256, self._part.key, self._part.model, reason)

    def _end(self, done: list[tuple[_Reading, Row, float]]) -> None:
        works = [
            {
                "size": one.stamp[0],
                "mtime_ns": one.stamp[1],
                "seconds": one.seconds + seconds,
                "deaths": self._deaths.get(one.item.number, NONE).times,
                "run": self._part.run,
            }
            for one, _, seconds in done
        ]
        rows = [row for _, row, _ in done]
        self._note({"rows": rows, "work": works})
        for row, work in zip(rows, works, strict=True):
            self._rows[row["item"]], self._work[row["item"]] = row, work


def _reason(error: Exception) -> str:
    if isinstance(error, Unreadable):
        return error.reason
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
