"""A rate term for training: bits per pixel of what a model returns, under weights of pixels where they are given."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.arguments import OUTPUT_KEYS, Projections, image_latents, map_dtype, split_frames, unwrap
from ..ops.functional import rate
from ..ops.projection import Projection, get_projection
from ..ops.units import LIKELIHOOD, noun_of
from ..optional import require
from .importance import check_importance, weighted_rate

REDUCTIONS, METRICS = ("mean", "sum", "none"), ("mse", "ms-ssim")


class RateLoss(nn.Module):
    """Take the rate of what a model returns, in bits per pixel of its images, or rate and distortion together.

    ``RateLoss()(output, target)`` is the rate alone. With ``lmbda`` the module stands in for CompressAI's
    ``RateDistortionLoss``: ``RateLoss(lmbda=0.01)(output, target)`` has its entries, ``"loss"``, ``"bpp_loss"`` and
    ``"mse_loss"`` or ``"ms_ssim_loss"``. Of a model that is run in ``bitrate_ext.fuse``, no likelihoods are made.

    With ``importance`` each pixel's bits count by its weight, ``(importance * map).sum() / pixels`` with the map of
    ``bitrate_map``. No map is made: the weights are brought down to the cells, and those of the module's own importance
    are kept. Large weights make bits dear: training moves them to where weights are small. The distortion has none.

    Args:
        reduction: of the images of a batch: ``"mean"``, ``"sum"``, or ``"none"`` for ``[N]``.
        importance: weights of pixels, ``[H, W]`` or ``[N, 1, H, W]``, floating or a mask; finite, where its values are
            not looked at. For images of this size alone; others' goes with the call.
        lmbda: weight of the distortion, as CompressAI's models are trained with. None: the rate alone.
        metric: of the distortion: ``"mse"``, of 255 levels, or ``"ms-ssim"``.
        return_type: with ``lmbda``: ``"all"`` entries, or the name of one.
        projection, impl: how bits lie under the importance, as for ``bitrate_map``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        ImportError: ``metric="ms-ssim"`` without pytorch_msssim, which CompressAI brings.

    Example:
        >>> mask = torch.ones(64, 64)
        >>> mask[:32] = 4.0  # bits of the upper half count four times
        >>> terms = bitrate_ext.RateLoss(importance=mask, lmbda=0.01)(model(x), x)
        >>> sorted(terms), terms["loss"].requires_grad
        (['bpp_loss', 'loss', 'mse_loss'], True)
    """

    importance: Tensor | None

    def __init__(
        self,
        reduction: str = "mean",
        importance: Tensor | None = None,
        *,
        lmbda: float | None = None,
        metric: str = METRICS[0],
        return_type: str = "all",
        projection: Projections = "bilinear",
        impl: str = "auto",
    ) -> None:
        super().__init__()
        for name, value, known in (("reduction", reduction, REDUCTIONS), ("metric", metric, METRICS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        entries = ("all", "loss", "bpp_loss", "mse_loss" if metric == METRICS[0] else "ms_ssim_loss")
        if return_type not in entries:
            raise ValueError(f"return_type must be one of {', '.join(map(repr, entries))}, got {return_type!r}")
        if isinstance(projection, (str, Projection)):
            get_projection(projection)
        self.reduction, self.lmbda, self.metric, self.return_type = reduction, lmbda, metric, return_type
        self.projection, self.impl = projection, impl
        self._similarity = require("pytorch_msssim").ms_ssim if metric == METRICS[1] else None
        checked = None if importance is None else check_importance(importance)
        self.register_buffer("importance", checked, persistent=False)
        self._kept: tuple[Any, dict[Any, Tensor]] = (None, {})  # weights of cells, and of what

    def forward(
        self,
        output: Any,
        target: Any = None,
        *,
        importance: Tensor | None = None,
        size: Sequence[int] | None = None,
    ) -> Any:
        """Return the loss of what a model returned.

        Args:
            output: a model's output, whose ``"likelihoods"`` are read, and ``"x_hat"`` for the distortion; or
                likelihoods or sources of bits alone. Lists with an entry a frame, as video models return them, give the
                mean of the frames'.
            target: ``[N, C, H, W]``, the images; a list of them of a video. Needed for the distortion.
            importance: for this call, in the place of the module's own.
            size: ``(H, W)`` of the images, pixels. Default: that of ``target``, of ``"x_hat"`` or of the importance.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came.
        """
        latents = unwrap(output, noun_of(LIKELIHOOD))
        x_hat = output.get(OUTPUT_KEYS[0]) if isinstance(output, Mapping) else getattr(output, OUTPUT_KEYS[0], None)
        if isinstance(latents, (list, tuple)) and any(isinstance(one, Mapping) for one in latents):
            split_frames(latents, LIKELIHOOD)  # a pair is none
            return self._frames(latents, x_hat, target, importance, size)
        size = self._size(size, target, x_hat, importance)
        latents = image_latents(latents)
        bpp = self._reduced(
            (self._bits(latents, size, importance) / (size[0] * size[1])).to(map_dtype(latents.values()))
        )
        if self.lmbda is None:
            return bpp
        if not isinstance(x_hat, Tensor) or not isinstance(target, Tensor) or x_hat.shape != target.shape:
            got = [list(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in (x_hat, target)]
            raise ValueError(
                f"a distortion needs the output's 'x_hat' and a target of its shape, got {got[0]} and {got[1]}; "
                "without lmbda= RateLoss gives the rate alone"
            )
        if self._similarity is not None:
            distortion = self._reduced(self._similarity(x_hat, target, data_range=1, size_average=False))
            out = {"bpp_loss": bpp, "ms_ssim_loss": distortion}
            whole = 1 if self.reduction != "sum" else len(target)
            out["loss"] = self.lmbda * (whole - distortion) + bpp
        else:
            distortion = self._reduced(F.mse_loss(x_hat, target, reduction="none").flatten(1).mean(1))
            out = {"bpp_loss": bpp, "mse_loss": distortion, "loss": self.lmbda * 255**2 * distortion + bpp}
        return out if self.return_type == "all" else out[self.return_type]

    def _frames(
        self, latents: Sequence[Any], x_hat: Any, target: Any, importance: Tensor | None, size: Sequence[int] | None
    ) -> Any:
        none = [None] * len(latents)
        for name, frames in (("the output's 'x_hat'", x_hat), ("target", target)):
            if frames is not None and len(frames) != len(latents):
                raise ValueError(
                    f"{name} must be a list of {len(latents)} frames, as the likelihoods, got {len(frames)}"
                )
        losses = [
            self({"likelihoods": one, "x_hat": shown}, image, importance=importance, size=size)
            for one, shown, image in zip(latents, x_hat or none, none if target is None else target, strict=True)
        ]
        if isinstance(losses[0], dict):
            return {name: torch.stack([one[name] for one in losses]).mean(0) for name in losses[0]}
        return torch.stack(losses).mean(0)

    def _size(self, size: Sequence[int] | None, target: Any, x_hat: Any, importance: Tensor | None) -> tuple[int, int]:
        shapes = [one.shape[-2:] for one in (target, x_hat, importance, self.importance) if isinstance(one, Tensor)]
        chosen = size if size is not None else next(iter(shapes), None)
        if chosen is None:
            raise ValueError("a rate per pixel needs the size of the images: give target= or size=(H, W), got neither")
        return int(chosen[0]), int(chosen[1])

    def _bits(self, latents: Mapping[str, Any], size: tuple[int, int], importance: Tensor | None) -> Tensor:
        weights = self.importance if importance is None else importance
        if weights is None:
            return rate(latents, impl=self.impl)
        kept = None
        if importance is None and not weights.requires_grad and not torch.is_inference_mode_enabled():
            key = (weights.data_ptr(), weights._version, weights.device, weights.dtype, self.projection, size)
            if self._kept[0] != key:
                self._kept = (key, {})
            kept = self._kept[1]
        return weighted_rate(latents, size, weights, projection=self.projection, impl=self.impl, kept=kept)

    def _reduced(self, images: Tensor) -> Tensor:
        return images if self.reduction == "none" else images.mean() if self.reduction == "mean" else images.sum()


with contextlib.suppress(ImportError):  # the registry is CompressAI's, which need not be there
    require("compressai.registry").register_criterion("RateLoss")(RateLoss)
