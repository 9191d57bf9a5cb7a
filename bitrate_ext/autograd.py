"""Python's side of the operators: bands, implementations, fake tensors, gradients and vmap.

``bitrate_ext::bitrate_map`` and its backward are opaque to compilers: they carry sizes and projection names, and bands
are looked up when they run, so a compiled program serves any size. Both are linear in the map, which makes the second
derivative two short formulas in plain PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _native, reference
from .projection import Axis, Band, axis_band, find_projection, transposed_axis_band

Bands = list[tuple[Band, Band]]


@lru_cache(maxsize=256)
def _cached_bands(
    grids: tuple[tuple[int, int], ...],
    canvas: tuple[int, int],
    window: tuple[int, int, int, int],
    keys: tuple[str, ...],
    conserve: bool,
    scales: tuple[float, float],
    device: torch.device,
    transposed: bool,
) -> tuple[Bands, list[Tensor]]:
    top, left, height, width = window
    vertical, horizontal = (0.0, 0.0) if conserve else scales
    build = transposed_axis_band if transposed else axis_band
    bands = []
    for (h, w), key in zip(grids, keys, strict=True):
        projection = find_projection(key)
        rows = Axis(h, canvas[0], top, height, conserve, vertical)
        columns = Axis(w, canvas[1], left, width, conserve, horizontal)
        bands.append((build(projection, rows, device), build(projection, columns, device)))
    return bands, [tensor for pair in bands for band in pair for tensor in (band.start, band.weight)]


def _lookup(
    tensors: Sequence[Tensor],
    canvas: Sequence[int],
    window: Sequence[int],
    keys: Sequence[str],
    conserve: bool,
    scales: Sequence[float],
    transposed: bool = False,
) -> tuple[Bands, list[Tensor]]:
    # int(): a second derivative may be traced with symbolic sizes, for which bands are then fixed.
    grids = tuple([(int(t.shape[2]), int(t.shape[3])) for t in tensors])
    return _cached_bands(
        grids,
        (int(canvas[0]), int(canvas[1])),
        (int(window[0]), int(window[1]), int(window[2]), int(window[3])),
        tuple(keys),
        conserve,
        (scales[0], scales[1]),
        tensors[0].device,
        transposed,
    )


def bands_of(
    tensors: Sequence[Tensor],
    canvas: Sequence[int],
    window: Sequence[int],
    keys: Sequence[str],
    conserve: bool,
    scales: Sequence[float],
    transposed: bool = False,
) -> Bands:
    """The (rows, columns) bands of each latent, from the cache."""
    return _lookup(tensors, canvas, window, keys, conserve, scales, transposed)[0]


def project_into(
    tensors: Sequence[Tensor],
    canvas: Sequence[int],
    window: Sequence[int],
    keys: Sequence[str],
    conserve: bool,
    scales: Sequence[float],
    out: Tensor,
) -> Tensor:
    """Run the native kernel into ``out`` (any strides); returns ``out``."""
    target = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    _, bands = _lookup(tensors, canvas, window, keys, conserve, scales)
    torch.ops.bitrate_ext._project(tensors, bands, target)
    return out if target is out else out.copy_(target)


def _map(
    likelihoods: Sequence[Tensor],
    canvas: Sequence[int],
    window: Sequence[int],
    projections: Sequence[str],
    conserve: bool,
    scales: Sequence[float],
    dtype: torch.dtype | None = None,
) -> Tensor:
    first = likelihoods[0]
    out = torch.empty((first.shape[0], 1, *window[2:]), dtype=dtype or torch.float32, device=first.device)
    return project_into(likelihoods, canvas, window, projections, conserve, scales, out)


def _map_fake(
    likelihoods: Sequence[Tensor],
    canvas: Sequence[int],
    window: Sequence[int],
    projections: Sequence[str],
    conserve: bool,
    scales: Sequence[float],
    dtype: torch.dtype | None = None,
) -> Tensor:
    first = likelihoods[0]
    return first.new_empty((first.shape[0], 1, *window[2:]), dtype=dtype or torch.float32)


def _map_backward(
    grad: Tensor,
    likelihoods: Tensor,
    canvas: Sequence[int],
    window: Sequence[int],
    projection: str,
    conserve: bool,
    scales: Sequence[float],
) -> Tensor:
    gradient = torch.empty_like(likelihoods)
    _, bands = _lookup([likelihoods], canvas, window, [projection], conserve, scales, transposed=True)
    torch.ops.bitrate_ext._project_backward(grad.contiguous(), likelihoods, bands, gradient)
    return gradient


def _map_backward_fake(grad: Tensor, likelihoods: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(likelihoods)


def _batched(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Fold vmap's dimension into the batch: ``[N, ...]`` to ``[B * N, ...]``."""
    moved = tensor.movedim(dim, 0) if dim is not None else tensor.unsqueeze(0).expand(size, *tensor.shape)
    return moved.reshape(size * moved.shape[1], *moved.shape[2:])


class _Map(torch.autograd.Function):
    """``bitrate_map`` with its gradient; ``torch.func`` transforms need the separate ``setup_context`` and ``vmap``."""

    @staticmethod
    def forward(placement: tuple[Any, ...], *likelihoods: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitrate_ext.bitrate_map(likelihoods, *placement)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.placement, *likelihoods = inputs
        ctx.save_for_backward(*likelihoods)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        canvas, window, projections, conserve, scales, _ = ctx.placement
        gradients = [
            call_map_backward(grad, p, canvas, window, projection, conserve, scales) if needed else None
            for p, projection, needed in zip(ctx.saved_tensors, projections, ctx.needs_input_grad[1:], strict=True)
        ]
        return None, *gradients

    @staticmethod
    def vmap(info: Any, in_dims: Any, placement: tuple[Any, ...], *likelihoods: Tensor) -> tuple[Tensor, int]:
        return _map_vmap(info, [in_dims[1:]], likelihoods, *placement)


class _MapBackward(torch.autograd.Function):
    """``bitrate_map_backward`` with its own gradient, in plain PyTorch, so it can be differentiated again."""

    @staticmethod
    def forward(placement: tuple[Any, ...], grad: Tensor, likelihoods: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitrate_ext.bitrate_map_backward(grad, likelihoods, *placement)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.placement, grad, likelihoods = inputs
        ctx.save_for_backward(grad, likelihoods)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        """Of ``-A'G / (p ln 2)``, A the projection, G the map's gradient, along V: in G ``A sum_c(-V / (p ln 2))``, and
        in p ``V A'G / (p^2 ln 2)``."""
        grad, likelihoods = ctx.saved_tensors
        canvas, window, projection, conserve, scales = ctx.placement
        p = likelihoods.to(grad.dtype)
        cost = -direction.to(grad.dtype) / (p * math.log(2))
        (bands,) = bands_of([likelihoods], canvas, window, [projection], conserve, scales)
        (transposed,) = bands_of([likelihoods], canvas, window, [projection], conserve, scales, transposed=True)
        in_grad = reference.project(cost.sum(dim=1), *bands).unsqueeze(1)
        cells = reference.cell_gradient(grad, *transposed).unsqueeze(1)
        return None, in_grad, (-cost * cells / p).to(likelihoods.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, placement: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        return _map_backward_vmap(info, in_dims[1:], *tensors, *placement)


def _transformed() -> bool:
    """Inside ``torch.func`` transforms, which must see the ``autograd.Function`` and not the operator."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def is_plain(tensors: Sequence[Tensor]) -> bool:
    """Ordinary eager tensors with no gradient wanted, which may go straight to the kernel."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch._C._len_torch_dispatch_stack():  # fake tensors, tracing
        return False
    return all(type(t) is Tensor for t in tensors) and not _needs_gradient(tensors)


def call_map(likelihoods: Sequence[Tensor], *placement: Any) -> Tensor:
    """The operator, under any transform; arguments of the schema ``bitrate_ext::bitrate_map``."""
    if _transformed():
        return _Map.apply(placement, *likelihoods)
    return torch.ops.bitrate_ext.bitrate_map(likelihoods, *placement)


def call_map_backward(grad: Tensor, likelihoods: Tensor, *placement: Any) -> Tensor:
    """As ``call_map``, for ``bitrate_ext::bitrate_map_backward``."""
    if _transformed():
        return _MapBackward.apply(placement, grad, likelihoods)
    return torch.ops.bitrate_ext.bitrate_map_backward(grad, likelihoods, *placement)


def _needs_gradient(tensors: Sequence[Tensor]) -> bool:
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        return True  # no forward mode: the autograd.Function says so, where going on would lose the tangent
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _map_autograd(likelihoods: Sequence[Tensor], *placement: Any) -> Tensor:
    if not _needs_gradient(likelihoods):
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitrate_ext.bitrate_map(likelihoods, *placement)
    return _Map.apply((*placement, None) if len(placement) == 5 else placement, *likelihoods)


def _map_backward_autograd(grad: Tensor, likelihoods: Tensor, *placement: Any) -> Tensor:
    if not _needs_gradient((grad, likelihoods)):
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitrate_ext.bitrate_map_backward(grad, likelihoods, *placement)
    return _MapBackward.apply(placement, grad, likelihoods)


def _map_vmap(info: Any, in_dims: Sequence[Any], likelihoods: Sequence[Tensor], *placement: Any) -> tuple[Tensor, int]:
    folded = [_batched(p, dim, info.batch_size) for p, dim in zip(likelihoods, in_dims[0], strict=True)]
    out = torch.ops.bitrate_ext.bitrate_map(folded, *placement)
    return out.reshape(info.batch_size, -1, *out.shape[1:]), 0


def _map_backward_vmap(
    info: Any, in_dims: tuple[Any, ...], grad: Tensor, likelihoods: Tensor, *placement: Any
) -> tuple[Tensor, int]:
    folded = [_batched(t, dim, info.batch_size) for t, dim in zip((grad, likelihoods), in_dims[:2], strict=True)]
    gradient = torch.ops.bitrate_ext.bitrate_map_backward(*folded, *placement)
    return gradient.reshape(info.batch_size, -1, *gradient.shape[1:]), 0


def register() -> None:
    """Attach everything to the operators that the compiled library has declared.

    Autocast needs no rule: without one the operators see their inputs as they are, and compute in float64 inside.
    """
    for name, run, fake, gradient, vmap in (
        ("bitrate_map", _map, _map_fake, _map_autograd, _map_vmap),
        ("bitrate_map_backward", _map_backward, _map_backward_fake, _map_backward_autograd, _map_backward_vmap),
    ):
        operator = f"bitrate_ext::{name}"
        torch.library.impl(operator, "CPU")(run)
        torch.library.impl(operator, "Autograd")(gradient)
        torch.library.register_fake(operator)(fake)
        torch.library.register_vmap(operator)(vmap)


if _native.absent_because is None:
    register()
