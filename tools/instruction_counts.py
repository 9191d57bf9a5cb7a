"""Counts the instructions that the CPU path takes for a likelihood and for a pixel: work, without a clock's noise.

    python tools/instruction_counts.py            # print them beside those on record
    python tools/instruction_counts.py --write    # put them on record, for this compiler

The counts are of code that the compiler made, so there is a record for each compiler. Needs g++ or clang, Linux on
x86-64, and a system that lets a program step its child. The baseline is not counted: its multiply-adds are the C
library's.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests/kernels/instruction_counts.json"  # {compiler: {what: instructions}}
INSTRUCTION_SETS = ("avx2", "avx512")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-w")
CANNOT_STEP = 77  # the program's exit code
MOST_GROWTH = 0.03

Counts = dict[str, float]


def compiler_name(compiler: str) -> str:
    """Such as ``g++ 12``: minor releases make the same code."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.\d+\.\d+", version)
    return f"{'clang++' if 'clang' in version else 'g++'} {found[1] if found else 'unknown'}"


def recorded(compiler: str) -> Counts | None:
    """The counts on record for this compiler; None where there are none."""
    known: dict[str, Counts] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return known.get(compiler_name(compiler))


def build(compiler: str, folder: Path, tree: Path = ROOT) -> Path:
    """The counting program with the sources of a tree."""
    program = folder / "count"
    sources = [ROOT / "tests/kernels/native" / "count.cpp", *sorted((tree / "csrc" / "cpu").glob("*.cpp"))]
    subprocess.run([compiler, *FLAGS, f"-I{tree / 'csrc'}", *sources, "-o", program], check=True)
    return program


def counted(program: Path, instruction_set: str, *only: str) -> Counts | None:
    """Instructions by what they are for; None where the system does not let a program be stepped."""
    done = subprocess.run([program, instruction_set, *only], capture_output=True, text=True, timeout=300)
    if done.returncode == CANNOT_STEP:
        return None
    if done.returncode != 0:
        raise RuntimeError(f"{program.name} {instruction_set} ended with {done.returncode}: {done.stderr}")
    lines = [line.rsplit(": ", 1) for line in done.stdout.splitlines()]
    return {what: float(count) for what, count in lines}


def changed(found: Counts, known: Counts) -> list[str]:
    """What differs by more than the allowance, in a line each. Less is told as well: it hides what comes after it."""
    lines = []
    for what, count in found.items():
        before = known.get(what)
        if before is None:
            lines.append(f"{what}: {count:.2f} instructions, none on record")
        elif abs(count / before - 1) > MOST_GROWTH:
            lines.append(f"{what}: {count:.2f} instructions, {before:.2f} on record ({count / before - 1:+.0%})")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"to {RECORD.relative_to(ROOT)}")
    parser.add_argument("--compiler", default="g++")
    chosen = parser.parse_args()
    known = recorded(chosen.compiler) or {}
    counts: Counts = {}
    with tempfile.TemporaryDirectory() as folder:
        program = build(chosen.compiler, Path(folder))
        for instruction_set in INSTRUCTION_SETS:
            found = counted(program, instruction_set)
            if found is None:
                print(f"{instruction_set} cannot be counted here", file=sys.stderr)
                return 1
            counts.update(found)
    for what, count in counts.items():
        print(f"{what:55} {count:8.3f}   {known.get(what, float('nan')):8.3f} on record")
    if chosen.write:
        records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        records[compiler_name(chosen.compiler)] = counts
        RECORD.write_text(json.dumps(records, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
