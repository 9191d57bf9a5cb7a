"""Tests of what only a GPU can show. Without one they are skipped by name; with REQUIRE_CUDA they fail.

BITRATE_EXT_GPU_TESTS_ON=cpu runs their bodies on the CPU, so that a mistake in a test shows where there is no GPU. It
proves nothing of the kernels.
"""

import os

import pytest
import torch
from cases import need_native


@pytest.fixture(scope="session")
def device():
    chosen = torch.device(os.environ.get("BITRATE_EXT_GPU_TESTS_ON") or "cuda")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        if os.getenv("REQUIRE_CUDA"):
            pytest.fail("this job must have a GPU")
        pytest.skip("no CUDA device")
    need_native(chosen)
    return chosen


@pytest.fixture(scope="session")
def cuda(device):
    """For tests that mean nothing on a CPU."""
    if device.type != "cuda":
        pytest.skip("only a GPU can run this")
    return device
