"""Python's side of the operators: bands, implementations, fake tensors, gradients and vmap.

``bitrate_ext::bitrate_map`` and its backward are opaque to compilers: they carry sizes and projection keys, and bands
are looked up when they run, so a compiled program serves any size. Both are linear in the map, which makes the second
derivative two short formulas in plain PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library, reference
from .projection import Axis, Band, axis_band, find_projection, transposed_axis_band

Bands = list[tuple[Band, Band]]


class MapGeometry(NamedTuple):
    """Where latents lie on the image: the arguments of the operators that are not tensors."""

    canvas: Sequence[int]  # (H, W) that the latents cover, pixels
    window: Sequence[int]  # (top, left, height, width) of it that is wanted
    projections: Sequence[str]  # a key for each latent
    conserve: bool
    scales: Sequence[float]  # pixels per cell each way; zero: from the sizes


@lru_cache(maxsize=256)
def _cached_bands(
    grids: tuple[tuple[int, int], ...],
    canvas: tuple[int, ...],
    window: tuple[int, ...],
    keys: tuple[str, ...],
    conserve: bool,
    scales: tuple[float, ...],
    device: torch.device,
    transposed: bool,
) -> tuple[Bands, list[Tensor]]:
    top, left, height, width = window
    vertical, horizontal = (0.0, 0.0) if conserve else scales
    build = transposed_axis_band if transposed else axis_band
    bands, flat = [], []
    for (h, w), key in zip(grids, keys, strict=True):
        projection = find_projection(key)
        rows = Axis(h, canvas[0], top, height, conserve, vertical)
        columns = Axis(w, canvas[1], left, width, conserve, horizontal)
        pair = []
        for axis, placed in enumerate((rows, columns)):
            one = projection.along(axis)
            pair.append(build(one, placed, device))
            flat += [pair[-1].start, pair[-1].weight]
            if device.type == "cuda":  # the host plans launches from the starts
                flat.append(build(one, placed, torch.device("cpu")).start)
        bands.append((pair[0], pair[1]))
    return bands, flat


_captured: dict[int, list[Tensor]] = {}  # bands that a CUDA graph reads, which may be replayed for ever


def _outlive(tensors: list[Tensor], device: torch.device) -> None:
    """See that bands live as long as the GPU reads them, though the cache may drop them when the call has returned.

    The allocator is told of the stream, and what a graph has captured is kept. Programs that are traced keep their own.
    """
    if torch._C._len_torch_dispatch_stack():  # fake tensors, tracing
        return
    if torch.cuda.is_current_stream_capturing():
        _captured[id(tensors)] = tensors
        return
    stream = torch.cuda.current_stream(device)
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(stream)


def _lookup(tensors: Sequence[Tensor], placement: MapGeometry, transposed: bool = False) -> tuple[Bands, list[Tensor]]:
    """The bands, and the same as the flat list of tensors that the kernels take."""
    canvas, window, keys, conserve, scales = placement
    device = tensors[0].device
    # int(): a second derivative may be traced with symbolic sizes, for which bands are then fixed.
    bands, flat = _cached_bands(
        tuple([(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]),
        (int(canvas[0]), int(canvas[1])),
        (int(window[0]), int(window[1]), int(window[2]), int(window[3])),
        tuple(keys),
        conserve,
        tuple(scales),
        device,
        transposed,
    )
    if device.type == "cuda":
        _outlive(flat, device)
    return bands, flat


def bands_of(tensors: Sequence[Tensor], placement: MapGeometry, transposed: bool = False) -> Bands:
    """The (rows, columns) bands of each latent, from the cache."""
    return _lookup(tensors, placement, transposed)[0]


def new_map(tensors: Sequence[Tensor], placement: MapGeometry, dtype: torch.dtype | None) -> Tensor:
    """An uninitialised map."""
    return tensors[0].new_empty((tensors[0].shape[0], 1, *placement.window[2:]), dtype=dtype or torch.float32)


def project_into(tensors: Sequence[Tensor], placement: MapGeometry, out: Tensor) -> Tensor:
    """Run the native kernel into ``out`` (any strides); returns ``out``."""
    target = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    torch.ops.bitrate_ext._project(tensors, _lookup(tensors, placement)[1], target)
    return out if target is out else out.copy_(target)


def project_bands_into(tensors: Sequence[Tensor], bands: Bands, out: Tensor) -> Tensor:
    """The native kernel with bands of the caller's own, which are on the CPU; ``out`` is contiguous."""
    flat = []
    for band in (band for pair in bands for band in pair):
        there = band.to(out.device)
        flat += [there.start, there.weight]
        if out.is_cuda:  # as in `_cached_bands`
            flat.append(band.start)
    if out.is_cuda:
        _outlive(flat, out.device)
    torch.ops.bitrate_ext._project(tensors, flat, out)
    return out


# The operators. Their schemas are in csrc/ops/ops.cpp: tensors, then the fields of a Placement, then what is left.


def _map(likelihoods: Sequence[Tensor], *arguments: Any) -> Tensor:
    placement, dtype = _placement_and_dtype(arguments)
    return project_into(likelihoods, placement, new_map(likelihoods, placement, dtype))


def _map_fake(likelihoods: Sequence[Tensor], *arguments: Any) -> Tensor:
    return new_map(likelihoods, *_placement_and_dtype(arguments))


def _placement_and_dtype(arguments: Sequence[Any]) -> tuple[MapGeometry, torch.dtype | None]:
    return MapGeometry(*arguments[:5]), arguments[5] if len(arguments) > 5 else None


def _backward_placement(arguments: Sequence[Any]) -> MapGeometry:
    canvas, window, projection, conserve, scales = arguments
    return MapGeometry(canvas, window, [projection], conserve, scales)


def _map_backward(grad: Tensor, likelihoods: Tensor, *arguments: Any) -> Tensor:
    gradient = torch.empty_like(likelihoods)
    _, bands = _lookup([likelihoods], _backward_placement(arguments), transposed=True)
    torch.ops.bitrate_ext._project_backward(grad.contiguous(), likelihoods, bands, gradient)
    return gradient


def _map_backward_fake(grad: Tensor, likelihoods: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(likelihoods)


def _batched(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Fold vmap's dimension into the batch: ``[N, ...]`` to ``[B * N, ...]``."""
    moved = tensor.movedim(dim, 0) if dim is not None else tensor.unsqueeze(0).expand(size, *tensor.shape)
    return moved.reshape(size * moved.shape[1], *moved.shape[2:])


def _unbatched(tensor: Tensor, size: int) -> Tensor:
    return tensor.reshape(size, tensor.shape[0] // size, *tensor.shape[1:])


def _map_vmap(info: Any, in_dims: Sequence[Any], likelihoods: Sequence[Tensor], *arguments: Any) -> tuple[Tensor, int]:
    folded = [_batched(p, dim, info.batch_size) for p, dim in zip(likelihoods, in_dims[0], strict=True)]
    return _unbatched(_call_map(folded, *arguments), info.batch_size), 0


def _map_backward_vmap(
    info: Any, in_dims: Sequence[Any], grad: Tensor, likelihoods: Tensor, *arguments: Any
) -> tuple[Tensor, int]:
    folded = [_batched(t, dim, info.batch_size) for t, dim in zip((grad, likelihoods), in_dims[:2], strict=True)]
    return _unbatched(_call_backward(*folded, *arguments), info.batch_size), 0


def _change_of_bits(values: Tensor, change: Tensor) -> Tensor:
    """By how much a change of likelihoods, or of bits, changes the bits of cells ``[N, h, w]``, to first order."""
    if values.dim() == 3:
        return change.to(values.dtype)
    return (-change / (values * math.log(2))).sum(dim=1)


def _change_of_values(values: Tensor, cell_gradient: Tensor) -> Tensor:
    """The transpose of ``_change_of_bits``: the gradient of likelihoods or of bits from that of cells."""
    return cell_gradient if values.dim() == 3 else -cell_gradient.unsqueeze(1) / (values * math.log(2))


def _curvature(values: Tensor, direction: Tensor, cell_gradient: Tensor) -> Tensor:
    """The derivative of ``_change_of_values`` along a direction of the values; bits have none."""
    if values.dim() == 3:
        return torch.zeros_like(values)
    return direction / (values * math.log(2)) * cell_gradient.unsqueeze(1) / values


class _Map(torch.autograd.Function):
    """``bitrate_map`` with its gradient; ``torch.func`` transforms need the separate ``setup_context`` and ``vmap``."""

    @staticmethod
    def forward(arguments: tuple[Any, ...], *likelihoods: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitrate_ext.bitrate_map(likelihoods, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.arguments, *likelihoods = inputs
        ctx.save_for_backward(*likelihoods)
        ctx.save_for_forward(*likelihoods)
        ctx.dtype = output.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        placement, _ = _placement_and_dtype(ctx.arguments)
        gradients = [
            _call_backward(grad, p, *placement._replace(projections=key)) if needed else None
            for p, key, needed in zip(ctx.saved_tensors, placement.projections, ctx.needs_input_grad[1:], strict=True)
        ]
        return None, *gradients

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        placement, _dtype = _placement_and_dtype(ctx.arguments)
        maps = [
            reference.project(_change_of_bits(one.to(ctx.dtype), tangent.to(ctx.dtype)), *pair)
            for one, tangent, pair in zip(
                ctx.saved_tensors, tangents, bands_of(ctx.saved_tensors, placement), strict=True
            )
            if tangent is not None
        ]
        return torch.stack(maps).sum(dim=0).unsqueeze(1)

    @staticmethod
    def vmap(info: Any, in_dims: Any, arguments: tuple[Any, ...], *likelihoods: Tensor) -> tuple[Tensor, int]:
        return _map_vmap(info, [in_dims[1:]], likelihoods, *arguments)


class _MapBackward(torch.autograd.Function):
    """``bitrate_map_backward`` with its own gradient, in plain PyTorch, so it can be differentiated again."""

    @staticmethod
    def forward(arguments: tuple[Any, ...], grad: Tensor, likelihoods: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitrate_ext.bitrate_map_backward(grad, likelihoods, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.arguments, grad, likelihoods = inputs
        ctx.save_for_backward(grad, likelihoods)
        ctx.save_for_forward(grad, likelihoods)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        """Of ``-A'G / (p ln 2)``, A the projection, G the map's gradient, along V: in G ``A sum_c(-V / (p ln 2))``, and
        in p ``V A'G / (p^2 ln 2)``. Of bits, whose gradient is ``A'G``: in G ``A V``."""
        grad, values = ctx.saved_tensors
        placement = _backward_placement(ctx.arguments)
        wide, direction = values.to(grad.dtype), direction.to(grad.dtype)
        (bands,), (transposed,) = bands_of([values], placement), bands_of([values], placement, transposed=True)
        in_grad = reference.project(_change_of_bits(wide, direction), *bands).unsqueeze(1)
        in_values = _curvature(wide, direction, reference.cell_gradient(grad, *transposed))
        return None, in_grad, in_values.to(values.dtype)

    @staticmethod
    def jvp(ctx: Any, _: None, grad_tangent: Tensor | None, tangent: Tensor | None) -> Tensor:
        grad, values = ctx.saved_tensors
        (transposed,) = bands_of([values], _backward_placement(ctx.arguments), transposed=True)
        wide = values.to(grad.dtype)
        total = torch.zeros_like(wide)
        if grad_tangent is not None:
            total = total + _change_of_values(wide, reference.cell_gradient(grad_tangent, *transposed))
        if tangent is not None:
            cell_gradient = reference.cell_gradient(grad, *transposed)
            total = total + _curvature(wide, tangent.to(grad.dtype), cell_gradient)
        return total.to(values.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, arguments: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        return _map_backward_vmap(info, in_dims[1:], *tensors, *arguments)


def _transformed() -> bool:
    """Inside ``torch.func`` transforms, which must see the ``autograd.Function`` and not the operator."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _needs_gradient(tensors: Sequence[Tensor]) -> bool:
    """Reverse mode is recorded, or forward mode is on."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return torch.autograd.forward_ad._current_level >= 0


def is_plain(tensors: Sequence[Tensor]) -> bool:
    """Ordinary eager tensors with no gradient wanted, which may go straight to the kernel."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch._C._len_torch_dispatch_stack():  # fake tensors, tracing
        return False
    return not _needs_gradient(tensors) and all(type(t) is Tensor for t in tensors)


def call_map(likelihoods: Sequence[Tensor], placement: MapGeometry, dtype: torch.dtype) -> Tensor:
    """The operator, under any transform."""
    return _call_map(likelihoods, *placement, dtype)


def _call_map(likelihoods: Sequence[Tensor], *arguments: Any) -> Tensor:
    if _transformed():
        return _Map.apply(arguments, *likelihoods)
    return torch.ops.bitrate_ext.bitrate_map(likelihoods, *arguments)


def _call_backward(grad: Tensor, likelihoods: Tensor, *arguments: Any) -> Tensor:
    if _transformed():
        return _MapBackward.apply(arguments, grad, likelihoods)
    return torch.ops.bitrate_ext.bitrate_map_backward(grad, likelihoods, *arguments)


def _map_autograd(likelihoods: Sequence[Tensor], *arguments: Any) -> Tensor:
    if _needs_gradient(likelihoods):
        return _Map.apply(arguments, *likelihoods)
    return _Map.forward(arguments, *likelihoods)


def _map_backward_autograd(grad: Tensor, likelihoods: Tensor, *arguments: Any) -> Tensor:
    if _needs_gradient((grad, likelihoods)):
        return _MapBackward.apply(arguments, grad, likelihoods)
    return _MapBackward.forward(arguments, grad, likelihoods)


def register() -> None:
    """Attach everything to the operators that the compiled library has declared.

    Autocast needs no rule: without one the operators see their inputs as they are, and compute in float64 inside.
    """
    for name, run, fake, gradient, vmap in (
        ("bitrate_map", _map, _map_fake, _map_autograd, _map_vmap),
        ("bitrate_map_backward", _map_backward, _map_backward_fake, _map_backward_autograd, _map_backward_vmap),
    ):
        operator = f"bitrate_ext::{name}"
        for key in ("CPU", "CUDA") if library.cuda_absent_because is None else ("CPU",):
            torch.library.impl(operator, key)(run)
        torch.library.impl(operator, "Autograd")(gradient)
        torch.library.register_fake(operator)(fake)
        torch.library.register_vmap(operator)(vmap)


if library.absent_because is None:
    register()
