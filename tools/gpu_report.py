"""A pytest plugin: each test's outcome as a line of JSON, at once, so that a run that is cut short leaves what it had.

The environment variable GPU_REPORT names the file.
"""

from __future__ import annotations

import json
import os
from typing import Any

DETAIL = 6000  # characters kept of a failure


def _write(line: dict[str, Any]) -> None:
    with open(os.environ["GPU_REPORT"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _reason(text: str) -> str:
    """The last line that pytest marks as the error, or the last at all."""
    lines = [line for line in text.splitlines() if line.strip()]
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (marked or lines or ["no reason given"])[0 if marked else -1]


def pytest_runtest_logreport(report: Any) -> None:
    if report.when != "call" and report.outcome == "passed":
        return
    line = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
    if report.when == "call":
        line["figures"] = dict(report.user_properties)
    if report.outcome == "failed":
        line["why"], line["detail"] = _reason(report.longreprtext), report.longreprtext[-DETAIL:]
    elif report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else _reason(report.longreprtext)
        line["why"] = reason.removeprefix("Skipped: ")
    _write(line)


def pytest_collectreport(report: Any) -> None:
    if report.outcome != "passed":
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        _write({"test": report.nodeid, "outcome": report.outcome, "seconds": 0.0, "why": _reason(text), "detail": text})
