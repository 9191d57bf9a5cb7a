"""Python's side of the operators: implementations, fake tensors, gradients and vmap.

``bitrate_ext::bitrate_map`` and its backward are opaque to compilers: they carry sizes and projection keys, and bands
are looked up when they run, so a compiled program serves any size. Both are linear in the map, which makes the second
derivative two short formulas in plain PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import library, reference
from .dispatch import MapGeometry, cached_bands, new_map, project_into
from .memory_pages import on_large_pages
from .torch_internals import BelowAutograd, dispatch_modes, in_forward_mode, in_function_transform

# The operators. Their schemas are in csrc/ops/ops.cpp: tensors, then the fields of a MapGeometry, then what is left.


def _map(values: Sequence[Tensor], *arguments: Any) -> Tensor:
    geometry, dtype = _geometry_and_dtype(arguments)
    return project_into(values, cached_bands(values, geometry), on_large_pages(new_map(values, geometry, dtype)))


def _map_fake(values: Sequence[Tensor], *arguments: Any) -> Tensor:
    return new_map(values, *_geometry_and_dtype(arguments))


def _geometry_and_dtype(arguments: Sequence[Any]) -> tuple[MapGeometry, torch.dtype | None]:
    return MapGeometry(*arguments[:5]), arguments[5] if len(arguments) > 5 else None


def _backward_geometry(arguments: Sequence[Any]) -> MapGeometry:
    canvas, window, projection, conserve, scales = arguments
    return MapGeometry(canvas, window, [projection], conserve, scales)


def _map_backward(grad: Tensor, values: Tensor, *arguments: Any) -> Tensor:
    gradient = on_large_pages(torch.empty_like(values))
    bands = cached_bands([values], _backward_geometry(arguments), transposed=True)
    torch.ops.bitrate_ext._project_backward(grad.contiguous(), values, bands.flat, gradient, bands.plans)
    return gradient


def _map_backward_fake(grad: Tensor, values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values)


def _batched(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Fold vmap's dimension into the batch: ``[N, ...]`` to ``[B * N, ...]``."""
    moved = tensor.movedim(dim, 0) if dim is not None else tensor.unsqueeze(0).expand(size, *tensor.shape)
    return moved.reshape(size * moved.shape[1], *moved.shape[2:])


def _unbatched(tensor: Tensor, size: int) -> Tensor:
    return tensor.reshape(size, tensor.shape[0] // size, *tensor.shape[1:])


def _map_vmap(info: Any, in_dims: Sequence[Any], values: Sequence[Tensor], *arguments: Any) -> tuple[Tensor, int]:
    folded = [_batched(p, dim, info.batch_size) for p, dim in zip(values, in_dims[0], strict=True)]
    return _unbatched(_call_map(folded, *arguments), info.batch_size), 0


def _map_backward_vmap(
    info: Any, in_dims: Sequence[Any], grad: Tensor, values: Tensor, *arguments: Any
) -> tuple[Tensor, int]:
    folded = [_batched(t, dim, info.batch_size) for t, dim in zip((grad, values), in_dims[:2], strict=True)]
    return _unbatched(_call_backward(*folded, *arguments), info.batch_size), 0


def _change_of_bits(values: Tensor, change: Tensor) -> Tensor:
    """Return how a change of likelihoods, or of bits, changes the bits of cells ``[N, h, w]``, to first order."""
    if values.dim() == 3:
        return change.to(values.dtype)
    return (-change / (values * math.log(2))).sum(dim=1)


def _change_of_values(values: Tensor, cell_gradient: Tensor) -> Tensor:
    """Return the gradient of likelihoods or of bits from that of cells: the transpose of ``_change_of_bits``."""
    return cell_gradient if values.dim() == 3 else -cell_gradient.unsqueeze(1) / (values * math.log(2))


def _curvature(values: Tensor, direction: Tensor, cell_gradient: Tensor) -> Tensor:
    """Return the derivative of ``_change_of_values`` along a direction of the values; zero for bits."""
    if values.dim() == 3:
        return torch.zeros_like(values)
    return direction / (values * math.log(2)) * cell_gradient.unsqueeze(1) / values


def _cell_gradient(grad: Tensor, values: Tensor, geometry: MapGeometry) -> Tensor:
    """Return the gradient of cells ``[N, h, w]`` from that of the map: in plain PyTorch, or as a traced operator."""
    if dispatch_modes():
        return run_backward(grad, grad.new_zeros((len(grad), *values.shape[-2:])), geometry, True)
    ((rows, columns),) = cached_bands([values], geometry, transposed=True).pairs
    return reference.project(grad.squeeze(1), rows, columns)


def _lay_out(bits: Tensor, geometry: MapGeometry) -> Tensor:
    """Return the map of bits ``[N, h, w]`` in their dtype: in plain PyTorch, or as a traced operator."""
    if dispatch_modes():
        traced: Tensor = _call_map([bits], *geometry, bits.dtype)
        return traced
    (bands,) = cached_bands([bits], geometry).pairs
    return reference.project(bits, *bands).unsqueeze(1)


class _Map(torch.autograd.Function):
    """``bitrate_map`` with its gradient; ``torch.func`` transforms need the separate ``setup_context`` and ``vmap``."""

    @staticmethod
    def forward(arguments: tuple[Any, ...], *values: Tensor) -> Any:
        with BelowAutograd():
            return torch.ops.bitrate_ext.bitrate_map(values, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.arguments, *values = inputs
        # Of bits nothing counts but their shape: cells that were made of a source need not be kept.
        kept = [v if v.dim() == 4 else v.new_zeros(()).expand(v.shape) for v in values]
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)
        ctx.dtype = output.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        geometry, _ = _geometry_and_dtype(ctx.arguments)
        gradients = [
            _call_backward(grad, p, *geometry._replace(projections=key)) if needed else None
            for p, key, needed in zip(ctx.saved_tensors, geometry.projections, ctx.needs_input_grad[1:], strict=True)
        ]
        return None, *gradients

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        geometry, _dtype = _geometry_and_dtype(ctx.arguments)
        maps = [
            reference.project(_change_of_bits(one.to(ctx.dtype), tangent.to(ctx.dtype)), *pair)
            for one, tangent, pair in zip(
                ctx.saved_tensors, tangents, cached_bands(ctx.saved_tensors, geometry).pairs, strict=True
            )
            if tangent is not None
        ]
        return torch.stack(maps).sum(dim=0).unsqueeze(1)

    @staticmethod
    def vmap(info: Any, in_dims: Any, arguments: tuple[Any, ...], *values: Tensor) -> tuple[Tensor, int]:
        return _map_vmap(info, [in_dims[1:]], values, *arguments)


class _MapBackward(torch.autograd.Function):
    """``bitrate_map_backward`` with its own gradient, in plain PyTorch, so it can be differentiated again."""

    @staticmethod
    def forward(arguments: tuple[Any, ...], grad: Tensor, values: Tensor) -> Any:
        with BelowAutograd():
            return torch.ops.bitrate_ext.bitrate_map_backward(grad, values, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.arguments, grad, values = inputs
        ctx.save_for_backward(grad, values)
        ctx.save_for_forward(grad, values)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate ``-A'G / (p ln 2)``, A the projection and G the map's gradient, along V.

        In G that is ``A sum_c(-V / (p ln 2))``, and in p ``V A'G / (p^2 ln 2)``. The gradient of bits is ``A'G``: in G
        that is ``A V``.
        """
        grad, values = ctx.saved_tensors
        wide, direction = values.to(grad.dtype), direction.to(grad.dtype)
        geometry = _backward_geometry(ctx.arguments)
        in_grad = _lay_out(_change_of_bits(wide, direction), geometry)
        if values.dim() == 3:  # the gradient of bits does not depend on them
            return None, in_grad, None
        in_values = _curvature(wide, direction, _cell_gradient(grad, values, geometry))
        return None, in_grad, in_values.to(values.dtype)

    @staticmethod
    def jvp(ctx: Any, _: None, grad_tangent: Tensor | None, tangent: Tensor | None) -> Tensor:
        grad, values = ctx.saved_tensors
        geometry, wide = _backward_geometry(ctx.arguments), values.to(grad.dtype)
        total = torch.zeros_like(wide)
        if grad_tangent is not None:
            total = total + _change_of_values(wide, _cell_gradient(grad_tangent, values, geometry))
        if tangent is not None:
            total = total + _curvature(wide, tangent.to(grad.dtype), _cell_gradient(grad, values, geometry))
        return total.to(values.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, arguments: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        return _map_backward_vmap(info, in_dims[1:], *tensors, *arguments)


def needs_gradient(tensors: Sequence[Tensor]) -> bool:
    """Tell whether reverse mode is recorded, or forward mode is on."""
    return (torch.is_grad_enabled() and any([t.requires_grad for t in tensors])) or in_forward_mode()


def call_map(values: Sequence[Tensor], geometry: MapGeometry, dtype: torch.dtype) -> Tensor:
    """Call the operator, under any transform."""
    result: Tensor = _call_map(values, *geometry, dtype)
    return result


def run_backward(grad: Tensor, values: Tensor, geometry: MapGeometry, native: bool) -> Tensor:
    """Return the projection's adjoint of a map's gradient, in the shape of bits ``[N, h, w]`` float64."""
    if not native:
        return _cell_gradient(grad.double(), values, geometry)
    canvas, window, (key,), conserve, scales = geometry
    result: Tensor = _call_backward(grad, values, canvas, window, key, conserve, scales)
    return result


def _transformed() -> bool:
    return not torch.compiler.is_compiling() and in_function_transform()


def _call_map(values: Sequence[Tensor], *arguments: Any) -> Any:
    if _transformed():
        return _Map.apply(arguments, *values)
    return torch.ops.bitrate_ext.bitrate_map(values, *arguments)


def _call_backward(grad: Tensor, values: Tensor, *arguments: Any) -> Any:
    if _transformed():
        return _MapBackward.apply(arguments, grad, values)
    return torch.ops.bitrate_ext.bitrate_map_backward(grad, values, *arguments)


def _map_autograd(values: Sequence[Tensor], *arguments: Any) -> Any:
    if needs_gradient(values):
        return _Map.apply(arguments, *values)
    return _Map.forward(arguments, *values)


def _map_backward_autograd(grad: Tensor, values: Tensor, *arguments: Any) -> Any:
    if needs_gradient((grad, values)):
        return _MapBackward.apply(arguments, grad, values)
    return _MapBackward.forward(arguments, grad, values)


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
