"""The small codec and the photograph that ship with the package, to make maps with out of the box."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..choices import DEMO_QUALITIES, DEMO_QUALITY, check_choice
from ..memory import is_out_of_memory
from ..optional import folder_of, require, take_off
from .demo_forward import DemoForward
from .zoo import MISFIT, build, make_ready, read_safetensors

DATA = Path(__file__).parent.parent / "data"
WEIGHTS = DATA / "demo_codec.safetensors"
SCALES = 256  # that the coder knows, from 0.11 to 256: CompressAI's 64, each up to 13 % too wide, cost 1 % of a file


def load_demo_codec(quality: int = DEMO_QUALITY) -> nn.Module:
    """Load the bundled codec: CompressAI's ``MeanScaleHyperprior``, float32, eval mode, coder tables built.

    Its latents are ``y``, 16 pixels a cell, and ``z``, 64. How it was trained and how well it does is in
    ``data/demo_codec.md``; it is no competitor to published codecs.

    Args:
        quality: 1 (fewest bits, about 0.1 per pixel of a photograph) to 8 (about 1). All are of one file.

    Raises:
        ValueError: another quality.
        ImportError: CompressAI or safetensors is not installed, or another CompressAI is, which does not take the
            codec; says what to do.

    Example:
        >>> with torch.no_grad():
        ...     output = bitrate_ext.load_demo_codec(quality=3)(x)
        >>> sorted(output), output["x_hat"].shape
        (['likelihoods', 'x_hat'], torch.Size([1, 3, 64, 64]))
    """
    check_choice("quality", quality, DEMO_QUALITIES)
    return load_between(quality)


def load_demo_forward(quality: int = DEMO_QUALITY) -> nn.Module:
    """Load the bundled codec without CompressAI: its forward pass alone, the same to the last bit.

    Args:
        quality: as for ``load_demo_codec``.

    Raises:
        ValueError: another quality.
        ImportError: safetensors is not installed; says what to install.
    """
    check_choice("quality", quality, DEMO_QUALITIES)
    return load_between(quality, forward_only=True)


def load_between(quality: float, *, forward_only: bool = False) -> nn.Module:
    """Load the bundled codec at one of its qualities, or between two of them.

    Args:
        quality: any number from the first to the last of ``DEMO_QUALITIES``.
        forward_only: as ``load_demo_forward``, not as ``load_demo_codec``.
    """
    weights, sizes = read_safetensors(WEIGHTS)
    weights = at_level(weights, quality - DEMO_QUALITIES[0])
    if forward_only:
        return DemoForward(weights)
    require("compressai.models")
    try:
        return with_tables(build(lean_codec, weights, sizes))
    except (*MISFIT, AttributeError) as error:
        folder = folder_of("compressai")
        if folder is None or is_out_of_memory(error):
            raise
        raise ImportError(
            f"the compressai in {folder} does not take the demo codec ({type(error).__name__}: {error}); "
            f"{take_off(folder)}"
        ) from error


def with_tables(codec: nn.Module) -> nn.Module:
    """Make the codec ready, with coder tables of finely spaced scales."""
    ready: Any = make_ready(codec)
    ready.update(scale_table=torch.logspace(math.log10(0.11), math.log10(256), SCALES), force=True)
    return codec


def lean_codec(n: int, m: int) -> nn.Module:
    """Return CompressAI's ``MeanScaleHyperprior`` with fewer weights where they cost most, at random.

    That is: fewer channels at half the resolution, where most of the time goes, and narrow layers in the hyperprior,
    which has most of the weights, so that ``y`` can have many channels, as high rates need.
    """
    codec: nn.Module = require("compressai.models").MeanScaleHyperprior(n, m)
    normalised = require("compressai.layers").GDN
    first, middle, last = 3 * n // 4, 3 * n // 2, 9 * n // 4

    def down(inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)

    def up(inputs: int, outputs: int) -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)

    def leak() -> nn.Module:
        return nn.LeakyReLU(inplace=True)

    norms = [normalised(width) for width in (first, n, n)]
    codec.g_a = nn.Sequential(*(down(3, first), norms[0], down(first, n), norms[1], down(n, n), norms[2], down(n, m)))
    norms = [normalised(width, inverse=True) for width in (n, n, first)]
    codec.g_s = nn.Sequential(*(up(m, n), norms[0], up(n, n), norms[1], up(n, first), norms[2], up(first, 3)))
    codec.h_a = nn.Sequential(nn.Conv2d(m, n, 1), leak(), down(n, n), leak(), down(n, n))
    codec.h_s = nn.Sequential(up(n, middle), leak(), up(middle, last), leak(), nn.Conv2d(last, 2 * m, 1))
    return codec


def at_level(weights: Mapping[str, Tensor], level: float) -> dict[str, Tensor]:
    """Fold the gains of one level into the layers beside them, so that a plain codec of one rate is left.

    A gain unit scales each channel of ``y`` before rounding and after (Cui et al. 2021, arXiv 2003.02012). What comes
    before is linear up to the last layer of ``g_a``, ``h_s`` foretells means and scales of ``y`` by a linear layer, and
    what reads ``y``, ``h_a`` and ``g_s``, begins with one.

    Args:
        weights: of a ``MeanScaleHyperprior``, by its names of them, and ``gains``, before and after,
            ``[2, levels, M]``.
        level: from 0; between two levels gains are interpolated geometrically, as there.
    """
    folded = {name: weight.float() for name, weight in weights.items()}
    gains, lower, part = folded.pop("gains"), math.floor(level), level - math.floor(level)
    before, after = gains[:, lower] if not part else gains[:, lower] ** (1 - part) * gains[:, lower + 1] ** part
    outputs = {"g_a.6": before, "h_s.4": torch.cat((before, before))}
    for layer, gain in outputs.items():
        folded[f"{layer}.weight"] = folded[f"{layer}.weight"] * gain[:, None, None, None]
        folded[f"{layer}.bias"] = folded[f"{layer}.bias"] * gain
    folded["h_a.0.weight"] = folded["h_a.0.weight"] / before[:, None, None]
    folded["g_s.0.weight"] = folded["g_s.0.weight"] * after[:, None, None, None]  # transposed: inputs come first
    return folded


def demo_photograph() -> Path:
    """Return the bundled photograph, a PNG file of 451 x 300 pixels (W x H): Chelsea the cat, CC0.

    By Stefan van der Walt.
    """
    return DATA / "chelsea.png"


def more_photographs() -> Path:
    """Return a PNG file of 768 x 192 pixels (W x H): four squares of photographs beside each other, CC0.

    An otter, a ruin, an osprey and a city at night, from the desktop Budgie's backgrounds.
    """
    return DATA / "photographs.png"
