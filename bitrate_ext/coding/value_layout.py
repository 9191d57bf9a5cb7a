"""Locate coded symbols by their values, where a model packs them in a way of its own.

On noise nearly every value of a latent is the only one of its kind. So the cell that a symbol belongs to is the one
for which ``forward`` hands the same value to an entropy model as ``compress`` does: the latent itself, or what is left
of it without its means, or, where a model rounds by itself, the scale. Means and scales may differ where ``forward``
takes its context from values that are rounded in another way; the latent does not. Two images of noise tell what one
leaves open; zeros in both are those of masks, in passes that code a part of the cells each. What is found is checked on
the image that is coded first, and kept for its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.observe import leave_as_found, watch_calls
from .recorder import EncodedString, EncodeRecorder, Handed, Shape
from .symbol_layout import UnknownPlaceError, several_images

KINDS = ("inputs", "residuals", "scales")
# Tags of likelihoods are the float32 numbers from 2^41 on: they survive copies, and masks of ones and zeros; a square,
# a logarithm or a product of two is none of them.
FIRST = int(np.float32(2.0**41).view(np.int32))
ROUNDING = 1e-3  # means that are further apart are others, and not the same computed in another order
Cells = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScatteredSymbols:
    """Symbols of one latent of one image, from one string, in any order."""

    latent: str
    image: int
    places: NDArray[np.int32]  # of each symbol, in the flat [C, h, w]
    costs: NDArray[np.float64]  # bits, expected bits, escapes: [3, symbols]
    positions: bool  # forward() takes their context from other values

    def add_to(self, target: NDArray[np.float64]) -> None:
        """Add them to those of an image, ``[3, C, h, w]``, contiguous."""
        for values, flat in zip(self.costs, target.reshape(3, -1), strict=True):
            np.add.at(flat, self.places, values)  # passes with masks code a cell more than once


@dataclass(frozen=True, eq=False)
class ValueLayout:
    """The places of all symbols of an image of one size."""

    handed: list[tuple[nn.Module, Shape]]  # what compress() hands to entropy models, in order, for one image
    runs: list[list[tuple[str, Cells, NDArray[np.int32]]]]  # of each run of symbols: latent, which of them, places
    other_context: list[str]  # latents whose means are others in forward() than in compress()

    def locator(self, recorder: EncodeRecorder, batch: int) -> ValueLocator:
        """Return who locates what was recorded of one call.

        Raises:
            CodingError: it was not coded as the image that the layout was found with, or strings hold several images.
        """
        if batch > 1 and any(run.call is None for coded in recorder.strings for run in coded.runs):
            raise several_images(batch)
        numbers, number = {}, -1
        for run in (run for coded in recorder.strings for run in coded.runs):
            number += run.call is None or run.image == 0
            numbers[id(run)] = number
        sizes = [sum(len(which) for _, which, _ in run) for run in self.runs]
        if (
            number != len(sizes) - 1
            or [(one.module, one.shape[1:]) for one in recorder.handed] != self.handed
            or any(len(run.costs.bits) != sizes[numbers[id(run)]] for coded in recorder.strings for run in coded.runs)
        ):
            raise UnknownPlaceError("compress() codes other symbols, or in another order, than on an image of noise")
        return ValueLocator(self, numbers)


@dataclass(frozen=True, eq=False)
class ValueLocator:
    """Locate the symbols of one call of ``compress``."""

    layout: ValueLayout
    numbers: Mapping[int, int]  # by the identity of a run: which it is

    def locate(self, coded: EncodedString) -> list[ScatteredSymbols]:
        """Locate the symbols of a string."""
        return [
            ScatteredSymbols(
                latent,
                max(run.image, 0),
                places,
                run.costs.each[:, which],
                latent in self.layout.other_context,
            )
            for run in coded.runs
            for latent, which, places in self.layout.runs[self.numbers[id(run)]]
        ]


@torch.no_grad()
def find_value_layout(
    model: nn.Module,
    names: Mapping[nn.Module, str],
    samples: Sequence[Tensor],
    compress: Callable[..., EncodeRecorder],
    forward: Callable[[Tensor], dict[str, Tensor]],
) -> ValueLayout:
    """Find where the symbols of an image of one size sit.

    Args:
        model: the model.
        names: of its entropy models.
        samples: two images of noise and one to be coded, ``[1, C, H, W]``.
        compress: records a call of the model's with an image; takes the flags of ``record_encoding``.
        forward: runs the model and returns its likelihoods by name.

    Raises:
        UnknownPlaceError: a symbol has no place, or a cell not exactly one symbol.
    """
    try:
        coded = [compress(one, values=True) for one in samples]
        tagged = compress(samples[0], tags=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what a model does not stand is not known beforehand
        what = str(error).partition("\n")[0]
        raise UnknownPlaceError(f"compress() does not run on noise ({type(error).__name__}: {what})") from error
    structures = [[(one.module, one.shape[1:]) for one in recorder.handed] for recorder in coded]
    if any(one != structures[0] for one in structures):
        raise UnknownPlaceError("compress() hands tensors of other shapes to entropy models, from image to image")
    runs = [run for string in tagged.strings for run in string.runs]
    first = np.cumsum([0, *(_count(one.shape) for one in coded[0].handed)])
    elements: list[Cells] = []
    for run in runs:
        if run.call is not None:
            start, count = first[run.call.handed], _count(coded[0].handed[run.call.handed].shape)
            tags: Cells | None = np.arange(start, start + count) if count == len(run.costs.bits) else None
        else:
            tags = run.tags if run.tags is not None and (run.tags < first[-1]).all() else None
        if tags is None:
            raise UnknownPlaceError(
                f"{len(run.costs.bits)} symbols went to the coder that are none of those that the model's entropy "
                "models have made"
            )
        elements.append(tags)
    seen = [_watch_forward(model, names, partial(forward, one)) for one in samples]
    latents = seen[0][1]
    at = np.concatenate([one.ravel() for one in latents.values()])  # the element that each cell's likelihood is of
    if (at < 0).any() or len(np.unique(at)) != len(at):
        raise UnknownPlaceError(
            f"{(at < 0).sum()} of {len(at)} likelihoods that forward() returns are not as an entropy model made them, "
            f"and {len(at) - len(np.unique(at))} are there twice"
        )
    cells = {kind: np.stack([_flat(one, kind)[at] for one, _ in seen]) for kind in KINDS}
    handed = {kind: np.stack([_flat(recorder.handed, kind) for recorder in coded]) for kind in KINDS}
    place = _match(cells, handed)
    _fill(place, [one.shape for one in coded[0].handed], first, list(latents.values()))
    wanted = np.concatenate(elements) if elements else np.empty(0, np.int64)
    masked = _check(place, wanted, cells, handed, names=list(latents), sizes=[one.size for one in latents.values()])
    apart = np.abs(handed["residuals"][:, wanted] - cells["residuals"][:, place[wanted]]).max(axis=0) > ROUNDING
    other = [name for name, _, _ in _by_latent(place[wanted[apart & ~masked]], latents)]
    return ValueLayout(structures[0], [_by_latent(place[one], latents) for one in elements], other)


def _count(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _watch_forward(
    model: nn.Module, names: Mapping[nn.Module, str], forward: Callable[[], dict[str, Tensor]]
) -> tuple[list[Handed], dict[str, Cells]]:
    """Return what entropy models were handed, and for each cell of each latent, ``[C, h, w]``, which element it is of.

    Likelihoods are replaced by tags, so it does not matter how a model puts them together.
    """
    handed: list[Handed] = []
    count = 0

    def after(_name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        nonlocal count
        given = dict(zip(("inputs", "scales", "means"), args, strict=False)) | kwargs
        inputs = given.get("inputs", given.get("x"))
        if not isinstance(output, tuple) or len(output) != 2 or not isinstance(inputs, Tensor):
            return None
        if not isinstance(output[1], Tensor) or inputs.numel() != output[1].numel():
            return None
        handed.append(Handed.of(module, inputs, inputs, given.get("means"), given.get("scales")))
        numbers = torch.arange(count, count + inputs.numel(), dtype=torch.int32, device=inputs.device)
        count += inputs.numel()
        return output[0], (FIRST + numbers).view(torch.float32).reshape(output[1].shape)

    with leave_as_found(model), watch_calls(((name, module) for module, name in names.items()), after):
        latents = forward()
    places = {}
    for name, p in latents.items():
        tags = p[0].float().cpu().contiguous().numpy().view(np.int32).astype(np.int64) - FIRST
        places[name] = np.where((tags >= 0) & (tags < count), tags, -1)
    return handed, places


def _flat(handed: Sequence[Handed], kind: str) -> NDArray[np.float32]:
    """Return values of one kind, element after element; no numbers where there are none."""
    flat = np.full(sum(_count(one.shape) for one in handed), np.nan, np.float32)
    first = 0
    for one in handed:
        end = first + _count(one.shape)
        if kind in one.values:
            flat[first:end] = one.values[kind].reshape(-1).float().cpu().numpy()
        first = end
    flat += 0  # no zero has a sign
    return flat


def _match(cells: Mapping[str, NDArray[np.float32]], handed: Mapping[str, NDArray[np.float32]]) -> Cells:
    """Return the cell that has the same values in both images of noise as an element handed over, or -1."""
    place = np.full(handed[KINDS[0]].shape[1], -1)
    for kind in KINDS:
        todo = np.flatnonzero((place < 0) & _tells(handed[kind]))
        usable = np.flatnonzero(_tells(cells[kind]))
        keys, which, counts = np.unique(_keys(cells[kind][:, usable]), return_index=True, return_counts=True)
        if not len(keys) or not len(todo):
            continue
        wanted = _keys(handed[kind][:, todo])
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = (keys[found] == wanted) & (counts[found] == 1)
        place[todo[hit]] = usable[which[found[hit]]]
    return place


def _tells(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where values are numbers, and not the zero of a mask."""
    told: NDArray[np.bool_] = np.isfinite(values[:2]).all(axis=0) & (values[:2] != 0).any(axis=0)
    return told


def _keys(values: NDArray[np.float32]) -> Cells:
    keys: Cells = np.ascontiguousarray(values[:2].T).view(np.int64)[:, 0]
    return keys


def _fill(place: Cells, shapes: Sequence[Shape], first: Cells, latents: Sequence[Cells]) -> None:
    """Place what values leave open, masks and ties, as the other channels and positions of its tensor lie."""
    begins = np.cumsum([0, *(one.size for one in latents)])
    for shape, start in zip(shapes, first, strict=False):
        one = place[start : start + _count(shape)]
        if len(shape) != 4 or shape[0] != 1 or (one >= 0).all() or (one < 0).all():
            continue
        latent = int(np.searchsorted(begins, one.max(), side="right")) - 1
        grid = latents[latent].shape[1] * latents[latent].shape[2]
        inside = (one - begins[latent]).reshape(shape[1], -1)
        inside[one.reshape(inside.shape) < 0] = -1
        known = inside >= 0
        channel = np.where(known, inside // grid, -1).max(axis=1)
        position = np.where(known, inside % grid, -1).max(axis=0)
        for line, size in ((channel, latents[latent].shape[0]), (position, grid)):
            steps = np.unique((line - np.arange(len(line)))[line >= 0])
            if len(steps) == 1 and 0 <= steps[0] <= size - len(line) and (line is channel or len(line) == size):
                line[:] = steps[0] + np.arange(len(line))
        told = channel[:, None] * grid + position
        if (told == inside)[known].all():
            told[(channel[:, None] < 0) | (position < 0)] = -1 - begins[latent]
            one[:] = (begins[latent] + told).ravel()


def _check(
    place: Cells,
    wanted: Cells,
    cells: Mapping[str, NDArray[np.float32]],
    handed: Mapping[str, NDArray[np.float32]],
    names: Sequence[str],
    sizes: Sequence[int],
) -> NDArray[np.bool_]:
    """Check the places of coded elements: all have one, with its value in all images; each cell has one element.

    Returns:
        Which elements are zeros of masks.
    """
    to = place[wanted]
    if (to < 0).any():
        raise UnknownPlaceError(f"{(to < 0).sum()} of {len(to)} symbols have values that no cell has in forward()")
    zero, zero_there = ((one == 0).all(axis=0) for one in (handed["inputs"][:, wanted], cells["inputs"][:, to]))
    masked: NDArray[np.bool_] = zero & ~zero_there
    equal = masked.copy()
    for kind in KINDS:
        equal |= (handed[kind][:, wanted] == cells[kind][:, to]).all(axis=0)
    if not equal.all():
        raise UnknownPlaceError(
            f"{(~equal).sum()} of {len(to)} symbols have other values than their cells in forward()"
        )
    counts = np.bincount(to[~masked], minlength=sum(sizes))
    for name, one in zip(names, np.split(counts, np.cumsum(sizes)[:-1]), strict=True):
        if (one != 1).any():
            raise UnknownPlaceError(
                f"of {len(one)} cells of latent {name!r}, {(one == 0).sum()} are coded nowhere and {(one > 1).sum()} "
                "more than once"
            )
    return masked


def _by_latent(place: Cells, latents: Mapping[str, Cells]) -> list[tuple[str, Cells, NDArray[np.int32]]]:
    found, begin = [], 0
    for name, one in latents.items():
        which = np.flatnonzero((place >= begin) & (place < begin + one.size))
        if len(which):
            found.append((name, which, (place[which] - begin).astype(np.int32)))
        begin += one.size
    return found
