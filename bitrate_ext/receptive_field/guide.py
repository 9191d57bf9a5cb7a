"""A guide for maps: from the reconstruction, where a decoder's symbols put more of their energy within their reach.

The energy of a symbol's response follows edges and texture, which no fixed kernel does. The guide of a pixel is a
product of powers of what the picture has around it, edges near and far and fine texture, of its brightness, and of a
weight for its place in its cell; how much each counts is fitted to the attribution (Jacobian maps) of a few pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..ops.functional import bitrate_map
from ..ops.guided import picture_guide
from ..ops.projection import Projection

LUMINANCE = (0.299, 0.587, 0.114)  # of R, G and B (ITU-R BT.601); of any other number of channels, their mean
NEAR, FAR = 3, 9  # sides of the windows of means, pixels
REACH = FAR // 2 + 1  # of a guide: pixels that it depends on to each side
EDGE, TEXTURE = 1e-3, 1e-4  # energies of gradients and of texture that count as none; [0, 1] squared
FEATURES = 4
STEPS, RATE = 150, 0.03  # of Adam, which fits the weights
MOST_WEIGHT = 2.5  # with which a guide stays within the operator's bounds: see guide_of in csrc/core/guide.h
HELP = 0.5  # per cent of the bits that a guide must put right on photographs it was not fitted on
UNGUIDED_DISTANCE, GUIDED_DISTANCE = "unguided_distance", "guided_distance"  # of a field's fit
Floats = NDArray[np.float64]


def _mean_around(values: Tensor, window: int) -> Tensor:
    """Return means over squares, along columns and then along rows; borders go on. Five times as fast as pooling."""
    sums = F.pad(values, (window // 2,) * 4, mode="replicate")
    for dim in (-2, -1):
        around, length = sums, values.shape[dim]
        sums = around.narrow(dim, 0, length).clone()
        for step in range(1, window):
            sums += around.narrow(dim, step, length)
    return sums / window**2


def features(picture: Tensor) -> Tensor:
    """Return what a guide is made of, ``[N, 4, H, W]``.

    Logarithms of the mean energy of the luminance's gradient near and far, and of what a mean of it leaves; and
    mid-tones, ``l (1 - l)``. Beyond its borders the picture goes on as it ends.

    Args:
        picture: ``[N, C, H, W]``; values outside [0, 1] count as the nearest inside.
    """
    picture = picture.clamp(0, 1)
    if picture.shape[1] == 3:
        luminance = (picture * picture.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    else:
        luminance = picture.mean(dim=1, keepdim=True)
    around = F.pad(luminance, (1, 1, 1, 1), mode="replicate")
    across = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2
    down = (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]) / 2
    energy = across.square() + down.square()
    texture = (luminance - _mean_around(luminance, NEAR)).square()
    found = [
        (_mean_around(energy, NEAR) + EDGE).log(),
        (_mean_around(energy, FAR) + EDGE).log(),
        (_mean_around(texture, NEAR) + TEXTURE).log(),
        luminance * (1 - luminance),
    ]
    return torch.cat(found, dim=1)


@dataclass(frozen=True, eq=False)
class Guide:
    """How much each feature of a picture counts, and each place in a cell.

    Calling it with a picture ``[N, C, H, W]``, such as ``x_hat``, gives the guide of ``bitrate_map``, float32
    ``[N, 1, H, W]``: by a kernel, or by ``features``, which define it, where there is none or a gradient is wanted.
    ``origin``, the row and column of the picture's first pixel in a larger one, makes it that one's guide there, from
    ``REACH`` pixels inside the part's borders on.
    """

    weights: tuple[float, ...]  # of ``features``
    phases: Floats  # [stride, stride], logarithms

    @classmethod
    def of_arrays(cls, weights: Floats, phases: Floats) -> Guide:
        """Return the guide of saved arrays; raises ValueError where they are none."""
        known = weights.shape == (FEATURES,) and phases.ndim == 2 and phases.size > 0
        if not known or not (np.abs(weights) <= MOST_WEIGHT).all() or not (np.abs(phases) <= MOST_WEIGHT).all():
            raise ValueError(f"a guide has {FEATURES} weights and a table of phases, each at most {MOST_WEIGHT:g}")
        return cls(tuple(float(one) for one in weights), phases.astype(np.float64))

    def __call__(self, picture: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
        table = np.roll(self.phases, (-origin[0], -origin[1]), axis=(0, 1))
        made = picture_guide(picture, self.weights, torch.from_numpy(table).float())
        if made is None:
            picture = picture.to(torch.promote_types(picture.dtype, torch.float32))
            phases = torch.from_numpy(table).to(picture)
            made = _guide(features(picture), picture.new_tensor(self.weights), phases).float()
        return made


def _guide(found: Tensor, weights: Tensor, phases: Tensor) -> Tensor:
    height, width = found.shape[2:]
    repeats = -(-height // phases.shape[0]), -(-width // phases.shape[1])
    log = (found * weights.view(1, -1, 1, 1)).sum(dim=1, keepdim=True)
    return (log + phases.repeat(*repeats)[:height, :width]).exp()


@dataclass(frozen=True, eq=False)
class Example:
    """A picture to fit a guide to."""

    cells: Tensor  # float64 [1, h, w], bits
    picture: Tensor  # [1, C, H, W], what the guide is made of
    exact: Tensor  # [H, W], where the bits go, such as a Jacobian map
    columns: tuple[int, int | None] = (0, None)  # of pixels, that count


def distance(projection: Projection, guide: Tensor | None, example: Example) -> Tensor:
    """Return the L1 distance of a map to the exact one, in per cent of the bits, on the columns that count."""
    size = tuple(example.exact.shape)
    made = bitrate_map(example.cells, size, projection=projection, guide=guide, unit="bits")[0, 0]
    columns = slice(*example.columns)
    exact = example.exact.to(made)[:, columns]
    away: Tensor = (made[:, columns] - exact).abs().sum()
    return 100 * away / exact.sum()


def fit_guide(
    projection: Projection, stride: tuple[int, int], examples: Sequence[Example]
) -> tuple[Guide | None, dict[str, float]]:
    """Fit a guide for a projection, and say how much it helps where it was not fitted.

    Args:
        projection: that the guide is to follow.
        stride: pixels per cell, (vertical, horizontal).
        examples: at least one. One alone is fitted by halves, each of which is held against the other's fit.

    Returns:
        The guide fitted to all examples, or None where it does not help; and ``unguided_distance`` and
        ``guided_distance``, mean L1 distances to the exact maps in per cent of the bits, the latter of examples that
        were left out of the fit.
    """
    parts = list(examples)
    if len(parts) == 1:
        middle = parts[0].exact.shape[1] // 2
        parts = [
            Example(parts[0].cells, parts[0].picture, parts[0].exact, columns)
            for columns in ((0, middle), (middle, None))
        ]
    folds = min(len(parts), 4)
    unguided, guided = [], []
    for fold in range(folds):
        guide = _fitted(projection, stride, [one for index, one in enumerate(parts) if index % folds != fold])
        for one in parts[fold::folds]:
            unguided.append(float(distance(projection, None, one)))
            guided.append(float(distance(projection, guide(one.picture), one)))
    found = {UNGUIDED_DISTANCE: float(np.mean(unguided)), GUIDED_DISTANCE: float(np.mean(guided))}
    helps = found[GUIDED_DISTANCE] <= found[UNGUIDED_DISTANCE] - HELP
    return (_fitted(projection, stride, list(examples)) if helps else None), found


def _fitted(projection: Projection, stride: tuple[int, int], examples: Sequence[Example]) -> Guide:
    weights = torch.tensor([0.3] + [0.0] * (FEATURES - 1), requires_grad=True)
    phases = torch.zeros(stride, requires_grad=True)
    optimiser: Any = torch.optim.Adam([weights, phases], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    found = [features(one.picture.detach().float().cpu()) for one in examples]
    with torch.enable_grad():
        for _ in range(STEPS):
            optimiser.zero_grad()
            for one, of_one in zip(examples, found, strict=True):
                loss = distance(projection, _guide(of_one, weights, phases), one) / len(examples)
                loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                weights.clamp_(-MOST_WEIGHT, MOST_WEIGHT), phases.clamp_(-MOST_WEIGHT, MOST_WEIGHT)
    return Guide.of_arrays(weights.detach().double().numpy(), phases.detach().double().numpy())
