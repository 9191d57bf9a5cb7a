"""The output folder of a data set: files that appear whole or not at all, and journals of parts that are at work.

A process may be killed between any two calls of the system, and a disk may be full at any of them. A file gets its name
after its bytes are on the disk. A journal is appended to and locked: whoever holds the lock works on that part, and the
system takes the lock from a process that is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..io.files import shown
from .items import DatasetError

PARTIAL = ".partial"


class OutputError(DatasetError):
    """The output folder cannot be written; one line that says why and what to do."""


class Taken(Exception):
    """Another process works on that part."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise what the system refuses in the block as an ``OutputError``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{shown(folder)}: cannot be written ({reason}); what is done is kept: the same command goes on with it"
        ) from error


def put(target: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a file that appears whole or not at all; one of that name is replaced."""
    with writing(target.parent):
        partial = target.with_name(target.name + PARTIAL)
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _write(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        _publish(partial, target, durable)


@contextlib.contextmanager
def putting(target: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write to, which gets its name once the block has ended well: of what is too large for ``put``."""
    with writing(target.parent):
        partial = target.with_name(target.name + PARTIAL)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _publish(partial, target, True)


def put_first(target: Path, data: bytes) -> bool:
    """Write a file unless there is one of that name, as which only one of several processes succeeds."""
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return False
        own = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL}")
        try:
            own.write_bytes(data)
            os.link(own, target)
        except FileExistsError:
            return False
        finally:
            own.unlink(missing_ok=True)
    return True


def _publish(partial: Path, target: Path, durable: bool) -> None:
    os.replace(partial, target)
    if durable:
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write(file: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


class Journal:
    """What is done of one part, line by line, until the part is published.

    Each line has a checksum, into which the run's key goes: lines that are torn, damaged, or of other settings do not
    count. Opening takes the part's lock.

    Args:
        path: of the file.
        key: of the run.

    Raises:
        Taken: another process has the lock.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key
        with writing(path.parent):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.exists(path) or os.fstat(self._file).st_ino != os.stat(path).st_ino:
                    raise BlockingIOError  # whoever had it has just finished
            except BlockingIOError:
                os.close(self._file)
                raise Taken from None
            data = path.read_bytes()
            self.entries = [entry for entry, _ in read_entries(data, key)]
            if data and not data.endswith(b"\n"):
                _write(self._file, b"\n")

    def add(self, entry: Any) -> None:
        """Append an entry, anything that JSON has."""
        text = json.dumps(entry, separators=(",", ":")).encode()
        with writing(self.path.parent):
            _write(self._file, b"%08x %s\n" % (_checksum(text, self._key), text))

    def remove(self) -> None:
        """Delete the file, of a part that is published; another run that has closed the output may have done so."""
        with writing(self.path.parent), contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._file)


def read_entries(data: bytes, key: str) -> Iterator[tuple[Any, int]]:
    """Yield the whole entries of a journal's bytes, and where each ends."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        line, start = data[start:end], end + 1
        with contextlib.suppress(ValueError):
            if line[8:9] == b" " and int(line[:8], 16) == _checksum(line[9:], key):
                yield json.loads(line[9:]), start


def _checksum(text: bytes, key: str) -> int:
    return zlib.crc32(text, zlib.crc32(key.encode()))
