"""Commands of the GPU check: run side by side within limits of time, and read into outcomes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OUTCOMES = ("ok", "FAIL", "miss")  # a miss: what could not be run, which is never an ok
TAIL = 4000  # characters kept of a log
# What compute-sanitizer says where it cannot watch this GPU, whatever runs on it.
UNABLE = re.compile(
    r".*(?:[Dd]evice(?: is)? not supported|[Nn]o attachable process|[Ff]ailed to (?:initialize|inject)).*"
)
PLANTED = {  # tool to (the kernel of planted.cu that it must name, its words)
    "memcheck": ("out_of_bounds", r"Invalid __global__ write"),
    "racecheck": ("shared_memory_race", r"[Rr]ace reported|hazard"),
    "initcheck": ("uninitialised_read", r"Uninitialized __global__ memory read"),
    "synccheck": ("divergent_barrier", r"Barrier error detected|Divergent thread"),
}


@dataclass
class Check:
    """One line of the report."""

    name: str
    outcome: str
    text: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    detail: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"an outcome is one of {', '.join(OUTCOMES)}, got {self.outcome!r}")
        self.text = " ".join(self.text.split())[:300]

    def line(self) -> str:
        return f"{self.outcome:<4} {self.name}: {self.text}"

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 2)}


class Report:
    """All checks so far, each printed as it comes."""

    def __init__(self, say: Callable[[str], object] = print) -> None:
        self.checks: list[Check] = []
        self.start = time.monotonic()
        self._say = say

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def say(self, text: str) -> None:
        self._say(text)

    def add(self, *checks: Check) -> None:
        for check in checks:
            self.checks.append(check)
            self.say(f"{check.line()}  [{self.elapsed():.0f} s]")

    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.outcome == "FAIL"]

    def missed(self) -> list[Check]:
        return [check for check in self.checks if check.outcome == "miss"]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (None: it was stopped at its limit, or not begun), and what it wrote."""

    code: int | None
    seconds: float
    log: str
    begun: bool = True

    def tail(self) -> str:
        return self.log[-TAIL:]

    def last_line(self) -> str:
        lines = [line for line in self.log.splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"


Read = Callable[[Ended], Sequence[Check]]


@dataclass(frozen=True)
class Job:
    """A command, the seconds it may take, and what makes checks of its end."""

    name: str
    command: Sequence[str | Path]
    limit: float
    read: Read
    environment: Mapping[str, str] = field(default_factory=dict)

    def checks(self, ended: Ended) -> Sequence[Check]:
        if not ended.begun:
            return [Check(self.name, "miss", "no time was left for it")]
        try:
            return self.read(ended)
        except Exception as error:  # a reader that stumbles must not end the whole check
            said = f"its output was not understood ({type(error).__name__}: {error})"
            return [Check(self.name, "FAIL", said, ended.seconds, detail=ended.tail())]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The process and its children, which are a group of their own."""
    for kind, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if kind == signal.SIGKILL:
                return


def run_jobs(
    jobs: Sequence[Job], workers: int, end: float, folder: Path, logs: Path, environment: Mapping[str, str]
) -> Iterator[tuple[Job, Ended]]:
    """Run so many at a time, in order, each within its limit and before ``end`` (of time.monotonic)."""
    waiting = list(enumerate(jobs))
    running: dict[int, tuple[Job, subprocess.Popen[bytes], Path, float]] = {}
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, job = waiting.pop(0)
                if time.monotonic() >= end:
                    yield job, Ended(None, 0.0, "", begun=False)
                    continue
                log = logs / f"{index:02d}-{re.sub(r'[^a-z0-9]+', '-', job.name.lower())}.log"
                with open(log, "wb") as file:
                    process = subprocess.Popen(
                        [str(part) for part in job.command],
                        cwd=folder,
                        env={**environment, **job.environment},
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                running[index] = (job, process, log, time.monotonic())
            for index, (job, process, log, begun) in list(running.items()):
                code, now = process.poll(), time.monotonic()
                if code is None and now < min(begun + job.limit, end):
                    continue
                if code is None:
                    _stop(process)
                del running[index]
                yield job, Ended(code, now - begun, log.read_text(errors="replace"))
            time.sleep(0.02)
    finally:
        for _, process, _, _ in running.values():
            _stop(process)


def find_tool(name: str) -> Path | None:
    """A program of the CUDA toolkit: on the PATH, where CUDA_HOME or nvcc say, or among Python's packages."""
    found = shutil.which(name)
    if found:
        return Path(found)
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    nvcc = shutil.which("nvcc")
    if nvcc:
        said = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
        top = re.search(r"^#\$ TOP=(.+)$", said.stderr, re.MULTILINE)
        homes.append(top[1].strip() if top else None)
    homes += [f"{path}/nvidia/cu13" for path in sys.path if path]
    for home in filter(None, homes):
        for place in (f"bin/{name}", f"{name}/{name}"):
            candidate = Path(home) / place
            if os.access(candidate, os.X_OK) and candidate.is_file():
                return candidate.resolve()
    return None


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def _told(figures: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{value:,} {name}" if isinstance(value, int) else f"{name} {value}" for name, value in figures.items()
    )


def read_pytest(name: str, found: Path, by_file: bool) -> Read:
    """Outcomes that the plugin gpu_report wrote: a check a test function, or one a file."""

    def read(ended: Ended) -> list[Check]:
        groups: dict[str, list[dict[str, Any]]] = {}
        for line in _lines(found):
            file, _, test = line["test"].partition("::")
            groups.setdefault(Path(file).stem if by_file or not test else test.split("[")[0], []).append(line)
        checks = [_of_group(f"{name}: {group}", lines) for group, lines in groups.items()]
        if ended.code is None:
            said = f"stopped at its limit after {ended.seconds:.0f} s; {sum(map(len, groups.values()))} tests had ended"
            checks.append(Check(name, "FAIL", said, ended.seconds, detail=ended.tail()))
        elif ended.code not in (0, 1) or not groups or (ended.code == 1 and all(c.outcome != "FAIL" for c in checks)):
            said = f"pytest ended with code {ended.code}: {ended.last_line()}"
            checks.append(Check(name, "FAIL", said, ended.seconds, detail=ended.tail()))
        return checks

    return read


def _of_group(name: str, lines: Sequence[dict[str, Any]]) -> Check:
    seconds = sum(line["seconds"] for line in lines)
    failed = [line for line in lines if line["outcome"] == "failed"]
    skipped = [line for line in lines if line["outcome"] == "skipped"]
    figures = {key: value for line in lines for key, value in line.get("figures", {}).items()}
    if failed:
        said = f"{len(failed)} of {len(lines)} failed: {failed[0]['test'].partition('::')[2]}: {failed[0]['why']}"
        detail = "\n\n".join(f"{line['test']}\n{line.get('detail', line['why'])}" for line in failed[:3])
        return Check(name, "FAIL", said, seconds, {"failed": [line["test"] for line in failed]}, detail)
    if skipped:
        return Check(name, "miss", f"{len(skipped)} of {len(lines)} not run: {skipped[0]['why']}", seconds, figures)
    count = f"{len(lines)} passed" if len(lines) > 1 or not figures else ""
    said = ", ".join(filter(None, [count, _told(figures), f"{seconds:.1f} s"]))
    return Check(name, "ok", said, seconds, {"tests": len(lines), **figures})


def _unable(ended: Ended) -> str | None:
    found = UNABLE.search(ended.log)
    return found[0].strip("= ") if found else None


def _reports(log: str) -> list[int]:
    return [int(count) for count in re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) ", log)]


def read_sanitizer(name: str) -> Read:
    """No report, and the watched program came to its end with right bytes."""

    def read(ended: Ended) -> list[Check]:
        ran = re.search(r"^sanitize: (\d+) shapes, (\d+) wrong.*$", ended.log, re.MULTILINE)
        reports, unable = _reports(ended.log), _unable(ended)
        if ended.code is None:
            return [
                Check(
                    name,
                    "FAIL",
                    f"stopped at its limit after {ended.seconds:.0f} s",
                    ended.seconds,
                    detail=ended.tail(),
                )
            ]
        if unable and not ran:
            return [Check(name, "miss", unable, ended.seconds, detail=ended.tail())]
        if not reports or sum(reports) or not ran or ran[2] != "0" or ended.code != 0:
            told = f"{sum(reports)} reports" if reports else "no summary"
            said = f"{told}; {ran[0] if ran else 'the program did not end: ' + ended.last_line()}; code {ended.code}"
            return [Check(name, "FAIL", said, ended.seconds, detail=ended.log[:TAIL])]
        figures = {"shapes": int(ran[1]), "reports": 0}
        return [Check(name, "ok", f"{ran[1]} shapes, 0 reports, {ended.seconds:.0f} s", ended.seconds, figures)]

    return read


def read_planted(name: str, tool: str) -> Read:
    """The tool names the kernel and says what is wrong with it; whether that kernel comes to an end is no matter."""
    kernel, words = PLANTED[tool]

    def read(ended: Ended) -> list[Check]:
        found = re.search(words, ended.log)
        if found and kernel in ended.log:
            return [Check(name, "ok", f"reported: {found[0]} in {kernel}", ended.seconds)]
        unable = _unable(ended)
        if unable:
            return [Check(name, "miss", unable, ended.seconds, detail=ended.tail())]
        return [Check(name, "FAIL", f"not reported: {ended.last_line()}", ended.seconds, detail=ended.tail())]

    return read
