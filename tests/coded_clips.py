"""A small codec of video on CompressAI's entropy models, with the ways of its ``ssf2020``."""

from __future__ import annotations

from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor, nn

CHANNELS = 4


class CodedClips(nn.Module):
    """A keyframe is coded by itself, another frame as its difference from the one before; cells are 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.analysis = nn.Conv2d(3, CHANNELS, 16, 16)
        self.synthesis = nn.ConvTranspose2d(CHANNELS, 3, 16, 16)
        self.keyframes, self.residuals = EntropyBottleneck(CHANNELS), EntropyBottleneck(CHANNELS)
        self.keyframes.update(force=True)
        self.residuals.update(force=True)
        self.eval()

    def _forward(self, x: Tensor, bottleneck: Any) -> tuple[Tensor, Tensor]:
        y_hat, likelihoods = bottleneck(40 * self.analysis(x))
        return self.synthesis(y_hat / 40), likelihoods

    def _encode(self, x: Tensor, bottleneck: Any) -> tuple[Tensor, list[bytes]]:
        y = 40 * self.analysis(x)
        strings = bottleneck.compress(y)
        return self.synthesis(bottleneck.decompress(strings, y.shape[2:]) / 40), strings

    def forward_keyframe(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x_hat, likelihoods = self._forward(x, self.keyframes)
        return x_hat, {"keyframe": likelihoods}

    def forward_inter(self, x: Tensor, before: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        difference, likelihoods = self._forward(x - before, self.residuals)
        return before + difference, {"residual": likelihoods}

    def encode_keyframe(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        x_hat, strings = self._encode(x, self.keyframes)
        return x_hat, {"strings": [strings]}

    def encode_inter(self, x: Tensor, before: Tensor) -> tuple[Tensor, dict[str, Any]]:
        difference, strings = self._encode(x - before, self.residuals)
        return before + difference, {"strings": {"residual": [strings]}}

    def forward(self, frames: list[Tensor]) -> dict[str, Any]:
        x_hat, likelihoods = self.forward_keyframe(frames[0])
        found = [likelihoods]
        for x in frames[1:]:
            x_hat, likelihoods = self.forward_inter(x, x_hat)
            found.append(likelihoods)
        return {"likelihoods": found}

    def compress(self, frames: list[Tensor]) -> tuple[list[Any], list[Any]]:
        state, coded = self.encode_keyframe(frames[0])
        strings = [coded["strings"]]
        for x in frames[1:]:
            state, coded = self.encode_inter(x, state)
            strings.append(coded["strings"])
        return strings, []


class OtherClips(CodedClips):
    """Its ``compress`` codes other frames than ``encode_inter`` does."""

    def compress(self, frames: list[Tensor]) -> tuple[list[Any], list[Any]]:
        return super().compress([frames[0], *(x / 2 for x in frames[1:])])


class WholeClips(CodedClips):
    """Has no way to code a frame by itself."""

    encode_inter = None  # type: ignore[assignment]
