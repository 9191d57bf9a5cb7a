"""Devices and seeds for all tests."""

import os
import signal

import numpy as np
import pytest
import torch

from bitrate_ext.cli import console


def pytest_configure(config):
    """Workers share the processor: two that each take all of it only wait for each other.

    Programs that a test starts are no workers, and can be interrupted: in the background of a shell, where interrupts
    are ignored, programs would inherit that.
    """
    if hasattr(config, "workerinput"):
        torch.set_num_threads(max(1, torch.get_num_threads() // config.workerinput["workercount"]))
        for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
            del os.environ[name]
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        if os.getenv("REQUIRE_CUDA"):
            pytest.fail("this job must have a GPU")
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Receptive fields are kept beside PyTorch's downloads: of these tests in a folder of their own."""
    os.environ["TORCH_HOME"] = str(tmp_path_factory.mktemp("torch"))


@pytest.fixture(autouse=True, scope="session")
def _busy_machine():
    """What takes long is told after seconds; how many it takes here says nothing."""
    console.PATIENCE = 600.0


@pytest.fixture
def rng(request):
    """A generator of its own for each test, the same in every run."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture
def one_thread():
    """For models so small that they are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter):
    """Tell how many planted faults were caught, by group, and what tests counted of compiled kernels."""
    groups, counted = {}, {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, group in report.user_properties:
                if name == "planted fault":
                    groups.setdefault(group, []).append(outcome == "passed")
                elif name.startswith("compiled kernels"):
                    counted[name] = counted.get(name, 0) + group
    if groups:
        counts = ", ".join(f"{sum(caught)} of {len(caught)} ({group})" for group, caught in groups.items())
        terminalreporter.write_line(f"planted faults caught: {counts}")
    for name, count in counted.items():
        terminalreporter.write_line(f"{name}: {count}")
