"""What the tensors of a call may hold: likelihoods, or a cost in some unit, which becomes bits here."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import choices

LIKELIHOOD = choices.UNITS[0]
NOUNS = ("likelihoods", "bits", "nats", "log2-likelihoods", "log-likelihoods")
FACTORS = (0.0, 1.0, 1 / math.log(2), -1.0, -1 / math.log(2))  # bits in one; likelihoods go to the kernel as they are
UNITS = dict(zip(choices.UNITS, zip(NOUNS, FACTORS, strict=True), strict=True))  # their name in messages, and factor
LANES = 8
COST_SLACK = 1e-3  # bits below zero that rounding may leave in a cost, which may be a sum over a cell


def noun_of(unit: str) -> str:
    """Return what tensors of that unit are called in messages; raises ValueError where there is no such unit."""
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(map(repr, UNITS))}, got {unit!r}")
    return UNITS[unit][0]


def sum_channels(values: Tensor) -> Tensor:
    """Return the float64 sum over channels, ``[N, h, w]``, of values ``[N, C, h, w]``.

    The order, and with it the bytes, follow from C alone: the same on every device, in any layout, and for any part of
    the grid. Channel c goes to lane c mod 8, as in the kernels, so that no wide copy of the values is made.
    """
    batch, channels, *grid = values.shape
    whole = channels - channels % LANES
    lanes = values.new_zeros((batch, LANES, *grid), dtype=torch.float64)
    for first in range(0, whole, LANES):
        lanes = lanes + values[:, first : first + LANES]
    total = torch.zeros_like(lanes[:, 0])
    for one in (*lanes.unbind(1), *values[:, whole:].unbind(1)):
        total = total + one
    return total


def kernel_input(values: Tensor, unit: str) -> Tensor:
    """Return what the kernels take: likelihoods ``[N, C, h, w]`` as they are, anything else as bits ``[N, h, w]``.

    Costs of single symbols are summed in float64, then scaled to bits, once; both are differentiable.
    """
    if unit == LIKELIHOOD:
        return values
    factor = UNITS[unit][1]
    cells = sum_channels(values) if values.dim() == 4 else values
    return cells if factor == 1 else cells.double() * factor


def value_range(values: Tensor) -> tuple[float, float]:
    """Return the least and the greatest value, NaN where one is that; waits for the device. Zeros of no values."""
    if not values.numel():
        return 0.0, 0.0
    low, high = torch.aminmax(values.detach())
    return float(low), float(high)


def range_trouble(what: str, low: float, high: float, dtype: torch.dtype, unit: str) -> str:
    """Return a sentence on values that are no such likelihoods or costs; empty where they may be.

    Args:
        what: names the values.
        low, high: their range, see ``value_range``.
        dtype: theirs. A likelihood may exceed 1 by four of its units in the last place, or of float32's in float64.
        unit: what they were said to be.
    """
    factor = UNITS[unit][1]
    slack = 4 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    if unit == LIKELIHOOD:
        expected, fine = "in [0, 1]", low >= 0 and high <= 1 + slack
    else:
        expected = "at most 0" if factor < 0 else "at least 0"
        fine = min(low * factor, high * factor) >= -COST_SLACK
    if fine:
        return ""
    if math.isnan(low):
        return f"{what} must be {expected}, got NaN among them, which makes NaN of the map around it"
    if low < 0 < high - slack:
        seems = "of both signs, which no unit fits; they may be latents, images, or rounded below 0"
    else:
        fitting = [f"unit={name!r}" for name, (_, other) in UNITS.items() if other and (other < 0) == (low < 0)]
        seems = f"which {' or '.join(fitting)} would fit"
    return f"{what} must be {expected}, got values from {low:.8g} to {high:.8g}, {seems}"
