"""Planted faults: small changes to the product, each of which a named check must catch.

A test that cannot fail proves nothing. Every fault here is put into a copy of the sources, and the check that it names
has to fail there; the same checks pass without a fault. In the lists beside this file, ``== FILE`` opens the faults of
a file; each is a line ``NAME: CHECK``, lines ``- `` that occur once in the file, and lines ``+ `` that replace them:

- ``cpu.txt``: formulas and the CPU path. CHECK is ``CHECK, SET`` as ``native/sweep.cpp`` prints them: what must find
  the fault, on the instruction set that it is planted for (``scalar``: in formulas that all sets share).
- ``races.txt``: the CPU path again, caught by ``native/threads.cpp`` under the thread sanitizer, with these words.
- ``kernels.txt``: the GPU kernels' bodies and their plan. CHECK is one of ``kernel_checks.py``,
  ``kernel_addresses.py`` or ``rate_checks.py``, which gets an executor with the fault.
- ``ptx.txt``: single instructions of what nvcc compiles. FILE is a kernel; what is replaced is the first group of a
  regular expression, where it is found first, and CHECK one of the same: see ``ptx.Change`` and ``test_ptx.py``.
- ``host.txt``: the host's side of the CUDA path, caught by ``native/cuda_host.cpp``, which prints CHECK; a race by the
  thread sanitizer.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

ROOT = Path(__file__).parents[3]
LISTS = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """One change to one file.

    Args:
        name: what is wrong, in a few words; unique in its group.
        file: path below the repository's root, in ``csrc/``; or a kernel.
        old: text that occurs exactly once in the file.
        new: what stands there instead.
        caught_by: the check that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    caught_by: str

    def __str__(self) -> str:
        return self.name


def listed(name: str) -> list[Fault]:
    """Return the faults of a list."""
    found: list[tuple[str, str, str, dict[str, list[str]]]] = []
    file = ""
    for line in (LISTS / f"{name}.txt").read_text().splitlines():
        if line.startswith("== "):
            file = line[3:]
        elif line[:2] in ("- ", "+ "):
            found[-1][3][line[0]].append(line[2:])
        elif line:
            fault, check = line.split(": ", 1)
            found.append((fault, file, check, {"-": [], "+": []}))
    return [
        Fault(fault, file, "\n".join(lines["-"]), "\n".join(lines["+"]), check) for fault, file, check, lines in found
    ]


def changed(fault: Fault) -> str:
    """Return the text of the fault's file with the fault in it."""
    text = (ROOT / fault.file).read_text()
    found = text.count(fault.old)
    assert found == 1, (
        f"the fault {fault.name!r} no longer applies: its text occurs {found} times in {fault.file}, not once; "
        f"plant it anew: {fault.old!r}"
    )
    assert fault.new != fault.old, f"the fault {fault.name!r} changes nothing"
    return text.replace(fault.old, fault.new)


def planted(fault: Fault, folder: Path) -> Path:
    """Copy what the fault is in into the folder, with the fault; returns the folder."""
    part = Path(fault.file).parts[0]
    shutil.copytree(ROOT / part, folder / part)
    (folder / fault.file).write_text(changed(fault))
    return folder


def in_tiers(faults: Sequence[Fault]) -> list[ParameterSet]:
    """Parameters of a test: `make test` has the first fault of every third check, `make test-all` has them all.

    A check of several instruction sets, as "cells, avx2", is one.
    """
    first = {fault.caught_by.split(", ")[0]: fault for fault in reversed(faults)}
    seldom = list(reversed(first.values()))[::3]
    return [
        pytest.param(fault, id=fault.name, marks=pytest.mark.medium if fault in seldom else pytest.mark.slow)
        for fault in faults
    ]
