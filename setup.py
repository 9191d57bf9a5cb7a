"""Builds the op libraries. All metadata is in pyproject.toml.

`_ops_cpu` (schemas and CPU kernels) and `_ops_cuda` (CUDA kernels) use PyTorch's stable ABI only, so one binary serves
every torch from 2.10 on and every Python. They hold no Python module: bitrate_ext/ops/library.py loads them with
torch.ops.load_library. Where something is missing, the package installs without it and says so once:

- no C++ compiler, or BITRATE_EXT_REFERENCE_ONLY=1: the PyTorch reference alone;
- torch without CUDA, no CUDA toolkit of torch's major version, or BITRATE_EXT_NO_CUDA=1: no CUDA kernels.

A toolkit is looked for in CUDA_HOME and, where that is not set, on the PATH, among Python packages and in
/usr/local/cuda. TORCH_CUDA_ARCH_LIST chooses the GPUs to compile for; by default those of this machine, or every
supported one where none is seen.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
USUAL_TOOLKIT = Path("/usr/local/cuda")
TORCH_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# No contraction and no fast-math: the bytes must not depend on the instruction set.
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-std=c++17",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
    TORCH_ABI,
]
NVCC_FLAGS = ["-O3", "-std=c++17", "--fmad=false", "-Xcompiler", "-fvisibility=hidden"]


def say(what: str) -> None:
    print(f"bitrate_ext: {what}", file=sys.stderr)


def places(major: str) -> list[Path]:
    """Folders that may hold a CUDA toolkit, the likeliest first."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return [Path(named)]
    found = []
    nvcc = shutil.which("nvcc")
    if nvcc is not None:  # it may be a link or a script: ask it where it lives
        said = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
        top = re.search(r"^#\$ TOP=(.+)$", said.stderr, re.MULTILINE)
        found.append(Path(top[1]).resolve() if top else Path(nvcc).resolve().parent.parent)
    packages = [Path(path, f"nvidia/cu{major}") for path in sys.path if path]
    return [*found, *packages, USUAL_TOOLKIT]


def nvcc_release(toolkit: Path) -> str | None:
    """13.0, say; None where there is no nvcc that says so."""
    try:
        said = subprocess.run([toolkit / "bin/nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    release = re.search(r"release (\d+\.\d+)", said)
    return release and release[1]


def static_runtime(toolkit: Path) -> Path | None:
    return next((path for lib in ("lib64", "lib") for path in (toolkit / lib).glob("libcudart_static.a")), None)


def find_toolkit(wanted: str) -> Path | None:
    """The first toolkit that fits a torch built with CUDA `wanted`; says why there is none."""
    major = wanted.split(".")[0]
    unfit = []
    for folder in places(major):
        release = nvcc_release(folder)
        if release is None:
            continue
        if release.split(".")[0] != major:
            unfit.append(f"the CUDA toolkit in {folder} is {release}, torch's is {wanted}")
        elif static_runtime(folder) is None:
            unfit.append(f"no libcudart_static.a in {folder}")
        else:
            return folder
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    because = unfit[0] if unfit else f"no nvcc in {named}/bin" if named else "no CUDA toolkit (nvcc)"
    say(f"{because}; building without CUDA kernels")
    return None


def compiled_for(nvcc: Path) -> str:
    """What to compile for: the GPUs that are here, or each that this nvcc knows, with PTX for what comes after."""
    import torch

    if torch.cuda.is_available():
        seen = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
        wanted = {f"{major}.{minor}" for major, minor in seen}
    else:
        wanted = set(ARCHITECTURES)
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    known = {f"{code[3:-1]}.{code[-1]}" for code in listed.split()}
    chosen = sorted(wanted & known, key=float) or ["7.5"]
    return ";".join(chosen) + "+PTX"


def cuda_extension() -> list:
    """The CUDA library, where it can be built."""
    import torch

    if os.environ.get("BITRATE_EXT_NO_CUDA") == "1" or torch.version.cuda is None:
        return []
    toolkit = find_toolkit(torch.version.cuda)
    if toolkit is None:
        return []
    os.environ["CUDA_HOME"] = str(toolkit)  # before cpp_extension looks for one itself
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", compiled_for(toolkit / "bin/nvcc"))
    from torch.utils.cpp_extension import CppExtension

    return [
        CppExtension(
            "bitrate_ext._ops_cuda",
            ["csrc/ops/ops_cuda.cpp", "csrc/cuda/kernels.cu"],
            extra_compile_args={"cxx": [*CXX_FLAGS, "-DUSE_CUDA"], "nvcc": NVCC_FLAGS},
            libraries=["torch_cuda", "dl", "rt", "pthread"],
            extra_objects=[str(static_runtime(toolkit))],
            py_limited_api=True,
        )
    ]


def extensions() -> dict:
    if (
        os.environ.get("BITRATE_EXT_REFERENCE_ONLY") == "1"
        or shutil.which(os.environ.get("CXX", "c++").split()[0]) is None
    ):
        say("no C++ compiler; installing the PyTorch reference only")
        return {}
    cuda = cuda_extension()
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    sources = ["ops/ops", "cpu/project", "cpu/kernels_baseline", "cpu/kernels_avx2", "cpu/kernels_avx512"]
    ops_cpu = CppExtension(
        "bitrate_ext._ops_cpu",
        [f"csrc/{source}.cpp" for source in sources],
        extra_compile_args=CXX_FLAGS,
        py_limited_api=True,
    )
    return {"ext_modules": [ops_cpu, *cuda], "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=True)}}


if __name__ == "__main__":
    setup(**extensions(), options={"bdist_wheel": {"py_limited_api": "cp310"}})
