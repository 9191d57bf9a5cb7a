"""What wider bands cost: receptive fields beside bilinear interpolation, through the same kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from opponents import IMAGES, STRIDE, make_likelihoods

import bitrate_ext
from bitrate_ext.projection import Projection
from bitrate_ext.receptive_field import ReceptiveField, Term

REACHES = {
    "4 taps": (-30, 30),
    "14 taps": (-104, 119),
    "22 taps": (-164, 179),
}  # deconvolution, cheng2020-anchor, -attn


def bell(first: int, last: int, terms: int = 1) -> ReceptiveField:
    """Kernels of those reaches; what is in them does not matter to the time."""
    kernel = np.exp(-((np.linspace(-3, 3, last - first + 1)) ** 2))
    reach = (first, last)
    return ReceptiveField((STRIDE, STRIDE), (reach, reach), [Term(1 / terms, kernel, kernel)] * terms)


PROJECTIONS: dict[str, str | Projection] = {
    "bilinear": "bilinear",
    **{name: bell(*reach) for name, reach in REACHES.items()},
    "4 taps, 2 terms": bell(*REACHES["4 taps"], terms=2),
}


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("image", ["kodak", "4k"])
def test_bands(benchmark: Any, image: str, projection: str) -> None:
    likelihoods = make_likelihoods(image)
    out = torch.zeros(1, 1, *IMAGES[image])

    def call() -> torch.Tensor:
        return bitrate_ext.bitrate_map(likelihoods, scale_factor=STRIDE, projection=PROJECTIONS[projection], out=out)

    exact = bitrate_ext.bitrate_map(
        likelihoods.double(), scale_factor=STRIDE, projection=PROJECTIONS[projection], impl="reference"
    )
    torch.testing.assert_close(call().double(), exact, rtol=1e-5, atol=1e-9)
    benchmark.group = f"bands {image}"
    benchmark.extra_info["bytes"] = likelihoods.nbytes + out.nbytes
    benchmark.pedantic(call, rounds={"kodak": 200, "4k": 40}[image], warmup_rounds=3)
