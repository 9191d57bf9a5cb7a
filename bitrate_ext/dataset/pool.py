"""Worker processes for parts: one codec in each, replaced where they die, stopped where they hang.

Each worker is an executor of the standard library with one process, so that a death costs that worker's part alone.
"""

from __future__ import annotations

import abc
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

from .codec import About, Codec, Elsewhere, Spent
from .items import DatasetError
from .part import ALONE, CRASHED, NO_GPU, NO_MEMORY, NONE, Cause, Counts, Death, Deaths, Flight, Part, do_part

Make = Callable[[], Codec]
POLL = 0.2  # seconds between looks at the workers
STARTS = 5  # deaths of workers in a row before they have begun an item
LOSSES = 20  # of the GPU in a row, without a picture that is measured
HUNG = "took longer than the time limit of {:g} s"
LOST = "the GPU is lost ({}); what is done is kept: the same command goes on with it once the GPU is back"

_made: dict[str, Any] = {}  # of a worker process


class Here:
    """The engine without processes: parts one after the other in this one, which a crash ends."""

    def __init__(self, make: Make) -> None:
        self._codec = make()

    def describe(self, everywhere: bool = True) -> About:
        """Return what the codec says of itself."""
        return self._codec.about

    def run(self, parts: Iterator[Part], look: Callable[[Counts], None]) -> Iterator[tuple[Part, Counts]]:
        """Yield parts as they are done, with what became of their items."""
        waiting = deque(parts)
        while waiting:
            part = waiting.popleft()
            try:
                counts = do_part(part, self._codec)
            except Spent as error:
                raise DatasetError(LOST.format(error.__cause__ or error)) from error
            if counts is None:
                waiting.append(part)
                time.sleep(POLL)
            else:
                yield part, counts
                look(Counts())

    def stop(self) -> None:
        """Nothing is left to stop."""


class Pool:
    """The engine with workers, which are handed one part after the other.

    Args:
        workers: each of which does one part at a time.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    def describe(self, everywhere: bool = True) -> About:
        """Make the codec, in every worker or in the first; return what that says of itself which is there first."""
        asked = {worker.submit(_describe): worker for worker in (self._workers if everywhere else self._workers[:1])}
        for _ in range(STARTS * len(asked)):
            future = next(iter(wait(asked, return_when=FIRST_COMPLETED).done))
            worker = asked.pop(future)
            try:
                about: About = future.result()
                return about
            except worker.died:
                worker.stop()
                asked[worker.submit(_describe)] = worker
        raise DatasetError("worker processes die while they make the codec, which may need more memory")

    def run(self, parts: Iterator[Part], look: Callable[[Counts], None]) -> Iterator[tuple[Part, Counts]]:
        """Yield parts as they are done, with what became of their items; ``look`` is told of those that are not yet."""
        idle, again, taken = list(self._workers), deque[_Try](), deque[Part]()
        running: dict[Future[Counts | str | None], Worker] = {}
        failed, lost, source = 0, 0, iter(parts)
        while True:
            while idle:
                fresh = again.popleft() if again else next((_Try(part) for part in source), None)
                if fresh is None and taken and not running:
                    time.sleep(POLL)
                    fresh = _Try(taken.popleft())
                if fresh is None:
                    break
                worker = next((one for one in reversed(idle) if one.ready()), None)
                if worker is None:
                    again.appendleft(fresh)
                    break
                idle.remove(worker)
                running[worker.begin(fresh)] = worker
            if not running and not again:
                return
            done = wait(running, timeout=POLL, return_when=FIRST_COMPLETED).done
            if not running:  # as long as there is nowhere to work
                time.sleep(POLL)
            for worker in running.values():
                worker.watch()
            for future in done:
                worker = running.pop(future)
                idle.append(worker)
                try:
                    counts = future.result()
                except worker.died as error:
                    again.append(worker.bury(worker.cause_of(error)))
                    failed = 0 if worker.flight.pid else failed + 1
                    if failed >= STARTS:
                        raise DatasetError(
                            "worker processes die as they start; fewer --jobs need less memory"
                        ) from None
                    continue
                if isinstance(counts, str):
                    again.append(worker.bury(NO_GPU))
                    lost = 1 if worker.flight.counts.ok else lost + 1
                    if lost >= LOSSES:
                        raise DatasetError(LOST.format(counts))
                    continue
                if counts is None:
                    taken.append(worker.now.part)
                else:
                    failed, lost = 0, 0
                    yield worker.now.part, counts
            flying = Counts()
            for worker in running.values():
                flying = flying.plus(worker.now.done).plus(worker.flight.counts)
            look(flying)

    def stop(self) -> None:
        """End all workers at once; what they have done is in their journals."""
        for worker in self._workers:
            worker.stop()


class _Try(NamedTuple):
    """A part to be done, after deaths: over which items, and what was done before, of which progress is told."""

    part: Part
    deaths: Deaths | None = None
    done: Counts = Counts()


class Worker(abc.ABC):
    """Something that does parts in a process, and starts another one in its place once it has died.

    Args:
        time_limit: seconds without progress after which the process is killed.
    """

    now: _Try
    died: tuple[type[BaseException], ...]  # what a future raises whose process has died

    def __init__(self, time_limit: float) -> None:
        self._limit = time_limit
        self.flight = Flight()
        self._hung, self._last, self._kills = False, 0.0, 0

    def ready(self) -> bool:
        """Whether there is where to work; a cluster may have to find room first."""
        return True

    @abc.abstractmethod
    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have the process do something; it is started where there is none."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End the process at once."""

    def begin(self, one: _Try) -> Future[Counts | str | None]:
        """Have the process do a part; a text says how its GPU was lost."""
        self.now, self._hung, self._kills = one, False, _memory_kills()
        self.flight, self._last = Flight(), time.monotonic()
        with contextlib.suppress(OSError):
            self.flight.size = one.part.journal.stat().st_size
        return self.submit(_work, one.part, one.deaths)

    def watch(self) -> None:
        """Kill the process where its part has stood still for too long."""
        if self._follow():
            self._last = time.monotonic()
        elif self.flight.begun and time.monotonic() - self._last > self._limit:
            self._hung = True
            self.stop()

    def _follow(self) -> bool:
        return self.flight.follow(self.now.part.journal, self.now.part.key)

    def cause_of(self, error: BaseException) -> Cause:
        """Tell why the process has died, as which ``error`` came."""
        if self._hung:
            return Cause(HUNG.format(self._limit))
        return NO_MEMORY if _memory_kills() > self._kills else CRASHED

    def bury(self, cause: Cause) -> _Try:
        """Drop a process that is of no more use; return its part as the next one is to do it."""
        self.stop()
        self._follow()
        deaths, begun = dict(self.now.deaths or {}), self.flight.begun
        certain = len(begun) == 1 and cause in (NO_MEMORY, NO_GPU)  # nothing else was held
        for number in begun:
            times = deaths.get(number, NONE).times + 1
            deaths[number] = Death(max(times, ALONE if self._hung or certain else 0), cause)
        return _Try(self.now.part, deaths, self.now.done.plus(self.flight.counts))


def _memory_kills() -> int:
    """Return how many processes this machine has killed for want of memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


class ProcessWorker(Worker):
    """A worker process of the standard library's, of this machine.

    Args:
        make: makes the codec, in the process; it must be importable there.
        threads: of PyTorch.
        time_limit: see ``Worker``.
        preload: modules that are imported once for all workers.
    """

    died = (BrokenProcessPool,)

    def __init__(self, make: Make, threads: int, time_limit: float, preload: Sequence[str] = ()) -> None:
        super().__init__(time_limit)
        self._start = make, threads
        own = getattr(make, "func", make).__module__
        multiprocessing.set_forkserver_preload(["__main__", "bitrate_ext.dataset.part", own, *preload])
        forkserver.ensure_running()  # which imports while this process goes on
        self._executor: ProcessPoolExecutor | None = None
        self._pid: Future[int] | None = None

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if self._executor is None:
            context = multiprocessing.get_context("forkserver")
            self._executor = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(*self._start, os.getcwd()))
            self._pid = self._executor.submit(os.getpid)
        try:
            return self._executor.submit(work, *arguments)
        except BrokenProcessPool:  # it died at rest
            self.stop()
            return self.submit(work, *arguments)

    def stop(self) -> None:
        if self._executor is None:
            return
        if self._pid is not None and self._pid.done() and self._pid.exception() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid.result(), signal.SIGKILL)
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = None


# In the worker process.


def prepare(make: Make, threads: int, folder: str, send: Callable[[Codec], Elsewhere] | None = None) -> None:
    """Say how the codec of this process is made, for how many threads, and where names of files are relative to.

    ``send`` makes, of the codec, what reads its items in other processes.
    """
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    _made.update(make=make, threads=threads, send=send)


def _begin(make: Make, threads: int, folder: str) -> None:
    """Prepare a worker: the driver alone is interrupted, and whatever ends it ends the workers."""
    for one in (signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    driver = multiprocessing.parent_process()
    assert driver is not None

    def follow() -> None:
        driver.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    prepare(make, threads, folder)


def _codec() -> Codec:
    if "codec" not in _made:
        _made["codec"] = _made["make"]()
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(_made["threads"])
        _made["elsewhere"] = _made["send"] and _made["send"](_made["codec"])
    codec: Codec = _made["codec"]
    return codec


def _describe() -> About:
    return _codec().about


def _work(part: Part, deaths: Deaths | None) -> Counts | str | None:
    try:
        codec = _codec()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"a worker cannot make the codec ({reason}); what is done is kept") from error
    try:
        return do_part(part, codec, deaths, _made["elsewhere"])
    except Spent as error:
        return " ".join(str(error.__cause__ or error).split())
