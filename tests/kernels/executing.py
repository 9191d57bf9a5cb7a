"""The checking executor (tests/kernels/executor) for tests: builds it, and hands torch tensors to it.

It runs the GPU kernels' bodies on the CPU, a fiber a thread, and raises RuntimeError where one breaks a rule of the
kernel language.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import ptx
import pybind11
import torch
from faults.native import compiler
from kept import ROOT, kept
from torch import Tensor

from bitrate_ext.ops import dispatch
from bitrate_ext.ops.projection import get_projection

EXECUTOR = Path(__file__).parent / "executor"
CODES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
# Nothing is visible outside its library and nothing unique in the process: several executors live in one.
FLAGS = ("-std=c++17", "-O1", "-g0", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-fno-gnu-unique")
FAULTY = ("-O0", "-w")  # with a fault planted: built often, run briefly
WARNINGS = ("-Wall", "-Wextra", "-Wno-unknown-pragmas")


def _object(source: Path, tree: Path, *flags: str, of: Sequence[Path] = ()) -> Path:
    """Return the compiled source with the kernels of a tree, kept as long as nothing changes that goes into it."""
    files = [*sorted(tree.glob("csrc/core/*.h")), *sorted(EXECUTOR.glob("*.h")), source, *of]
    command = [compiler(), *FLAGS, *flags]

    def make(target: Path) -> None:
        subprocess.run([*command, f"-I{tree / 'csrc'}", "-c", source, "-o", target], check=True)

    return kept(f"{source.stem}.o", [" ".join(command), *files], make)


def _library(body: Path, folder: Path) -> Path:
    bindings = _object(
        EXECUTOR / "bindings.cpp",
        ROOT,
        *(f"-I{include}" for include in (pybind11.get_include(), sysconfig.get_path("include"))),
    )
    library = folder / f"{body.stem}{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run([compiler(), "-shared", body, bindings, "-o", library], check=True)
    return library


def build(tree: Path, folder: Path) -> Path:
    """Build the executor of a tree that holds ``csrc``, into ``folder``."""
    return _library(_object(EXECUTOR / "executor.cpp", tree, *(WARNINGS if tree == ROOT else FAULTY)), folder)


def load_ptx(program: ptx.Program, changes: Sequence[ptx.Change] = ()) -> ModuleType:
    """Load an executor of compiled kernels; change k is made after ``ptx_blocks(k + 1)``."""
    said = program.cpp(changes)
    code = kept(f"{program.path.stem}.inc", [said], lambda target: target.write_text(said))
    body = _object(EXECUTOR / "executor.cpp", ROOT, f'-DBITRATE_EXT_PTX="{code}"', "-w", of=[code])
    with tempfile.TemporaryDirectory() as folder:
        return load(_library(body, Path(folder)))


def load(library: Path) -> ModuleType:
    """Load the executor as a module of a name of its own: of one name, pybind11 gives out the first again."""
    spec = importlib.util.spec_from_file_location(f"{library.name.split('.')[0]}._executor", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def executor() -> ModuleType:
    """Return the executor of this tree."""
    with tempfile.TemporaryDirectory() as folder:
        return load(build(ROOT, Path(folder)))


def view(tensor: Tensor) -> dict[str, Any]:
    """Return a CPU tensor with its whole allocation."""
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
    return {"values": view(p), "rows": band(bands[0]), "columns": band(bands[1])}


def case_bands(case: Any, tensors: list[Tensor], transposed: bool = False) -> dispatch.Bands:
    """Return the bands of a random case for those tensors."""
    keys = [get_projection(case.mode).key] * len(tensors)
    window = case.crop or (0, 0, *case.canvas)
    scales = case.scale or (0.0, 0.0)
    geometry = dispatch.MapGeometry(case.canvas, window, keys, case.conserve, scales)
    return dispatch.cached_bands(tensors, geometry, transposed=transposed).pairs


def new_map(tensors: list[Tensor], bands: dispatch.Bands, dtype: torch.dtype) -> Tensor:
    """Return a map of NaN, which a kernel has to overwrite."""
    return torch.full((tensors[0].shape[0], 1, bands[0][0].pixels, bands[0][1].pixels), float("nan"), dtype=dtype)


def _flat(bands: dispatch.Bands) -> list[Tensor]:
    return [tensor for pair in bands for b in pair for tensor in (b.start, b.weight)]


def native_map(
    tensors: list[Tensor], bands: dispatch.Bands, dtype: torch.dtype = torch.float32, guide: Tensor | None = None
) -> Tensor:
    """Return the map by the CPU path."""
    out = new_map(tensors, bands, dtype)
    torch.ops.bitrate_ext._project(tensors, _flat(bands), out, None, guide)
    return out


def native_gradient(p: Tensor, bands: tuple[Any, Any], grad: Tensor) -> Tensor:
    """Return the gradient by the CPU path; the bands are transposed."""
    gradient = torch.full_like(p, float("nan"))
    torch.ops.bitrate_ext._project_backward(grad, p, _flat([bands]), gradient)
    return gradient


def kernel_map(
    module: ModuleType,
    tensors: list[Tensor],
    bands: dispatch.Bands,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
    guide: Tensor | None = None,
    **setting: int,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the map by the kernel's body, with the summary of its launch."""
    out = new_map(tensors, bands, dtype) if out is None else out
    terms = [term(p, pair) for p, pair in zip(tensors, bands, strict=True)]
    return out, module.project(terms, None if guide is None else view(guide), view(out), setting)


def kernel_gradient(
    module: ModuleType, p: Tensor, bands: tuple[Any, Any], grad: Tensor, gradient: Tensor | None = None, **setting: int
) -> tuple[Tensor, dict[str, Any]]:
    """Return the gradient by the kernel's body, with the summary of its launch; the bands are transposed."""
    gradient = torch.full_like(p, float("nan")) if gradient is None else gradient
    return gradient, module.backward(view(grad), term(p, bands), view(gradient), setting)


def native_picture_guide(picture: Tensor, weights: list[float], phases: Tensor) -> Tensor:
    """Return the guide of a picture by the CPU path."""
    made = torch.full((picture.shape[0], 1, *picture.shape[2:]), float("nan"))
    torch.ops.bitrate_ext._guide(picture, weights, phases, made)
    return made


def kernel_picture_guide(
    module: ModuleType, picture: Tensor, weights: list[float], phases: Tensor, **setting: int
) -> Tensor:
    """Return the guide of a picture by the kernel's body."""
    made = torch.full((picture.shape[0], 1, *picture.shape[2:]), float("nan"))
    module.guide(view(picture), weights, view(phases), view(made), setting)
    return made


def checks_of(*modules: ModuleType) -> dict[str, Any]:
    """Return the functions ``check_NAME`` of modules, by NAME."""
    found = {}
    for module in modules:
        found.update({name[6:]: value for name, value in vars(module).items() if name.startswith("check_")})
    return found
