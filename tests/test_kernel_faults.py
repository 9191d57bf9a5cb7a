"""Faults planted in the GPU kernels' bodies and plan: the check that each names must fail on an executor with it.

test_executor.py runs the same checks without a fault, where they pass.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import executing
import kernel_addresses
import kernel_checks
import pytest
from faults import Fault, kernels_backward, kernels_forward, kernels_plan, planted

FAULTS = [*kernels_forward.FAULTS, *kernels_backward.FAULTS, *kernels_plan.FAULTS]
CHECKS = executing.checks_of(kernel_checks, kernel_addresses)
WORKERS = 2  # compilers at a time
SECONDS = 120  # after which a check counts as failed: faults may make a body run for ever
SURVIVED = "survived"


@pytest.fixture(scope="module")
def executors(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Fault, Future]]:
    """An executor for each fault whose test was chosen; each test finds its own under way."""
    folder = tmp_path_factory.mktemp("kernels")
    executing.executor()  # what all of them link

    def build(index: int) -> ModuleType:
        tree = planted(FAULTS[index], folder / str(index))
        return executing.build(tree, tree)

    chosen = [item.callspec.params.get("fault") for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {f: pool.submit(build, index) for index, f in enumerate(FAULTS) if f in chosen}
        pool.shutdown(cancel_futures=True)


def _report(module: ModuleType, name: str, to: Connection) -> None:
    try:
        CHECKS[name](module)
    except BaseException as error:  # whatever a check says, it has failed
        to.send(f"{type(error).__name__}: {error}"[:1000])
    else:
        to.send(SURVIVED)


def outcome(module: ModuleType, name: str) -> str:
    """What the check says, in a process of its own: a fault may crash it, or never end."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    child = fork.Process(target=_report, args=(module, name, there))
    child.start()
    said = here.recv() if here.poll(SECONDS) else "no answer"
    child.kill()
    child.join()
    return said


def test_the_way_of_asking_passes_without_a_fault() -> None:
    for name in ("maps", "gradients", "refusals"):
        assert outcome(executing.executor(), name) == SURVIVED


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults_of_the_kernels(
    fault: Fault, executors: dict[Fault, Future], record_property: Callable[[str, object], None]
) -> None:
    record_property("planted fault", "GPU kernels")
    assert outcome(executors[fault].result(), fault.caught_by) != SURVIVED, (
        f"{fault.name!r} survived {fault.caught_by!r}"
    )


def test_names_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40


def test_every_check_catches_a_fault() -> None:
    """A check that no fault needs may be one that cannot fail; the limits of the grid are a matter of time alone."""
    assert {fault.caught_by for fault in FAULTS} == set(CHECKS) - {"grid_limits"}


def test_a_module_with_a_fault_is_not_the_plain_one(tmp_path: Path) -> None:
    """Two executors in one process do not share code."""
    tree = planted(next(f for f in FAULTS if f.name == "multiplied where it should be divided"), tmp_path)
    other = executing.build(tree, tree)
    assert outcome(executing.executor(), "gradients") == SURVIVED
    assert outcome(other, "gradients") != SURVIVED
    assert outcome(executing.executor(), "gradients") == SURVIVED
