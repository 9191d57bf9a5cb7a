"""Messages on the pipe: PREFIX (kind, length of the rest), then one of these.

INFO  JSON: what the container states, and how frames are converted; comes first, with the first frame
FRAM  FRAME and the pixels, ``height`` rows of ``stride`` bytes, of which ``3 * width`` are red, green and blue
TELL  text: where frames become others than INFO says, before the first of them
FAIL  text: why there is no going on
DONE  JSON list of texts: what was found amiss; empty where the video is whole
"""

from __future__ import annotations

import struct
from typing import Any

PREFIX = struct.Struct("<4sI")
FRAME = struct.Struct("<IIIBBxxIqq")  # width, height, stride, rotation, damaged, packets lost so far, pts, duration
INFO, FRAM, TELL, FAIL, DONE = b"INFO", b"FRAM", b"TELL", b"FAIL", b"DONE"
NO_PTS = -(2**63)
TRANSPOSED, MIRRORED, FLIPPED = 1, 2, 4  # a rotation: swap axes, then reverse columns, then reverse rows


def message(kind: bytes, *parts: Any) -> list[Any]:
    """Return the buffers of a message, to be written one after the other."""
    return [PREFIX.pack(kind, sum(memoryview(part).nbytes for part in parts)), *parts]
