"""Planted faults: small changes to the product, each of which a named check must catch.

A test that cannot fail proves nothing. Every fault here is put into a copy of the sources, and the check that it names
has to fail there; ``test_faults.py`` runs them, and runs the same checks without a fault, which have to pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Fault:
    """One change to one file.

    Args:
        name: what is wrong, in a few words; unique in its group.
        file: path below the repository's root, in ``csrc/``.
        old: text that occurs exactly once in the file.
        new: what stands there instead.
        caught_by: the check that must fail; its form depends on the group.
    """

    name: str
    file: str
    old: str
    new: str
    caught_by: str

    def __str__(self) -> str:
        return self.name


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
    """Parameters of a test: `make test` has the first fault of each check, `make test-all` has them all."""
    first = {fault.caught_by: fault for fault in reversed(faults)}
    return [
        pytest.param(fault, id=fault.name, marks=pytest.mark.medium if fault in first.values() else pytest.mark.slow)
        for fault in faults
    ]
