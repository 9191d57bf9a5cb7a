"""The public calls: checked arguments in, one operator call out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import autograd, library, reference
from .projection import Projection, choose_projections

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
IMPLEMENTATIONS = ("auto", "native", "reference")
UNITS = {  # what tensors may hold: their name in messages, and their shape
    "likelihood": ("likelihoods", "[N, C, h, w]", 4),
    "bits": ("bits", "[N, h, w]", 3),
}

Latents = Tensor | Mapping[str, "Latents"]
Likelihoods = Latents


def named_tensors(values: Latents, noun: str, name: str = "") -> dict[str, Tensor]:
    """Flatten nested dicts of tensors; names are joined with dots (``"keyframe.y"``).

    Raises:
        TypeError: something that is neither a tensor nor a dict.
        ValueError: two tensors would have the same name.
    """
    if isinstance(values, Tensor):
        return {name: values}
    if isinstance(values, Mapping):
        named: dict[str, Tensor] = {}
        for key, value in values.items():
            for inner, tensor in named_tensors(value, noun, f"{name}.{key}" if name else str(key)).items():
                if inner in named:
                    raise ValueError(f"{noun} must have one tensor a name, got two for {inner!r}")
                named[inner] = tensor
        return named
    what = f"{noun}[{name!r}]" if name else noun
    raise TypeError(f"{what} must be a tensor or a dict of tensors, got {type(values).__name__}")


def named_likelihoods(likelihoods: Latents) -> dict[str, Tensor]:
    """Flatten nested dicts of likelihoods; see ``named_tensors``."""
    return named_tensors(likelihoods, "likelihoods")


def _checked_unit(unit: Any) -> str:
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(map(repr, UNITS))}, got {unit!r}")
    return unit


def _checked_tensors(values: Latents, unit: str = "likelihood") -> list[Tensor]:
    noun, shape, rank = UNITS[unit]
    if isinstance(values, Tensor):
        named = {"": values}
    else:
        named = named_tensors(values, noun)
        if not named:
            raise ValueError(f"{noun} must hold at least one tensor, got an empty dict")
    first = next(iter(named.values()))
    for name, tensor in named.items():
        what = f"{noun}[{name!r}]" if name else noun
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{what} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
        if tensor.dim() != rank:
            raise ValueError(f"{what} must be {shape}, got shape {list(tensor.shape)}")
        if tensor.shape[0] != first.shape[0]:
            raise ValueError(f"{what} must have batch size {first.shape[0]} like the first, got {tensor.shape[0]}")
        if tensor.device != first.device:
            raise ValueError(f"{what} must be on {first.device} like the first, got {tensor.device}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{what} must be a strided tensor, got layout {tensor.layout}")
    return list(named.values())


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if len(value) != 2:
            raise ValueError(f"{name} must be a pair, got {len(value)} values")
        return value[0], value[1]
    return value, value


def _checked_size(size: Any) -> tuple[int, int]:
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise TypeError(f"size must be a pair (H, W) of pixels, got {size!r}")
    for length in size:
        if isinstance(length, bool) or not isinstance(length, (int, torch.SymInt)):
            raise TypeError(f"size must be a pair of integers, got {size!r}")
        if length < 1:
            raise ValueError(f"size must be at least 1 pixel each way, got {tuple(size)}")
        if length >= 2**31:
            raise ValueError(f"size must be below 2**31 pixels each way, got {tuple(size)}")
    return size[0], size[1]


def _scaled_size(scale_factor: Any, tensors: list[Tensor]) -> tuple[tuple[int, int], list[float]]:
    """``floor(cells * scale)`` each way, as ``F.interpolate`` has it, and the two scales."""
    scales: list[float] = []
    for scale in _pair("scale_factor", scale_factor):
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"scale_factor must be a number or a pair of numbers, got {scale_factor!r}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale_factor must be positive and finite, got {scale_factor!r}")
        scales.append(float(scale))
    grid = tensors[0].shape[-2:]
    for tensor in tensors[1:]:
        if tensor.shape[-2:] != grid:
            raise ValueError(
                f"scale_factor needs latents of one grid size, got {list(grid)} and {list(tensor.shape[-2:])}; "
                "give size=(H, W) instead"
            )
    size = [
        cells * int(scale) if scale.is_integer() else math.floor(cells * scale)
        for cells, scale in zip(grid, scales, strict=True)
    ]
    for cells, length in zip(grid, size, strict=True):
        if length < 1 and cells > 0:
            raise ValueError(f"scale_factor {scale_factor!r} leaves no pixel of {cells} cells")
        if length >= 2**31:
            raise ValueError(f"scale_factor {scale_factor!r} makes {length} pixels of {cells} cells; at most 2**31 - 1")
    return (size[0], size[1]), scales


def _checked_crop(crop: Any, size: tuple[int, int]) -> list[int]:
    if not isinstance(crop, Sequence) or isinstance(crop, str) or len(crop) != 4:
        raise TypeError(f"crop must be (top, left, height, width) in pixels, got {crop!r}")
    top, left, height, width = crop
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f"crop {tuple(crop)} must lie inside the {size[0]} x {size[1]} map")
    return list(crop)


def _checked_dtype(dtype: torch.dtype | None, tensors: list[Tensor], unit: str = "likelihood") -> torch.dtype:
    if dtype is None:  # bits of cells are float64 whatever they were summed of
        wide = unit == "likelihood" and any(t.dtype == torch.float64 for t in tensors)
        return torch.float64 if wide else torch.float32
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return dtype


def _check_out(out: Any, shape: tuple[int, ...], dtype: torch.dtype, tensors: list[Tensor], noun: str) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a tensor, got {type(out).__name__}")
    if tuple(out.shape) != shape or out.dtype != dtype or out.device != tensors[0].device:
        raise ValueError(
            f"out must be {dtype} {list(shape)} on {tensors[0].device}, "
            f"got {out.dtype} {list(out.shape)} on {out.device}"
        )
    if torch.is_grad_enabled() and (out.requires_grad or any(t.requires_grad for t in tensors)):
        raise ValueError("out cannot be given where gradients are recorded; use torch.no_grad() or leave it out")
    storage = out.untyped_storage().data_ptr()
    if storage and any(t.untyped_storage().data_ptr() == storage for t in tensors):
        raise ValueError(f"out must not share memory with {noun}")


def _chosen(impl: Any, tensors: list[Tensor]) -> bool:
    """True for native, False for the reference."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(map(repr, IMPLEMENTATIONS))}, got {impl!r}")
    if impl == "reference":
        return False
    device = tensors[0].device
    because = library.why_absent(device, len(tensors))
    if because:
        if impl == "native":
            raise RuntimeError(f"impl='native' was asked for, but {because}")
        library.warn_once(device, because)
    return not because


def _terms(values: Any, tensors: list[Tensor], projection: Any) -> tuple[list[Tensor], list[str]]:
    """Each latent with the key of its projection; once for each term of it."""
    chosen = choose_projections(projection, named_tensors(values, "")).values()
    pairs = [(tensor, term.key) for tensor, one in zip(tensors, chosen, strict=True) for term in one.terms]
    return [tensor for tensor, _ in pairs], [key for _, key in pairs]


def bitrate_map(
    values: Latents | Sequence[Latents],
    size: Sequence[int] | None = None,
    *,
    scale_factor: float | Sequence[float] | None = None,
    projection: str | Projection | Mapping[str, str | Projection] = "bilinear",
    conserve: bool = True,
    impl: str = "auto",
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
    crop: Sequence[int] | None = None,
    unit: str = "likelihood",
) -> Any:
    """Where the bits go: the cost of every image pixel, in bits per pixel.

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
    noun = UNITS[_checked_unit(unit)][0]
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
    tensors = _checked_tensors(values, unit)  # type: ignore[arg-type]
    if (size is None) == (scale_factor is None):
        raise ValueError("give exactly one of size and scale_factor, got " + ("neither" if size is None else "both"))
    scales = [0.0, 0.0]  # from the sizes
    if size is not None:
        canvas = _checked_size(size)
    else:
        canvas, scales = _scaled_size(scale_factor, tensors)
    window = [0, 0, *canvas] if crop is None else _checked_crop(crop, canvas)
    tensors, keys = _terms(values, tensors, projection)
    placement = autograd.MapGeometry(canvas, window, keys, conserve, scales)
    dtype = _checked_dtype(dtype, tensors, unit)
    native = _chosen(impl, tensors)
    if out is not None:
        _check_out(out, (tensors[0].shape[0], 1, window[2], window[3]), dtype, tensors, noun)
        with torch.no_grad():
            if native:
                return autograd.project_into(tensors, placement, out)
            return out.copy_(reference.bitrate_map(tensors, autograd.bands_of(tensors, placement), dtype))
    if not native:
        return reference.bitrate_map(tensors, autograd.bands_of(tensors, placement), dtype)
    if autograd.is_plain(tensors):
        return autograd.project_into(tensors, placement, autograd.new_map(tensors, placement, dtype))
    return autograd.call_map(tensors, placement, dtype)


def latent_bits(likelihoods: Tensor, *, impl: str = "auto", dtype: torch.dtype | None = None) -> Tensor:
    """Bits per latent cell: ``[N, C, h, w]`` likelihoods to ``[N, h, w]``.

    The cell sums that ``bitrate_map`` projects. Sum them in float64 (``dtype=torch.float64``) for totals: a float32 sum
    over a large map is off in the fifth digit. Other arguments and errors as for ``bitrate_map``.
    """
    if not isinstance(likelihoods, Tensor):
        raise TypeError(f"likelihoods must be a tensor, got {type(likelihoods).__name__}")
    (tensor,) = _checked_tensors(likelihoods)
    # The map at the grid's own size, where each pixel is its cell.
    if 0 in tensor.shape[-2:]:
        return reference.latent_bits(tensor, _checked_dtype(dtype, [tensor]))
    return bitrate_map(tensor, tensor.shape[-2:], projection="nearest", impl=impl, dtype=dtype).squeeze(1)
