"""The compiled libraries: loaded where they are, and told about once where they are not."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..optional import build_again

_FOLDER = Path(__file__).parent.parent
MOST_LATENTS_ON_CUDA = 20  # in one launch: kMaxTerms of csrc/core/launch.h


def _load(name: str, need: str) -> str | None:
    """Load a library; returns why it is absent and what to do, or None."""
    operators: Any = torch.ops  # without types
    found = sorted(_FOLDER.glob(f"{name}*.so"))
    if not found:
        return f"no compiled library {name} in {_FOLDER} ({build_again(need)})"
    try:
        operators.load_library(found[-1])
    except OSError as error:
        return f"{found[-1].name} does not load: {error} ({build_again('')})"
    return None


def _load_cuda() -> str | None:
    if absent_because is not None:
        return absent_because
    if torch.version.cuda is None:
        return f"this PyTorch is built without CUDA ({build_again('install one that has it')})"
    release = torch.version.cuda.split(".")[0]
    return _load(f"_ops_cuda{release}", f"install a CUDA {release} toolkit with nvcc")


absent_because = _load("_ops_cpu", "install a C++17 compiler")
cuda_absent_because = _load_cuda()
# Looked up once: that takes a tenth of a small call.
project: Any = torch.ops.bitrate_ext._project.default if absent_because is None else None
guide: Any = torch.ops.bitrate_ext._guide.default if absent_because is None else None
_warned: set[str] = set()


@cache
def _why_unable(index: int) -> str:
    """Return why that GPU cannot run the kernels that were built; empty where it can, and where there is none.

    Raises:
        RuntimeError: the GPU does not answer, for a reason that may pass and is asked for again.
    """
    because = torch.ops.bitrate_ext._no_cuda_code(index) if torch.cuda.is_available() else ""
    if not because:
        return ""
    major, minor = torch.cuda.get_device_capability(index)
    return (
        f"the kernels were not built for compute capability {major}.{minor} ({because}); build again with that GPU "
        "visible, or name it in TORCH_CUDA_ARCH_LIST"
    )


@cache
def plan_bytes() -> int:
    """Return the bytes in which the CUDA kernels keep the plans of some bands."""
    return int(torch.ops.bitrate_ext._plan_bytes()) if cuda_absent_because is None else 0


def why_absent(device: torch.device, latents: int = 1) -> str:
    """Return why no native kernel serves so many latents on this device, and what to do; empty where one does."""
    if absent_because is not None:
        return absent_because
    if device.type == "cpu":
        return ""
    if device.type != "cuda":
        return f"there are no kernels for {device.type} tensors"
    if cuda_absent_because is not None:
        return cuda_absent_because
    if latents > MOST_LATENTS_ON_CUDA:
        return f"one launch adds at most {MOST_LATENTS_ON_CUDA} latents, not {latents} (add maps of fewer)"
    if torch.compiler.is_compiling():
        return ""
    index = device.index
    if index is None:
        index = torch.cuda.current_device() if torch.cuda.is_available() else 0
    return _why_unable(index)


def available(device: torch.device) -> bool:
    """Tell whether a native kernel exists for tensors of this device."""
    return not why_absent(device)


def warn_once(device: torch.device, because: str) -> None:
    """Say, once for each kind of device and each reason, that the slower reference is used."""
    what = f"bitrate_ext uses its PyTorch reference for {device.type} tensors: {because}"
    if what not in _warned:
        _warned.add(what)
        warnings.warn(what, RuntimeWarning, stacklevel=5)
