"""The host's side of the CUDA path, as far as it can be tried without a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

import bitrate_ext
from bitrate_ext.ops import dispatch, library
from bitrate_ext.ops.band import Band

CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the CUDA library is loaded."""
    monkeypatch.setattr(library, "cuda_absent_because", None)


def test_the_library_loads_wherever_it_was_built() -> None:
    """Without a GPU too: importing must never depend on one."""
    if not list(Path(bitrate_ext.__file__).parent.glob("_ops_cuda*.so")):
        pytest.skip("no CUDA toolkit when this was built")
    assert library.cuda_absent_because is None
    for name in ("_project", "_project_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"bitrate_ext::{name}", "CUDA")


def test_the_number_of_latents_is_that_of_the_kernels(built: None) -> None:
    (most,) = re.findall(r"constexpr int kMaxTerms = (\d+);", (ROOT / "csrc/core/launch.h").read_text())
    assert int(most) == library.MOST_LATENTS_ON_CUDA
    assert library.why_absent(CUDA, int(most)) == library.why_absent(CUDA)
    assert f"at most {most} latents, not 21" in library.why_absent(CUDA, 21)
    assert library.why_absent(torch.device("cpu"), 1000) == ""


def test_a_gpu_that_was_not_built_for(built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before any launch, with the remedy; asked once for each GPU."""
    asked = []

    def unavailable(index: int) -> str:
        asked.append(index)
        return "the kernels were not built for compute capability 5.0 (no kernel image)"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "bitrate_ext", SimpleNamespace(_cuda_unavailable=unavailable))
    library._why_unable.cache_clear()
    try:
        for _ in range(2):
            because = library.why_absent(torch.device("cuda", 1))
            assert "compute capability 5.0" in because
            assert "TORCH_CUDA_ARCH_LIST" in because
        assert asked == [1]
    finally:
        library._why_unable.cache_clear()


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(capturing=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now.capturing)
    monkeypatch.setattr(dispatch, "_captured", {})
    return now


def recorder(is_cuda: bool, to: list) -> SimpleNamespace:
    return SimpleNamespace(is_cuda=is_cuda, record_stream=to.append)


def test_bands_outlive_other_streams_and_graphs(stream: SimpleNamespace) -> None:
    """The cache may drop a band while a kernel reads it: the allocator is told, and captured graphs keep theirs."""
    recorded: list = []
    bands = [recorder(True, recorded), recorder(False, recorded), recorder(True, recorded)]
    dispatch._keep_alive(bands, CUDA)
    assert recorded == [stream, stream]
    assert dispatch._captured == {}
    stream.capturing = True
    dispatch._keep_alive(bands, CUDA)
    dispatch._keep_alive(bands, CUDA)
    assert list(dispatch._captured.values()) == [bands]
    assert len(recorded) == 2
    with FakeTensorMode():  # nothing runs
        stream.capturing = False
        dispatch._keep_alive(bands, CUDA)
    assert len(recorded) == 2


def test_bands_go_to_a_device_outside_the_callers_modes() -> None:
    """As ``torch.compile`` with CUDA graphs leads allocations of its thread into a pool of its own."""
    start, weight = torch.zeros(3, dtype=torch.int32), torch.ones(1, 3, dtype=torch.float64)
    with torch.inference_mode():
        moved = Band(start, weight, 1).to(torch.device("meta"))
    assert not moved.start.is_inference()
    assert not moved.weight.is_inference()
    assert moved.weight.device.type == "meta"
    same = Band(start, weight, 1)
    assert same.to(torch.device("cpu")) is same
