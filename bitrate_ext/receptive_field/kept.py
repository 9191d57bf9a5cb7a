"""Receptive fields that were measured before: kept by earlier calls, and those of the bundled codec, which ship."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

from ..models.zoo import torch_folder
from .field import ReceptiveField

SHIPPED = Path(__file__).parent.parent / "data" / "demo_fields.zip"  # by tools/measure_demo_fields.py


class KeptFields:
    """A folder of fields by the words that ``fingerprint`` gives, and what ships beside it.

    Args:
        where: the folder; True for one in PyTorch's folder for downloads; False to keep and find nothing.
    """

    def __init__(self, where: bool | Path) -> None:
        self.folder = torch_folder() / "bitrate_ext" if where is True else Path(where) if where else None

    def find(self, key: str) -> ReceptiveField | None:
        """Return the field of that fingerprint; None where there is none, or it is damaged."""
        if self.folder is None:
            return None
        try:
            return ReceptiveField.load(self.folder / f"{key}.npz")
        except (OSError, ValueError):  # damaged: measured anew and replaced
            return _shipped(key)

    def keep(self, key: str, field: ReceptiveField) -> None:
        """Keep a field, or warn that it cannot be."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            field.save(self.folder / f"{key}.npz")
        except OSError as error:
            warnings.warn(f"the receptive field cannot be kept in {self.folder} ({error})", stacklevel=3)


def _shipped(key: str) -> ReceptiveField | None:
    if not SHIPPED.exists():
        return None
    with zipfile.ZipFile(SHIPPED) as fields:
        name = f"{key}.npz"
        return ReceptiveField.load(io.BytesIO(fields.read(name))) if name in fields.namelist() else None
