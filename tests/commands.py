"""What tests of the command line share."""

from __future__ import annotations

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
