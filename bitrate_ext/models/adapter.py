"""Run any CompressAI-style model on any image: what it needs is measured, its images padded, its output checked.

Padding follows CompressAI's ``examples/codec.py`` and ``compressai.utils.eval_model``: zeros, centred, the odd pixel on
the right and at the bottom.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.functional import named_likelihoods
from .compressai_quirks import apply_workarounds
from .observe import leave_as_found

Crop = tuple[int, int, int, int]  # top, left, height, width, pixels

# Sides of the square images that a model is probed with, pixels. 960 is there for strides with factors 3 and 5.
PROBE_SIZES = (128, 256, 512, 960, 1024, 2048)
POINT_CLOUDS = "compressai.models.pointcloud"
TOLERANCE = 1e-6  # by which resampled images may leave [0, 1]


class ModelAdapter:
    """A model, and what it needs: the strides of its latents, images of a size that suits it, output that fits.

    ``strides`` holds pixels per latent cell, ``{"y": (16, 16), ...}``. They are found by running the model once on a
    black image, when ``prepare`` is first called. A model changed after that needs a new adapter.

    Args:
        model: a module in eval mode, or any callable, that takes ``[N, C, H, W]`` in [0, 1] and returns a mapping
            whose ``"likelihoods"`` is a tensor ``[N, C, h, w]`` (which is called ``"y"``) or nested dicts of them.
        strides: where they are known already.

    Raises:
        TypeError: ``model`` is no callable object, or is a model of point clouds.
    """

    def __init__(self, model: Callable[..., Any], strides: Mapping[str, tuple[int, int]] | None = None) -> None:
        if isinstance(model, type) or not callable(model):
            what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
            raise TypeError(f"model must be an nn.Module or another callable object, got {what}")
        if type(model).__module__.startswith(POINT_CLOUDS):
            raise TypeError(
                f"model must be an image model, got {type(model).__name__}: point clouds have no image to map onto"
            )
        self.model = model
        self.strides = dict(strides or {})

    @property
    def module(self) -> nn.Module:
        """Return the model as a module, whose parts can be watched.

        Raises:
            TypeError: it is another callable.
        """
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be an nn.Module, whose parts can be watched, got {type(self.model).__name__}")
        return self.model

    def with_model(self, model: Callable[..., Any]) -> ModelAdapter:
        """Return an adapter of another model with the same latents."""
        return ModelAdapter(model, self.strides)

    def prepare(self, x: Tensor, forward_kwargs: dict[str, Any]) -> None:
        """Check the model and the images, and find the strides where they are not known yet.

        Args:
            x: ``[N, C, H, W]``, floating, in [0, 1], on the model's device.
            forward_kwargs: for the model's ``forward``.

        Raises:
            TypeError, ValueError: naming what was expected and what came.
        """
        check_eval_mode(self.model)
        check_images(self.model, x)
        if not self.strides:
            self.strides = self._find_strides(x, forward_kwargs)

    def pad(self, x: Tensor) -> tuple[Tensor, Crop]:
        """Return padded images, and where the image lies on them: ``(top, left, height, width)``."""
        height, width = x.shape[-2:]
        size, crop = self.canvas(height, width)
        top, left = crop[:2]
        return F.pad(x, (left, size[1] - width - left, top, size[0] - height - top)), crop

    @property
    def multiple(self) -> tuple[int, int]:
        """Return what the sides of padded images are multiples of, pixels: the strides' least common multiples."""
        rows, columns = (math.lcm(*axis) for axis in zip(*self.strides.values(), strict=True))
        return rows, columns

    def canvas(self, height: int, width: int) -> tuple[tuple[int, int], Crop]:
        """Return the size of a padded image, and where the image lies on it: ``(top, left, height, width)``."""
        rows, columns = self.multiple
        size = (-(-height // rows) * rows, -(-width // columns) * columns)
        return size, ((size[0] - height) // 2, (size[1] - width) // 2, height, width)

    def run(
        self, padded: Tensor, forward_kwargs: dict[str, Any], warnings: list[str] | None = None
    ) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
        """Run the model on images of a size that suits it, and check what it returns.

        Args:
            padded: ``[N, C, H, W]``, as ``pad`` returns them.
            forward_kwargs: for the model's ``forward``.
            warnings: gets one for each correction of the likelihoods.

        Returns:
            Its output, and the likelihoods in it by name, ``[N, C, h, w]``.

        Raises:
            TypeError, ValueError: the output has no likelihoods of such images.
        """
        with apply_workarounds(self.model) as corrections:
            output = self._call(padded, forward_kwargs)
        if warnings is not None:
            warnings += corrections
        likelihoods = _image_likelihoods(output)
        self._check_grids(likelihoods, padded.shape[0], (padded.shape[2], padded.shape[3]))
        return output, likelihoods

    def _call(self, x: Tensor, forward_kwargs: dict[str, Any]) -> Any:
        """Run the model, which is left as it was, unless the graph that it makes holds what it has set."""
        with contextlib.nullcontext() if torch.is_grad_enabled() else leave_as_found(self.model):
            return self.model(x.clone() if x.is_inference() else x, **forward_kwargs)

    def grids(self, size: Sequence[int]) -> dict[str, tuple[int, int]]:
        """Return the cells ``(h, w)`` of each latent on a padded image of that size, pixels."""
        return {name: (size[0] // rows, size[1] // columns) for name, (rows, columns) in self.strides.items()}

    @torch.no_grad()
    def _find_strides(self, x: Tensor, forward_kwargs: dict[str, Any]) -> dict[str, tuple[int, int]]:
        """Find the pixels per cell of each latent, from the first black image that suits the model.

        An image of one cell would not tell a stride from rounding up, hence at least two.
        """
        trouble, cause = "", None
        for size in PROBE_SIZES:
            try:
                output = self._call(x.new_zeros(1, x.shape[1], size, size), forward_kwargs)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, AssertionError) as error:
                trouble, cause = f"{type(error).__name__}: {error}", error
                continue
            grids = {name: tuple(p.shape[-2:]) for name, p in _image_likelihoods(output).items()}
            if all(cells >= 2 and size % cells == 0 for grid in grids.values() for cells in grid):
                return {name: (size // h, size // w) for name, (h, w) in grids.items()}
            shown = ", ".join(f"{name} {h} x {w}" for name, (h, w) in grids.items())
            trouble = f"latent grids {shown} for {size} x {size} pixels; whole strides and 2 cells each way are needed"
        raise ValueError(
            f"model suits no square image of {', '.join(map(str, PROBE_SIZES))} pixels with {x.shape[1]} channels; "
            f"the last trouble was: {trouble}"
        ) from cause

    def _check_grids(self, likelihoods: Mapping[str, Tensor], batch: int, size: Sequence[int]) -> None:
        if likelihoods.keys() != self.strides.keys():
            raise ValueError(
                f"model returned the latents {sorted(likelihoods)}, but {sorted(self.strides)} when it was probed; "
                "make a new BitrateMapper for another set of forward arguments"
            )
        grids = self.grids(size)
        for name, p in likelihoods.items():
            stride, expected = self.strides[name], list(grids[name])
            if list(p.shape[-2:]) != expected:
                raise ValueError(
                    f"model returned a grid of {list(p.shape[-2:])} cells for latent {name!r} of a padded image of "
                    f"{list(size)} pixels; its stride of {list(stride)}, found by probing, promised {expected}"
                )
            if p.shape[0] != batch:
                raise ValueError(f"model returned {p.shape[0]} images' likelihoods for latent {name!r}, x has {batch}")


def crop_canvas(values: Tensor, crop: Crop) -> Tensor:
    """Return the image's part of values ``[..., H, W]`` on the padded canvas, as a view."""
    top, left, height, width = crop
    return values[..., top : top + height, left : left + width]


def crop_reconstruction(x_hat: Any, size: tuple[int, int], crop: Crop) -> Tensor | None:
    """Return the image's part of a reconstruction; None of what is no image of the padded size."""
    if not isinstance(x_hat, Tensor) or tuple(x_hat.shape[-2:]) != size:
        return None
    return crop_canvas(x_hat, crop)


def check_eval_mode(model: Callable[..., Any]) -> None:
    """Check that no part of the model is in train mode.

    Raises:
        ValueError: one is; names it.
    """
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if module.training:
                what = f"model.{name}" if name else "model"
                raise ValueError(
                    f"{what} ({type(module).__name__}) is in train mode, where likelihoods are those of latents with "
                    "random noise; call model.eval() first"
                )


def check_images(model: Callable[..., Any], x: Any) -> None:
    """Check that ``x`` is a batch of images ``[N, C, H, W]`` in [0, 1] on the model's device.

    Raises:
        TypeError, ValueError: it is not; names what was expected and what came.
    """
    _check_image(x)
    _check_device(model, x)
    check_range(x)


def _check_image(x: Any) -> None:
    expected = "x must be a floating-point tensor [N, C, H, W]"
    if not isinstance(x, Tensor):
        raise TypeError(f"{expected}, got {type(x).__name__}")
    if not x.is_floating_point():
        hint = "; divide by 255 first, x.float() / 255" if x.dtype == torch.uint8 else ""
        raise TypeError(f"{expected}, got {x.dtype}{hint}")
    if x.dim() != 4:
        hint = "; add the batch dimension with x[None]" if x.dim() == 3 else ""
        raise ValueError(f"{expected}, got shape {list(x.shape)}{hint}")
    if 0 in x.shape[1:]:
        raise ValueError(f"{expected}, with at least one channel and pixel, got shape {list(x.shape)}")


def device_of(model: Callable[..., Any], otherwise: torch.device = torch.device("cpu")) -> torch.device:  # noqa: B008
    """Return the device of a model's parameters or buffers; ``otherwise`` where it has none."""
    if not isinstance(model, nn.Module):
        return otherwise
    return next((t.device for tensors in (model.parameters(), model.buffers()) for t in tensors), otherwise)


def _check_device(model: Callable[..., Any], x: Tensor) -> None:
    own = device_of(model, x.device)
    if own != x.device:
        raise ValueError(f"x must be on the model's device {own}, got {x.device}")


def check_range(x: Tensor) -> None:
    """Check that images are in [0, 1].

    Raises:
        ValueError: a value is not, or is no number.
    """
    if x.numel() == 0:
        return
    low, high = (bound.item() for bound in torch.aminmax(x.detach()))
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also where a bound is NaN
        raise ValueError(f"x must have values in [0, 1], got values from {low:g} to {high:g}")


def _image_likelihoods(output: Any) -> dict[str, Tensor]:
    """Return the named likelihoods ``[N, C, h, w]`` in an image model's output."""
    if not isinstance(output, Mapping):
        raise TypeError(f"model must return a mapping with the key 'likelihoods', got {type(output).__name__}")
    if "likelihoods" not in output:
        keys = ", ".join(repr(key) for key in output) or "none"
        raise ValueError(f"model must return a mapping with the key 'likelihoods', got the keys {keys}")
    likelihoods = output["likelihoods"]
    if isinstance(likelihoods, (list, tuple)):
        raise TypeError(
            f"model returned a {type(likelihoods).__name__} of likelihoods, one entry a frame, as video models do; "
            "BitrateMapper takes image models; bitrate_map takes such lists, and coded_video codes frames"
        )
    named = {"y": likelihoods} if isinstance(likelihoods, Tensor) else named_likelihoods(likelihoods)
    if not named:
        raise ValueError("model returned no likelihoods: the mapping under 'likelihoods' is empty")
    for name, p in named.items():
        if p.dim() != 4:
            raise ValueError(
                f"likelihoods of latent {name!r} must be [N, C, h, w], got shape {list(p.shape)}; models of point "
                "clouds and of vectors have no image to map onto"
            )
    return named
