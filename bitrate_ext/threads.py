"""Stages that overlap: a source that runs ahead, a sink that runs behind, and a watch on where the time goes.

Threads serve where the work is done outside of Python: decoders, encoders, PyTorch's kernels. Queues are bounded, so a
fast stage waits for a slow one and memory stays flat.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch

Item = TypeVar("Item")

POLL = 0.1  # seconds between looks at whether the other side has gone


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """The same items, taken from their source by a thread up to ``depth`` ahead; 0: without a thread.

    What the source raises is raised here, after the items before it. Closing this iterator ends the thread once the
    source has given the item that it is working on.
    """
    if depth < 1:
        yield from items
        return
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    end, stop = object(), threading.Event()

    def put(item: Any, error: BaseException | None = None) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((item, error), timeout=POLL)
                return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(end)
        except BaseException as error:
            put(end, error)

    thread = threading.Thread(target=run, name="prefetched", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()


class Background(Generic[Item]):
    """Calls a function with each item in a thread of its own, in order, at most ``depth`` items behind.

    A context manager: on a clean exit all items have been dealt with; on an exception those that wait are dropped.
    What the function raises is raised by the next ``put``, or by the exit, and ends the thread.
    """

    def __init__(self, function: Callable[[Item], object], depth: int) -> None:
        self._function = function
        self._waiting: queue.Queue[Any] = queue.Queue(max(1, depth))
        self._end = object()
        self._error: BaseException | None = None
        self._drop = False
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)

    def __enter__(self) -> Background[Item]:
        self._thread.start()
        return self

    def put(self, item: Item) -> None:
        while True:
            if self._error is not None:
                raise self._error
            with contextlib.suppress(queue.Full):
                self._waiting.put(item, timeout=POLL)
                return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._drop = kind is not None
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put(self._end, timeout=POLL)
                break
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while True:
                item = self._waiting.get()
                if item is self._end:
                    return
                if not self._drop:
                    self._function(item)
        except BaseException as error:
            self._error = error


class Stopwatch:
    """Seconds by stage, added up: ``with watch("network"): ...``.

    Work on a GPU goes on after the call that started it has returned. With ``synchronise`` each stage waits for it at
    both ends, which is right for measuring stages and spoils their overlap.
    """

    def __init__(self, synchronise: bool = False) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._synchronise = synchronise and torch.cuda.is_available()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[stage] += self._now() - start

    def _now(self) -> float:
        if self._synchronise:
            torch.cuda.synchronize()
        return time.perf_counter()
