"""Planted faults: small changes to the product, each of which a named check must catch.

A test that cannot fail proves nothing. Every fault here is put into a copy of the sources, and the check that it names
has to fail there; ``test_faults.py`` runs them, and runs the same checks without a fault, which have to pass.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Fault:
    """One change to one file.

    Args:
        name: what is wrong, in a few words; unique in its group.
        file: path below the repository's root, in ``csrc/`` or ``bitrate_ext/``.
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


def copied(part: str, folder: Path) -> Path:
    """Copy ``csrc`` or ``bitrate_ext`` into the folder; returns the folder.

    Of the package only the modules are copied: compiled libraries and data are large, and links serve.
    """
    if part != "bitrate_ext":
        shutil.copytree(ROOT / part, folder / part)
        return folder
    (folder / part).mkdir(parents=True)
    for entry in (ROOT / part).iterdir():
        if entry.suffix == ".py":
            shutil.copy(entry, folder / part)
        elif entry.name != "__pycache__":
            (folder / part / entry.name).symlink_to(entry)
    return folder


def planted(fault: Fault, folder: Path) -> Path:
    """Copy what the fault is in into the folder, with the fault; returns the folder."""
    copied(Path(fault.file).parts[0], folder)
    path = folder / fault.file
    text = path.read_text()
    found = text.count(fault.old)
    assert found == 1, (
        f"the fault {fault.name!r} no longer applies: its text occurs {found} times in {fault.file}, not once; "
        f"plant it anew: {fault.old!r}"
    )
    assert fault.new != fault.old, f"the fault {fault.name!r} changes nothing"
    path.write_text(text.replace(fault.old, fault.new))
    return folder
