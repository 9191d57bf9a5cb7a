"""The guides of maps, made of the reconstruction: each once, for all that is laid out under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..ops.projection import Projection

FROM_IMAGE = "the guide of the map is made of the image itself, for the model gives no reconstruction of its size"
Guides = Mapping[str, Tensor]  # [N, 1, H, W] on the canvas, of the latents that have one


def are_guided(projections: Mapping[str, Projection]) -> bool:
    """Return whether any of the projections has a guide."""
    return any(projection.guide is not None for projection in projections.values())


def make_guides(projections: Mapping[str, Projection], x_hat: Any, padded: Tensor, warnings: list[str]) -> Guides:
    """Make the guides of latents, of the reconstruction on the canvas, or, with a warning, of what was coded.

    Args:
        projections: of each latent.
        x_hat: what a model gave as its reconstruction, if it did.
        padded: ``[N, C, H, W]``, the images on the canvas.
        warnings: to which one may be added.
    """
    if not are_guided(projections):
        return {}
    if isinstance(x_hat, Tensor) and x_hat.shape == padded.shape:
        picture = x_hat
    else:
        picture = padded
        warnings.append(FROM_IMAGE)
    picture = picture.detach().float()
    wanted = {name: one.guide for name, one in projections.items() if one.guide is not None}
    made = {id(guide): guide(picture) for guide in {id(guide): guide for guide in wanted.values()}.values()}
    return {name: made[id(guide)] for name, guide in wanted.items()}
