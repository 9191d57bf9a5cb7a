"""Build the op libraries. All metadata is in pyproject.toml; docs/install.md tells what is looked for where.

`_ops_cpu` (schemas and CPU kernels) and `_ops_cuda13` (CUDA kernels, for a torch with CUDA 13) use PyTorch's stable ABI
only, so one binary serves every torch from 2.10 on and every Python. They hold no Python module:
bitrate_ext/ops/library.py loads them with torch.ops.load_library. Where something is missing, the package installs
without it and says so in one line:

- no C++ compiler, Windows, or BITRATE_EXT_REFERENCE_ONLY=1: the PyTorch reference alone;
- torch without CUDA, no working CUDA toolkit of torch's major version, or BITRATE_EXT_NO_CUDA=1: no CUDA kernels.

A toolkit works if it compiles a trial. That takes seconds and is told apart from a fault in the kernels, which has to
fail: an extension marked optional would hide it, and torch's own errors are none of those that setuptools lets pass.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent / "tools"))
from cuda_toolkit import NVCC_FLAGS, architectures, find_toolkit, static_runtime

# No contraction and no fast-math: the bytes must not depend on the instruction set.
CXX_FLAGS = [
    *("-O3", "-g0", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas"),
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]
CPU_SOURCES = [
    "ops/ops",
    *(f"cpu/{name}" for name in ("project", "guide", "rate", "kernels_baseline", "kernels_avx2", "kernels_avx512")),
]
TORCH = 'pip install ninja "torch>=2.10"'
LINUX = sys.platform == "linux"
# Before torch's libraries, which export parts of it that an older one lacks: they are none of torch's stable ABI.
STANDARD_LIBRARY = ["stdc++"] if LINUX else []
# Operators are registered when a library is loaded: it exports nothing, and holds no names.
LINK_FLAGS = ["-Wl,-s", "-Wl,--version-script=csrc/ops/exports.map"] if LINUX else []
VARIABLES = ("CC", "CXX", "CUDA_HOME", "CUDA_PATH", "PYTORCH_NVCC", "TORCH_CUDA_ARCH_LIST")  # torch reads them, too


def say(what: str) -> None:
    print(f"bitrate_ext: {what}", file=sys.stderr)


def unnamed_folders() -> list[str]:
    """Return flags that keep this machine's folders out of the libraries, where messages of checks name files."""
    import torch

    return [f"-ffile-prefix-map={Path(one).parent}=." for one in (os.path.abspath(__file__), torch.__file__)]


def cuda_extension() -> list:
    """Describe the CUDA library, where it can be built."""
    import torch

    if os.environ.get("BITRATE_EXT_NO_CUDA") == "1" or torch.version.cuda is None:
        return []
    toolkit, because = find_toolkit(torch.version.cuda)
    if toolkit is None:
        say(f"{because}; building without CUDA kernels, as BITRATE_EXT_NO_CUDA=1 does")
        return []
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    seen = {torch.cuda.get_device_capability(index) for index in gpus}
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", architectures(toolkit / "bin/nvcc", seen))
    os.environ["CUDA_HOME"] = str(toolkit)  # before cpp_extension looks for one itself
    os.environ["TORCH_DONT_CHECK_COMPILER_ABI"] = "1"  # its table of compilers knows less than the trial has shown
    from torch.utils.cpp_extension import CppExtension

    ops_cuda = CppExtension(
        f"bitrate_ext._ops_cuda{torch.version.cuda.split('.')[0]}",
        ["csrc/ops/ops_cuda.cpp", "csrc/cuda/kernels.cu"],
        extra_compile_args={"cxx": [*CXX_FLAGS, *unnamed_folders(), "-DUSE_CUDA"], "nvcc": NVCC_FLAGS},
        libraries=[*STANDARD_LIBRARY, "dl", "rt", "pthread", "torch_cuda"],
        extra_link_args=LINK_FLAGS,
        extra_objects=[str(static_runtime(toolkit))],
        py_limited_api=True,
    )
    return [ops_cuda]


def extensions() -> dict:
    """Describe what can be built here."""
    for name in VARIABLES:
        if not os.environ.get(name, "").strip():  # torch would take it for a name
            os.environ.pop(name, None)
    compiler = os.environ.get("CXX", "c++").split()[0]
    missing = "" if shutil.which(compiler) else f"no C++ compiler ({compiler})"
    if sys.platform == "win32":
        missing = "the kernels are written for g++ and clang, which torch does not use on Windows"
    if os.environ.get("BITRATE_EXT_REFERENCE_ONLY") == "1":
        missing = "BITRATE_EXT_REFERENCE_ONLY=1"
    if missing:
        say(f"{missing}; installing the PyTorch reference only")
        return {}
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise SystemExit(
            f"bitrate_ext: torch, which the kernels are built against, cannot be imported ({error}); install it with "
            f"{TORCH}, or leave out --no-build-isolation"
        ) from None
    cuda = cuda_extension()
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    ops_cpu = CppExtension(
        "bitrate_ext._ops_cpu",
        [f"csrc/{source}.cpp" for source in CPU_SOURCES],
        extra_compile_args=[*CXX_FLAGS, *unnamed_folders()],
        libraries=[*STANDARD_LIBRARY, "dl", "pthread"],
        extra_link_args=LINK_FLAGS,
        py_limited_api=True,
    )
    return {"ext_modules": [ops_cpu, *cuda], "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=True)}}


if __name__ == "__main__":
    setup(**extensions(), options={"bdist_wheel": {"py_limited_api": "cp310"}})
