"""The host's side of the CUDA path, as far as it can be tried without a GPU."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    for name in ("_project", "_project_backward", "_guide"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"bitrate_ext::{name}", "CUDA")


def test_the_number_of_latents_is_that_of_the_kernels(built: None) -> None:
    (most,) = re.findall(r"constexpr int kMaxTerms = (\d+);", (ROOT / "csrc/core/launch.h").read_text())
    assert int(most) == library.MOST_LATENTS_ON_CUDA
    assert library.why_absent(CUDA, int(most)) == library.why_absent(CUDA)
    assert f"at most {most} latents, not 21" in library.why_absent(CUDA, 21)
    assert library.why_absent(torch.device("cpu"), 1000) == ""


class Machine:
    """PyTorch's view of two GPUs: the current one, the stream of each that is current, and what records a graph."""

    def __init__(self) -> None:
        self.current = 0
        self.streams = {0: 0, 1: 0}
        self.capturing: set[tuple[int, int]] = set()
        self.why_no_code: Any = lambda index: ""

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def is_capturing(self) -> bool:
        return (self.current, self.streams[self.current]) in self.capturing


@pytest.fixture
def machine(built: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    now = Machine()
    operators = SimpleNamespace(_no_cuda_code=lambda index: now.why_no_code(index))
    monkeypatch.setattr(torch.ops, "bitrate_ext", operators)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: now.current)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (5, index))
    monkeypatch.setattr(torch.cuda, "device", now.device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", now.is_capturing)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: (device.index, now.streams[device.index]))
    monkeypatch.setattr(dispatch, "current_stream_id", lambda device: now.streams[device.index])
    monkeypatch.setattr(dispatch, "_captured", {})
    library._why_unable.cache_clear()
    yield now
    library._why_unable.cache_clear()


def test_a_gpu_that_was_not_built_for(machine: Machine) -> None:
    """Said before any launch, with the remedy; asked once for each GPU, which without a number is the current one."""
    asked = []

    def no_code(index: int) -> str:
        asked.append(index)
        return "no kernel image" if index == 1 else ""

    machine.why_no_code = no_code
    for _ in range(2):
        because = library.why_absent(torch.device("cuda", 1))
        assert "not built for compute capability 5.1 (no kernel image)" in because
        assert "TORCH_CUDA_ARCH_LIST" in because
        assert library.why_absent(torch.device("cuda")) == ""
        with machine.device(torch.device("cuda", 1)):
            assert library.why_absent(torch.device("cuda")) == because
    assert asked == [1, 0]


def test_an_error_is_raised_and_asked_for_again(machine: Machine) -> None:
    """Too little memory says nothing of the build, and may be gone with the next call."""
    answers = [RuntimeError("the kernels cannot be loaded: out of memory"), ""]

    def no_code(index: int) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    machine.why_no_code = no_code
    with pytest.raises(RuntimeError, match="out of memory"):
        dispatch.choose_kernel("auto", CUDA, 1)
    assert dispatch.choose_kernel("auto", CUDA, 1)
    assert answers == []


class Recorded:
    """A tensor that notes the streams which the allocator is told of."""

    def __init__(self, is_cuda: bool = True) -> None:
        self.is_cuda = is_cuda
        self.streams: list[object] = []

    def record_stream(self, stream: object) -> None:
        self.streams.append(stream)


def bands_of(*flat: Any) -> dispatch.BandSet:
    return dispatch.BandSet([], list(flat), None, set())


def test_bands_outlive_other_streams(machine: Machine) -> None:
    """The cache may drop a band while a kernel reads it: the allocator is told of each stream, once."""
    there, here = Recorded(), Recorded(is_cuda=False)
    bands = bands_of(there, here)
    for stream in (0, 0, 7, 0, 7, 8):
        machine.streams[0] = stream
        dispatch.keep_alive(bands, CUDA)
    assert there.streams == [(0, 0), (0, 7), (0, 8)]
    assert here.streams == []
    with FakeTensorMode():  # nothing runs
        machine.streams[0] = 9
        dispatch.keep_alive(bands, CUDA)
    assert len(there.streams) == 3
    assert dispatch._captured == {}


@pytest.mark.parametrize("current", [0, 1])
def test_a_graph_keeps_its_bands_whichever_device_is_current(machine: Machine, current: int) -> None:
    """What counts is whether the stream of the tensors' device is captured, not the current device's."""
    machine.streams[1] = 7
    machine.capturing = {(1, 7)}
    machine.current = current
    captured, other = bands_of(Recorded()), bands_of(Recorded())
    for _ in range(2):
        dispatch.keep_alive(captured, torch.device("cuda", 1))
        dispatch.keep_alive(other, CUDA)
    assert list(dispatch._captured.values()) == [captured.flat]
    assert captured.flat[0].streams == []
    assert other.flat[0].streams == [(0, 0)]
    machine.capturing = set()
    dispatch.keep_alive(captured, torch.device("cuda", 1))
    assert captured.flat[0].streams == [(1, 7)]
    assert machine.current == current


def test_tensors_that_are_not_on_the_gpu_are_named() -> None:
    """The CUDA kernels are called by their key here, as for a call that has some tensor on a GPU."""
    if library.cuda_absent_because is not None:
        pytest.skip("no CUDA toolkit when this was built")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    operators = torch.ops.bitrate_ext
    p, one = torch.rand(1, 2, 3, 4), torch.zeros(1, 1, 6, 8)
    with pytest.raises(RuntimeError, match="out must be on a GPU"):
        operators._project.default.redispatch(keys, [p], [one] * 6, one)
    with pytest.raises(RuntimeError, match="grad must be on a GPU"):
        operators._project_backward.default.redispatch(keys, one, p, [one] * 6, p)


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
