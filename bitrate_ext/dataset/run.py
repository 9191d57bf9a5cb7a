"""Run a data set: list it, cut it into parts, have each done exactly once, and close the output."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from .._version import __version__
from ..checks import check_whole_number
from ..choices import check_choice
from ..io.files import shown
from ..optional import installed_version, require
from .codec import About, Codec
from .items import DatasetError, Listing, find_items
from .part import Counts, Part
from .pool import POLL, Here, Make, Pool, ProcessWorker, Worker
from .rows import read_rows, schema, with_texts
from .storage import PARTIAL, Journal, Taken, put, put_first, putting, writing

FORMAT = 2  # of the output folder
MANIFEST, SUCCESS, TABLE, CLOSING = "manifest.json", "_SUCCESS", "rows.csv", "closing.journal"
FEWEST_PARTS, LARGEST_PART = 64, 1024  # where there are enough items; items
ENGINES = PROCESSES, RAY = "processes", "ray"
LOOKS = 2  # threads that look at what is there: of files of this machine, more wait for each other
TIME_LIMIT = 300.0  # seconds an item
_PACKAGES = ("torch", "compressai")  # whose versions numbers depend on


@dataclass(frozen=True)
class Progress:
    """How far a run is: items, those of earlier runs too, of all; errors; bits, pixels and seconds of this run."""

    items: int
    total: int
    errors: int
    bits: float
    pixels: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """What became of the items of a run: ``items`` = ``ok`` + ``error`` + ``skipped``, those that were done earlier.

    ``errors`` are the error rows of earlier runs and of this one; ``complete`` says whether every part of the data set
    is there, those of other shards included.
    """

    items: int
    ok: int
    error: int
    skipped: int
    errors: int
    complete: bool
    seconds: float


class TooManyErrors(DatasetError):
    """More items failed than the run may have."""


def run(
    inputs: Iterable[str] | Listing,
    output: str | os.PathLike[str],
    make: Callable[[], Codec],
    *,
    jobs: int | None = None,
    batch: int = 1,
    part_items: int | None = None,
    shard: tuple[int, int] = (1, 1),
    resume: bool = True,
    limit_errors: int | None = None,
    time_limit: float = TIME_LIMIT,
    engine: str = PROCESSES,
    address: str | None = None,
    gpus: float = 0,
    readers: int = 0,
    preload: Sequence[str] = (),
    look: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Measure every picture of a data set exactly once, as rows in Parquet.

    Called again with the same arguments it goes on where an earlier run ended, however that ended. Several runs may
    work on one output at a time, on one machine or with ``shard`` on several: each part is locked by whoever works on
    it.

    Args:
        inputs: names as ``find_items`` takes them, or what it has found.
        output: a folder; made if absent. It gets ``part-*.parquet`` with the rows, ``work-*.parquet`` beside them with
            seconds and stamps of files, ``manifest.json``, and once all is done ``rows.csv`` and ``_SUCCESS``.
        make: makes the codec in each worker, such as ``functools.partial(PictureCodec.demo, 5)``; it must be
            importable there.
        jobs: worker processes. Default: one for each processor. 0: none, all in this process, which a crash ends.
        batch: pictures of one size that the network gets together, at most.
        part_items: pictures in a part. Default: a 64th of all, 1024 at most.
        shard: (i, n): do only every n-th part, from the i-th on, counted from 1.
        resume: False: an output that exists is an error.
        limit_errors: error rows after which the run stops. Default: none.
        time_limit: seconds without progress after which an item is given up; not of ``jobs`` 0.
        engine: "processes" of this machine, or "ray": actors, with the extra ``ray``.
        address: of a cluster of Ray, "auto" where this machine belongs to one. Default: this machine.
        gpus: that each of Ray's actors asks for.
        readers: items that tasks of Ray read and decode for each actor at a time, on any machine with a processor to
            spare. Default: actors read by themselves.
        preload: modules that are imported once for all workers, besides the one that ``make`` is of.
        look: is told several times a second how far the run is.

    Returns:
        Counts of this run's items.

    Raises:
        DatasetError: nothing to do, an output of another run, one that cannot be written, or too many errors.
        ValueError: an argument that makes no sense.
    """
    _check(jobs, batch, part_items, shard, limit_errors, time_limit)
    check_choice("engine", engine, ENGINES)
    check_whole_number("readers", readers, 0)
    if readers and engine != RAY:
        raise ValueError(f"readers are tasks of Ray: engine must be {RAY!r} for {readers} of them, got {engine!r}")
    start = time.monotonic()
    listing = inputs if isinstance(inputs, Listing) else find_items(inputs)
    folder = Path(output)
    if not resume and (folder / MANIFEST).exists():
        raise DatasetError(f"{shown(folder)}: holds a run already, and resume is off; name another folder")
    workers = _workers(make, jobs, time_limit, engine, address, gpus, readers, preload)
    pool = Pool(workers) if workers else Here(make)
    try:
        count = len(listing.names)
        size = part_items or math.ceil(min(LARGEST_PART, max(batch, count / FEWEST_PARTS)))
        expected = _size_there(folder) or size
        cut = _cut(count, expected)
        mine = range(shard[0] - 1, len(cut), shard[1])
        there = [number for number in mine if Part(folder, number, len(cut), (), "", "", ()).rows.exists()]
        with ThreadPoolExecutor(LOOKS) as looks:  # while workers import what they need
            found = looks.map(lambda number: listing.stamps_digest(cut[number]), there)
            stamps = dict(zip(there, found, strict=True))
        about = pool.describe(everywhere=not (folder / SUCCESS).exists())
        key = open_output(folder, about, listing, batch, size, part_items is not None)
        if (other := _size_there(folder)) != expected:  # of a run that has begun in between
            cut, stamps = _cut(count, other), {}
            mine = range(shard[0] - 1, len(cut), shard[1])
        bare = Part(folder, 0, len(cut), (), key, about.model, about.latents, batch, 2 * batch, about.files)
        bare = replace(bare, run=secrets.token_hex(8))

        def part(number: int) -> Part:
            return replace(bare, number=number, items=listing.items(cut[number]))

        with ThreadPoolExecutor(LOOKS) as looks:
            known = looks.map(lambda number: replace(bare, number=number).published(stamps[number]), stamps)
            whole = {number: counts for number, counts in zip(stamps, known, strict=True) if counts is not None}
        left = [number for number in mine if number not in whole]
        done = reduce(Counts.plus, whole.values(), Counts())
        total = sum(len(cut[number]) for number in mine)
        earlier, now = done.ok + done.error, Counts()

        def show(flying: Counts) -> None:
            seen = now.plus(flying)
            items, errors = earlier + seen.ok + seen.error + seen.skipped, done.error + seen.error
            look(Progress(items, total, errors, seen.bits, seen.pixels, time.monotonic() - start))
            if limit_errors is not None and errors > limit_errors:
                raise TooManyErrors(
                    f"{errors:,} of {items:,} items failed, more than limit_errors {limit_errors:,}; "
                    f"the column error in {shown(folder)} says why; the same command with a higher limit goes on"
                )

        if left:
            with writing(folder):
                (folder / SUCCESS).unlink(missing_ok=True)
        show(Counts())
        for _, counts in pool.run(map(part, left), show):
            now = now.plus(counts)
            show(Counts())
    finally:
        pool.stop()
    complete = all(replace(bare, number=number).rows.exists() for number in range(len(cut)))
    errors = done.error + now.error
    while complete and (not (folder / SUCCESS).exists() or (folder / CLOSING).exists()):
        errors = close_output(folder, map(part, range(len(cut))), about.latents, key)
    seconds = time.monotonic() - start
    return Report(total, now.ok, now.error, now.skipped + earlier, errors, complete, seconds)


def _check(
    jobs: int | None,
    batch: int,
    part_items: int | None,
    shard: tuple[int, int],
    limit_errors: int | None,
    time_limit: float,
) -> None:
    if jobs is not None and jobs < 0:
        raise ValueError(f"jobs must be 0 or more, got {jobs}")
    if limit_errors is not None and limit_errors < 0:
        raise ValueError(f"limit_errors must be 0 or more, got {limit_errors}")
    for name, value in (("batch", batch), ("part_items", part_items)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard must be (i, n) with 1 <= i <= n, got {shard}")
    if not time_limit > 0:
        raise ValueError(f"time_limit must be a positive number of seconds, got {time_limit}")


def _workers(
    make: Make,
    jobs: int | None,
    time_limit: float,
    engine: str,
    address: str | None,
    gpus: float,
    readers: int,
    preload: Sequence[str],
) -> Sequence[Worker]:
    cores = len(os.sched_getaffinity(0))
    cores = max(1, cores - readers)  # those that tasks of Ray are to have
    count = cores if jobs is None else jobs
    if engine == PROCESSES:
        return [ProcessWorker(make, max(1, cores // count), time_limit, preload) for _ in range(count)]
    from .ray_engine import RayWorker

    threads = 1 if address is not None else max(1, cores // max(1, count))
    return [RayWorker(make, threads, time_limit, gpus, address, readers) for _ in range(count)]


def _cut(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _size_there(folder: Path) -> int:
    """Return how many items a part has by the manifest; 0 where there is none to go by."""
    try:
        return max(0, int(json.loads((folder / MANIFEST).read_bytes())["part_items"]))
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def open_output(folder: Path, about: About, listing: Listing, batch: int, size: int, fixed: bool) -> str:
    """Make the folder with its manifest, or see that it is of the same run; return the run's key.

    Raises:
        DatasetError: it is of another run, or of another version.
    """
    versions = {name: installed_version(name) for name in _PACKAGES}
    manifest: dict[str, Any] = {"format": FORMAT, "version": __version__, "model": about.model, "packages": versions}
    manifest |= {"latents": list(about.latents), "settings": {**about.settings, "batch": batch}}
    key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:32]
    manifest |= {"items": len(listing.names), "names": listing.digest, "part_items": size, "key": key}
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    path = folder / MANIFEST
    if not path.exists() and folder.is_dir() and any(not name.endswith(PARTIAL) for name in os.listdir(folder)):
        raise DatasetError(f"{shown(folder)}: is not empty and holds no {MANIFEST} of a run; name another folder")
    if put_first(path, text.encode()):
        return key
    try:
        there = json.loads(path.read_bytes())
        known = there["format"] == FORMAT
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{shown(path)}: is no manifest of a run; name another folder") from error
    if not known:
        raise DatasetError(f"{shown(folder)}: is of another version of this package; name another folder")
    if not fixed:
        manifest["part_items"] = there["part_items"]
    for name, then, now in _differences(there, json.loads(json.dumps(manifest))):
        raise DatasetError(f"{shown(folder)}: holds a run with {name} {then}, now {now}; name another folder")
    return key


def _differences(there: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs of two manifests, from what users say to what follows from it."""
    for name in ("version", "model", "packages", "settings", "latents", "items", "names", "part_items", "key"):
        one, other = there.get(name), now.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            for inner in sorted({*one, *other}):
                if one.get(inner) != other.get(inner):
                    yield inner, one.get(inner), other.get(inner)
        elif one != other:
            words = {"names": "names of pictures whose hash is", "items": "pictures:", "part_items": "part_items"}
            yield words.get(name, name), one, other


def close_output(folder: Path, parts: Iterator[Part], latents: tuple[str, ...], key: str) -> int:
    """Write the table of all rows as CSV, and say that the output is whole; return how many rows are errors.

    What processes that died have left is removed. Where another process is at it, nothing is done.
    """
    csv, counts = require("pyarrow.csv"), Counts()
    columns = with_texts(schema(latents).empty_table()).schema
    try:
        lock = Journal(folder / CLOSING, key)
    except Taken:
        time.sleep(POLL)
        return 0
    try:
        with putting(folder / TABLE) as file, csv.CSVWriter(file, columns) as writer:
            for part in parts:
                rows = read_rows(part.rows)
                statuses = rows.column("status").to_pylist()
                good = statuses.count("ok")
                counts = counts.plus(Counts(good, len(statuses) - good))
                writer.write_table(with_texts(rows))
        for left in (*folder.glob("part-*.journal"), *folder.glob(f"*{PARTIAL}")):
            left.unlink(missing_ok=True)
        text = json.dumps({"items": counts.ok + counts.error, "ok": counts.ok, "error": counts.error})
        put(folder / SUCCESS, text.encode() + b"\n")
        lock.remove()
    finally:
        lock.close()
    return counts.error
