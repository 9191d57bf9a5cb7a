"""Every workload by every opponent that can do it: first the right answer, then the time. `make bench` runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import opponents
import pytest
import torch
from conftest import clock, devices
from record import row_of
from torch import Tensor
from workloads import WORKLOADS, Buffers, Workload, exact_answer, make_buffers

from bitrate_ext.cli.bench import in_turn

pytestmark = pytest.mark.benchmark(timer=clock, disable_gc=True, warmup=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [
        pytest.param(workload, opponent, device, id=f"{name}-{opponent}-{device}")
        for device in devices(metafunc.config)
        for name, workload in WORKLOADS.items()
        for opponent in opponents.OPPONENTS
        if not opponents.why_not(opponent, workload, device)
    ]
    metafunc.parametrize(("workload", "opponent", "device"), cases)


_prepared: dict[tuple[Workload, torch.device], tuple[list[Buffers], list[Tensor]]] = {}


def forget_all_but(workload: Workload, device: torch.device) -> None:
    """Opponents of a workload follow each other; what the last workload needed is not needed any more."""
    for key in [key for key in _prepared if key != (workload, device)]:
        del _prepared[key]


def prepared(workload: Workload, device: torch.device) -> tuple[list[Buffers], list[Tensor]]:
    """Buffers and the exact answer for the first."""
    if (workload, device) not in _prepared:
        buffers = make_buffers(workload, device)
        _prepared[workload, device] = buffers, exact_answer(workload, buffers[0])
    return _prepared[workload, device]


@pytest.fixture(autouse=True, scope="module")
def tidy() -> Iterator[None]:
    yield
    _prepared.clear()


def test_workload(
    workload: Workload,
    opponent: str,
    device: torch.device,
    timed: Callable[[Callable[[], object]], list[float]],
    store: Callable[[str, dict[str, Any]], None],
    needs_memory: Callable[..., None],
) -> None:
    forget_all_but(workload, device)
    needs_memory(f"{workload.name}, {opponent}, {device.type}", workload, device)
    buffers, exact = prepared(workload, device)
    calls, answer = opponents.calls_of(opponent, workload, buffers)
    error = opponents.checked(workload, opponent, answer, exact)
    del answer
    store("rows", row_of(workload, opponent, device, timed(in_turn(calls)), error))
