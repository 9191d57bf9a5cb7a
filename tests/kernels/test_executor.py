"""The GPU kernels' bodies, run on the CPU under watch: every rule kept, and the bytes of the CPU path."""

from __future__ import annotations

import executing
import kernel_addresses
import kernel_checks
import pytest
import rate_checks
import torch
from cases import Case, scaled

# Launches of each check, over 2,000 in all but for `addresses`, which count shapes. The others come as they are.
COUNTS = {
    "maps": 600, "gradients": 400, "wide_loads": 200, "tiles": 200, "gradient_tiles": 100, "many_latents": 60,
    "stages": 120, "gradient_chunks": 200, "special_values": 120, "addresses": 2500, "gradient_addresses": 2500,
    "rates": 200, "rate_gradients": 200,
}  # fmt: skip


CHECKS = executing.checks_of(kernel_checks, kernel_addresses, rate_checks)


@pytest.mark.medium
@pytest.mark.parametrize("name", CHECKS)
def test_kernel_bodies(name: str) -> None:
    check = CHECKS[name]
    if name in COUNTS:
        check(executing.executor(), count=scaled(COUNTS[name]), seed=1000)
    else:
        check(executing.executor())


@pytest.mark.medium
def test_long_addresses() -> None:
    """Axes of up to 2^20 cells and pixels."""
    kernel_addresses.check_addresses(executing.executor(), count=scaled(40), seed=77, longest=2**20)
    kernel_addresses.check_gradient_addresses(executing.executor(), count=scaled(40), seed=78, longest=2**20)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 192, 32, 48), (512, 768)), ((1, 320, 17, 30), (1088 // 4, 1920 // 4))]
)
def test_the_plan_for_pictures(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """As a GPU of 132 multiprocessors would run it."""
    p = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 1e-9
    bands = executing.case_bands(Case([p], size), [p])
    summary = kernel_checks.assert_map(executing.executor(), [p], bands, torch.float32, shape, order=2)
    assert summary["whole"]
    assert summary["blocks"] > 60
