"""What a codec spends on blocks of a picture: what an estimator learns, and is held against."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..io.images import load_image
from ..mapping.mapper import AnyProjection, BitrateMapper
from ..models.adapter import ModelAdapter, device_of
from ..receptive_field.fingerprint import weights_fingerprint
from .estimator import whole_blocks
from .network import BLOCK

Model = Callable[..., Any] | ModelAdapter
Photograph = str | os.PathLike[str] | Tensor


class CodecBits:
    """The bits of blocks of 16 x 16 pixels of padded pictures, by the maps of a model at each of its qualities.

    Args:
        models: that pad pictures alike.
        projection: of the maps; what is measured is so for the middle one.
        picture: ``[1, C, H, W]``, to find out with what the models need.
        forward_kwargs: for their ``forward``.

    Raises:
        TypeError, ValueError: as ``BitrateMapper``; the models need different padding.
    """

    def __init__(
        self, models: Sequence[Model], projection: AnyProjection, picture: Tensor, forward_kwargs: Mapping[str, Any]
    ) -> None:
        self.adapters, self._forward = [ModelAdapter.of(one) for one in models], dict(forward_kwargs)
        self.device = device_of(self.adapters[0].model)
        picture = picture.to(self.device)
        middle = BitrateMapper(self.adapters[len(models) // 2], projection=projection)
        middle.resolve(picture, self._forward)
        self._mappers = [BitrateMapper(adapter, projection=middle.projections) for adapter in self.adapters]
        for mapper in self._mappers:
            mapper.resolve(picture, self._forward)
            mapper.adapter.fit(picture, self._forward)
        found = {(mapper.adapter.multiple, mapper.adapter.padding) for mapper in self._mappers}
        if len(found) > 1:
            raise ValueError(f"model: all qualities must pad images alike, got {found}")
        self.multiple, self.padding = found.pop()

    def __call__(self, picture: Tensor, output: int) -> tuple[Tensor, Tensor]:
        """Return a picture ``[1, C, H, W]`` on whole blocks of its canvas, and the bits of these, float32 ``[h, w]``.

        Raises:
            ValueError: they are no finite numbers.
        """
        mapper = self._mappers[output]
        padded = mapper.adapter.pad(picture.to(self.device))[0]
        bits = mapper(padded, gradients=False, **self._forward).map.double()
        blocks = F.avg_pool2d(whole_blocks(bits), BLOCK)[0, 0] * BLOCK**2
        if not blocks.isfinite().all() or not (blocks >= 0).all() or not blocks.sum() > 0:
            raise ValueError("model spends bits on a picture that are no finite positive numbers; nothing to learn")
        return whole_blocks(padded), blocks.float()

    @property
    def fingerprint(self) -> str:
        """Return what tells the models' parameters from others; empty of models that are no modules."""
        modules = [one.model for one in self.adapters if isinstance(one.model, nn.Module)]
        return weights_fingerprint(modules) if len(modules) == len(self.adapters) else ""


def load_photograph(given: Photograph) -> Tensor:
    """Return a photograph ``[1, C, H, W]``, read if it is a file.

    Raises:
        ImageError: it cannot be read.
        ValueError: a tensor of another shape.
    """
    if not isinstance(given, Tensor):
        return load_image(given)
    if given.dim() != 4 or len(given) != 1 or not given.is_floating_point():
        raise ValueError(
            f"images must be files or floating-point tensors [1, C, H, W] in [0, 1], got {list(given.shape)}, "
            f"{given.dtype}; give each image of a batch by itself"
        )
    return given.detach().clone()
