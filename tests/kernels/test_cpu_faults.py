"""Planted faults: each is put into a copy of the sources, and the check that it names must fail there.

The same checks pass without a fault, so that one that always fails counts for nothing. A fault whose text is no longer
in its file fails as well. The summary at the end of the run says how many of each group were caught.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from faults import ROOT, Fault, listed, native, planted

FAULTS = listed("cpu")
WORKERS = 2  # faults at a time
Runs = dict[Fault, "Future"]


def all_started(session: pytest.Session, faults: list[Fault], run: Callable[[Fault], object]) -> Iterator[Runs]:
    """Start the faults whose tests were chosen; each test finds its own under way."""
    parameters = [item.callspec.params.get("fault") for item in session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {fault: pool.submit(run, fault) for fault in faults if fault in parameters}
        pool.shutdown(cancel_futures=True)


# The CPU path: formulas and kernels, by a program without torch.


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> native.Program:
    return native.Program("sweep", tmp_path_factory.mktemp("cpu"))


@pytest.fixture(scope="module")
def cpu_runs(request: pytest.FixtureRequest, sweep: native.Program) -> Iterator[Runs]:
    yield from all_started(request.session, FAULTS, lambda fault: native.swept(sweep, fault))


def test_the_cpu_path_passes_without_a_fault(sweep: native.Program) -> None:
    done = native.run([sweep.path])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults_of_the_cpu_path(fault: Fault, cpu_runs: Runs, record_property: Callable[[str, object], None]) -> None:
    record_property("planted fault", "CPU path")
    done: CompletedProcess[str] = cpu_runs[fault].result()
    if done.returncode == native.NO_SUCH_SET:
        pytest.skip(f"no processor for {fault.caught_by!r}: {platform.processor() or platform.machine()}")
    assert native.caught(fault, done), f"{fault.name!r} survived: {done}"


# What is said of all faults.


@pytest.mark.parametrize("name", ["cpu", "races", "kernels"])
def test_lists_are_of_these_sources(name: str) -> None:
    faults = listed(name)
    assert len({fault.name for fault in faults}) == len(faults) > 0
    assert [f.name for f in faults if (ROOT / f.file).read_text().count(f.old) != 1] == []


def test_a_fault_that_no_longer_applies_is_an_error(tmp_path: Path) -> None:
    file = "csrc/core/bits.h"
    for old in ("not in there", "Double"):
        times = (ROOT / file).read_text().count(old)
        with pytest.raises(AssertionError, match=f"'gone' no longer applies: its text occurs {times} times in {file}"):
            planted(Fault("gone", file, old, "new", ""), tmp_path / old)
    with pytest.raises(AssertionError, match="'same' changes nothing"):
        planted(Fault("same", file, "#pragma once\n", "#pragma once\n", ""), tmp_path / "same")
