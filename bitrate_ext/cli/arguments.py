"""The arguments of every command, and what can be said of them before PyTorch is imported.

A command's arguments carry ``check(arguments)``, which raises ``UsageError`` for what does not go together; ``inputs``,
what its input files are, and the argument that has them; ``prepare(arguments)``, which makes folders for results; and
``module``, which runs it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

from .. import choices
from .._version import __version__
from ..io.files import STDIN, shown, unusable
from .comparison.options import add_commands as add_comparison_commands
from .console import UsageError
from .dataset.options import add_command as add_dataset_command
from .estimator.options import add_commands as add_estimator_commands
from .map.options import MAP_NOTES, add_map, check_map
from .model_options import add_device, add_model, check_device, check_model
from .outputs import prepare_folder, prepare_videos
from .page.options import REPORT_NOTES, add_report, check_report
from .values import add_output, at_least, positive

READING = ("size", "pixel_format", "rate", "matrix", "range")  # of ``video``: what ``VideoReader`` is told
CHECK_NOTES = """\
Each IMAGE is coded with the model's own compress(), and the bits of every symbol are counted as the range coder spends
them. For each latent the table has, in bits,
  image      what the map shows
  padding    what belongs to the padding that the model needs
  overhead   final states of the coder, 32 to 64 bits a string
  strings    8 times the bytes of the strings: image + padding + overhead, where the ledger closes
  estimated  what the likelihoods of forward() come to
  gap        image + padding over estimated, less one
--padding all codes each image with every way of padding, and says what each costs, in bytes and in PSNR.
Exit code 1 where the ledger of an image does not close to 1e-6 bit, 2 where an image or the model cannot be read.
"""
CALIBRATE_NOTES = """\
DIR gets MODEL.LATENT.receptive-field.npz, which bitrate_ext.ReceptiveField.load reads, and a picture of the kernel,
MODEL.LATENT.receptive-field.png; with --overwrite also where they exist. Without --no-cache the result is also kept for
the next time, in PyTorch's folder for downloads.

Positions are in pixels, (vertical, horizontal), from the first pixel of the cell's own square, STRIDE x STRIDE large:
  stride           pixels a cell
  reach            first and last pixel that the decoder can touch with one cell, whatever its weights are
  center           middle of the reach
  centroid         mean position of the cell's bits; training may move it off the center
  spread           standard deviation of the position of the cell's bits
  terms            how many products of a vertical and a horizontal kernel are added up
  separable error  share of the bits that their sum puts elsewhere than the kernel as measured
  sampling error   share of the bits that the kernel puts elsewhere than one of endlessly many samples; an estimate
  cells probed     cells that were measured, each counted in every pass
  seconds          what it took; next to nothing where the result was kept from an earlier time
Of a latent that a hyper-synthesis transform reads, as z, the errors and the cells are those of this transform.
"""
VIDEO_NOTES = """\
For each VIDEO there are
  OUT.mp4   picture and map, or one laid over the other; below, the bits of each frame by latent, with a cursor
  OUT.csv   a line for each frame: time, kind, bits, bits in the padding, bits per pixel, bits of each latent
  OUT.json  the same, with sums over the video
and with --page OUT.html, which any browser opens from disk: bits over time, and the map and the numbers of any frame.
OUT is STEM.bitrate in this folder, or what -o names: a file that ends in .mp4, .mov or .mkv, or a folder, where equal
stems are told apart as by bitrate-ext map. Files that exist are kept unless --overwrite is given. A video that is
damaged or cut short is mapped as far as it goes: its files are called OUT.partial.mp4 and so on, the exit code is 1.
Videos are decoded in a process of their own. Sound is left out.
Raw video (.yuv, or what --size is given for) is laid out as --size, --pixel-format and --rate say; what they do not say
is taken from names such as Beauty_1920x1080_120fps_420_10bit.yuv and foreman_cif.yuv, and told. Numbered images are
named by a pattern, frame_%04d.png, or by their folder; of - the results are called stdin.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; it raises ``UsageError``."""
    parser = _Parser("bitrate-ext", description="Where a learned image codec spends its bits.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bitrate-ext {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")

    def command(name: str, about: str, check: Callable[[Any], None], **more: Any) -> argparse.ArgumentParser:
        raw = argparse.RawDescriptionHelpFormatter
        added = commands.add_parser(name, help=about, formatter_class=raw, allow_abbrev=False, **more)
        added.set_defaults(check=check, inputs=None, json=False, prepare=lambda _: None, module=name)
        return added

    description = "Bitrate maps of photographs, as pictures and as numbers."
    add_map(command("map", "maps of photographs", check_map, description=description, epilog=MAP_NOTES))

    add_comparison_commands(command)
    about = "a page of HTML to look into the bits of photographs"
    description = "Pages to look into the bits of photographs, with any browser, without a network."
    add_report(command("report", about, check_report, description=description, epilog=REPORT_NOTES))

    about = "code photographs, and see that map, padding and overhead add up to the file"
    description = "Compares the bits of the map with the strings that the model's own compress() writes."
    _add_check(command("check", about, check_model, description=description, epilog=CHECK_NOTES))

    about = "where a decoder paints with the bits of one latent cell"
    description = "Measures the receptive field of a latent: how a decoder spreads the bits of one cell over pixels."
    _add_calibrate(command("calibrate", about, _check_calibrate, description=description, epilog=CALIBRATE_NOTES))

    description = "Bitrate maps of videos, as videos and as numbers."
    _add_video(command("video", "maps of videos", _check_video, description=description, epilog=VIDEO_NOTES))

    add_dataset_command(command)
    add_estimator_commands(command)
    add_device(command("bench", "a short comparison on this machine", check_device))
    command("doctor", "what is installed, and how to mend what is not", lambda _: None)
    return parser


def _add_check(command: argparse.ArgumentParser) -> None:
    command.set_defaults(inputs=("image", "images"))
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    add_model(command, (*choices.PADDINGS, choices.ALL_PADDINGS))
    command.add_argument(
        "--container", action="store_true", help="count the container of CompressAI's examples/codec.py, too"
    )


def _add_calibrate(command: argparse.ArgumentParser) -> None:
    command.set_defaults(prepare=prepare_folder)
    add_output(command, "DIR", "folder for the results; made if absent")
    add_model(command)
    command.add_argument("--latent", metavar="NAME", help="such as y or z; default: the finest")
    command.add_argument(
        "--images", nargs="+", default=[], metavar="IMAGE", help="to measure on; default: the bundled photograph"
    )
    command.add_argument(
        "--samples",
        type=at_least(choices.FEWEST_SAMPLES),
        default=choices.SAMPLES,
        metavar="N",
        help=f"passes (default {choices.SAMPLES})",
    )
    command.add_argument("--synthesis", metavar="MODULE", help="the decoder's name in the model; default: found")
    command.add_argument(
        "--guide", action="store_true", help="fit the guide of --projection guided, too, and say how much it helps"
    )
    command.add_argument("--no-cache", action="store_true", help="measure in any case, and keep nothing")


def _check_calibrate(arguments: argparse.Namespace) -> None:
    check_model(arguments)
    for image in arguments.images:
        reason = None if image == STDIN else unusable(image, "an image")
        if reason is not None:
            raise UsageError(f"--images: {shown(image)}: {reason}")


def _add_video(command: argparse.ArgumentParser) -> None:
    command.set_defaults(inputs=("video", "videos"), prepare=prepare_videos)
    command.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="videos, folders of images, patterns such as frame_%%04d.png, - for stdin",
    )
    add_output(command, "OUT", "a file, or a folder; made if absent")
    add_model(command)
    command.add_argument("--projection", choices=(*choices.PROJECTIONS, *choices.MEASURED), default="bilinear")
    command.add_argument(
        "--view", choices=choices.VIEWS, default="side", help="picture and map beside each other (default) ..."
    )
    command.add_argument(
        "--scale",
        type=_scale,
        default="clip",
        metavar="clip|frame|VALUE",
        help="of the colours: one for the video, which is then read twice (default), one for each frame, or its upper "
        "end in bits per pixel",
    )
    command.add_argument("--frames", type=at_least(1), metavar="N", help="only the first N")
    command.add_argument("--page", action="store_true", help="also a page of HTML to look into the bits of each frame")
    command.add_argument("--size", type=_size, metavar="WxH", help="of raw video, pixels; default: by its name")
    command.add_argument(
        "--pixel-format",
        type=_pixel_format,
        metavar="NAME",
        help="of raw video, FFmpeg's name, such as yuv420p10le",
    )
    command.add_argument(
        "--rate", type=_rate, metavar="R", help="of raw video and images, frames a second, such as 50 or 30000/1001"
    )
    command.add_argument("--matrix", choices=tuple(choices.MATRICES), help="of the video's colours, whatever it states")
    command.add_argument("--range", choices=tuple(choices.RANGES), help="of the video's samples, whatever it states")
    command.add_argument(
        "--batch", type=at_least(1), default=1, metavar="N", help="frames that an image codec sees at once"
    )
    command.add_argument(
        "--group",
        type=at_least(1),
        metavar="N",
        help=f"of a video codec: frames from a keyframe to the next ({choices.GROUP})",
    )
    command.add_argument(
        "--precision",
        choices=choices.PRECISIONS,
        default="float32",
        help="of the network; likelihoods are float32 in any case, but of coarser latents (default float32)",
    )
    command.add_argument(
        "--compile", action="store_true", help="the network by torch.compile: minutes before, less for each frame"
    )
    command.add_argument(
        "--psnr", action="store_true", help="of each frame; an image codec's decoder has to be run for it"
    )
    command.add_argument(
        "--crf",
        type=at_least(0, choices.LARGEST_CRF),
        default=18,
        metavar="N",
        help=f"of H.264: 0 (large) to {choices.LARGEST_CRF} (default 18)",
    )
    command.add_argument("--preset", choices=choices.PRESETS, default="veryfast", help="of H.264 (default veryfast)")


def _check_video(arguments: argparse.Namespace) -> None:
    if arguments.videos.count(STDIN) > 1:
        raise UsageError(f"{STDIN}: the standard input can be read once")
    check_model(arguments)


def _size(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text, re.ASCII)
    if sides is None:
        raise argparse.ArgumentTypeError(f"expected width and height in pixels such as 1920x1080, got {text!r}")
    return int(sides[1]), int(sides[2])


def _pixel_format(text: str) -> str:
    from ..video.raw import pixel_format_of

    try:
        return pixel_format_of(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate(text: str) -> Fraction:
    try:
        return choices.check_rate(Fraction(text[:40]))
    except (ValueError, ZeroDivisionError):
        least, most = choices.RATES
        raise argparse.ArgumentTypeError(
            f"expected {float(least):g} to {most} frames a second, such as 50, 29.97 or 30000/1001, got {text!r}"
        ) from None


def _scale(text: str) -> str | float:
    if text in choices.SCALES:
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected clip, frame or a positive number of bits per pixel, got {text!r}"
        ) from None
