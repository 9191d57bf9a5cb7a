"""The demo codec's forward pass without CompressAI, whose import takes longer than everything else that a map needs.

It has CompressAI's ``MeanScaleHyperprior`` in eval mode, operation by operation, and its entropy models as ``fuse`` has
them, so that maps are the same to the last bit; the tests compare them. Only the command line runs it:
``load_demo_codec`` returns CompressAI's own class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.rate.deferred import defer
from ..ops.sources import FILTERS, Factorized, Gaussian

LEAST_LIKELIHOOD = float(torch.tensor(1e-9))  # CompressAI keeps it in float32
PEDESTAL, LEAST_BETA = 2.0**-36, 1e-6  # of the parameters of divisive normalisation


class DemoForward(nn.Module):
    """Map images ``[N, 3, H, W]``, sides multiples of 64, to likelihoods and a reconstruction.

    Args:
        weights: of a ``MeanScaleHyperprior``, by its names of them.
    """

    entropy_bottleneck_quantiles: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_buffer(name.replace(".", "_"), weight.float())
        self.eval()

    def forward(self, x: Tensor) -> dict[str, Any]:
        likelihoods, y_hat = self.rounded(self.layers("g_a", x, ANALYSIS))
        x_hat = self.layers("g_s", y_hat, (_up, _denormalise) * 3 + (_up,))
        return {"x_hat": x_hat, "likelihoods": likelihoods}

    def rounded(self, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return what rounding a latent ``y`` costs, and the rounded one."""
        z = self.layers("h_a", y, (_same, _leak, _down, _leak, _down))
        z_hat = self._rounded(z)
        scales, means = self.layers("h_s", z_hat, (_up, _leak, _up, _leak, _same)).chunk(2, 1)
        y_hat = (y - means).round() + means
        y_source = Gaussian(y_hat.clone(), scales, means, floor=LEAST_LIKELIHOOD)
        z_source = Factorized(self._prior(), z_hat, floor=LEAST_LIKELIHOOD)
        return {"y": defer(y_source), "z": defer(z_source)}, y_hat

    def layers(self, name: str, x: Tensor, layers: Sequence[Any], first: int = 0) -> Tensor:
        """Return what some layers of a transform, from the first of them on, make of a tensor."""
        for number, layer in enumerate(layers, first):
            weights = [getattr(self, f"{name}_{number}_{kind}", None) for kind in ("weight", "bias", "gamma", "beta")]
            x = layer(x, *(weight for weight in weights if weight is not None))
        return x

    def _rounded(self, z: Tensor) -> Tensor:
        medians = self.entropy_bottleneck_quantiles[:, :, 1:2]
        return (z - medians).round() + medians

    def _prior(self) -> SimpleNamespace:
        """Return what ``Factorized`` reads of an ``EntropyBottleneck``."""
        kinds = {"matrices": 5, "biases": 5, "factors": 4}
        lists = {
            kind: [getattr(self, f"entropy_bottleneck_{kind}_{number}") for number in range(count)]
            for kind, count in kinds.items()
        }
        return SimpleNamespace(filters=FILTERS, quantiles=self.entropy_bottleneck_quantiles, **lists)


def _same(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)


def _down(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, stride=2, padding=weight.shape[2] // 2)


def _up(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=weight.shape[2] // 2, output_padding=1)


def _leak(x: Tensor) -> Tensor:
    return F.leaky_relu(x)


def _norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    gamma, beta = (
        p.clamp_min((least + PEDESTAL) ** 0.5) ** 2 - PEDESTAL for p, least in ((gamma, 0.0), (beta, LEAST_BETA))
    )
    return F.conv2d(x**2, gamma[:, :, None, None], beta)


def _normalise(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return x * _norm(x, gamma, beta).rsqrt()


def _denormalise(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return x * _norm(x, gamma, beta).sqrt()


ANALYSIS = (_down, _normalise) * 3 + (_down,)  # the layers of ``g_a``
