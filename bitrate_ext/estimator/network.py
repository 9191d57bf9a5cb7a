"""The network of an estimator: from a padded picture to the bits of its blocks, at each quality."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 16  # side of the blocks whose bits are foretold, pixels
SHORT = 4  # pixels from one patch to the next
WAVES, WIDE, WIDER = 48, 64, 96  # channels: of patches, of 8 x 8 pixels, of blocks
DEPTH = 3  # of layers that look beyond a block
FAINT = 0.02  # the amplitude of a wave at which its bits begin to rise, before learning
MOST_WEIGHTS = 200_000


class RateNetwork(nn.Module):
    """Foretell the bits of blocks of 16 x 16 pixels.

    A transform codec spends bits by the logarithm of its coefficients' size. So the first layer takes coefficients of
    overlapping patches, cosines before learning, and what follows sees the logarithms of their energies; then means and
    contrasts of larger and larger surroundings. The last layer gives the logarithm of each block's bits, one output a
    quality.

    Args:
        channels: of the pictures.
        outputs: qualities.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.waves = nn.Conv2d(channels, WAVES, 2 * SHORT, stride=SHORT, padding=SHORT // 2)
        self.waves.weight = nn.Parameter(_cosines(channels))
        self.waves.bias = nn.Parameter(torch.zeros(WAVES))
        self.gain = nn.Parameter(torch.full((WAVES, 1, 1), -math.log(FAINT)))
        self.eight = nn.Conv2d(WAVES, WIDE, 2, stride=2)
        self.sixteen = nn.Conv2d(WIDE, WIDER, 2, stride=2)
        self.around = nn.ModuleList(_Around(WIDER) for _ in range(DEPTH))
        self.last = nn.Conv2d(WIDER, outputs, 1)

    def start(self, means: Tensor) -> None:
        """Begin at these mean bits of blocks, ``[outputs]``."""
        nn.init.zeros_(self.last.weight)
        self.last.bias = nn.Parameter(means.log())

    def forward(self, x: Tensor) -> Tensor:
        """Return bits ``[N, outputs, H / 16, W / 16]`` of pictures ``[N, C, H, W]`` whose sides are multiples of 16."""
        energy = ((self.waves(x - 0.5) * self.gain.exp()).square() + 1).log()
        found = self.sixteen(F.gelu(self.eight(energy)))
        for layer in self.around:
            found = layer(found)
        return cast(Tensor, self.last(found)).clamp(-20, 20).exp()


class _Around(nn.Module):
    """Add to each block what it and those around it make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.wide = nn.Conv2d(width, 2 * width, 1)
        self.back = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.back(F.gelu(self.wide(self.mean(x)))))


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
        mixes = torch.tensor([[0.577, 0.577, 0.577], [0.816, -0.408, -0.408], [-0.408, -0.408, 0.816]])
        counts = [WAVES * 2 // 3, WAVES // 6, WAVES // 6]
    made = [
        mix[:, None, None] * torch.outer(waves[i], waves[j])
        for mix, count in zip(mixes, counts, strict=True)
        for i, j in order[:count]
    ]
    return torch.stack(made)
