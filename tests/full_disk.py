"""Files that cannot grow, as on a full disk."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """In the block no file of this process and its children may get larger, bytes; a write beyond it is an ``OSError``.

    Python's cache of compiled modules stays as it is: an import writes as much of a file as there is room for, takes it
    for whole, and every later import fails.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
