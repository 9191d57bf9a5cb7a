"""What the assembler makes of the kernels, as far as rounding goes. Needs cuobjdump and no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cuda_toolkit

Instructions = dict[tuple[str, str], Counter[str]]  # how many of each, by architecture and kernel
# Of the one function that divides floats of unusual size: infinities compared and added, the rest of a rounding.
FLOAT_SLOW_PATH = {"FSETP.GTU.FTZ.AND": 2, "FSETP.NEU.FTZ.AND": 5, "FADD.FTZ": 1}
SLOW_PATH = 3  # products of doubles in the one function that divides numbers of unusual size, beside one a quotient


def find_cuobjdump() -> Path | None:
    """Return the program that disassembles, of a toolkit or of the package triton, which PyTorch brings along."""
    named = shutil.which("cuobjdump")
    places = [*(folder / "bin" for folder in cuda_toolkit.places("13"))]
    places += [Path(path, "triton/backends/nvidia/bin") for path in sys.path if path]
    found = [Path(named)] if named else []
    return next((path for path in [*found, *(place / "cuobjdump" for place in places)] if path.exists()), None)


def disassembled(cuobjdump: Path, binary: Path) -> Instructions:
    said = subprocess.run([cuobjdump, "-sass", binary], capture_output=True, text=True, check=True).stdout
    found: Instructions = {}
    architecture, kernel = "", ("", "")
    for line in said.splitlines():
        if start := re.match(r"arch = (\w+)", line):
            architecture = start[1]
        elif start := re.search(r"Function : .*?([a-z][a-z_]*_kernel)", line):
            kernel = (architecture, start[1])
            found[kernel] = Counter()
        elif one := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", line):
            negation = re.search(r"FADD\.FTZ \w+, -\w+(?:\.reuse)?, -RZ ", line)
            found[kernel]["FNEG" if negation else one[1]] += 1
    return found


def of_ptx(path: Path) -> dict[str, Counter[str]]:
    """Return how many of each instruction the PTX of each kernel has."""
    parts = re.split(r"\.entry \w*?([a-z][a-z_]*_kernel)", path.read_text())[1:]
    opcode = re.compile(r"^\s+(?:@!?%p\d+ )?([a-z][a-z0-9_.]+)", re.MULTILINE)
    return {kernel: Counter(opcode.findall(text)) for kernel, text in zip(parts[::2], parts[1::2], strict=True)}


def misrounded(sass: Counter[str], ptx: Counter[str]) -> list[str]:
    """Return what of a kernel's instructions cannot round as its PTX asks.

    A product that was joined with a sum is gone: each product and quotient of the PTX still has its own. Copies that
    the assembler makes of a loop add to them. Fused instructions on floats are those of the PTX, and one a quotient of
    doubles, which compares exponents. Flushes to zero belong to divisions of integers, whose other steps are as many,
    and to the slow path of divisions of floats. What changes a sign is named as a sum that flushes, and counts as none.
    """
    found = []
    quotients = ptx["div.rn.f64"]
    wanted = {"DMUL": ptx["mul.rn.f64"] + quotients + SLOW_PATH * (quotients > 0), "FMUL": ptx["mul.rn.f32"]}
    found += [f"{sass[name]} {name}, not {count}" for name, count in wanted.items() if sass[name] < count]
    fused = sum(count for name, count in sass.items() if name.startswith("FFMA"))
    if not ptx["fma.rn.f32"] + ptx["div.rn.f32"] and fused > sass["MUFU.RCP64H"]:
        found.append(f"{fused} FFMA, {sass['MUFU.RCP64H']} quotients")
    flushing = {name: count for name, count in sass.items() if ".FTZ" in name}
    whole = flushing.pop("F2I.FTZ.U32.TRUNC.NTZ", 0) + flushing.pop("UF2I.FTZ.U32.TRUNC.NTZ", 0)
    if ptx["div.rn.f32"]:
        flushing = {name: count for name, count in flushing.items() if count > FLOAT_SLOW_PATH.get(name, 0)}
    divisions = sum(count for name, count in sass.items() if re.fullmatch(r"U?I2F(\.U32)?\.RP", name))
    if whole > divisions or flushing:
        found.append(f"{whole} F2I.FTZ.U32.TRUNC.NTZ, {divisions} divisions of integers, {flushing}")
    return found
