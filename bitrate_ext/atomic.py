"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def open_all_or_none(targets: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """Files to write to, which take the targets' names once the block has ended well; otherwise nothing is left."""
    partial = [target.with_name(f".{target.name}.{os.getpid()}.partial") for target in targets]
    try:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(path.open("w+b")) for path in partial]
        for target in targets:
            if target.is_dir():
                raise IsADirectoryError(f"{target} is a folder")
        for path, target in zip(partial, targets, strict=True):
            path.replace(target)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
