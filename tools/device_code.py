"""What the device compiler makes of the kernels: registers, stack, spills, constants.

    python tools/device_code.py           # print the table
    python tools/device_code.py --write   # put it into docs/device-code.md

Needs nvcc and no GPU. tests/kernels/test_device_code.py holds the document to what it says.
"""

from __future__ import annotations

import argparse
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cuda_toolkit

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "csrc/cuda/kernels.cu"
DOCUMENT = ROOT / "docs/device-code.md"
BEGIN, END = "<!-- written by tools/device_code.py -->\n", "<!-- up to here -->\n"
THREADS = 256  # a block's: kThreads of csrc/core/plan.h
HEADS = ("kernel", "for", "registers", "blocks", "stack", "spills", "static shared", "constants", "code")


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture; sizes in bytes."""

    kernel: str
    architecture: str
    registers: int
    stack: int
    spills: int  # stored and loaded
    shared: int
    constants: int
    code: int

    @property
    def blocks(self) -> int:
        """Blocks whose registers a multiprocessor holds: four parts of 16384, given out to warps in units of 256."""
        warps = 16384 // (-(-self.registers * 32 // 256) * 256)
        return warps // (THREADS // 32 // 4)

    def row(self) -> str:
        sizes = (self.registers, self.blocks, self.stack, self.spills, self.shared, self.constants, self.code)
        return f"| `{self.kernel}` | {self.architecture} | " + " | ".join(map(str, sizes)) + " |"


def find_nvcc() -> Path | None:
    for folder in cuda_toolkit.places("13"):  # the first release that comes as Python packages
        if cuda_toolkit.nvcc_release(folder):
            return folder / "bin/nvcc"
    return None


def release_of(nvcc: Path) -> str:
    return cuda_toolkit.nvcc_release(nvcc.parent.parent) or ""


def architectures() -> list[str]:
    """Those that a package for any GPU is compiled for."""
    return [f"sm_{name.replace('.', '')}" for name in cuda_toolkit.ARCHITECTURES]


def known_architectures(nvcc: Path) -> list[str]:
    said = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    return [name for name in architectures() if name in said.stdout.split()]


def compile_for(nvcc: Path, architecture: str, source: Path = SOURCE) -> list[Compiled]:
    """The source's kernels; raises RuntimeError where it does not compile without a warning."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        flags = [
            *cuda_toolkit.NVCC_FLAGS,
            "-Werror",
            "all-warnings",
            "-Xptxas",
            "-v",
            "-cubin",
            f"-arch={architecture}",
        ]
        done = subprocess.run(
            [nvcc, *flags, "-cubin", source, "-o", cubin], capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or "warning" in done.stderr.lower():
            raise RuntimeError(done.stderr)
        return parse(done.stderr, cubin.read_bytes(), architecture)


def parse(said: str, cubin: bytes, architecture: str) -> list[Compiled]:
    """What ptxas said of each kernel, with the sizes of its sections."""
    sections = section_sizes(cubin)
    found = []
    for part in said.split("Compiling entry function ")[1:]:
        name = part.split("'")[1]
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        kernel = re.search(r"([a-z_]+_kernel)(?![a-z])", name)
        if frame is None or registers is None:
            raise RuntimeError(f"ptxas speaks differently: {part}")
        found.append(
            Compiled(
                kernel=kernel[1] if kernel else name,
                architecture=architecture,
                registers=int(registers[1]),
                stack=int(frame[1]),
                spills=int(frame[2]) + int(frame[3]),
                shared=int(shared[1]) if shared else 0,
                constants=sum(size for at, size in sections.items() if re.fullmatch(rf"\.nv\.constant\d\.{name}", at)),
                code=sections[f".text.{name}"],
            )
        )
    return sorted(found, key=lambda compiled: compiled.kernel, reverse=True)


def section_sizes(elf: bytes) -> dict[str, int]:
    """Sections of a 64-bit ELF file by name."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + k * size) for k in range(count)]
    first = headers[names][4]
    return {elf[first + h[0] : elf.index(b"\0", first + h[0])].decode(): h[5] for h in headers}


def compile_all(nvcc: Path, wanted: list[str]) -> dict[str, list[Compiled]]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(lambda architecture: compile_for(nvcc, architecture), wanted), strict=True))


def table(nvcc: Path) -> str:
    """For the document: nvcc's release, and a row for each kernel and architecture."""
    known = known_architectures(nvcc)
    compiled = [one for each in compile_all(nvcc, known).values() for one in each]
    compiled.sort(key=lambda one: one.kernel, reverse=True)  # stable: architectures keep their order
    unknown = [name for name in architectures() if name not in known]
    said = f"nvcc {release_of(nvcc)}" + (f", which does not know {', '.join(unknown)}" if unknown else "")
    head = ["| " + " | ".join(HEADS) + " |", "|---" * 2 + "|---:" * (len(HEADS) - 2) + "|"]
    return "\n".join([f"Compiler: {said}.", "", *head, *(one.row() for one in compiled), ""])


def written() -> str:
    """The part of the document that this tool has written."""
    return DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]


def documented_release() -> str:
    """The nvcc that the table is of."""
    release = re.search(r"Compiler: nvcc (\d+\.\d+)", written())
    assert release is not None, f"{DOCUMENT} does not say which compiler"
    return release[1]


def documented_rows() -> list[str]:
    return [line for line in written().splitlines() if line.startswith("| `")]


def misrounded(
    nvcc: Path, architecture: str, source: Path = SOURCE, flags: Sequence[str] = cuda_toolkit.NVCC_FLAGS
) -> list[str]:
    """Floating-point instructions of the PTX that may not round as the sources ask, each with its line there.

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"replace the table of {DOCUMENT.relative_to(ROOT)}")
    arguments = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        parser.exit(1, "no nvcc\n")
    new = table(nvcc)
    if arguments.write:
        DOCUMENT.write_text(DOCUMENT.read_text().replace(written(), new))
    else:
        print(new)


if __name__ == "__main__":
    main()
