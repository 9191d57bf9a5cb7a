"""What users write, as mypy --strict and pyright see it: nothing here is Any. `make lint` checks it; it is not run."""

# pyright: strict

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import bitrate_ext
from bitrate_ext import (
    Attribution,
    BitrateMapper,
    BitrateResult,
    CellGrid,
    CodingError,
    Comparison,
    Factorized,
    FrameMapper,
    FrameResult,
    Fused,
    Gaussian,
    GaussianMixture,
    ImageError,
    Laplace,
    Logistic,
    MemoryLimitError,
    ModelAdapter,
    PictureBits,
    PictureResult,
    Projection,
    RateEstimate,
    RateEstimator,
    RateLoss,
    RateMetric,
    ReceptiveField,
    Slice,
    VideoError,
)

p, x = torch.rand(1, 4, 8, 8), torch.rand(1, 3, 64, 64)
model = bitrate_ext.load_demo_codec()
assert_type(bitrate_ext.load_demo_codec(quality=3), nn.Module)
assert_type(bitrate_ext.models.load_zoo_model("mbt2018-mean", 3), nn.Module)
assert_type(bitrate_ext.models.load_checkpoint("weights.pth"), nn.Module)

# The operator, and what it takes.
assert_type(bitrate_ext.bitrate_map(p, (64, 64)), Tensor)
assert_type(bitrate_ext.bitrate_map({"y": p, "z": [p, p]}, (64, 64)), Tensor)
assert_type(bitrate_ext.bitrate_map([{"y": p}, {"y": p}], (64, 64)), list[Tensor])
assert_type(bitrate_ext.bitrate_map(Gaussian(p, p), scale_factor=8), Tensor)
assert_type(bitrate_ext.latent_bits(p), Tensor)
assert_type(bitrate_ext.latent_bits({"y": p}), dict[str, Tensor])
assert_type(bitrate_ext.rate(Gaussian(p, p)), Tensor)
assert_type(bitrate_ext.rate({"y": Laplace(p, p), "z": Factorized(model, p)}), Tensor)
assert_type(bitrate_ext.map_strips(Logistic(p, p), (64, 64)), Iterator[tuple[int, Tensor]])
assert_type(GaussianMixture(p, p).values, Tensor)
assert_type(Gaussian(p, p).shape, torch.Size)


def own(output: Mapping[str, Mapping[str, Tensor]], projection: str | Projection) -> Tensor:
    return bitrate_ext.bitrate_map(output["likelihoods"], (64, 64), projection=projection)


# Maps of images, frames and big pictures.
mapper = BitrateMapper(model)
result = mapper(x)
assert_type(result, BitrateResult)
assert_type(result.map, Tensor)
assert_type(result.maps["y"], Tensor)
assert_type(result.total_bits, Tensor)
assert_type(result.x_hat, Tensor | None)
assert_type(result.warnings, tuple[str, ...])
assert_type(result.image().map(), Tensor)
assert_type(result.image().grids["y"], CellGrid)
assert_type(result.region((0, 0, 8, 8))["region"].bits, float)
assert_type(BitrateMapper(ModelAdapter(model)).strides, dict[str, tuple[int, int]])
assert_type(bitrate_ext.coded_video(model, [x, x]), list[BitrateResult])
for frame in FrameMapper(model)([x[0]]):
    assert_type(frame, FrameResult)
    assert_type(frame.index, int)
    assert_type(FrameMapper(model).placed("image"), BitrateMapper)
big = bitrate_ext.map_picture(model, "picture.png", "bits.npz")
assert_type(bitrate_ext.map_picture(mapper, x, Path("bits.npz")), PictureResult)
assert_type(big.image(), PictureBits)

# Bits of one picture.
bits = PictureBits({"y": CellGrid(p[0, 0])}, (8, 8), (0, 0, 8, 8))
assert_type(PictureBits.load("bits.npz"), PictureBits)
assert_type(bits.total_bits, float)
assert_type(bits.psnr_db, float | None)
assert_type(bitrate_ext.cell_errors(bits).gain_db, Tensor)
assert_type(bitrate_ext.errors_figure(bits)[0].savefig is not None, bool)
assert_type(bitrate_ext.grid_figure([[bits]])[0] is not None, bool)
assert_type(bitrate_ext.write_page(bits, "bits.html"), None)
assert_type(bitrate_ext.write_folder_page([{"picture": "cat"}], "index.html"), None)
assert_type(bitrate_ext.write_video_page([bits], "video.html"), None)

# Kernels, attributions, comparisons, estimators.
field = bitrate_ext.calibrate(model)
assert_type(bitrate_ext.calibrate(model, "y"), ReceptiveField)
assert_type(field.stride, tuple[int, int])
assert_type(field.terms, tuple[Projection, ...])
assert_type(bitrate_ext.field_figure(field)[0] is not None, bool)
assert_type(bitrate_ext.attribute(model, x), Attribution)
assert_type(bitrate_ext.follow_slices(model, x), list[Slice])
assert_type(bitrate_ext.compare(x, model, "demo:3"), Comparison)
assert_type(bitrate_ext.compare([x, x], model, "demo:3"), list[Comparison])
assert_type(bitrate_ext.train_estimator(model, [x, x]), RateEstimator)
assert_type(RateEstimator.demo()(x, 3), RateEstimate)

# Training and evaluation.
assert_type(bitrate_ext.fuse(model), Fused)
assert_type(RateLoss().reduction, str)
metric = RateMetric("images")
assert_type(metric.update(result), None)
assert_type(RateMetric().compute(), dict[str, Tensor])


def reason(error: CodingError | ImageError | VideoError | MemoryLimitError) -> str:
    assert_type(error, CodingError | ImageError | VideoError | MemoryLimitError)
    return str(error)
