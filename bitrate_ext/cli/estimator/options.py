"""The arguments of the estimator's commands, and what can be said of them before PyTorch is imported."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from ... import choices
from ...io.files import STDIN, shown, unusable
from ..console import UsageError
from ..model_options import add_device, add_model, check_checkpoint, check_device, check_model, is_own, qualities
from ..outputs import ensure_output_dir, prepare_folder, refusal
from ..regions.options import add_roi
from ..values import add_output

TRAIN_NOTES = """\
FILE gets a small network that foretells how many bits the model spends on each 16 x 16 block of a picture, at the
quality that --quality names; where that is left out, at all published qualities of the model. bitrate-ext estimate and
bitrate_ext.RateEstimator.load read it.
For half of --minutes the model runs on windows of the photographs, for the other half the network learns; measuring
the projection comes before, once a model. Every 8th photograph, at most 16, or those of --held-out are not learnt: on
them it is measured how far the estimator is off, as a part of a photograph's bits, and how the bits of its blocks
correlate with the codec's.
"""
ESTIMATE_NOTES = """\
No codec runs. For each IMAGE, DIR gets
  STEM.estimate.png    the map with a colour bar in bits per pixel
  STEM.estimate.npz    float32 arrays: "map" [H, W], bits per pixel, and "blocks", bits of 16 x 16 blocks of the image
                       as the codec pads it; "metadata" holds the JSON record as text
  STEM.estimate.json   sizes, bits, bits per pixel, regions, and how far the estimator is off on photographs that it
                       was not trained on
Files that exist are kept, and the image is refused, unless --overwrite is given.
"""
Add = Callable[..., argparse.ArgumentParser]


def add_commands(command: Add) -> None:
    """Add ``train-estimator`` and ``estimate``; ``command(name, help, check, ...)`` makes the parser of one."""
    description = "Trains an estimator: a network that foretells a codec's bits from the picture alone."
    about = "make a small network that foretells a codec's bits"
    _add_train(command("train-estimator", about, _check_train, description=description, epilog=TRAIN_NOTES))
    description = "Estimates a codec's bits, their map and the share of regions, without running it."
    about = "bits and maps of photographs by such a network, without the codec"
    _add_estimate(command("estimate", about, _check_estimate, description=description, epilog=ESTIMATE_NOTES))


def _add_train(command: argparse.ArgumentParser) -> None:
    command.set_defaults(inputs=("image", "images"), prepare=_prepare_file, module="estimator.train")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs to learn from")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="such as estimator.safetensors")
    command.add_argument("--overwrite", action="store_true", help="replace it if it exists")
    add_model(command)
    command.add_argument(
        "--held-out", nargs="+", default=[], metavar="IMAGE", help="photographs to measure the errors on, not learnt"
    )
    command.add_argument(
        "--projection",
        choices=(*choices.PROJECTIONS, *choices.MEASURED),
        default=choices.GUIDED,
        help=f"of the maps that are learnt (default {choices.GUIDED}, which takes minutes to measure, once a model)",
    )
    command.add_argument(
        "--minutes", type=_minutes, default=5.0, metavar="M", help="for running the codec and learning (default 5)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn at random (default 0)")


def _check_train(arguments: argparse.Namespace) -> None:
    published = arguments.checkpoint is None and not is_own(arguments.model)
    arguments.levels = qualities(arguments) if published and arguments.quality is None else ()
    if arguments.levels:
        arguments.quality = arguments.levels[0]
    check_model(arguments)
    if STDIN in (*arguments.images, *arguments.held_out):
        raise UsageError(f"{STDIN}: photographs are read more than once; name files")
    for image in arguments.held_out:
        reason = unusable(image, "an image")
        if reason is not None:
            raise UsageError(f"--held-out: {shown(image)}: {reason}")


def _prepare_file(arguments: argparse.Namespace) -> None:
    """Set ``arguments.target``, whose folder then exists."""
    arguments.target = Path(arguments.output)
    if arguments.target.is_dir():
        raise UsageError(f"--output {shown(arguments.target)}: is a folder; name a file such as estimator.safetensors")
    inputs = [*arguments.images, *arguments.held_out, arguments.checkpoint]
    reason = refusal([arguments.target], inputs, arguments.overwrite)
    if reason is not None:
        raise UsageError(reason)
    ensure_output_dir(str(arguments.target.parent))


def _add_estimate(command: argparse.ArgumentParser) -> None:
    command.set_defaults(inputs=("image", "images"), prepare=prepare_folder, module="estimator.estimate")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    add_output(command, "DIR", "folder for the results; made if absent")
    command.add_argument(
        "--estimator",
        dest="checkpoint",
        metavar="FILE",
        help="made by bitrate-ext train-estimator; default: that of the demo codec",
    )
    command.add_argument(
        "--quality",
        type=int,
        metavar="Q",
        help=f"of the estimator's; of the demo codec's {choices.DEMO_QUALITY} if left out",
    )
    add_roi(command, "its bits and its share")
    add_device(command)
    command.add_argument("--json", action="store_true", help="print one JSON document instead of the summary")


def _check_estimate(arguments: argparse.Namespace) -> None:
    check_device(arguments)
    if arguments.checkpoint is not None:
        check_checkpoint(arguments.checkpoint, "--estimator")


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of minutes, got {text!r}")
    return value
