"""The CPU path and the GPU kernels' bodies under sanitizers, without torch: addresses, undefined behaviour, races."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from faults import in_tiers, listed, native

pytestmark = pytest.mark.medium

ADDRESSES = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = ("-g1", "-pthread", "-fsanitize=thread")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native.Program("sweep", tmp_path_factory.mktemp("addresses"), *ADDRESSES).path


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> native.Program:
    return native.Program("threads", tmp_path_factory.mktemp("threads"), *THREADS)


def run_threads(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run at fixed addresses where that can be had: some kernels place memory where the sanitizer has its own."""
    setarch = shutil.which("setarch")
    fixed = [setarch, "-R"] if setarch and native.run([setarch, "-R", "true"]).returncode == 0 else []
    return native.run([*fixed, program, *arguments], TSAN_OPTIONS="halt_on_error=1")


@pytest.mark.slow  # the build takes a minute
def test_no_report_and_the_definitions_bytes(sweep: Path) -> None:
    done = native.run([sweep])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout


@pytest.mark.slow  # the build takes a minute
def test_a_planted_overrun_is_reported(sweep: Path) -> None:
    done = native.run([sweep, "overrun"])
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


def test_no_race_and_the_bytes_of_one_thread(threads: native.Program) -> None:
    done = run_threads(threads.path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ThreadSanitizer" not in done.stderr
    assert "0 wrong" in done.stdout


@pytest.fixture(scope="module")
def kernel_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the GPU kernels' bodies on real threads; they need nothing of the CPU path."""
    program = tmp_path_factory.mktemp("kernel_threads") / "kernel_threads"
    kept = native.kept_object(native.ROOT / "tests/kernels/native/kernel_threads.cpp", *THREADS)
    done = native.run([native.compiler(), *THREADS, kept, "-o", program])
    assert done.returncode == 0, done.stderr
    return program


def test_kernel_bodies_have_no_race(kernel_threads: Path) -> None:
    done = run_threads(kernel_threads)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ThreadSanitizer" not in done.stderr
    assert "360 launches, 0 wrong" in done.stdout


def test_kernel_bodies_without_barriers_are_reported(kernel_threads: Path) -> None:
    done = run_threads(kernel_threads, "race")
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr


def test_tasks_that_overlap_are_reported(threads: native.Program) -> None:
    done = run_threads(threads.path, "race")
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr


@pytest.mark.parametrize("fault", in_tiers(listed("races")))
def test_planted_races_are_reported(fault: native.Fault, threads: native.Program, record_property) -> None:
    record_property("planted fault", "CPU path")
    done = run_threads(threads.with_fault(fault))
    assert done.returncode != 0
    assert fault.caught_by in done.stderr
