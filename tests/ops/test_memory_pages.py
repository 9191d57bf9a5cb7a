"""Pages of memory: what is asked of the system for large new results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import bitrate_ext
from bitrate_ext.ops.memory_pages import LARGE, on_large_pages

SUPPORT = Path("/sys/kernel/mm/transparent_hugepage/enabled")
needs_large_pages = pytest.mark.skipif(not SUPPORT.exists(), reason="this system has no transparent large pages")


def is_on_large_pages(tensor: Tensor) -> bool:
    """Return whether the middle of a tensor lies where large pages were asked for."""
    middle, inside = tensor.data_ptr() + tensor.numel() * tensor.element_size() // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key = line.split(maxsplit=1)[0]
        if not key.endswith(":"):
            low, high = (int(end, 16) for end in key.split("-"))
            inside = low <= middle < high
        elif inside and key == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError("the tensor lies in no mapping")


@needs_large_pages
def test_large_results_lie_on_large_pages() -> None:
    p = torch.rand(1, 3, 256, 512).clamp_(1e-3).requires_grad_()
    size = 4096, 4096  # 64 MiB: more than comes from memory in use
    drawn = bitrate_ext.bitrate_map(p, size)
    assert is_on_large_pages(drawn)
    assert is_on_large_pages(bitrate_ext.bitrate_map(p.detach(), size))
    assert is_on_large_pages(bitrate_ext.bitrate_map(p.detach(), size, guide=torch.ones(1, 1, *size)))
    likelihoods = torch.rand(1, 1024, 128, 128).clamp_(1e-3).requires_grad_()
    (gradient,) = torch.autograd.grad(bitrate_ext.bitrate_map(likelihoods, (256, 256)).sum(), likelihoods)
    assert is_on_large_pages(gradient)


@pytest.mark.parametrize("offset", [0, 1, 1023, 1024, 1025])
def test_values_stay_whatever_lies_where(offset: int) -> None:
    whole = torch.arange(LARGE // 2, dtype=torch.float32)
    part = whole[offset : offset + LARGE // 4]
    assert on_large_pages(part) is part
    assert torch.equal(whole, torch.arange(LARGE // 2, dtype=torch.float32))


def test_small_ones_and_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("the system was asked")

    monkeypatch.setattr("bitrate_ext.ops.memory_pages._libc", never)
    on_large_pages(torch.empty(LARGE // 4 - 1))
    on_large_pages(torch.empty(LARGE, device="meta"))
    monkeypatch.setattr(sys, "platform", "darwin")
    on_large_pages(torch.empty(LARGE))
