"""The CPU path under the address and undefined-behaviour sanitizers, apart from torch, on exactly sized buffers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = (
    "tests/native/sweep.cpp",
    "csrc/cpu/project.cpp",
    *(f"csrc/cpu/kernels_{s}.cpp" for s in ("baseline", "avx2", "avx512")),
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "this test needs the compiler that builds the package"
    program = tmp_path_factory.mktemp("native") / "sweep"
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-Wno-psabi", "-fsanitize=address,undefined"]
    command = [compiler, *flags, "-fno-sanitize-recover=all", *(str(ROOT / s) for s in SOURCES), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def test_no_report_and_the_scalar_definitions_bytes(sweep: Path) -> None:
    done = subprocess.run([sweep], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout


def test_a_planted_overrun_is_reported(sweep: Path) -> None:
    done = subprocess.run([sweep, "overrun"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
