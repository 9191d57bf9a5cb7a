"""Sources of bits: their workloads for gpu.py, and what people would use instead, in the same order of arguments.

CompressAI's chain is written out here, in its arithmetic, so that a machine needs no CompressAI; tests hold the two
together. Data keep away from its bounds, where plain PyTorch has other gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import opponents
import torch
import torch.nn.functional as F
from opponents import Call
from torch import Tensor
from workloads import Buffers

import bitrate_ext
from bitrate_ext.cli.bench import sets_of_buffers
from bitrate_ext.ops.rate import reference

FLOOR, BOUND = 1e-9, 0.11  # CompressAI's, of likelihoods and of scales
COMPONENTS, FILTERS = 3, (3, 3, 3, 3)  # of a mixture; of a factorised prior
SHAPES = {"4k": (1, 192, 135, 240), "training": (16, 192, 16, 16)}  # values, [N, C, h, w]
TENSORS = {"Gaussian": 3, "Laplace": 3, "Logistic": 3, "GaussianMixture": 1 + 3 * COMPONENTS, "Factorized": 1}
TRIALS = opponents.opponents_triton.GAUSSIAN_TRIALS if opponents.opponents_triton else ()
OURS = ("fused", "kernel")


@dataclass(frozen=True)
class SourceWorkload:
    """The bits of the cells of a source, or the gradient of all that it holds."""

    family: str
    direction: str = "forward"
    image: str = "4k"  # a name of SHAPES

    @property
    def name(self) -> str:
        return f"{self.family} {self.direction}, {self.image}"

    @property
    def cells(self) -> int:
        batch, _, *grid = SHAPES[self.image]
        return batch * math.prod(grid)

    @property
    def pixels(self) -> int:
        return 256 * self.cells

    @property
    def bytes(self) -> int:
        """Forward: the source's tensors and the cells. Backward: the tensors, the cells' gradient, and theirs."""
        one = 4 * math.prod(SHAPES[self.image]) * TENSORS[self.family]
        return one * (2 if self.direction == "backward" else 1) + 8 * self.cells

    @property
    def sets(self) -> int:
        return sets_of_buffers(self.bytes)


WORKLOADS = [
    *(SourceWorkload(family) for family in TENSORS),
    *(SourceWorkload(family, "backward", "training") for family in TENSORS),
]


def make_buffers(workload: SourceWorkload, device: torch.device, sets: int | None = None) -> list[Buffers]:
    """Values, scales and means as a trained model has them, channels from nearly certain to wide; and cells."""
    draw = torch.Generator(device).manual_seed(1)
    shape = SHAPES[workload.image]
    batch, channels, *grid = shape

    def uniform(*sides: int) -> Tensor:
        return torch.rand(sides, generator=draw, device=device)

    wide = torch.exp(torch.linspace(-1, 2, channels, device=device)).reshape(-1, 1, 1)
    normal = torch.randn(shape, generator=draw, device=device)
    made: dict[str, Tensor] = {}
    if workload.family == "Factorized":
        made["values"] = 4 * normal if workload.direction == "backward" else (4 * normal).round()
        made |= prior(channels, uniform)
    else:
        count = COMPONENTS if workload.family == "GaussianMixture" else 1
        scales = wide * (uniform(batch, count, *shape[1:]) + 0.5)
        means = wide * (uniform(batch, count, *shape[1:]) - 0.5)
        values = (scales[:, 0] * normal).clamp(-4 * scales[:, 0], 4 * scales[:, 0]).round() + means[:, 0]
        made |= {"values": values, "scales": scales.flatten(1, 2), "means": means.flatten(1, 2)}
        if count > 1:
            made["weights"] = torch.softmax(uniform(batch, count, *shape[1:]), 1).flatten(1, 2)
    cells = torch.ones(batch, *grid, dtype=torch.float64, device=device)
    count = workload.sets if sets is None else sets
    return [Buffers({name: one.clone() for name, one in made.items()}, cells.clone()) for _ in range(count)]


def prior(channels: int, uniform: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Return a network's parameters by name, layer by layer, for values a few symbols wide."""
    widths, made = (1, *FILTERS, 1), {}
    for layer in range(len(FILTERS) + 1):
        before, after = widths[layer : layer + 2]
        start = math.log(math.expm1(10 ** (-1 / len(widths[1:])) / after))
        made[f"matrix{layer}"] = start + 0.2 * uniform(channels, after, before)
        made[f"bias{layer}"] = uniform(channels, after, 1) - 0.5
        if layer < len(FILTERS):
            made[f"factor{layer}"] = uniform(channels, after, 1) - 0.5
    return made


def layers(tensors: dict[str, Tensor]) -> list[list[Tensor]]:
    """Return matrices, biases and factors."""
    return [[one for name, one in tensors.items() if name.startswith(kind)] for kind in ("matrix", "bias", "factor")]


def source_of(workload: SourceWorkload, tensors: dict[str, Tensor]) -> Any:
    kind = getattr(bitrate_ext, workload.family)
    if workload.family != "Factorized":
        return kind(**tensors, scale_bound=BOUND, floor=FLOOR)
    matrices, biases, factors = layers(tensors)
    module = SimpleNamespace(matrices=matrices, biases=biases, factors=factors, filters=FILTERS)
    return kind(module, tensors["values"], floor=FLOOR)


def fused(workload: SourceWorkload, buffers: Buffers) -> Call:
    tensors = required(workload, buffers)
    if workload.direction == "backward":
        made = bitrate_ext.latent_bits(source_of(workload, tensors), dtype=torch.float64)
        return opponents.gradient_of(made, buffers)
    return lambda: bitrate_ext.latent_bits(source_of(workload, tensors), dtype=torch.float64)


def kernel(workload: SourceWorkload, buffers: Buffers) -> Call:
    """The backward kernel into gradients that are there already. A factorised prior's are packed: values' alone."""
    flat = source_of(workload, {name: one.detach() for name, one in buffers.likelihoods.items()}).flat()
    gradients = [torch.zeros_like(one) for one in flat.tensors]
    kinds = [flat.family], [flat.bound], [flat.floor]

    def call() -> list[Tensor]:
        torch.ops.bitrate_ext._cell_bits_backward([buffers.out], flat.tensors, *kinds, gradients)
        return gradients[:1] if workload.family == "Factorized" else gradients

    return call


def required(workload: SourceWorkload, buffers: Buffers) -> dict[str, Tensor]:
    for one in buffers.likelihoods.values():
        one.requires_grad_(workload.direction == "backward")
    return buffers.likelihoods


def normal_tail(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-(2**-0.5) * x)


def laplace_tail(x: Tensor) -> Tensor:
    half = 0.5 * torch.exp(-x.abs())
    return torch.where(x < 0, half, 1 - half)


def interval(cumulative: Callable[[Tensor], Tensor], values: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    """Return the probability of a symbol, on the side of the mean where the cumulative is small."""
    distance, scales = (values - means).abs(), scales.clamp_min(BOUND)
    return cumulative((0.5 - distance) / scales) - cumulative((-0.5 - distance) / scales)


def mixture(values: Tensor, scales: Tensor, means: Tensor, weights: Tensor) -> Tensor:
    apart = (values.shape[0], -1, *values.shape[1:])
    each = interval(normal_tail, values.unsqueeze(1), scales.reshape(apart), means.reshape(apart))
    return (weights.reshape(apart) * each).sum(1)


def factorized(values: Tensor, **network: Tensor) -> Tensor:
    moved = values.transpose(0, 1)
    flat = moved.reshape(len(moved), 1, -1)

    def logits(x: Tensor) -> Tensor:
        for matrix, bias, factor in zip_longest(*layers(network)):
            x = torch.matmul(F.softplus(matrix), x) + bias
            x = x if factor is None else x + torch.tanh(factor) * torch.tanh(x)
        return x

    p = torch.sigmoid(logits(flat + 0.5)) - torch.sigmoid(logits(flat - 0.5))
    return p.reshape(moved.shape).transpose(0, 1)


LIKELIHOODS: dict[str, Callable[..., Tensor]] = {
    "Gaussian": partial(interval, normal_tail),
    "Laplace": partial(interval, laplace_tail),
    "Logistic": partial(interval, torch.sigmoid),
    "GaussianMixture": mixture,
    "Factorized": factorized,
}


def chain(family: str, tensors: dict[str, Tensor]) -> Tensor:
    """Return the bits of cells by likelihoods, as CompressAI makes them, and their logarithms."""
    return -LIKELIHOODS[family](**tensors).clamp_min(FLOOR).log2().sum(1).double()


def by_chain(workload: SourceWorkload, buffers: Buffers, run: Callable[..., Tensor] = chain) -> Call:
    tensors = required(workload, buffers)
    if workload.direction == "backward":
        return opponents.gradient_of(run(workload.family, tensors), buffers)
    return lambda: run(workload.family, tensors)


def compiled(workload: SourceWorkload, buffers: Buffers) -> Call:
    """``torch.compile`` of the chain, forward and backward; sets of buffers share one program."""
    if workload not in _programs:
        _programs.clear()
        torch._dynamo.reset()
        _programs[workload] = torch.compile(chain, dynamic=False)
    return by_chain(workload, buffers, _programs[workload])


_programs: dict[SourceWorkload, Callable[..., Tensor]] = {}


def by_triton(workload: SourceWorkload, buffers: Buffers, blocks: Any = None) -> Call:
    tensors, out = list(buffers.likelihoods.values()), torch.empty_like(buffers.out)
    blocks = blocks or TRIALS[0]
    return lambda: opponents.opponents_triton.gaussian_by_triton(*tensors, out, BOUND, FLOOR, blocks)


CONTENDERS: dict[str, dict[str, Callable[[Any, Buffers], Call]]] = {  # by contender and variant, as gpu.py has them
    "copy": {"copy_": opponents.copy},
    "fused": {"": fused},
    "CompressAI": {"": by_chain},
    "compiled CompressAI": {"": compiled},
    "Triton": {str(blocks): partial(by_triton, blocks=blocks) for blocks in TRIALS},
}


def why_not(contender: str, workload: SourceWorkload, device: torch.device) -> str:
    """Why a contender does not take part in a workload; "" where it does."""
    if contender == "Triton" and (device.type != "cuda" or not TRIALS):
        return "it needs a GPU and Triton"
    return ""


def exact_answer(workload: SourceWorkload, buffers: Buffers) -> list[Tensor]:
    """In float64 by the reference: the cells, or the gradients of all tensors."""
    tensors = {name: one.detach().double() for name, one in buffers.likelihoods.items()}
    leaves = [one.requires_grad_(workload.direction == "backward") for one in tensors.values()]
    made = reference.cell_bits(source_of(workload, tensors).flat())
    return [made] if workload.direction == "forward" else list(torch.autograd.grad(made, leaves, buffers.out))


def checked(workload: SourceWorkload, contender: str, answer: Any, exact: list[Tensor]) -> float | None:
    """Return an answer's error; None for one that computes nothing.

    Raises:
        AssertionError: it is too large; wrong answers are not timed.
    """
    if contender in opponents.LIMITS:
        return None
    if workload.family == "Factorized" and len(answer) == 1:
        exact = exact[:1]
    error = opponents.relative_error(answer, exact)
    allowed = 3e-5 if contender in OURS else 2e-3  # what cancels in float32
    assert error <= allowed, f"{contender} is wrong by {error:.1e}; it was not timed"
    return error
