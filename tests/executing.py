"""The checking executor (csrc/executor) for tests: builds it, and hands torch tensors to it.

It runs the GPU kernels' bodies on the CPU, a fiber a thread, and raises RuntimeError where one breaks a rule of the
kernel language.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pybind11
import torch
from torch import Tensor

from bitrate_ext import autograd
from bitrate_ext.projection import get_projection

ROOT = Path(__file__).parent.parent
CACHE = ROOT / "build" / "executor"
CODES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
# -O1: built again for each planted fault, and quick enough when it runs.
FLAGS = ("-std=c++17", "-O1", "-g0", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "c++").split()[0])
    assert found, "these tests need the compiler that builds the package"
    return found


def _object(source: Path, *flags: str) -> Path:
    """The compiled source, kept under the hash of what went into it."""
    digest = hashlib.sha256(" ".join([compiler(), *FLAGS, *flags]).encode())
    for file in sorted(source.parent.parent.glob("*/*.h")) + [source]:
        if file.parent.name in ("core", "executor"):
            digest.update(file.read_bytes())
    target = CACHE / f"{source.stem}-{digest.hexdigest()[:16]}.o"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder) / "made.o"
            subprocess.run([compiler(), *FLAGS, *flags, "-c", source, "-o", made], check=True)
            made.replace(target)
    return target


def build(tree: Path, folder: Path) -> ModuleType:
    """The executor of a tree that holds ``csrc``, as a module in ``folder``."""
    bindings = _object(
        ROOT / "csrc/executor/bindings.cpp",
        "-fvisibility=hidden",
        *(f"-I{include}" for include in (pybind11.get_include(), sysconfig.get_path("include"))),
    )
    body = _object(tree / "csrc/executor/executor.cpp")
    library = folder / f"_executor{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run([compiler(), "-shared", body, bindings, "-o", library], check=True)
    spec = importlib.util.spec_from_file_location("_executor", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def executor() -> ModuleType:
    """The executor of this tree."""
    with tempfile.TemporaryDirectory() as folder:
        return build(ROOT, Path(folder))


def view(tensor: Tensor) -> dict[str, Any]:
    """A CPU tensor with its whole allocation."""
    storage = tensor.untyped_storage()
    data = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return {
        "storage": data,
        "offset": tensor.storage_offset() * tensor.element_size(),
        "dtype": CODES[tensor.dtype],
        "sizes": list(tensor.shape),
        "strides": list(tensor.stride()),
    }


def band(b: Any) -> tuple[np.ndarray, np.ndarray, int]:
    return b.start.numpy(), b.weight.numpy(), b.cells


def term(p: Tensor, bands: Any) -> dict[str, Any]:
    return {"likelihoods": view(p), "rows": band(bands[0]), "columns": band(bands[1])}


def _placement(case: Any, count: int) -> autograd.Placement:
    key = get_projection(case.mode).key
    return autograd.Placement(
        case.canvas, case.crop or (0, 0, *case.canvas), [key] * count, case.conserve, case.scale or (0.0, 0.0)
    )


def map_dtype(case: Any, tensors: list[Tensor]) -> torch.dtype:
    wide = any(p.dtype == torch.float64 for p in tensors)
    return case.dtype or (torch.float64 if wide else torch.float32)


def run_map(module: ModuleType, case: Any, tensors: list[Tensor] | None = None, **setting: int) -> tuple[Tensor, dict]:
    """``case.run()`` by the kernel body, with the summary of its launch."""
    tensors = case.likelihoods if tensors is None else tensors
    placement = _placement(case, len(tensors))
    out = torch.full((tensors[0].shape[0], 1, *placement.window[2:]), float("nan"), dtype=map_dtype(case, tensors))
    bands = autograd.bands_of(tensors, placement)
    terms = [term(p, pair) for p, pair in zip(tensors, bands, strict=True)]
    return out, module.project(terms, view(out), setting)


def run_gradient(module: ModuleType, case: Any, p: Tensor, grad: Tensor, **setting: int) -> tuple[Tensor, dict]:
    """The gradient of ``case.run()`` in one of its likelihoods by the kernel body, with the summary of its launch."""
    (bands,) = autograd.bands_of([p], _placement(case, 1), transposed=True)
    gradient = torch.full_like(p, float("nan"))
    return gradient, module.backward(view(grad), term(p, bands), view(gradient), setting)
