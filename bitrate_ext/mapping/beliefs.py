"""What an entropy model believed of each symbol before it was coded: the mean and the spread of its distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.padding import Crop, Size
from ..ops.rate.cells import symbol_bits
from ..ops.rate.packed import parts_of
from ..ops.sources import FACTORIZED, GAUSSIAN, LAPLACE, LOGISTIC, MIXTURE, Flat, Source
from .channels import chosen_channels

Beliefs = dict[str, dict[str, Tensor]]  # by latent, "scales" and "means", [N, C, h, w]
DEVIATIONS = {GAUSSIAN: 1.0, LAPLACE: math.sqrt(2), LOGISTIC: math.pi / math.sqrt(3), MIXTURE: 1.0}  # of a scale of 1
NODES, LEAST, MOST = 1024, -4.0, 6.0  # of the table of entropies: how many, and the logarithms of scales at its ends
TAIL = 20  # deviations, beyond which there is next to nothing
WIDEST, LEFT = 4096, 3e-6  # of a factorised prior: steps to either side, at most, and the probability beyond them


def beliefs_of(sources: Mapping[str, Source]) -> Beliefs:
    """Return scales and means of each latent that has them; a factorised prior, alike in all cells, has none."""
    found = {}
    for latent, source in sources.items():
        parts = [part.flat() for part in parts_of(source)]
        if all(part.family in DEVIATIONS for part in parts):
            believed = [_believed(part) for part in parts]
            found[latent] = {name: torch.cat([one[name] for one in believed], dim=1) for name in believed[0]}
    return found


def _believed(flat: Flat) -> dict[str, Tensor]:
    values, scales, means, *weights = (one.detach() for one in flat.tensors)
    scales = DEVIATIONS[flat.family] * scales.clamp(min=flat.bound)
    if weights:  # of a mixture: of the whole distribution
        shape = (len(values), -1, *values.shape[1:])
        scales, means, share = (one.view(shape) for one in (scales, means, weights[0]))
        centre = (share * means).sum(dim=1, keepdim=True)
        scales = (share * (scales.square() + (means - centre).square())).sum(dim=1).sqrt()
        means = centre[:, 0]
    return {"scales": scales, "means": means}


def expected_bits(sources: Mapping[str, Source]) -> dict[str, Tensor]:
    """Return the bits that distributions expect of each cell: their entropy, float64 ``[N, h, w]``, to 1e-4 a symbol.

    Of latents whose values lie whole steps from the means of distributions that are symmetric about these, and of
    those that a factorised prior codes in whole steps.
    """
    found = {}
    for latent, source in sources.items():
        flats = [part.flat() for part in parts_of(source)]
        parts = [_of_channels(one) if one.family == FACTORIZED else _entropies(one) for one in flats]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            found[latent] = torch.cat(known, dim=1).sum(dim=1)
    return found


def _in_steps(apart: Tensor) -> bool:
    return bool((apart - apart.round()).abs().amax() < 1e-3)


def _of_channels(flat: Flat) -> Tensor | None:
    """Return the entropy of each channel's learned distribution where its symbols are, None where that is unknown."""
    values, parameters = (one.detach() for one in flat.tensors)
    origin = values[:1, :, :1, :1]
    origin = origin - origin.round()
    steps = 64
    while steps <= WIDEST and _in_steps(values - origin):
        symbols = origin + torch.arange(-steps, steps + 1, dtype=values.dtype, device=values.device)
        bits = symbol_bits(flat._replace(tensors=[symbols.contiguous(), parameters], floor=0.0))
        likelihoods = (-bits).exp2()
        if float(likelihoods.sum(dim=3).amin()) > 1 - LEFT:
            entropies = torch.where(torch.isfinite(bits), bits * likelihoods, 0.0).sum(dim=3, keepdim=True)
            return entropies.expand(values.shape)
        steps *= 4
    return None


def _entropies(flat: Flat) -> Tensor | None:
    """Return the entropy of each symbol's distribution, float64 ``[N, C, h, w]``, between those of a table."""
    if (
        flat.family not in DEVIATIONS
        or flat.family == MIXTURE
        or not _in_steps(flat.tensors[0].detach() - flat.tensors[2].detach())
    ):
        return None
    logarithms = flat.tensors[1].detach().double().clamp(min=max(flat.bound, 2**LEAST)).log2()
    table = _entropy_table(flat.family).to(logarithms.device)
    place = (logarithms.clamp(max=MOST) - LEAST) * ((NODES - 1) / (MOST - LEAST))
    below = place.nan_to_num().long().clamp(max=NODES - 2)
    between = torch.lerp(table[below], table[below + 1], place - below)
    return between + (logarithms - MOST).clamp(min=0)  # of wide distributions each octave adds a bit


@lru_cache
def _entropy_table(family: int) -> Tensor:
    scales = torch.linspace(LEAST, MOST, NODES, dtype=torch.float64).exp2()[None, None, :, None]
    steps = torch.arange(math.ceil(TAIL * DEVIATIONS[family] * 2**MOST) + 1, dtype=torch.float64)
    shape = (1, 1, NODES, len(steps))
    tensors = [steps.expand(shape), scales.expand(shape), torch.zeros(shape, dtype=torch.float64)]
    bits = symbol_bits(Flat(family, [one.float().contiguous() for one in tensors], -math.inf, 0.0))
    summed = torch.where(torch.isfinite(bits), bits * (-bits).exp2(), 0.0)
    return 2 * summed.sum(dim=3).flatten() - summed[..., 0].flatten()  # steps to either side, and none


def belief_map(
    beliefs: Beliefs, canvas: Size, crop: Crop, latent: str, what: str, channel: int | Sequence[int] | slice | None
) -> Tensor:
    """Return the mean of a belief over channels at each pixel, that of its cell, ``[N, 1, H, W]``."""
    known = [f"{name!r} of latent {one!r}" for one, believed in beliefs.items() for name in believed]
    if what not in beliefs.get(latent, {}):
        told = (
            ", ".join(known)
            or "nothing; the mapper keeps them with beliefs=True, of entropy models that it can see into"
        )
        raise ValueError(f"what must be known of that latent, got {what!r} of {latent!r}; known: {told}")
    cells = beliefs[latent][what]
    if channel is not None:
        cells = cells[:, chosen_channels(latent, channel, cells.shape[1])]
    top, left, height, width = crop
    laid = F.interpolate(cells.mean(dim=1, keepdim=True), size=canvas, mode="nearest")
    return laid[..., top : top + height, left : left + width]
