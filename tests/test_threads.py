"""Stages that overlap: order, bounds, errors, and nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from bitrate_ext.threads import Stopwatch, prefetch

CLOSED = object()


def numbers(count: int, taken: list[object]) -> Iterator[int]:
    try:
        for k in range(count):
            taken.append(k)
            yield k
    finally:
        taken.append(CLOSED)


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_items_keep_their_order(depth: int) -> None:
    assert list(prefetch(range(50), depth)) == list(range(50))
    assert list(prefetch([], depth)) == []


@pytest.mark.parametrize("depth", [1, 4])
def test_the_source_runs_ahead_by_its_depth(depth: int) -> None:
    taken: list[object] = []
    items = prefetch(numbers(50, taken), depth)
    assert next(items) == 0
    deadline = time.monotonic() + 60
    while len(taken) < depth + 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert depth + 1 <= len(taken) <= depth + 2  # one taken, the waiting ones, one in hand
    items.close()
    assert taken[-1] is CLOSED
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


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


def test_a_watch_adds_up() -> None:
    watch = Stopwatch()
    for _ in range(3):
        with watch("one"):
            time.sleep(0.01)
    with pytest.raises(ValueError, match="x"), watch("two"):
        raise ValueError("x")
    assert 0.03 <= watch.seconds["one"] < 60
    assert set(watch.seconds) == {"one", "two"}


def test_a_watch_waits_for_the_device_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the current one, which may be another."""
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    for device in (None, torch.device("cpu"), torch.device("cuda", 1)):
        with Stopwatch(device)("one"):
            pass
    assert waited == [torch.device("cuda", 1)] * 2
