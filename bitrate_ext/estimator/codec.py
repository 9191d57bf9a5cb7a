"""What a codec spends on blocks of a picture: what an estimator learns, and is held against."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_layout
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
        models: that pad pictures alike, one for each quality.
        batched: there is one model alone, which codes the i-th picture of a batch at the i-th of so many qualities.
        projection: of the maps; what is measured is so for the middle one.
        picture: ``[1, C, H, W]``, to find out with what the models need.
        forward_kwargs: for their ``forward``.

    Raises:
        TypeError, ValueError: as ``BitrateMapper``; the models need different padding.
    """

    def __init__(
        self,
        models: Sequence[Model],
        projection: AnyProjection,
        picture: Tensor,
        forward_kwargs: Mapping[str, Any],
        batched: int = 1,
    ) -> None:
        self.adapters, self._forward = [ModelAdapter.of(one) for one in models], dict(forward_kwargs)
        self.device = device_of(self.adapters[0].model)
        self._batched, self.outputs = batched, len(models) * batched
        picture = picture.to(self.device).expand(batched, -1, -1, -1)
        middle = BitrateMapper(self.adapters[len(models) // 2], projection=projection)
        middle.resolve(picture, self._forward, name="images[0]")
        self._mappers = [BitrateMapper(adapter, projection=middle.projections) for adapter in self.adapters]
        for mapper in self._mappers:
            mapper.resolve(picture, self._forward)
            mapper.adapter.fit(picture, self._forward)
        found = {(mapper.adapter.multiple, mapper.adapter.padding) for mapper in self._mappers}
        if len(found) > 1:
            raise ValueError(f"model: all qualities must pad images alike, got {found}")
        self.multiple, self.padding = found.pop()

    def __call__(self, picture: Tensor, number: int | None = None) -> tuple[Tensor, Tensor]:
        """Return a picture ``[1, C, H, W]`` on whole blocks of its canvas, and the bits of these at each quality.

        Args:
            picture: the photograph or a part of it.
            number: run this model alone, counted on and on from 0.

        Returns:
            ``[1, C, H, W]``, and float32 ``[outputs, h, w]``, NaN where nothing was run.

        Raises:
            ValueError: bits are no finite positive numbers.
        """
        padded = self.adapters[0].pad(picture.to(self.device))[0]
        several = padded.expand(self._batched, -1, -1, -1)
        found = []
        for index, mapper in enumerate(self._mappers):
            if number is None or index == number % len(self._mappers):
                bits = mapper(several, gradients=False, **self._forward).map[:, 0].double()
                if not (bits.isfinite() & (bits >= 0)).all() or not (bits.sum(dim=(1, 2)) > 0).all():
                    raise ValueError("model spends bits that are no finite positive numbers; there is nothing to learn")
                found.append(F.avg_pool2d(whole_blocks(bits), BLOCK).float() * BLOCK**2)
            else:
                found.append(torch.full_like(whole_blocks(several)[:, 0, ::BLOCK, ::BLOCK], torch.nan))
        return whole_blocks(padded), torch.cat(found)

    @property
    def fingerprint(self) -> str:
        """Return what tells the models' parameters from others; empty of models that are no modules."""
        modules = [one.model for one in self.adapters if isinstance(one.model, nn.Module)]
        return weights_fingerprint(modules) if len(modules) == len(self.adapters) else ""


def load_photograph(given: Photograph) -> Tensor:
    """Return a photograph ``[1, C, H, W]``, read if it is a file.

    Raises:
        ImageError: it cannot be read.
        TypeError, ValueError: another kind of image.
    """
    if isinstance(given, (str, os.PathLike)):
        return load_image(given)
    check_layout(given, "image")
    if len(given) != 1:
        raise ValueError(
            f"images must be files or tensors [1, C, H, W], got shape {list(given.shape)}; give each image of a batch "
            "by itself"
        )
    return given.detach().clone()
