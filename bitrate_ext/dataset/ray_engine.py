"""Workers of Ray: on one machine, or on a cluster whose machines share the files and the output folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ..optional import require
from .codec import Codec, Read, ReadApart, Unreadable
from .items import Item
from .pool import Make, Worker, prepare

PATIENCE = 30.0  # seconds after which an actor reads by itself what it waits for
ALONE = 300.0  # seconds for which it then does so: there may be no processor for tasks


class RayWorker(Worker):
    """An actor of Ray. What it does, and which files come of it, is the same as in a process of this machine.

    Args:
        make: makes the codec, in the actor; it must be importable there.
        threads: of PyTorch; as many processors are asked for.
        time_limit: see ``Worker``.
        gpus: that an actor asks for.
        address: of a cluster, ``"auto"`` where this machine belongs to one. Default: Ray is started here.
        readers: items that tasks of Ray read for an actor at a time; 0: it reads by itself.
    """

    def __init__(
        self,
        make: Make,
        threads: int,
        time_limit: float,
        gpus: float = 0,
        address: str | None = None,
        readers: int = 0,
    ) -> None:
        super().__init__(time_limit)
        self._ray = ray = require("ray")
        self.died = (ray.exceptions.RayActorError,)
        if not ray.is_initialized():
            if address is None:
                os.environ.setdefault("RAY_worker_niceness", "0")  # as worker processes have it, where 15 is Ray's way
            local = address or "local"  # not whichever cluster this machine may belong to
            ray.init(address=local, log_to_driver=False, configure_logging=False, include_dashboard=False)
        # Restarts are not Ray's: who is to blame for a death is seen here, and journals say what is done.
        self._actors = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_Actor)
        folder = os.getcwd()
        self._start = make, threads, folder, partial(Readers, readers, PATIENCE, folder) if readers else None
        self._actor: Any = None

    def ready(self) -> bool:
        if self._actor is None:
            self._begin()
        return self._begun.done()

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if self._actor is None:
            self._begin()
        future: Future[Any] = self._actor.do.remote(work, *arguments).future()
        return future

    def _begin(self) -> None:
        """Ask for an actor, which Ray begins once there is room for it: now, or as another machine joins."""
        self._actor = self._actors.remote(*self._start)
        self._begun: Future[int] = self._actor.do.remote(os.getpid).future()

    def stop(self) -> None:
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None


class _Actor:
    def __init__(self, *start: Any) -> None:
        prepare(*start)

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)


class Readers:
    """Tasks of Ray that read items for an actor, wherever a processor is free; an ``Elsewhere``.

    What does not come of them is read here, where whoever looks after the actor sees what it dies or hangs over: an
    item whose task has died, and where no processor is free for tasks.

    Args:
        at_once: items.
        patience: seconds.
        folder: that names of files are relative to.
        codec: whose items they are.

    Raises:
        ValueError: the codec's items can be read by itself alone.
    """

    def __init__(self, at_once: int, patience: float, folder: str, codec: Codec) -> None:
        if not isinstance(codec, ReadApart):
            raise ValueError(f"readers need a codec that has a reader, got {type(codec).__name__}; leave them out")
        self.at_once, self._patience, self._codec, self._ray = at_once, patience, codec, require("ray")
        self._reader = self._ray.put((codec.reader, folder))
        self._task = self._ray.remote(num_cpus=1, max_retries=0)(_read)
        self._alone_until = 0.0

    def begin(self, item: Item) -> Callable[[], Read]:
        """Have an item read; what is returned waits for it."""
        if time.monotonic() < self._alone_until:
            return partial(self._codec.read, item)
        return partial(self._wait, item, self._task.remote(self._reader, item))

    def _wait(self, item: Item, asked: Any) -> Read:
        patience = self._patience if time.monotonic() >= self._alone_until else 0.0
        try:
            found: Read | Unreadable | MemoryError = self._ray.get(asked, timeout=patience)
        except self._ray.exceptions.RayError as error:
            if isinstance(error, self._ray.exceptions.GetTimeoutError):
                self._alone_until = max(self._alone_until, time.monotonic() + ALONE * bool(patience))
                self._ray.cancel(asked, force=True)
            return self._codec.read(item)
        if isinstance(found, BaseException):
            raise found
        return found


def _read(reader: tuple[Callable[[Item], Read], str], item: Item) -> Read | Unreadable | MemoryError:
    read, folder = reader
    os.chdir(folder)
    try:
        return read(item)
    except (Unreadable, MemoryError) as error:
        return error
