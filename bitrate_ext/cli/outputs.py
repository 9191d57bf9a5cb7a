"""Where results go: folders that are made, names that tell inputs apart, files that are not replaced unasked."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import choices
from ..io.files import STDIN, STDIN_NAME, shown
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
        raise UsageError(f"--output {shown(text)}: the folder cannot be made ({reason})") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--output {shown(text)}: no permission to write there")
    return folder


def prepare_folder(arguments: argparse.Namespace) -> None:
    """Set ``arguments.folder``, which then exists."""
    arguments.folder = ensure_output_dir(arguments.output)


def prepare_videos(arguments: argparse.Namespace) -> None:
    """Set ``arguments.names``, for the results of each video; makes the folder.

    Raises:
        UsageError: one file for several videos.
    """
    output, videos = Path(arguments.output), arguments.videos
    is_file = output.suffix.lower() in choices.CONTAINERS and not os.path.isdir(output)
    if is_file and len(videos) > 1:
        raise UsageError(f"--output {shown(output)}: one file for {len(videos)} videos; name a folder")
    ensure_output_dir(str(output.parent if is_file else output))
    middle, kind, base = ("", output.suffix, output.with_suffix("")) if is_file else (".bitrate", ".mp4", None)
    ends = (kind, ".csv", ".json", *([".html"] if arguments.page else []))
    endings = [f"{middle}{part}{end}" for part in ("", choices.PARTIAL) for end in ends]
    arguments.names = Names(arguments, videos, endings, base)


def stem_of(name: str) -> str:
    """Return what results of an input are called after; of a pattern of names, what is left without the number."""
    if name == STDIN:
        return STDIN_NAME
    path = Path(os.path.abspath(name))
    if os.path.isdir(path):  # not the method, which fails at names that are too long
        return path.name
    pattern = "%" in path.name and not os.path.lexists(path)
    return (re.sub(r"[ ._-]*%0?\d*d", "", path.stem) or path.parent.name) if pattern else path.stem


def refusal(targets: Sequence[Path], inputs: Sequence[str | None], overwrite: bool) -> str | None:
    """Say why results cannot have these names: they would replace an input, or a file without ``--overwrite``."""
    taken = {os.path.realpath(one) for one in inputs if one is not None}
    for target in targets:
        if os.path.realpath(target) in taken:
            return f"{shown(target)} would replace an input; choose another name or folder with -o"
        if os.path.lexists(target) and not overwrite:
            return f"{shown(target)} exists; choose another name or folder with -o, or replace it with --overwrite"
    return None


def file_name(name: str) -> str:
    """Return the last part of an input's name, which its results are called after."""
    return STDIN_NAME if name == STDIN else Path(name).name


class Names:
    """The names of results: the folder of ``--output``, the input's stem, and what each kind of result ends in.

    Where inputs in different folders have one stem, the folders below the inputs' common one are made in it, too.
    Inputs in one folder that have one stem keep their own endings. Case does not count.

    Args:
        arguments: of the command: ``output``, ``overwrite``, files of models and a mask, which no result may replace.
        inputs: all of them.
        endings: of the results of each.
        base: of the only input's results, in the place of folder and stem.
    """

    def __init__(
        self, arguments: argparse.Namespace, inputs: Sequence[str], endings: Sequence[str], base: Path | None = None
    ) -> None:
        self._folder, self._endings = Path(arguments.output), endings
        read = [getattr(arguments, name, None) for name in ("checkpoint", "mask")]
        read += getattr(arguments, "animate", None) or ()
        read += getattr(arguments, "codec_files", ())
        self._protected, self._overwrite = [*inputs, *read], arguments.overwrite
        self._bases = {one: base or path for one, path in self._places(inputs).items()}
        self._written: dict[str, str] = {}  # by this command

    def _places(self, inputs: Sequence[str]) -> dict[str, Path]:
        parents = {one: Path(os.path.abspath(one)).parent for one in inputs}
        found = {one: self._folder / stem_of(one) for one in inputs}
        owners = {(str(path).casefold(), parents[one]) for one, path in found.items()}
        if len({path for path, _ in owners}) < len(owners):
            common = os.path.commonpath(list(parents.values()))
            found = {one: self._folder / os.path.relpath(parents[one], common) / stem_of(one) for one in inputs}
        count = Counter(str(path).casefold() for path in found.values())
        return {
            one: path if count[str(path).casefold()] == 1 else path.with_name(file_name(one) or stem_of(one))
            for one, path in found.items()
        }

    @contextlib.contextmanager
    def take(self, name: str) -> Iterator[list[Path]]:
        """Yield where the results of an input go; they are its own once the block has ended well.

        Raises:
            ValueError: they would replace an input, those of another one, or, without ``--overwrite``, a file.
        """
        if not name or not stem_of(name):
            raise ValueError(f"{name!r}: not the name of an input file")
        base = self._bases[name]
        targets = [Path(f"{base}{ending}") for ending in self._endings]
        owner = self._written.get(str(base).casefold())
        reason = refusal(targets, self._protected, self._overwrite)
        if owner is not None:
            reason = f"its results would replace those of {shown(owner)}; map it by itself, into another folder with -o"
        if reason is not None:
            raise ValueError(f"{shown(name)}: {reason}")
        made = [folder for folder in (base.parent, *base.parent.parents) if not folder.exists()]
        base.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield targets
        except BaseException:
            for folder in made:
                with contextlib.suppress(OSError):  # it holds something
                    folder.rmdir()
            raise
        self._written[str(base).casefold()] = name
