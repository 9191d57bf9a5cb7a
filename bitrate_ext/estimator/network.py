"""The network of an estimator: from a padded picture to the bits of its blocks, at each quality."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 16  # side of the blocks whose bits are foretold, pixels
SHORT = 4  # pixels from one patch to the next
WAVES, WIDE, WIDER = 40, 64, 96  # channels: of patches, of 8 x 8 pixels, of blocks
DEPTH = 3  # of layers that look beyond a block
MOST_WEIGHTS = 200_000


class RateNetwork(nn.Module):
    """Foretell the bits of blocks of 16 x 16 pixels.

    A transform codec spends bits by the logarithm of its coefficients' size. So the first layer takes coefficients of
    overlapping patches, and what follows sees the logarithms of their energies, and them; then means and contrasts over
    larger and larger surroundings. The last layer gives the logarithm of each block's bits, one output a quality.

    Args:
        channels: of the pictures.
        outputs: qualities.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.waves = nn.Conv2d(channels, WAVES, 2 * SHORT, stride=SHORT, padding=SHORT // 2)
        self.gain = nn.Parameter(torch.full((WAVES, 1, 1), 3.0))  # logarithm: of what counts as no energy
        self.eight = nn.Conv2d(2 * WAVES, WIDE, 2, stride=2)
        self.sixteen = nn.Conv2d(WIDE, WIDER, 2, stride=2)
        self.around = nn.ModuleList(_Around(WIDER) for _ in range(DEPTH))
        self.last = nn.Conv2d(WIDER, outputs, 1)

    def start(self, means: Tensor) -> None:
        """Begin at these mean bits of blocks, ``[outputs]``."""
        nn.init.zeros_(self.last.weight)
        self.last.bias = nn.Parameter(means.log())

    def forward(self, x: Tensor) -> Tensor:
        """Return bits ``[N, outputs, H / 16, W / 16]`` of pictures ``[N, C, H, W]`` whose sides are multiples of 16."""
        waves = self.waves(x - 0.5)
        energy = ((waves * self.gain.exp()).square() + 1).log()
        found = F.gelu(self.eight(torch.cat((waves, energy), dim=1)))
        found = self.sixteen(found)
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
