"""Reading videos: a file in, RGB frames with their times out. The decoder runs in a child process that is locked in.

Whatever a file does to the decoder, the caller gets the frames that came before, and ``partial`` says why there are no
more; a video that gives no frame at all raises ``VideoError``. See ``decoder`` for the child.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..io.files import open_regular, shown
from ..optional import install_command
from .decoder.protocol import DONE, FAIL, FLIPPED, FRAM, FRAME, INFO, MIRRORED, NO_PTS, PREFIX, TRANSPOSED

TIMEOUT = 60.0  # seconds without a frame
MAX_MEMORY = 4 << 30  # bytes of the decoder's address space; 8K needs about half of it
MAX_PIXELS = 1 << 26  # of a frame; 8K has half as many
_TEXT_BYTES = 1 << 16  # of a message that is no frame
_GRACE = 5.0  # seconds that a child may take to end once its pipe has
_PADDING = 4096  # bytes at the end of a row, at most
_PIPE_BYTES = 1 << 20  # what an ordinary user may ask for
_DECODER = Path(__file__).with_name("decoder")


class VideoError(ValueError):
    """A file that cannot be read as a video; the message is one line and names the file."""


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


class Clock:
    """Times of frames, from their timestamps or, where there are none, from the rate."""

    def __init__(self, time_base: Fraction, rate: Fraction | None) -> None:
        self._time_base = time_base
        self._period = max(1, round(1 / (rate * time_base))) if rate else 1  # ticks
        self._zero: int | None = None
        self._last = 0
        self._step = self._period

    def time(self, pts: int | None, duration: int) -> Fraction:
        """Seconds since the first frame. Where timestamps jump back, as in joined streams, time goes on from there."""
        if self._zero is None:
            self._zero = pts if pts is not None else 0
            ticks = 0
        elif pts is None:
            ticks = self._last + self._step
        else:
            ticks = pts - self._zero
            if ticks < self._last:
                ticks = self._last + self._step
                self._zero = pts - ticks
        self._last, self._step = ticks, duration if duration > 0 else self._period
        return ticks * self._time_base


class Process(Protocol):
    """What the reader needs of the child; ``subprocess.Popen`` has it."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class VideoReader:
    """The frames of a video, one after the other.

        with VideoReader("in.mp4") as video:
            for frame in video:
                ...
        if video.partial:
            print(video.partial)

    Containers: MP4 and its kin, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, Ogg, FLV, ASF, IVF, GIF, Y4M, bare H.264, HEVC,
    AV1 and MPEG video, told by their content. Frames are turned as the video says they are to be shown (quarter turns
    and mirrors) and converted to RGB by their own matrix and range. Pixels that are not square are not scaled, alpha is
    dropped, HDR is not tone-mapped.

    Damage is passed over as players do: what cannot be decoded is left out, what is decoded in part is made up for and
    the frame marked; afterwards ``partial`` names it, and a file that is cut short. Some damage leaves no sign: a
    changed bit that makes another valid picture, a cut between two packets of what states no length (bare streams,
    MPEG-TS, files written live).

    Args:
        path: the file. Only ever a file's name: protocols and options are not looked for in it.
        frames: stop after so many.
        timeout: seconds without a frame after which the decoder is ended.
        max_memory: bytes of address space that the decoder may use.
        max_pixels: of a frame, as stored.

    Attributes:
        width, height: of the frames as shown, pixels.
        rate: frames a second on average, as the container states it.
        count: frames, as the container states it; edits may show fewer.
        container, codec: FFmpeg's names.
        picture: how frames became RGB, by the first: ``matrix`` and ``range``, which of them the video states and
            which are taken as players do, and what is left as it is (``hdr``, ``primaries``, ``interlaced``,
            ``pixel_aspect``, ``transparent``).
        warnings: where frames depart from what a viewer shows, in words.
        sandboxed: whether the decoder's system calls are filtered (Linux on x86_64 and aarch64).
        partial: after iteration, why the video ended before its end or what of it is damaged, one line; None when all
            is well, or ``frames`` were asked for and came undamaged.

    Raises:
        VideoError: missing, not a regular file, not a video, too large, or without a frame that can be decoded.
        ImportError: PyAV is not installed.
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        frames: int | None = None,
        timeout: float = TIMEOUT,
        max_memory: int = MAX_MEMORY,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._process: Process | None = None
        for name, value in {
            "frames": frames,
            "timeout": timeout,
            "max_memory": max_memory,
            "max_pixels": max_pixels,
        }.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be greater than 0, got {value!r}")
        self._name = shown(Path(path))
        self._frames, self._timeout, self._max_pixels = frames, timeout, max_pixels
        self.partial: str | None = None
        self._taken = False
        video = open_regular(path, "a video", VideoError)
        try:
            self._process = _start(video, max_memory, max_pixels)
        finally:
            os.close(video)
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        with contextlib.suppress(ImportError, AttributeError, OSError):  # where the system has it: Linux
            import fcntl

            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._damaged = 0
        self._lost = 0
        try:
            self._read_info()
            self._first = self._next(0)
        except BaseException:
            self.close()
            raise
        if self._first is None:
            reason = self.partial or "it holds no frame"
            self.close()
            raise VideoError(f"{self._name}: no frame can be decoded: {reason}")
        self.height, self.width = self._first.pixels.shape[:2]

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield the frames, once; open the file again to read it again."""
        if self._taken:
            raise ValueError(f"{self._name}: the frames have been read; open the video again")
        self._taken = True
        return self._all()

    def _all(self) -> Iterator[VideoFrame]:
        frame, self._first = self._first, None
        size, index = (self.height, self.width), 0
        while frame is not None:
            if frame.pixels.shape[:2] != size:
                height, width = frame.pixels.shape[:2]
                self._end(f"the size changes from {size[1]} x {size[0]} to {width} x {height} after {index} frames")
                break
            yield frame
            index += 1
            if index == self._frames:
                self._end()
                break
            if self._process is None:
                break  # closed meanwhile
            frame = self._next(index)
        self.close()

    def close(self) -> None:
        """End the decoder; may be called again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _read_info(self) -> None:
        try:
            kind, length = self._prefix()
            text = self._text(kind, length)
            if kind == FAIL:
                raise VideoError(f"{self._name}: {_one_line(text)}")
            if kind != INFO:
                raise _Silence("spoke out of turn")
            info = json.loads(text)
            self.rate = _fraction(info["rate"]) if info["rate"] else None
            self.count: int | None = int(info["count"]) if info["count"] else None
            self.container, self.codec = _one_line(str(info["container"])), _one_line(str(info["codec"]))
            self.sandboxed = info["sandboxed"] is True
            self.picture = {
                _one_line(name): fact if fact is None or isinstance(fact, bool) else _one_line(str(fact))
                for name, fact in info["picture"].items()
            }
            self.warnings = tuple(_one_line(str(words)) for words in info["warnings"])
            self._clock = Clock(_fraction(info["time_base"]), self.rate)
        except _Silence as silence:
            raise VideoError(f"{self._name}: {silence.reason}") from None
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError):
            raise VideoError(f"{self._name}: the decoder's words make no sense") from None

    def _next(self, index: int) -> VideoFrame | None:
        """Return the next frame; None at the end, with the reason in ``partial`` unless it is the video's own."""
        try:
            kind, length = self._prefix()
            if kind == FRAM:
                return self._frame(index, length)
            text = self._text(kind, length)
            if kind == DONE:
                self._end(*map(_one_line, map(str, json.loads(text))))
            elif kind == FAIL:
                self._end(f"after {index} frames: {_one_line(text)}")
            else:
                raise _Silence("spoke out of turn")
        except _Silence as silence:
            self._end(f"{silence.reason} after {index} frames")
        except (TypeError, json.JSONDecodeError):
            self._end(f"the decoder's words make no sense after {index} frames")
        return None

    def _end(self, *reasons: str) -> None:
        found = list(reasons)
        if self._lost and not any("packets that could not be decoded" in reason for reason in reasons):
            found.append(f"packets that could not be decoded: {self._lost}")
        if self._damaged:
            found.append(f"damaged frames: {self._damaged}")
        self.partial = "; ".join(found) or None

    def _prefix(self) -> tuple[bytes, int]:
        """Kind and length of the next message; its whole has to come within the timeout."""
        self._deadline = time.monotonic() + self._timeout
        kind, length = PREFIX.unpack(self._read(bytearray(PREFIX.size)))
        return kind, length

    def _text(self, kind: bytes, length: int) -> str:
        if kind not in (INFO, FAIL, DONE) or length > _TEXT_BYTES:
            raise _Silence("the decoder's words make no sense")
        return str(self._read(bytearray(length)), errors="replace")

    def _frame(self, index: int, length: int) -> VideoFrame:
        if length < FRAME.size:
            raise _Silence("the decoder's words make no sense")
        facts = FRAME.unpack(self._read(bytearray(FRAME.size)))
        width, height, stride, rotation, damaged, lost, pts, duration = facts
        sound = 0 < width * height <= self._max_pixels and 3 * width <= stride <= 3 * width + _PADDING
        if not sound or length != FRAME.size + height * stride:
            raise _Silence("the decoder's words make no sense")
        rows = np.empty((height, stride), np.uint8)
        self._read(rows.data.cast("B"))
        self._damaged += damaged != 0
        self._lost = lost
        seconds = self._clock.time(None if pts == NO_PTS else pts, duration)
        pixels = rows[:, : 3 * width].reshape(height, width, 3)
        return VideoFrame(index, seconds, apply_rotation(pixels, rotation), damaged != 0)

    def _read(self, buffer: Any) -> Any:
        """Fill the buffer from the pipe; returns it."""
        view = memoryview(buffer)
        while len(view):
            left = self._deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(1000 * left):
                raise _Silence(f"the decoder gave nothing for {self._timeout:g} s")
            got = os.readv(self._pipe, [view])
            if got == 0:
                raise _Silence(self._cause_of_end())
            view = view[got:]
        return buffer

    def _cause_of_end(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "the decoder closed its pipe"
        if code >= 0:
            return f"the decoder ended with exit code {code}"
        try:
            return f"the decoder died of {signal.Signals(-code).name}"
        except ValueError:
            return f"the decoder died of signal {-code}"


class _Silence(Exception):
    """The child has said nothing that could be used; why, in words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def apply_rotation(pixels: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    """Return the pixels as shown, contiguous; flags of ``decoder.protocol``."""
    if rotation & TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if rotation & MIRRORED:
        pixels = pixels[:, ::-1]
    if rotation & FLIPPED:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _start(video: int, max_memory: int, max_pixels: int) -> Process:
    """Start the child, which finds the standard library and PyAV, and inherits the video and two pipes alone."""
    spec = importlib.util.find_spec("av")
    if spec is None or spec.origin is None:
        raise ImportError(f"av cannot be imported (not installed); install it with {install_command('av')}")
    absent = [name for name in ("fcntl", "resource") if importlib.util.find_spec(name) is None]
    if absent:  # which the lock needs
        raise ImportError(f"videos can be read on Linux and other Unix systems: this Python has no {absent[0]}")
    folder = str(Path(spec.origin).parent.parent)
    arguments = [folder, str(video), str(max_memory), str(max_pixels)]
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "LD_PRELOAD") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_DECODER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        pass_fds=[video],
        env={**kept, "MALLOC_ARENA_MAX": "2"},  # an arena takes 64 MiB of address space
    )


def _fraction(pair: Any) -> Fraction:
    numerator, denominator = pair
    if not (0 < int(numerator) < 2**63 and 0 < int(denominator) < 2**63):
        raise TypeError(f"not a positive fraction: {pair}")
    return Fraction(int(numerator), int(denominator))


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:500]
