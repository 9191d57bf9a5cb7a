"""Lay bits out over images: maps of each latent and of all, totals, and what the padding costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..coding.ledger import Ledger
from ..models.adapter import Crop, ModelAdapter, crop_reconstruction
from ..models.compressai_quirks import likelihood_warnings
from ..ops.functional import bitrate_map, latent_bits
from ..ops.projection import Axis, Projection, outside_share

ESTIMATED, CODED = "estimated", "coded"  # sources of bits: likelihoods, or the range coder


@dataclass(frozen=True, eq=False)
class BitrateResult:
    """Where a model spends its bits on a batch of N images of H x W pixels.

    ``map`` and ``maps`` are float32, float64 where the model computes in float64. A map's float64 sum plus
    ``padding_bits`` is ``total_bits``, to 6e-8 of it for float32 maps.
    """

    map: Tensor  # [N, 1, H, W], bits per pixel, all latents together
    maps: dict[str, Tensor]  # the same for each latent; nested names are joined with dots
    latent_bits: dict[str, Tensor]  # [N, h, w], bits per cell on the grid of the padded image
    total_bits: Tensor  # float64 [N], everything the model spends
    padding_bits: Tensor  # float64 [N], the part of it that falls outside the image
    bpp: Tensor  # float64 [N], total_bits / (H * W)
    x_hat: Tensor | None  # [N, C, H, W], not clamped; None where the model returns no image of the padded size
    channel_bits: dict[str, Tensor] = field(default_factory=dict)  # float64 [N, C], bits of each channel of each latent
    warnings: tuple[str, ...] = ()  # what is to be known of these numbers, a line each
    bits: str = ESTIMATED  # where they come from: "estimated" or "coded"
    ledger: Ledger | None = None  # of coded bits: every bit of the strings
    entropy: Tensor | None = None  # of coded bits: [N, 1, H, W], bits per pixel that the coder's tables expect
    gap: Tensor | None = None  # on request: [N, 1, H, W], coded minus estimated, bits per pixel


def estimate(
    adapter: ModelAdapter,
    projections: Mapping[str, Projection],
    padded: Tensor,
    crop: Crop,
    forward_kwargs: dict[str, Any],
    dtype: torch.dtype | None = None,
) -> BitrateResult:
    """Maps of the likelihoods that a model's ``forward`` returns for padded images, in a dtype of one's choice."""
    notes: list[str] = []
    output, likelihoods = adapter.run(padded, forward_kwargs, notes)
    size = (padded.shape[2], padded.shape[3])
    result = lay_out(likelihoods, projections, size, crop, dtype)
    notes += likelihood_warnings(likelihoods)
    channels = {name: _channel_bits(p.detach()) for name, p in likelihoods.items()}
    x_hat = crop_reconstruction(output.get("x_hat"), size, crop)
    return replace(result, x_hat=x_hat, channel_bits=channels, warnings=tuple(notes))


def lay_out(
    likelihoods: Mapping[str, Tensor],
    projections: Mapping[str, Projection],
    canvas: tuple[int, int],
    crop: Crop,
    dtype: torch.dtype | None = None,
    *,
    out: Tensor | None = None,
    each: bool = True,
) -> BitrateResult:
    """Maps and books of likelihoods ``[N, C, h, w]`` on a canvas, of which the crop is the image.

    ``out`` is a tensor for the map of all latents. Without ``each`` there are no maps of single ones.
    """
    total_map = bitrate_map(likelihoods, canvas, crop=crop, projection=projections, dtype=dtype, out=out)
    maps = {}
    if each and len(likelihoods) == 1:
        maps = {next(iter(likelihoods)): total_map}
    elif each:
        maps = {
            name: bitrate_map(p, canvas, crop=crop, projection=projections[name], dtype=dtype)
            for name, p in likelihoods.items()
        }
    bits = {name: latent_bits(p, dtype=torch.float64) for name, p in likelihoods.items()}
    total_bits = torch.stack([b.sum(dim=(1, 2)) for b in bits.values()]).sum(dim=0)
    outside = [outside_bits(b, projections[name], canvas, crop) for name, b in bits.items()]
    return BitrateResult(
        map=total_map,
        maps=maps,
        latent_bits={name: b.to(total_map.dtype) for name, b in bits.items()},
        total_bits=total_bits,
        padding_bits=torch.stack(outside).sum(dim=0),
        bpp=total_bits / (crop[2] * crop[3]),
        x_hat=None,
    )


def _channel_bits(p: Tensor) -> Tensor:
    """Bits of each channel, float64 ``[N, C]``: cells and channels change places for the kernel that sums cells."""
    return latent_bits(p.flatten(2).transpose(1, 2).unsqueeze(3), dtype=torch.float64).squeeze(2)


def outside_bits(bits: Tensor, projection: Projection, size: Sequence[int], crop: Crop) -> Tensor:
    """Bits, float64 ``[N]``, of the cells ``[N, h, w]`` that the projection puts outside the crop.

    From each cell's own shares and not from the map, so the two check each other. A cell leaves the image across
    its rows, its columns or both.
    """
    share = _outside_shares(projection, (bits.shape[-2], bits.shape[-1]), (size[0], size[1]), crop).to(bits.device)
    return torch.where(share > 0, share * bits, 0).sum(dim=(1, 2))  # where: a cell of infinite bits may be inside


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for calls that record gradients, too
def _outside_shares(projection: Projection, grid: tuple[int, int], size: tuple[int, int], crop: Crop) -> Tensor:
    """The part of each cell's bits that falls outside the crop, float64 ``[h, w]``."""
    (top, left, height, width), (h, w) = crop, grid
    share = torch.zeros(h, w, dtype=torch.float64)
    for term in projection.terms:
        rows = outside_share(term.along(0), Axis(h, size[0], top, height))[:, None]
        columns = outside_share(term.along(1), Axis(w, size[1], left, width))
        share += rows + (term.along(0).share - rows) * columns
    return share
