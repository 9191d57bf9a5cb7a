"""The rooms and their arrows: the contracts of pyproject.toml hold, and a broken one is seen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]


def lint(tree: Path) -> tuple[int, str]:
    done = subprocess.run(LINT, cwd=tree, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tree)})
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    if sys.version_info < (3, 11):
        pytest.skip("the import linter needs Python 3.11")
    shutil.copytree(
        ROOT / "bitrate_ext", tmp_path / "bitrate_ext", ignore=shutil.ignore_patterns("*.so", "data", "__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_down_and_in_no_circle(tree: Path) -> None:
    code, said = lint(tree)
    assert code == 0, said
    assert "3 kept, 0 broken" in said


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("ops/reference.py", "from ..models import zoo", "Rooms: imports go down BROKEN"),
        ("ops/projection.py", "from . import functional", "No circle, in a room or between rooms BROKEN"),
        ("ops/reference.py", "import matplotlib", "The operator needs PyTorch and NumPy alone BROKEN"),
    ],
)
def test_a_broken_contract_is_seen(tree: Path, file: str, line: str, contract: str) -> None:
    path = tree / "bitrate_ext" / file
    path.write_text(path.read_text().replace("import torch\n", f"import torch\n{line}\n", 1))
    code, said = lint(tree)
    assert code == 1
    assert contract in said


def test_no_room_is_crowded() -> None:
    modules = Counter(path.parent for path in (ROOT / "bitrate_ext").rglob("*.py"))
    assert max(modules.values()) <= 15, modules.most_common(3)
