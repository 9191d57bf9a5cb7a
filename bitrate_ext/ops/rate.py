"""Sources of bits made into the bits of cells, which all else takes as bits that are given."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from . import rate_reference
from .deferred import parts_of
from .sources import Source


def cells_of(latents: Mapping[str, Tensor | Source], native: bool) -> dict[str, Tensor]:
    """Return latents with each source replaced by the bits of its cells, float64 ``[N, h, w]``."""
    return {
        name: torch.stack([rate_reference.cell_bits(part.flat()) for part in parts_of(latent)]).sum(0)
        if isinstance(latent, Source)
        else latent
        for name, latent in latents.items()
    }
