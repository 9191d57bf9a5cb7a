"""Where the bits go: per-pixel bitrate maps of learned image codecs, as one fused PyTorch operator."""

from .ops import bitrate_map, latent_bits
from .projection import Projection

__version__ = "0.1.0"
__all__ = ["Projection", "bitrate_map", "latent_bits"]
