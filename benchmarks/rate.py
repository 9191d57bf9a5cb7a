"""Bits straight from latents beside what others do: CompressAI's likelihoods, that chain compiled, a copy of all bytes.

Contenders of a workload take turns, and each answer is checked before it is timed. Wall time, and processor time of all
threads, which says more where the machine is shared; the least of the rounds. ``make bench-rate`` runs it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from record import machine
from torch import Tensor

import bitrate_ext as be

FLOOR = 1e-9  # CompressAI's
SIZES = {"4k": (192, 135, 240), "small": (24, 20, 30)}  # channels and grid
BATCH = {"4k": (16, 192, 16, 16), "small": (2, 24, 8, 8)}
Call = Callable[[], Any]
Workload = tuple[str, int, dict[str, Call]]  # its name, symbols, and contenders: the first is ours


def latents(shape: tuple[int, ...]) -> list[Tensor]:
    """Values, scales and means as a trained model has them: channels from nearly certain to wide."""
    generator = torch.Generator().manual_seed(1)
    wide = torch.exp(torch.linspace(-3, 2, shape[1])).reshape(1, -1, 1, 1)
    scales = wide * (torch.rand(shape, generator=generator) + 0.5)
    means = wide * torch.randn(shape, generator=generator)
    values = torch.round(scales * torch.randn(shape, generator=generator)) + means
    return [values, scales, means]


def forward(channels: int, h: int, w: int) -> Workload:
    v, s, m = latents((1, channels, h, w))
    theirs, size = GaussianConditional(None), (16 * h, 16 * w)

    def chain() -> Tensor:
        with torch.no_grad():
            likelihood = theirs.likelihood_lower_bound(theirs._likelihood(v, s, m))
            return be.bitrate_map(likelihood, size)

    return "Gaussian to a map", v.numel(), {
        "fused": lambda: be.bitrate_map(be.Gaussian(v, s, m, floor=FLOOR), size),
        "CompressAI": chain,
        "copy": lambda: [t.clone() for t in (v, s, m)],
    }  # fmt: skip


def backward(*shape: int) -> Workload:
    leaves = [t.requires_grad_() for t in latents(shape)]
    theirs = GaussianConditional(None)

    def chain(v: Tensor, s: Tensor, m: Tensor) -> Tensor:
        return -theirs.likelihood_lower_bound(theirs._likelihood(v, s, m)).log2().sum()

    def plain(v: Tensor, s: Tensor, m: Tensor) -> Tensor:
        """The same without CompressAI's own gradient functions, which the compiler would leave as they are."""
        x, s = (v - m).abs(), s.clamp_min(0.11)
        upper, lower = (torch.erfc((x - side) / s * 0.5**0.5) / 2 for side in (0.5, -0.5))
        return -(upper - lower).clamp_min(FLOOR).log2().sum()

    compiled = torch.compile(plain)
    return "Gaussian, forward and backward", leaves[0].numel(), {
        "fused": lambda: torch.autograd.grad(be.rate(be.Gaussian(*leaves, floor=FLOOR)).sum(), leaves),
        "CompressAI": lambda: torch.autograd.grad(chain(*leaves), leaves),
        "compiled": lambda: torch.autograd.grad(compiled(*leaves), leaves),
        "copy": lambda: [t.clone() for t in leaves for _ in range(2)],
    }  # fmt: skip


def symbols(channels: int, h: int, w: int) -> Workload:
    module = EntropyBottleneck(channels).eval()
    values = torch.round(4 * torch.randn((1, channels, h, w), generator=torch.Generator().manual_seed(2)))

    def chain() -> Tensor:
        with torch.no_grad():
            return -module(values)[1].log2().sum((1, 2, 3)).double()

    def fused() -> Tensor:
        with torch.no_grad():
            return be.rate(be.Factorized(module, values, floor=FLOOR))

    return "factorised, whole numbers", values.numel(), {
        "fused": fused, "CompressAI": chain, "copy": lambda: values.clone()
    }  # fmt: skip


def training(*shape: int) -> Workload:
    module = EntropyBottleneck(shape[1])
    noisy = (4 * torch.randn(shape, generator=torch.Generator().manual_seed(3))).requires_grad_()
    leaves = [noisy, *module.matrices, *module.biases, *module.factors]

    def chain() -> tuple[Tensor, ...]:
        moved = noisy.movedim(1, 0).reshape(shape[1], 1, -1)
        likelihood = module.likelihood_lower_bound(module._likelihood(moved)[0])
        return torch.autograd.grad(-likelihood.log2().sum(), leaves)

    return "factorised, forward and backward", noisy.numel(), {
        "fused": lambda: torch.autograd.grad(be.rate(be.Factorized(module, noisy, floor=FLOOR)).sum(), leaves),
        "CompressAI": chain,
        "copy": lambda: [noisy.detach().clone() for _ in range(2)],
    }  # fmt: skip


def workloads(scale: str) -> Iterator[Workload]:
    yield forward(*SIZES[scale])
    yield backward(*BATCH[scale])
    yield symbols(*SIZES[scale])
    yield training(*BATCH[scale])


def check(name: str, ours: Any, theirs: Any) -> None:
    """Compare answers; CompressAI's cancel in float32, so they are further from the truth than ours."""
    for mine, other in zip(*(x if isinstance(x, (list, tuple)) else [x] for x in (ours, theirs)), strict=True):
        off = (mine.double() - other.double()).abs().max() / other.double().abs().max()
        assert off <= 1e-3, f"{name} is wrong by {float(off):.1e}; it was not timed"


def measured(contenders: dict[str, Call], seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of wall and of processor time, the least and the median of rounds in which all take turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["fused"]) < 3:
        for name, call in contenders.items():
            start = time.perf_counter(), time.process_time()
            call()
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    found = {}
    for name, rounds in times.items():
        walls, processors = (sorted(1e3 * value for value in column) for column in zip(*rounds, strict=True))
        found[name] = {"wall": walls[0], "median": walls[len(walls) // 2], "processor": processors[0]}
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="4k", choices=SIZES)
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring each workload")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    record: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "threads": options.threads, "rows": []}
    print(f"{'ms':36}{'wall':>9}{'median':>9}{'processor':>11}  ns a symbol and thread, over fused: wall, processor")
    for title, count, contenders in workloads(options.scale):
        for name in ("CompressAI", "compiled"):
            if name in contenders:
                check(f"{title}, {name}", contenders["fused"](), contenders[name]())
        found = measured(contenders, options.seconds)
        for name, ms in found.items():
            over = [ms[key] / found["fused"][key] for key in ("wall", "processor")]
            record["rows"].append({"workload": title, "contender": name, "symbols": count, **ms})
            print(
                f"{title + ', ' + name:36}{ms['wall']:9.2f}{ms['median']:9.2f}{ms['processor']:11.2f}"
                f"{ms['processor'] * 1e6 / count:8.2f}{over[0]:8.2f}{over[1]:8.2f}",
                flush=True,
            )
    if options.record:
        options.record.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
