"""Loads the compiled op library, and says once what to do where there is none."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

_FOLDER = Path(__file__).parent


def _load() -> str | None:
    """Load ``_ops_cpu``; returns why it is absent, or None."""
    found = sorted(_FOLDER.glob("_ops_cpu*.so"))
    if not found:
        return f"no compiled library in {_FOLDER} (install a C++17 compiler and run pip install again)"
    try:
        torch.ops.load_library(found[-1])
    except OSError as error:
        return f"{found[-1].name} does not load: {error}"
    return None


absent_because = _load()
_warned: set[str] = set()


def available(device_type: str) -> bool:
    """Whether a native kernel exists for tensors of this device."""
    return absent_because is None and device_type == "cpu"


def why_absent(device_type: str) -> str:
    """One line for people: why there is no native kernel for this device, and what to do."""
    if absent_because is not None:
        return absent_because
    return f"this build has no kernels for {device_type} tensors"


def warn_once(device_type: str) -> None:
    """Say, once for each kind of device, that the slower reference is used."""
    if device_type not in _warned:
        _warned.add(device_type)
        warnings.warn(
            f"bitrate_ext uses its PyTorch reference for {device_type} tensors: {why_absent(device_type)}",
            RuntimeWarning,
            stacklevel=4,
        )
