"""What a page of a video is told: a picture's document for each frame, and how fast they follow each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._version import __version__
from ..cells.picture import PictureBits
from .document import Blobs, page_document


class VideoFrames:
    """Take the frames of a page one after the other: their cells are kept, and their pictures as the file holds them.

    Args:
        channels: as for ``write_page``.
        quality: of pictures, 1 to 100; None: exact, with reconstructions.
        facts: what is to be told of how they came to be.
    """

    def __init__(self, *, channels: int | None, quality: int | None, facts: Mapping[str, str]) -> None:
        self.blobs = Blobs()
        self._made: list[dict[str, Any]] = []
        self._options: dict[str, Any] = {"channels": channels, "quality": quality, "facts": facts}

    def add(self, frame: PictureBits) -> None:
        """Take the next frame.

        Raises:
            ValueError: it is of another size than the first.
        """
        number = len(self._made)
        options = {**self._options, "title": f"frame {number}", "later": number > 0}
        self._made.append(page_document([frame], self.blobs, **options))
        sizes = [(one["width"], one["height"]) for one in (self._made[0], self._made[-1])]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"frames must be of one size, {sizes[0][0]} x {sizes[0][1]} pixels; frame {number} has "
                f"{sizes[1][0]} x {sizes[1][1]}"
            )

    def document(self, *, rate: float, kinds: Sequence[str] | None, title: str) -> dict[str, Any]:
        """Return what the page is told; see ``write_video_page``."""
        if not self._made:
            raise ValueError("frames must be at least one PictureBits, got none")
        if not 0 < rate < 1e6:
            raise ValueError(f"rate must be frames a second, a positive number, got {rate!r}")
        if kinds is not None and len(kinds) != len(self._made):
            raise ValueError(f"kinds must be one for each of {len(self._made)} frames, got {len(kinds)}")
        return {
            "page": "video",
            "title": title,
            "version": __version__,
            "rate": float(rate),
            "kinds": None if kinds is None else [str(kind) for kind in kinds],
            "frames": self._made,
        }
