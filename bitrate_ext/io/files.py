"""Look at files before anything is read of them: what is no readable regular file is refused with the reason."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from os import PathLike, fspath

STDIN, STDIN_NAME = "-", "stdin"  # the standard input: on the command line, and in messages and results
MOST_SPOOLED = 64 << 30  # bytes of the standard input
_CHUNK = 1 << 20  # bytes


def shown(path: str | PathLike[str]) -> str:
    """Return a file's name as messages have it: quoted where it is empty or a character cannot be printed."""
    text = STDIN_NAME if fspath(path) == STDIN else fspath(path)
    return text if text.isprintable() and text else repr(text)


def unusable(path: str | PathLike[str], kind: str) -> str | None:
    """Say why a path cannot be read as a file of its kind; None where it can. Opens nothing: a pipe would wait.

    Args:
        path: of the file.
        kind: what it should be, ``"an image"``.
    """
    text = fspath(path)
    if not text:
        return f"not the name of {kind} file"
    if "\0" in text:
        return "a file name cannot hold a null character"
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return irregular(status, kind) or (None if os.access(path, os.R_OK) else "no permission to read the file")


def irregular(status: os.stat_result, kind: str) -> str | None:
    """Say why what has that status is no file of its kind, see ``unusable``; None where it is."""
    if stat.S_ISDIR(status.st_mode):
        return f"is a folder, not {kind} file"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    return None if status.st_size else "the file is empty"


def open_regular(path: str | PathLike[str], kind: str, error: type[ValueError]) -> int:
    """Open a file for reading and return its descriptor; what is no regular file that holds something is not opened.

    Args:
        path: of the file. Only ever a name: protocols and options are not looked for in it.
        kind: what it should be, ``"a video"``.
        error: what is raised, with one line that names the file.
    """
    reason = unusable(path, kind)
    if reason is None:
        try:  # not waiting for the other end of a pipe, should it have become one
            return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except OSError as trouble:
            reason = f"cannot be read ({trouble.strerror})"
    raise error(f"{shown(path)}: {reason}")


@contextlib.contextmanager
def spooled_stdin(kind: str, most: int = MOST_SPOOLED) -> Iterator[str]:
    """Yield the name of a temporary file with all of the standard input, for readers that seek or read it twice.

    Where the system lets a file without a name be opened, it has none: it goes with the process, however that ends.
    Errors from the block name ``stdin`` in its place.

    Args:
        kind: what it should be, ``"a video"``.
        most: bytes that are taken.

    Raises:
        ValueError: it is a terminal or closed, longer than ``most``, or the disk is full.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise ValueError(f"stdin: nothing comes in; send {kind} into it: bitrate-ext ... - < FILE")
    nameless = os.path.isdir("/proc/self/fd")
    with (tempfile.TemporaryFile if nameless else tempfile.NamedTemporaryFile)(prefix="bitrate-ext-") as file:
        try:
            while chunk := sys.stdin.buffer.read(_CHUNK):
                if file.tell() + len(chunk) > most:
                    raise ValueError(f"stdin: is longer than {most:,} bytes; save it, and name the file")
                file.write(chunk)
            file.flush()
        except OSError as error:
            raise ValueError(
                f"stdin: cannot be kept in {tempfile.gettempdir()} ({error.strerror}); name a folder with room in the "
                "environment variable TMPDIR, or save it, and name the file"
            ) from error
        name = f"/proc/self/fd/{file.fileno()}" if nameless else str(file.name)
        try:
            yield name
        except ValueError as error:
            error.args = tuple(one.replace(name, STDIN_NAME) if isinstance(one, str) else one for one in error.args)
            raise
