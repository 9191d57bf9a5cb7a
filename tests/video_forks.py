"""Children of ``VideoReader`` as forks of one small process that has PyAV imported: a tenth of the time of a start.

They run the same ``main`` as a child that was started, and lock themselves in alike.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO

from fork_server import forks_of

CONTEXT = multiprocessing.get_context("forkserver")
HERE = Path(__file__).parent
BESIDE = HERE.parent / "bitrate_ext/video"  # from there the child's folder is a package by itself


@contextmanager
def forked() -> Iterator[None]:
    """Let ``Fork`` start children."""
    with forks_of(("decoder.child", "av.video.reformatter", __name__), BESIDE, HERE):
        yield


class Descriptor(int):
    """A descriptor that a child is handed."""

    def __reduce__(self) -> tuple[Callable[..., int], tuple[object]]:
        return take, (DupFd(int(self)),)


def take(handed: DupFd) -> int:
    return handed.detach()


def run(video: int, control: int, frames: int, *arguments: int | str) -> None:
    """In the fork."""
    os.dup2(control, 0)
    os.dup2(frames, 1)
    os.close(control)
    os.close(frames)
    importlib.import_module("decoder.child").main([str(video), *map(str, arguments)])
    os._exit(0)


class Fork:
    """Stands in for ``decoded._start``: a child, as ``subprocess.Popen`` would show it."""

    def __init__(self, video: int, max_memory: int, max_pixels: int, wishes: str) -> None:
        (control_end, control), (frames, frames_end) = os.pipe(), os.pipe()
        self.stdin: IO[bytes] = os.fdopen(control, "wb", 0)
        self.stdout: IO[bytes] = os.fdopen(frames, "rb", 0)
        descriptors = map(Descriptor, (video, control_end, frames_end))
        self._process = CONTEXT.Process(target=run, args=(*descriptors, max_memory, max_pixels, wishes), daemon=True)
        self._process.start()
        os.close(control_end)
        os.close(frames_end)
        self._code: int | None = None

    def kill(self) -> None:
        if self._code is None:
            self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._process.join(timeout)
            if self._process.exitcode is None:
                raise subprocess.TimeoutExpired("child", timeout or 0)
            self._code = self._process.exitcode
            self._process.close()
        return self._code
