"""What the device compiler makes of the kernels: its report, and the PTX. Needs nvcc and no GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cuda_toolkit
from kept import ROOT, kept

SOURCE = ROOT / "csrc/cuda/kernels.cu"
THREADS = 256  # a block's: kThreads of csrc/core/plan.h


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture; sizes in bytes."""

    kernel: str
    registers: int
    stack: int
    spills: int  # stored and loaded
    shared: int  # static

    @property
    def blocks(self) -> int:
        """Blocks whose registers a multiprocessor holds: four parts of 16384, given out to warps in units of 256."""
        warps = 16384 // (-(-self.registers * 32 // 256) * 256)
        return warps // (THREADS // 32 // 4)


def find_nvcc() -> Path | None:
    for folder in cuda_toolkit.places("13"):  # the first release that comes as Python packages
        if cuda_toolkit.nvcc_release(folder):
            return folder / "bin/nvcc"
    return None


def need_nvcc() -> Path:
    """Return the device compiler; a test that has none is skipped, and says so."""
    import pytest  # not above: tools read this module, too

    found = find_nvcc()
    if found is None:
        pytest.skip('no nvcc: what the device compiler makes of the kernels is unchecked (see "CUDA" in README.md)')
    return found


def architectures() -> list[str]:
    """Return those that a package for any GPU is compiled for."""
    return [f"sm_{name.replace('.', '')}" for name in cuda_toolkit.ARCHITECTURES]


def known_architectures(nvcc: Path) -> list[str]:
    said = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    return [name for name in architectures() if name in said.stdout.split()]


def compile_for(nvcc: Path, architecture: str, source: Path = SOURCE) -> list[Compiled]:
    """Compile the source's kernels; raises RuntimeError where that does not go without a warning."""
    with tempfile.TemporaryDirectory() as folder:
        strict = ["-Werror", "all-warnings", "-Xptxas", "-v", f"-arch={architecture}", "-cubin"]
        command = [nvcc, *cuda_toolkit.NVCC_FLAGS, *strict, source, "-o", Path(folder) / "kernels.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or "warning" in done.stderr.lower():
        raise RuntimeError(done.stderr)
    found = []
    for part in done.stderr.split("Compiling entry function ")[1:]:
        kernel = re.search(r"([a-z_]+_kernel)(?![a-z])", part)
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        if kernel is None or frame is None or registers is None:
            raise RuntimeError(f"ptxas speaks differently: {part}")
        spills = int(frame[2]) + int(frame[3])
        found.append(Compiled(kernel[1], int(registers[1]), int(frame[1]), spills, int(shared[1]) if shared else 0))
    return found


def ptx(nvcc: Path, architecture: str, source: Path = SOURCE) -> Path:
    """Return the PTX of the source's kernels, ``compute_75`` say, kept as long as nothing changes that goes into it."""
    command = [nvcc, *cuda_toolkit.NVCC_FLAGS, "-ptx", f"-arch={architecture}", source]
    version = subprocess.run([nvcc, "--version"], capture_output=True, check=True).stdout
    files = [*sorted(ROOT.glob("csrc/core/*.h")), *sorted(source.parent.glob("*.*"))]
    made = [" ".join(map(str, command)), version, *files]
    return kept(f"{architecture}.ptx", made, lambda target: subprocess.run([*command, "-o", target], check=True))


def misrounded(
    nvcc: Path, architecture: str, source: Path = SOURCE, flags: Sequence[str] = cuda_toolkit.NVCC_FLAGS
) -> list[str]:
    """Return instructions of the PTX that may not round as the sources ask, each with its line there.

    Those are: joined products and sums, flushes to zero, approximations, and whatever leaves its rounding open, which
    the assembler may join.
    """
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernels.ptx"
        virtual = architecture.replace("sm_", "compute_")
        command = [nvcc, *flags, "-lineinfo", "-ptx", f"-arch={virtual}", source, "-o", ptx]
        subprocess.run(command, capture_output=True, check=True)
        text = ptx.read_text()
    files = {
        number: Path(name).read_text().splitlines() for number, name in re.findall(r'\.file\s+(\d+) "(.+?)"', text)
    }
    found, line = [], ""
    for one in text.splitlines():
        if place := re.match(r"\s*\.loc\s+(\d+) (\d+)", one):
            line = files[place[1]][int(place[2]) - 1].strip()
        elif arithmetic := re.match(r"\s*(?:@!?%p\d+ )?((\w+)\.[\w.]*\bf(?:32|64)\b[\w.]*)", one):
            name, operation = arithmetic[1], arithmetic[2]
            exact = ".rn" in name or operation not in ("add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt")
            asked = operation not in ("fma", "mad") or "fma(" in line
            if not (exact and asked) or re.search(r"\.(ftz|approx|full)\b", name):
                found.append(f"{name}: {line}")
    return found
