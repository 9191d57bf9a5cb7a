"""Where results go: folders that are made, names that are refused."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from .. import choices
from .console import UsageError


def ensure_output_dir(text: str) -> Path:
    """Make the folder that ``--output`` names where it is absent.

    Raises:
        UsageError: nothing can go there.
    """
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--output {text}: the folder cannot be made ({reason})") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--output {text}: no permission to write there")
    return folder


def prepare_folder(arguments: argparse.Namespace) -> None:
    """Set ``arguments.folder``, which then exists."""
    arguments.folder = ensure_output_dir(arguments.output)


def prepare_videos(arguments: argparse.Namespace) -> None:
    """Set ``arguments.targets``, a path for each video or the one of an animation, in folders that then exist.

    Raises:
        UsageError: two results would have one name, or replace an input.
    """
    output, videos = Path(arguments.output), arguments.videos
    if arguments.animate is not None:
        (photograph,) = map(Path, videos)
        if output.suffix.lower() not in (".png", ".apng"):
            output = output / f"{photograph.stem}.bitrate.png"
        ensure_output_dir(str(output.parent))
        if replaced(output, videos):
            raise UsageError(f"{output} would replace the input; choose another name with -o")
        arguments.targets = {videos[0]: output}
        return
    if output.suffix.lower() in choices.CONTAINERS and not output.is_dir():
        if len(videos) > 1:
            raise UsageError(f"--output {output}: one file for {len(videos)} videos; name a folder")
        ensure_output_dir(str(output.parent))
        targets = [output]
    else:
        folder = ensure_output_dir(arguments.output)
        targets = [folder / f"{Path(video).stem}.bitrate.mp4" for video in videos]
    owners: dict[str, str] = {}
    for video, target in zip(videos, targets, strict=True):
        if replaced(target, videos):
            raise UsageError(f"{target} would replace an input; choose another name with -o")
        owner = owners.setdefault(str(target).casefold(), video)
        if owner is not video:
            raise UsageError(f"{video}: its results would be named as those of {owner}; map it into another folder")
    arguments.targets = dict(zip(videos, targets, strict=True))


def replaced(target: Path, inputs: Sequence[str]) -> bool:
    """Return whether a result would take the place of an input."""
    return os.path.realpath(target) in map(os.path.realpath, inputs)


class Names:
    """The names of results in one folder, no two of them equal where case does not count.

    Args:
        folder: for the results.
        images: all of them, which no result may replace.
        endings: of the results of each image.
    """

    def __init__(self, folder: Path, images: Sequence[str], endings: Sequence[str]) -> None:
        self._folder, self._images, self._endings = folder, images, endings
        self._owners: dict[str, str] = {}

    def take(self, image: str) -> list[Path]:
        """Return where the results of an image go.

        Raises:
            ValueError: they would replace those of another one, or an input.
        """
        stem = Path(image).stem
        if not stem:
            raise ValueError(f"{image!r}: not the name of an image file")
        owner = self._owners.get(stem.casefold())
        if owner is not None:
            raise ValueError(
                f"{image}: its results would be named as those of {owner}; map it into another folder with -o"
            )
        self._owners[stem.casefold()] = image
        targets = [self._folder / f"{stem}{ending}" for ending in self._endings]
        for target in targets:
            if replaced(target, self._images):
                raise ValueError(
                    f"{image}: its results would replace the input {target}; choose another folder with -o"
                )
        return targets
