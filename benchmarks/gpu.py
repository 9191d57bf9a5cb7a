"""Times on an NVIDIA GPU of the operator and of what people would use instead; `make gpu-check` runs it.

Everything but torch.compile is measured in one process, so that ratios hold. Calls rotate through buffers that together
are more than four times the second-level cache, so none finds its data there. A contender runs as "graph" (a CUDA graph
of many calls, replayed: the GPU alone counts) and as "call" (from Python, queued one after another). Answers are
checked before they are timed.

    python benchmarks/gpu.py --json figures.json [--seconds 90] [--compiled default]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bars import table
from torch import Tensor
from workloads import IMAGES

import bitrate_ext
from bitrate_ext.cli.bench import STRIDE, recipe
from bitrate_ext.ops import autograd

try:
    import opponents_triton
except Exception as error:  # no Triton, or none for this GPU
    opponents_triton = None  # type: ignore[assignment]
    TRITON_ABSENT = f"{type(error).__name__}: {error}"

Call = Callable[[], Any]
Row = dict[str, Any]
GRAPH_CALLS = 60  # at least, so that what a replay costs by itself does not count
TURN = 1e-3  # seconds that one timed stretch should take, far above the clock's grain
ROUNDS = (7, 60)  # fewest and most
SECONDS = 0.12  # of measuring, a contender
MODES = ("default", "max-autotune-no-cudagraphs")  # it is recorded into a graph here, as all contenders are
LAUNCHES = (*itertools.product((128, 256), (16, 32, 64, 128), (64, 128, 256, 512), (0,)), (0, 0, 0, 1), (128, 0, 0, 0))
BACKWARD_LAUNCHES = (*itertools.product((128, 256), (1, 2, 4, 8), (8, 16, 32), (0,)), (0, 0, 0, 1))


def run_all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


class Bench:
    """A device, and what is needed to time calls on it. On a CPU nothing is recorded; that serves to try this file."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self.end = time.perf_counter() + seconds
        self.cuda = device.type == "cuda"
        self.cache = torch.cuda.get_device_properties(device).L2_cache_size if self.cuda else 0
        self.seconds = SECONDS

    def warm(self) -> None:
        """Clocks rise with work."""
        matrix = torch.rand(2048, 2048, device=self.device)
        end = time.perf_counter() + 10 * self.seconds
        while time.perf_counter() < end:
            matrix = (matrix @ matrix).clamp_(0, 1)
            if self.cuda:
                torch.cuda.synchronize()

    def sets(self, size: int) -> int:
        """How many sets of buffers of so many bytes are more than four times the cache."""
        return 2 + 4 * self.cache // size

    def timed(self, run: Call, repeats: int) -> float:
        if not self.cuda:
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def recorded(self, calls: Sequence[Call]) -> tuple[Call, int]:
        """One graph of all calls, over and over until there are enough; and how many there are."""
        if not self.cuda:
            return (lambda: run_all(calls)), len(calls)
        many = list(calls) * math.ceil(GRAPH_CALLS / len(calls))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run_all(calls)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run_all(many)
        return graph.replay, len(many)

    def measure(self, calls: Sequence[Call], graph: bool, share: float = 1.0) -> Row:
        """Median seconds a call, and the fastest and slowest round; for a share of the usual time."""
        run_all(calls)
        run, count = self.recorded(calls) if graph else ((lambda: run_all(calls)), len(calls))
        run()
        repeats = max(1, math.ceil(TURN / max(self.timed(run, 1), 1e-7)))
        took: list[float] = []
        end = time.perf_counter() + self.seconds * share
        while len(took) < ROUNDS[0] or (len(took) < ROUNDS[1] and time.perf_counter() < end):
            took.append(self.timed(run, repeats) / repeats / count)
        return {"median": statistics.median(took), "low": min(took), "high": max(took), "rounds": len(took)}

    def both(self, calls: Sequence[Call]) -> Row:
        return {"graph": self.measure(calls, graph=True), "call": self.measure(calls, graph=False)}


def likelihoods(bench: Bench, image: str, channels: int, dtype: torch.dtype, batch: int = 1) -> Tensor:
    """``[N, C, h, w]`` in (0, 1]: most symbols nearly certain, some costly, as codecs give them."""
    height, width = IMAGES[image]
    generator = torch.Generator(bench.device).manual_seed(1)
    shape = (batch, channels, height // STRIDE, width // STRIDE)
    return torch.rand(shape, device=bench.device, generator=generator).pow_(0.3).clamp_(min=1e-3).to(dtype)


def new_map(p: Tensor) -> Tensor:
    return torch.empty(p.shape[0], 1, p.shape[2] * STRIDE, p.shape[3] * STRIDE, device=p.device)


def assert_right(found: Tensor, p: Tensor, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), recipe(p.double()), rtol=rtol, atol=1e-7)


def copies(bench: Bench, size: int) -> Row:
    """A copy that reads and writes so many bytes together, in three ways; the fastest is the measure."""
    half = size // 8 * 4
    pairs = [
        [torch.ones(half // 4, device=bench.device) for _ in range(2)] for _ in range(bench.sets(size))
    ]  # not zeros: they can move faster than data does
    plain = [lambda a=a, b=b: b.copy_(a) for a, b in pairs]
    kernel = [lambda a=a, b=b: torch.mul(a, 1.0, out=b) for a, b in pairs]
    return {**bench.both(plain), "kernel": bench.measure(kernel, graph=True)}


def forward(bench: Bench, image: str, channels: int, dtype: torch.dtype, batch: int = 1) -> Row:
    first = likelihoods(bench, image, channels, dtype, batch)
    size = first.nbytes + new_map(first).nbytes
    buffers = [(first.clone(), new_map(first)) for _ in range(bench.sets(size))]
    fused = [lambda p=p, out=out: bitrate_ext.bitrate_map(p, scale_factor=STRIDE, out=out) for p, out in buffers]
    assert_right(fused[0](), buffers[0][0])
    row: Row = {"image": image, "channels": channels, "dtype": str(dtype).split(".")[-1], "batch": batch, "bytes": size}
    row["times"] = {"fused": bench.both(fused)}
    if batch > 1:
        return row
    row["times"]["recipe"] = bench.both([lambda p=p: recipe(p) for p, _ in buffers])
    row["times"]["triton"], row["triton"] = triton_pair(bench, buffers)
    del buffers, fused
    row["times"]["copy"] = copies(bench, size)
    return row


def triton_pair(bench: Bench, buffers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Row, str]:
    """Its best blocks' time; only right answers count."""
    if opponents_triton is None:
        return {}, TRITON_ABSENT
    if not bench.cuda:
        return {}, "there is no GPU"
    scratch = [opponents_triton.scratch(p) for p, _ in buffers]
    best: tuple[float, Row, str] | None = None
    said = ""
    for blocks in opponents_triton.TRIALS:
        calls = [
            lambda p=p, out=out, bits=bits, blocks=blocks: opponents_triton.by_triton(p, out, bits, STRIDE, blocks)
            for (p, out), bits in zip(buffers, scratch, strict=True)
        ]
        try:
            assert_right(calls[0](), buffers[0][0])
            found = bench.measure(calls, graph=True, share=0.25)
        except Exception as error:  # a contender that fails must not end the others
            said = f"{blocks}: {type(error).__name__}: {str(error)[:200]}"
            continue
        if best is None or found["median"] < best[0]:
            best = (found["median"], found, str(blocks))
    return ({"graph": best[1]}, best[2]) if best else ({}, said)


def project_backward_calls(bench: Bench, image: str, dtype: torch.dtype, channels: int = 192) -> tuple[list[Call], int]:
    """The backward kernel alone, into given gradients; and the bytes of one call."""
    p = likelihoods(bench, image, channels, dtype)
    canvas = (p.shape[2] * STRIDE, p.shape[3] * STRIDE)
    placement = autograd.MapGeometry(canvas, (0, 0, *canvas), ["bilinear"], True, (0.0, 0.0))
    bands = autograd._lookup([p], placement, transposed=True)[1]
    size = 2 * p.nbytes + new_map(p).nbytes
    calls: list[Call] = []
    for _ in range(bench.sets(size)):
        grad, values, gradient = torch.rand_like(new_map(p)), p.clone(), torch.empty_like(p)
        calls.append(
            lambda grad=grad, values=values, gradient=gradient: torch.ops.bitrate_ext._project_backward(
                grad, values, bands, gradient
            )
        )
    return calls, size


def backward(bench: Bench, image: str, dtype: torch.dtype) -> Row:
    channels = 192
    calls, size = project_backward_calls(bench, image, dtype, channels)
    times: Row = {"fused": {"graph": bench.measure(calls, graph=True)}}
    del calls
    p = likelihoods(bench, image, channels, dtype)
    walks: dict[str, list[Call]] = {"fused": [], "recipe": []}
    for _ in range(bench.sets(size)):
        leaf = p.clone().requires_grad_()
        for name, made in (("fused", bitrate_ext.bitrate_map(leaf, scale_factor=STRIDE)), ("recipe", recipe(leaf))):
            grad = torch.rand_like(made)
            walks[name].append(
                lambda made=made, leaf=leaf, grad=grad: torch.autograd.grad(made, leaf, grad, retain_graph=True)[0]
            )
    exact = p.double().requires_grad_()
    made, ones = recipe(exact), torch.ones(new_map(p).shape, device=p.device)
    (expected,) = torch.autograd.grad(made, exact, ones.double())
    leaf = p.clone().requires_grad_()
    (found,) = torch.autograd.grad(bitrate_ext.bitrate_map(leaf, scale_factor=STRIDE), leaf, ones)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=0)
    del exact, made, expected
    for name, walk in walks.items():
        times.setdefault(name, {})["call"] = bench.measure(walk, graph=False)
    return {"image": image, "channels": channels, "dtype": str(dtype).split(".")[-1], "bytes": size, "times": times}


def frames(bench: Bench, one: Row, count: int) -> Row:
    """One call for all frames against a call a frame, which has been measured."""
    many = forward(bench, one["image"], 192, torch.float32, batch=count)
    linear = count * one["times"]["fused"]["graph"]["median"] / many["times"]["fused"]["graph"]["median"]
    return {"image": one["image"], "frames": count, "times": many["times"], "linear": linear}


def sweep(bench: Bench, image: str) -> Row:
    """Times of launches that the plan might have chosen, the fastest first: how to tune it."""
    first = likelihoods(bench, image, 192, torch.float32)
    buffers = [(first.clone(), new_map(first)) for _ in range(bench.sets(first.nbytes + new_map(first).nbytes))]
    ours = [lambda p=p, out=out: bitrate_ext.bitrate_map(p, scale_factor=STRIDE, out=out) for p, out in buffers]
    found = {"image": image, "forward": tried(bench, ours, LAUNCHES)}
    del buffers, ours
    calls, _ = project_backward_calls(bench, image, torch.float32)
    found["backward"] = tried(bench, calls, BACKWARD_LAUNCHES)
    return found


def tried(bench: Bench, calls: Sequence[Call], launches: Sequence[tuple[int, ...]]) -> list[Row]:
    rows = []
    for launch in ((0, 0, 0, 0), *launches):
        threads, tile_rows, tile_columns, width = launch
        row: Row = {"threads": threads, "tile_rows": tile_rows, "tile_columns": tile_columns, "width": width}
        try:
            if bench.cuda:
                torch.ops.bitrate_ext._choose_launch(threads, tile_rows, tile_columns, width)
            row["median"] = bench.measure(calls, graph=True, share=0.1)["median"]
        except (RuntimeError, ValueError) as error:  # more shared memory than there is
            row["refused"] = str(error).splitlines()[0][-150:]
        finally:
            if bench.cuda:
                torch.ops.bitrate_ext._choose_launch(0, 0, 0, 0)
        rows.append(row)
    return sorted(rows, key=lambda row: row.get("median", math.inf))


def compiled(bench: Bench, image: str, mode: str) -> Row:
    """torch.compile of the recipe beside the operator, in this process."""
    first = likelihoods(bench, image, 192, torch.float32)
    size = first.nbytes + new_map(first).nbytes
    buffers = [(first.clone(), new_map(first)) for _ in range(bench.sets(size))]
    program = torch.compile(recipe, dynamic=False, mode=None if mode == "default" else mode)
    assert_right(program(first), first)
    fused = [lambda p=p, out=out: bitrate_ext.bitrate_map(p, scale_factor=STRIDE, out=out) for p, out in buffers]
    times = {"fused": bench.both(fused), "compiled": bench.both([lambda p=p: program(p) for p, _ in buffers])}
    return {"image": image, "mode": mode, "channels": 192, "dtype": "float32", "bytes": size, "times": times}


def parts(bench: Bench, figures: Row, mode: str | None) -> Iterator[tuple[str, Callable[[], None]]]:
    """What there is to measure, the most wanted first; each part puts its figures in its place."""
    images = list(IMAGES)
    large_first = sorted(images, key=lambda image: -IMAGES[image][0])
    if mode is not None:
        for image in (large_first[1 % len(images)], images[0]):  # 4K and Kodak
            yield f"compiled {image}", lambda image=image: figures["compiled"].append(compiled(bench, image, mode))
        return
    empty = (lambda: torch.cuda._sleep(0)) if bench.cuda else (lambda: None)
    yield "empty kernel", lambda: figures.update(empty=bench.measure([empty] * GRAPH_CALLS, graph=True))

    def add(part: str, row: Callable[[], Row]) -> Callable[[], None]:
        return lambda: figures[part].append(row())

    for image in images:
        yield f"forward {image}", add("forward", lambda image=image: forward(bench, image, 192, torch.float32))
    for image in images:
        yield f"backward {image}", add("backward", lambda image=image: backward(bench, image, torch.float32))
    yield "frames", lambda: figures.update(frames=frames(bench, figures["forward"][1 % len(images)], 64))
    for channels, dtype in ((192, torch.bfloat16), (320, torch.float32), (320, torch.bfloat16)):
        for image in images:
            yield (
                f"forward {image} C={channels} {dtype}",
                add("forward", lambda image=image, c=channels, d=dtype: forward(bench, image, c, d)),
            )
    for image in images:
        yield f"launches {image}", add("sweep", lambda image=image: sweep(bench, image))
    for image in images:
        yield f"backward {image} bfloat16", add("backward", lambda image=image: backward(bench, image, torch.bfloat16))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go, after each part anew")
    parser.add_argument("--seconds", type=float, default=120, help="no part is begun after so many")
    parser.add_argument("--compiled", choices=MODES, help="torch.compile in this mode, and nothing else")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    chosen = parser.parse_args(arguments)
    bench = Bench(chosen.device, chosen.seconds)
    bench.warm()
    names = ("compiled",) if chosen.compiled else ("forward", "backward", "sweep")
    figures: Row = {"cache_bytes": bench.cache, **{name: [] for name in names}, "left_out": [], "failed": []}
    for name, run in parts(bench, figures, chosen.compiled):
        if time.perf_counter() > bench.end:
            figures["left_out"].append(name)
            continue
        try:
            run()
        except Exception as error:  # the others may do
            figures["failed"].append(f"{name}: {type(error).__name__}: {str(error)[:500]}")
        if bench.cuda:
            torch.cuda.empty_cache()
        partial = chosen.json.with_suffix(".partial")
        partial.write_text(json.dumps(figures))
        partial.replace(chosen.json)
    chosen.json.write_text(json.dumps(figures))
    print("\n".join([*table(figures), *(f"failed: {what}" for what in figures["failed"])]))
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
