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


def coded_model(name: str, seed: int = 0) -> nn.Module:
    """Its latents are a few symbols wide, y more than z, with some outside of their tables; ready to code.

    Outputs are scaled where they leave a transform, whatever its last layer is: of the analysis to a spread of 8, of
    the parameters of Gaussians tenfold, so that scales and means differ from place to place.
    """
    torch.manual_seed(seed)
    model = MODELS[name](**SMALL[name]).eval()
    noise = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        spread = float(model.g_a(noise).std())
        model.g_a.register_forward_hook(lambda _, __, y: y * (8 / spread))
        parts = {part_name: part for part_name, part in model.named_modules() if not isinstance(part, nn.Identity)}
        source = "entropy_parameters" if any(one.endswith("entropy_parameters") for one in parts) else "h_s"
        for part_name, part in parts.items():
            if part_name.endswith("h_a"):
                part.register_forward_hook(lambda _, __, z: 3 * z)
            if part_name.endswith(source):
                part.register_forward_hook(lambda _, __, parameters: 10 * parameters)
    model.update(force=True)
    return model


def set_rate(model: nn.Module, level: int) -> dict[str, int]:
    """Tables of a variable-rate model for one of its rates, and the arguments that ask for it."""
    gain = getattr(model, "Gain", None)
    if gain is None:
        return {}
    model.update(force=True, scale=gain[level].detach())
    return {"s": level}


def video_model() -> nn.Module:
    """CompressAI's ``ssf2020``, its latents a few symbols wide, ready to code. It has one size."""
    torch.manual_seed(0)
    model = MODELS["ssf2020"]().eval()
    for branch in ("img", "motion", "res"):
        getattr(model, f"{branch}_encoder").register_forward_hook(lambda _, __, y: 300 * y)
        hyper = getattr(model, f"{branch}_hyperprior")
        hyper.hyper_encoder.register_forward_hook(lambda _, __, z: 3 * z)
        hyper.hyper_decoder_scale.register_forward_hook(lambda _, __, scales: scales + 1)
    model.update(force=True)
    return model
