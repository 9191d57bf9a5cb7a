"""Link on this Linux for an older one: for glibc 2.28, the oldest that PyTorch's wheels serve.

The containers of manylinux have that glibc and a compiler that keeps to its libraries. Elsewhere three things would ask
for newer ones, and `linker_flags` answers them when the libraries are linked:

- glibc 2.34 moved threads, `dlopen` and shared memory into libc.so.6, under new versions. The old ones are still there,
  for old programs; stubs name them, in the libraries where they were.
- libstdc++ since then exports a few functions that earlier ones left to its users: each library has its own.
- headers read a flag that glibc 2.32 brought; where it says "several threads", nothing is presumed.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

NEWEST = (2, 28)
MOVED = {"dl": ("libdl.so.2", r"dl"), "pthread": ("libpthread.so.0", r"pthread_|sem_"), "rt": ("librt.so.1", r"shm_")}
LEFT_OUT = """
#include <new>
#include <sstream>
extern "C" char __libc_single_threaded = 0;
namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
template class basic_ostringstream<char>;
template class basic_stringstream<char>;
}  // namespace std
"""


def number(version: str) -> tuple[int, ...]:
    """Return GLIBC_2.3.4 as numbers that compare."""
    return tuple(map(int, version.rpartition("_")[2].split(".")))


def older_versions(symbols: str, newest: tuple[int, ...] = NEWEST) -> dict[str, str]:
    """Return, of functions whose present version is too new, the newest that is not.

    Args:
        symbols: what `nm --dynamic --with-symbol-versions` says of libc.so.6.
    """
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r" [TWiI] (\w+)@@?(GLIBC_[\d.]+)$", symbols, re.MULTILINE):
        versions.setdefault(name, []).append(version)
    found = {}
    for name, known in versions.items():
        fit = sorted((one for one in known if number(one) <= newest), key=number)
        if fit and len(fit) < len(known):
            found[name] = fit[-1]
    return found


def stub(names: dict[str, str]) -> tuple[str, str]:
    """Return assembly and the linker's script of a library with these functions at these versions, which do nothing."""
    assembly = [
        f".globl stub{k}\n.type stub{k},@function\nstub{k}:\n.skip 8\n.symver stub{k}, {name}@@{version}"
        for k, (name, version) in enumerate(sorted(names.items()))
    ]
    script = [f"{version} {{ }};" for version in sorted(set(names.values()), key=number)]
    return "\n".join([".text", *assembly, ""]), "\n".join([*script, ""])


def hidden(assembly: str) -> str:
    """Return assembly that exports none of what it defines: PyTorch's libraries export some of it, too."""
    defined = set(re.findall(r"^([\w.$]+):", assembly, re.MULTILINE))
    seen = re.findall(r"^\s*\.(?:globl|weak)\s+([\w.$]+)", assembly, re.MULTILINE)
    return assembly + "".join(f".hidden {name}\n" for name in seen if name in defined)


def linker_flags(folder: Path, newest: tuple[int, ...] = NEWEST) -> list[str]:
    """Put what the linker needs into a folder; returns flags for it, none where glibc is old enough."""
    if number((os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "_")) <= newest:
        return []

    def run(*command: str | Path) -> str:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

    libc = run("cc", "-print-file-name=libc.so.6").strip()
    older = older_versions(run("nm", "--dynamic", "--with-symbol-versions", libc), newest)
    for name, (soname, start) in MOVED.items():
        assembly, script = stub({one: version for one, version in older.items() if re.match(start, one)})
        (folder / f"{name}.s").write_text(assembly)
        (folder / f"{name}.map").write_text(script)
        what = ("-shared", "-nostdlib", f"-Wl,-soname,{soname}", f"-Wl,--version-script={name}.map")
        run("cc", *what, f"{name}.s", "-o", f"lib{name}.so")
    (folder / "left_out.cpp").write_text(LEFT_OUT)
    run("c++", "-O2", "-fPIC", "-S", "left_out.cpp")
    (folder / "left_out.s").write_text(hidden((folder / "left_out.s").read_text()))
    run("cc", "-c", "left_out.s")
    return [f"-L{folder}", f"{folder}/left_out.o"]
