"""The kernels as the device compiler sees them: no warning, no spill, and every rounding its own."""

from __future__ import annotations

import re
from pathlib import Path

import device_code
import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ("project_kernel", "project_backward_kernel", "rate_kernel", "rate_backward_kernel",
           "network_backward_kernel", "add_runs_kernel")  # fmt: skip


@pytest.fixture(scope="module")
def nvcc() -> Path:
    return device_code.need_nvcc()


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=pytest.mark.medium if name == "sm_90" else pytest.mark.slow)
        for name in device_code.architectures()
    ],
)
def test_kernels_keep_to_registers(architecture: str, nvcc: Path) -> None:
    if architecture not in device_code.known_architectures(nvcc):
        pytest.skip(f"{nvcc} does not know {architecture}: unchecked for it")
    bounds = re.findall(r"__launch_bounds__\(kThreads, (\d)\) (\w+)\(", device_code.SOURCE.read_text())
    wanted = {kernel: int(blocks) for blocks, kernel in bounds}
    compiled = device_code.compile_for(nvcc, architecture)
    assert {one.kernel for one in compiled} == set(wanted) == {*KERNELS}
    for one in compiled:
        assert (one.stack, one.spills, one.shared) == (0, 0, 0), one
        assert one.blocks >= wanted[one.kernel], one


@pytest.mark.medium
def test_every_sum_and_product_rounds_by_itself(nvcc: Path) -> None:
    known = device_code.known_architectures(nvcc)
    for architecture in (known[0], known[-1]):
        assert device_code.misrounded(nvcc, architecture) == []


def test_no_header_for_the_device_is_left_out() -> None:
    """All of csrc/core is seen by the compilation of kernels.cu, so the checks above speak of all of it."""
    seen, todo = set(), [device_code.SOURCE]
    while todo:
        file = todo.pop().resolve()
        if file not in seen:
            seen.add(file)
            todo += [file.parent / name for name in re.findall(r'#include "(.+)"', file.read_text())]
    assert {*ROOT.glob("csrc/core/*.h"), *ROOT.glob("csrc/cuda/*")} - seen == set()


FLAWED = {
    "a warning": "__global__ void flawed_kernel(float* x) { int unused; x[0] = 1.0f; }",
    "a stack frame": """
        __global__ void flawed_kernel(float* x, int at) {
          float kept[64] = {};
          for (int k = 0; k < 64; ++k) kept[k * at % 64] = x[k];
          x[0] = kept[at];
        }""",
    "a spill": """
        __global__ void __launch_bounds__(1024) flawed_kernel(float* x) {
          float kept[128], sum = 0.0f;
          for (int k = 0; k < 128; ++k) sum += kept[k] = x[k * 1024 + threadIdx.x];
          for (int k = 0; k < 128; ++k) x[k * 2048 + threadIdx.x] = kept[k] * sum;
        }""",
    "static shared memory": """
        __global__ void flawed_kernel(float* x) {
          __shared__ float kept[256];
          kept[threadIdx.x] = x[threadIdx.x];
          __syncthreads();
          x[threadIdx.x] = kept[255 - threadIdx.x];
        }""",
}


@pytest.mark.medium
@pytest.mark.parametrize("flaw", FLAWED)
def test_flaws_are_seen(flaw: str, nvcc: Path, tmp_path: Path) -> None:
    """Without which the checks above would prove nothing."""
    source = tmp_path / "flawed.cu"
    source.write_text(FLAWED[flaw])
    architecture = device_code.known_architectures(nvcc)[-1]
    if flaw == "a warning":
        with pytest.raises(RuntimeError, match="unused"):
            device_code.compile_for(nvcc, architecture, source)
        return
    (one,) = device_code.compile_for(nvcc, architecture, source)
    assert one.kernel == "flawed_kernel"
    seen = {"a stack frame": one.stack, "a spill": one.spills, "static shared memory": one.shared}
    assert seen[flaw] > 0, one


def test_blocks_by_registers() -> None:
    """The numbers of NVIDIA's occupancy tables for blocks of 256 threads."""
    for registers, blocks in [(32, 8), (40, 6), (56, 4), (64, 4), (80, 3), (96, 2), (128, 2), (255, 1)]:
        assert device_code.Compiled("", registers, 0, 0, 0).blocks == blocks


@pytest.mark.parametrize(
    ("line", "flags", "seen"),
    [
        ("x[0] = x[1] * x[2] + x[3];", [], "fma.rn.f32: x[0] = x[1] * x[2] + x[3];"),
        ("x[0] = x[1] + x[2];", [], "add.f32: x[0] = x[1] + x[2];"),
        ("x[0] = x[1] + x[2];", ["--ftz", "true", "--fmad=false"], "add.rn.ftz.f32: x[0] = "),
        ("x[0] = __fdividef(x[1], x[2]);", ["--fmad=false"], "div.approx.f32: x[0] = "),
    ],
)
def test_wrong_roundings_are_seen(line: str, flags: list[str], seen: str, nvcc: Path, tmp_path: Path) -> None:
    source = tmp_path / "flawed.cu"
    source.write_text(f"__global__ void flawed_kernel(float* x) {{\n  {line}\n}}\n")
    (found,) = device_code.misrounded(nvcc, device_code.known_architectures(nvcc)[-1], source, flags)
    assert found.startswith(seen)
