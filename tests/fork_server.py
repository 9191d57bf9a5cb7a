"""Small processes that have imported what their forks need, each apart from the others.

``multiprocessing`` has one server of forks for a whole process: what starts it first decides what it imports.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import pytest


@functools.cache
def started(modules: tuple[str, ...], folders: tuple[Path, ...]) -> forkserver.ForkServer:
    """Return a server that has imported the modules, which lie in the folders."""
    server = forkserver.ForkServer()
    server.set_forkserver_preload(list(modules))
    with pytest.MonkeyPatch.context() as patch:  # the server finds its modules by this alone
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        server.ensure_running()
    return server


@contextmanager
def forks_of(modules: tuple[str, ...], *folders: Path) -> Iterator[None]:
    """Let the processes of the context "forkserver" be forks of the server that has imported the modules."""
    server = started(modules, folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forkserver, "connect_to_new_process", server.connect_to_new_process)
        yield
