"""What the commands share: words for people, errors in one line, folders, progress."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from ..memory import is_out_of_memory

Served = TypeVar("Served")

OK, PARTIAL, FAILED, INTERRUPTED = 0, 1, 2, 130  # exit codes; see cli.py


class UsageError(Exception):
    """Arguments that cannot be served; the message is one line for the user."""


def ensure_output_dir(text: str) -> Path:
    """The folder that ``--output`` names, made where it is absent; raises ``UsageError`` where nothing can go there."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--output {text}: the folder cannot be made ({reason})") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--output {text}: no permission to write there")
    return folder


def with_progress(images: Sequence[str]) -> Iterator[str]:
    """The images, with a bar where there are several and somebody watches."""
    if len(images) < 2 or not sys.stderr.isatty():
        yield from images
        return
    from tqdm import tqdm

    with tqdm(images, unit="image", file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
        yield from bar


def _reason(error: Exception, image: str) -> str | None:
    """One line that names the image; None for what is trouble of neither the image nor the machine."""
    if is_out_of_memory(error):
        return f"{image}: not enough memory to map it on this device"
    if isinstance(error, OSError):
        return f"{image}: its results cannot be written ({error.strerror or one_line(error)})"
    return one_line(error) if isinstance(error, ValueError) else None


def run_each(
    what: str, names: Iterable[str], serve: Callable[[str], Served]
) -> tuple[list[Served], list[dict[str, str]]]:
    """Serve one file after the other. One that cannot be is told in a line on stderr, and the others are done.

    Args:
        what: the files are, ``"image"`` or ``"video"``.
        names: of the files.
        serve: does one, and gives what is to be said of it.

    Returns:
        What was given, and for each failure the file's name and the reason.
    """
    served, failures = [], []
    for name in names:
        try:
            served.append(serve(name))
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            reason = _reason(error, name)
            if reason is None:
                raise
            failures.append({what: name, "error": reason})
            echo(f"bitrate-ext: error: {reason}", sys.stderr)
    return served, failures


@contextlib.contextmanager
def usage_errors(option: str, purpose: str) -> Iterator[None]:
    """Trouble with the model or the arguments, or too little memory for them, as an error for the user."""
    try:
        yield
    except (ValueError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UsageError(f"{option}not enough memory {purpose} on this device") from error
        if not isinstance(error, ValueError):
            raise
        raise UsageError(f"{option}{one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an error says, or its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def finite(value: float | None) -> float | None:
    """For JSON, which has neither infinity nor NaN."""
    return value if value is not None and math.isfinite(value) else None


def number(value: float | None, form: str) -> str:
    """For people; bits are None where they are not finite."""
    return "infinitely many" if value is None else format(value, form)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    echo(f"bitrate-ext: warning: {' '.join(str(message).split())}", sys.stderr)


def echo(text: str, stream: IO[str]) -> None:
    """Print past a progress bar; characters that the stream cannot show are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    tqdm = sys.modules.get("tqdm")  # there where a bar may be
    if tqdm is not None:
        tqdm.tqdm.write(shown, file=stream)
    else:
        print(shown, file=stream)
    stream.flush()
