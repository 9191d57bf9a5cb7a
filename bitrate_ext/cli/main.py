"""The command ``bitrate-ext``: maps of photographs, receptive fields, a benchmark, and a look at the installation.

Everything that can be said of the arguments and of the input files is said before PyTorch is imported: each command is
a module that is imported once it has something to do.

Exit codes: 0 everything done; 1 a video was damaged and is mapped in part, or the ledger of coded bits does not close;
2 something asked for could not be done, each with one line on stderr; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial

from ..io.files import STDIN, shown, unusable
from ..optional import remedy_of
from .arguments import make_parser
from .console import (
    FAILED,
    INTERRUPTED,
    OK,
    UsageError,
    echo,
    one_line,
    print_document,
    show_warning,
    tell_failure,
    tell_failures,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, about their own future
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = show_warning
        try:
            arguments = make_parser().parse_args(argv)
            arguments.check(arguments)
            if _nothing_to_read(arguments):
                return FAILED
            arguments.prepare(arguments)
            run: Callable[[argparse.Namespace], int] = importlib.import_module(f".{arguments.module}", __package__).run
            return run(arguments)
        except SystemExit as stop:  # argparse, after --help and --version
            return stop.code if isinstance(stop.code, int) else OK
        except KeyboardInterrupt:
            echo("bitrate-ext: interrupted", sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output has gone, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except (UsageError, ImportError) as error:
            remedy = remedy_of(error) if isinstance(error, ImportError) else ""
            echo(f"bitrate-ext: error: {one_line(error)}{remedy}", sys.stderr)
            return FAILED


def _nothing_to_read(arguments: argparse.Namespace) -> bool:
    """Return whether no input file can be read, having said so; where some can, the command says it of the others."""
    if arguments.inputs is None:
        return False
    what, names = arguments.inputs[0], getattr(arguments, arguments.inputs[1])
    look: Callable[[str], str | None] = partial(unusable, kind="an image")
    if what == "video":
        raw = {option: getattr(arguments, option) for option in ("size", "pixel_format", "rate")}
        look = partial(importlib.import_module("..video.sequence", __package__).unusable_video, **raw)
    reasons = {name: None if name == STDIN else look(name) for name in names}
    if not all(reasons.values()):
        return False
    failures = [tell_failure(what, name, f"{shown(name)}: {reason}") for name, reason in reasons.items()]
    if arguments.json:
        print_document(what, [], failures)
    else:
        tell_failures(what, failures, len(failures))
    return True
