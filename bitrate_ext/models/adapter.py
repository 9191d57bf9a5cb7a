"""Run any image model on any image: what it needs is measured, its images padded, its output read and checked."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..checks import channels_error, check_layout, check_range
from ..choices import PADDING_SIDES, PADDINGS
from ..memory import is_out_of_memory
from ..ops.rate.deferred import StaleSourceError, sources_of
from ..ops.units import LIKELIHOOD, noun_of
from .compressai_quirks import apply_workarounds
from .fuse import fuse_quietly
from .observe import leave_as_found
from .output import OutputReader
from .padding import Crop, Padding, Size, cutter
from .sizes import (
    CALLS,
    Attempts,
    CallError,
    Grids,
    SizeError,
    check_arguments,
    checked_multiple,
    find_factor,
    find_strides,
    first_channels,
    of_the_model,
)

POINT_CLOUDS = "compressai.models.pointcloud"
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)  # whose ``module`` is the model
T = TypeVar("T")


class ModelAdapter:
    """A model, and what it needs: the strides of its latents, images of a size that suits it, output that fits.

    ``strides`` holds pixels per latent cell, ``{"y": (16, 16), ...}``. They are found by running the model on a black
    image, when ``prepare`` is first called. Whether padded images must be larger than the strides say is found at the
    first image that the model does not take. A model changed after that needs a new adapter.

    What takes a model in this package takes an adapter, too: what is said here need not be said again.

    Args:
        model: a module in eval mode, or any callable, that takes ``[N, C, H, W]`` in [0, 1] and returns a mapping
            whose ``"likelihoods"`` is a tensor ``[N, C, h, w]`` (which is called ``"y"``) or nested dicts and lists of
            them; or something of the kind, see ``call`` and ``likelihoods``.
        strides: where they are known already.
        call: runs the model another way, ``call(model, x, **forward_kwargs)``.
        likelihoods: takes the values of the latents out of what the model returns, where they are not under that name.
        unit: of these values, as for ``bitrate_map``: also bits, nats, or logarithms.
        padding: ``"zeros"`` as CompressAI pads, ``"replicate"`` or ``"reflect"``.
        padding_side: ``"centre"``, on all sides, as CompressAI pads; or ``"end"``, on the right and at the bottom.
        multiple: of which the sides of padded images shall be, pixels: a number or a pair (vertical, horizontal).
            Default: what the strides say and the model takes.

    Raises:
        TypeError: ``model`` is no callable object, or is a model of point clouds; ``multiple`` is no whole number.
        ValueError: unknown ``unit``, ``padding`` or ``padding_side``; ``multiple`` below 1.

    Example:
        >>> adapter = bitrate_ext.ModelAdapter(model, padding="replicate", multiple=128)
        >>> bitrate_ext.BitrateMapper(adapter)(x).canvas
        (128, 128)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        strides: Mapping[str, Size] | None = None,
        *,
        call: Callable[..., Any] | None = None,
        likelihoods: Callable[[Any], Any] | None = None,
        unit: str = LIKELIHOOD,
        padding: str = PADDINGS[0],
        padding_side: str = PADDING_SIDES[0],
        multiple: int | Sequence[int] | None = None,
    ) -> None:
        model = getattr(model, "module") if isinstance(model, WRAPPERS) else model  # noqa: B009
        if isinstance(model, type) or not callable(model):
            what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
            raise TypeError(f"model must be an nn.Module or another callable object, got {what}")
        if type(model).__module__.startswith(POINT_CLOUDS):
            raise TypeError(
                f"model must be an image model, got {type(model).__name__}: point clouds have no image to map onto"
            )
        for name, function in (("call", call), ("likelihoods", likelihoods)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, got {type(function).__name__}")
        noun_of(unit)
        self.model = model
        self.strides = dict(strides or {})
        self.unit = unit
        self.padding = Padding(padding, padding_side)
        self._call_model = call
        self._reader = OutputReader(likelihoods, unit)
        self._multiple = checked_multiple(multiple)
        self._beside: Mapping[str, Size] = {}  # strides of another model that is run on the same images
        self._factor = 1  # of the strides' multiple, which the model wants
        self._enlarged: dict[Size, Size] = {}  # padded sizes that were too small, and what serves instead
        self._proven: Size | None = None  # the size of the image that strides were found with
        self._like_image: set[str] = set()  # forward arguments as large as the image
        self._channels: set[int] = set()  # numbers of them that the model is known to take

    @classmethod
    def of(cls, model: Callable[..., Any] | ModelAdapter, **options: Any) -> ModelAdapter:
        """Return an adapter of a model; one that is given stays as it is, and goes without options.

        An option at its default counts as not given: that of the adapter holds.

        Raises:
            ValueError: options beside an adapter, which has its own; names one.
            TypeError, ValueError: as the class.
        """
        if not isinstance(model, ModelAdapter):
            return cls(model, **options)
        for name, value in options.items():
            if value is not None and value not in (PADDINGS[0], PADDING_SIDES[0], LIKELIHOOD):
                raise ValueError(f"{name} is given with the ModelAdapter, and not beside it, got {value!r}")
        return model

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
        """Return an adapter of another model with the same latents, run, padded and read alike."""
        other = copy.copy(self)
        other.model, other._enlarged = model, dict(self._enlarged)
        other._like_image, other._channels = set(self._like_image), set(self._channels)
        return other

    def prepare(self, x: Tensor, forward_kwargs: dict[str, Any], size: Size | None = None, name: str = "x") -> None:
        """Check the model and the images, and find the strides where they are not known yet.

        Args:
            x: ``[N, C, H, W]``, floating, in [0, 1], on the model's device.
            forward_kwargs: for the model's ``forward``. Tensors ``[..., H, W]`` among them are taken for quality maps,
                masks and the like, and padded and cut as the image is.
            size: ``(H, W)`` of the whole images, where ``x`` is a part of them.
            name: what the caller's user calls ``x``.

        Raises:
            TypeError, ValueError: naming what was expected and what came. ``ChannelsError`` where the model runs on
                images of another number of channels, and not on these.
        """
        check_eval_mode(self.model)
        taken = self._channels or {first_channels(self.model)} & {1, 3}
        check_images(self.model, x, name, next(iter(taken)) if len(taken) == 1 else None)
        self._like_image |= {
            name for name, value in forward_kwargs.items() if _is_like_image(value, size or x.shape[2:])
        }
        if not self.strides:
            if self._call_model is None:
                check_arguments(self.model, forward_kwargs)
            self.strides, self._proven = self._find_strides(x, forward_kwargs, name)
            self._channels = {x.shape[1]}
        elif self._channels and x.shape[1] not in self._channels:
            trouble = self._trouble(x, forward_kwargs, self.proven)
            if trouble is not None:
                raise channels_error(x, name, min(self._channels)) from trouble
            self._channels.add(x.shape[1])
        if self._multiple is not None and any(m % s for m, s in zip(self._multiple, self._steps(), strict=True)):
            raise ValueError(
                f"multiple must be one of the strides' least common multiple, {self._steps()} pixels, got "
                f"{self._multiple}"
            )

    def _find_strides(self, x: Tensor, forward_kwargs: dict[str, Any], name: str) -> tuple[dict[str, Size], Size]:
        """Run the model on black images like ``x``; where it takes none, on others, to say whether colour is why.

        Where ``x`` has uncommonly many channels, as a side in their place, others come first: these are small.
        """

        def search(channels: int) -> tuple[dict[str, Size], Size]:
            run = self._black(x[:, :1].expand(-1, channels, -1, -1), forward_kwargs)
            return find_strides(Attempts(run), channels, self._multiple)

        own, trouble = x.shape[1], cast("Exception | None", None)
        common = dict.fromkeys((first_channels(self.model) or 3, 3, 1))
        if own in common:
            try:
                return search(own)
            except (SizeError, CallError) as error:
                trouble = error
        for channels in [one for one in common if one != own]:
            try:
                size = search(channels)[1]
            except (SizeError, CallError, *CALLS):
                continue
            trouble = trouble or self._trouble(x, forward_kwargs, size)
            if trouble is not None:
                raise channels_error(x, name, channels) from trouble
        if trouble is not None:
            raise trouble
        return search(own)

    def _trouble(self, x: Tensor, forward_kwargs: dict[str, Any], size: Size) -> Exception | None:
        """Return what the model raises of a black image like ``x`` of a size; None where it takes it."""
        try:
            self._black(x, forward_kwargs)(size)
        except Exception as error:
            return of_the_model(error)
        return None

    def fit(self, x: Tensor, forward_kwargs: dict[str, Any], size: Size | None = None) -> None:
        """Find padding with which the model takes images of a size; ``canvas`` and ``pad`` know it from then on.

        Args:
            x: ``[N, C, H, W]``, as for ``prepare``, which comes first.
            forward_kwargs: for the model's ``forward``.
            size: ``(H, W)``, pixels. Default: that of ``x``.

        Raises:
            SizeError: the model takes none that was tried; says which, and what the model said.
            CallError, or what the model raises: that is not about size.
        """
        size = size or (x.shape[2], x.shape[3])
        canvas, attempts = self.canvas(*size)[0], Attempts(self._black(x, forward_kwargs))
        if attempts.suits(canvas):
            return
        if self._multiple is not None:
            raise attempts.refuse(f"model takes no image padded to multiples of {self._multiple} pixels")
        found, factor = find_factor(attempts, size, self._steps())
        if factor is None:
            self._enlarged[canvas] = found
        else:
            self._factor = factor

    def pad_for(self, other: ModelAdapter) -> None:
        """Pad images for another adapter, too, whose model is run on the same: to multiples of all strides of both."""
        self._beside, other._beside = other.strides, self.strides

    def adopt_sizes(self, other: ModelAdapter) -> None:
        """Take over what sizes were found to suit an adapter with the same strides' least common multiples."""
        if self._steps() == other._steps():
            self._factor, self._enlarged = other._factor, other._enlarged

    def on_canvas(self, x: Tensor, forward_kwargs: dict[str, Any], run: Callable[..., T]) -> T:
        """Return what ``run(padded, crop, forward_kwargs)`` gives of images, padded to a size that the model takes.

        Args:
            x: ``[N, C, H, W]``, as for ``prepare``, which comes first.
            forward_kwargs: for the model's ``forward``; ``run`` gets them as large as the padded images.
            run: runs the model; once more, where the model does not take the first size.

        Raises:
            SizeError: the model takes no size that was tried.
            What ``run`` raises.
        """
        padded, crop, arguments = self.pad(x, forward_kwargs)
        try:
            return run(padded, crop, arguments)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            with contextlib.suppress(CallError, *CALLS):
                self.fit(x, forward_kwargs)
            if self.canvas(*crop[2:])[0] == tuple(padded.shape[2:]):
                raise  # the size is not why
        return run(*self.pad(x, forward_kwargs))

    def pad(self, x: Tensor, forward_kwargs: Mapping[str, Any] | None = None) -> tuple[Tensor, Crop, dict[str, Any]]:
        """Return padded images, where the image lies on them, and the arguments padded alike."""
        height, width = x.shape[-2:]
        size, crop = self.canvas(height, width)
        return self.padding.pad(x, size, crop), crop, self.window_arguments(forward_kwargs or {}, (0, 0), size, crop)

    def window_arguments(
        self, forward_kwargs: Mapping[str, Any], begin: Size, window: Size, crop: Crop
    ) -> dict[str, Any]:
        """Return forward arguments for a window of the canvas; those as large as the image are padded and cut with it.

        Args:
            forward_kwargs: for the model's ``forward``.
            begin: of the window, on the canvas.
            window: its size.
            crop: where the image lies on the canvas.
        """
        arguments = dict(forward_kwargs)
        for name in self._like_image & arguments.keys():
            if _is_like_image(arguments[name], crop[2:]):
                arguments[name] = self.padding.read(cutter(arguments[name]), begin, window, crop)
        return arguments

    @property
    def given_multiple(self) -> Size | None:
        """Return the multiple that was asked for."""
        return self._multiple

    @property
    def has_functions(self) -> bool:
        """Return whether functions say how the model is run or read."""
        return self._call_model is not None or self._reader.likelihoods is not None

    @property
    def multiple(self) -> Size:
        """Return what the sides of padded images are multiples of, pixels."""
        rows, columns = self._steps()
        return self._multiple or (rows * self._factor, columns * self._factor)

    @property
    def proven(self) -> Size:
        """Return the size of a small image that the model takes."""
        return self._proven or self.multiple

    def _steps(self) -> Size:
        """Return the strides' least common multiples."""
        strides = (*self.strides.values(), *self._beside.values())
        rows, columns = (math.lcm(*axis) for axis in zip(*strides, strict=True))
        return rows, columns

    def canvas(self, height: int, width: int) -> tuple[Size, Crop]:
        """Return the size of a padded image, and where the image lies on it: ``(top, left, height, width)``."""
        rows, columns = self.multiple
        size = (-(-height // rows) * rows, -(-width // columns) * columns)
        size = self._enlarged.get(size, size)
        return size, self.padding.crop((height, width), size)

    def run(
        self,
        padded: Tensor,
        forward_kwargs: dict[str, Any],
        warnings: list[str] | None = None,
        *,
        fused: bool = False,
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Run the model on images of a size that suits it, and check what it returns.

        Args:
            padded: ``[N, C, H, W]``, as ``pad`` returns them.
            forward_kwargs: for the model's ``forward``.
            warnings: gets one for each correction of the likelihoods.
            fused: let CompressAI's entropy models compute through the operator, see ``fuse``: likelihoods are not made,
                and have a source of bits instead.

        Returns:
            Its reconstruction under "x_hat", where there is one; and the values of its latents by name, in ``unit``:
            likelihoods ``[N, C, h, w]``, of other units also ``[N, h, w]``.

        Raises:
            TypeError, ValueError: the output has no such values of such images.
        """
        fusing = fuse_quietly(self.model) if fused and self.unit == LIKELIHOOD else contextlib.nullcontext()
        try:
            with apply_workarounds(self.model) as corrections, fusing:
                found, values = self.read(padded, forward_kwargs)
                sources_of(values)
        except StaleSourceError:  # the model writes into what its distributions are made of
            if not fused:
                raise
            return self.run(padded, forward_kwargs, warnings)
        if warnings is not None:
            warnings += corrections
        self._check_grids(values, padded.shape[0], (padded.shape[2], padded.shape[3]))
        return found, values

    def read(self, x: Tensor, forward_kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Run the model on images of any size as it is, and return what ``run`` does, unchecked."""
        return self._reader.read(self._call(x, forward_kwargs), x)

    def _call(self, x: Tensor, forward_kwargs: Mapping[str, Any]) -> Any:
        """Run the model, which is left as it was, unless the graph that it makes holds what it has set."""
        arguments = self.fit_arguments(forward_kwargs, x.shape)
        with contextlib.nullcontext() if torch.is_grad_enabled() else leave_as_found(self.model):
            x = x.clone() if x.is_inference() else x
            if self._call_model is not None:
                return self._call_model(self.model, x, **arguments)
            return self.model(x, **arguments)

    def fit_arguments(self, forward_kwargs: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
        """Return forward arguments for images ``[N, C, H, W]``: those as large as the image are cut or continued."""

        def fitted(value: Tensor) -> Tensor:
            for axis in (-2, -1):
                if value.shape[axis] != shape[axis]:
                    index = torch.arange(shape[axis], device=value.device).clamp(max=value.shape[axis] - 1)
                    value = value.index_select(axis, index)
            if value.dim() == 4 and len(value) != shape[0]:
                value = value.repeat(-(-shape[0] // len(value)), 1, 1, 1)[: shape[0]]
            return value

        return {
            name: fitted(value) if name in self._like_image and isinstance(value, Tensor) and value.dim() > 1 else value
            for name, value in forward_kwargs.items()
        }

    def arguments_of(self, index: int, forward_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return forward arguments for one image of the batch: of those as large as the image its own."""
        arguments = dict(forward_kwargs)
        for name in self._like_image & arguments.keys():
            if arguments[name].dim() == 4 and len(arguments[name]) > 1:
                arguments[name] = arguments[name][index : index + 1]
        return arguments

    def grids(self, size: Sequence[int]) -> dict[str, tuple[int, int]]:
        """Return the cells ``(h, w)`` of each latent on a padded image of that size, pixels."""
        return {name: (size[0] // rows, size[1] // columns) for name, (rows, columns) in self.strides.items()}

    def _black(self, x: Tensor, forward_kwargs: dict[str, Any]) -> Callable[[Size], Grids]:
        """Return what runs the model on a black image of a size and returns the grids of the latents."""
        each = any(isinstance(one, Tensor) and one.dim() and len(one) == len(x) for one in forward_kwargs.values())
        batch = len(x) if each and len(x) else 1  # arguments of each image go with so many

        @torch.no_grad()
        def run(size: Size) -> Grids:
            black = x.new_zeros(batch, x.shape[1], *size)
            if not self.strides:
                values = self.read(black, forward_kwargs)[1]
                return {name: (p.shape[-2], p.shape[-1]) for name, p in values.items()}
            self.run(black, forward_kwargs)
            return self.grids(size)

        return run

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


def check_images(model: Callable[..., Any], x: Any, name: str = "x", channels: int | None = None) -> None:
    """Check that an argument is a batch of images ``[N, C, H, W]`` in [0, 1] on the model's device.

    Raises:
        TypeError, ValueError: it is not; names what was expected, what came, and what to write instead.
    """
    check_layout(x, name, channels)
    own = device_of(model, x.device)
    if own != x.device:
        raise ValueError(f"{name} must be on the model's device {own}, got {x.device}; give {name}.to('{own}')")
    check_range(x, name, channels)


def device_of(model: Callable[..., Any], otherwise: torch.device = torch.device("cpu")) -> torch.device:  # noqa: B008
    """Return the device of a model's parameters or buffers; ``otherwise`` where it has none."""
    if not isinstance(model, nn.Module):
        return otherwise
    return next((t.device for tensors in (model.parameters(), model.buffers()) for t in tensors), otherwise)


def _is_like_image(value: Any, size: Sequence[int]) -> bool:
    """Return whether that is a tensor ``[..., H, W]`` of a size."""
    return isinstance(value, Tensor) and value.dim() > 1 and tuple(value.shape[-2:]) == tuple(size)
