"""A short, honest comparison on this machine: the fused operator, PyTorch's recipe, its compilation, and a memory copy.

All take turns in one run, so that other load on the machine falls on all of them. The copy moves as many bytes as the
operator must. Hot: calls follow one another into a tensor that is there, as frames of a film do; large images have more
buffers than caches hold. Cold, as after a network: no cache holds the likelihoods, and the map is a new tensor.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import library
from ..ops.functional import bitrate_map
from .console import OK, echo
from .doctor import instruction_set
from .serving import checked_device

IMAGES = {"Kodak": (512, 768), "1080p": (1080, 1920), "4K": (2160, 3840), "8K": (4320, 7680)}  # (H, W), pixels
CHANNELS, STRIDE = 192, 16
SMALL = 1 << 24  # bytes of a call; more than a cache should be asked to hold
ROTATED = 1 << 30  # bytes that calls of more than SMALL have in turn: none finds its own in a cache
SECONDS = 2.0  # of measuring, each image size
TURN = 0.005  # seconds that a contender's turn should last at least, so that short calls queue up as in real use
ROUNDS = (5, 200)  # fewest and most

Say = Callable[[str], object]
Contender = Callable[[], Tensor]


def recipe(likelihoods: Tensor, stride: int = STRIDE) -> Tensor:
    """Run the chain of CompressAI issue 265: likelihoods ``[N, C, h, w]`` to bits per pixel ``[N, 1, H, W]``."""
    bits = -likelihoods.log2().sum(dim=1, keepdim=True)
    return F.interpolate(bits / stride**2, scale_factor=stride, mode="bilinear", align_corners=False)


def sets_of_buffers(size: int, cold: bool = False) -> int:
    """Return how many sets of so many bytes calls use in turn; cold, none of any size may find its own in a cache."""
    return 1 if size < SMALL and not cold else 1 + ROTATED // size


def in_turn(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """Return a call that makes one of several after the other, over and over."""
    around = itertools.cycle(calls)
    return lambda: next(around)()


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    compare(checked_device(arguments.device), lambda line: echo(line, sys.stdout))
    return OK


def compare(device: torch.device, say: Say) -> None:
    """Measure and say; most of a minute, half of which is compiling.

    Raises:
        RuntimeError: a contender's answer is wrong; wrong answers are not timed.
    """
    say(_machine(device))
    say(f"{CHANNELS} channels, one cell for {STRIDE} x {STRIDE} pixels, float32; median milliseconds a call")
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # absent on Windows
    if busy > 0.5 * (os.cpu_count() or 1):
        say(f"The machine is busy (load {busy:.1f}): these times are longer than they need be, and the ratios rough.")
    if not library.available(device):
        say(f"No fused kernel: {library.why_absent(device)}. The column shows the package's PyTorch reference.")
    trouble = ""
    for cold, state in ((False, "hot"), (True, "cold")):
        say("")
        say(_row(state, "map", "fused", "recipe", "compiled", "copy", "recipe/", "compiled/", "fused/"))
        say(_row("", "", "", "", "", "", "fused", "fused", "copy"))
        for name, (height, width) in IMAGES.items():
            h, w = -(-height // STRIDE), -(-width // STRIDE)
            generator = torch.Generator().manual_seed(0)
            likelihoods = torch.rand(1, CHANNELS, h, w, generator=generator).clamp_min(1e-9).to(device)
            contenders, why = _contenders(likelihoods, cold)
            trouble = trouble or why
            _check_answers(contenders, likelihoods)
            took = _medians(contenders, device, cold)
            times = [took.get(column) for column in ("fused", "recipe", "compiled", "copy")]
            fused, chain, compiled, copy = times
            ratios = [_ratio(chain, fused), _ratio(compiled, fused), _ratio(fused, copy)]
            milliseconds = ["-" if seconds is None else f"{seconds * 1e3:.2f}" for seconds in times]
            say(_row(name, f"{h * STRIDE} x {w * STRIDE}", *milliseconds, *ratios))
    say("")
    say("hot       calls in a row, with a tensor for the result; larger images have more buffers than caches hold")
    say("cold      as after a network: likelihoods that no cache holds, a new tensor for the result, one call a turn")
    say("fused     bitrate_ext.bitrate_map(p, scale_factor=16), hot with out=...")
    say("recipe    PyTorch: -log2, sum over channels, F.interpolate (CompressAI issue 265)")
    say(
        "compiled  torch.compile(recipe)"
        + (f": left out, {trouble}" if trouble else ", compiled anew for each size, hot alone")
    )
    say("copy      a copy of half the bytes, which reads and writes as much as reading p once and writing the map once")


def _row(*cells: str) -> str:
    return f"{cells[0]:<6}{cells[1]:>12}" + "".join(f"{cell:>10}" for cell in cells[2:])


def _ratio(one: float | None, other: float | None) -> str:
    return "-" if one is None or other is None else f"{one / other:.1f}x"


def _machine(device: torch.device) -> str:
    where = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {instruction_set()}"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}; {where}"
    return f"torch {torch.__version__} on {device}: {where}"


def _contenders(likelihoods: Tensor, cold: bool) -> tuple[dict[str, Contender], str]:
    """Return calls by name, each already run with all its buffers, and why there is no compiled one."""
    shape = (1, 1, STRIDE * likelihoods.shape[2], STRIDE * likelihoods.shape[3])
    size = likelihoods.nbytes + 4 * shape[2] * shape[3]
    compiled, why = (None, "") if cold else _compiled(likelihoods)
    calls: dict[str, list[Contender]] = {"fused": [], "recipe": [], "copy": []}
    if compiled is not None:
        calls["compiled"] = []
    for p in [likelihoods, *(likelihoods.clone() for _ in range(sets_of_buffers(size, cold) - 1))]:
        out = None if cold else torch.empty(shape, device=p.device)
        half = torch.full((size // 8,), 0.5, device=p.device)
        target = torch.empty_like(half)
        calls["fused"].append(partial(bitrate_map, p, scale_factor=STRIDE, out=out))
        calls["recipe"].append(partial(recipe, p))
        calls["copy"].append(partial(target.copy_, half))
        if compiled is not None:
            calls["compiled"].append(partial(compiled, p))
    for each in calls.values():
        for call in each:
            call()
    return {name: in_turn(each) for name, each in calls.items()}, why


def _compiled(likelihoods: Tensor) -> tuple[Callable[[Tensor], Tensor] | None, str]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the compiler's remarks on the machine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.compile(recipe, dynamic=False)
            program(likelihoods)
    except Exception as error:  # no compiler, no Triton, an unknown processor: anything may come
        return None, f"it does not compile here ({type(error).__name__})"
    finally:
        logging.disable(disabled)
    return program, ""


def _check_answers(contenders: dict[str, Contender], likelihoods: Tensor) -> None:
    """Check that no answer is further from that in float64 than twice the recipe's in float32."""
    exact = recipe(likelihoods.double())
    allowed = 2 * (recipe(likelihoods).double() - exact).abs().max() + 1e-6 * exact.abs().max()
    for name, call in contenders.items():
        if name != "copy" and not (call().double() - exact).abs().max() <= allowed:
            raise RuntimeError(f"{name} gives a wrong map of {list(likelihoods.shape)} likelihoods; nothing was timed")


def _medians(contenders: dict[str, Contender], device: torch.device, cold: bool) -> dict[str, float]:
    """Measure median seconds a call, over rounds in which all take turns."""
    most_calls = 1 if cold else 20
    calls = {name: max(1, min(most_calls, int(TURN / _turn(call, 1, device)))) for name, call in contenders.items()}
    took: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + SECONDS
    fewest, most = ROUNDS
    for count in range(most):
        if count >= fewest and time.perf_counter() > end:
            break
        for name, call in contenders.items():
            took[name].append(_turn(call, calls[name], device))
    return {name: statistics.median(times) for name, times in took.items()}


def _turn(call: Contender, calls: int, device: torch.device) -> float:
    """Measure seconds a call, over ``calls`` in a row; the device is waited for only at the two ends."""
    start = _clock(device)
    for _ in range(calls):
        call()
    return (_clock(device) - start) / calls


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
