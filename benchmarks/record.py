"""The record of one run: where it ran, and a row for each time. On disk after each row, so that nothing is lost."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from workloads import Workload

import bitrate_ext
from bitrate_ext.cli.doctor import instruction_set

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def processor() -> str:
    """Its name, as the system has it."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", file.read_text()) if file.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> Row:
    found: Row = {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()}
    found["instruction_set"] = instruction_set()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def free_memory() -> int:
    """Bytes that a process may still take; a lot where the system does not say."""
    file = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s*(\d+) kB", file.read_text()) if file.exists() else None
    return int(found[1]) * 1024 if found else 1 << 62


class Record:
    """Rows of a run and the file that holds them; ``complete`` is set by a run that came to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        commit = git("rev-parse", "--short=12", "HEAD")
        self.content: Row = {
            "complete": False,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "bitrate_ext": bitrate_ext.__version__,
            "commit": commit + ("+changes" if commit and git("status", "--porcelain") else ""),
            "machine": machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "rows": [],
            "growth": [],
            "left_out": {},
        }

    def add(self, part: str, row: Row) -> None:
        """Add a row, with its share of the copy's rate and its time over the fused operator's, of rows before."""
        rows = self.content[part]
        rows.append(row)
        copy, fused = (find(rows, row["workload"], name, row["device"]) for name in ("copy", "fused"))
        row["of_copy"] = copy["median"] / row["median"] if copy else None
        row["over_fused"] = row["median"] / fused["median"] if fused else None
        self.write()

    def leave_out(self, name: str, why: str) -> None:
        self.content["left_out"][name] = why
        self.write()

    def finish(self) -> None:
        self.content["complete"] = True
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        partial.replace(self.path)


def quantile(values: list[float], part: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(part))


def row_of(workload: Workload, opponent: str, device: torch.device, seconds: list[float], error: float | None) -> Row:
    """A time with what it was for; rates are of the bytes that the workload must move, whoever moves more."""
    median = quantile(seconds, 0.5)
    return {
        "workload": workload.name,
        "opponent": opponent,
        "device": device.type,
        **asdict(workload),
        "pixels": workload.pixels,
        "bytes": workload.bytes,
        "sets": workload.sets,
        "median": median,
        "low": quantile(seconds, 0.25),
        "high": quantile(seconds, 0.75),
        "rounds": len(seconds),
        "gbps": workload.bytes / median / 1e9,
        "error": error,  # the largest, over the largest value; None where nothing is computed
    }


def find(rows: list[Row], workload: str, opponent: str, device: str) -> Row | None:
    for row in rows:
        if (row["workload"], row["opponent"], row["device"]) == (workload, opponent, device):
            return row
    return None


def load(path: Path) -> Row:
    """A record from its file.

    Raises:
        ValueError: the file is no record.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text())
        if not {"machine", "rows", "growth", "complete"} <= set(content):
            raise ValueError("parts are missing")
    except ValueError as error:
        raise ValueError(f"{path} is no record of benchmarks ({error})") from error
    return dict(content)
