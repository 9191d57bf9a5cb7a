"""The kernels as nvcc compiles them, run on the CPU: every rule kept, the bytes of the CPU path, and faults seen.

What a GPU gets is the PTX of these kernels, which its driver or the assembler turns into its own instructions; the PTX
is the last form in which each instruction has a meaning that is written down. ``ptx.py`` makes C++ of it, which runs in
the checking executor, through all the checks that the kernels' bodies go through.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType

import device_code
import executing
import kernel_addresses
import kernel_checks
import ptx
import pytest
import rate_checks
from cases import SCALE, scaled
from faults import Fault, listed
from test_device_code import KERNELS
from test_executor import COUNTS

# Those before 10.0 have one program, those from there on another: nvcc's optimiser is a newer one for them.
ARCHITECTURES = ("compute_75", "compute_100")
CHECKS = executing.checks_of(kernel_checks, kernel_addresses, rate_checks)
# More of the checks that go through many copies of a loop in little time, less of those that take long.
SETTINGS = {name: {"count": scaled(count)} for name, count in COUNTS.items()} | {
    "wide_loads": {"count": scaled(300)},
    "gradient_tiles": {"count": scaled(300)},
    "special_values": {"count": scaled(400)},
    "stages": {"count": scaled(60)},
    "addresses": {"count": scaled(300)},
    "gradient_addresses": {"count": scaled(600)},
    "grid_limits": {} if SCALE == 1 else {"lengths": (65_537,)},
}
FAULTS = listed("ptx")


@functools.cache
def compiled(architecture: str) -> tuple[ModuleType, tuple[Fault, ...]]:
    """Return an executor of the compiled kernels, and the faults that it can be given: fault k by number k + 1."""
    program = ptx.Program(device_code.ptx(device_code.need_nvcc(), architecture))
    changes = {fault: ptx.Change(fault.file, fault.old, fault.new) for fault in FAULTS}
    found = tuple(fault for fault, change in changes.items() if program.places(change))
    return executing.load_ptx(program, [changes[fault] for fault in found]), found


@pytest.mark.medium
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_kernels(
    architecture: str, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Every check; then every kernel has been run, and nearly every piece of their code."""
    module, _ = compiled(architecture)
    compared = 0

    def counting(*given: object) -> None:
        nonlocal compared
        compared += 1
        assert_same_bytes(*given)

    assert_same_bytes = kernel_checks.assert_same_bytes
    monkeypatch.setattr(kernel_checks, "assert_same_bytes", counting)
    module.ptx_blocks(0)
    for name, check in CHECKS.items():
        seed = {"seed": 2000} if "seed" in inspect.signature(check).parameters else {}
        check(module, **SETTINGS.get(name, {}) | seed)
    blocks = module.ptx_blocks(0)
    reached = [kernel for kernel, _, once in blocks if once]
    assert set(reached) == {kernel for kernel, _, _ in blocks} >= {*KERNELS}
    record_property("compiled kernels, comparisons with the CPU path", compared)
    record_property("compiled kernels, pieces of code without a branch", len(blocks))
    record_property("compiled kernels, pieces of code that were run", len(reached))
    if SCALE >= 0.2:
        assert compared >= 1000
        assert len(reached) >= 0.93 * len(blocks)


@pytest.mark.medium
@pytest.mark.parametrize(
    "architecture", [ARCHITECTURES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES[1:])]
)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults_of_compiled_kernels(
    fault: Fault, architecture: str, record_property: Callable[[str, object], None]
) -> None:
    """One instruction is another than it was."""
    module, found = compiled(architecture)
    if fault not in found:
        pytest.skip(f"nothing like it in the PTX of {architecture}: {fault.old}")
    record_property("planted fault", "compiled kernels")
    module.ptx_blocks(found.index(fault) + 1)
    try:
        with pytest.raises((AssertionError, RuntimeError)):
            CHECKS[fault.caught_by](module)
    finally:
        module.ptx_blocks(0)


@pytest.mark.medium
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_faults_enough_are_found(architecture: str) -> None:
    assert len(compiled(architecture)[1]) >= 20
