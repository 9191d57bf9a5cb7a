"""The command ``bitrate-ext``: maps of photographs, receptive fields, a benchmark, and a look at the installation.

Exit codes: 0 everything done; 1 a video was damaged and is mapped in part, or the books of coded bits do not close; 2
something asked for could not be done, each with one line on stderr; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from .._version import __version__
from . import calibrate, check, map_tiled, video
from . import map as cli_map
from .console import FAILED, INTERRUPTED, OK, UsageError, echo, one_line, show_warning
from .model_options import add_model_arguments, checked_device


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, about their own future
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = show_warning
        try:
            arguments = _parser().parse_args(argv)
            return arguments.run(arguments)
        except SystemExit as stop:  # argparse, after --help and --version
            return stop.code if isinstance(stop.code, int) else OK
        except KeyboardInterrupt:
            echo("bitrate-ext: interrupted", sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output has gone, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except (UsageError, ImportError) as error:
            echo(f"bitrate-ext: error: {one_line(error)}", sys.stderr)
            return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("bitrate-ext", description="Where a learned image codec spends its bits.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bitrate-ext {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")

    command = commands.add_parser(
        "map",
        help="maps of photographs",
        description="Bitrate maps of photographs, as pictures and as numbers.",
        epilog=cli_map.NOTES + map_tiled.NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    cli_map.add_arguments(command)
    command.set_defaults(run=cli_map.run)
    check.register(commands)

    command = commands.add_parser(
        "calibrate",
        help="where a decoder paints with the bits of one latent cell",
        description="Measures the receptive field of a latent: how a decoder spreads the bits of one cell over pixels.",
        epilog=calibrate.NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("-o", "--output", default=".", metavar="DIR", help="folder for the results; made if absent")
    add_model_arguments(command)
    calibrate.add_arguments(command)
    command.set_defaults(run=calibrate.run)

    command = commands.add_parser(
        "video",
        help="maps of videos",
        description="Bitrate maps of videos, as videos and as numbers; or of a photograph over a codec's qualities.",
        epilog=video.NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_model_arguments(command)
    video.add_arguments(command)
    command.set_defaults(run=video.run)

    command = commands.add_parser("bench", help="a short comparison on this machine", allow_abbrev=False)
    command.add_argument("--device", default="cpu", metavar="D", help="such as cpu or cuda:0 (default cpu)")
    command.set_defaults(run=_run_bench)

    command = commands.add_parser("doctor", help="what is installed, and how to mend what is not", allow_abbrev=False)
    command.set_defaults(run=_run_doctor)
    return parser


def _run_bench(arguments: argparse.Namespace) -> int:
    from . import bench

    bench.run(checked_device(arguments.device), lambda line: echo(line, sys.stdout))
    return OK


def _run_doctor(arguments: argparse.Namespace) -> int:
    from . import doctor

    findings = doctor.examine()
    echo(doctor.report(findings), sys.stdout)
    return OK if doctor.core_works(findings) else FAILED
