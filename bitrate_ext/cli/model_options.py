"""The options of commands that take a model: which one, on which device, how it is run, and how it is mapped."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from inspect import signature
from typing import Any

from .. import choices
from ..io.files import shown, unusable
from .console import UsageError

OWN_MODEL = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")  # package.module:Class
MAPPER = {  # options of mappers, and their defaults
    "unit": choices.UNITS[0],
    "multiple": None,
    "padding": choices.PADDINGS[0],
    "padding_side": choices.PADDING_SIDES[0],
}


def add_model(command: argparse.ArgumentParser, paddings: Iterable[str] = choices.PADDINGS) -> None:
    """Add which model, on which device, how its images are padded and its output is read, and ``--json``."""
    command.add_argument(
        "--model",
        metavar="NAME",
        help="CompressAI model, such as mbt2018-mean; or your own, package.module:Class or a function that makes it, "
        "from the current folder or what is installed: its code is imported and run; default: the demo codec",
    )
    command.add_argument(
        "--model-args", type=_json_object, metavar="JSON", help="of your own model's maker, such as '{\"N\": 64}'"
    )
    command.add_argument(
        "--quality",
        type=int,
        metavar="Q",
        help=f"of the published weights, from 1 on; of the demo codec 1 to {choices.DEMO_QUALITIES[-1]} "
        f"(default {choices.DEMO_QUALITY})",
    )
    command.add_argument("--metric", choices=choices.METRICS, help="what they were trained for (default mse)")
    command.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="your own weights, of which no code runs; --model then names the architecture",
    )
    command.add_argument(
        "--key", metavar="A.B", help="where the weights are in the checkpoint, if it has several; default: found"
    )
    command.add_argument(
        "--forward",
        action="append",
        type=_named_value,
        metavar="NAME=VALUE",
        help="an argument of the model's forward, such as s=3, the level of a variable-rate model; may be repeated; "
        "VALUE is JSON where it reads as such, else text",
    )
    command.add_argument(
        "--unit",
        choices=choices.UNITS,
        default=MAPPER["unit"],
        help="of what the model returns under likelihoods: probabilities (default), or bits, nats, log2 or log of them",
    )
    command.add_argument(
        "--multiple",
        type=_multiple,
        metavar="N|HxW",
        help="of pixels, to which images are padded; default: what the model's strides need, found by running it",
    )
    command.add_argument(
        "--padding", choices=tuple(paddings), default=MAPPER["padding"], help="what is added to images (default zeros)"
    )
    command.add_argument(
        "--padding-side",
        choices=choices.PADDING_SIDES,
        default=MAPPER["padding_side"],
        help="all around (default centre), or at the right and at the bottom",
    )
    add_device(command)
    command.add_argument("--json", action="store_true", help="print one JSON document instead of the summary")


def add_device(command: argparse.ArgumentParser) -> None:
    """Add on which device."""
    command.add_argument("--device", default="cpu", metavar="D", help="such as cpu or cuda:0 (default cpu)")


def mapper_options(
    arguments: argparse.Namespace, mapper: Callable[..., Any], names: Iterable[str] = tuple(MAPPER)
) -> dict[str, Any]:
    """Return the mapper options that the arguments ask for: those that are not the default, by their keywords.

    Args:
        arguments: of the command.
        mapper: gets them: ``BitrateMapper``, or what else runs the model.
        names: of those that are looked at.

    Raises:
        UsageError: it has no such keyword.
    """
    given = {name: getattr(arguments, name) for name in names}
    asked = {name: value for name, value in given.items() if value != MAPPER[name]}
    for name in asked:
        if name not in signature(mapper).parameters:
            raise UsageError(f"--{name.replace('_', '-')} cannot be served here: {mapper.__name__} has no such option")
    return asked


def forward_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments for the model's ``forward``."""
    return dict(arguments.forward or ())


def is_own(name: str | None) -> bool:
    """Return whether a model's name is that of a user's own."""
    return name is not None and ":" in name


def qualities(arguments: argparse.Namespace) -> tuple[int, ...]:
    """Return the qualities of the published model that the arguments name; none of a model of variable rate."""
    if arguments.model is None:
        return choices.DEMO_QUALITIES
    return choices.PUBLISHED.get(arguments.model, {}).get(arguments.metric or "mse", ())


def demo_quality(arguments: argparse.Namespace) -> int:
    """Return the quality of the demo codec that the arguments ask for."""
    return choices.DEMO_QUALITY if arguments.quality is None else int(arguments.quality)


def check_model(arguments: argparse.Namespace) -> None:
    """Check that the model's options go together, and that there are such weights.

    Raises:
        UsageError: one does not; says which, and what would.
    """
    check_device(arguments)
    check_forward(arguments)
    own = is_own(arguments.model)
    for option in ("quality", "metric"):
        if getattr(arguments, option) is None:
            continue
        if arguments.checkpoint is not None:
            raise UsageError(f"--{option} is for published weights and cannot go with checkpoints")
        if arguments.model is None and option == "metric":
            raise UsageError(f"--metric {arguments.metric} needs --model NAME")
        if own:
            raise UsageError(f"--{option} is for published weights; your own are given with --checkpoint FILE")
    if arguments.key is not None and arguments.checkpoint is None:
        raise UsageError(f"--key {arguments.key} needs --checkpoint FILE")
    if arguments.checkpoint is not None:
        check_checkpoint(arguments.checkpoint)
    if own:
        package = arguments.model.partition(":")[0].partition(".")[0]
        here = package in sys.modules or PathFinder.find_spec(package, [os.getcwd()]) is not None
        if not here and find_spec(package) is None:
            raise UsageError(
                f"--model: there is no module {package!r}, neither in {os.getcwd()} nor among what is installed"
            )
    elif arguments.checkpoint is None and arguments.model is None:
        try:
            choices.check_choice("quality of the demo codec", demo_quality(arguments), choices.DEMO_QUALITIES)
        except ValueError as error:
            raise UsageError(f"--quality: {error}") from None
    elif arguments.checkpoint is None:
        try:
            choices.check_published(arguments.model, arguments.quality, arguments.metric or "mse")
        except ValueError as error:
            raise UsageError(f"--model: {error}; or your own as package.module:Class") from None


def check_forward(arguments: argparse.Namespace) -> None:
    """Check the name of a user's own model, and what is said to its maker and to its ``forward``.

    Raises:
        UsageError: the name is none of Python's, or an argument is there twice.
    """
    if is_own(arguments.model) and not OWN_MODEL.fullmatch(arguments.model):
        raise UsageError(
            f"--model: your own model must be package.module:Class, a module's name with dots, got {arguments.model!r}"
        )
    if arguments.model_args is not None and not is_own(arguments.model):
        raise UsageError("--model-args is for your own model, --model package.module:Class")
    names = [name for name, _ in arguments.forward or ()]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--forward {name}=... is given {names.count(name)} times; one value is used")


def check_checkpoint(path: str, option: str = "--checkpoint") -> None:
    """Check that there is such a file, named by an option.

    Raises:
        UsageError: there is not.
    """
    reason = unusable(path, "a checkpoint")
    if reason == "no such file":
        raise UsageError(f"{option}: there is no checkpoint file {shown(path)}")
    if reason is not None:
        raise UsageError(f"{option}: {shown(path)}: {reason}")


def check_device(arguments: argparse.Namespace) -> None:
    """Check that there is a device of that name; whether PyTorch can compute there, only PyTorch can say.

    Raises:
        UsageError: there is not.
    """
    found = re.fullmatch(r"([a-z_]+)(:\d+)?", arguments.device)
    known = found is not None and (found[1] in choices.DEVICES or entry_points(group="torch.backends"))
    if not known:
        raise UsageError(f"--device: unknown device {arguments.device!r}; use cpu, cuda or cuda:N")


def tiles_asked_for(arguments: argparse.Namespace) -> bool:
    """Return whether the arguments of ``map`` ask for tiles."""
    return any(getattr(arguments, option) is not None for option in ("max_memory", "tile", "format"))


def whole_only(arguments: argparse.Namespace) -> str | None:
    """Return the option of ``map``, if any, that tiles cannot serve."""
    if arguments.projection in (choices.JACOBIAN, choices.GUIDED):
        return f"--projection {arguments.projection}"
    if arguments.bits == choices.CODED:
        return f"--bits {choices.CODED}"
    for option in ("channel", "animate"):
        if getattr(arguments, option) is not None:
            return f"--{option}"
    return "--channels" if arguments.channels else None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object such as '{{\"N\": 64}}', got {text!r}")
    return value


def _named_value(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE such as s=3, got {text!r}")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _multiple(text: str) -> int | tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a number of pixels such as 64, or HxW such as 64x128, got {text!r}")
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
