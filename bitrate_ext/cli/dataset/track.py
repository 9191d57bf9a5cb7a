"""Progress of a data set for TensorBoard, Weights & Biases and Aim, behind one small interface."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Protocol

from ...optional import require


class Tracker(Protocol):
    """Somewhere to write numbers by name as a run goes on."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers; ``step`` is how many pictures are done."""

    def close(self) -> None:
        """Have all that was written on the disk."""


class TensorBoard:
    """Files of events in a folder."""

    def __init__(self, folder: str) -> None:
        require("tensorboard")
        self._writer = require("torch.utils.tensorboard").SummaryWriter(folder)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of a project; ``WANDB_MODE=offline`` keeps it in the folder ``wandb``."""

    def __init__(self, project: str) -> None:
        self._run = require("wandb").init(project=project, job_type="bitrate-ext dataset")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class Aim:
    """A run in Aim's repository, in a folder or on a server."""

    def __init__(self, repository: str) -> None:
        self._run = require("aim").Run(repo=repository, experiment="bitrate-ext dataset")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._run.track(value, name=name, step=step)

    def close(self) -> None:
        self._run.close()


TRACKERS: dict[str, Callable[[str], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "aim": Aim}


def tracked(text: str) -> tuple[str, str]:
    """Read ``KIND:WHERE`` of the command line."""
    kind, _, where = text.partition(":")
    if kind not in TRACKERS or not where:
        raise argparse.ArgumentTypeError(f"expected {', '.join(TRACKERS)} and where, as tensorboard:DIR, got {text!r}")
    return kind, where


def open_trackers(asked: list[tuple[str, str]]) -> list[Tracker]:
    """Open what ``--track`` names.

    Raises:
        ImportError: what it needs is not installed; says what to install.
    """
    return [TRACKERS[kind](where) for kind, where in asked]
