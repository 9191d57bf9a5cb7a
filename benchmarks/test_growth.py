"""How time and memory grow with the image and with the number of frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import opponents
import pytest
import torch
from conftest import clock, devices
from record import row_of
from workloads import GROWING, Workload, make_buffers

import bitrate_ext
from bitrate_ext.cli.bench import in_turn

pytestmark = pytest.mark.benchmark(timer=clock, disable_gc=True, warmup=False)


def extra_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at most that a call takes beyond what there was; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return None
    try:
        forget.write_text("5")  # the peak counts from now
    except OSError:
        return None
    before = resident(status, "VmRSS")
    call()
    return max(0, resident(status, "VmHWM") - before)


def resident(status: Path, field: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("device", devices(metafunc.config), ids=str)
    metafunc.parametrize("workload", GROWING, ids=lambda workload: workload.name)
    metafunc.parametrize("opponent", ["copy", "fused"])


def test_growth(
    workload: Workload,
    opponent: str,
    device: torch.device,
    timed: Callable[[Callable[[], object]], list[float]],
    store: Callable[[str, dict[str, Any]], None],
    needs_memory: Callable[..., None],
) -> None:
    needs_memory(f"growth, {workload.name}, {opponent}, {device.type}", workload, device)
    buffers = make_buffers(workload, device)
    calls, _ = opponents.calls_of(opponent, workload, buffers)
    error, more = None, {}
    if opponent == "fused":  # the answers are checked with the workloads; here, that no bit is lost
        bits = float(bitrate_ext.latent_bits(buffers[0].likelihoods["y"]).double().sum())
        error = abs(float(buffers[0].out.double().sum()) - bits) / bits
        assert error <= 1e-5, f"the map's sum is wrong by {error:.1e}; it was not timed"
        more["extra_memory"] = extra_memory(calls[0], device)
    store("growth", {**row_of(workload, opponent, device, timed(in_turn(calls)), error), **more})
