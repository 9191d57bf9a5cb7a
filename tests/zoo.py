"""CompressAI's image models, small and with random weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

MODELS = pytest.importorskip("compressai.registry").MODELS
GROUPS = {"N": 12, "M": 16, "groups": [4, 4, 8]}
SMALL = {  # registry name: constructor's arguments
    "bmshj2018-factorized": {"N": 8, "M": 12},
    "bmshj2018-factorized-relu": {"N": 8, "M": 12},
    "bmshj2018-hyperprior": {"N": 8, "M": 12},
    "mbt2018-mean": {"N": 8, "M": 12},
    "mbt2018": {"N": 8, "M": 12},
    "cheng2020-anchor": {"N": 12},
    "cheng2020-attn": {"N": 12},
    "cheng2020-anchor-checkerboard": {"N": 12},
    "elic2022-official": GROUPS,
    "elic2022-chandelier": GROUPS,
    "bmshj2018-hyperprior-vbr": {"N": 8, "M": 12, "vr_entbttlnck": True},
    "mbt2018-mean-vbr": {"N": 8, "M": 12, "vr_entbttlnck": True},
    "mbt2018-vbr": {"N": 8, "M": 12},
}


def small_model(name: str) -> nn.Module:
    """In eval mode, its latents spread over many symbols."""
    model = MODELS[name](**SMALL[name]).eval()
    with torch.no_grad():
        [m for m in model.g_a.modules() if isinstance(m, nn.Conv2d)][-1].weight.mul_(30)
    return model
