"""The host's side of the CUDA path over a runtime that answers as it is told, and with faults planted in it.

The runtime's names in csrc/cuda/host.h are those of who includes it, so a program stands in for CUDA with thirty lines:
no GPU, no toolkit, no PyTorch, and every error at the call where it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from faults import ROOT, Fault, in_tiers, listed, native, planted

PROGRAM = ROOT / "tests/kernels/native/cuda_host.cpp"
RACE = "a race"
FAULTS = listed("host")


def run(tree: Path, folder: Path, *flags: str) -> tuple[int, str]:
    """Build the program with the sources of a tree, and run it; returns its exit code, and what it says."""
    program = folder / "cuda_host"
    built = native.run(
        [native.compiler(), *native.FLAGS, "-pthread", *flags, f"-I{tree / 'csrc'}", PROGRAM, "-o", program]
    )
    assert built.returncode == 0, built.stderr
    done = native.run([program], TSAN_OPTIONS="halt_on_error=1")
    return done.returncode, done.stdout + done.stderr


def flags_for(check: str) -> tuple[str, ...]:
    return ("-g1", "-fsanitize=thread") if check == RACE else ()


@pytest.mark.medium
@pytest.mark.parametrize("check", ["all", RACE])
def test_the_host_passes_without_a_fault(check: str, tmp_path: Path) -> None:
    code, said = run(ROOT, tmp_path, *flags_for(check))
    assert code == 0, said
    assert " 0 wrong" in said


@pytest.mark.parametrize("fault", in_tiers(FAULTS))
def test_faults_of_the_host(fault: Fault, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("planted fault", "CUDA host")
    code, said = run(planted(fault, tmp_path), tmp_path, *flags_for(fault.caught_by))
    assert code != 0, f"{fault.name!r} survived"
    assert ("ThreadSanitizer: data race" if fault.caught_by == RACE else f"wrong ({fault.caught_by})\n") in said


def test_every_check_catches_a_fault() -> None:
    """A check that no fault needs may be one that cannot fail."""
    named = {line.split('"')[-2] for line in PROGRAM.read_text().splitlines() if line.rstrip().endswith('");')}
    checks = {name for name in named if not name.startswith("wrong")}
    assert checks - {"threads"} <= {fault.caught_by for fault in FAULTS}
