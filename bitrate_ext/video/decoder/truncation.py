"""Whether a video ends before it should, by what its file says of its own end."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

# These state how long each stream is, or how long all are; of other containers FFmpeg guesses.
STATE_EACH, STATE_WHOLE = {"mov", "avi", "ivf"}, {"matroska", "flv", "asf"}
LEAST_BYTES = 8  # of a frame in a file, with its header or its entry in an index


class Input:
    """The video as PyAV reads it: a descriptor, without a name."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int) -> bytes:
        return os.read(self._descriptor, size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def at(self, position: int, size: int) -> bytes:
        """Read from a position on."""
        self.seek(position)
        return self.read(size)


def is_cut_short(video: Input, size: int) -> bool:
    """Tell whether the file ends before it should, by its outermost parts: MP4, Matroska, AVI, MPEG-TS, GIF."""
    head, end = video.at(0, 16), 0
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        end = _end_of_boxes(video, size)
    elif head[:4] == b"RIFF":
        length = int.from_bytes(head[4:8], "little")
        end = 8 + (0 if _keeps_the_place(length) else length)
    elif head[:4] == b"\x1aE\xdf\xa3":
        end = _end_of_segment(video)
    elif head[:4] == b"GIF8":
        end = size + (b"\x3b" not in video.at(max(0, size - 16), 16))
    elif packet := _packet_bytes(video):
        end = size + bool(size % packet)
    return end > size


def _packet_bytes(video: Input) -> int:
    """Return the length of MPEG-TS packets, 0 where it is none; discs and broadcasts add bytes before and behind."""
    head = video.at(0, 2 * 204)
    for packet, sync in ((188, 0), (192, 4), (204, 0)):
        if head[sync::packet][:2] == b"GG":
            return packet
    return 0


def _end_of_boxes(video: Input, size: int) -> int:
    """Return where the last of the boxes at the top of an MP4 file says that it ends."""
    position = 0
    while position + 8 <= size:
        head = video.at(position, 16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file, whatever that is
            return size
        position += max(length, 8)
    return position if position == size else max(position, size + 1)


def _end_of_segment(video: Input) -> int:
    """Return where the segment of a Matroska file says that it ends; 0 where it was written live and does not say."""
    position = 0
    for _ in range(2):  # EBML header, segment
        head = video.at(position, 16)
        if len(head) < 6:
            return position + 6
        length_bytes = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + length_bytes], "big") & ((1 << 7 * length_bytes) - 1)
        unknown = length == (1 << 7 * length_bytes) - 1
        position += 4 + length_bytes + length
    return 0 if unknown else position


def _keeps_the_place(length: int) -> bool:
    """Tell whether a length of 32 bits is what is written before it is known, and stays where a pipe was written to."""
    return length in (0, 0x7FFFFFFF, 0xFFFFFFFF)


def stated_frames(stream: Any, size: int) -> int | None:
    """Return how many frames the container states, 0 if it does not; None where it only keeps the place for a number.

    Writers into pipes put a huge one there; so many frames have no room in a file of ``size`` bytes.
    """
    return int(stream.frames) if 0 <= stream.frames <= size // LEAST_BYTES else None


def time_missing(container: Any, stream: Any, size: int, first: int, end: int) -> str | None:
    """Say what of the stated duration is missing.

    Args:
        container, stream: PyAV's.
        size: of the file, bytes.
        first, end: when the first frame is shown, and until when the last, in the stream's time base.
    """
    name = container.format.name.split(",")[0]
    period = 1 / stream.average_rate if stream.average_rate else Fraction(1, 25)
    if name in STATE_EACH and stream.duration and stated_frames(stream, size) is not None:
        whole, slack = stream.duration * stream.time_base, 2 * period
    elif name in STATE_WHOLE and container.duration and len(container.streams) == 1:
        whole, slack = Fraction(container.duration, 1_000_000), max(2 * period, Fraction(1, 2))
    else:
        return None
    # Some writers count from 0, others from the first frame: that is certain only where the whole would end before it.
    start = first * stream.time_base
    there = end * stream.time_base - (start if start < 0 or start >= whole else 0)
    if there + slack >= whole:
        return None
    return f"the frames last {float(there):.2f} s, the container states {float(whole):.2f} s"
