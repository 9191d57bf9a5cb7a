"""What tests do with a GPU beyond tensors: launches, graphs, streams. On a CPU each does nothing or the plain thing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bitrate_ext.ops import dispatch

CLOCK = 2_000_000  # cycles in a millisecond, about
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextlib.contextmanager
def launch(
    device: torch.device, threads: int = 0, tile_rows: int = 0, tile_columns: int = 0, width: int = 0
) -> Iterator[None]:
    """Override the plan of launches meanwhile; zeros leave it the choice."""
    choose = torch.ops.bitrate_ext._choose_launch if device.type == "cuda" else (lambda *_: None)
    choose(threads, tile_rows, tile_columns, width)
    try:
        yield
    finally:
        choose(0, 0, 0, 0)


def flat_bands(p: Tensor, size: Sequence[int], projection: str = "bilinear", transposed: bool = False) -> list[Tensor]:
    """Return the bands of a whole canvas, as the kernels of the tensor's device take them."""
    geometry = dispatch.MapGeometry(size, (0, 0, *size), [projection], True, (0.0, 0.0))
    return dispatch.cached_bands([p], geometry, transposed=transposed).flat


def differing(a: Tensor, b: Tensor) -> Tensor:
    """Count the elements that are not the same bytes; stays on the device, so nothing waits for it."""
    kind = WHOLE[a.element_size()]
    return (a.detach().contiguous().view(kind) != b.detach().contiguous().view(kind)).sum()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def recorded(call: Callable[[], Sequence[Tensor]], device: torch.device) -> tuple[Sequence[Tensor], Callable[[], Any]]:
    """Record a CUDA graph of the call: its results, and what runs it again into them."""
    if device.type != "cuda":
        results = call()

        def replay() -> None:
            for result, again in zip(results, call(), strict=True):
                result.detach().copy_(again)

        return results, replay
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return results, graph.replay


@contextlib.contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Make PyTorch raise where it would wait for the device."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def on_a_side_stream(device: torch.device, busy: float) -> Iterator[None]:
    """Give work to a stream of its own that is busy for so many milliseconds first; what follows waits for it."""
    if device.type != "cuda":
        yield
        return
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(int(busy * CLOCK))
        yield
    torch.cuda.current_stream().wait_stream(side)


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 40


def allocated_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
