"""The model and the device that a command's arguments ask for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .console import UsageError, echo, one_line


def add_model_arguments(command: argparse.ArgumentParser) -> None:
    """Which model, on which device, and ``--json``."""
    command.add_argument(
        "--model", metavar="NAME", help="CompressAI model, such as mbt2018-mean; default: the demo codec"
    )
    command.add_argument("--quality", type=int, metavar="Q", help="quality of the published weights, from 1 on")
    command.add_argument("--metric", choices=("mse", "ms-ssim"), help="what they were trained for (default mse)")
    command.add_argument("--checkpoint", metavar="FILE", help="your own weights; --model then names the architecture")
    command.add_argument("--device", default="cpu", metavar="D", help="such as cpu or cuda:0 (default cpu)")
    command.add_argument("--json", action="store_true", help="print one JSON document instead of the summary")


def check_model_arguments(arguments: argparse.Namespace) -> None:
    """Raises ``UsageError`` for those that do not go together."""
    for option in ("quality", "metric"):
        if getattr(arguments, option) is None:
            continue
        if arguments.checkpoint is not None:
            raise UsageError(f"--{option} is for published weights and cannot go with --checkpoint")
        if arguments.model is None:
            raise UsageError(f"--{option} {getattr(arguments, option)} needs --model NAME")


def checked_device(text: str) -> torch.device:
    """The device of that name; raises ``UsageError`` where PyTorch cannot compute there."""
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


def load_model(device: torch.device, arguments: argparse.Namespace, video: bool = False) -> tuple[torch.nn.Module, str]:
    """The model that the arguments ask for, on its device, and what to call it; one of video only where it may be."""
    from ..mapping.frames import is_sequential

    if sys.stderr.isatty():  # importing CompressAI takes many seconds
        echo("Loading the model ...", sys.stderr)
    model, name = _loaded_model(arguments)
    if is_sequential(model) and not video:
        raise UsageError(f"{name} is a video codec; bitrate-ext video takes it")
    try:
        return model.to(device), name
    except RuntimeError as error:
        raise UsageError(f"--device {device}: the model cannot be moved there ({one_line(error)})") from error


def _loaded_model(arguments: argparse.Namespace) -> tuple[torch.nn.Module, str]:
    from ..models import demo_codec, zoo

    try:
        if arguments.checkpoint is not None:
            model = zoo.load_checkpoint(arguments.checkpoint, arguments.model)
            return model, f"{Path(arguments.checkpoint).name} ({arguments.model or type(model).__name__})"
        if arguments.model is not None:
            metric = arguments.metric or "mse"
            model = zoo.load_zoo_model(arguments.model, arguments.quality, metric)
            quality = "" if arguments.quality is None else f", quality {arguments.quality}"
            return model, f"{arguments.model}{quality}, {metric}"
        return demo_codec.load_demo_codec(), "demo codec"
    except (ValueError, OSError, RuntimeError) as error:
        option = "--checkpoint" if arguments.checkpoint is not None else "--model"
        raise UsageError(f"{option}: {one_line(error)}") from error
