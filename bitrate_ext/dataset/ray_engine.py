"""Workers of Ray: on one machine, or on a cluster whose machines share the files and the output folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..optional import require
from .pool import Make, Worker, prepare


class RayWorker(Worker):
    """An actor of Ray. What it does, and which files come of it, is the same as in a process of this machine.

    Args:
        make: makes the codec, in the actor; it must be importable there.
        threads: of PyTorch; as many processors are asked for.
        time_limit: see ``Worker``.
        gpus: that an actor asks for.
        address: of a cluster, ``"auto"`` where this machine belongs to one. Default: Ray is started here.
    """

    def __init__(
        self, make: Make, threads: int, time_limit: float, gpus: float = 0, address: str | None = None
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
        self._start = make, threads, os.getcwd()
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
    def __init__(self, make: Make, threads: int, folder: str) -> None:
        prepare(make, threads, folder)

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)
