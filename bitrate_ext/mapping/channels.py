"""Maps of single channels: kept with a result on request, laid out when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..models.padding import Crop, Size
from ..ops.functional import bitrate_map, latent_bits
from ..ops.projection import Projection
from .guides import Guides


@dataclass(frozen=True, eq=False)
class ChannelMaps:
    """The values of each symbol, and where their cells lie."""

    values: Mapping[str, Tensor]  # [N, C, h, w] of each latent
    unit: str
    projections: Mapping[str, Projection]
    canvas: Size
    crop: Crop
    dtype: torch.dtype
    guides: Guides = field(default_factory=dict)

    def map(self, latent: str, channel: int | Sequence[int] | slice) -> Tensor:
        """Return the map of one channel or of several together, ``[N, 1, H, W]``."""
        if latent not in self.values:
            known = ", ".join(map(repr, self.values)) or "none"
            raise ValueError(f"latent must be one of those with channels, {known}, got {latent!r}")
        values = self.values[latent]
        made: Tensor = bitrate_map(
            values[:, chosen_channels(latent, channel, values.shape[1])],
            self.canvas,
            crop=self.crop,
            projection=self.projections[latent],
            guide=self.guides.get(latent),
            dtype=self.dtype,
            unit=self.unit,
        )
        return made

    def bits(self, number: int) -> dict[str, Tensor]:
        """Return what each symbol of one image costs, float64 ``[C, h, w]`` of each latent, in bits."""
        ours = {name: values[number].detach().unsqueeze(1) for name, values in self.values.items()}  # a batch of them
        return {name: latent_bits(one, dtype=torch.float64, unit=self.unit) for name, one in ours.items()}


def chosen_channels(latent: str, channel: Any, count: int) -> list[int]:
    """Return the numbers of channels that a number, several or a slice mean; raises ``ValueError`` of others."""
    if isinstance(channel, slice):
        chosen = list(range(*channel.indices(count)))
    else:
        chosen = [channel] if isinstance(channel, int) else list(channel)
    wrong = [one for one in chosen if not isinstance(one, int) or not -count <= one < count]
    if wrong or not chosen:
        raise ValueError(
            f"channel of latent {latent!r} must be from 0 to {count - 1}, got {wrong[0] if wrong else channel!r}"
        )
    return [one % count for one in chosen]
