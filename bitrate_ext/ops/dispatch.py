"""Where a call goes: its bands, from the cache, and the kernel or the reference that applies them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library, reference
from .band import Band
from .projection import Axis, axis_band, find_projection, transposed_axis_band
from .torch_internals import dispatch_modes

IMPLEMENTATIONS = ("auto", "native", "reference")

Bands = list[tuple[Band, Band]]  # of the rows and of the columns of each latent


class MapGeometry(NamedTuple):
    """Where latents lie on the image: the arguments of the operators that are not tensors."""

    canvas: Sequence[int]  # (H, W) that the latents cover, pixels
    window: Sequence[int]  # (top, left, height, width) of it that is wanted
    projections: Sequence[str]  # a key for each latent
    conserve: bool
    scales: Sequence[float]  # pixels per cell each way; zero: from the sizes


def choose_kernel(impl: str, device: torch.device, terms: int) -> bool:
    """Return whether the native kernel is to add so many terms on this device, or else the reference.

    Raises:
        ValueError: ``impl`` is none of ``IMPLEMENTATIONS``.
        RuntimeError: ``impl="native"`` where no kernel serves.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(map(repr, IMPLEMENTATIONS))}, got {impl!r}")
    if impl == "reference":
        return False
    because = library.why_absent(device, terms)
    if because:
        if impl == "native":
            raise RuntimeError(f"impl='native' was asked for, but {because}")
        library.warn_once(device, because)
    return not because


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
    cpu = torch.device("cpu")
    bands, flat = [], []
    for (h, w), key in zip(grids, keys, strict=True):
        projection = find_projection(key)
        axes = (
            (projection.along(0), Axis(h, canvas[0], top, height, conserve, vertical)),
            (projection.along(1), Axis(w, canvas[1], left, width, conserve, horizontal)),
        )
        rows, columns = (build(one, axis, device) for one, axis in axes)
        bands.append((rows, columns))
        flat += _flat(rows, build(*axes[0], cpu)) + _flat(columns, build(*axes[1], cpu))
    return bands, flat


def _flat(band: Band, on_the_cpu: Band) -> list[Tensor]:
    """Return a band as the kernels take it; on CUDA, the host plans launches from the starts."""
    return [band.start, band.weight, *([on_the_cpu.start] if band.start.is_cuda else [])]


def _bands_of(*call: Any) -> tuple[Bands, list[Tensor]]:
    """Return bands from the cache; a compiler takes them as they are.

    It would go through the arithmetic itself otherwise, in float32 where NumPy has float64, and leave its results in
    the caches of all calls to come.
    """
    return _cached_bands(*call)


# What torch.compiler.assume_constant_result sets, which would import the compiler, and take two seconds.
vars(_bands_of)["_dynamo_marked_constant"] = True


_captured: dict[int, list[Tensor]] = {}  # bands that a CUDA graph reads, which may be replayed for ever


def is_capturing(device: torch.device) -> bool:
    """Tell whether a CUDA graph records what is called on this device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _keep_alive(tensors: list[Tensor], device: torch.device) -> None:
    """See that bands live as long as the GPU reads them, though the cache may drop them when the call has returned.

    The allocator is told of the stream, and what a graph has captured is kept. Programs that are traced keep their own.
    """
    if dispatch_modes():
        return
    if torch.cuda.is_current_stream_capturing():
        _captured[id(tensors)] = tensors
        return
    stream = torch.cuda.current_stream(device)
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(stream)


def cached_bands(
    tensors: Sequence[Tensor], geometry: MapGeometry, *, transposed: bool = False
) -> tuple[Bands, list[Tensor]]:
    """Return the bands of each latent, and the same as the flat list of tensors that the kernels take."""
    canvas, window, keys, conserve, scales = geometry
    device = tensors[0].device
    # int(): a second derivative may be traced with symbolic sizes, for which bands are then fixed.
    bands, flat = _bands_of(
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
        _keep_alive(flat, device)
    return bands, flat


def new_map(tensors: Sequence[Tensor], geometry: MapGeometry, dtype: torch.dtype | None) -> Tensor:
    """Return an uninitialised map, ``[N, 1, H, W]``; float32 by default."""
    return tensors[0].new_empty((tensors[0].shape[0], 1, *geometry.window[2:]), dtype=dtype or torch.float32)


def project_into(tensors: Sequence[Tensor], geometry: MapGeometry, out: Tensor, guide: Tensor | None = None) -> Tensor:
    """Run the native kernel into ``out``, of any strides, and return it; a window's guide multiplies its pixels."""
    target = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    torch.ops.bitrate_ext._project(tensors, cached_bands(tensors, geometry)[1], guide, target)
    return out if target is out else out.copy_(target)


def project_by_reference(tensors: Sequence[Tensor], geometry: MapGeometry, dtype: torch.dtype) -> Tensor:
    """Return the map by the reference."""
    return reference.bitrate_map(tensors, cached_bands(tensors, geometry)[0], dtype)


def project_bands_into(tensors: Sequence[Tensor], bands: Bands, out: Tensor, native: bool) -> Tensor:
    """Run the kernel or the reference with bands of the caller's own, which are on the CPU, into contiguous ``out``."""
    there = [(rows.to(out.device), columns.to(out.device)) for rows, columns in bands]
    if not native:
        return out.copy_(reference.bitrate_map(tensors, there, out.dtype))
    flat = [
        tensor for pair, own in zip(there, bands, strict=True) for ends in zip(pair, own, strict=True)
        for tensor in _flat(*ends)
    ]  # fmt: skip
    if out.is_cuda:
        _keep_alive(flat, out.device)
    torch.ops.bitrate_ext._project(tensors, flat, None, out)
    return out
