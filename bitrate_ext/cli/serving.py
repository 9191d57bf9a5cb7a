"""What commands with a model share: the device and the model that are asked for, and files served one by one."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..mapping.sequential import is_sequential
from ..memory import is_out_of_memory
from ..models import demo_codec, zoo
from ..optional import folder_of
from .console import UsageError, echo, one_line, tell_failure

Served = TypeVar("Served")


def checked_device(text: str) -> torch.device:
    """Return the device of that name.

    Raises:
        UsageError: PyTorch cannot compute there.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UsageError(f"--device: unknown device {text!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {text}: PyTorch finds no CUDA device here; bitrate-ext doctor says more")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"--device {text}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        return device
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError, ImportError):
        raise UsageError(f"--device {text}: PyTorch cannot compute there on this machine") from None
    return device


def load_model(
    device: torch.device, arguments: argparse.Namespace, *, video: bool = False, forward_only: bool = False
) -> tuple[nn.Module, str]:
    """Load the model that the arguments ask for onto its device, and say what to call it.

    Args:
        device: as ``checked_device`` gives it.
        arguments: of the command.
        video: it may be one of video.
        forward_only: of the demo codec the forward pass is enough, without parts that can be watched.

    Raises:
        UsageError: it cannot be loaded, or is one of video where it may not be.
    """
    if sys.stderr.isatty():  # importing CompressAI takes seconds
        echo("Loading the model ...", sys.stderr)
    try:
        model, name = _loaded_model(arguments, forward_only)
    except (ValueError, OSError, RuntimeError) as error:
        option = "--checkpoint" if arguments.checkpoint is not None else "--model"
        raise UsageError(f"{option}: {one_line(error)}") from error
    except (*zoo.MISFIT, AttributeError) as error:  # another CompressAI
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(f"the compressai in {folder_of('compressai')} cannot build the model ({reason})") from error
    if is_sequential(model) and not video:
        raise UsageError(f"{name} is a video codec; bitrate-ext video takes it")
    try:
        return model.to(device), name
    except RuntimeError as error:
        raise UsageError(f"--device {device}: the model cannot be moved there ({one_line(error)})") from error


def _loaded_model(arguments: argparse.Namespace, forward_only: bool) -> tuple[nn.Module, str]:
    if arguments.checkpoint is not None:
        model = zoo.load_checkpoint(arguments.checkpoint, arguments.model)
        return model, f"{Path(arguments.checkpoint).name} ({arguments.model or type(model).__name__})"
    if arguments.model is not None:
        metric = arguments.metric or "mse"
        quality = "" if arguments.quality is None else f", quality {arguments.quality}"
        return zoo.load_zoo_model(arguments.model, arguments.quality, metric), f"{arguments.model}{quality}, {metric}"
    load = demo_codec.load_demo_forward if forward_only else demo_codec.load_demo_codec
    return load(), "demo codec"


def run_each(
    what: str, names: Iterable[str], serve: Callable[[str], Served]
) -> tuple[list[Served], list[dict[str, str]]]:
    """Serve one file after the other. One that cannot be is told in a line on stderr, and the others are done.

    Args:
        what: the files are, ``"image"`` or ``"video"``.
        names: of the files.
        serve: does one, and gives what is to be said of it.

    Returns:
        What was given, and for each failure the file's name and the reason.
    """
    served, failures = [], []
    for name in names:
        try:
            served.append(serve(name))
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            reason = _reason(error, name)
            if reason is None:
                raise
            failures.append(tell_failure(what, name, reason))
    return served, failures


def _reason(error: Exception, name: str) -> str | None:
    """Say in one line that names the file what is wrong; None of trouble of neither the file nor the machine."""
    if is_out_of_memory(error):
        return f"{name}: not enough memory to map it on this device"
    if isinstance(error, OSError):
        return f"{name}: its results cannot be written ({error.strerror or one_line(error)})"
    return one_line(error) if isinstance(error, ValueError) else None


def with_progress(images: Sequence[str]) -> Iterator[str]:
    """Iterate over images, with a bar where there are several and somebody watches."""
    if len(images) < 2 or not sys.stderr.isatty():
        yield from images
        return
    from tqdm import tqdm

    with tqdm(images, unit="image", file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
        yield from bar


@contextlib.contextmanager
def usage_errors(option: str, purpose: str) -> Iterator[None]:
    """Raise trouble with the model or the arguments, or too little memory for them, as an error for the user."""
    try:
        yield
    except (ValueError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UsageError(f"{option}not enough memory {purpose} on this device") from error
        if not isinstance(error, ValueError):
            raise
        raise UsageError(f"{option}{one_line(error)}") from error
