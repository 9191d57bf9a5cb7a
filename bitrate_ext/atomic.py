"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

LONG_NAME = 200  # bytes; names have 255 at most, the temporary ones too


class PartialFile:
    """A file with a temporary name in its target's folder, open for writing and reading, until it is whole.

    ``target`` is the name that it is to have; a file of that name is replaced.
    """

    def __init__(self, target: Path, buffering: int = -1) -> None:
        self.target = target
        bare = os.fsencode(target.name)
        name = target.name if len(bare) < LONG_NAME else hashlib.sha256(bare).hexdigest()
        self.path = target.with_name(f".{name}.{os.getpid()}.partial")
        self.file: IO[bytes] = self.path.open("w+b", buffering=buffering)

    def finish(self) -> None:
        """Write what is buffered and close the file; raises ``OSError``, also where the target is a folder."""
        self.file.close()
        if self.target.is_dir():
            raise IsADirectoryError(f"{self.target} is a folder")

    def publish(self) -> None:
        """Give a finished file the name of its target."""
        self.path.replace(self.target)

    def discard(self) -> None:
        """Close the file, and remove it unless it is published."""
        with contextlib.suppress(OSError):  # of what is still buffered, where the disk is full
            self.file.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_all_or_none(targets: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """Open files that take the targets' names once the block has ended well; otherwise nothing is left."""
    partial: list[PartialFile] = []
    try:
        for target in targets:
            partial.append(PartialFile(target))
        yield [one.file for one in partial]
        for one in partial:
            one.finish()
        for one in partial:
            one.publish()
    finally:
        for one in partial:
            one.discard()
