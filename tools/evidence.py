"""Evidence of the GPU: what `make gpu-check` found on a machine that has one, and for which sources.

A file of benchmarks/results/ holds one run. It speaks for a tree as long as the sources of the kernels are those that
it was made with, which their hash tells.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("benchmarks") / "results"
SOURCES = ("csrc/core", "csrc/cuda", "csrc/ops")
SHOWN = 12  # digits of a hash, for people

Record = dict[str, Any]


def sources_hash(root: Path = ROOT) -> str:
    """SHA-256 over the relative paths and contents of the sources that the GPU's results depend on."""
    digest = hashlib.sha256()
    files = [path for folder in SOURCES for path in (root / folder).rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def slug(name: str) -> str:
    """A device's name as part of a file's: "NVIDIA H200" becomes "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def write(record: Record, folder: Path) -> Path:
    """Write one run's record, which holds "device", "date" (ISO) and whatever else was found."""
    stamp = datetime.fromisoformat(record["date"]).strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu-{slug(record['device']['name'])}-{stamp}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def read_all(folder: Path) -> list[tuple[Path, Record]]:
    """All runs, the newest first; files that hold none are passed over."""
    found = []
    for path in folder.glob("gpu-*.json"):
        try:
            record = json.loads(path.read_text())
            found.append((datetime.fromisoformat(record["date"]).timestamp(), path, record))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [(path, record) for _, path, record in sorted(found, key=lambda run: run[:2], reverse=True)]


def verdict(record: Record) -> str:
    """In words: passed, failed, and what could not be run."""
    outcomes = [check["outcome"] for check in record.get("checks", [])]
    failed, missed = outcomes.count("FAIL"), outcomes.count("miss")
    said = f"{failed} of {len(outcomes)} checks failed" if failed else f"{outcomes.count('ok')} checks passed"
    return said + (f", {missed} could not be run" if missed else "")


def report(root: Path = ROOT, now: datetime | None = None) -> str:
    """One line on how the newest evidence stands to this tree."""
    there = sources_hash(root)
    runs = read_all(root / RESULTS)
    for path, record in runs:
        if record.get("csrc") == there:
            return f"GPU evidence: {path.name} fits this csrc/ ({verdict(record)})"
    if not runs:
        return f"GPU evidence: none for this csrc/ (hash {there[:SHOWN]}); none at all: run `make gpu-check` on a GPU"
    path, record = runs[0]
    made = datetime.fromisoformat(record["date"])
    days = ((now or datetime.now(made.tzinfo)) - made).days
    return f"GPU evidence: none for this csrc/ (hash {there[:SHOWN]}); newest is {path.name}, {days} days old"
