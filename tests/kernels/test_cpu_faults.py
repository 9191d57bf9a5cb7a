"""Planted faults: each is put into a copy of the sources, and the check that it names must fail there.

The same checks pass without a fault, so that one that always fails counts for nothing. A fault whose text is no longer
in its file fails as well. The summary at the end of the run says how many of each group were caught.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import ROOT, Fault, in_tiers, listed, native, planted

FAULTS = listed("cpu")


# The CPU path: formulas and kernels, by a program without torch.


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> native.Program:
    return native.Program("sweep", tmp_path_factory.mktemp("cpu"))


@pytest.mark.medium
def test_the_cpu_path_passes_without_a_fault(sweep: native.Program) -> None:
    done = native.run([sweep.path])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout


@pytest.mark.parametrize("fault", in_tiers(FAULTS))
def test_faults_of_the_cpu_path(
    fault: Fault, sweep: native.Program, record_property: Callable[[str, object], None]
) -> None:
    record_property("planted fault", "CPU path")
    done = native.swept(sweep, fault)
    if done.returncode == native.NO_SUCH_SET:
        pytest.skip(f"no processor for {fault.caught_by!r}: {platform.processor() or platform.machine()}")
    assert native.caught(fault, done), f"{fault.name!r} survived: {done}"


# What is said of all faults.


@pytest.mark.parametrize("name", ["cpu", "races", "kernels", "host"])
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
