"""Where benchmarks run and where their record goes."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from record import Record, free_memory
from workloads import Workload

SECONDS = 0.5  # of measuring, each row
SHORT = 1e-3  # seconds that a round should last, so that the clock does not count
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
ROUNDS = (5, 400)  # fewest and most
Check = Callable[[str, Workload, torch.device], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="all", choices=["cpu", "cuda", "all"], help="all: the CPU, and a GPU if any")
    parser.addoption("--record", type=Path, default=None, help="file for the record of the run (.json)")
    parser.addoption("--instruction-set", default=None, choices=INSTRUCTION_SETS, help="of the CPU; the best, else")
    parser.addoption("--memory", type=float, default=None, help="GiB that a workload may take; what is free, else")


RECORD: pytest.StashKey[Record | None] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch finds no CUDA device; nothing was timed")
    path = config.getoption("--record")
    config.stash[RECORD] = record = Record(path) if path else None
    wanted = config.getoption("--instruction-set")
    if wanted:  # after the record, which asks for the best
        index = INSTRUCTION_SETS.index(wanted)
        if torch.ops.bitrate_ext._choose_instruction_set(-1) <= index:
            raise pytest.UsageError(f"--instruction-set {wanted}: this processor does not have it; nothing was timed")
        torch.ops.bitrate_ext._choose_instruction_set(index)
        if record:
            record.content["machine"]["instruction_set"] = f"{wanted}, as asked for"


def devices(config: pytest.Config) -> list[torch.device]:
    wanted = config.getoption("--device")
    names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])] if wanted == "all" else [wanted]
    return [torch.device(name) for name in names]


def clock() -> float:
    """Read at the two ends of a round: what a GPU was given has then been done. Never read inside."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Record | None:
    return request.config.stash[RECORD]


def give_memory_back() -> None:
    """The C library keeps what was freed; a workload that would need it is not too large."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


@pytest.fixture
def needs_memory(
    request: pytest.FixtureRequest, record: Record | None
) -> Callable[[str, Workload, torch.device], None]:
    """Skips a workload that is too large for the machine, and says so in the record."""

    def check(name: str, workload: Workload, device: torch.device) -> None:
        give_memory_back()
        limit = request.config.getoption("--memory")
        if limit is not None:
            free = int(limit * 2**30)
        else:
            free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else free_memory()
        if workload.memory > free:
            why = f"needs {workload.memory / 2**30:.3g} GiB of memory, {free / 2**30:.3g} are free"
            if record:
                record.leave_out(name, why)
            pytest.skip(f"{name}: {why}")

    return check


@pytest.fixture
def timed(benchmark: Any) -> Callable[[Callable[[], object]], list[float]]:
    """Seconds a call, round by round."""

    def run(call: Callable[[], object]) -> list[float]:
        start = clock()
        call()
        first = max(clock() - start, 1e-7)
        iterations = max(1, round(SHORT / first))
        fewest, most = ROUNDS
        rounds = min(most, max(fewest, int(SECONDS / (first * iterations))))
        benchmark.pedantic(call, rounds=rounds, iterations=iterations, warmup_rounds=1)
        return list(benchmark.stats.stats.data)

    return run


@pytest.fixture
def store(benchmark: Any, record: Record | None) -> Callable[[str, dict[str, Any]], None]:
    """Puts a time on record."""

    def put(part: str, row: dict[str, Any]) -> None:
        benchmark.group = f"{row['workload']} on {row['device']}"
        benchmark.extra_info.update({key: row[key] for key in ("bytes", "gbps")})
        if record:
            record.add(part, row)

    return put


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    record = session.config.stash[RECORD]
    if record and exitstatus == pytest.ExitCode.OK:
        record.finish()
