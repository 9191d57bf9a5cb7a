"""The built library's own instructions: no product is joined with a sum, and nothing subnormal is lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cuda_toolkit
import device_code
import pytest
import sass

LIBRARIES = sorted((device_code.ROOT / "bitrate_ext").glob("_ops_cuda*.so"))


@pytest.fixture(scope="module")
def cuobjdump() -> Path:
    found = sass.find_cuobjdump()
    if found is None:
        pytest.skip(
            "no cuobjdump, of a CUDA toolkit or of the package triton: the library's instructions are unchecked"
        )
    return found


@pytest.mark.medium
def test_the_library_rounds_as_its_ptx(cuobjdump: Path) -> None:
    nvcc = device_code.need_nvcc()
    if not LIBRARIES:
        pytest.skip("no CUDA library is built here: its instructions are unchecked")
    found = sass.disassembled(cuobjdump, LIBRARIES[0])
    assert found
    for (architecture, kernel), instructions in found.items():
        virtual = "compute_100" if int(architecture[3:]) >= 100 else "compute_75"
        ptx = sass.of_ptx(device_code.ptx(nvcc, virtual))
        assert sass.misrounded(instructions, ptx[kernel]) == [], (architecture, kernel, "or built from other sources")


@pytest.mark.medium
@pytest.mark.parametrize(
    ("line", "flags", "seen"),
    [
        ("x[0] = x[1] * x[2] + x[3];", [], "DMUL"),
        ("f[0] = f[1] * f[2] + f[3];", [], "FFMA"),
        ("f[0] = f[1] * f[2];", ["--fmad=false", "--ftz=true"], "FTZ"),
    ],
)
def test_what_rounds_otherwise_is_seen(line: str, flags: list[str], seen: str, cuobjdump: Path, tmp_path: Path) -> None:
    nvcc = device_code.need_nvcc()
    source = tmp_path / "flawed.cu"
    source.write_text(f"__global__ void flawed_kernel(double* x, float* f) {{\n  {line}\n}}\n")
    made = {}
    for how, options in (("-cubin", flags), ("-ptx", cuda_toolkit.NVCC_FLAGS)):
        made[how] = tmp_path / f"flawed{how}"
        subprocess.run([nvcc, *options, how, "-arch=sm_90", source, "-o", made[how]], check=True)
    ((_, instructions),) = sass.disassembled(cuobjdump, made["-cubin"]).items()
    assert seen in " ".join(sass.misrounded(instructions, sass.of_ptx(made["-ptx"])["flawed_kernel"]))
