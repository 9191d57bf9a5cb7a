"""Files of weights to be spoiled, and the one thing that may be done with such a file: refuse it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from bitrate_ext.models.zoo import load_checkpoint

safetensors_torch = pytest.importorskip("safetensors.torch")
NAME = "mbt2018-mean"


@lru_cache
def weights() -> dict[str, Tensor]:
    return zoo.MODELS[NAME](8, 12).state_dict()


@lru_cache
def saved(kind: str) -> bytes:
    if kind == "safetensors":
        return safetensors_torch.save(weights(), metadata={"N": "8", "M": "12"})
    file = io.BytesIO()
    torch.save(weights(), file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


def write(folder: Path, content: Any, suffix: str = "pt") -> Path:
    """Bytes as they are; everything else by ``torch.save``."""
    path = folder / f"hostile.{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    return path


def assert_refused(path: Path, message: str | None = None) -> None:
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path, NAME)


def archive(change: Callable[[zipfile.ZipInfo, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """What ``torch.save`` wrote, entry by entry."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved("zip"))) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry, old.read(entry)))
    return packed.getvalue()
