"""The torch-free core compiles for a GPU as it is, so that CPU and CUDA can share one copy of every formula."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "native" / "core.cu"


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_core_compiles_for_the_device(architecture: str, tmp_path: Path) -> None:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("no nvcc: the device compiler's view of csrc/core is unchecked")
    flags = ["-std=c++17", f"-arch={architecture}", "--fmad=false", "-Werror", "all-warnings", "-Xptxas", "-v"]
    done = subprocess.run([compiler, *flags, "-c", SOURCE, "-o", tmp_path / "core.o"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == 4, done.stderr
