"""How far a reconstruction is from its image."""

from __future__ import annotations

from torch import Tensor

from ..cells.psnr import to_decibels as to_decibels


def measure_psnr(x_hat: Tensor, x: Tensor) -> float | None:
    """Return the PSNR in dB of a reconstruction, cut to [0, 1], of ``x`` in [0, 1]; None where it is exact."""
    return to_decibels(squared_error(x_hat, x) / x.numel())


def squared_error(x_hat: Tensor, x: Tensor) -> float:
    """Return the sum of the squared differences of a reconstruction, cut to [0, 1], from ``x``, in float64."""
    return float((x_hat.double().clamp(0, 1) - x.to(x_hat.device).double()).square().sum())
