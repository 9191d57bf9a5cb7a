"""The network of an estimator: from a padded picture to the bits of its blocks, at each quality."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 16  # side of the blocks whose bits are foretold, pixels
SHORT = 4  # pixels from one patch to the next; patches are twice as large
WAVES, WIDE = 48, 96  # cosines of a patch; channels of what is learnt
FAINT, CLEAR = 0.02, 0.08  # amplitudes of cosines at which logarithms begin to rise
DEPTH = 3  # of layers that look beyond a block
MOST_WEIGHTS = 200_000


class RateNetwork(nn.Module):
    """Foretell the bits of blocks of 16 x 16 pixels.

    A transform codec spends bits by the logarithm of its coefficients' size. So the network is told of logarithms of
    the energies of cosines, and learns what blocks make of them, and those around them. The last layer gives the
    logarithm of each block's bits, one output a quality.

    Args:
        channels: of the pictures.
        outputs: qualities.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.channels = channels
        self.eight = nn.Conv2d(2 * WAVES, WIDE, 1)
        self.sixteen = nn.Conv2d(WIDE, WIDE, 2, stride=2)
        self.around = nn.ModuleList(_Around(WIDE) for _ in range(DEPTH))
        self.last = nn.Conv2d(WIDE, outputs, 1)

    def start(self, means: Tensor) -> None:
        """Begin at these mean bits of blocks, ``[outputs]``."""
        nn.init.zeros_(self.last.weight)
        self.last.bias = nn.Parameter(means.log())

    def features(self, x: Tensor) -> Tensor:
        """Return what is known of pictures before learning, ``[N, 2 * WAVES, H / 8, W / 8]``.

        Of overlapping patches of 8 x 8 pixels, the energies of cosines: means of their logarithms, and logarithms of
        their means, which differ where a place has one edge and is smooth beside it.
        """
        energy = F.conv2d(x - 0.5, _cosines(self.channels).to(x), stride=SHORT, padding=SHORT // 2).square()
        means = F.avg_pool2d((energy / FAINT**2 + 1).log(), 2)
        return torch.cat((means, (F.avg_pool2d(energy, 2) / CLEAR**2 + 1).log()), dim=1)

    def learnt(self, features: Tensor) -> Tensor:
        """Return bits ``[N, outputs, h / 2, w / 2]`` of features ``[N, 2 * WAVES, h, w]``."""
        found = self.sixteen(F.gelu(self.eight(features - 1)))
        for layer in self.around:
            found = layer(found)
        return cast(Tensor, self.last(found)).clamp(-20, 20).exp()

    def forward(self, x: Tensor) -> Tensor:
        """Return bits ``[N, outputs, H / 16, W / 16]`` of pictures ``[N, C, H, W]`` whose sides are multiples of 16."""
        return self.learnt(self.features(x))


class _Around(nn.Module):
    """Add to each block what it and those around it make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.back = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        found = self.norm(self.mean(x).movedim(1, 3))  # channels last: each block by itself
        return x + cast(Tensor, self.back(F.gelu(self.wide(found)))).movedim(3, 1)


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # kept for calls that record gradients, too
def _cosines(channels: int) -> Tensor:
    """Return patches of cosines of the lowest frequencies, ``[WAVES, channels, 8, 8]``, of unit norm.

    Of three channels: most of their mean, and some of what red and blue are beyond it.
    """
    side = 2 * SHORT
    place = (torch.arange(side) + 0.5) * math.pi / side
    waves = torch.cos(torch.arange(side)[:, None] * place)  # [frequency, pixel]
    waves = waves / waves.norm(dim=1, keepdim=True)
    order = sorted(((i, j) for i in range(side) for j in range(side)), key=lambda one: (one[0] ** 2 + one[1] ** 2, one))
    mixes = torch.full((1, channels), channels**-0.5)
    counts = [WAVES]
    if channels == 3:
        mixes = torch.tensor([[1.0, 1.0, 1.0], [2.0, -1.0, -1.0], [-1.0, -1.0, 2.0]])
        mixes = mixes / mixes.norm(dim=1, keepdim=True)
        counts = [WAVES * 2 // 3, WAVES // 6, WAVES // 6]
    made = [
        mix[:, None, None] * torch.outer(waves[i], waves[j])
        for mix, count in zip(mixes, counts, strict=True)
        for i, j in order[:count]
    ]
    return torch.stack(made)
