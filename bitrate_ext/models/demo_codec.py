"""The small codec and the photograph that ship with the package, to make maps with out of the box."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..memory import is_out_of_memory
from ..optional import folder_of, require, take_off
from .demo_forward import DemoForward
from .zoo import MISFIT, build, make_ready, read_safetensors

DATA = Path(__file__).parent.parent / "data"
WEIGHTS = DATA / "demo_codec.safetensors"


def load_demo_codec() -> nn.Module:
    """Load the bundled codec: CompressAI's ``MeanScaleHyperprior``, float32, eval mode, coder tables built.

    Its latents are ``y``, 16 pixels a cell, and ``z``, 64. How it was trained and how well it does is in
    ``data/demo_codec.md``; it is no competitor to published codecs.

    Raises:
        ImportError: CompressAI or safetensors is not installed, or another CompressAI is, which does not take the
            codec; says what to do.
    """
    architecture, weights = require("compressai.models").MeanScaleHyperprior, read_safetensors(WEIGHTS)
    try:
        return make_ready(build(architecture, *weights))
    except (*MISFIT, AttributeError) as error:
        folder = folder_of("compressai")
        if folder is None or is_out_of_memory(error):
            raise
        raise ImportError(
            f"the compressai in {folder} does not take the demo codec ({type(error).__name__}: {error}); "
            f"{take_off(folder)}"
        ) from error


def load_demo_forward() -> nn.Module:
    """Load the bundled codec without CompressAI: its forward pass alone, the same to the last bit.

    Raises:
        ImportError: safetensors is not installed; says what to install.
    """
    return DemoForward(read_safetensors(WEIGHTS)[0])


def demo_photograph() -> Path:
    """Return the bundled photograph, a PNG file of 451 x 300 pixels (W x H): Chelsea the cat, CC0.

    By Stefan van der Walt.
    """
    return DATA / "chelsea.png"
