"""The public calls: arguments in, one operator call out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from . import autograd, dispatch, reference
from .arguments import (
    Latent,
    Latents,
    Projections,
    check_kinds,
    check_out,
    check_values,
    checked_dtype,
    resolve,
    split_frames,
    unwrap,
)
from .arguments import image_latents as image_latents
from .arguments import map_dtype as map_dtype
from .arguments import named_likelihoods as named_likelihoods
from .arguments import named_tensors as named_tensors
from .dispatch import choose_kernel
from .guided import check_guide, guided_map
from .memory_pages import on_large_pages
from .rate.cells import cells_of
from .rate.deferred import known_source
from .sources import Source
from .units import LIKELIHOOD, kernel_input, noun_of


@overload
def bitrate_map(
    values: Latents,
    size: Sequence[int] | None = None,
    *,
    scale_factor: float | Sequence[float] | None = None,
    projection: Projections = "bilinear",
    conserve: bool = True,
    impl: str = "auto",
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
    crop: Sequence[int] | None = None,
    guide: Tensor | None = None,
    unit: str = LIKELIHOOD,
    check: bool = False,
) -> Tensor: ...
@overload
def bitrate_map(
    values: Sequence[Latents],
    size: Sequence[int] | None = None,
    *,
    scale_factor: float | Sequence[float] | None = None,
    projection: Projections = "bilinear",
    conserve: bool = True,
    impl: str = "auto",
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
    crop: Sequence[int] | None = None,
    guide: Tensor | None = None,
    unit: str = LIKELIHOOD,
    check: bool = False,
) -> list[Tensor]: ...
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
    guide: Tensor | None = None,
    unit: str = LIKELIHOOD,
    check: bool = False,
) -> Tensor | list[Tensor]:
    """Return where the bits go: the cost of every image pixel, in bits per pixel.

    Equivalent to the recipe of CompressAI issue 265, ``F.interpolate(-log2(p).sum(1, keepdim=True) / s**2,
    scale_factor=s, mode="bilinear")``, in one pass, and conserving every bit at any size. Differentiable twice in
    the likelihoods.

    Args:
        values: probabilities in (0, 1], ``[N, C, h, w]``, or a source of bits, such as ``Gaussian``, or nested dicts of
            these as CompressAI models return them: their maps are added. Dicts may hold lists, and None. A list or
            tuple (video models return one entry a frame) gives a list of maps. Of a model's whole output, the entry
            ``"likelihoods"`` is taken. float32, float64, float16 or bfloat16; any strides.
        size: ``(H, W)`` of the image, pixels. Exactly one of ``size`` and ``scale_factor`` must be given.
        scale_factor: pixels per cell, a number or a pair ``(vertical, horizontal)``; ``H = floor(h * scale)``.
        projection: ``"nearest"``, ``"bilinear"``, ``"area"`` or a ``Projection``, such as ``calibrate`` measures; or a
            dict with one for each latent.
        conserve: give every cell weights that add up to one, so that the map adds up to all bits at any size. False:
            exactly the values of ``F.interpolate``, which differ where the scale is not a whole number.
        impl: ``"auto"`` (native where there is a kernel, else the reference), ``"native"`` or ``"reference"``.
        out: a tensor for the result; spares a large allocation for each frame. Not with gradients.
        dtype: of the map: float32 or float64. Default float32, float64 where a tensor ``[N, C, h, w]`` is float64.
        crop: ``(top, left, height, width)``: compute only this window of the ``size`` map.
        guide: positive weights of the pixels of the whole canvas, ``[N, 1, H, W]``, float32 or float64: within its
            projection's reach each cell puts its bits in proportion to them, and conserves them all the same. Zero
            takes none, unless it is all that a cell reaches. Differentiable, too. Its values are looked at, which
            waits for the device. See ``docs/projections.md``.
        unit: what ``values`` are: ``"likelihood"``; or a cost that is known already, ``"bits"``, ``"nats"``, ``"log2"``
            or ``"log"``, the last two logarithms of likelihoods (negative). Costs are those of symbols,
            ``[N, C, h, w]``, or of cells, ``[N, h, w]``, as ``latent_bits`` gives them.
        check: refuse values that cannot be of that unit, such as likelihoods above 1 or below 0. That is one more pass,
            waits for the device and cannot be compiled.

    Returns:
        ``[N, 1, H, W]``, bits per pixel, on the likelihoods' device. The sum over a map is the image's total bits to
        6e-8 of it (float32). NaN likelihoods give NaN, zeros give infinity, in the pixels that they weigh on and no
        others.

    On CUDA one launch adds up to 20 latents; more are served by the reference. A CUDA graph can record a call once
    the same sizes have been called outside of it: their bands are copied to the GPU then.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        RuntimeError: ``impl="native"`` where there is no kernel, or a map that one CUDA launch cannot index.

    Example:
        >>> likelihoods = torch.full((1, 4, 8, 8), 0.5)  # four bits a cell
        >>> bits = bitrate_ext.bitrate_map(likelihoods, size=(64, 64))
        >>> bits.shape, float(bits.sum())
        (torch.Size([1, 1, 64, 64]), 256.0)
    """
    noun = noun_of(unit)
    latents = unwrap(values, noun)
    frames = split_frames(latents, unit)
    if frames is not None:
        for name, given in (("out", out), ("guide", guide)):
            if given is not None:
                raise ValueError(f"{name} goes with one map, but {noun} is a list")
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
                check=check,
            )
            for frame in frames
        ]
    call = resolve(latents, size, scale_factor, projection, conserve, impl, dtype, crop, unit, check)
    tensors, setting = call.terms(), call.setting
    if out is not None:
        check_out(out, call, setting.map.shape[2], noun)
    if guide is not None:
        check_guide(guide, call)
        return guided_map(call, guide, out)
    if out is not None:
        with torch.no_grad():
            if call.native:
                return dispatch.project_into(tensors, setting.bands(), out)
            return out.copy_(dispatch.project_by_reference(tensors, setting.geometry, setting.map.dtype))
    if not call.native:
        return dispatch.project_by_reference(tensors, setting.geometry, setting.map.dtype)
    if call.eager and not autograd.needs_gradient(tensors):
        new = on_large_pages(tensors[0].new_empty(setting.map.shape, dtype=setting.map.dtype))
        return dispatch.project_into(tensors, setting.bands(), new)
    return autograd.call_map(tensors, setting.geometry, setting.map.dtype)


@overload
def latent_bits(
    values: Latent, *, impl: str = "auto", dtype: torch.dtype | None = None, unit: str = LIKELIHOOD
) -> Tensor: ...
@overload
def latent_bits(
    values: Mapping[str, Any], *, impl: str = "auto", dtype: torch.dtype | None = None, unit: str = LIKELIHOOD
) -> dict[str, Tensor]: ...
@overload
def latent_bits(
    values: Sequence[Latents], *, impl: str = "auto", dtype: torch.dtype | None = None, unit: str = LIKELIHOOD
) -> list[Any]: ...
def latent_bits(
    values: Latents | Sequence[Latents],
    *,
    impl: str = "auto",
    dtype: torch.dtype | None = None,
    unit: str = LIKELIHOOD,
) -> Tensor | dict[str, Tensor] | list[Any]:
    """Return the bits per latent cell, ``[N, h, w]``, of likelihoods ``[N, C, h, w]``, a source or costs.

    The cell sums that ``bitrate_map`` projects, of whatever it takes: of nested dicts a dict by the latents' names, of
    a list one entry a frame. Sum them in float64 (``dtype=torch.float64``) for totals: a float32 sum over a large map
    is off in the fifth digit. Other arguments and errors as for ``bitrate_map``.

    Example:
        >>> bitrate_ext.latent_bits({"y": torch.full((1, 4, 1, 2), 0.5)})["y"].tolist()
        [[[4.0, 4.0]]]
    """
    noun = noun_of(unit)
    latents = unwrap(values, noun)
    frames = split_frames(latents, unit)
    if frames is not None:
        return [latent_bits(frame, impl=impl, dtype=dtype, unit=unit) for frame in frames]
    if isinstance(latents, Mapping):
        named = named_tensors(latents, noun)
        return {name: _cells(one, noun, impl, dtype, unit) for name, one in named.items()}
    return _cells(latents, noun, impl, dtype, unit)


def _cells(values: Any, noun: str, impl: str, dtype: torch.dtype | None, unit: str) -> Tensor:
    values = known_source(values)
    if not isinstance(values, (Tensor, Source)):
        raise TypeError(f"{noun} must be a tensor or a source of bits, got {type(values).__name__}")
    if isinstance(values, Source):
        if unit == LIKELIHOOD:
            check_kinds({"": values}, unit)
            native = choose_kernel(impl, values.device, 1)
            return cells_of({"": values}, native)[""].to(checked_dtype(dtype, [values]))
    elif 0 in values.shape[-2:]:
        check_kinds({"": values}, unit)
        return reference.cell_bits(kernel_input(values, unit), checked_dtype(dtype, [values]))
    # The map at the grid's own size, where each pixel is its cell.
    cells: Tensor = bitrate_map(values, values.shape[-2:], projection="nearest", impl=impl, dtype=dtype, unit=unit)
    return cells.squeeze(1)


def rate(sources: Latents, *, impl: str = "auto", check: bool = False) -> Tensor:
    """Return the bits of each image of a batch, float64 ``[N]``, straight from latents and their distributions.

    Differentiable in all that a source holds: ``rate(Gaussian(y, scales, means)).sum() / pixels`` is the rate term of a
    training loss.

    Args:
        sources: a source of bits, such as ``Gaussian``, or nested dicts of such, whose bits are added. Likelihoods
            ``[N, C, h, w]`` are sources, too.
        impl, check: as for ``bitrate_map``.

    Raises:
        TypeError, ValueError, RuntimeError: as ``bitrate_map`` does.

    Example:
        >>> y = torch.zeros(2, 3, 4, 4, requires_grad=True)
        >>> bits = bitrate_ext.rate(bitrate_ext.Gaussian(y, torch.ones_like(y)))
        >>> bits.shape, bits.dtype, bits.requires_grad
        (torch.Size([2]), torch.float64, True)
    """
    latents = {name: known_source(latent) for name, latent in image_latents(sources).items()}
    if not latents:
        raise ValueError(f"sources must hold at least one, got {sources!r}")
    check_kinds(latents, LIKELIHOOD)
    if check:
        check_values(latents, LIKELIHOOD)
    total: Tensor | None = None
    for latent in latents.values():
        cells = latent_bits(latent, impl=impl, dtype=torch.float64)
        bits = cells.sum(2).sum(1)  # by rows: an order that no number of threads changes
        total = bits if total is None else total + bits
    assert total is not None
    return total
