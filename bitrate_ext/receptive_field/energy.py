"""Where symbols' bits go by the energy of their impulse responses, estimated with random signs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.trace import SynthesisTransform, random_signs

REVERSE = 2  # passes in reverse mode for each in forward mode
REPEATED = 32  # one pass in so many, and at least one, is spent on measuring the noise
WINDOW = 9  # of the filter, pixels


def spread_by_energy(
    transform: SynthesisTransform,
    bits: Tensor,
    passes: int,
    generator: torch.Generator,
    on_pass: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Estimate where each symbol's bits go by the energy of its impulse response, and how far that is off.

    Each forward pass drives its own part of the symbols, with random signs, so that a symbol's response has the energy
    of its bits. Squared and added up over the passes, products of two symbols' responses remain only within a pass, and
    cancel on average. The symbols of a cell take turns by their bits, from a random start: the costly ones of a
    neighbourhood fall into different passes. With as many passes as symbols that overlap, nothing is left to cancel.

    What remains is speckle, of a relative variance that is measured by driving some parts again with other signs. It is
    filtered as in radar images (Lee 1980, doi 10.1109/TPAMI.1980.4766994): towards the mean of the neighbourhood,
    by as much as the noise explains the variance there.

    Args:
        transform: of one image.
        bits: ``[1, C, h, w]``, what each symbol costs.
        passes: in forward mode; twice as many in reverse mode find the energy of each symbol's response.
        on_pass: called after each of either.

    Returns:
        float64 ``[H, W]`` that adds up to the bits, and the expected L1 distance to what infinitely many passes give,
        as a share of the bits.

    Raises:
        ValueError: symbols that cost bits change nothing.
    """
    bits = bits.double().clamp_min(0)
    repeated = max(1, passes // REPEATED)
    parts = passes - repeated
    energy = transform.symbol_energy(REVERSE * passes, generator, on_pass)
    amplitude = torch.where(energy > 0, bits / energy, 0).sqrt().to(transform.inputs)
    start = torch.randint(parts, bits.shape[2:], generator=generator).to(bits.device)
    rank = bits.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    part_of = (rank + start) % parts

    def driven(part: int) -> Tensor:
        tangent = random_signs(amplitude, generator) * amplitude
        energy = transform.energy(torch.where(part_of == part, tangent, 0)).double()[0]
        on_pass()
        return energy

    total = noise = torch.zeros(())
    for part in range(parts):
        one = driven(part)
        if part < repeated:
            other = driven(part)
            noise = noise + (one - other).square().sum() / 2  # variance of one draw
            one = (one + other) / 2
        total = total + one
    if not total.sum() > 0:
        if bits.any():
            raise ValueError(f"symbols that cost bits change nothing of what {transform.name} returns")
        return total.double(), total.sum()
    variance = noise / repeated * (parts - repeated / 2)
    relative = float(variance / (total.square().sum() - variance).clamp_min(variance))
    filtered, wrong = _without_speckle(total, relative)
    return filtered * (bits.sum() / filtered.sum()), wrong.sum() / filtered.sum()


def _without_speckle(noisy: Tensor, relative: float) -> tuple[Tensor, Tensor]:
    """Lee's filter for noise of that relative variance: the map ``[H, W]`` and its expected absolute error."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0]

    average = mean(noisy)
    variance = (mean(noisy.square()) - average.square()).clamp_min(0)
    signal = ((variance - relative * average.square()) / (1 + relative)).clamp_min(0)
    noise = relative * (average.square() + signal)
    trust = signal / (signal + noise).clamp_min(torch.finfo(noisy.dtype).tiny)
    squared = trust * noise + (1 - trust).square() * noise / WINDOW**2
    return average + trust * (noisy - average), (2 / math.pi * squared).sqrt()
