"""What a page of a video is told: a picture's document for each frame, and how fast they follow each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._version import __version__
from ..cells.picture import PictureBits
from .document import Blobs, page_document, palettes


def video_document(
    frames: Iterable[PictureBits],
    blobs: Blobs,
    *,
    rate: float,
    kinds: Sequence[str] | None,
    channels: int | None,
    title: str,
    facts: Mapping[str, str],
) -> dict[str, Any]:
    """Return what a page of a video is told; see ``write_video_page``."""
    made: list[dict[str, Any]] = []
    for number, frame in enumerate(frames):
        name = f"frame {number}"
        one = page_document(
            [frame], blobs, channels=channels, title=name, facts=facts, mask=None, mask_names={}, colours=False
        )
        if made and (one["width"], one["height"]) != (made[0]["width"], made[0]["height"]):
            raise ValueError(
                f"frames must be of one size, {made[0]['width']} x {made[0]['height']} pixels; frame {number} has "
                f"{one['width']} x {one['height']}"
            )
        made.append(one)
    if not made:
        raise ValueError("frames must be at least one PictureBits, got none")
    if not 0 < rate < 1e6:
        raise ValueError(f"rate must be frames a second, a positive number, got {rate!r}")
    if kinds is not None and len(kinds) != len(made):
        raise ValueError(f"kinds must be one for each of {len(made)} frames, got {len(kinds)}")
    return {
        "page": "video",
        "title": title,
        "version": __version__,
        "rate": float(rate),
        "kinds": None if kinds is None else [str(kind) for kind in kinds],
        "palettes": palettes(),
        "frames": made,
    }
