"""What sizes a model takes: found by running it, since strides alone do not say it.

Window attention wants multiples of 128 or 256 pixels, padding by reflection more than one cell; neither shows in the
strides of the latents. Sizes that fail are told from calls that fail at any size.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..checks import check_whole_number
from ..memory import is_out_of_memory
from .output import OutputError

Size = tuple[int, int]  # vertical, horizontal, pixels
Grids = dict[str, tuple[int, int]]
Run = Callable[[Size], Grids]  # runs the model on a black image; returns the cells of each latent

# Sides of the square images that strides are looked for with. 448 has the factor 7, 960 has 3 and 5.
PROBE_SIDES = (128, 256, 512, 448, 960, 1024, 2048)
# What the strides' least common multiple is multiplied with, until the model takes an image.
FACTORS = (2, 4, 8, 16, 3, 5, 6, 7, 9, 10, 12, 14, 15)
ALIKE, SILENT = 3, 5  # sizes at which a model says the same, or gives no reason, before it is not about size
BANDS = 16  # channels of images that are tried, at most, besides those that came
CALLS = (TypeError, AttributeError, NameError, KeyError, NotImplementedError, OutputError)  # wrong at any size
ABOUT_SIZE = re.compile(r"size|shape|divi|multiple|height|width|pad|window|view|patch|grid|pixels|small|large", re.I)


class SizeError(ValueError):
    """No size that was tried suits the model."""


class CallError(ValueError):
    """The model does not run, and its size is not why."""


class Attempts:
    """Sizes that were tried, and what the model said to each.

    Args:
        run: runs the model on a black image of a size; returns the cells of each latent.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._grids: dict[Size, Grids] = {}
        self.errors: dict[Size, Exception] = {}

    def suits(self, size: Size) -> Grids:
        """Run the model at a size, once; return its grids, none where it does not take the size.

        Raises:
            CallError: it says the same to several sizes, and nothing about size.
            What the model raises, where that is wrong at any size.
        """
        if size in self._grids or size in self.errors:
            return self._grids.get(size, {})
        try:
            self._grids[size] = self._run(size)
        except (TimeoutError, *CALLS):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.errors[size] = error
            if self._alike():
                text = f"model does not run, whatever the size: {self._last()}"
                raise CallError(text) from error
        return self._grids.get(size, {})

    def _alike(self) -> bool:
        """Return whether the model has said the same to several sizes, and nothing about size."""
        said = {(type(error), str(error)) for error in self.errors.values()}
        kind, text = next(iter(said))
        other = issubclass(kind, IndexError) or not ABOUT_SIZE.search(text)
        return len(said) == 1 and other and len(self.errors) >= (ALIKE if text else SILENT)

    def refuse(self, what: str) -> SizeError:
        """Return the error that none of the sizes suits."""
        error = SizeError(f"{what}: {self._last()}; where you know what sizes it takes, give multiple=, in pixels")
        error.__cause__ = next(reversed(self.errors.values()))
        return error

    def _last(self) -> str:
        sizes = ", ".join(f"{rows} x {columns}" for rows, columns in self.errors)
        error = next(reversed(self.errors.values()))
        text = str(error)
        if not text and error.__traceback__ is not None:  # a bare assertion
            frame = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{frame.line} (line {frame.lineno} of {frame.filename})"
        return f"tried {sizes} pixels, and the last trouble was {type(error).__name__}: {text}"


def check_arguments(model: Callable[..., Any], forward_kwargs: Mapping[str, Any]) -> None:
    """Check that a model takes images and these arguments, as far as its signature tells.

    Raises:
        TypeError: it wants others; says how they are given.
    """
    forward: Callable[..., Any] = model.forward if isinstance(model, nn.Module) else model
    try:
        inspect.signature(forward).bind(None, **forward_kwargs)
    except ValueError:  # it has none
        return
    except TypeError as error:
        kind = type(model).__name__
        raise TypeError(
            f"{kind} wants other arguments than the images and {', '.join(forward_kwargs) or 'no others'} ({error}); "
            "give them with the call, mapper(x, name=...), on the command line --forward NAME=VALUE; or say how the "
            "model is run, call=lambda model, x: ..."
        ) from error


def find_strides(attempts: Attempts, channels: int, multiple: Size | None) -> tuple[dict[str, Size], Size]:
    """Find the pixels per cell of each latent from the first black image that suits the model.

    An image of one cell would not tell a stride from rounding up, hence at least two.

    Args:
        attempts: run the model.
        channels: of the images, for the message.
        multiple: of which sizes must be, where that is known.

    Returns:
        The strides, and the size of that image.

    Raises:
        SizeError: none suits.
        CallError, or what the model raises: that is not about size.
    """
    for side in PROBE_SIDES:
        size = (side, side) if multiple is None else (_up(side, multiple[0]), _up(side, multiple[1]))
        grids = attempts.suits(size)
        if not grids:
            continue
        whole = all(s % c == 0 and c >= 2 for grid in grids.values() for s, c in zip(size, grid, strict=True))
        if whole:
            return {name: (size[0] // h, size[1] // w) for name, (h, w) in grids.items()}, size
        shown = ", ".join(f"{name} {h} x {w}" for name, (h, w) in grids.items())
        attempts.errors[size] = ValueError(f"latent grids {shown}; whole strides and 2 cells each way are needed")
    raise attempts.refuse(f"model suits no image of {channels} channels")


def find_factor(attempts: Attempts, size: Size, step: Size) -> tuple[Size, int | None]:
    """Find a padded size at which the model takes an image, and whether it wants multiples.

    Each factor in turn multiplies the strides' multiple. One that serves is the model's, whatever the image, where the
    model also takes one factor more but not one step more. What it says of other images does not count: an image's
    padding must not depend on those before it.

    Args:
        attempts: run the model.
        size: of the image, pixels.
        step: the strides' least common multiples.

    Returns:
        The size; and the factor, or None where no more is known than that this size serves.

    Raises:
        SizeError: none will do.
        CallError, or what the model raises: that is not about size.
    """

    def padded(factor: int) -> Size:
        return _up(size[0], factor * step[0]), _up(size[1], factor * step[1])

    serving = []
    for factor in FACTORS:
        rows, columns = padded(factor)
        if not attempts.suits((rows, columns)):
            continue
        if attempts.suits((rows + step[0], columns + step[1])):
            return (rows, columns), None  # it was too small
        if attempts.suits((rows + factor * step[0], columns + factor * step[1])):
            return (rows, columns), factor
        serving.append(factor)
    if not serving:
        raise attempts.refuse("model takes no image of this size, however it is padded")
    return padded(serving[0]), None


def _up(length: int, step: int) -> int:
    return -(-length // step) * step


def of_the_model(error: Exception) -> Exception:
    """Return an error that a model raises; raise it where time or memory ran out."""
    if isinstance(error, TimeoutError) or is_out_of_memory(error):
        raise error
    return error


def first_channels(model: Callable[..., Any]) -> int | None:
    """Return the channels that a model's first convolution takes, most often its images'; None where they are many.

    Then it may be the decoder's, which takes a latent.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return next((one.in_channels for one in modules if isinstance(one, nn.Conv2d) and one.in_channels <= BANDS), None)


def checked_multiple(multiple: Any) -> Size | None:
    """Return a multiple of pixels that was asked for as (vertical, horizontal).

    Raises:
        TypeError, ValueError: it is none.
    """
    if multiple is None:
        return None
    pair = tuple(multiple) if isinstance(multiple, (list, tuple)) else (multiple, multiple)
    if len(pair) != 2:
        raise ValueError(f"multiple must be a whole number or a pair of them, got {multiple!r}")
    for one in pair:
        check_whole_number("multiple", one, 1)
    return pair[0], pair[1]
