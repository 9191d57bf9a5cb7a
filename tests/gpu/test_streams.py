"""Run to run, CUDA graphs, streams whose data comes late: the same bytes, and nothing waits that need not."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from cases import DTYPES, MODES, likelihoods, scaled
from machine import differing, on_a_side_stream, recorded, synchronize, waiting_is_an_error

import bitrate_ext

REPEATS = scaled(1000)
REPLAYS = scaled(100)
LATE = scaled(100)
OTHER_SIZES = scaled(300)  # more than the cache of bands holds
SHAPES = (  # likelihoods and the map's size
    ((1, 192, 8, 12), (128, 192)), ((16, 24, 6, 10), (96, 160)), ((2, 320, 4, 6), (64, 96)),
    ((1, 6, 17, 23), (100, 181)), ((3, 7, 9, 5), (9, 5)), ((8, 48, 16, 16), (16, 16)),
    ((1, 128, 34, 60), (544, 960)), ((2, 17, 40, 40), (13, 11)), ((4, 1, 1, 1), (64, 64)),
    ((1, 640, 3, 3), (7, 5)), ((64, 8, 4, 4), (32, 32)), ((1, 3, 68, 120), (272, 480)),
)  # fmt: skip


def call_on(leaf, weight, size, mode):
    out = bitrate_ext.bitrate_map(leaf, size, projection=mode)
    return out, torch.autograd.grad(out, leaf, weight)[0]


def prepared(rng, index, device, count=1):
    """Return likelihoods [count, N, C, h, w] of that shape, a gradient for their map, and what else the call takes."""
    shape, size = SHAPES[index]
    dtype = DTYPES[index % 4]
    many = torch.stack([likelihoods(rng, shape, dtype, "uniform") for _ in range(count)]).to(device)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.from_numpy(rng.standard_normal((shape[0], 1, *size))).to(device, kind)
    return many, weight, size, MODES[index % 3]


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_run_to_run(device, rng, index):
    many, weight, size, mode = prepared(rng, index, device)
    leaf = many[0].requires_grad_()
    first = call_on(leaf, weight, size, mode)
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for _ in range(REPEATS):
        for a, b in zip(call_on(leaf, weight, size, mode), first, strict=True):
            wrong += differing(a, b)
    assert wrong.item() == 0


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_graph_replays_with_new_inputs(device, rng, index):
    many, weight, size, mode = prepared(rng, index, device, REPLAYS)
    leaf = many[0].clone().requires_grad_()
    results, replay = recorded(lambda: call_on(leaf, weight, size, mode), device)
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for values in many:
        with torch.no_grad():
            leaf.copy_(values)
            for result in results:
                result.detach().fill_(7)
        replay()
        for a, b in zip(call_on(values.clone().requires_grad_(), weight, size, mode), results, strict=True):
            wrong += differing(a, b)
    assert wrong.item() == 0


def test_a_graph_outlives_the_cache_of_bands(device, rng):
    """Bands of a recorded call stay where they are, whatever other sizes come between."""
    many, weight, size, mode = prepared(rng, 3, device)
    leaf = many[0].requires_grad_()
    expected = [result.detach().clone() for result in call_on(leaf, weight, size, mode)]
    results, replay = recorded(lambda: call_on(leaf, weight, size, mode), device)
    for other in range(OTHER_SIZES):
        bitrate_ext.bitrate_map(leaf, (size[0] + other, size[1] + 1)).sum().backward()
    over_what_was_let_go = [torch.zeros(64, dtype=torch.float64, device=device) for _ in range(scaled(20_000))]
    replay()
    assert sum(differing(a, b).item() for a, b in zip(results, expected, strict=True)) == 0
    assert not any(values.any() for values in over_what_was_let_go[::100])


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_a_warm_call_does_not_wait(device, rng, index):
    many, weight, size, mode = prepared(rng, index, device)
    leaf = many[0].requires_grad_()
    call_on(leaf, weight, size, mode)
    with waiting_is_an_error(device):
        call_on(leaf, weight, size, mode)


def test_a_producer_that_comes_late(device, rng):
    """Likelihoods and the map's gradient are written on a side stream long after the calls were made there."""
    many, weight, size, mode = prepared(rng, 0, device, 5)
    expected = [call_on(values.clone().requires_grad_(), weight, size, mode) for values in many]
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for repeat in range(LATE):
        leaf = torch.full_like(many[0], 0.5).requires_grad_()
        late_weight = torch.zeros_like(weight)
        synchronize(device)
        with on_a_side_stream(device, busy=5):
            with torch.no_grad():
                leaf.copy_(many[repeat % 5])
            late_weight.copy_(weight)
            results = call_on(leaf, late_weight, size, mode)
        for a, b in zip(results, expected[repeat % 5], strict=True):
            wrong += differing(a, b)
        synchronize(device)
    assert wrong.item() == 0


def test_a_producer_is_late_indeed(cuda, rng):
    """The test above can fail: a call on another stream than the producer's sees what was there before."""
    many, weight, size, mode = prepared(rng, 0, cuda)
    stale = torch.full_like(many[0], 0.5).requires_grad_()
    expected = call_on(stale, weight, size, mode)
    leaf = stale.detach().clone().requires_grad_()
    torch.cuda.synchronize()
    main = torch.cuda.current_stream()
    with on_a_side_stream(cuda, busy=300):
        with torch.no_grad():
            leaf.copy_(many[0])
        with torch.cuda.stream(main):
            early = call_on(leaf.detach().requires_grad_(), weight, size, mode)
            main.synchronize()
    torch.cuda.synchronize()
    assert sum(differing(a, b).item() for a, b in zip(early, expected, strict=True)) == 0


def test_compiled_with_graphs(cuda, rng):
    """torch.compile's own CUDA graphs, at a size that no call has seen."""
    p = likelihoods(rng, (1, 12, 9, 11), kind="uniform").to(cuda)

    def run(q):
        return bitrate_ext.bitrate_map(q * 0.5, (77, 83)) + 1

    compiled = torch.compile(run, mode="reduce-overhead")
    for step in range(4):
        q = p * (1 - step / 8)
        assert differing(compiled(q).clone(), run(q)).item() == 0


def test_pytorch_s_stream_sanitizer(cuda):
    """No report for ordered streams, and one for a planted race."""
    script = """
        import torch, bitrate_ext
        p = torch.rand(1, 8, 6, 10, device="cuda").clamp_min(1e-3)
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            out = bitrate_ext.bitrate_map(p, (24, 40))
        main.wait_stream(side)
        print("sum", out.sum().item() > 0, flush=True)
        with torch.cuda.stream(torch.cuda.Stream()):
            bitrate_ext.bitrate_map(p, (24, 40), out=out)
        print("not reported", flush=True)
    """
    environment = {**os.environ, "TORCH_CUDA_SANITIZER": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines() == ["sum True"], done.stdout + done.stderr
    assert "CSAN detected a possible data race" in done.stderr, done.stderr
