"""What a call means: its arguments checked, named and sized."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dispatch import BandSet, MapGeometry, band_set, choose_kernel, keep_alive
from .projection import Projection, choose_projections
from .rate import written
from .rate.cells import cells_of
from .rate.deferred import DeferredLikelihoods, known_source
from .sources import Source, is_eager
from .torch_internals import are_eager
from .units import LIKELIHOOD, UNITS, kernel_input, noun_of, range_trouble, value_range

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OUTPUT_KEYS = ("x_hat", "strings")  # of a model's whole output, beside the likelihoods or without them
SUFFIX = "_likelihoods"  # of latents at the top of an output: "y_likelihoods"
QUANTIZED = "quantized_"  # of latents that are there before and after quantisation

Latent = Tensor | Source
Latents = Latent | Mapping[str, "Latents | Sequence[Latents] | None"]
Projections = str | Projection | Mapping[str, str | Projection]


class Kind(NamedTuple):
    """What a tensor is, without its values."""

    shape: Sequence[int]
    dtype: torch.dtype
    device: torch.device
    layout: torch.layout

    def dim(self) -> int:
        """Return the number of dimensions, as a tensor does."""
        return len(self.shape)


@dataclass(eq=False)
class Setting:
    """What follows from the kinds of tensors and from the other arguments of a call: what can be kept of it."""

    projections: dict[str, Projection]  # by latent
    copies: list[int]  # how many terms each latent is
    grids: list[tuple[int, int]]  # of the terms
    geometry: MapGeometry  # theirs
    map: Kind
    _bands: BandSet | None = None

    def bands(self) -> BandSet:
        """Return the bands of all terms, kept alive for the device's current stream."""
        if self._bands is None:
            self._bands = band_set(self.grids, self.geometry, self.map.device)
        elif self.map.device.type == "cuda":
            keep_alive(self._bands, self.map.device)
        return self._bands


class Call(NamedTuple):
    """A call of ``bitrate_map`` or of ``map_strips``, with nothing left to decide."""

    latents: dict[str, Tensor]
    setting: Setting
    eager: bool  # outside of any compiler, mode and transform
    native: bool  # the kernel, or the reference
    unit: str  # of the latents

    def terms(self) -> list[Tensor]:
        """Return what is added: each latent, once for each term of its projection."""
        found = []
        for tensor, count in zip(self.latents.values(), self.setting.copies, strict=True):
            found += [kernel_input(tensor, self.unit)] * count
        return found


def unwrap(values: Any, noun: str, what: str = "") -> Any:
    """Return the entry ``"likelihoods"`` of a mapping or named tuple that has one, as whole outputs do; else what came.

    Of a whole output with ``"y_likelihoods"`` and the like at the top, return these; where there are
    ``"quantized_y_likelihoods"`` beside them, not the latter, which have no gradient.

    Raises:
        ValueError: a whole output without that entry.
    """
    if isinstance(values, (Tensor, Source)):  # most often, and sooner told than what it is not
        return values
    if isinstance(values, tuple) and hasattr(values, "_asdict"):
        values = values._asdict()
    if isinstance(values, Mapping):
        if "likelihoods" in values:
            return values["likelihoods"]
        named = by_suffix(values) if noun == noun_of(LIKELIHOOD) else {}
        if 0 < len(named) < len(values):
            return named
        if any(key in values for key in OUTPUT_KEYS):
            keys = ", ".join(map(repr, values))
            raise ValueError(
                f"{what or noun} must hold {noun} alone, got a whole output, with the keys {keys}; hand over its entry "
                f"with the {noun}, which forward may return, and compress does not"
            )
    return values


def by_suffix(values: Mapping[Any, Any], quantized: bool = False) -> dict[str, Any]:
    """Return what is called ``"y_likelihoods"`` and so on, by latent, as before or after quantisation.

    Those after it that are detached are left for those before it where they are equal, as in eval mode.
    """
    named = {k[: -len(SUFFIX)]: v for k, v in values.items() if isinstance(k, str) and k.endswith(SUFFIX)}
    named.pop("", None)
    for name in [name for name in named if f"{QUANTIZED}{name}" in named]:
        after = named.pop(f"{QUANTIZED}{name}")
        if quantized and not _is_detached_copy(after, named[name]):
            named[name] = after
    return named


def _is_detached_copy(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and other.requires_grad and not one.requires_grad and torch.equal(one, other)


def named_tensors(values: Any, noun: str, name: str = "") -> dict[str, Any]:
    """Return the tensors, and sources, of nested dicts by name; names are joined with dots (``"keyframe.y"``).

    Dicts may hold lists, whose entries are named by number (``"y.0"``), None, which is skipped, and whole outputs of
    models, see ``unwrap``.

    Raises:
        TypeError: something that is neither a tensor nor a dict.
        ValueError: two tensors would have the same name, or a whole output has no likelihoods.
    """
    if isinstance(values, (Tensor, Source)):
        return {name: values}
    what = f"{noun}[{name!r}]" if name else noun
    values = unwrap(values, noun, what)
    if isinstance(values, (Tensor, Source)):
        return {name: values}
    if name and isinstance(values, (list, tuple)):
        values = dict(enumerate(values))
    if isinstance(values, Mapping):
        named: dict[str, Latent] = {}
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


def _is_record(values: Any) -> bool:
    return isinstance(values, Mapping) or hasattr(values, "_asdict")


def _holds_dicts(values: Any) -> bool:
    return _is_record(values) or (isinstance(values, (list, tuple)) and any(map(_holds_dicts, values)))


def image_latents(values: Any, unit: str = LIKELIHOOD) -> dict[str, Any]:
    """Return the latents of one batch of images by name, whichever way a model nests them.

    A single tensor is called ``"y"``; those of a list, as hierarchical codecs return it, by their number: ``"0"``,
    ``"1"``. A list with dicts is a video's, one entry a frame.

    Raises:
        TypeError, ValueError: as ``named_tensors``; also for a video's list.
    """
    noun = noun_of(unit)
    values = unwrap(values, noun)
    if isinstance(values, (Tensor, Source)):
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
    if isinstance(values, tuple) and [_is_record(one) for one in values] == [False, True]:
        kinds = " and a ".join(type(one).__name__ for one in values)
        raise TypeError(
            f"{noun_of(unit)} must be a tensor, a dict or a list with one of these a frame, got a pair of a {kinds}, "
            "as (x_hat, likelihoods) is; hand over the second"
        )
    return list(values)


def check_kinds(kinds: Mapping[str, Latent | Kind], unit: str) -> None:
    """Check that tensors are of the unit's shape, and of one batch and device."""
    noun, first = noun_of(unit), next(iter(kinds.values()))
    for name, kind in kinds.items():
        what = f"{noun}[{name!r}]" if name else noun
        if kind.dtype not in DTYPES:
            raise TypeError(f"{what} must be float32, float64, float16 or bfloat16, got {kind.dtype}")
        if kind.dim() != 4 and (unit == LIKELIHOOD or kind.dim() != 3):
            shape = "[N, C, h, w]" if unit == LIKELIHOOD else "[N, C, h, w] or [N, h, w]"
            raise ValueError(f"{what} must be {shape}, got shape {list(kind.shape)}")
        if kind is not first and kind.shape[0] != first.shape[0]:
            raise ValueError(f"{what} must have batch size {first.shape[0]} like the first, got {kind.shape[0]}")
        if kind is not first and kind.device != first.device:
            raise ValueError(f"{what} must be on {first.device} like the first, got {kind.device}")
        if kind.layout != torch.strided:
            raise TypeError(f"{what} must be a strided tensor, got layout {kind.layout}")


def check_values(latents: Mapping[str, Latent], unit: str) -> None:
    """Look at all values; raises ValueError where they cannot be of that unit, or of such a distribution."""
    for name, tensor in latents.items():
        what = f"{noun_of(unit)}[{name!r}]" if name else noun_of(unit)
        if isinstance(tensor, Source):
            tensor.check_values(what)
            continue
        trouble = range_trouble(what, *value_range(tensor), tensor.dtype, unit)
        if trouble:
            raise ValueError(trouble)


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


def _scaled_size(
    scale_factor: Any, scales: tuple[Any, Any], kinds: Sequence[Kind]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return ``floor(cells * scale)`` each way, as ``F.interpolate`` has it, and the two scales."""
    for scale in scales:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"scale_factor must be a number or a pair of numbers, got {scale_factor!r}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale_factor must be positive and finite, got {scale_factor!r}")
    grid = kinds[0].shape[-2:]
    for kind in kinds[1:]:
        if kind.shape[-2:] != grid:
            raise ValueError(
                f"scale_factor needs latents of one grid size, got {list(grid)} and {list(kind.shape[-2:])}; "
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


def _four(crop: Any) -> tuple[Any, ...]:
    if not isinstance(crop, Sequence) or isinstance(crop, str) or len(crop) != 4:
        raise TypeError(f"crop must be (top, left, height, width) in pixels, got {crop!r}")
    return tuple(crop)


def _checked_crop(crop: tuple[Any, ...], size: tuple[int, int]) -> tuple[int, ...]:
    top, left, height, width = crop
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f"crop {crop} must lie inside the {size[0]} x {size[1]} map")
    return crop


def map_dtype(tensors: Iterable[Latent | Kind]) -> torch.dtype:
    """Return the dtype of their map: float64 where one ``[N, C, h, w]`` is; sums over cells are that of anything."""
    return torch.float64 if any([t.dtype == torch.float64 and t.dim() == 4 for t in tensors]) else torch.float32


def checked_dtype(dtype: torch.dtype | None, tensors: Iterable[Latent | Kind]) -> torch.dtype:
    """Return the map's: as given, or what follows from the tensors."""
    if dtype is None:
        return map_dtype(tensors)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return dtype


def check_out(out: Any, call: Call, height: int, noun: str) -> None:
    """Check a tensor for so many rows of a call's map: shape, dtype, device, no gradients, memory of its own."""
    (batch, _, _, width), dtype, device, _ = call.setting.map
    tensors, shape = list(call.latents.values()), (batch, 1, height, width)
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a tensor, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype or out.device != device:
        raise ValueError(
            f"out must be {dtype} {list(shape)} on {device}, got {out.dtype} {list(out.shape)} on {out.device}"
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
    noun = noun_of(unit)
    latents = named_tensors(values, noun)
    given = list(latents.values())
    if written.noted or any([type(one) is DeferredLikelihoods for one in given]):
        latents = {name: known_source(one) for name, one in latents.items()}
        given = list(latents.values())
    if not latents:
        raise ValueError(f"{noun} must hold at least one tensor, got {values if values else 'an empty dict'}")
    if (size is None) == (scale_factor is None):
        raise ValueError("give exactly one of size and scale_factor, got " + ("neither" if size is None else "both"))
    chosen: str | Projection | tuple[Projection, ...]
    if isinstance(projection, (str, Projection)):
        chosen = projection
    else:
        chosen = tuple(choose_projections(projection, latents).values())
    sources = [one for one in given if isinstance(one, Source)]
    if sources and unit != LIKELIHOOD:
        raise TypeError(f"{noun} must be tensors, got a {type(sources[0]).__name__}; leave out unit=")
    eager = is_eager(given) if sources else are_eager(given)
    setting = (_kept_setting if eager else _settle)(
        tuple([(name, t.shape, t.dtype, t.device, t.layout) for name, t in latents.items()]),
        None if size is None else _checked_size(size),
        scale_factor,
        *((None, None) if scale_factor is None else _pair("scale_factor", scale_factor)),
        chosen,
        conserve,
        dtype,
        unit,
        *(() if crop is None else _four(crop)),
    )
    if check:
        check_values(latents, unit)
    native = choose_kernel(impl, setting.map.device, len(setting.grids))
    if sources:
        latents = cells_of(latents, native)
    return Call(latents, setting, eager, native, unit)


def _settle(
    described: Sequence[tuple[Any, ...]],
    size: tuple[int, int] | None,
    scale_factor: Any,
    vertical: Any,
    horizontal: Any,
    projection: str | Projection | tuple[Projection, ...],
    conserve: bool,
    dtype: torch.dtype | None,
    unit: str,
    *crop: Any,
) -> Setting:
    """Settle what does not depend on values. What types may tell apart is an argument by itself: see ``_settled``."""
    named = {name: Kind(*what) for name, *what in described}
    check_kinds(named, unit)
    kinds = list(named.values())
    canvas, scales = (size, (0.0, 0.0)) if size else _scaled_size(scale_factor, (vertical, horizontal), kinds)
    window = _checked_crop(crop, canvas) if crop else (0, 0, *canvas)
    if not isinstance(projection, tuple):
        projection = tuple(choose_projections(projection, named).values())
    copies, grids, keys = [], [], []
    for kind, one in zip(kinds, projection, strict=True):
        copies.append(len(one.terms))
        for term in one.terms:
            grids.append((kind.shape[-2], kind.shape[-1]))
            keys.append(term.key)
    geometry = MapGeometry(canvas, window, keys, conserve, scales)
    made = Kind((kinds[0].shape[0], 1, *window[2:]), checked_dtype(dtype, kinds), kinds[0].device, torch.strided)
    return Setting(dict(zip(named, projection, strict=True)), copies, grids, geometry, made)


_settled = lru_cache(maxsize=256, typed=True)(_settle)  # typed: True is no 1, and 1.0 is no number of pixels


def _kept_setting(*arguments: Any) -> Setting:
    try:
        return _settled(*arguments)
    except TypeError:  # of something that cannot be a key, or that is wrong
        pass
    return _settle(*arguments)
