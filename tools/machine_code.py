"""Reads the kernels' loops out of the machine code: how many loads are under way before the first is waited for.

    pip install nvidia-cuda-nvdisasm
    python tools/machine_code.py sm_80    # print it
    python tools/machine_code.py --write  # put that of sm_90 into docs/device-code.md

Needs nvcc and no GPU. It tells what the compiler did, not how long anything takes. The fields that it decodes are those
of sm_75 to sm_90.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cuda_toolkit
import device_code

COUNTED = ("LDG", "STG", "LDS", "STS", "F2F", "DMUL", "DFMA", "DADD", "MUFU", "CALL")


@dataclass
class Instruction:
    text: str  # without its guard
    lines: list[tuple[str, int]]  # file and line, from the innermost function out
    label: str  # of the place before which it stands, or ""
    control: int = 0

    @property
    def name(self) -> str:
        return self.text.split()[0].rstrip(";")

    @property
    def sets(self) -> int | None:
        """The barrier that falls when its result is there."""
        barrier = self.control >> 5 & 7
        return barrier if barrier < 7 else None

    @property
    def waits(self) -> list[int]:
        return [barrier for barrier in range(6) if self.control >> 11 >> barrier & 1]


@dataclass
class Loop:
    first: int
    last: int
    own: list[Instruction] = field(default_factory=list)  # not those of loops inside

    def count(self, name: str) -> int:
        return sum(one.name.startswith(name) for one in self.own)

    def batches(self) -> list[int]:
        """Loads from global memory that are issued one after the other, between waits for any of them."""
        pending: Counter[int] = Counter()
        batches, batch = [], 0
        for one in self.own:
            waited = [barrier for barrier in one.waits if pending.pop(barrier, 0)]
            if waited and batch:
                batches.append(batch)
                batch = 0
            if one.name.startswith("LDG") and one.sets is not None:
                pending[one.sets] += 1
                batch += 1
        return batches + [batch] * (batch > 0)

    def place(self) -> str:
        """The calls of a kernel's steps that lead to most of its loads, as the sources write them."""
        paths: Counter[tuple[str, ...]] = Counter()
        for load in self.loads():
            called = (source_lines(file)[number - 1] for file, number in reversed(load.lines))
            names = [name for line in called for name in re.findall(r"(\w+(?:<[\w, ]+>)?)\(ctx, ", line)]
            # By name: types are not told reliably, where the compiler has merged the ends of a switch.
            last = {name.split("<")[0]: name for name in names if name not in ("project", "project_backward", "read")}
            paths[tuple(last.values())] += 1
        return " > ".join(paths.most_common(1)[0][0])

    def loads(self) -> list[Instruction]:
        return [one for one in self.own if one.name.startswith("LDG")]


@cache
def source_lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


def disassemble(nvcc: Path, nvdisasm: str, architecture: str) -> dict[str, list[Instruction]]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        flags = [*cuda_toolkit.NVCC_FLAGS, "-lineinfo", "-cubin", f"-arch={architecture}"]
        subprocess.run([nvcc, *flags, device_code.SOURCE, "-o", cubin], check=True)
        command = [nvdisasm, "--print-code", "--print-instruction-encoding", "--print-line-info-inline", cubin]
        return parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse(listing: str) -> dict[str, list[Instruction]]:
    kernels: dict[str, list[Instruction]] = {}
    instructions: list[Instruction] = []
    lines: list[tuple[str, int]] = []
    label, fresh = "", True
    for text in listing.splitlines():
        if section := re.match(r"\.text\.\w*?([a-z_]+_kernel)(?![a-z])", text):
            instructions = kernels[section[1]] = []
        elif place := re.match(r"\s*//## File \"(.+?)\", line (\d+)", text):
            lines = [*([] if fresh else lines), (place[1], int(place[2]))]
            fresh = False
        elif mark := re.match(r"(\.L_x_\d+):", text):
            label = mark[1]
        elif code := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d\s+)?(\S.*?);", text):
            instructions.append(Instruction(code[1], lines, label))
            label, fresh = "", True
        elif encoding := re.match(r"\s+/\* 0x([0-9a-f]{16}) \*/", text):
            instructions[-1].control = int(encoding[1], 16) >> 41
    return kernels


def loops(instructions: list[Instruction]) -> list[Loop]:
    """By jumps back; each instruction belongs to the innermost loop around it."""
    labels = {one.label: index for index, one in enumerate(instructions) if one.label}
    ends: dict[int, int] = {}
    for index, one in enumerate(instructions):
        target = re.match(r"BRA.*`\((\.L_x_\d+)\)", one.text)
        if target and labels.get(target[1], index + 1) <= index:
            ends[labels[target[1]]] = index
    found = [Loop(first, last) for first, last in ends.items()]
    for index, one in enumerate(instructions):
        around = [loop for loop in found if loop.first <= index <= loop.last]
        if around:
            min(around, key=lambda loop: loop.last - loop.first).own.append(one)
    return sorted(found, key=lambda loop: loop.first)


def report(kernels: dict[str, list[Instruction]]) -> str:
    out = []
    for kernel, instructions in sorted(kernels.items(), reverse=True):
        totals = Counter(one.name for one in instructions if one.name.startswith(COUNTED))
        counts = ", ".join(f"{count} {name}" for name, count in sorted(totals.items()))
        out += [f"`{kernel}`: {len(instructions)} instructions, of them {counts}.", ""]
        out += ["| loop | loads, by wait | instructions | F2F | DMUL | DFMA |", "|---|---|---:|---:|---:|---:|"]
        for loop in loops(instructions):
            if loop.loads():
                widths = ", ".join(sorted({one.name for one in loop.loads()}))
                batches = " + ".join(map(str, loop.batches()))
                counts = " | ".join(str(loop.count(name)) for name in ("F2F", "DMUL", "DFMA"))
                out.append(f"| `{loop.place()}` | {batches} {widths} | {len(loop.own)} | {counts} |")
        out.append("")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture", nargs="?", default="sm_90")
    parser.add_argument("--write", action="store_true", help="replace the part of docs/device-code.md")
    arguments = parser.parse_args()
    nvcc = device_code.find_nvcc()
    packages = [Path(path, "nvidia/cu13/bin/nvdisasm") for path in sys.path]
    nvdisasm = shutil.which("nvdisasm") or next((str(path) for path in packages if path.exists()), None)
    if nvcc is None or nvdisasm is None:
        parser.exit(1, "needs nvcc and nvdisasm\n")
    found = report(disassemble(nvcc, nvdisasm, arguments.architecture))
    if arguments.write:
        release = device_code.release_of(nvcc)
        device_code.write(f"Compiler: nvcc {release}, {arguments.architecture}.\n\n{found}", "tools/machine_code.py")
    else:
        print(found)


if __name__ == "__main__":
    main()
