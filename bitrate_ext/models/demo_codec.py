"""The small codec and the photograph that ship with the package, to make maps with out of the box."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .zoo import load_checkpoint

DATA = Path(__file__).parent.parent / "data"


def load_demo_codec() -> nn.Module:
    """The bundled codec: CompressAI's ``MeanScaleHyperprior``, float32, eval mode, coder tables built.

    Its latents are ``y``, 16 pixels a cell, and ``z``, 64. How it was trained and how well it does is in
    ``data/demo_codec.md``; it is no competitor to published codecs.

    Raises:
        ImportError: CompressAI or safetensors is not installed; says what to install.
    """
    return load_checkpoint(DATA / "demo_codec.safetensors", "mbt2018-mean")


def demo_photograph() -> Path:
    """The bundled photograph, a PNG file of 451 x 300 pixels (W x H): Chelsea the cat, CC0, by Stefan van der Walt."""
    return DATA / "chelsea.png"
