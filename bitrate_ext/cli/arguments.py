"""The arguments of every command, and what can be said of them before PyTorch is imported.

A command's arguments carry ``check(arguments)``, which raises ``UsageError`` for what does not go together; ``inputs``,
what its input files are, and the argument that has them; ``prepare(arguments)``, which makes folders for results; and
``module``, which runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

from .. import choices
from .._version import __version__
from ..byte_sizes import parse_bytes
from ..io.files import STDIN, shown, unusable
from .console import UsageError
from .estimator.options import add_commands as add_estimator_commands
from .model_options import (
    add_device,
    add_model,
    check_checkpoint,
    check_device,
    check_model,
    is_own,
    qualities,
    tiles_asked_for,
    whole_only,
)
from .outputs import prepare_folder, prepare_videos
from .page.options import REPORT_NOTES, add_report, check_report

READING = ("size", "pixel_format", "rate", "matrix", "range")  # of ``video``: what ``VideoReader`` is told
GROUP = 32  # frames from one keyframe of a video codec to the next
MAP_NOTES = """\
For each IMAGE (PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PBM, PGM, PPM, by plug-ins HEIC and JPEG XL; - is the
standard input) DIR gets
  STEM.bitrate.png   the map with a colour bar in bits per pixel
  STEM.overlay.png   the map laid over the photograph, with a legend below: the brighter, the more bits
  STEM.bitrate.npz   float32 arrays [H, W], bits per pixel: "map", and "maps/y", "maps/z" ... for each latent;
                     "metadata" holds the JSON record as text
  STEM.json          sizes, bits, bits per pixel, bits of each latent, PSNR
and on request STEM.gap.png, STEM.entropy.png, STEM.channels.png and STEM.channel.png; gap, entropy and the one channel
are in the arrays, too.
With --animate there is STEM.animation.png, too, which browsers play: what the codec makes of the image, and the map, at
each quality that the model has, or by each checkpoint that is named, in one scale of colours. The other files are of
--quality or --checkpoint; where neither is given, of the middle one.
Files that exist are kept, and the image is refused, unless --overwrite is given; then they are replaced once all are
written. Where images in different folders have one stem, the folders below the images' common one are made in DIR, too;
where such are in one folder, their results are called after the whole name, NAME.png.json.
Transparent parts of an image are laid on white, colour profiles are not applied; the record's "picture" and "warnings"
tell of it. A JPEG without its end is mapped as far as it goes, with a warning. PSNR is that of the unrounded
reconstruction, cut to [0, 1].
A picture that does not fit into memory goes through the model in tiles, and its maps are written strip by strip.
--max-memory, --tile and --format ask for that way; its pictures are reduced to 4096 pixels a side, its arrays are not.
With --max-memory, files with more pixels than Pillow's limit are read, too. TIFF files, uncompressed or deflated, come
in parts; others are decoded as a whole, with 1 to 36 bytes a pixel.
"""
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
    _add_map(command("map", "maps of photographs", _check_map, description=description, epilog=MAP_NOTES))

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

    add_estimator_commands(command)
    add_device(command("bench", "a short comparison on this machine", check_device))
    command("doctor", "what is installed, and how to mend what is not", lambda _: None)
    return parser


def _add_output(command: argparse.ArgumentParser, name: str, about: str) -> None:
    command.add_argument("-o", "--output", default=".", metavar=name, help=about)
    command.add_argument("--overwrite", action="store_true", help="replace results that exist")


def _add_map(command: argparse.ArgumentParser) -> None:
    command.set_defaults(inputs=("image", "images"), prepare=prepare_folder)
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    _add_output(command, "DIR", "folder for the results; made if absent")
    add_model(command)
    command.add_argument(
        "--projection",
        choices=(*choices.PROJECTIONS, *choices.MEASURED, choices.JACOBIAN),
        default="bilinear",
        help="default bilinear; receptive-field is measured on the model's own decoder, see bitrate-ext calibrate; "
        "guided also follows edges and texture of the reconstruction, as the decoder does; "
        "jacobian follows the bits of each image through the decoder, pixel by pixel",
    )
    command.add_argument(
        "--passes",
        type=_at_least(choices.FEWEST_PASSES),
        metavar="N",
        help=f"of jacobian: more take longer and err less (default {choices.PASSES})",
    )
    command.add_argument(
        "--max-memory", type=_bytes, metavar="SIZE", help="that the process may take, such as 4GiB; cuts into tiles"
    )
    command.add_argument(
        "--tile", type=_at_least(1), metavar="N", help="side of the tiles, pixels; default: as large as fits"
    )
    command.add_argument(
        "--format",
        choices=choices.ARRAYS,
        help="of the numbers: npz, or a tiled BigTIFF of the map alone (default npz)",
    )
    command.add_argument(
        "--bits",
        choices=(choices.ESTIMATED, choices.CODED),
        default=choices.ESTIMATED,
        help="by the model's likelihoods, or as its range coder spends them (default estimated)",
    )
    command.add_argument(
        "--limit",
        type=_positive,
        metavar="VALUE",
        help="upper end of the colours, bits per pixel, the same for all images; default: each image's own",
    )
    command.add_argument("--gap", action="store_true", help="of coded bits: also where they differ from the estimate")
    command.add_argument("--channels", action="store_true", help="also the bits of each channel of each latent")
    command.add_argument(
        "--channel",
        type=_channel,
        metavar="LATENT:K",
        help="also the map of one, such as y:17; max: of the costliest",
    )
    command.add_argument(
        "--animate",
        nargs="*",
        metavar="CHECKPOINT",
        help="also an animation over all qualities of the model, or over these checkpoints",
    )
    command.add_argument(
        "--view", choices=choices.VIEWS, help="of the animation: reconstruction and map beside each other (default) ..."
    )


def _check_map(arguments: argparse.Namespace) -> None:
    if arguments.animate is not None:
        _check_animation(arguments)
    elif arguments.view is not None:
        raise UsageError(f"--view {arguments.view} is of the animation; it needs --animate")
    check_model(arguments)
    if arguments.gap and arguments.bits != choices.CODED:
        raise UsageError(f"--gap needs --bits {choices.CODED}")
    if arguments.bits == choices.CODED and arguments.projection == choices.JACOBIAN:
        raise UsageError(
            f"--projection {choices.JACOBIAN} follows estimated bits and cannot go with --bits {choices.CODED}"
        )
    if arguments.passes is not None and arguments.projection != choices.JACOBIAN:
        raise UsageError(f"--passes {arguments.passes} goes with --projection {choices.JACOBIAN}")
    whole = whole_only(arguments)
    if whole and tiles_asked_for(arguments):
        raise UsageError(f"{whole} is for whole pictures; it has no --max-memory, --tile, --format")


def _check_animation(arguments: argparse.Namespace) -> None:
    """Check what is gone over, and choose what the other results are of."""
    if arguments.animate:
        for checkpoint in arguments.animate:
            check_checkpoint(checkpoint, "--animate")
        if arguments.checkpoint is None:
            arguments.checkpoint = arguments.animate[len(arguments.animate) // 2]
        return
    if arguments.checkpoint is not None or is_own(arguments.model):
        raise UsageError("--animate goes over published qualities; checkpoints follow it: --animate LOW.pth HIGH.pth")
    found = qualities(arguments)
    if not found:
        metric = arguments.metric or "mse"
        raise UsageError(f"--animate: there are no published qualities of {arguments.model!r} for {metric}")
    if arguments.quality is None:
        arguments.quality = found[len(found) // 2]


def _add_check(command: argparse.ArgumentParser) -> None:
    command.set_defaults(inputs=("image", "images"))
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    add_model(command, (*choices.PADDINGS, choices.ALL_PADDINGS))
    command.add_argument(
        "--container", action="store_true", help="count the container of CompressAI's examples/codec.py, too"
    )


def _add_calibrate(command: argparse.ArgumentParser) -> None:
    command.set_defaults(prepare=prepare_folder)
    _add_output(command, "DIR", "folder for the results; made if absent")
    add_model(command)
    command.add_argument("--latent", metavar="NAME", help="such as y or z; default: the finest")
    command.add_argument(
        "--images", nargs="+", default=[], metavar="IMAGE", help="to measure on; default: the bundled photograph"
    )
    command.add_argument(
        "--samples",
        type=_at_least(choices.FEWEST_SAMPLES),
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
    _add_output(command, "OUT", "a file, or a folder; made if absent")
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
    command.add_argument("--frames", type=_at_least(1), metavar="N", help="only the first N")
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
        "--batch", type=_at_least(1), default=1, metavar="N", help="frames that an image codec sees at once"
    )
    command.add_argument(
        "--group",
        type=_at_least(1),
        metavar="N",
        help=f"of a video codec: frames from a keyframe to the next ({GROUP})",
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
        type=_at_least(0, choices.LARGEST_CRF),
        default=18,
        metavar="N",
        help=f"of H.264: 0 (large) to {choices.LARGEST_CRF} (default 18)",
    )
    command.add_argument("--preset", choices=choices.PRESETS, default="veryfast", help="of H.264 (default veryfast)")


def _check_video(arguments: argparse.Namespace) -> None:
    if arguments.videos.count(STDIN) > 1:
        raise UsageError(f"{STDIN}: the standard input can be read once")
    check_model(arguments)


def _at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"

    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


def _channel(text: str) -> tuple[str, int] | tuple[()]:
    """Read LATENT:K; the costliest channel has no name yet."""
    if text == "max":
        return ()
    latent, _, number = text.rpartition(":")
    if not latent or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise argparse.ArgumentTypeError(f"expected LATENT:K such as y:17, or max, got {text!r}")
    return latent, int(number)


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and value > 0:
            return value
    raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")


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
        return _positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected clip, frame or a positive number of bits per pixel, got {text!r}"
        ) from None
