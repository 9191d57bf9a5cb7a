"""The public calls: arguments in, one operator call out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import autograd, dispatch, reference
from .arguments import Latents, Projections, check_out, checked_dtype, checked_tensors, noun_of, resolve
from .arguments import named_likelihoods as named_likelihoods


def bitrate_map(
    values: Latents | Sequence[Latents],
    size: Sequence[int] | None = None,
    *,
    scale_factor: float | Sequence[float] | None = None,
    projection: Projections = "bilinear",
    conserve: bool = True,
    impl: str = "auto",
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
    crop: Sequence[int] | None = None,
    unit: str = "likelihood",
) -> Any:
    """Return where the bits go: the cost of every image pixel, in bits per pixel.

    Equivalent to the recipe of CompressAI issue 265, ``F.interpolate(-log2(p).sum(1, keepdim=True) / s**2,
    scale_factor=s, mode="bilinear")``, in one pass, and conserving every bit at any size. Differentiable twice in
    the likelihoods.

    Args:
        values: probabilities in (0, 1], ``[N, C, h, w]``, or nested dicts of such tensors as CompressAI models return
            them: their maps are added in the same pass. A list or tuple (video models return one entry a frame) gives
            a list of maps. float32, float64, float16 or bfloat16; any strides. With ``unit="bits"``, ``[N, h, w]``.
        size: ``(H, W)`` of the image, pixels. Exactly one of ``size`` and ``scale_factor`` must be given.
        scale_factor: pixels per cell, a number or a pair ``(vertical, horizontal)``; ``H = floor(h * scale)``.
        projection: ``"nearest"``, ``"bilinear"``, ``"area"`` or a ``Projection``, such as ``calibrate`` measures; or a
            dict with one for each latent.
        conserve: give every cell weights that add up to one, so that the map adds up to all bits at any size. False:
            exactly the values of ``F.interpolate``, which differ where the scale is not a whole number.
        impl: ``"auto"`` (native where there is a kernel, else the reference), ``"native"`` or ``"reference"``.
        out: a tensor for the result; spares a large allocation for each frame. Not with gradients.
        dtype: of the map: float32 or float64. Default float32, float64 where a tensor of likelihoods is float64.
        crop: ``(top, left, height, width)``: compute only this window of the ``size`` map.
        unit: what ``values`` are: ``"likelihood"``, or ``"bits"`` of latent cells that are known already, as
            ``latent_bits`` gives them.

    Returns:
        ``[N, 1, H, W]``, bits per pixel, on the likelihoods' device. The sum over a map is the image's total bits to
        6e-8 of it (float32). NaN likelihoods give NaN, zeros give infinity, in the pixels that they weigh on and no
        others.

    On CUDA one launch adds up to 20 latents; more are served by the reference. A CUDA graph can record a call once
    the same sizes have been called outside of it: their bands are copied to the GPU then.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        RuntimeError: ``impl="native"`` where there is no kernel, or a map that one CUDA launch cannot index.
    """
    noun = noun_of(unit)
    if isinstance(values, (list, tuple)):
        if out is not None:
            raise ValueError(f"out goes with one map, but {noun} is a list")
        return [
            bitrate_map(
                frame,
                size,
                scale_factor=scale_factor,
                projection=projection,
                conserve=conserve,
                impl=impl,
                dtype=dtype,
                crop=crop,
                unit=unit,
            )
            for frame in values
        ]
    call = resolve(values, size, scale_factor, projection, conserve, impl, dtype, crop, unit)  # type: ignore[arg-type]
    tensors, geometry = call.terms()
    if out is not None:
        check_out(out, call, call.window[2], noun)
        with torch.no_grad():
            if call.native:
                return dispatch.project_into(tensors, geometry, out)
            return out.copy_(dispatch.project_by_reference(tensors, geometry, call.dtype))
    if not call.native:
        return dispatch.project_by_reference(tensors, geometry, call.dtype)
    if autograd.is_plain(tensors):
        return dispatch.project_into(tensors, geometry, dispatch.new_map(tensors, geometry, call.dtype))
    return autograd.call_map(tensors, geometry, call.dtype)


def latent_bits(likelihoods: Tensor, *, impl: str = "auto", dtype: torch.dtype | None = None) -> Tensor:
    """Return the bits per latent cell, ``[N, h, w]``, of likelihoods ``[N, C, h, w]``.

    The cell sums that ``bitrate_map`` projects. Sum them in float64 (``dtype=torch.float64``) for totals: a float32 sum
    over a large map is off in the fifth digit. Other arguments and errors as for ``bitrate_map``.
    """
    if not isinstance(likelihoods, Tensor):
        raise TypeError(f"likelihoods must be a tensor, got {type(likelihoods).__name__}")
    if 0 in likelihoods.shape[-2:]:
        tensors = checked_tensors(likelihoods, "likelihood").values()
        return reference.latent_bits(likelihoods, checked_dtype(dtype, list(tensors), "likelihood"))
    # The map at the grid's own size, where each pixel is its cell.
    cells: Tensor = bitrate_map(likelihoods, likelihoods.shape[-2:], projection="nearest", impl=impl, dtype=dtype)
    return cells.squeeze(1)
