"""Faults planted in the GPU kernels' bodies and plan: the check that each names must fail on an executor with it.

test_executor.py runs the same checks without a fault, where they pass.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path

import executing
import kernel_addresses
import kernel_checks
import pytest
import rate_checks
from faults import Fault, in_tiers, listed, planted
from fork_server import forks_of

FAULTS = listed("kernels")
CHECKS = executing.checks_of(kernel_checks, kernel_addresses, rate_checks)
SECONDS = 300  # that a check may take
SURVIVED = "survived"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return executing.build(executing.ROOT, tmp_path_factory.mktemp("plain"))


def _report(library: Path, name: str, to: Connection) -> None:
    try:
        CHECKS[name](executing.load(library))
    except BaseException as error:  # whatever a check says, it has failed
        to.send(f"{type(error).__name__}: {error}"[:1000])
    else:
        to.send(SURVIVED)


@pytest.fixture(scope="module")
def server() -> Iterator[BaseContext]:
    """Yield what forks processes that have done nothing but import: threads do not live on in a fork, and torch would
    wait for them."""
    with forks_of(("kernel_checks", "kernel_addresses", "rate_checks"), Path(__file__).parent):
        yield multiprocessing.get_context("forkserver")


def outcome(server: BaseContext, library: Path, name: str) -> str:
    """Return what the check says, in a process of its own, which a fault may crash."""
    here, there = server.Pipe(duplex=False)
    child = server.Process(target=_report, args=(library, name, there))
    child.start()
    there.close()
    try:
        assert here.poll(SECONDS), f"check {name!r} has no end"
        return here.recv()
    except EOFError:
        return "crashed"
    finally:
        child.kill()
        child.join()


@pytest.mark.medium
def test_the_way_of_asking_passes_without_a_fault(server: BaseContext, plain: Path) -> None:
    for name in ("maps", "gradients", "refusals"):
        assert outcome(server, plain, name) == SURVIVED


@pytest.mark.parametrize("fault", in_tiers(FAULTS))
def test_faults_of_the_kernels(
    fault: Fault, server: BaseContext, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("planted fault", "GPU kernels")
    tree = planted(fault, tmp_path)
    assert outcome(server, executing.build(tree, tree), fault.caught_by) != SURVIVED, (
        f"{fault.name!r} survived {fault.caught_by!r}"
    )


def test_every_check_catches_a_fault() -> None:
    """A check that no fault needs may be one that cannot fail; the limits of the grid are a matter of time alone."""
    assert {fault.caught_by for fault in FAULTS} == set(CHECKS) - {"grid_limits"}


@pytest.mark.medium
def test_executors_share_no_code(plain: Path, tmp_path: Path) -> None:
    """Two in one process."""
    tree = planted(next(f for f in FAULTS if f.name == "multiplied where it should be divided"), tmp_path)
    first, second = executing.load(plain), executing.load(executing.build(tree, tree))
    CHECKS["gradients"](first)
    with pytest.raises(AssertionError):
        CHECKS["gradients"](second)
    CHECKS["gradients"](first)
