"""Where the bits go: per-pixel bitrate maps of learned image codecs, as one fused PyTorch operator.

Names are imported when they are first asked for, so that a command line that only prints a usage text does not wait
for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import models
    from .attribution.attribute import attribute
    from .attribution.result import Attribution
    from .attribution.slices import Slice, follow_slices
    from .cells.errors import cell_errors, errors_figure
    from .cells.figures import grid_figure
    from .cells.grid import CellGrid
    from .cells.picture import PictureBits
    from .coding.rans import CodingError
    from .comparison.compare import compare
    from .comparison.result import Comparison
    from .estimator.estimator import RateEstimate, RateEstimator
    from .estimator.training import train_estimator
    from .io.images import ImageError
    from .mapping.coded_video import coded_video
    from .mapping.frames import FrameMapper, FrameResult
    from .mapping.layout import BitrateResult
    from .mapping.mapper import BitrateMapper
    from .mapping.rate_metric import RateMetric
    from .memory import MemoryLimitError
    from .models.adapter import ModelAdapter
    from .models.demo_codec import load_demo_codec
    from .models.fuse import Fused, fuse
    from .ops.functional import bitrate_map, latent_bits, rate
    from .ops.projection import Projection
    from .ops.sources import Factorized, Gaussian, GaussianMixture, Laplace, Logistic
    from .ops.strips import map_strips
    from .page.write import write_folder_page, write_page, write_video_page
    from .receptive_field.calibration import calibrate
    from .receptive_field.field import ReceptiveField
    from .tiled.map_picture import PictureResult, map_picture
    from .training.rate_loss import RateLoss
    from .video.reader import VideoError
    from .viz.kernel_figure import field_figure

_HOMES = {  # public name to the module that defines it
    "Attribution": "attribution.result",
    "BitrateMapper": "mapping.mapper",
    "BitrateResult": "mapping.layout",
    "CellGrid": "cells.grid",
    "CodingError": "coding.rans",
    "Comparison": "comparison.result",
    "Factorized": "ops.sources",
    "FrameMapper": "mapping.frames",
    "FrameResult": "mapping.frames",
    "Fused": "models.fuse",
    "Gaussian": "ops.sources",
    "GaussianMixture": "ops.sources",
    "ImageError": "io.images",
    "Laplace": "ops.sources",
    "Logistic": "ops.sources",
    "MemoryLimitError": "memory",
    "ModelAdapter": "models.adapter",
    "PictureBits": "cells.picture",
    "PictureResult": "tiled.map_picture",
    "Projection": "ops.projection",
    "RateEstimate": "estimator.estimator",
    "RateEstimator": "estimator.estimator",
    "RateLoss": "training.rate_loss",
    "RateMetric": "mapping.rate_metric",
    "ReceptiveField": "receptive_field.field",
    "Slice": "attribution.slices",
    "VideoError": "video.reader",
    "attribute": "attribution.attribute",
    "bitrate_map": "ops.functional",
    "calibrate": "receptive_field.calibration",
    "cell_errors": "cells.errors",
    "coded_video": "mapping.coded_video",
    "compare": "comparison.compare",
    "errors_figure": "cells.errors",
    "field_figure": "viz.kernel_figure",
    "follow_slices": "attribution.slices",
    "fuse": "models.fuse",
    "grid_figure": "cells.figures",
    "latent_bits": "ops.functional",
    "load_demo_codec": "models.demo_codec",
    "map_picture": "tiled.map_picture",
    "map_strips": "ops.strips",
    "rate": "ops.functional",
    "train_estimator": "estimator.training",
    "write_folder_page": "page.write",
    "write_page": "page.write",
    "write_video_page": "page.write",
}
__all__ = [
    "Attribution",
    "BitrateMapper",
    "BitrateResult",
    "CellGrid",
    "CodingError",
    "Comparison",
    "Factorized",
    "FrameMapper",
    "FrameResult",
    "Fused",
    "Gaussian",
    "GaussianMixture",
    "ImageError",
    "Laplace",
    "Logistic",
    "MemoryLimitError",
    "ModelAdapter",
    "PictureBits",
    "PictureResult",
    "Projection",
    "RateEstimate",
    "RateEstimator",
    "RateLoss",
    "RateMetric",
    "ReceptiveField",
    "Slice",
    "VideoError",
    "__version__",
    "attribute",
    "bitrate_map",
    "calibrate",
    "cell_errors",
    "coded_video",
    "compare",
    "errors_figure",
    "field_figure",
    "follow_slices",
    "fuse",
    "grid_figure",
    "latent_bits",
    "load_demo_codec",
    "map_picture",
    "map_strips",
    "models",
    "rate",
    "train_estimator",
    "write_folder_page",
    "write_page",
    "write_video_page",
]


def __getattr__(name: str) -> Any:
    if name == "models":
        return importlib.import_module(".models", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
