"""The work for a likelihood and for a pixel, as instructions: it may not grow unnoticed. No clock, hence no noise."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import instruction_counts
import pytest
from faults import Fault, native, planted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64",
        reason="they are counted on Linux and x86-64 only",
    ),
]
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
NEEDS = {"avx2": ("avx2", "fma", "f16c"), "avx512": ("avx512f", "avx512dq", "avx512bw", "avx512vl")}


def counts_of(program: Path, instruction_set: str, *only: str) -> instruction_counts.Counts:
    if not set(NEEDS[instruction_set]) <= set(FLAGS.split()):
        pytest.skip(f"this processor has no {instruction_set}")
    found = instruction_counts.counted(program, instruction_set, *only)
    if found is None:
        pytest.skip("this system does not let a program step another")
    return found


def known_counts() -> instruction_counts.Counts:
    known = instruction_counts.recorded(native.compiler())
    if known is None:
        name = instruction_counts.compiler_name(native.compiler())
        pytest.skip(f"no counts on record for {name}: python tools/instruction_counts.py --write")
    return known


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instruction_counts.build(native.compiler(), tmp_path_factory.mktemp("count"))


@pytest.mark.parametrize("instruction_set", instruction_counts.INSTRUCTION_SETS)
def test_the_work_has_not_grown(instruction_set: str, program: Path) -> None:
    known = known_counts()
    found = counts_of(program, instruction_set)
    assert len(found) == 10
    changed = instruction_counts.changed(found, known)
    advice = "if that is meant: python tools/instruction_counts.py --write"
    assert not changed, "\n".join([*changed, advice])


@pytest.mark.parametrize(
    ("fault", "grown"),
    [
        (
            Fault(
                "likelihoods rebased twice",
                "csrc/cpu/loops.h",
                "rebase(running, products.exponent[slot + i]);",
                "rebase(running, products.exponent[slot + i]);\n    rebase(running, products.exponent[slot + i]);",
                "",
            ),
            "a likelihood",
        ),
        (
            Fault(
                "pixels rounded the long way",
                "csrc/cpu/loops.h",
                "const Floats result = Ordinary ? narrow(sum) : rounded(sum);",
                "const Floats result = rounded(sum);",
                "",
            ),
            "a pixel",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else value,
)
def test_more_work_is_told(fault: Fault, grown: str, tmp_path: Path) -> None:
    known = known_counts()
    program = instruction_counts.build(native.compiler(), tmp_path, planted(fault, tmp_path / "tree"))
    told = instruction_counts.changed(counts_of(program, "avx2", "forward float32"), known)
    assert any(line.startswith(f"avx2 forward float32, {grown}: ") and "(+" in line for line in told), told


def test_less_work_is_told_too() -> None:
    assert instruction_counts.changed({"a": 1.0}, {"a": 1.02}) == []
    assert instruction_counts.changed({"a": 1.0}, {"a": 1.10}) == ["a: 1.00 instructions, 1.10 on record (-9%)"]
    assert instruction_counts.changed({"b": 2.0}, {}) == ["b: 2.00 instructions, none on record"]


def test_compilers_by_their_first_number() -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    assert instruction_counts.compiler_name(compiler).startswith("g++ ")
