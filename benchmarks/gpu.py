"""Time the operator on an NVIDIA GPU, and what people would use instead; `make gpu-check` runs it.

All is measured in one process, so that ratios hold. Calls rotate through buffers that together are more than four times
the second-level cache, so none finds its data there. Each contender runs from Python, one call queued after another
(device "cuda" in the record), and as a CUDA graph of many calls, replayed ("cuda-graph": the GPU alone counts). Of a
contender's variants the fastest counts. Answers are checked before they are timed. report.py and compare.py read it.

    python benchmarks/gpu.py --record figures.json [--seconds 90] [--only Gaussian]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import opponents
import sources
import torch
from record import Record, Row, find, row_of
from report import table
from workloads import IMAGES, Buffers, Workload, exact_answer, make_buffers

Call = Callable[[], Any]
GRAPH_CALLS = 60  # at least, so that what a replay costs by itself does not count
TURN = 1e-3  # seconds that one timed stretch should take, far above the clock's grain
ROUNDS = (7, 60)  # fewest and most
SECONDS = 0.12  # of measuring, a contender
TRIALS = opponents.opponents_triton.TRIALS if opponents.opponents_triton else ()
ONE, MANY = Workload("1080p"), Workload("1080p", frames=64)
LAUNCHES = (*itertools.product((128, 256), (16, 32, 64, 128), (64, 128, 256, 512), (0,)), (0, 0, 0, 1), (128, 0, 0, 0))
BACKWARD_LAUNCHES = (*itertools.product((128, 256), (1, 2, 4, 8), (8, 16, 32), (0,)), (0, 0, 0, 1))


class Bench:
    """Time calls on a device. On a CPU no graph is recorded; that serves to try this file."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"
        self.cache = torch.cuda.get_device_properties(device).L2_cache_size if self.cuda else 0

    def warm(self) -> None:
        """Keep the GPU busy for a while: clocks rise with work."""
        matrix = torch.rand(2048, 2048, device=self.device)
        end = time.perf_counter() + 10 * SECONDS
        while time.perf_counter() < end:
            matrix = (matrix @ matrix).clamp_(0, 1)
            if self.cuda:
                torch.cuda.synchronize()

    def sets(self, workload: Workload) -> int:
        """Return how many buffers take turns, so that none is in the cache."""
        return 2 + 4 * self.cache // workload.bytes

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
        """Record one graph of all calls, over and over until there are enough; its replay, and how many there are."""
        many = list(calls) * math.ceil(GRAPH_CALLS / len(calls))
        if not self.cuda:
            return (lambda: run_all(many)), len(many)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run_all(calls)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run_all(many)
        return graph.replay, len(many)

    def measure(self, calls: Sequence[Call], graph: bool, share: float = 1.0) -> list[float]:
        """Return seconds a call, round by round, measured for a share of the usual time."""
        run_all(calls)
        run, count = self.recorded(calls) if graph else ((lambda: run_all(calls)), len(calls))
        run()
        repeats = max(1, math.ceil(TURN / max(self.timed(run, 1), 1e-7)))
        took: list[float] = []
        end = time.perf_counter() + SECONDS * share
        while len(took) < ROUNDS[0] or (len(took) < ROUNDS[1] and time.perf_counter() < end):
            took.append(self.timed(run, repeats) / repeats / count)
        return took


def run_all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def copy_by_kernel(workload: Workload, buffers: Buffers) -> Call:
    """Copy through the multiprocessors. Of ones: zeros can move faster than data does."""
    source = torch.ones(workload.bytes // 8, device=buffers.out.device)
    target = torch.ones_like(source)
    return lambda: torch.mul(source, 1.0, out=target)


def empty_kernel(workload: Workload, buffers: Buffers) -> Call:
    return lambda: torch.cuda._sleep(0) if buffers.out.is_cuda else None


CONTENDERS: dict[str, dict[str, Callable[[Workload, Buffers], Call]]] = {  # by contender and variant
    "copy": {"copy_": opponents.copy, "kernel": copy_by_kernel},
    "fused": {"": opponents.fused},
    "recipe": {"": opponents.by_recipe},
    "compiled recipe": {  # without graphs of its own, for it is recorded into one here
        mode or "default": opponents.compiled(mode) for mode in (None, "max-autotune-no-cudagraphs")
    },
    "Triton": {str(blocks): partial(opponents.triton_pair, blocks=blocks) for blocks in TRIALS},
    "empty call": {"": empty_kernel},
}


class Kind(NamedTuple):
    """What workloads of a kind share."""

    contenders: dict[str, dict[str, Callable[[Any, Buffers], Call]]]
    buffers: Callable[[Any, torch.device, int], list[Buffers]]
    exact: Callable[[Any, Buffers], list[torch.Tensor]]
    checked: Callable[[Any, str, Any, list[torch.Tensor]], float | None]
    why_not: Callable[[str, Any, torch.device], str]
    kernel: Callable[[Any, Buffers], Call]  # of the backward direction, for graphs: walks of autograd are not recorded


MAPS = Kind(CONTENDERS, make_buffers, exact_answer, opponents.checked, opponents.why_not, opponents.kernel)
SOURCES = Kind(
    sources.CONTENDERS, sources.make_buffers, sources.exact_answer, sources.checked, sources.why_not, sources.kernel
)


@contextlib.contextmanager
def told(record: Record, what: str, ours: bool) -> Iterator[None]:
    """Put on record what goes wrong, and go on: a failure if the fault is ours, else it is left out."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        record.leave_out(what, "the GPU has too little memory")
    except Exception as error:
        said = f"{type(error).__name__}: {str(error)[:300]}"
        if ours:
            record.content["failed"][what] = said
        record.leave_out(what, said)


def contend(bench: Bench, record: Record, workload: Any, contenders: Sequence[str], kind: Kind = MAPS) -> None:
    """Time each contender in both ways, and put the rows on record."""
    buffers = kind.buffers(workload, bench.device, bench.sets(workload))
    exact = kind.exact(workload, buffers[0])
    for graph, name in itertools.product((False, True), contenders):
        because = kind.why_not(name, workload, bench.device) if name == "Triton" else ""
        if because:
            record.leave_out(f"{workload.name}, {name}", because)
            continue
        tried = kind.contenders[name]
        if graph and workload.direction == "backward" and name != "copy":
            tried = {"kernel": kind.kernel} if name == "fused" else {}
        found: dict[str, list[float]] = {}
        errors: dict[str, float | None] = {}
        for variant, make in tried.items():
            with told(record, f"{workload.name}, {' '.join([name, variant]).strip()}", ours=name == "fused"):
                calls = [make(workload, one) for one in buffers]
                errors[variant] = kind.checked(workload, name, calls[0](), exact)
                found[variant] = bench.measure(calls, graph, 1 / len(tried))
        if found:
            best = min(found, key=lambda variant: statistics.median(found[variant]))
            row = row_of(workload, name, bench.device, found[best], errors[best])
            row |= {"device": bench.device.type + "-graph" * graph, "sets": len(buffers), "variant": best}
            row["variants"] = {variant: statistics.median(took) for variant, took in found.items()}
            record.add("rows", row)


def sweep(bench: Bench, record: Record, image: str) -> None:
    """Time launches that the plan might have chosen, the fastest first: how to tune it."""
    for direction, make, launches in (
        ("forward", opponents.fused, LAUNCHES),
        ("backward", opponents.kernel, BACKWARD_LAUNCHES),
    ):
        workload = Workload(image, direction=direction)
        calls = [make(workload, one) for one in make_buffers(workload, bench.device, bench.sets(workload))]
        rows = [launched(bench, calls, launch) for launch in ((0, 0, 0, 0), *launches)]
        rows.sort(key=lambda row: row.get("median", math.inf))
        record.content["sweep"].append({"workload": workload.name, "launches": rows})


def launched(bench: Bench, calls: Sequence[Call], launch: tuple[int, ...]) -> Row:
    row: Row = dict(zip(("threads", "tile_rows", "tile_columns", "width"), launch, strict=True))
    choose = torch.ops.bitrate_ext._choose_launch if bench.cuda else (lambda *_: None)
    try:
        choose(*launch)
        row["median"] = statistics.median(bench.measure(calls, graph=True, share=0.1))
    except (RuntimeError, ValueError) as error:  # more shared memory than there is
        row["refused"] = str(error).splitlines()[0][-150:]
    finally:
        choose(0, 0, 0, 0)
    return row


def parts(bench: Bench, record: Record) -> Iterator[tuple[str, Call]]:
    """Name what there is to measure, the most wanted first."""

    def part(workload: Any, *contenders: str, kind: Kind = MAPS) -> tuple[str, Call]:
        return f"{workload.name}: {', '.join(contenders)}", partial(contend, bench, record, workload, contenders, kind)

    for image in IMAGES:
        yield part(Workload(image), "copy", "fused", "recipe", "Triton", *["empty call"] * (image == "kodak"))
    for image in IMAGES:
        yield part(Workload(image, direction="backward"), "copy", "fused", "recipe")
    for one in sources.WORKLOADS:
        triton = ["Triton"] * (one.family == "Gaussian" and one.direction == "forward")
        yield part(one, "copy", "fused", "CompressAI", *triton, kind=SOURCES)
    yield part(MANY, "fused")
    for image in ("4k", "kodak"):
        yield part(Workload(image), "compiled recipe")
    for channels, dtype in ((192, "bfloat16"), (320, "float32"), (320, "bfloat16")):
        for image in IMAGES:
            yield part(Workload(image, channels, dtype=dtype), "copy", "fused", "recipe", "Triton")
    for image in IMAGES:
        yield f"launches {image}", partial(sweep, bench, record, image)
    for image in IMAGES:
        yield part(Workload(image, direction="backward", dtype="bfloat16"), "copy", "fused", "recipe")
    for one in sources.WORKLOADS:
        yield part(one, "compiled CompressAI", kind=SOURCES)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, required=True, help="where the figures go, after each row anew")
    parser.add_argument("--seconds", type=float, default=120, help="no part is begun after so many")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--only", default="", help="parts whose names have this in them, such as Gaussian or backward")
    chosen = parser.parse_args(arguments)
    end = time.perf_counter() + chosen.seconds
    bench, record = Bench(chosen.device), Record(chosen.record)
    record.content |= {"cache_bytes": bench.cache, "sweep": [], "failed": {}}
    bench.warm()
    for name, run in parts(bench, record):
        if chosen.only not in name:
            continue
        if time.perf_counter() > end:
            record.leave_out(name, "no time was left")
            continue
        with told(record, name, ours=True):
            run()
        if bench.cuda:
            torch.cuda.empty_cache()
    one, many = (find(record.content["rows"], w.name, "fused", f"{bench.device.type}-graph") for w in (ONE, MANY))
    if one and many:  # the time of 64 calls over that of one call for 64 frames
        record.content["linear"] = 64 * one["median"] / many["median"]
    record.finish()
    print("\n".join(table(record.content)))
    return 1 if record.content["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
