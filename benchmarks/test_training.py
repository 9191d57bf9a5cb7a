"""One step of training before and after ``fuse``, as rows of `make bench`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import clock, devices

pytest.importorskip("compressai")
import training

pytestmark = pytest.mark.benchmark(timer=clock, disable_gc=True, warmup=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [(name, device) for device in devices(metafunc.config) for name in training.CODECS]
    metafunc.parametrize(("name", "device"), cases, ids=[f"{name}-{device}" for name, device in cases], scope="module")
    metafunc.parametrize("way", training.WAYS)


@pytest.fixture(scope="module")
def checked(name: str, device: torch.device) -> None:
    training.check(name, device)


@pytest.mark.usefixtures("checked")
def test_a_step_of_training(
    name: str, way: str, device: torch.device, timed: Callable[[Callable[[], object]], list[float]]
) -> None:
    timed(training.step(name, way, device))
