"""The definition of what a source's symbols cost, in plain PyTorch and float64.

Correct on every device and differentiable any number of times; the kernels are tested against it. Each family gives
the logarithm of its likelihood in a form that neither cancels nor underflows: with ``a`` and ``b`` the standardised
distances of a symbol's nearer and farther edge from the mean (``a`` is negative where the mean is inside), in tails
``CDF(-a) - CDF(-b) = exp(-a^2 / 2) (R(a) - exp(-(b^2 - a^2) / 2) R(b))`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..sources import FACTORIZED, GAUSSIAN, LAPLACE, LOGISTIC, MIXTURE, Flat


class _AtLeast(torch.autograd.Function):
    """``max(values, bound)`` with the gradient of CompressAI's ``LowerBound``: one below the bound may grow, no more.

    Of logarithms of what is bounded, such a gradient is that of the values that they belong to.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, bound: float, are_logarithms: bool) -> Tensor:
        return torch.where(values < bound, bound, values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: Tensor) -> None:
        values, ctx.bound, ctx.are_logarithms = inputs
        ctx.save_for_backward(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        passed = grad * torch.exp(values - ctx.bound) if ctx.are_logarithms else grad
        below = torch.where(grad >= 0, 0.0, passed)
        return torch.where(values < ctx.bound, below, grad), None, None


class _AtLeastForwards(_AtLeast):
    """The same where forward mode, which has the true derivative, may want it: ``torch.compile`` takes no ``jvp``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: Tensor) -> None:
        _AtLeast.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (values,) = ctx.saved_tensors
        return torch.where(values < ctx.bound, 0.0, tangent)


def _at_least(values: Tensor, bound: float, are_logarithms: bool = False) -> Tensor:
    kind = _AtLeast if torch.compiler.is_compiling() else _AtLeastForwards
    bounded: Tensor = kind.apply(values, bound, are_logarithms)
    return bounded


def _edges(values: Tensor, scales: Tensor, means: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the distance, a and b, see the module, and which scales are none."""
    distance = (values - means).abs()
    return distance, (distance - 0.5) / scales, (distance + 0.5) / scales, ~(scales > 0)


def _gaussian(values: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    distance, a, b, wrong = _edges(values, scales, means)
    outside = a > 0
    # Each branch sees harmless numbers where the other one counts, so that no gradient of it is NaN.
    near, far = (torch.where(outside, x, 1.0) * math.sqrt(0.5) for x in (a, b))
    gap = torch.where(outside, distance / scales.square(), 1.0)  # (b^2 - a^2) / 2
    scaled = torch.special.erfcx(near) - torch.exp(-gap) * torch.special.erfcx(far)
    tail = (scaled / 2).log() - near.square()
    left, right = (torch.where(outside, 1.0, x) * math.sqrt(0.5) for x in (-a, b))
    flat, steep = (
        ((torch.erf(left) + torch.erf(right)) / 2).log(),
        torch.log1p(-(torch.erfc(left) + torch.erfc(right)) / 2),
    )
    return torch.where(wrong, math.nan, torch.where(outside, tail, torch.where(left < 0.5, flat, steep)))


def _laplace(values: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    _, a, b, wrong = _edges(values, scales, means)
    tail = -a + (-torch.expm1(-1 / scales) / 2).log()
    inside = torch.where(a < 0, -a, 1.0)
    centre = (-(torch.expm1(-inside) + torch.expm1(-b)) / 2).log()
    return torch.where(wrong, math.nan, torch.where(a < 0, centre, tail))


def _between_logits(lower: Tensor, upper: Tensor, gap: Tensor) -> Tensor:
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + (-torch.expm1(-gap)).log()


def _logistic(values: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    _, a, b, wrong = _edges(values, scales, means)
    return torch.where(wrong, math.nan, _between_logits(-b, -a, 1 / scales))


def _mixture(values: Tensor, scales: Tensor, means: Tensor, weights: Tensor) -> Tensor:
    batch, channels, *grid = values.shape
    apart = (batch, scales.shape[1] // max(1, channels), channels, *grid)
    logs = _gaussian(values.unsqueeze(1), scales.reshape(apart), means.reshape(apart))
    if not logs.numel():
        return logs.sum(1)
    most = logs.detach().amax(1, keepdim=True).clamp_min(torch.finfo(logs.dtype).min)
    total = (weights.reshape(apart) * (logs - most).exp()).sum(1)
    return total.log() + most.squeeze(1)


def _logits(values: Tensor, parameters: Tensor, filters: Sequence[int]) -> Tensor:
    """Return the network's logit of each channel's values, ``[C, 1, n]``."""
    at = 0

    def take(rows: int, columns: int) -> Tensor:
        nonlocal at
        part = parameters[:, at : at + rows * columns].reshape(-1, rows, columns)
        at += rows * columns
        return part

    widths = (1, *filters, 1)
    for layer, (before, after) in enumerate(pairwise(widths)):
        values = take(after, before) @ values + take(after, 1)
        if layer < len(filters):
            values = values + take(after, 1) * torch.tanh(values)
    return values


def _factorized(values: Tensor, parameters: Tensor, filters: Sequence[int]) -> Tensor:
    count = parameters.shape[1] // 2  # weights, an origin, and what the weights are rounded by
    parameters = parameters[:, :count] + parameters[:, count + 1 :].detach()
    moved = values.movedim(1, 0)
    flat = moved.reshape(moved.shape[0], 1, -1)
    lower, upper = (_logits(flat + side, parameters, filters) for side in (-0.5, 0.5))
    return _between_logits(lower, upper, upper - lower).reshape(moved.shape).movedim(0, 1)


_LOGARITHMS: dict[int, Callable[..., Tensor]] = {
    GAUSSIAN: _gaussian,
    LAPLACE: _laplace,
    LOGISTIC: _logistic,
    MIXTURE: _mixture,
    FACTORIZED: _factorized,
}


def symbol_bits(source: Flat) -> Tensor:
    """Return what each symbol costs, float64 ``[N, C, h, w]``, in bits."""
    tensors = [tensor.double() for tensor in source.tensors]
    if source.bound > 0:
        tensors[1] = _at_least(tensors[1], source.bound)
    extra = (source.filters,) if source.family == FACTORIZED else ()
    log = _LOGARITHMS[source.family](*tensors, *extra)
    if source.floor > 0:
        log = _at_least(log, math.log(source.floor), are_logarithms=True)
    return log / -math.log(2) + 0.0  # a certain symbol costs 0, never -0


def cell_bits(source: Flat) -> Tensor:
    """Return the bits of cells, float64 ``[N, h, w]``."""
    return symbol_bits(source).sum(1)
