"""Time of the operator beside what people would use instead. `make bench` runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from opponents import IMAGES, copy_of_same_bytes, fused, make_likelihoods, recipe
from torch import Tensor

import bitrate_ext

ROUNDS = {"kodak": 200, "1080p": 60, "4k": 25, "8k": 12}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda p: p,
    "channels_last": lambda p: p.contiguous(memory_format=torch.channels_last),
    "bfloat16": lambda p: p.bfloat16(),
}


def assert_right(actual: Tensor, likelihoods: Tensor) -> None:
    exact = recipe(likelihoods.double())
    torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-9)


def run(benchmark: Any, call: Callable[[], Any], image: str) -> None:
    benchmark.pedantic(call, rounds=ROUNDS[image], warmup_rounds=3)


@pytest.mark.parametrize("implementation", ["fused", "recipe", "compiled recipe", "copy"])
@pytest.mark.parametrize("image", IMAGES)
def test_forward(benchmark: Any, image: str, implementation: str) -> None:
    likelihoods = make_likelihoods(image)
    out = torch.zeros(1, 1, *IMAGES[image])
    calls: dict[str, Callable[[], Any]] = {
        "fused": lambda: fused(likelihoods, out),
        "recipe": lambda: recipe(likelihoods),
        "copy": copy_of_same_bytes(likelihoods, out),
    }
    if implementation == "compiled recipe":
        compiled = torch.compile(recipe, dynamic=False)
        calls[implementation] = lambda: compiled(likelihoods)
    call = calls[implementation]
    if implementation != "copy":
        assert_right(call(), likelihoods)
    benchmark.group = f"forward {image}"
    benchmark.extra_info["bytes"] = likelihoods.nbytes + out.nbytes
    run(benchmark, call, image)


@pytest.mark.parametrize("implementation", ["fused", "recipe", "copy"])
@pytest.mark.parametrize("layout", ["channels_last", "bfloat16"])
@pytest.mark.parametrize("image", ["kodak", "4k"])
def test_layouts(benchmark: Any, image: str, layout: str, implementation: str) -> None:
    likelihoods = LAYOUTS[layout](make_likelihoods(image))
    out = torch.zeros(1, 1, *IMAGES[image])
    assert_right(fused(likelihoods, out), likelihoods)
    calls: dict[str, Callable[[], Any]] = {
        "fused": lambda: fused(likelihoods, out),
        "recipe": lambda: recipe(likelihoods),
        "copy": copy_of_same_bytes(likelihoods, out),
    }
    benchmark.group = f"forward {image} {layout}"
    benchmark.extra_info["bytes"] = likelihoods.nbytes + out.nbytes
    run(benchmark, calls[implementation], image)


@pytest.mark.parametrize("implementation", ["fused", "recipe"])
@pytest.mark.parametrize("image", ["kodak", "4k"])
def test_backward(benchmark: Any, image: str, implementation: str) -> None:
    """The gradient alone: the map has been made, and the same graph is walked again."""
    likelihoods = make_likelihoods(image).requires_grad_()
    made = {"fused": fused, "recipe": recipe}[implementation](likelihoods)
    grad = torch.rand(made.shape, generator=torch.Generator().manual_seed(2))

    def backward() -> Tensor:
        return torch.autograd.grad(made, likelihoods, grad, retain_graph=True)[0]

    exact = likelihoods.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(recipe(exact), exact, grad.double())
    torch.testing.assert_close(backward().double(), expected, rtol=1e-4, atol=1e-9)
    benchmark.group = f"backward {image}"
    benchmark.extra_info["bytes"] = 2 * likelihoods.nbytes + grad.nbytes
    run(benchmark, backward, image)


@pytest.mark.parametrize("implementation", ["fused", "recipe"])
def test_call_overhead(benchmark: Any, implementation: str) -> None:
    """A call that has next to nothing to compute: 8 x 4 x 4 likelihoods to 64 x 64 pixels."""
    likelihoods = torch.rand(1, 8, 4, 4, generator=torch.Generator().manual_seed(1)).clamp_(min=1e-9)
    call = {"fused": lambda: bitrate_ext.bitrate_map(likelihoods, (64, 64)), "recipe": lambda: recipe(likelihoods)}
    benchmark.group = "overhead 1x8x4x4"
    benchmark.pedantic(call[implementation], rounds=200, iterations=50, warmup_rounds=5)


def test_extra_memory() -> None:
    """A call's own memory, beyond its result: measured at 8K in a fresh process by its highest resident size."""
    import subprocess
    import sys

    script = """
import resource, sys, torch, bitrate_ext
p = torch.full((1, 192, 270, 480), 0.5)
bitrate_ext.bitrate_map(p[..., :4, :4], scale_factor=16)  # libraries, threads and caches of the process
out = torch.zeros(1, 1, 4320, 7680)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bitrate_ext.bitrate_map(p, scale_factor=16, out=out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    print(f"extra memory of a call at 8K: {grown} KiB")
    assert grown <= 2 * 1024
