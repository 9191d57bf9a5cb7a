"""The standard input as a file that can be read twice."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bitrate_ext.io import files
from bitrate_ext.io.files import open_regular, spooled_stdin


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_it_can_be_read_twice_and_is_gone(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, bytes(range(256)) * 9000)
    with spooled_stdin("a video") as name:
        for _ in range(2):
            descriptor = open_regular(name, "a video", ValueError)
            assert os.pread(descriptor, 3, 256 * 9000 - 3) == b"\xfd\xfe\xff"
            os.close(descriptor)
            assert Path(name).read_bytes() == bytes(range(256)) * 9000
    assert not os.path.exists(name)
    assert not any(spool.iterdir())


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="elsewhere the file needs a name")
def test_nothing_stays_of_a_process_that_is_killed(tmp_path: Path) -> None:
    code = """
import os, signal
from bitrate_ext.io.files import spooled_stdin
with spooled_stdin("a video"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], input=b"abc", env=environment, check=False)
    assert ended.returncode == -9
    assert not any(tmp_path.iterdir())


def test_errors_name_it(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"")
    with pytest.raises(ValueError, match=r"^stdin: the file is empty$"), spooled_stdin("a video") as name:
        open_regular(name, "a video", ValueError)
    feed(monkeypatch, b"abc")
    with pytest.raises(ValueError, match=r"^stdin: is longer than 2 bytes; save it"), spooled_stdin("a video", most=2):
        pass
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match=r"^stdin: nothing comes in; send a video into it"), spooled_stdin("a video"):
        pass
    assert not any(spool.iterdir())


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("the system has no /dev/full")
    feed(monkeypatch, b"abc" * 100_000)
    message = r"^stdin: cannot be kept in .* \(No space left on device\); .*TMPDIR"
    with open("/dev/full", "r+b", buffering=0) as full:
        for maker in ("TemporaryFile", "NamedTemporaryFile"):
            monkeypatch.setattr(files.tempfile, maker, lambda **_: full)
        with pytest.raises(ValueError, match=message), spooled_stdin("a video"):
            pass
