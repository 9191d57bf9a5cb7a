"""Devices and seeds for all tests."""

import os

import numpy as np
import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        if os.getenv("REQUIRE_CUDA"):
            pytest.fail("this job must have a GPU")
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def rng(request):
    """A generator of its own for each test, the same in every run."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
