"""Data sets under load: a million items, and hours of mixed work."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet")
from dataset_runs import go, kill_workers, names, rows_of  # noqa: E402
from free_codecs import FreeCodec  # noqa: E402

from bitrate_ext.dataset import Listing, Progress, find_items, measure, run  # noqa: E402
from bitrate_ext.dataset.pictures import PictureCodec  # noqa: E402
from bitrate_ext.dataset.rows import schema, to_parquet  # noqa: E402

SOAK = float(os.environ.get("BITRATE_EXT_SOAK", "1800"))  # seconds
MILLION = int(os.environ.get("BITRATE_EXT_ITEMS", "1000000"))


def resident() -> float:
    """MiB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@pytest.mark.slow
def test_a_million_items(tmp_path: Path) -> None:
    listing, killed, done = Listing(names(MILLION)), list[int](), threading.Event()
    seen: list[tuple[int, float, int]] = []

    def look(progress: Progress) -> None:
        seen.append((progress.items, resident(), len(os.listdir("/proc/self/fd"))))

    killer = threading.Thread(target=kill_workers, args=(tmp_path / "out", done, killed, 20))
    killer.start()
    try:
        report = run(listing, tmp_path / "out", FreeCodec, jobs=2, look=look)
    finally:
        done.set()
        killer.join()
    assert (report.ok + report.error, report.skipped) == (MILLION, 0)
    assert len(killed) == 20
    begun = [one for one in seen if one[0] > MILLION // 10]
    half = len(begun) // 2
    for at, most in ((1, 8.0), (2, 2)):  # MiB, descriptors
        assert max(one[at] for one in begun[half:]) <= max(one[at] for one in begun[:half]) + most
    print(f"{report.seconds:.0f} s; driver {begun[0][1]:.0f} to {begun[-1][1]:.0f} MiB, {begun[-1][2]} descriptors")

    start, busy = time.monotonic(), time.process_time()
    again = go(tmp_path / "out", listing.names, jobs=2)
    print(f"found done in {time.monotonic() - start:.1f} s, {time.process_time() - busy:.1f} s of processor time")
    assert (again.skipped, again.complete) == (MILLION, True)
    files = rows_of(tmp_path / "out")
    ids = [pq.read_table(tmp_path / "out" / name, columns=["id"]).column("id") for name in files]
    assert len({one.as_py() for one in itertools.chain(*ids)}) == MILLION
    size, codec = -(-MILLION // len(files)), FreeCodec()
    key = pq.read_table(tmp_path / "out" / next(iter(files)), columns=["settings"]).column(0)[0].as_py()
    for number in random.Random(0).sample(range(len(files)), min(100, len(files))):
        items = listing.items(range(number * size, min((number + 1) * size, MILLION)))
        rows = list(measure(items, codec, key))
        assert bytes(to_parquet(rows, schema(codec.about.latents))) == list(files.values())[number]


@pytest.mark.slow
def test_soak(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for height, width in generator.integers(16, 200, (40, 2)).tolist():
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{height}x{width}.png")
    items = find_items([str(tmp_path)]).items()
    codecs = [PictureCodec.demo(1, threads=threads, ms_ssim=threads == 2, write=["cells"]) for threads in (1, 2, 3)]
    first = {
        (number, item): row for number, codec in enumerate(codecs) for item, row in enumerate(measure(items, codec))
    }
    assert all(row["status"] == "ok" for row in first.values())
    end, done, memory = time.monotonic() + SOAK, 0, deque[tuple[float, float]]()
    while time.monotonic() < end:
        number = int(generator.integers(len(codecs)))
        some = generator.choice(len(items), 10).tolist()
        for item, row in zip(some, measure([items[one] for one in some], codecs[number]), strict=True):
            assert row == first[number, item]
        done += len(some)
        memory.append((time.monotonic(), resident()))
    third = len(memory) // 3
    parts = [[one[1] for one in itertools.islice(memory, at * third, (at + 1) * third)] for at in range(3)]
    slope = np.polyfit(*zip(*itertools.islice(memory, third, None), strict=True), 1)[0] * 3600
    print(f"{done} pictures in {SOAK:.0f} s, each the same; {slope:+.1f} MiB an hour, now {memory[-1][1]:.0f} MiB")
    assert min(parts[2]) <= min(parts[1]) + 1.0
