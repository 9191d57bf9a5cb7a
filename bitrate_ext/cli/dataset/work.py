"""The command ``bitrate-ext dataset``: measure, tell how far it is, say what came of it."""

from __future__ import annotations

import argparse
import copy
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from types import FrameType
from typing import Any

from ..._version import __version__
from ...dataset import Codec, DatasetError, Progress, Report
from ...dataset import run as run_dataset
from ...dataset.rows import counted
from ...io.files import shown
from ..console import OK, PARTIAL, UsageError, echo
from .track import Tracker, open_trackers

EACH = 10.0  # seconds between lines that tell of progress; on a terminal one line is kept up to date
CODEC = "bitrate_ext.cli.dataset.codec"  # which imports PyTorch, in the workers alone


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the counts."""
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _interrupt)
    asked = copy.copy(arguments)
    listing, asked.listing = arguments.listing, None
    asked.check = asked.prepare = None
    jobs = arguments.jobs
    if jobs is None and arguments.device != "cpu":
        jobs = 1
    try:
        log = _Log(arguments.log, open_trackers(arguments.track))
    except ImportError as error:
        raise UsageError(f"--track: {error}") from None
    try:
        report = run_dataset(
            listing,
            arguments.output,
            partial(_make_codec, asked),
            jobs=jobs,
            batch=arguments.batch,
            part_items=arguments.part_items,
            shard=arguments.shard,
            resume=arguments.resume,
            limit_errors=arguments.limit_errors,
            time_limit=arguments.time_limit,
            engine=arguments.engine,
            address=arguments.address,
            gpus=arguments.gpus,
            readers=arguments.readers,
            preload=(CODEC,),
            look=log.look,
        )
    except DatasetError as error:
        raise UsageError(str(error)) from None
    finally:
        log.close()
    if arguments.json:
        echo(json.dumps({"version": __version__, **asdict(report)}, indent=2), sys.stdout)
    else:
        echo(_summary(report, arguments.output), sys.stdout)
    return PARTIAL if report.errors else OK


def _make_codec(arguments: argparse.Namespace) -> Codec:
    from .codec import make_codec

    return make_codec(arguments)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _summary(report: Report, output: str) -> str:
    left = "" if report.complete else "; parts of other shards are not there yet"
    why = f"; the column error in {shown(output)} says why" if report.errors else ""
    return (
        f"{counted(report.items, 'picture')}: {report.ok:,} measured, {report.error:,} failed, "
        f"{report.skipped:,} done earlier, in {report.seconds:,.1f} s{left}\n{counted(report.errors, 'error row')}{why}"
    )


class _Log:
    """Progress on stderr: a line that is kept up to date on a terminal, else one every ten seconds."""

    def __init__(self, kind: str, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers, self._told, self._end = trackers, -EACH, Progress(0, 0, 0, 0.0, 0, 0.0)
        self._json, self._live = kind == "jsonl", kind == "text" and sys.stderr.isatty()
        self._start, self._earlier, self._last = time.monotonic(), -1, time.monotonic()

    def look(self, progress: Progress) -> None:
        """Tell of progress where it is time."""
        now = time.monotonic()
        if self._earlier < 0:  # the clock starts once earlier runs are looked at
            self._earlier, self._start = progress.items, now
        self._end = progress
        if self._trackers and now - self._told >= EACH:
            self._track(now)
        if now - self._last < (0.5 if self._live else EACH):
            return
        self._last = now
        told = self._numbers(progress, max(now - self._start, 1e-9))
        if self._json:
            echo(json.dumps(told), sys.stderr)
            return
        left = "" if told["seconds_left"] is None else f", {_time(told['seconds_left'])} left"
        line = (
            f"{progress.items:,} of {progress.total:,} pictures, {told['items_per_second']:,.1f} a second, "
            f"{told['megapixels_per_second']:,.1f} Mpixel/s, {told['bits_per_second']:,.0f} bit/s{left}, "
            f"{progress.errors:,} errors"
        )
        if self._live:
            sys.stderr.write(f"\r{line}\x1b[K")
            sys.stderr.flush()
        else:
            echo(line, sys.stderr)

    def _track(self, now: float) -> None:
        self._told = now
        numbers = self._numbers(self._end, max(now - self._start, 1e-9))
        known = {name: value for name, value in numbers.items() if value is not None}
        for tracker in self._trackers:
            tracker.write(self._end.items, known)

    def _numbers(self, progress: Progress, seconds: float) -> dict[str, Any]:
        speed = (progress.items - self._earlier) / seconds
        left = (progress.total - progress.items) / speed if speed else None
        told: dict[str, Any] = {"items": progress.items, "total": progress.total, "errors": progress.errors}
        told |= {"seconds": seconds, "seconds_left": left, "items_per_second": speed}
        told |= {"megapixels_per_second": progress.pixels / seconds / 1e6, "bits_per_second": progress.bits / seconds}
        return told

    def close(self) -> None:
        """End the line, and what is tracked."""
        if self._trackers and self._earlier >= 0:
            self._track(time.monotonic())
        for tracker in self._trackers:
            tracker.close()
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
