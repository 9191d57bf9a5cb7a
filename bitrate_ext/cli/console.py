"""Words for people, and for programs that read JSON; errors in one line."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from .._version import __version__
from ..io.files import shown

OK, PARTIAL, FAILED, INTERRUPTED = 0, 1, 2, 130  # exit codes; see main.py
_passes: list[str] = []  # how far what is told is, innermost last
PATIENCE = 3.0  # seconds after which it is said what takes so long, and after which again


class UsageError(Exception):
    """Arguments that cannot be served; the message is one line for the user."""


def tell_failure(what: str, name: str, reason: str) -> dict[str, str]:
    """Say on stderr why a file was not served, and return what JSON says of it."""
    echo(f"bitrate-ext: error: {reason}", sys.stderr)
    return {what: name, "error": reason}


def print_document(what: str, served: Sequence[Any], failures: Sequence[dict[str, str]], **more: Any) -> None:
    """Print the JSON document of a command that serves files, ``what`` being one of them, with ``more`` in it."""
    document = {"version": __version__, f"{what}s": served, "failures": failures, **more}
    echo(json.dumps(document, indent=2, allow_nan=False), sys.stdout)


def tell_failures(what: str, failures: Sequence[dict[str, str]], count: int) -> None:
    """Sum up on stderr which files of several were not served."""
    if failures and count > 1:
        failed = ", ".join(shown(failure[what]) for failure in failures)
        echo(f"Failed: {len(failures)} of {count} {what}s: {failed}", sys.stderr)


def warn(name: str, warnings: Iterable[str]) -> None:
    """Print each warning of a file as a line on stderr."""
    for words in warnings:
        echo(f"bitrate-ext: warning: {shown(Path(name).name)}: {words}", sys.stderr)


def one_line(error: BaseException) -> str:
    """Return what an error says, or its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def finite(value: float | None) -> float | None:
    """Return a number for JSON, which has neither infinity nor NaN: None in their place."""
    return value if value is not None and math.isfinite(value) else None


def number(value: float | None, form: str) -> str:
    """Format a number for people; bits are None where they are not finite."""
    return "infinitely many" if value is None else format(value, form)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, in the place of Python's."""
    echo(f"bitrate-ext: warning: {' '.join(str(message).split())}", sys.stderr)


def echo(text: str, stream: IO[str]) -> None:
    """Print past a progress bar; what a terminal would obey and what the stream cannot show are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    harmless = "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)
    escaped = harmless.encode(encoding, "backslashreplace").decode(encoding)
    tqdm = sys.modules.get("tqdm")  # there where a bar may be; writing past none makes a lock that a worker would leave
    if tqdm is not None and getattr(tqdm.tqdm, "_instances", True):
        tqdm.tqdm.write(escaped, file=stream)
    else:
        print(escaped, file=stream)
    stream.flush()


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Say on stderr what is being done where it takes ``PATIENCE`` seconds, and again after as many.

    With the passes that ``count_passes`` was called with in the block.
    """
    done, start, level = threading.Event(), time.monotonic(), len(_passes)
    _passes.append("")

    def tell() -> None:
        with contextlib.suppress(OSError):  # whoever read it has gone
            while not done.wait(PATIENCE):
                echo(f"{what} ... {time.monotonic() - start:.0f} s{_passes[level]}", sys.stderr)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        del _passes[level:]


def count_passes(done: int, total: int) -> None:
    """Have the lines of the innermost ``telling`` say how far it is."""
    if _passes:
        _passes[-1] = f", pass {done} of {total}"
