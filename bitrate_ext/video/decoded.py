"""The parent's side of a decoder that runs in a child process, locked in; see ``decoder`` for the child."""

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
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..optional import install_command
from .decoder.protocol import DONE, FAIL, FLIPPED, FRAM, FRAME, INFO, MIRRORED, NO_PTS, PREFIX, TELL, TRANSPOSED
from .source import Ended, VideoError, VideoFacts, VideoFrame

_TEXT_BYTES = 1 << 16  # of a message that is no frame
_MOST_TOLD = 32  # texts while frames come
_GRACE = 5.0  # seconds that a child may take to end once its pipe has
_PADDING = 4096  # bytes at the end of a row, at most
_PIPE_BYTES = 1 << 20  # what an ordinary user may ask for
_DECODER = Path(__file__).with_name("decoder")


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


class DecodedVideo:
    """A video that the child decodes; a ``VideoSource``.

    Args:
        name: of the file, as messages have it.
        video: its descriptor.
        wishes: what is chosen of the picture, and of raw video its layout: see ``decoder.decoding.decode``.
        timeout, max_memory, max_pixels: as ``VideoReader``.
        rate: of raw video: each frame is one tick of its clock.

    Raises:
        VideoError: it cannot be read.
        ImportError: PyAV is not installed, or the system cannot lock a process in.
    """

    def __init__(
        self,
        name: str,
        video: int,
        wishes: Mapping[str, Any],
        timeout: float,
        max_memory: int,
        max_pixels: int,
        rate: Fraction | None = None,
    ) -> None:
        self._process: Process | None = None
        self._name, self._timeout, self._max_pixels, self._rate = name, timeout, max_pixels, rate
        self._process = _start(video, max_memory, max_pixels, json.dumps(wishes))
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        with contextlib.suppress(ImportError, AttributeError, OSError):  # where the system has it: Linux
            import fcntl

            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._damaged = self._lost = 0
        try:
            self.facts = self._read_info()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the decoder; may be called again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _read_info(self) -> VideoFacts:
        try:
            kind, length = self._prefix()
            text = self._text(kind, length)
            if kind == FAIL:
                raise VideoError(f"{self._name}: {_one_line(text)}")
            if kind != INFO:
                raise _Silence("spoke out of turn")
            info = json.loads(text)
            facts = VideoFacts(
                rate=_fraction(info["rate"]) if info["rate"] else None,
                count=int(info["count"]) if info["count"] else None,
                container=_one_line(str(info["container"])),
                codec=_one_line(str(info["codec"])),
                sandboxed=info["sandboxed"] is True,
                pixel_aspect=_fraction(info["pixel_aspect"]),
                picture={
                    _one_line(name): fact if fact is None or isinstance(fact, bool) else _one_line(str(fact))
                    for name, fact in info["picture"].items()
                },
                warnings=[_one_line(str(words)) for words in info["warnings"]],
            )
            facts.rate = self._rate or facts.rate
            self._clock = Clock(1 / self._rate if self._rate else _fraction(info["time_base"]), facts.rate)
        except _Silence as silence:
            raise VideoError(f"{self._name}: {silence.reason}") from None
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError):
            raise VideoError(f"{self._name}: the decoder's words make no sense") from None
        return facts

    def frame(self, index: int) -> VideoFrame:
        """Return the frame that comes next; raises ``Ended``."""
        try:
            kind, length = self._prefix()
            while kind == TELL and len(self.facts.warnings) < _MOST_TOLD:
                self.facts.warnings.append(_one_line(self._text(kind, length)))
                kind, length = self._prefix()
            if kind == FRAM:
                return self._frame(index, length)
            text = self._text(kind, length)
            if kind == DONE:
                raise Ended(*map(_one_line, map(str, json.loads(text))))
            if kind == FAIL:
                raise Ended(f"after {index} frames: {_one_line(text)}")
            raise _Silence("spoke out of turn")
        except _Silence as silence:
            raise Ended(f"{silence.reason} after {index} frames") from None
        except (TypeError, json.JSONDecodeError):
            raise Ended(f"the decoder's words make no sense after {index} frames") from None

    def remarks(self, reasons: tuple[str, ...]) -> list[str]:
        """Say how many packets and frames were damaged."""
        found = []
        if self._lost and not any("packets that could not be decoded" in reason for reason in reasons):
            found.append(f"packets that could not be decoded: {self._lost}")
        if self._damaged:
            found.append(f"damaged frames: {self._damaged}")
        return found

    def _prefix(self) -> tuple[bytes, int]:
        """Kind and length of the next message; its whole has to come within the timeout."""
        self._deadline = time.monotonic() + self._timeout
        kind, length = PREFIX.unpack(self._read(bytearray(PREFIX.size)))
        return kind, length

    def _text(self, kind: bytes, length: int) -> str:
        if kind not in (INFO, TELL, FAIL, DONE) or length > _TEXT_BYTES:
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


def _start(video: int, max_memory: int, max_pixels: int, wishes: str) -> Process:
    """Start the child, which finds the standard library and PyAV, and inherits the video and two pipes alone."""
    spec = importlib.util.find_spec("av")
    if spec is None or spec.origin is None:
        raise ImportError(f"av cannot be imported (not installed); install it with {install_command('av')}")
    absent = [name for name in ("fcntl", "resource") if importlib.util.find_spec(name) is None]
    if absent:  # which the lock needs
        raise ImportError(f"videos can be read on Linux and other Unix systems: this Python has no {absent[0]}")
    folder = str(Path(spec.origin).parent.parent)
    arguments = [folder, str(video), str(max_memory), str(max_pixels), wishes]
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "LD_PRELOAD") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-B", "-I", "-S", str(_DECODER), *arguments],  # -B: what cannot write whole files writes none
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
