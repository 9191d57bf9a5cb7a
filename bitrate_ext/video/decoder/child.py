"""The process: locks itself in, decodes, and writes to the pipe."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
from collections.abc import Sequence
from typing import Any

from .decoding import Unreadable, decode
from .protocol import FAIL, message
from .sandbox import end_with_parent, lock_in
from .truncation import Input

CONTROL, FRAMES = 0, 1  # descriptors: a pipe that closes with the parent; the pipe to write to


def warm_up() -> None:
    """Import all of PyAV, which cannot be opened later: a stream of any kind is made by a module of its own."""
    import av

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith(".__main__"):
            with contextlib.suppress(ImportError):  # what cannot be imported now could not be later
                importlib.import_module(module.name)
    av.logging.set_level(None)
    av.logging.restore_default_callback()
    av.logging.set_libav_level(-8)  # AV_LOG_QUIET
    "".encode("idna")


def send(buffers: list[Any]) -> None:
    """Write all of the buffers; a full pipe takes them in parts."""
    waiting = [memoryview(buffer).cast("B") for buffer in buffers]
    while waiting:
        written = os.writev(FRAMES, waiting)
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if waiting:
            waiting[0] = waiting[0][written:]


def main(arguments: Sequence[str]) -> None:
    """Decode; arguments: the descriptor of the video, limits (address space in bytes, pixels of a frame), wishes."""
    descriptor, max_memory, max_pixels = map(int, arguments[:3])
    wishes = json.loads(arguments[3])
    try:
        warm_up()
        gc.freeze()  # what is there stays: collecting looks at what comes
        size = os.fstat(descriptor).st_size
        end_with_parent(CONTROL)
        sandboxed = lock_in(max_memory)
        for buffers in decode(Input(descriptor), size, max_pixels, sandboxed, wishes):
            send(buffers)
    except BrokenPipeError:  # the parent wants no more
        pass
    except Unreadable as error:
        send(message(FAIL, str(error).encode()))
    except MemoryError:
        send(message(FAIL, f"decoding needs more than {max_memory:,} bytes of memory".encode()))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        send(message(FAIL, f"cannot be decoded ({type(error).__name__}: {text})".encode()))
