"""What any kind of video gives: facts, and frames one after the other until it ends for some reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

USUAL_RATE = Fraction(25)  # frames a second, where nothing is stated
TIMEOUT = 60.0  # seconds without a frame
MAX_MEMORY = 4 << 30  # bytes of the decoder's address space; 8K needs about half of it
MAX_PIXELS = 1 << 26  # of a frame; 8K has half as many


class VideoError(ValueError):
    """A file that cannot be read as a video; the message is one line and names the file.

    Example:
        >>> from bitrate_ext.video.map_video import map_video
        >>> try:
        ...     map_video("missing.mp4", folder / "bits.mp4", bitrate_ext.FrameMapper(model))
        ... except bitrate_ext.VideoError as error:
        ...     print("missing.mp4" in str(error))
        True
    """


class Ended(Exception):
    """There are no more frames; why, in words, or nothing where the video is whole."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


@dataclass
class VideoFrame:
    """One frame, as a viewer shows it.

    Args:
        index: from 0.
        time: seconds from the first frame's timestamp; never less than the frame's before.
        pixels: uint8 ``[H, W, 3]``, red, green, blue.
        damaged: the decoder made up for missing or wrong data, here or in a frame that this one builds on.
    """

    index: int
    time: Fraction
    pixels: NDArray[np.uint8]
    damaged: bool = False


@dataclass
class VideoFacts:
    """What is known of a video before its frames; the attributes of ``VideoReader``."""

    rate: Fraction | None
    count: int | None
    container: str
    codec: str
    sandboxed: bool
    pixel_aspect: Fraction = Fraction(1)
    picture: dict[str, str | bool | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)  # grows while frames are read


class VideoSource(Protocol):
    """A video of some kind."""

    facts: VideoFacts

    def frame(self, index: int) -> VideoFrame:
        """Return the frame that comes next; raises ``Ended``."""
        ...

    def remarks(self, reasons: tuple[str, ...]) -> list[str]:
        """Say what was amiss with the frames so far, besides the reasons for the end."""
        ...

    def close(self) -> None:
        """Let go of what it needs; may be called again."""
        ...
