"""How much memory there is, and how much a model takes for a picture: measured, never guessed."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SHARE = 0.8  # of what is available, that is taken where nobody has given a limit
UNITS = {"": 1} | {f"{letter}i": 1 << 10 * (n + 1) for n, letter in enumerate("kmgt")}
UNITS |= {letter: 1000 ** (n + 1) for n, letter in enumerate("kmgt")}
CGROUPS = {  # by what a line of /proc/self/cgroup names: folder, limit, use, and the part of it that can be dropped
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),  # version 2
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
PROBES = (
    2,
    4,
)  # sides of the pictures that a model's memory is measured with: multiples of `PROBE_SIDE` or of its stride
PROBE_SIDE = 128  # pixels


class MemoryLimitError(ValueError):
    """The limit is too low for what was asked; the message gives the figures."""


@dataclass(frozen=True)
class Footprint:
    """Memory that a model takes beyond what it holds anyway, as a line through two measurements."""

    fixed: int  # bytes
    per_pixel: float  # bytes

    def bytes(self, pixels: int) -> int:
        """For a picture of so many pixels."""
        return self.fixed + math.ceil(self.per_pixel * pixels)


def parse_bytes(text: str) -> int:
    """A number of bytes in words: ``"4GiB"``, ``"500 MB"``, ``"1.5G"``, ``"2147483648"``.

    Raises:
        ValueError: something else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"expected a number of bytes such as 4GiB, 500MB or 2147483648, got {text!r}")
    return int(float(found[1]) * UNITS[found[2] or ""])


def format_bytes(count: float) -> str:
    """For people, in whole MiB or tenths of a GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{math.ceil(count / 2**20)} MiB"


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not say."""
    return _status("VmRSS")


def peak() -> int:
    """The most that this process has had in memory, bytes; 0 where the system does not say."""
    return _status("VmHWM")


def address_space() -> int:
    """Bytes of addresses that this process has taken; 0 where the system does not say."""
    return _status("VmSize")


def available(device: torch.device) -> int | None:
    """Bytes that this process can still get on a device; None where nothing says.

    Of the CPU's memory the least of what the machine has left, what is left in each of its control groups, and what a
    limit on its address space leaves.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [_meminfo(), *_cgroup_room(Path("/")), _address_room()]
    return min((room for room in found if room is not None), default=None)


def limit(device: torch.device, asked: int | None) -> int:
    """Bytes that this process may hold on a device: what was asked for, or a share of what the machine has.

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
    """Bytes that this process holds on a device now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident()


def peak_increase(device: torch.device, run: Callable[[], object]) -> int:
    """By how many bytes the memory held on a device rose at most while something ran, workspaces of kernels included.

    Raises:
        MemoryLimitError: the system has no such measure.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    trim()
    before = reset_peak()
    run()
    return max(0, peak() - before)


def trim() -> None:
    """Give freed memory back to the system, where the C library can: freed is not yet gone, and would hide a rise."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def measure_footprint(device: torch.device, multiple: int, run: Callable[[int], object]) -> Footprint:
    """What a model takes, from two small runs after one that warms up.

    Args:
        device: where it runs.
        multiple: of which the sides of its pictures must be, pixels.
        run: runs it on a square picture of that side, made anew.

    Raises:
        MemoryLimitError: as for ``rise``.
    """
    unit = multiple * max(1, PROBE_SIDE // multiple)
    small, large = (unit * times for times in PROBES)
    run(small)
    low, high = (peak_increase(device, lambda side=side: run(side)) for side in (small, large))  # type: ignore[misc]
    # The steeper of the two lines: small runs fit into caches of the allocator.
    per_pixel = max((high - low) / (large**2 - small**2), high / large**2)
    return Footprint(fixed=max(0, math.ceil(low - per_pixel * small**2)), per_pixel=per_pixel)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def _status(key: str) -> int:
    """A line of ``/proc/self/status``, in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def reset_peak() -> int:
    """Let the peak of resident memory begin anew; returns what is resident."""
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
    """What is left in the process's control groups and in those around them."""
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
