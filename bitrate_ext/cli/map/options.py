"""The arguments of ``bitrate-ext map``, and what does not go together."""

from __future__ import annotations

import argparse

from ... import choices
from ..console import UsageError
from ..model_options import add_model, check_checkpoint, check_model, is_own, qualities
from ..outputs import prepare_folder
from ..regions.options import add_regions, asked_for, check_regions
from ..values import add_output, add_passes, at_least, byte_count, check_jacobian, inches, positive

MAP_NOTES = """\
For each IMAGE (PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PBM, PGM, PPM, by plug-ins HEIC and JPEG XL; - is the
standard input) DIR gets
  STEM.bitrate.png   the map with a colour bar in bits per pixel
  STEM.overlay.png   the map laid over the photograph, with a legend below: the brighter, the more bits
  STEM.bitrate.npz   the bits of each cell, exactly, which bitrate_ext.PictureBits.load reads: "cells/y", "cells/z" ...;
                     "metadata" holds the JSON record as text. With --pixels also float32 arrays [H, W], bits per pixel:
                     "map", and "maps/y", "maps/z" ... for each latent
  STEM.json          sizes, bits, bits per pixel, bits of each latent, PSNR
and on request STEM.gap.png, STEM.entropy.png, STEM.channels.png and STEM.channel.png; with --pixels gap, entropy and
the one channel are in the arrays, too.
With --roi or --mask a table is printed, STEM.regions.csv has it, of several images regions.csv that of all together:
  bits        that lie on the region's pixels, and their share of the picture's, as that of its pixels
  ratio       share of the bits over share of the pixels
  moved       bits that the projection moved into it, over its border; negative out of it
  rest        the pixels of no region
With --animate there is STEM.animation.png, too, which browsers play: what the codec makes of the image, and the map, at
each quality that the model has, or by each checkpoint that is named, in one scale of colours. The other files are of
--quality or --checkpoint; where neither is given, of the middle one.
With --format pdf, svg or png there is STEM.figure.pdf ..., the picture beside the map in the width of a column, with
text as text; with --animate also STEM.grid.pdf ..., the picture and its maps at all qualities. --errors gives
STEM.errors.png, or of these kinds: squared error, SSIM, and for each cell its bits against the decibels that they gain.
Files that exist are kept, and the image is refused, unless --overwrite is given; then they are replaced once all are
written. Where images in different folders have one stem, the folders below the images' common one are made in DIR, too;
where such are in one folder, their results are called after the whole name, NAME.png.json.
Transparent parts of an image are laid on white, colour profiles are not applied; the record's "picture" and "warnings"
tell of it. A JPEG without its end is mapped as far as it goes, with a warning. PSNR is that of the unrounded
reconstruction, cut to [0, 1].
A picture that does not fit into memory goes through the model in tiles, and its maps are written strip by strip.
--max-memory, --tile and --format npz or tiff ask for that way; its pictures are reduced to 4096 pixels a side, its
arrays are not. With --max-memory, files with more pixels than Pillow's limit are read, too. TIFF files, uncompressed or
deflated, come in parts; others are decoded as a whole, with 1 to 36 bytes a pixel.
"""


def add_map(command: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    command.set_defaults(inputs=("image", "images"), prepare=prepare_folder, module="map.work")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    add_output(command, "DIR", "folder for the results; made if absent")
    add_model(command)
    command.add_argument(
        "--projection",
        choices=(*choices.PROJECTIONS, *choices.MEASURED, choices.JACOBIAN),
        default="bilinear",
        help="default bilinear; receptive-field is measured on the model's own decoder, see bitrate-ext calibrate; "
        "guided also follows edges and texture of the reconstruction, as the decoder does; "
        "jacobian follows the bits of each image through the decoder, pixel by pixel",
    )
    add_passes(command)
    command.add_argument(
        "--max-memory", type=byte_count, metavar="SIZE", help="that the process may take, such as 4GiB; cuts into tiles"
    )
    command.add_argument(
        "--tile", type=at_least(1), metavar="N", help="side of the tiles, pixels; default: as large as fits"
    )
    command.add_argument(
        "--format",
        type=_formats,
        default=(),
        metavar="FORMAT,...",
        help="figures for print: some of png, pdf, svg; of the numbers: npz, or tiff, a tiled BigTIFF of the map alone "
        "(default npz)",
    )
    command.add_argument(
        "--width",
        type=inches,
        metavar="INCHES",
        help="of figures for print: inches, column (3.4, the default) or page (7, that of errors and of "
        "the animation's grid)",
    )
    command.add_argument("--pixels", action="store_true", help="of the npz: also the maps, 4 bytes a pixel each")
    add_regions(command)
    command.add_argument(
        "--bits",
        choices=(choices.ESTIMATED, choices.CODED),
        default=choices.ESTIMATED,
        help="by the model's likelihoods, or as its range coder spends them (default estimated)",
    )
    command.add_argument(
        "--limit",
        type=positive,
        metavar="VALUE",
        help="upper end of the colours, bits per pixel, the same for all images and for all their maps, gap included; "
        "default: each map's own",
    )
    command.add_argument("--gap", action="store_true", help="of coded bits: also where they differ from the estimate")
    command.add_argument(
        "--errors", action="store_true", help="also a figure of squared error, SSIM, and what cells gain for their bits"
    )
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


def check_map(arguments: argparse.Namespace) -> None:
    """Raise ``UsageError`` for what does not go together."""
    arguments.figures = tuple(one for one in arguments.format if one in choices.FIGURES)
    arguments.format = next((one for one in arguments.format if one in choices.ARRAYS), None)
    if arguments.width is not None and not arguments.figures:
        raise UsageError(
            f"--width {arguments.width:g} is of figures for print; it needs --format, such as --format pdf"
        )
    if arguments.animate is not None:
        _check_animation(arguments)
    elif arguments.view is not None:
        raise UsageError(f"--view {arguments.view} is of the animation; it needs --animate")
    check_model(arguments)
    if arguments.gap and arguments.bits != choices.CODED:
        raise UsageError(f"--gap needs --bits {choices.CODED}")
    if arguments.errors and arguments.bits == choices.CODED and not arguments.gap:
        raise UsageError(f"--errors needs a reconstruction, which --bits {choices.CODED} has with --gap alone")
    if arguments.errors and arguments.projection == choices.JACOBIAN:
        raise UsageError(f"--errors is of cells, which --projection {choices.JACOBIAN} has none of")
    check_jacobian(arguments)
    if arguments.pixels and arguments.format == "tiff":
        raise UsageError("--pixels is of npz files; --format tiff has pixels alone")
    check_regions(arguments)
    whole = whole_only(arguments)
    if whole and tiles_asked_for(arguments):
        raise UsageError(f"{whole} is for whole pictures; it has no --max-memory, --tile, --format npz or tiff")


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
    given = next((f"--{option}" for option in ("channels", "errors") if getattr(arguments, option)), None)
    return given or asked_for(arguments)


def _channel(text: str) -> tuple[str, int] | tuple[()]:
    """Read LATENT:K; the costliest channel has no name yet."""
    if text == "max":
        return ()
    latent, _, number = text.rpartition(":")
    if not latent or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise argparse.ArgumentTypeError(f"expected LATENT:K such as y:17, or max, got {text!r}")
    return latent, int(number)


def _formats(text: str) -> tuple[str, ...]:
    """Read kinds of files, of numbers one at most."""
    found = tuple(dict.fromkeys(text.lower().split(",")))
    if not set(found) <= {*choices.FIGURES, *choices.ARRAYS} or set(found) >= set(choices.ARRAYS):
        figures, arrays = ", ".join(choices.FIGURES), " or ".join(choices.ARRAYS)
        raise argparse.ArgumentTypeError(f"expected some of {figures}, and {arrays}, with commas between, got {text!r}")
    return found
