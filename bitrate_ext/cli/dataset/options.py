"""The arguments of ``bitrate-ext dataset``, and what can be said of them before PyTorch is imported."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable

from ... import choices
from ...io.files import STDIN, shown
from ...optional import require
from ..console import UsageError
from ..model_options import add_model, check_model
from ..regions.options import region_names
from ..values import at_least, positive
from .track import tracked

SUMMARY = "summary"  # in the place of inputs
VIEWS = {"sheet": ".png", "mean_map": ".png", "table": ".html"}  # files that it writes on request, and their endings
NOTES = """\
An INPUT is a picture, a video, a folder with all that is in it, a pattern such as 'photos/**/*.png', or a tar shard
(.tar) of pictures and videos. DIR gets
  part-00017-of-00064.parquet  a row for each picture or video: id, path, hash of its bytes, size, frames, bits, bits of
                               each latent and in the padding, bits per pixel, PSNR, status ok or error, and the error
  work-00017-of-00064.parquet  what depends on the day: seconds, and by what a changed file is known
  rows.csv, _SUCCESS           all rows as text, and the counts, once every part is there
  manifest.json                the settings; a run with others is refused
  cells/, png/, page/          on request (--write): ID.npz, which PictureBits.load reads; ID.map.png and
                               ID.overlay.png, as bitrate-ext map draws; ID.html, as bitrate-ext report writes
  frames/                      on request (--write): ID.parquet of each video, with a row for each frame
The same command goes on where it ended, however it did: a part that is there is not done again unless its files have
changed, and of one that is not whole the rows that are done are kept in part-*.journal. A picture that cannot be read,
that takes longer than --time-limit or that ends its process, alone too, is a row with its error; the others are done.
Several commands may work on one DIR, here or, with --shard, on other machines. Interrupted, it stops within seconds.
Exit code 1 where some rows are errors.
A video is a row, too: the frames go through the model one by one, as pictures, or as a codec of video codes them, and
their bits are added up.
bitrate-ext dataset summary DIR [DIR] tells of what is done: totals, percentiles, by folder and region, worst, best and
odd pictures, and the BD-rate of several runs against several others (--against), with its interval.
"""


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    description = "Measures every picture of a data set exactly once, as rows in Parquet."
    added = command("dataset", "bits of many pictures, as a table", _check, description=description, epilog=NOTES)
    added.set_defaults(module="dataset.work", prepare=_prepare)
    added.add_argument("sources", nargs="*", metavar="INPUT", help="pictures, videos, folders, patterns, tar shards")
    added.add_argument("-o", "--output", metavar="DIR", help="folder for the results; made if absent")
    added.add_argument(
        "--from-file", action="append", default=[], metavar="LIST", help=f"names, one a line; {STDIN}: standard input"
    )
    add_model(added)
    added.add_argument(
        "--bits",
        choices=(choices.ESTIMATED, choices.CODED),
        default=choices.ESTIMATED,
        help="by the model's likelihoods, or as its range coder spends them (default estimated)",
    )
    added.add_argument(
        "--write",
        type=_kinds,
        default=(),
        metavar="KINDS",
        help="rows, and beside them cells, png, page; of videos frames (default rows)",
    )
    added.add_argument(
        "--mask",
        metavar="DIR",
        help="a folder with label maps, for the bits of regions: of photos/a/1.jpg DIR/photos/a/1.png, DIR/a/1.png or "
        "DIR/1.png; pictures without one have no regions",
    )
    added.add_argument("--names", type=region_names, metavar="LABEL=NAME,...", help="of the labels of --mask")
    added.add_argument("--ms-ssim", action="store_true", help="measure it, too, which takes a third of the time again")
    added.add_argument(
        "--top-channels", type=at_least(0), default=0, metavar="K", help="bits of the K costliest channels (default 0)"
    )
    added.add_argument(
        "--group",
        type=at_least(1),
        metavar="N",
        help=f"of a video codec: frames from a keyframe to the next (default {choices.GROUP})",
    )
    added.add_argument(
        "--threads",
        type=at_least(1),
        default=1,
        metavar="N",
        help="of a worker, for the network, whose bits change in their sixth digit with it (default 1)",
    )
    added.add_argument(
        "--jobs", type=at_least(0), metavar="N", help="worker processes (default: one a processor; 1 a GPU)"
    )
    added.add_argument("--batch", type=at_least(1), default=1, metavar="N", help="pictures of one size at a time")
    added.add_argument(
        "--part-items", type=at_least(1), metavar="N", help="pictures in a part (default a 64th of all, 1024 at most)"
    )
    added.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="only every N-th part, from the I-th"
    )
    added.add_argument("--no-resume", dest="resume", action="store_false", help="refuse a DIR that holds a run already")
    added.add_argument("--limit-errors", type=at_least(0), metavar="N", help="stop after more errors than these")
    added.add_argument(
        "--time-limit", type=positive, default=300.0, metavar="S", help="seconds for a picture (default 300)"
    )
    added.add_argument("--engine", choices=("processes", "ray"), default="processes", help="who runs the workers")
    added.add_argument("--address", metavar="A", help="of a Ray cluster, or auto; default: Ray on this machine")
    added.add_argument("--gpus", type=positive, default=0.0, metavar="N", help="of each of Ray's workers, such as 0.5")
    added.add_argument(
        "--readers",
        type=at_least(0),
        default=0,
        metavar="N",
        help="pictures that Ray's tasks decode for each worker at a time (default 0: it decodes by itself)",
    )
    added.add_argument("--log", choices=("text", "jsonl"), default="text", help="how progress is told, on stderr")
    added.add_argument(
        "--fallback",
        choices=("cpu",),
        help="measure there what the GPU fails over, and all where it is lost; rows say so",
    )
    added.add_argument(
        "--track",
        type=tracked,
        action="append",
        default=[],
        metavar="KIND:WHERE",
        help="also tell progress to tensorboard:DIR, wandb:PROJECT or aim:REPOSITORY; may be given several times",
    )
    group = added.add_argument_group("of summary")
    group.add_argument("--top", type=at_least(1), default=5, metavar="N", help="worst and best pictures (default 5)")
    group.add_argument(
        "--sheet", metavar="PNG", help="a contact sheet of them; with their maps where --write had cells"
    )
    group.add_argument("--mean-map", metavar="PNG", help="the mean of all maps, of a run whose --write had cells")
    group.add_argument("--table", metavar="HTML", help="a page with all rows, which links to those of --write page")
    group.add_argument("--overwrite", action="store_true", help="replace these files where they exist")
    group.add_argument("--against", nargs="+", default=[], metavar="DIR", help="runs that BD-rates are relative to")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.sources[:1] == [SUMMARY]:
        arguments.module = "dataset.summarise"
        arguments.prepare = lambda _: None
        if len(arguments.sources) < 2:
            raise UsageError("dataset summary: name the folder of a run")
        _check_views(arguments)
        return
    if not arguments.sources and not arguments.from_file:
        raise UsageError("dataset: name pictures, folders, patterns or tar shards, or a list of them with --from-file")
    if arguments.output is None:
        raise UsageError("dataset: name a folder for the results with -o DIR")
    for option in ("against", *VIEWS, "overwrite"):
        if getattr(arguments, option):
            raise UsageError(f"--{option.replace('_', '-')} is for bitrate-ext dataset summary")
    if arguments.names and arguments.mask is None:
        raise UsageError("--names is of regions; it needs --mask DIR")
    for option in ("address", "gpus", "readers"):
        if getattr(arguments, option) and arguments.engine != "ray":
            raise UsageError(f"--{option} is for --engine ray")
    if arguments.fallback == arguments.device:
        raise UsageError("--fallback cpu is for a --device other than cpu")
    check_model(arguments)


def _check_views(arguments: argparse.Namespace) -> None:
    """Check the files of a summary: of one run, with their endings, each another one, none that exists."""
    asked = {one: getattr(arguments, one) for one in VIEWS if getattr(arguments, one) is not None}
    for name, file in asked.items():
        option = f"--{name.replace('_', '-')}"
        if len(arguments.sources) > 2:
            raise UsageError(f"{option} is of one run, and {len(arguments.sources) - 1} are named")
        if not file.lower().endswith(VIEWS[name]):
            raise UsageError(f"{option}: expected a name that ends in {VIEWS[name]}, got {file!r}")
        if os.path.lexists(file) and not arguments.overwrite:
            raise UsageError(f"{option} {shown(file)} exists; choose another name, or replace it with --overwrite")
        if not os.path.isdir(os.path.dirname(file) or "."):
            raise UsageError(f"{option} {shown(file)}: there is no folder {shown(os.path.dirname(file))}")
    if len({os.path.realpath(file) for file in asked.values()}) < len(asked):
        raise UsageError("--sheet and --mean-map name one file; give each its own")


def _prepare(arguments: argparse.Namespace) -> None:
    """Set ``arguments.listing``, which holds something."""
    from ...dataset.items import VIDEOS, DatasetError, find_items

    try:
        arguments.listing = find_items(arguments.sources, arguments.from_file, arguments.mask)
    except DatasetError as error:
        raise UsageError(str(error)) from None
    members = arguments.listing.members
    if not any(name in members or os.path.lexists(name) for name in arguments.listing.names):
        first = shown(arguments.listing.names[0])
        raise UsageError(f"--from-file: none of its {len(arguments.listing.names):,} names exists, such as {first}")
    if any(name.lower().endswith(VIDEOS) for name in arguments.listing.names):
        try:
            require("av")
        except ImportError as error:
            raise UsageError(f"videos among the inputs: {error}") from None
    arguments.sources, arguments.from_file = [], []  # which workers need not get


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected I/N such as 1/8, I from 1 to N, got {text!r}")
    return int(found[1]), int(found[2])


def _kinds(text: str) -> tuple[str, ...]:
    known = ("rows", *choices.DATASET_FILES)
    found = text.split(",")
    if not set(found) <= set(known):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, with commas between, got {text!r}")
    return tuple(kind for kind in choices.DATASET_FILES if kind in found)
