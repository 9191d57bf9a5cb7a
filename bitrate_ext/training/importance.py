"""The rate under weights of pixels: the weights come down to the cells once, for a sum over a map that nobody makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.arguments import Projections, image_latents, resolve
from ..ops.dispatch import MapGeometry
from ..ops.guided import cell_bits, sum_guide
from ..ops.units import LIKELIHOOD, kernel_input


def check_importance(importance: Any) -> Tensor:
    """Return weights of pixels as a floating tensor ``[N, 1, H, W]``, N maybe 1; a mask counts as 0 and 1.

    Raises:
        TypeError, ValueError: it is something else.
    """
    expected = "importance must be a floating-point or boolean tensor [H, W] or [N, 1, H, W]"
    if not isinstance(importance, Tensor):
        raise TypeError(f"{expected}, got {type(importance).__name__}")
    if importance.dtype not in (torch.float32, torch.float64):
        if importance.dtype != torch.bool and not importance.is_floating_point():
            raise TypeError(f"{expected}, got {importance.dtype}; convert with .float()")
        importance = importance.float()
    if importance.dim() not in (2, 4) or (importance.dim() == 4 and importance.shape[1] != 1):
        hint = "; add the channel with [:, None]" if importance.dim() == 3 else ""
        raise ValueError(f"{expected}, got shape {list(importance.shape)}{hint}")
    weights: Tensor = importance
    return weights[None, None] if weights.dim() == 2 else weights


def weighted_rate(
    latents: Any,
    size: Sequence[int],
    importance: Tensor,
    *,
    projection: Projections = "bilinear",
    impl: str = "auto",
    kept: dict[Any, Tensor] | None = None,
) -> Tensor:
    """Return ``(importance * bitrate_map(latents, size)).sum()`` of each image, float64 ``[N]``.

    The sum over pixels is one over cells, of their bits by the weight that the projection's adjoint gives each of them.
    Differentiable in the latents, and in the importance.

    Args:
        latents: likelihoods or sources of bits, as ``bitrate_map`` takes them.
        size: ``(H, W)``, pixels.
        importance: weights of the pixels, see ``check_importance``.
        projection, impl: as for ``bitrate_map``.
        kept: where the weights of cells are kept, for calls with the same importance and projection.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    call = resolve(image_latents(latents), size, None, projection, True, impl, None, None, LIKELIHOOD)
    batch, _, height, width = call.setting.map.shape
    importance = check_importance(importance)
    if tuple(importance.shape[2:]) != (height, width) or importance.shape[0] not in (1, batch):
        raise ValueError(
            f"importance must have one weight a pixel, [{height}, {width}] or [{batch}, 1, {height}, {width}], got "
            f"shape {list(importance.shape)}"
        )
    if importance.device != call.setting.map.device:
        raise ValueError(f"importance must be on {call.setting.map.device} like the latents, got {importance.device}")
    total = importance.new_zeros(batch, dtype=torch.float64)
    first = 0
    for (name, latent), copies in zip(call.latents.items(), call.setting.copies, strict=True):
        own, first = call.setting.geometry.projections[first : first + copies], first + copies
        grid, canvas = (latent.shape[-2], latent.shape[-1]), call.setting.geometry.canvas
        key = (name, grid, tuple(own))
        weights = None if kept is None else kept.get(key)
        if weights is None:
            geometry = MapGeometry(canvas, (0, 0, *canvas), own, True, (0.0, 0.0))
            weights = sum_guide(importance.contiguous(), grid, geometry, call.native)
            if kept is not None:
                kept[key] = weights
        cells = cell_bits(kernel_input(latent, LIKELIHOOD), call.native)
        total = total + (cells * weights).sum(2).sum(1)  # by rows: an order that no number of threads changes
    return total
