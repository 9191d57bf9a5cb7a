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
from .torch_internals import current_stream_id, dispatch_modes

IMPLEMENTATIONS = ("auto", "native", "reference")

Bands = list[tuple[Band, Band]]  # of the rows and of the columns of each latent


class BandSet(NamedTuple):
    """The bands of a call, on one device, and what goes with them."""

    pairs: Bands
    flat: list[Tensor]  # the same, as the kernels take them
    plans: Tensor | None  # memory in which the kernels keep their plans; on CUDA
    streams: set[int]  # CUDA's, by their ids, of whose use of ``flat`` the allocator has been told


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
) -> BandSet:
    top, left, height, width = window
    vertical, horizontal = (0.0, 0.0) if conserve else scales
    build = transposed_axis_band if transposed else axis_band
    cpu = torch.device("cpu")
    pairs: Bands = []
    own: Bands = []
    for (h, w), key in zip(grids, keys, strict=True):
        projection = find_projection(key)
        axes = (
            (projection.along(0), Axis(h, canvas[0], top, height, conserve, vertical)),
            (projection.along(1), Axis(w, canvas[1], left, width, conserve, horizontal)),
        )
        for where, to in ((device, pairs), (cpu, own)):
            to.append((build(*axes[0], where), build(*axes[1], where)))
    return _band_set(
        pairs, own, torch.zeros(library.plan_bytes(), dtype=torch.uint8) if device.type == "cuda" else None
    )


def _band_set(pairs: Bands, own: Bands, plans: Tensor | None = None) -> BandSet:
    """Return bands as the kernels take them; on CUDA, the host plans launches from the starts of those on the CPU."""
    flat = []
    for pair, on_the_cpu in zip(pairs, own, strict=True):
        for band, same in zip(pair, on_the_cpu, strict=True):
            flat += [band.start, band.weight, *([same.start] if band.start.is_cuda else [])]
    return BandSet(pairs, flat, plans, set())


def _bands_of(*call: Any) -> BandSet:
    """Return bands from the cache; a compiler takes them as they are.

    It would go through the arithmetic itself otherwise, in float32 where NumPy has float64, and leave its results in
    the caches of all calls to come.
    """
    return _cached_bands(*call)


# What torch.compiler.assume_constant_result sets, which would import the compiler, and take two seconds.
vars(_bands_of)["_dynamo_marked_constant"] = True


_captured: dict[int, list[Tensor]] = {}  # bands that a CUDA graph reads, which may be replayed for ever


def keep_alive(bands: BandSet, device: torch.device) -> None:
    """See that bands live as long as the GPU reads them, though the cache may drop them when the call has returned.

    The allocator is told of the stream, once, and what a graph has captured is kept. Traced programs keep their own.
    """
    if torch.compiler.is_compiling() or dispatch_modes():
        return
    stream = current_stream_id(device)
    if stream and _captures(device):  # the default stream, 0, is never captured
        _captured[id(bands.flat)] = bands.flat
    elif stream not in bands.streams:
        for tensor in bands.flat:
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(device))
        bands.streams.add(stream)


def _captures(device: torch.device) -> bool:
    """Tell whether a graph is recorded on this device's stream; PyTorch tells it of the current device alone."""
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def is_capturing(device: torch.device) -> bool:
    """Tell whether a CUDA graph records what is called on this device."""
    return device.type == "cuda" and bool(current_stream_id(device)) and _captures(device)


def band_set(
    grids: Sequence[tuple[int, int]], geometry: MapGeometry, device: torch.device, *, transposed: bool = False
) -> BandSet:
    """Return the bands of latents of these grids, from the cache; kept alive for the device's current stream."""
    canvas, window, keys, conserve, scales = geometry
    # int(): a second derivative may be traced with symbolic sizes, for which bands are then fixed.
    found = _bands_of(
        tuple([(int(h), int(w)) for h, w in grids]),
        (int(canvas[0]), int(canvas[1])),
        (int(window[0]), int(window[1]), int(window[2]), int(window[3])),
        tuple(keys),
        conserve,
        tuple(scales),
        device,
        transposed,
    )
    if device.type == "cuda":
        keep_alive(found, device)
    return found


def cached_bands(tensors: Sequence[Tensor], geometry: MapGeometry, *, transposed: bool = False) -> BandSet:
    """Return the bands of these latents; see ``band_set``."""
    grids = [(t.shape[-2], t.shape[-1]) for t in tensors]
    return band_set(grids, geometry, tensors[0].device, transposed=transposed)


def new_map(tensors: Sequence[Tensor], geometry: MapGeometry, dtype: torch.dtype | None) -> Tensor:
    """Return an uninitialised map, ``[N, 1, H, W]``; float32 by default."""
    return tensors[0].new_empty((tensors[0].shape[0], 1, *geometry.window[2:]), dtype=dtype or torch.float32)


def project_into(tensors: Sequence[Tensor], bands: BandSet, out: Tensor, guide: Tensor | None = None) -> Tensor:
    """Run the native kernel into ``out``, of any strides, and return it; a window's guide multiplies its pixels."""
    target = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    library.project(tensors, bands.flat, target, bands.plans, guide)
    return out if target is out else out.copy_(target)


def project_by_reference(tensors: Sequence[Tensor], geometry: MapGeometry, dtype: torch.dtype) -> Tensor:
    """Return the map by the reference."""
    return reference.bitrate_map(tensors, cached_bands(tensors, geometry).pairs, dtype)


def project_bands_into(
    tensors: Sequence[Tensor], bands: Bands, out: Tensor, native: bool, guide: Tensor | None = None
) -> Tensor:
    """Run the kernel or the reference with bands of the caller's own, which are on the CPU, into contiguous ``out``."""
    if guide is not None and not (native and guide.dtype == out.dtype == torch.float32):
        wide = torch.empty(out.shape, dtype=torch.float64, device=out.device)
        return out.copy_(project_bands_into(tensors, bands, wide, native) * guide)
    there = [(rows.to(out.device), columns.to(out.device)) for rows, columns in bands]
    if not native:
        return out.copy_(reference.bitrate_map(tensors, there, out.dtype))
    flat = _band_set(there, bands)
    if out.is_cuda:
        keep_alive(flat, out.device)
    return project_into(tensors, flat, out, guide)
