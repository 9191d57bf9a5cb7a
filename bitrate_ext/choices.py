"""What users may choose from, by name. The command line reads it before PyTorch is imported."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

PROJECTIONS = ("nearest", "bilinear", "area")
RECEPTIVE_FIELD = "receptive-field"  # a projection measured on the model's own decoder
GUIDED = "guided"  # the same, and within its reach after edges and texture of the reconstruction
MEASURED = (RECEPTIVE_FIELD, GUIDED)
ESTIMATED, CODED = "estimated", "coded"  # sources of bits: likelihoods, or the range coder
EXPECTED, ESCAPES = "expected", "escapes"  # what may be known of cells beside their bits
METHODS = JACOBIAN, INTEGRATED_GRADIENTS, GRAD_CAM = "jacobian", "integrated-gradients", "grad-cam"  # of attribution
PASSES, FEWEST_PASSES = 16, 4  # of attribution
SAMPLES, FEWEST_SAMPLES = 64, 2  # of measuring a receptive field: passes in forward mode
UNITS = ("likelihood", "bits", "nats", "log2", "log")  # of what a model returns under likelihoods
PADDINGS = ("zeros", "replicate", "reflect")  # what is around an image on the canvas that a model takes
ALL_PADDINGS = "all"  # of ``bitrate-ext check``: each in turn
PADDING_SIDES = ("centre", "end")
ARRAYS = ("npz", "tiff")  # formats of maps as numbers
SHOWN_CHANNELS = 16  # of each latent, the costliest, that a page holds unless more are asked for
GROUP = 32  # frames from one keyframe of a video codec to the next
DATASET_FILES = ("cells", "png", "page", "frames")  # kinds of files beside the rows of a data set
FIGURES = ("png", "pdf", "svg")  # of figures for print
WIDTHS = {"column": 3.4, "page": 7.0}  # of those, inches
NARROWEST, WIDEST = 1.5, 60.0  # inches

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # of videos, by the file's ending
PARTIAL = ".partial"  # in the names of what a video gives that ends before its end
RATES = Fraction(1, 1000), Fraction(1000)  # frames a second: least and most
MATRICES = {"bt601": 5, "bt709": 1, "bt2020nc": 9, "fcc": 4, "smpte240m": 7}  # FFmpeg's numbers
RANGES = {"limited": 1, "full": 2}
VIEWS = ("side", "overlay", "map")
SCALES = ("clip", "frame")  # of a video's colours, besides a number
PRECISIONS = ("float32", "bfloat16", "float16")  # of a network
LARGEST_CRF = 51  # of H.264
PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)

DEVICES = (  # types that PyTorch knows without an extension of it
    *("cpu", "cuda", "ipu", "xpu", "mkldnn", "opengl", "opencl", "ideep", "hip", "ve", "fpga", "maia", "xla", "lazy"),
    *("vulkan", "mps", "meta", "hpu", "mtia", "privateuseone"),
)
DEMO_QUALITIES, DEMO_QUALITY = tuple(range(1, 9)), 5  # of the bundled codec; about 0.1 to 1, and 0.4 bit per pixel
METRICS = ("mse", "ms-ssim")
_EIGHT, _SIX = (dict.fromkeys(METRICS, tuple(range(1, last + 1))) for last in (8, 6))
PUBLISHED: dict[str, dict[str, tuple[int, ...]]] = {  # CompressAI's weights: qualities by metric; none of variable rate
    "bmshj2018-factorized": _EIGHT,
    "bmshj2018-hyperprior": _EIGHT,
    "mbt2018-mean": _EIGHT,
    "mbt2018": _EIGHT,
    "cheng2020-anchor": _SIX,
    "cheng2020-attn": _SIX,
    "bmshj2018-hyperprior-vbr": {"mse": ()},
    "mbt2018-mean-vbr": {"mse": ()},
    "mbt2018-vbr": {"mse": ()},
    "ssf2020": {"mse": tuple(range(1, 10))},
}


def check_choice(what: str, choice: object, choices: Iterable[Any]) -> None:
    """Check that a choice is one of those that there are.

    Raises:
        ValueError: it is not; names the choices.
    """
    known = list(choices)
    if choice not in known:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, known))}, got {choice!r}")


def inches_of(width: str | float) -> float:
    """Return the width of a figure for print, inches.

    Raises:
        ValueError: it is none that a figure can have.
    """
    try:
        inches = WIDTHS[width] if isinstance(width, str) and width in WIDTHS else float(width)
    except ValueError:
        inches = math.nan
    if not NARROWEST <= inches <= WIDEST:
        named = ", ".join(map(repr, WIDTHS))
        raise ValueError(f"width must be {named} or inches from {NARROWEST:g} to {WIDEST:g}, got {width!r}")
    return inches


def check_rate(rate: Fraction | float) -> Fraction:
    """Return a number of frames a second, exact.

    Raises:
        ValueError: it is out of range.
    """
    if not math.isfinite(rate) or not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"rate must be {float(RATES[0]):g} to {RATES[1]} frames a second, got {float(rate):g}")
    return Fraction(rate).limit_denominator(100_000)  # of a float what was meant


def check_published(name: str, quality: int | None, metric: str) -> None:
    """Check that there are published weights.

    Raises:
        ValueError: there are none; says which there are.
    """
    if name == "bmshj2018-factorized-relu":
        raise ValueError(
            f"there are no weights for {name!r}: CompressAI publishes none, and its zoo function of that name returns "
            "'bmshj2018-factorized', with GDN; ask for that"
        )
    check_choice("name", name, sorted(PUBLISHED))
    check_choice(f"metric of {name!r}", metric, sorted(PUBLISHED[name]))
    qualities = PUBLISHED[name][metric]
    if qualities:
        check_choice(f"quality of {name!r}", quality, qualities)
    elif quality not in (None, 0):  # 0 is the placeholder in CompressAI's own signature
        raise ValueError(f"quality of {name!r} must be None, got {quality!r}: one checkpoint serves all rates")
