"""Attribution on the side of the decoder: each symbol's bits by the energy of its impulse response."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..cells.outside import outside_bits
from ..mapping.layout import true_values
from ..models.adapter import ModelAdapter, crop_canvas
from ..models.trace import ModelTrace, Synthesis, SynthesisTransform, symbol_bits
from ..ops.functional import bitrate_map, latent_bits
from ..ops.projection import get_projection
from ..receptive_field.energy import REVERSE, spread_by_energy
from .result import Attribution


def follow_decoder(
    adapter: ModelAdapter,
    x: Tensor,
    passes: int,
    synthesis: Synthesis,
    seed: int,
    forward_kwargs: dict[str, Any],
    progress: Callable[[int, int], object] | None = None,
) -> Attribution:
    """Attribute bits to the pixels that the decoder paints with them; see ``attribute``."""
    if not len(x):
        raise ValueError(f"x must hold at least one image, got shape {list(x.shape)}")
    images = [
        _follow_one(adapter, one, passes, synthesis, seed, adapter.arguments_of(index, forward_kwargs), progress)
        for index, one in enumerate(torch.split(x, 1))
    ]
    maps = {name: torch.cat([image.maps[name] for image in images]) for name in images[0].maps}
    return Attribution(
        map=torch.cat([image.map for image in images]),
        method="jacobian",
        unit="bits per pixel",
        adds_up=True,
        total=torch.cat([image.total for image in images]),
        padding=torch.cat([image.padding for image in images]),
        error=torch.cat([image.error for image in images if image.error is not None]),
        maps=maps,
    )


def _follow_one(
    adapter: ModelAdapter,
    x: Tensor,
    passes: int,
    synthesis: Synthesis,
    seed: int,
    forward_kwargs: dict[str, Any],
    progress: Callable[[int, int], object] | None,
) -> Attribution:
    run = ModelTrace(adapter, x, forward_kwargs, synthesis, fused=True)
    values, _ = true_values(run.likelihoods)
    transforms = _transforms(run)
    count = itertools.count(1)  # of both modes

    def on_pass() -> None:
        if progress is not None:
            progress(-(-next(count) // (1 + REVERSE)), passes * len(transforms))

    generator = torch.Generator().manual_seed(seed)
    maps: dict[str, Tensor] = {}
    total = padding = wrong = torch.zeros(1, dtype=torch.float64, device=x.device)
    for latent, one in values.items():
        cells = latent_bits(one, dtype=torch.float64, unit=adapter.unit)
        if not cells.isfinite().all():
            raise ValueError(f"latent {latent!r} has symbols of infinite or undefined bits, which belong nowhere")
        total = total + cells.sum()
        if latent in transforms:
            bits = symbol_bits(one, adapter.unit)
            spread, error = spread_by_energy(transforms[latent], bits, passes, generator, on_pass)
            inside = crop_canvas(spread, run.crop)
            wrong = wrong + error * cells.sum()
            padding = padding + (spread.sum() - inside.sum())
            maps[latent] = inside[None, None].to(torch.promote_types(one.dtype, torch.float32))
        else:
            over_cells = get_projection("nearest")
            padding = padding + outside_bits(cells, over_cells, run.size, run.crop).sum()
            maps[latent] = bitrate_map(one, run.size, crop=run.crop, projection=over_cells, unit=adapter.unit)
    everything = torch.stack(list(maps.values())).sum(dim=0)
    error = torch.where(total > 0, wrong / total, 0)
    return Attribution(everything, "jacobian", "bits per pixel", True, total, padding, error, maps)


def _transforms(run: ModelTrace) -> dict[str, SynthesisTransform]:
    """Find the synthesis transform of each latent that has one.

    Raises:
        ValueError: none has.
    """
    found: dict[str, SynthesisTransform] = {}
    trouble: ValueError | None = None
    for latent in run.likelihoods:
        if run.hyper_synthesis(latent) is None:
            try:
                found[latent] = run.synthesis(latent)
            except ValueError as error:
                trouble = trouble or error
    if trouble is not None and not found:
        raise trouble
    return found
