"""Stages that overlap: order, bounds, errors, and nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from bitrate_ext.threads import Background, Stopwatch, prefetch


def numbers(count: int, taken: list[int]) -> Iterator[int]:
    for k in range(count):
        taken.append(k)
        yield k


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_items_keep_their_order(depth: int) -> None:
    assert list(prefetch(range(50), depth)) == list(range(50))
    assert list(prefetch([], depth)) == []


@pytest.mark.parametrize("depth", [1, 4])
def test_the_source_runs_ahead_by_its_depth(depth: int) -> None:
    taken: list[int] = []
    items = prefetch(numbers(50, taken), depth)
    assert next(items) == 0
    deadline = time.monotonic() + 60
    while len(taken) < depth + 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert depth + 1 <= len(taken) <= depth + 2  # one taken, the waiting ones, one in hand
    items.close()
    assert not [t for t in threading.enumerate() if t.name == "prefetched"]


@pytest.mark.parametrize("depth", [0, 2])
def test_errors_of_the_source_come_in_their_place(depth: int) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    seen = []
    with pytest.raises(KeyError, match="three"):
        seen.extend(prefetch(source(), depth))
    assert seen == [1, 2]


def test_the_sink_gets_all_in_order_in_one_other_thread() -> None:
    got, threads = [], set()

    def sink(item: int) -> None:
        got.append(item)
        threads.add(threading.current_thread())

    with Background(sink, 2) as background:
        for item in range(100):
            background.put(item)
    assert got == list(range(100))
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert not next(iter(threads)).is_alive()


def test_the_sink_holds_back_who_is_faster() -> None:
    gate, got = threading.Event(), []

    def sink(item: int) -> None:
        gate.wait(60)
        got.append(item)

    put = 0
    with Background(sink, 2) as background:
        threading.Timer(0.3, gate.set).start()
        for item in range(10):
            background.put(item)
            if not gate.is_set():
                put += 1
        assert gate.is_set()
    assert put <= 4  # one in hand, two waiting, one being put
    assert got == list(range(10))


def test_errors_of_the_sink_reach_the_caller() -> None:
    def sink(item: int) -> None:
        if item == 3:
            raise OSError("no space left")

    def feed(items: Iterable[int], depth: int) -> None:
        with Background(sink, depth) as background:
            for item in items:
                background.put(item)

    with pytest.raises(OSError, match="no space left"):
        feed(range(1000), 1)
    with pytest.raises(OSError, match="no space left"):  # at the exit
        feed([3], 10)


def test_an_error_of_the_caller_drops_what_waits() -> None:
    got: list[int] = []

    def sink(item: int) -> None:
        while not background._drop:  # the first is in hand until the caller has gone
            time.sleep(0.001)
        got.append(item)

    background = Background(sink, 5)

    def feed() -> None:
        with background:
            for item in range(4):
                background.put(item)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        feed()
    assert len(got) <= 1
    assert not [t for t in threading.enumerate() if t.name == "background"]


def test_a_watch_adds_up() -> None:
    watch = Stopwatch()
    for _ in range(3):
        with watch("one"):
            time.sleep(0.01)
    with pytest.raises(ValueError, match="x"), watch("two"):
        raise ValueError("x")
    assert 0.03 <= watch.seconds["one"] < 60
    assert set(watch.seconds) == {"one", "two"}
