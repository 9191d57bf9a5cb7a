"""The kernels as the device compiler sees them: no warning, no spill, and as docs/device-code.md says."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import device_code
import machine_code
import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ("project_kernel", "project_backward_kernel")
ARCHITECTURES = [
    pytest.param(name, marks=pytest.mark.medium if name == "sm_90" else pytest.mark.slow)
    for name in device_code.architectures()
]


@pytest.fixture(scope="module")
def nvcc() -> Path:
    found = device_code.find_nvcc()
    if found is None:
        pytest.skip('no nvcc: what the device compiler makes of the kernels is unchecked (see "CUDA" in README.md)')
    return found


@functools.cache
def compiled(nvcc: Path, architecture: str) -> list[device_code.Compiled]:
    if architecture not in device_code.known_architectures(nvcc):
        pytest.skip(f"nvcc {device_code.release_of(nvcc)} does not know {architecture}: unchecked for it")
    return device_code.compile_for(nvcc, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_keep_to_registers(architecture: str, nvcc: Path) -> None:
    bounds = dict(re.findall(r"__launch_bounds__\(kThreads, (\d)\) (\w+)\(", device_code.SOURCE.read_text()))
    wanted = {kernel: int(blocks) for blocks, kernel in bounds.items()}
    found = compiled(nvcc, architecture)
    assert [one.kernel for one in found] == list(KERNELS) == list(wanted)
    for one in found:
        assert (one.stack, one.spills, one.shared) == (0, 0, 0), one
        assert one.blocks >= wanted[one.kernel], one


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_is_of_these_kernels(architecture: str, nvcc: Path) -> None:
    release, found = device_code.documented_release(), device_code.release_of(nvcc)
    if release != found:
        pytest.skip(f"the table is of nvcc {release}, and this is {found}: registers are not compared")
    rows = [row for row in device_code.documented_rows() if f" {architecture} " in row]
    assert [one.row() for one in compiled(nvcc, architecture)] == rows, "run python tools/device_code.py --write"


def test_the_table_has_every_architecture() -> None:
    named = [tuple(cell.strip(" `") for cell in row.split("|")[1:3]) for row in device_code.documented_rows()]
    assert named == [(kernel, architecture) for kernel in KERNELS for architecture in device_code.architectures()]


@pytest.mark.medium
def test_the_loops_are_of_these_kernels(nvcc: Path) -> None:
    tool = "tools/machine_code.py"
    release, found = device_code.documented_release(tool), device_code.release_of(nvcc)
    if release != found:
        pytest.skip(f"the loops are of nvcc {release}, and this is {found}: not compared")
    text = device_code.written(tool)
    (architecture,) = re.findall(r"Compiler: nvcc [\d.]+, (\w+)\.", text)
    counts = {kernel: int(count) for kernel, count in re.findall(r"`(\w+)`: (\d+) instructions", text)}
    instructions = {one.kernel: one.code // 16 for one in compiled(nvcc, architecture)}
    assert counts == instructions, f"read what docs/device-code.md says of loops again, and run python {tool} --write"


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
        assert device_code.Compiled("", "", registers, 0, 0, 0, 0, 0).blocks == blocks


def test_loads_are_counted_by_waits() -> None:
    """A listing of the disassembler's kind: two loads, a wait for an address, one for both loads, and a third load."""

    def line(text: str, waits: int = 0, sets: int = 7, reads: int = 7) -> str:
        control = waits << 11 | reads << 8 | sets << 5 | 1
        return f"        /*0000*/  {text} ;  /* 0x{0:016x} */\n  /* 0x{control << 41:016x} */\n"

    listing = (
        ".text._ZN7bitrate14project_kernelENS_6ParamsE:\n"
        + line("LDG.E R9, desc[UR4][R2.64]", sets=5)  # before the loop
        + ".L_x_1:\n"
        + line("@!P0 LDG.E R4, desc[UR4][R2.64]", sets=0, reads=2)
        + line("LDG.E R5, desc[UR4][R6.64]", sets=1)
        + line("IADD3 R2, R2, 0x4, RZ", waits=0b000100)
        + line("DMUL R4, R4, R5", waits=0b000011)
        + line("LDG.E.64 R4, desc[UR4][R2.64]", sets=0)
        + line("DMUL R4, R4, R5", waits=0b000001)
        + line("@P0 BRA `(.L_x_1)")
        + line("EXIT")
    )
    ((kernel, instructions),) = machine_code.parse(listing).items()
    (loop,) = machine_code.loops(instructions)
    assert (kernel, len(instructions), len(loop.own)) == ("project_kernel", 9, 7)
    assert [one.name for one in loop.loads()] == ["LDG.E", "LDG.E", "LDG.E.64"]
    assert loop.batches() == [2, 1]
    assert loop.count("DMUL") == 2
