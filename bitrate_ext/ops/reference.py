"""The definition of the bitrate map in plain PyTorch.

Correct on every device and dtype and differentiable any number of times; the native kernels are tested against it, and
it serves wherever there is no native kernel. It has no tricks. The chain is that of CompressAI issue 265:
``-log2``, sum over channels, scale, interpolate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .band import Band


def latent_bits(likelihoods: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bits per latent cell ``[N, h, w]`` of likelihoods ``[N, C, h, w]``, computed in ``dtype``."""
    return (-likelihoods.to(dtype).log2()).sum(dim=1) + 0.0  # + 0.0: a certain symbol costs 0, never -0


def cell_bits(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bits per latent cell ``[N, h, w]`` in ``dtype``: of likelihoods ``[N, C, h, w]``, or as given."""
    return latent_bits(values, dtype) if values.dim() == 4 else values.to(dtype)


def apply_band(band: Band, values: Tensor, dim: int) -> Tensor:
    """Multiply ``values`` by the banded matrix along ``dim``: its length becomes ``band.pixels``.

    Weights of zero are skipped, so an infinite or NaN cell touches only the pixels that it weighs on.
    """
    shape = [1] * values.dim()
    shape[dim] = band.pixels
    size = list(values.shape)
    size[dim] = band.pixels
    if band.taps == 0:  # no cells: zeros that autograd still knows to come from `values`
        return values.sum(dim, keepdim=True).expand(size)
    total = values.new_zeros(size)
    for tap in range(band.taps):
        weight = band.weight[tap].to(values.dtype).reshape(shape)
        cell = values.index_select(dim, band.start.long() + tap)
        total = total + torch.where(weight != 0, weight * cell, 0)
    return total


def project(bits: Tensor, rows: Band, columns: Band) -> Tensor:
    """Return ``rows @ bits @ columns.T`` for bits ``[N, h, w]``: ``[N, H, W]`` in their dtype."""
    return apply_band(rows, apply_band(columns, bits, dim=-1), dim=-2)


def bitrate_map(values: Sequence[Tensor], bands: Sequence[tuple[Band, Band]], dtype: torch.dtype) -> Tensor:
    """Return the map of several latents added up.

    Args:
        values: likelihoods ``[N, C, h, w]`` or bits ``[N, h, w]``, each with its own C, h and w.
        bands: for each tensor the band of its rows and the band of its columns.
        dtype: of the computation and of the result.

    Returns:
        ``[N, 1, H, W]``, bits per pixel.
    """
    maps = [project(cell_bits(one, dtype), *pair) for one, pair in zip(values, bands, strict=True)]
    return torch.stack(maps).sum(dim=0).unsqueeze(1) if len(maps) > 1 else maps[0].unsqueeze(1)
