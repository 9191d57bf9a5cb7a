"""Checks of arguments that several rooms have in common; of images with what to write instead."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-6  # by which resampled images may leave [0, 1]
FEW = (1, 2, 3, 4)  # channels of common pictures, hardly pixels of a side
OVERSHOOT = -0.25, 2.0  # how far a reconstruction leaves [0, 1]; beyond it, values are of another scale


class ChannelsError(ValueError):
    """The model takes images, but of another number of channels."""

    channels = 0  # that it takes


def check_whole_number(name: str, value: object, least: int) -> None:
    """Check that an argument is a whole number of at least so much.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is less.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")


def check_layout(x: Any, name: str = "x", channels: int | None = None) -> None:
    """Check that an argument is a batch of images ``[N, C, H, W]``, floating; ``check_range`` looks at its values.

    Args:
        x: what came.
        name: of the argument.
        channels: that the model takes, where it is known, for the remedy.

    Raises:
        TypeError, ValueError: it is not; says what came, and what to write instead.
    """
    floating = isinstance(x, Tensor) and x.is_floating_point()
    if not floating or x.dim() != 4 or 0 in x.shape[1:]:
        raise (ValueError if floating else TypeError)(
            f"{name} must be a floating-point tensor [N, C, H, W], with at least one channel and pixel, got "
            f"{described(x)}{remedy(x, name, channels)}"
        )


def check_range(x: Tensor, name: str = "x", channels: int | None = None, *, batch: bool = True) -> None:
    """Check that images are in [0, 1].

    Raises:
        ValueError: a value is not, or is no number; says what to write instead.
    """
    if x.numel() == 0:
        return
    low, high = _bounds(x)
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also where a bound is NaN
        raise ValueError(
            f"{name} must have values in [0, 1], got values from {low:g} to {high:g}"
            f"{remedy(x, name, channels, batch=batch)}"
        )


def channels_error(given: Any, name: str, channels: int, *, batch: bool = True) -> ChannelsError:
    """Return the error that images have another number of channels than the model takes."""
    error = ChannelsError(
        f"{name} must have {channels} channel{'s' * (channels > 1)}, as the model takes them, got {described(given)}"
        f"{remedy(given, name, channels, batch=batch)}"
    )
    error.channels = channels
    return error


@contextlib.contextmanager
def as_given(given: Any, name: str, *, batch: bool = True) -> Iterator[None]:
    """Let a ``ChannelsError`` of the block speak of what the user gave; ``batch``: as ``remedy`` takes it."""
    try:
        yield
    except ChannelsError as error:
        raise channels_error(given, name, error.channels, batch=batch) from error.__cause__


def remedy(given: Any, name: str, channels: int | None = None, *, batch: bool = True) -> str:
    """Return "; give ..." with an expression that makes images of what came; nothing where that cannot be told.

    Args:
        given: a tensor or an array of any layout, a picture of Pillow's, a file's name.
        name: of the argument, in the expression; of "frame 3" the first word.
        channels: that the model takes, where it is known.
        batch: make ``[N, C, H, W]``; False: ``[C, H, W]``, of a tensor or an array.
    """
    text = name.split()[0]
    if isinstance(given, (str, os.PathLike)):
        return f"; give load_image({text}), of bitrate_ext.io.images"
    try:
        if type(given).__module__.startswith("PIL.") and given.mode[0] not in "IF":  # which have 16 or 32 bits
            mode = "L" if channels == 1 else "RGB"
            text, x = (
                f"torch.as_tensor(numpy.array({text}.convert('{mode}')))",
                torch.as_tensor(np.array(given.convert(mode))),
            )
        elif isinstance(given, np.ndarray):
            text, x = f"torch.as_tensor({text}.copy())", torch.as_tensor(given.copy())
        else:
            text, x = text if batch else f"torch.as_tensor({text})", given.detach()
        shape, steps = _layout(list(x.shape), channels, batch)
        steps += _scale(x) + _colour(shape[-3], channels, batch)
    except (TypeError, ValueError, AttributeError, RuntimeError):  # values that no tensor has, or not here
        return ""
    return f"; give {text}{steps}" if steps or text != name.split()[0] else ""


def _layout(shape: list[int], channels: int | None, batch: bool) -> tuple[list[int], str]:
    """Return the shape as ``[N, C, H, W]`` or ``[C, H, W]``, and what makes it so."""
    dims, steps = 3 + batch, ""
    if len(shape) < 2 or 0 in shape:
        raise ValueError
    if len(shape) in (3, 4) and shape[-3] not in (*FEW, channels) and shape[-1] in (*FEW, channels):
        steps = ".permute(2, 0, 1)" if len(shape) == 3 else ".permute(0, 3, 1, 2)"
        shape = [*shape[:-3], shape[-1], *shape[-3:-1]]
    if len(shape) > dims:
        return shape[-dims:], f"{steps}.flatten(0, {-dims})"
    missing = dims - len(shape)
    return [1] * missing + shape, f"{steps}[{', '.join(['None'] * missing)}]" if missing else steps


def _scale(x: Tensor) -> str:
    """Return what brings values to [0, 1]."""
    if x.is_complex():
        raise TypeError
    if x.dtype == torch.bool:
        return ".float()"
    steps = "" if x.is_floating_point() else ".float()"
    low, high = _bounds(x.double())
    if not (abs(low) < torch.inf and abs(high) < torch.inf):
        steps, (low, high) = ".nan_to_num(0, 1, 0)", _bounds(x.nan_to_num(0, 1, 0))
    if low >= -TOLERANCE and (high > OVERSHOOT[1] or not x.is_floating_point()):
        if high > 65535:
            raise ValueError
        return f"{steps}.div({255 if high <= 255 else 65535})"
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return steps
    if low >= OVERSHOOT[0] and high <= OVERSHOOT[1]:
        return f"{steps}.clamp(0, 1)"
    if low >= -1 and high <= 1:
        return f"{steps}.add(1).div(2)"
    return f"{steps}.mul(std).add(mean) if it was normalised by these"


def _colour(have: int, channels: int | None, batch: bool) -> str:
    """Return what makes so many channels of those that there are."""
    index, axis, rest = (":, ", 1, "-1, ") if batch else ("", 0, "")
    if channels in (have, None):
        return ""
    if channels == 3 and have in (1, 2):
        return f"{f'[{index}:1]' * (have == 2)}.expand({rest}3, -1, -1)"
    if channels == 3 and have == 4:
        return f"[{index}:3]"
    if channels == 1 and have in (3, 4):
        return f"{f'[{index}:3]' * (have == 4)}.mean({axis}, keepdim=True)"
    raise ValueError


def _bounds(x: Tensor) -> tuple[float, float]:
    low, high = (float(bound) for bound in torch.aminmax(x.detach()))
    return low, high


def described(x: Any) -> str:
    """Return what came in the place of images, in words."""
    if isinstance(x, Tensor):
        return f"{x.dtype} of shape {list(x.shape)}"
    if isinstance(x, np.ndarray):
        return f"ndarray, {x.dtype} of shape {list(x.shape)}"
    return type(x).__name__
