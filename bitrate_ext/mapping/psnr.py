"""How far a reconstruction is from its image."""

from __future__ import annotations

import math

from torch import Tensor


def measure_psnr(x_hat: Tensor, x: Tensor) -> float | None:
    """Return the PSNR in dB of a reconstruction, cut to [0, 1], of ``x`` in [0, 1]; None where it is exact."""
    return to_decibels(squared_error(x_hat, x) / x.numel())


def squared_error(x_hat: Tensor, x: Tensor) -> float:
    """Return the sum of the squared differences of a reconstruction, cut to [0, 1], from ``x``, in float64."""
    return float((x_hat.double().clamp(0, 1) - x.to(x_hat.device).double()).square().sum())


def to_decibels(mean_squared_error: float) -> float | None:
    """Return the PSNR in dB of values in [0, 1]; None of no error at all."""
    return -10 * math.log10(mean_squared_error) if mean_squared_error > 0 else None
