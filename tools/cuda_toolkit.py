"""Find a CUDA toolkit that works, and tell how the kernels are compiled; setup.py asks before anything is built."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
NVCC_FLAGS = ["-O3", "-std=c++17", "--fmad=false", "-Xcompiler", "-fvisibility=hidden"]
USUAL_TOOLKIT = Path("/usr/local/cuda")
TRIAL = "#include <stdexcept>\n#include <string>\n__global__ void trial() {}\n"


def ask(*command: str | Path) -> tuple[bool, str]:
    """Run a program; returns whether it went well, and what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        return False, str(error)
    return done.returncode == 0, done.stderr + done.stdout


def named() -> str | None:
    """Return the folder that the user names."""
    return os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")


def places(major: str) -> list[Path]:
    """List the folders that may hold a toolkit of this release, the likeliest first."""
    home = named()
    if home:
        return [Path(home)]
    found = []
    nvcc = shutil.which("nvcc")
    if nvcc is not None:  # it may be a link or a script: ask it where it lives
        top = re.search(r"^#\$ TOP=(.+)$", ask(nvcc, "--dryrun", "-x", "cu", os.devnull)[1], re.MULTILINE)
        found.append(Path(top[1]) if top else Path(nvcc).resolve().parent.parent)
    found += [Path(path, f"nvidia/cu{major}") for path in sys.path if path]
    return list(dict.fromkeys(path.resolve() for path in [*found, USUAL_TOOLKIT]))


def nvcc_release(toolkit: Path) -> str | None:
    """Return 13.0, say; None where there is no nvcc that says so."""
    release = re.search(r"release (\d+\.\d+)", ask(toolkit / "bin/nvcc", "--version")[1])
    return release and release[1]


def static_runtime(toolkit: Path) -> Path | None:
    """Return the library that is linked in, so that the CUDA runtime need not be there later."""
    return next((path for lib in ("lib64", "lib") for path in (toolkit / lib).glob("libcudart_static.a")), None)


def why_it_does_not_compile(toolkit: Path) -> str:
    """Compile a kernel that does nothing; returns the telling line of what nvcc says, or nothing where it works."""
    nvcc = shlex.split(os.environ.get("PYTORCH_NVCC") or "") or [toolkit / "bin/nvcc"]  # these two as torch has them
    host = ["-ccbin", os.environ["CC"]] if os.environ.get("CC") else []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.cu")
        source.write_text(TRIAL)
        well, said = ask(*nvcc, *NVCC_FLAGS, *host, "-c", source, "-o", source.with_suffix(".o"))
    if well:
        return ""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if re.search("error|fatal", line, re.IGNORECASE)]
    return (telling or lines or ["nothing"])[0]


def why_unfit(toolkit: Path, release: str, wanted: str) -> str:
    """Say why a toolkit cannot serve a torch built with CUDA `wanted`; empty where it can."""
    if release.split(".")[0] != wanted.split(".")[0]:
        return f"the CUDA toolkit in {toolkit} is {release}, torch's is {wanted}"
    if static_runtime(toolkit) is None:
        return f"no libcudart_static.a in {toolkit}"
    said = why_it_does_not_compile(toolkit)
    return said and f"nvcc of {toolkit} does not compile here, it says: {said}"


def find_toolkit(wanted: str) -> tuple[Path | None, str]:
    """Find the first toolkit that fits a torch built with CUDA `wanted`; returns it, or why there is none."""
    unfit = []
    for folder in places(wanted.split(".")[0]):
        release = nvcc_release(folder)
        if release is not None:
            because = why_unfit(folder, release, wanted)
            if not because:
                return folder, ""
            unfit.append(because)
    return None, "; ".join(unfit) or (f"no nvcc in {named()}/bin" if named() else "no CUDA toolkit (nvcc)")


def architectures(nvcc: Path, seen: Collection[tuple[int, int]]) -> str:
    """List what to compile for: the GPUs seen, or else each of ours that this nvcc knows.

    The newest comes with PTX, from which drivers compile for what comes after. With no GPU seen the oldest does, too:
    boards of 8.7, 8.8 and 11.0 do not run the code of their neighbours.
    """
    wanted = {f"{major}.{minor}" for major, minor in seen} or set(ARCHITECTURES)
    known = {f"{major}.{minor}" for major, minor in re.findall(r"sm_(\d+)(\d)\b", ask(nvcc, "--list-gpu-code")[1])}
    names = sorted(wanted & known, key=float) or [ARCHITECTURES[0]]
    with_ptx = {names[-1]} if seen else {names[0], names[-1]}
    return ";".join(f"{name}+PTX" if name in with_ptx else name for name in names)
