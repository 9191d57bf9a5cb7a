"""What a call means: its arguments checked, named and sized."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dispatch import MapGeometry, choose_kernel
from .projection import Projection, choose_projections
from .units import LIKELIHOOD, UNITS, kernel_input, noun_of, range_trouble, value_range

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OUTPUT_KEYS = ("x_hat", "strings")  # of a model's whole output, beside the likelihoods or without them

Latents = Tensor | Mapping[str, "Latents | Sequence[Latents] | None"]
Projections = str | Projection | Mapping[str, str | Projection]


class Call(NamedTuple):
    """A call of ``bitrate_map`` or of ``map_strips``, with nothing left to decide."""

    latents: dict[str, Tensor]
    projections: dict[str, Projection]
    canvas: tuple[int, int]  # (H, W) that the latents cover, pixels
    window: Sequence[int]  # (top, left, height, width) of it that is wanted
    conserve: bool
    scales: tuple[float, float]  # pixels per cell each way; zero: from the sizes
    dtype: torch.dtype  # of the map
    native: bool  # the kernel, or the reference
    unit: str  # of the latents

    def terms(self) -> tuple[list[Tensor], MapGeometry]:
        """Return what is added: each latent with the key of its projection, once for each term of that."""
        tensors, keys = [], []
        for tensor, projection in zip(self.latents.values(), self.projections.values(), strict=True):
            values = kernel_input(tensor, self.unit)
            for term in projection.terms:
                tensors.append(values)
                keys.append(term.key)
        return tensors, MapGeometry(self.canvas, self.window, keys, self.conserve, self.scales)


def unwrap(values: Any, noun: str, what: str = "") -> Any:
    """Return the entry ``"likelihoods"`` of a mapping or named tuple that has one, as whole outputs do; else what came.

    Raises:
        ValueError: a whole output without that entry.
    """
    if isinstance(values, tuple) and hasattr(values, "_asdict"):
        values = values._asdict()
    if isinstance(values, Mapping):
        if "likelihoods" in values:
            return values["likelihoods"]
        if any(key in values for key in OUTPUT_KEYS):
            keys = ", ".join(map(repr, values))
            raise ValueError(
                f"{what or noun} must hold {noun} alone, got a whole output, with the keys {keys}; hand over its entry "
                f"with the {noun}, which forward may return, and compress does not"
            )
    return values


def named_tensors(values: Any, noun: str, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of nested dicts by name; names are joined with dots (``"keyframe.y"``).

    Dicts may hold lists, whose entries are named by number (``"y.0"``), None, which is skipped, and whole outputs of
    models, see ``unwrap``.

    Raises:
        TypeError: something that is neither a tensor nor a dict.
        ValueError: two tensors would have the same name, or a whole output has no likelihoods.
    """
    if isinstance(values, Tensor):
        return {name: values}
    what = f"{noun}[{name!r}]" if name else noun
    values = unwrap(values, noun, what)
    if isinstance(values, Tensor):
        return {name: values}
    if name and isinstance(values, (list, tuple)):
        values = dict(enumerate(values))
    if isinstance(values, Mapping):
        named: dict[str, Tensor] = {}
        for key, value in values.items():
            if value is None:
                continue
            for inner, tensor in named_tensors(value, noun, f"{name}.{key}" if name else str(key)).items():
                if inner in named:
                    raise ValueError(f"{noun} must have one tensor a name, got two for {inner!r}")
                named[inner] = tensor
        return named
    remedy = "; hand over its .likelihoods" if hasattr(values, "likelihoods") else ""
    raise TypeError(f"{what} must be a tensor or a dict of tensors, got {type(values).__name__}{remedy}")


def named_likelihoods(likelihoods: Latents) -> dict[str, Tensor]:
    """Return the likelihoods of nested dicts by name; see ``named_tensors``."""
    return named_tensors(likelihoods, UNITS[LIKELIHOOD][0])


def _holds_dicts(values: Any) -> bool:
    return isinstance(values, Mapping) or (isinstance(values, (list, tuple)) and any(map(_holds_dicts, values)))


def image_latents(values: Any, unit: str = LIKELIHOOD) -> dict[str, Tensor]:
    """Return the latents of one batch of images by name, whichever way a model nests them.

    A single tensor is called ``"y"``; those of a list, as hierarchical codecs return it, by their number: ``"0"``,
    ``"1"``. A list with dicts is a video's, one entry a frame.

    Raises:
        TypeError, ValueError: as ``named_tensors``; also for a video's list.
    """
    noun = noun_of(unit)
    values = unwrap(values, noun)
    if isinstance(values, Tensor):
        return {"y": values}
    if isinstance(values, (list, tuple)):
        if _holds_dicts(values):
            raise TypeError(
                f"{noun} must be those of one image, got a {type(values).__name__} with dicts, one entry a frame, as "
                "video models return them; bitrate_map takes such lists, and coded_video codes frames"
            )
        values = dict(enumerate(values))
    return named_tensors(values, noun)


def split_frames(values: Any, unit: str) -> list[Any] | None:
    """Return the entries of a list, one a frame, as video models return them; None of one frame's latents.

    Raises:
        TypeError: a pair of a tensor and a dict, such as ``(x_hat, likelihoods)``.
    """
    if not isinstance(values, (list, tuple)):
        return None
    if isinstance(values, tuple) and [isinstance(one, Mapping) for one in values] == [False, True]:
        kinds = " and a ".join(type(one).__name__ for one in values)
        raise TypeError(
            f"{noun_of(unit)} must be a tensor, a dict or a list with one of these a frame, got a pair of a {kinds}, "
            "as (x_hat, likelihoods) is; hand over the second"
        )
    return list(values)


def checked_tensors(values: Latents, unit: str, check: bool = False) -> dict[str, Tensor]:
    """Return the tensors by name: of the unit's shape, of one batch and device, and, with ``check``, in its range."""
    noun = noun_of(unit)
    named = named_tensors(values, noun)
    if not named:
        raise ValueError(f"{noun} must hold at least one tensor, got {values if values else 'an empty dict'}")
    first = next(iter(named.values()))
    for name, tensor in named.items():
        what = f"{noun}[{name!r}]" if name else noun
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{what} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
        if tensor.dim() != 4 and (unit == LIKELIHOOD or tensor.dim() != 3):
            shape = "[N, C, h, w]" if unit == LIKELIHOOD else "[N, C, h, w] or [N, h, w]"
            raise ValueError(f"{what} must be {shape}, got shape {list(tensor.shape)}")
        if tensor is not first and tensor.shape[0] != first.shape[0]:
            raise ValueError(f"{what} must have batch size {first.shape[0]} like the first, got {tensor.shape[0]}")
        if tensor is not first and tensor.device != first.device:
            raise ValueError(f"{what} must be on {first.device} like the first, got {tensor.device}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{what} must be a strided tensor, got layout {tensor.layout}")
        trouble = range_trouble(what, *value_range(tensor), tensor.dtype, unit) if check else ""
        if trouble:
            raise ValueError(trouble)
    return named


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if len(value) != 2:
            raise ValueError(f"{name} must be a pair, got {len(value)} values")
        return value[0], value[1]
    return value, value


def _checked_size(size: Any) -> tuple[int, int]:
    if not isinstance(size, (tuple, list, Sequence)) or isinstance(size, str) or len(size) != 2:
        raise TypeError(f"size must be a pair (H, W) of pixels, got {size!r}")
    for length in size:
        if type(length) is not int and (isinstance(length, bool) or not isinstance(length, (int, torch.SymInt))):
            raise TypeError(f"size must be a pair of integers, got {size!r}")
        if length < 1:
            raise ValueError(f"size must be at least 1 pixel each way, got {tuple(size)}")
        if length >= 2**31:
            raise ValueError(f"size must be below 2**31 pixels each way, got {tuple(size)}")
    return size[0], size[1]


def _scaled_size(scale_factor: Any, tensors: list[Tensor]) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return ``floor(cells * scale)`` each way, as ``F.interpolate`` has it, and the two scales."""
    scales = _pair("scale_factor", scale_factor)
    for scale in scales:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"scale_factor must be a number or a pair of numbers, got {scale_factor!r}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale_factor must be positive and finite, got {scale_factor!r}")
    grid = tensors[0].shape[-2:]
    for tensor in tensors[1:]:
        if tensor.shape[-2:] != grid:
            raise ValueError(
                f"scale_factor needs latents of one grid size, got {list(grid)} and {list(tensor.shape[-2:])}; "
                "give size=(H, W) instead"
            )
    size = [
        cells * int(scale) if float(scale).is_integer() else math.floor(cells * scale)
        for cells, scale in zip(grid, scales, strict=True)
    ]
    for cells, length in zip(grid, size, strict=True):
        if length < 1 and cells > 0:
            raise ValueError(f"scale_factor {scale_factor!r} leaves no pixel of {cells} cells")
        if length >= 2**31:
            raise ValueError(f"scale_factor {scale_factor!r} makes {length} pixels of {cells} cells; at most 2**31 - 1")
    return (size[0], size[1]), (float(scales[0]), float(scales[1]))


def _checked_crop(crop: Any, size: tuple[int, int]) -> tuple[int, ...]:
    if not isinstance(crop, Sequence) or isinstance(crop, str) or len(crop) != 4:
        raise TypeError(f"crop must be (top, left, height, width) in pixels, got {crop!r}")
    top, left, height, width = crop
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f"crop {tuple(crop)} must lie inside the {size[0]} x {size[1]} map")
    return tuple(crop)


def map_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """Return the dtype of their map: float64 where one ``[N, C, h, w]`` is; sums over cells are that of anything."""
    return torch.float64 if any([t.dtype == torch.float64 and t.dim() == 4 for t in tensors]) else torch.float32


def checked_dtype(dtype: torch.dtype | None, tensors: Iterable[Tensor]) -> torch.dtype:
    """Return the map's: as given, or what follows from the tensors."""
    if dtype is None:
        return map_dtype(tensors)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return dtype


def check_out(out: Any, call: Call, height: int, noun: str) -> None:
    """Check a tensor for so many rows of a call's map: shape, dtype, device, no gradients, memory of its own."""
    tensors = list(call.latents.values())
    device, shape = tensors[0].device, (tensors[0].shape[0], 1, height, call.window[3])
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a tensor, got {type(out).__name__}")
    if out.shape != shape or out.dtype != call.dtype or out.device != device:
        raise ValueError(
            f"out must be {call.dtype} {list(shape)} on {device}, got {out.dtype} {list(out.shape)} on {out.device}"
        )
    if torch.is_grad_enabled() and (out.requires_grad or any(t.requires_grad for t in tensors)):
        raise ValueError("out cannot be given where gradients are recorded; use torch.no_grad() or leave it out")
    storage = out.untyped_storage().data_ptr()
    if storage and any(t.untyped_storage().data_ptr() == storage for t in tensors):
        raise ValueError(f"out must not share memory with {noun}")


def resolve(
    values: Latents,
    size: Sequence[int] | None,
    scale_factor: float | Sequence[float] | None,
    projection: Projections,
    conserve: bool,
    impl: str,
    dtype: torch.dtype | None,
    crop: Sequence[int] | None,
    unit: str,
    check: bool = False,
) -> Call:
    """Check the arguments of ``bitrate_map``, and settle what follows from them; raises as it says."""
    latents = checked_tensors(values, unit, check)
    tensors = list(latents.values())
    if (size is None) == (scale_factor is None):
        raise ValueError("give exactly one of size and scale_factor, got " + ("neither" if size is None else "both"))
    if size is not None:
        canvas, scales = _checked_size(size), (0.0, 0.0)
    else:
        canvas, scales = _scaled_size(scale_factor, tensors)
    window = (0, 0, *canvas) if crop is None else _checked_crop(crop, canvas)
    projections = choose_projections(projection, latents)
    dtype = checked_dtype(dtype, tensors)
    native = choose_kernel(impl, tensors[0].device, sum([len(one.terms) for one in projections.values()]))
    return Call(latents, projections, canvas, window, conserve, scales, dtype, native, unit)
