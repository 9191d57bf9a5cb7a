"""How far a reconstruction is from its picture: PSNR, MS-SSIM, and maps of squared error and SSIM."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..optional import require

WINDOW = 11  # pixels of SSIM's window
LEAST_SIDE = (WINDOW - 1) * 2**4  # of MS-SSIM, which halves a picture four times; its sides are longer
_STRIP = 32  # rows of pixels at a time
BLOCK = 8  # pixels on a side, of maps of SSIM


def measure_psnr(x_hat: Tensor, x: Tensor) -> float | None:
    """Return the PSNR in dB of a reconstruction, cut to [0, 1], of ``x`` in [0, 1]; None where it is exact."""
    return to_decibels(squared_error(x_hat, x) / x.numel())


def squared_error(x_hat: Tensor, x: Tensor) -> float:
    """Return the sum of the squared differences of a reconstruction, cut to [0, 1], from ``x``, in float64."""
    rows = _STRIP if x_hat.device.type == "cpu" else max(1, x_hat.shape[-2])  # of a CPU new memory takes the time
    strips = zip(torch.split(x_hat, rows, -2), torch.split(x.to(x_hat.device), rows, -2), strict=True)
    return float(torch.stack([_squares(one, other).sum() for one, other in strips]).sum())


def to_decibels(mean_squared_error: float) -> float | None:
    """Return the PSNR in dB of values in [0, 1]; None of no error at all."""
    return -10 * math.log10(mean_squared_error) if mean_squared_error > 0 else None


def measure_ms_ssim(x_hat: Tensor, x: Tensor) -> float | None:
    """Return the MS-SSIM of a reconstruction, cut to [0, 1]; None where a side has 160 pixels or fewer.

    It is that of pytorch-msssim, which CompressAI brings and measures with.

    Raises:
        ImportError: pytorch-msssim is not there.
    """
    if min(x.shape[-2:]) <= LEAST_SIDE:
        return None
    return float(require("pytorch_msssim").ms_ssim(x_hat.float().clamp(0, 1), x.to(x_hat.device).float(), data_range=1))


def error_map(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the squared error of each pixel, the mean of its channels, float64 ``[N, 1, H, W]``.

    Its mean over any part of the picture is the mean squared error there; ``to_decibels`` makes PSNR of it.
    """
    return _squares(x_hat, x).mean(dim=1, keepdim=True)


def ssim_map(x_hat: Tensor, x: Tensor, block: int = BLOCK) -> Tensor:
    """Return the SSIM of each block of pixels, the mean of its channels, float32 ``[N, 1, ceil(H / block), ...]``.

    The values are those of pytorch-msssim, which gives one for a picture: each block with the pixels that its windows
    reach is handed to it as a picture. At the border the last pixels are repeated. Blocks further inside have the mean
    that it gives for them together.

    Raises:
        ImportError: pytorch-msssim is not there.
    """
    ssim, reach = require("pytorch_msssim").ssim, WINDOW // 2
    height, width = x.shape[-2:]
    border = [reach, reach + -width % block, reach, reach + -height % block]
    pair = []
    for one in (x_hat.clamp(0, 1), x.to(x_hat.device)):
        around = F.pad(one.float(), border, mode="replicate")
        pair.append(around.unfold(2, block + 2 * reach, block).unfold(3, block + 2 * reach, block))
    rows = []
    for row in range(pair[0].shape[2]):  # of a channel each, which convolutions are quicker for
        blocks = [one[:, :, row].flatten(0, 2).unsqueeze(1) for one in pair]
        rows.append(ssim(*blocks, data_range=1, size_average=False).view(*pair[0].shape[:2], -1))
    return torch.stack(rows, dim=2).mean(dim=1, keepdim=True)


def _squares(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return squared differences, float64 ``[N, C, H, W]``."""
    return (x_hat.double().clamp(0, 1) - x.to(x_hat.device).double()).square()
