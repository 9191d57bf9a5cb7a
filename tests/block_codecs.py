"""Codecs that cost nothing, whose bits are known."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

SIZE, FRAMES = (64, 48), 12  # of the clips that are coded with them


class BlockCodec(nn.Module):
    """Latents y, 16 pixels a cell, and z, 64; likelihoods follow the picture, the reconstruction is a tenth darker."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, z = (F.avg_pool2d(x, stride).mul(0.9).add(0.05) for stride in (16, 64))
        return {"likelihoods": {"y": y, "z": z}, "x_hat": 0.9 * x}


class BlockVideo(BlockCodec):
    def forward_keyframe(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        coded = self.forward(x)
        return coded["x_hat"], {"keyframe": coded["likelihoods"]}

    def forward_inter(self, x: Tensor, reference: Tensor) -> tuple[Tensor, dict[str, Any]]:
        coded = self.forward((x - reference).abs())
        return x, {"motion": coded["likelihoods"], "residual": coded["likelihoods"]}


class GlobalCodec(nn.Module):
    """A latent y, 16 pixels a cell, each of whose cells depends on all pixels."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = F.avg_pool2d(x, 16)
        return {"likelihoods": (y + y.mean(dim=(2, 3), keepdim=True)) * 0.4 + 0.1}
