"""Builds the native programs of ``tests/kernels/native``, with and without a fault, and runs them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kept import kept

from . import ROOT, Fault, planted

CPU_PATH = (
    "csrc/cpu/project.cpp",
    "csrc/cpu/guide.cpp",
    "csrc/cpu/kernels_baseline.cpp",
    "csrc/cpu/kernels_avx2.cpp",
    "csrc/cpu/kernels_avx512.cpp",
)
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-w")
NO_SUCH_SET = 77  # the sweep's exit code for an instruction set that this processor lacks


def compiler() -> str:
    found = shutil.which("g++") or shutil.which("c++")
    assert found, "this test needs the compiler that builds the package"
    return found


def run(command: Sequence[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


def _compiled(*arguments: str | Path) -> str:
    done = run([compiler(), *FLAGS, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def _files_read(source: Path) -> list[Path]:
    """The project's files that a source includes, itself among them."""
    listed = _compiled(f"-I{ROOT / 'csrc'}", "-MM", source).replace("\\\n", " ").split()[1:]
    return [Path(name).resolve() for name in listed]


def kept_object(source: Path, *flags: str) -> Path:
    """Compile a source of this tree, or find it compiled."""
    version = run([compiler(), "--version"]).stdout
    return kept(
        f"{source.stem}.o",
        [" ".join([version, *FLAGS, *flags]), *_files_read(source)],
        lambda target: _compiled(*flags, f"-I{ROOT / 'csrc'}", "-c", source, "-o", target),
    )


class Program:
    """``tests/kernels/native/NAME.cpp`` and the CPU path, built once; a fault has only what it reaches built again."""

    def __init__(self, name: str, folder: Path, *flags: str) -> None:
        self.name, self.folder, self.flags = name, folder, flags
        self.sources = (f"tests/kernels/native/{name}.cpp", *CPU_PATH)
        with ThreadPoolExecutor(2) as pool:
            objects = pool.map(lambda source: kept_object(ROOT / source, *flags), self.sources)
            self.objects = dict(zip(self.sources, objects, strict=True))
        self.path = self._linked(folder, self.objects)

    def with_fault(self, fault: Fault, parts: Sequence[str] | None = None) -> Path:
        """The program with the fault; with ``parts``, only in those of its sources."""
        file = (ROOT / fault.file).resolve()
        reached = [s for s in (self.sources if parts is None else parts) if file in _files_read(ROOT / s)]
        assert reached, f"{fault.file} is no part of {self.name}"
        folder = self.folder / fault.name.replace(" ", "_")
        tree = planted(fault, folder)
        return self._linked(folder, {**self.objects, **{s: self._object(s, tree, folder) for s in reached}})

    def _object(self, source: str, tree: Path, folder: Path) -> Path:
        out = folder / f"{Path(source).stem}.o"
        own = ROOT if source.startswith("tests/") else tree  # the programs themselves are not copied
        _compiled(*self.flags, f"-I{tree / 'csrc'}", "-c", own / source, "-o", out)
        return out

    def _linked(self, folder: Path, objects: dict[str, Path]) -> Path:
        _compiled(*self.flags, *objects.values(), "-o", folder / self.name)
        return folder / self.name


def swept(sweep: Program, fault: Fault) -> subprocess.CompletedProcess[str]:
    """Build the sweep with the fault, and run the check that the fault names, on its instruction set."""
    check, name = fault.caught_by.split(", ")
    parts = ["tests/kernels/native/sweep.cpp"]  # where the scalar formulas are looked at
    if name != "scalar":
        parts += ["csrc/cpu/project.cpp", "csrc/cpu/guide.cpp", f"csrc/cpu/kernels_{name}.cpp"]
    return run([sweep.with_fault(fault, parts), "baseline" if name == "scalar" else name, check])


def caught(fault: Fault, done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 1 and f"wrong ({fault.caught_by}): " in done.stdout
