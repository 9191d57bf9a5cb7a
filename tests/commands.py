"""Run commands and programs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from bitrate_ext.cli import main as cli


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that must fail; nothing may be on stdout."""
    assert cli.main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("bitrate-ext: error: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def in_new_process(code: str, folder: str | None = None, timeout: float = 300) -> str:
    """Run the code in a new interpreter; with `folder` the package is taken from there."""
    environment = {**os.environ, "PYTHONPATH": folder} if folder else None
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment,
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
