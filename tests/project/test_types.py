"""The types that users' checkers see, and the names that they are shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bitrate_ext

TREE = Path(bitrate_ext.__file__).parent.parent


@pytest.mark.medium
def test_users_get_no_any(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\nfollow_untyped_imports = true\n[mypy-bitrate_ext.*]\nfollow_imports = silent\n"
    )
    arguments = ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache")]
    program = Path(__file__).with_name("typed_use.py")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments, str(program)], capture_output=True, text=True, cwd=TREE
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_public_names_are_shown() -> None:
    shown = [name for name in dir(bitrate_ext) if not name.startswith("__")]
    assert set(shown) == set(bitrate_ext.__all__) - {"__version__"}
    assert all(getattr(bitrate_ext, name) is not None for name in shown)
