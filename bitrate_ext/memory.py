"""How much memory there is, and how much a model takes for an image: measured, never guessed."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

SHARE = 0.8  # of what is available, that is taken where nobody has given a limit
CGROUPS = {  # by what a line of /proc/self/cgroup names: folder, limit, use, and the part of it that can be dropped
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),  # version 2
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
PROBES = (2, 4)  # sides of the images that a model's memory is measured with, in multiples of about `PROBE_SIDE`
PROBE_SIDE = 128  # pixels
UNPOOLED = 128 << 10  # bytes from which a block is taken from the system by itself; the C library's own first choice
POOLED = 32 << 20  # the same, where the C library's own adaptation ends
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_MAPPED = 2  # in the word before a block of glibc's: it was taken from the system by itself


class MemoryLimitError(ValueError):
    """The limit is too low for what was asked; the message gives the figures.

    Example:
        >>> try:
        ...     bitrate_ext.map_picture(model, x, folder / "bits.npz", max_memory=1)
        ... except bitrate_ext.MemoryLimitError:
        ...     print("give it more")
        give it more
    """


@dataclass(frozen=True)
class Footprint:
    """Memory that a model takes beyond what it holds anyway, as a line through two measurements."""

    fixed: int  # bytes
    per_pixel: float  # bytes

    def bytes(self, pixels: int) -> int:
        """Return the bytes for an image of so many pixels."""
        return self.fixed + math.ceil(self.per_pixel * pixels)


def resident() -> int:
    """Return the bytes of this process that are in memory; 0 where the system does not say."""
    return _status("VmRSS")


def peak() -> int:
    """Return the most bytes that this process has had in memory; 0 where the system does not say."""
    return _status("VmHWM")


def address_space() -> int:
    """Return the bytes of addresses that this process has taken; 0 where the system does not say."""
    return _status("VmSize")


def available(device: torch.device) -> int | None:
    """Return the bytes that this process can still get on a device; None where nothing says.

    Of the CPU's memory the least of what the machine has left, what is left in each of its control groups, and what a
    limit on its address space leaves.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [_meminfo(), *_cgroup_room(Path("/")), _address_room()]
    return min((room for room in found if room is not None), default=None)


def limit(device: torch.device, asked: int | None) -> int:
    """Return the bytes that this process may hold on a device: what was asked for, or a share of what the machine has.

    Where addresses are limited, as by ``ulimit -v``, no more than a share of them: they are lost to fragments, too.

    Raises:
        MemoryLimitError: nobody said, and the system does not tell either.
    """
    if asked is not None:
        addresses = _address_room() if device.type == "cpu" else None
        return asked if addresses is None else min(asked, bytes_in_use(device) + int(SHARE * addresses))
    room = available(device)
    if room is None:
        raise MemoryLimitError("max_memory must be given: this system does not tell how much memory there is")
    return bytes_in_use(device) + int(SHARE * room)


def bytes_in_use(device: torch.device) -> int:
    """Return the bytes that this process holds on a device now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident()


def peak_increase(device: torch.device, run: Callable[[], object]) -> int:
    """Return the peak increase in bytes of the memory held on a device while `run` executes, workspaces included.

    Raises:
        MemoryLimitError: the system has no such measure.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with unpooled():
        before = reset_peak()
        run()
        return max(0, peak() - before)


class _HeapState(ctypes.Structure):
    """What glibc's ``mallinfo2`` returns."""

    _fields_ = (("_before", 8 * ctypes.c_size_t), ("free_bytes", ctypes.c_size_t), ("_after", ctypes.c_size_t))


@contextlib.contextmanager
def unpooled() -> Iterator[None]:
    """Have the C library take each block of ``UNPOOLED`` bytes or more from the system, and give it back when freed.

    Then resident memory is what is alive, in any process. Otherwise such blocks lie in the heap, in what others have
    freed there, and alignment leaves splinters between them: a block that was freed is too short for the next one of
    its size, which lies behind it, up to seven times (the length of glibc's lists of splinters). So what is free in the
    heap is taken first, and held, untouched. With other C libraries than glibc 2.33 and later: only ``trim``.
    """
    trim()
    libc = _libc()
    if not hasattr(libc, "mallinfo2"):
        yield
        return
    libc.mallinfo2.restype, libc.malloc.restype = _HeapState, ctypes.c_void_p
    libc.mallopt(_MMAP_THRESHOLD, UNPOOLED)
    held: list[ctypes.c_void_p] = []
    try:
        size = left = libc.mallinfo2().free_bytes  # asked for once: it looks at every free piece; 0 of other allocators
        while size >= UNPOOLED:
            block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
            if block.value and not _flags(block.value) & _MAPPED:
                held.append(block)
                left -= size
                size = min(size, left)
            else:  # no room of that size is left in the heap
                libc.free(block)
                size //= 2
        yield
    finally:
        for block in held:
            libc.free(block)
        libc.mallopt(_MMAP_THRESHOLD, POOLED)
        libc.mallopt(_TRIM_THRESHOLD, 2 * POOLED)


def _flags(block: int) -> int:
    """Return the word before a block of glibc's, whose lowest bits say of what kind it is."""
    return ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value


def trim() -> None:
    """Give freed memory back to the system, where the C library can: freed is not yet gone."""
    with contextlib.suppress(AttributeError):
        _libc().malloc_trim(0)


def _libc() -> Any:
    """Return the C library; None where a process cannot be asked for it, as on Windows."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None


def measure_footprint(device: torch.device, multiple: int, run: Callable[[int], object]) -> Footprint:
    """Measure what a model takes, in two small runs after one that warms up.

    Args:
        device: where it runs.
        multiple: of which the sides of its images must be, pixels.
        run: runs it on a square image of that side, made anew.

    Raises:
        MemoryLimitError: as ``peak_increase``.
    """
    unit = multiple * max(1, PROBE_SIDE // multiple)
    small, large = (unit * times for times in PROBES)
    run(small)
    low, high = (peak_increase(device, partial(run, side)) for side in (small, large))
    per_pixel = max((high - low) / (large**2 - small**2), high / large**2)  # rather too much than too little
    return Footprint(fixed=max(0, math.ceil(low - per_pixel * small**2)), per_pixel=per_pixel)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory could not be had."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("allocate memory", "ALLOC_FAILED"))
    )


def _status(key: str) -> int:
    """Return a line of ``/proc/self/status`` in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def reset_peak() -> int:
    """Let the peak of resident memory begin anew, and return the bytes that are resident."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise MemoryLimitError(
            f"a model's memory cannot be measured on this system ({error}); choose the tile's size with tile"
        ) from None
    return _status("VmRSS")


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _address_room() -> int | None:
    try:
        import resource
    except ImportError:  # not of Unix
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else max(0, soft - address_space())


def _cgroup_room(root: Path) -> list[int]:
    """Return the bytes that are left in each of the process's control groups and of those around them."""
    found = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in CGROUPS:
            continue
        base, most, used, droppable = CGROUPS[controllers]
        for folder in (root / f"{base}{group}".strip("/"), *(root / f"{base}{group}".strip("/")).parents):
            try:
                top, now = ((folder / file).read_text().strip() for file in (most, used))
                stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            except OSError:
                continue  # not mounted in here, or no memory controller at this level
            if top != "max":
                found.append(max(0, int(top) - int(now) + int(stat.get(droppable, 0))))
    return found
