"""What commands with a model share: the device and the model that are asked for, and files served one by one."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..io.files import STDIN, shown, spooled_stdin
from ..mapping.mapper import BitrateMapper
from ..mapping.sequential import is_sequential
from ..memory import is_out_of_memory
from ..models import zoo
from ..models.own import load_named
from ..optional import folder_of
from .console import UsageError, one_line, tell_failure, telling
from .model_options import demo_quality, forward_options, is_own

MOST_IMAGE = 4 << 30  # bytes of the standard input
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
    device: torch.device,
    arguments: argparse.Namespace,
    *,
    video: bool = False,
    forward_only: bool = False,
    coded: bool = False,
    taken: Callable[..., Any] = BitrateMapper.__call__,
) -> tuple[nn.Module, str]:
    """Load the model that the arguments ask for onto its device, and say what to call it.

    Args:
        device: as ``checked_device`` gives it.
        arguments: of the command.
        video: it may be one of video.
        forward_only: of the demo codec the forward pass is enough, without parts that can be watched.
        coded: its ``compress`` gets what ``forward`` gets.
        taken: the call that hands on arguments for ``forward``, and that has arguments of its own.

    Raises:
        UsageError: it cannot be loaded, is one of video where it may not be, or has no such arguments.
    """
    try:
        with telling("Loading the model"):  # importing CompressAI takes seconds
            model, name = _loaded_model(arguments, forward_only)
    except (ValueError, OSError, RuntimeError) as error:
        option = "--checkpoint" if arguments.checkpoint is not None and not is_own(arguments.model) else "--model"
        raise UsageError(f"{option}: {one_line(error)}") from error
    except (*zoo.MISFIT, AttributeError) as error:  # another CompressAI
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(f"the compressai in {folder_of('compressai')} cannot build the model ({reason})") from error
    if is_sequential(model) and not video:
        raise UsageError(f"{name} is a video codec; bitrate-ext video takes it")
    forward = forward_options(arguments)
    _check_forward(model, forward, name, coded, taken)
    if coded:
        zoo.set_level(model, forward.get("s", zoo.FIRST_LEVEL))
    try:
        return model.to(device), name
    except RuntimeError as error:
        raise UsageError(f"--device {device}: the model cannot be moved there ({one_line(error)})") from error


def _loaded_model(arguments: argparse.Namespace, forward_only: bool) -> tuple[nn.Module, str]:
    quality = demo_quality(arguments) if arguments.model is None else arguments.quality
    return load_named(
        arguments.model,
        quality,
        arguments.metric or "mse",
        arguments.checkpoint,
        arguments.key,
        arguments.model_args,
        forward_only=forward_only,
    )


def _check_forward(model: nn.Module, given: dict[str, Any], name: str, coded: bool, taken: Callable[..., Any]) -> None:
    """Check that the model has the arguments that are given for its ``forward``."""
    if not given:
        return
    if is_sequential(model):
        raise UsageError(f"--forward: {name} is a video codec, which is not run by its forward")
    handed = {one.name for one in signature(taken).parameters.values() if one.kind != Parameter.VAR_KEYWORD}
    for method in ("forward", "compress") if coded else ("forward",):
        known = list(signature(getattr(model, method)).parameters.values()) if hasattr(model, method) else []
        names = [one.name for one in known[1:] if one.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
        free = any(one.kind == Parameter.VAR_KEYWORD for one in known)
        for argument in given:
            if argument in handed or (known and argument == known[0].name):
                raise UsageError(f"--forward {argument}=...: this command sets {argument} itself")
            if argument not in names and not free:
                has = f"it has {', '.join(names)}" if names else "it has none but the images"
                raise UsageError(
                    f"--forward {argument}=...: {method} of {type(model).__name__} has no such argument; {has}"
                )


@contextlib.contextmanager
def input_file(name: str) -> Iterator[str]:
    """Yield the name of an image's file; what comes by the standard input is one while the block runs."""
    with spooled_stdin("an image", MOST_IMAGE) if name == STDIN else contextlib.nullcontext(name) as path:
        yield path


def run_each(
    what: str, names: Iterable[str], serve: Callable[[str], Served], models: Iterable[nn.Module], doing: str = "Mapping"
) -> tuple[list[Served], list[dict[str, str]]]:
    """Serve one file after the other. One that cannot be is told in a line on stderr, and the others are done.

    Args:
        what: the files are, ``"image"`` or ``"video"``.
        names: of the files.
        serve: does one, and gives what is to be said of it.
        models: that do it; what goes wrong in their own code is told like what is wrong with a file.
        doing: what is said where it takes long; empty where a bar shows it.

    Returns:
        What was given, and for each failure the file's name and the reason.
    """
    served, failures = [], []
    for name in names:
        try:
            with telling(f"{doing} {shown(name)}") if doing else contextlib.nullcontext():
                served.append(serve(name))
        except Exception as error:
            reason = _reason(error, name, models)
            if reason is None:
                raise
            failures.append(tell_failure(what, name, reason))
    return served, failures


def _reason(error: Exception, name: str, models: Iterable[nn.Module]) -> str | None:
    """Say in one line that names the file what is wrong; None of trouble of neither file, machine nor model."""
    if is_out_of_memory(error):
        return f"{shown(name)}: not enough memory to map it on this device"
    for trouble in filter(None, (_trouble_of(model, error) for model in models)):
        return f"{shown(name)}: {trouble}"
    if isinstance(error, OSError):
        return f"{shown(name)}: its results cannot be written ({error.strerror or one_line(error)})"
    return one_line(error) if _is_told(error) else None


def _is_told(error: Exception) -> bool:
    """Return whether an error is for the user: of types that an operator mistakes, only those raised on purpose."""
    if isinstance(error, TypeError):
        places = traceback.extract_tb(error.__traceback__)
        return bool(places) and (places[-1].line or "").startswith("raise ")
    return isinstance(error, ValueError)


def _trouble_of(model: nn.Module, error: Exception) -> str | None:
    """Say what was raised in a model's own code, and where; None of what was raised elsewhere."""
    methods = [getattr(getattr(type(model), name, None), "__code__", None) for name in ("forward", "compress")]
    frames = list(traceback.walk_tb(error.__traceback__))
    if not any(frame.f_code in methods for frame, _ in frames):
        return None
    places = [place for place in traceback.extract_tb(error.__traceback__) if "torch" not in Path(place.filename).parts]
    where = f"{Path(places[-1].filename).name}, line {places[-1].lineno}"
    return f"the model raised {type(error).__name__}: {one_line(error)} ({where})"


def with_progress(images: Sequence[str]) -> Iterator[str]:
    """Iterate over images, with a bar where there are several and somebody watches."""
    if len(images) < 2 or not sys.stderr.isatty():
        yield from images
        return
    from tqdm import tqdm

    with tqdm(images, unit="image", file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
        yield from bar


@contextlib.contextmanager
def usage_errors(option: str, purpose: str, model: nn.Module) -> Iterator[None]:
    """Raise trouble with the model or the arguments, or too little memory for them, as an error for the user."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise UsageError(f"{option}not enough memory {purpose} on this device") from error
        trouble = _trouble_of(model, error) or (one_line(error) if _is_told(error) else None)
        if trouble is None:
            raise
        raise UsageError(f"{option}{trouble}") from error
