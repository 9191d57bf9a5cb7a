"""What users write, as mypy --strict sees it: nothing here is Any. `make lint` checks it; it is not run."""

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import assert_type

import bitrate_ext
from bitrate_ext import BitrateMapper, BitrateResult, Gaussian, Projection, ReceptiveField

p = torch.rand(1, 4, 8, 8)
assert_type(bitrate_ext.bitrate_map(p, (64, 64)), Tensor)
assert_type(bitrate_ext.bitrate_map({"y": p, "z": [p, p]}, (64, 64)), Tensor)
assert_type(bitrate_ext.bitrate_map([{"y": p}, {"y": p}], (64, 64)), list[Tensor])
assert_type(bitrate_ext.bitrate_map(Gaussian(p, p), scale_factor=8), Tensor)
assert_type(bitrate_ext.latent_bits(p), Tensor)
assert_type(bitrate_ext.latent_bits({"y": p}), dict[str, Tensor])
assert_type(bitrate_ext.rate(Gaussian(p, p)), Tensor)

result = BitrateMapper(bitrate_ext.load_demo_codec())(torch.rand(1, 3, 64, 64))
assert_type(result, BitrateResult)
assert_type(result.map, Tensor)
assert_type(result.maps["y"], Tensor)
assert_type(result.total_bits, Tensor)
assert_type(result.x_hat, Tensor | None)
assert_type(result.image().map(), Tensor)
assert_type(bitrate_ext.calibrate(bitrate_ext.load_demo_codec()), ReceptiveField)


def own(output: Mapping[str, Mapping[str, Tensor]], projection: str | Projection) -> Tensor:
    return bitrate_ext.bitrate_map(output["likelihoods"], (64, 64), projection=projection)
