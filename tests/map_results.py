"""What ``bitrate-ext map`` writes."""

from __future__ import annotations

from pathlib import Path

ENDINGS = (".bitrate.npz", ".bitrate.png", ".json", ".overlay.png")


def files(folder: str = ".") -> list[str]:
    return sorted(entry.name for entry in Path(folder).iterdir())


def outputs(stem: str) -> list[str]:
    return [f"{stem}{ending}" for ending in ENDINGS]
