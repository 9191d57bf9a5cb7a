"""What only a real driver can answer of the host's side: docs/gpu.md names each of these tests beside its question."""

import os
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from cases import assert_same_bytes, likelihoods, scaled
from machine import on_a_side_stream, synchronize

import bitrate_ext
from bitrate_ext.ops import arguments, dispatch, projection

SIZES = scaled(300)
BUSY = 300  # milliseconds

PRELUDE = """
    import torch, bitrate_ext
    from bitrate_ext.ops import dispatch
    p = torch.rand(2, 19, 5, 12, generator=torch.Generator().manual_seed(1)).clamp_min(1e-6)
    size = (40, 96)
    expected = bitrate_ext.bitrate_map(p, size)
    def check(found):
        assert torch.equal(found.cpu(), expected), "other bytes than the CPU's"
"""


def in_a_process(script: str, **environment: str) -> str:
    """Run a script behind ``PRELUDE`` where no kernel has been touched yet; returns what it prints."""
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    whole = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=whole, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def forget_bands() -> None:
    for cached in (
        arguments._settled, dispatch._cached_bands, projection.axis_band, projection.transposed_axis_band
    ):  # fmt: skip
        cached.cache_clear()


def test_errors_of_pytorch_are_not_ours(cuda, rng):
    """Memory that there is not; each runtime in the process has a record of its own."""
    p = likelihoods(rng, (1, 9, 5, 8), kind="uniform")
    for _ in range(3):
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(1 << 50, device=cuda)
        assert_same_bytes(bitrate_ext.bitrate_map(p.to(cuda), (40, 64)).cpu(), bitrate_ext.bitrate_map(p, (40, 64)))


def test_a_device_that_is_not_the_current_one(cuda, rng):
    """Map, gradient and graph on the second GPU while the first is current."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU: what a call does on another than the current one is unchecked")
    p = likelihoods(rng, (1, 9, 5, 8), kind="uniform")
    expected, there = bitrate_ext.bitrate_map(p, (40, 64)), p.to("cuda:1")
    with torch.cuda.device(0):
        assert_same_bytes(bitrate_ext.bitrate_map(there, (40, 64)).cpu(), expected)
        leaf, here = there.clone().requires_grad_(), p.clone().requires_grad_()
        bitrate_ext.bitrate_map(leaf, (40, 64)).sum().backward()
        bitrate_ext.bitrate_map(here, (40, 64)).sum().backward()
        assert_same_bytes(leaf.grad.cpu(), here.grad)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(1), torch.cuda.graph(graph), torch.cuda.device(0):
        out = bitrate_ext.bitrate_map(there, (40, 64))
    for other in range(SIZES):
        bitrate_ext.bitrate_map(there, (4, 5 + other))
    forget_bands()
    out.fill_(7)
    over_what_was_let_go = [torch.zeros(64, dtype=torch.float64, device="cuda:1") for _ in range(scaled(20_000))]
    graph.replay()
    assert_same_bytes(out.cpu(), expected)
    assert not any(values.any() for values in over_what_was_let_go[::100])


@pytest.mark.parametrize("loading", ["LAZY", "EAGER"])
def test_a_first_launch_inside_a_capture(cuda, loading):
    """Nothing of the kernels is loaded when the graph is recorded."""
    in_a_process(
        """
        q = p.cuda()
        bands = dispatch.cached_bands([q], dispatch.MapGeometry(size, (0, 0, *size), ["bilinear"], True, (0.0, 0.0)))
        out = torch.empty(2, 1, *size, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            dispatch.project_into([q], bands, out)
        out.fill_(7)
        graph.replay()
        check(out)
        """,
        CUDA_MODULE_LOADING=loading,
    )


def test_a_call_returns_before_its_work(cuda, rng):
    p = likelihoods(rng, (1, 192, 32, 48), kind="uniform").to(cuda)
    expected = bitrate_ext.bitrate_map(p, (512, 768))
    synchronize(cuda)
    done = torch.cuda.Event()
    with on_a_side_stream(cuda, busy=BUSY):
        start = time.perf_counter()
        out = bitrate_ext.bitrate_map(p, (512, 768))
        took = time.perf_counter() - start
        done.record()
        assert not done.query()
    assert took < BUSY / 1000 / 10
    synchronize(cuda)
    assert_same_bytes(out, expected)


def test_bands_let_go_while_a_kernel_waits(cuda, rng):
    """The stream is busy when the caches drop them, and others ask for memory."""
    p = likelihoods(rng, (1, 9, 5, 8), kind="uniform")
    there = p.to(cuda)
    for size in ((41, 67), (43, 71), (47, 73)):
        forget_bands()
        synchronize(cuda)
        with on_a_side_stream(cuda, busy=BUSY):
            out = bitrate_ext.bitrate_map(there, size)
        forget_bands()
        with torch.cuda.stream(torch.cuda.Stream()):
            over = [torch.full((97,), float("nan"), dtype=torch.float64, device=cuda) for _ in range(scaled(5000))]
        synchronize(cuda)
        assert_same_bytes(out.cpu(), bitrate_ext.bitrate_map(p, size))
        del over


def test_little_memory(cuda):
    """All but a few megabytes are taken: a call succeeds or says that memory is out, and the next one is well."""
    said = in_a_process(
        f"""
        q = p.cuda()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(256e6 / total)
        taken = []
        refused = served = 0
        for turn in range({SIZES}):
            try:
                if turn % 3 == 0:
                    taken.append(torch.empty(8_000_000, dtype=torch.uint8, device="cuda"))
                other = (200 + turn, 4000)
                found = bitrate_ext.bitrate_map(q, other)
            except torch.OutOfMemoryError:
                refused += 1
                taken = taken[len(taken) // 2 :]
            else:
                served += 1
                if turn % 10 == 0:
                    assert torch.equal(found.cpu(), bitrate_ext.bitrate_map(p, other)), other
        taken = None
        check(bitrate_ext.bitrate_map(q, size))
        print(refused, served)
        """
    )
    refused, served = map(int, said.split())
    assert refused > 0
    assert served > SIZES / 2


def test_code_that_the_driver_compiles_from_ptx(cuda):
    """Map and gradient, with all machine code in the library passed over."""
    in_a_process(
        """
        q = p.cuda().requires_grad_()
        out = bitrate_ext.bitrate_map(q, size, impl="native")
        check(out.detach())
        (found,) = torch.autograd.grad(out.sum(), q)
        leaf = p.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(bitrate_ext.bitrate_map(leaf, size).sum(), leaf)
        assert torch.equal(found.cpu(), wanted), "another gradient than the CPU's"
        """,
        CUDA_FORCE_PTX_JIT="1",
        CUDA_CACHE_DISABLE="1",
    )
