"""Pages of memory: large ones for new results, and those mapped from files, which stay resident until given back."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

from torch import Tensor

LARGE = 8 << 20  # bytes of a new tensor from which large pages are asked for: less most often comes from memory in use
PARTS = 8  # channels, or rows of bits, that are read before their pages are given back

Span = tuple[int, int]  # addresses: the first byte, and one past the last


def on_large_pages(new: Tensor) -> Tensor:
    """Ask the system to back a new tensor with large pages, and return it.

    The first write to each small page costs a fault; for a map of 8K these take longer than all else. Where the system
    has no large pages to give, or the memory was used before, nothing changes.
    """
    size = new.nbytes
    if size >= LARGE and new.device.type == "cpu" and sys.platform.startswith("linux"):
        first = -(-new.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (new.data_ptr() + size) // mmap.PAGESIZE * mmap.PAGESIZE
        _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_HUGEPAGE)
    return new


def shared_mapping(tensor: Tensor) -> Span | None:
    """Return the pages of a shared file mapping that hold the tensor's storage; None for other memory.

    Only of shared mappings can pages be dropped without loss: they are read from the file again, and what was written
    to them is the file's. Those of ``numpy.memmap`` are, but for its mode ``"c"``.
    """
    if not sys.platform.startswith("linux") or tensor.device.type != "cpu":
        return None
    storage = tensor.untyped_storage()
    first = storage.data_ptr()
    with open("/proc/self/maps") as lines:
        for line in lines:
            span, access, _, _, inode, *_ = line.split(maxsplit=5)
            low, high = (int(end, 16) for end in span.split("-"))
            if low <= first < high:
                whole = first + storage.nbytes() <= high
                return (low, high) if access[3] == "s" and inode != "0" and whole else None
    return None


def give_back(span: Span) -> None:
    """Drop the resident pages of a shared mapping; the next access reads them anew, most often from the page cache."""
    low, high = span
    _libc().madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), mmap.MADV_DONTNEED)


def read_rows(tensor: Tensor, span: Span, first: int, last: int, buffer: Tensor) -> Tensor:
    """Copy rows of a mapped tensor ``[N, C, h, w]`` or ``[N, h, w]`` to the front of a flat buffer, in small parts.

    One access can make 2 MiB of a file resident, and rows of all channels lie all over it.
    """
    wanted = tensor[..., first:last, :]
    rows = buffer[: wanted.numel()].view(wanted.shape)
    for start in range(0, wanted.shape[1], PARTS):
        part = slice(start, start + PARTS)
        rows[:, part] = wanted[:, part]
        give_back(span)
    return rows


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
