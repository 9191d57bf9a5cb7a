"""Stages that overlap, each running ahead of the next by some items, and a watch on where the time goes.

Threads serve where the work is done outside of Python: decoders, encoders, PyTorch's kernels. Queues are bounded, so a
fast stage waits for a slow one and memory stays flat.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

POLL = 0.1  # seconds between looks at whether the other side has gone


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield the same items, taken from their source by a thread up to ``depth`` ahead; 0: without a thread.

    What the source raises is raised here, after the items before it. Closing this iterator ends the thread once the
    source has given the item that it is working on, and closes a source that is a generator.
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
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=run, name="prefetch", daemon=True)
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


class Stopwatch:
    """Seconds by stage, added up: ``with watch("network"): ...``.

    Work on a GPU goes on after the call that started it has returned. Each stage waits at both ends for the device that
    ``synchronise`` names, which is right for measuring stages and spoils their overlap.
    """

    def __init__(self, synchronise: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._gpu = synchronise if synchronise is not None and synchronise.type == "cuda" else None

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[stage] += self._now() - start

    def _now(self) -> float:
        if self._gpu is not None:
            import torch

            torch.cuda.synchronize(self._gpu)
        return time.perf_counter()
