"""Builds the op library. All metadata is in pyproject.toml.

`_ops_cpu` (schemas and CPU kernels) uses PyTorch's stable ABI only, so one binary serves every torch from 2.10 on and
every Python. It holds no Python module: bitrate_ext/_native.py loads it with torch.ops.load_library. Where there is no
compiler, or BITRATE_EXT_REFERENCE_ONLY=1 is set for the build, the package installs without it, on the reference alone.
"""

import os
import shutil
import sys

from setuptools import setup


def extensions() -> dict:
    if (
        os.environ.get("BITRATE_EXT_REFERENCE_ONLY") == "1"
        or shutil.which(os.environ.get("CXX", "c++").split()[0]) is None
    ):
        print("bitrate_ext: no C++ compiler; installing the PyTorch reference only", file=sys.stderr)
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    ops_cpu = CppExtension(
        "bitrate_ext._ops_cpu",
        [
            "csrc/ops/ops.cpp",
            "csrc/cpu/project.cpp",
            "csrc/cpu/kernels_baseline.cpp",
            "csrc/cpu/kernels_avx2.cpp",
            "csrc/cpu/kernels_avx512.cpp",
        ],
        # No contraction and no fast-math: the bytes must not depend on the instruction set.
        extra_compile_args=[
            "-O3",
            "-g0",
            "-std=c++17",
            "-ffp-contract=off",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-Wno-psabi",
            "-Wno-unknown-pragmas",
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
        ],
        py_limited_api=True,
    )
    return {"ext_modules": [ops_cpu], "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=True)}}


setup(**extensions(), options={"bdist_wheel": {"py_limited_api": "cp310"}})
