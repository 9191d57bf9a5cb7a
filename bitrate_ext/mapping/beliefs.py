"""What an entropy model believed of each symbol before it was coded: the mean and the spread of its distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.padding import Crop, Size
from ..ops.rate.packed import parts_of
from ..ops.sources import GAUSSIAN, LAPLACE, LOGISTIC, MIXTURE, Flat, Source
from .channels import chosen_channels

Beliefs = dict[str, dict[str, Tensor]]  # by latent, "scales" and "means", [N, C, h, w]
DEVIATIONS = {GAUSSIAN: 1.0, LAPLACE: math.sqrt(2), LOGISTIC: math.pi / math.sqrt(3), MIXTURE: 1.0}  # of a scale of 1


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
