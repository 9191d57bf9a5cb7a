"""Where the bits go: per-pixel bitrate maps of learned image codecs, as one fused PyTorch operator."""

from .attribution import Attribution, attribute
from .big_picture import PictureResult, map_picture
from .calibration import calibrate
from .coded_video import coded_video
from .demo_codec import load_demo_codec
from .frames import FrameMapper, FrameResult
from .mapper import BitrateMapper, BitrateResult
from .ops import bitrate_map, latent_bits
from .projection import Projection
from .range_coder import CodingError
from .receptive_field import ReceptiveField
from .strips import map_strips

__version__ = "0.1.0"
__all__ = [
    "Attribution",
    "BitrateMapper",
    "BitrateResult",
    "CodingError",
    "FrameMapper",
    "FrameResult",
    "PictureResult",
    "Projection",
    "ReceptiveField",
    "attribute",
    "bitrate_map",
    "calibrate",
    "coded_video",
    "latent_bits",
    "load_demo_codec",
    "map_picture",
    "map_strips",
]
