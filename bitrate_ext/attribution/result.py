"""The result of an attribution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Attribution:
    """A map of each image. Where it adds up, ``map.sum() + padding`` is ``total``.

    Example:
        >>> found = bitrate_ext.attribute(model, x, passes=4)
        >>> found.map.shape, found.unit, found.adds_up, sorted(found.maps)
        (torch.Size([1, 1, 64, 64]), 'bits per pixel', True, ['y', 'z'])
    """

    map: Tensor  # [N, 1, H, W], float32 or the model's float64
    method: str
    unit: str  # "bits per pixel", or "sensitivity" of what does not add up to bits
    adds_up: bool
    total: Tensor  # float64 [N]: all bits (jacobian), bits above the baseline's (integrated-gradients), the map's sum
    padding: Tensor  # float64 [N]: the part of it outside the image
    error: Tensor | None  # float64 [N], a share of the total; see `attribute`
    maps: dict[str, Tensor]  # of each latent, for "jacobian"
