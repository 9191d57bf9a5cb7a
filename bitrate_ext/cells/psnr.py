"""PSNR of values in [0, 1]."""

from __future__ import annotations

import math


def to_decibels(mean_squared_error: float) -> float | None:
    """Return the PSNR in dB of values in [0, 1]; None of no error at all."""
    return -10 * math.log10(mean_squared_error) if mean_squared_error > 0 else None
