"""Attribution of bits, image by image: to the pixels that a decoder paints with them, or to those that cause them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mapper import BitrateMapper, outside_bits
from .ops import bitrate_map, latent_bits
from .projection import get_projection
from .synthesis import Run, Synthesis, random_signs, symbol_bits

METHODS = ("jacobian", "integrated-gradients", "grad-cam")
FEWEST_PASSES = 4
REVERSE = 2  # passes in reverse mode for each in forward mode
REPEATED = 32  # one pass in so many, and at least one, is spent on measuring the noise
WINDOW = 9  # of the filter, pixels


@dataclass(frozen=True, eq=False)
class Attribution:
    """A map of each image. Where it adds up, ``map.sum() + padding`` is ``total``."""

    map: Tensor  # [N, 1, H, W], float32 or the model's float64
    method: str
    unit: str  # "bits per pixel", or "sensitivity" of what does not add up to bits
    adds_up: bool
    total: Tensor  # float64 [N]: all bits (jacobian), bits above the baseline's (integrated-gradients), the map's sum
    padding: Tensor  # float64 [N]: the part of it outside the image
    error: Tensor | None  # float64 [N], a share of the total; see `attribute`
    maps: dict[str, Tensor]  # of each latent, for "jacobian"


@torch.inference_mode(False)
def attribute(
    model: nn.Module,
    x: Tensor,
    method: str = "jacobian",
    passes: int = 16,
    *,
    synthesis: str | None = None,
    baseline: Tensor | None = None,
    layer: str | None = None,
    seed: int = 0,
    **forward_kwargs: Any,
) -> Attribution:
    """Follow the bits of these very images.

    ``"jacobian"``: where the decoder spends them. A symbol's bits go to the pixels by the energy of its impulse
    response, ``B(p) = sum_i b_i J_pi^2 / ||J_i||^2`` with ``J`` the Jacobian of the synthesis transform at these
    latents and ``i`` each symbol of each channel. Estimated with ``passes`` passes in forward mode and twice as many in
    reverse mode. Bits of a latent that no synthesis transform reads, such as ``z``, are spread evenly over its cells.
    ``error`` is the L1 error to expect, as a share of the bits.

    ``"integrated-gradients"`` (Sundararajan et al. 2017, arXiv 1703.01365): which pixels of the input cause them,
    against a baseline image, with ``passes`` steps. The rate is that of latents that are not rounded. A pixel's share
    may be negative. The map adds up to the bits above the baseline's but for ``error``, the gap as a share of them.

    ``"grad-cam"`` (Selvaraju et al. 2017, arXiv 1610.02391): how sensitive the rate is to the features of a layer, by
    default what the analysis transform returns. It does not add up to bits, and has no error.

    Args:
        model: as for ``BitrateMapper``, an ``nn.Module``.
        x: ``[N, C, H, W]`` in [0, 1], any H and W.
        method: one of the three.
        passes: at least 4. 16 leave about 15 % of the bits in the wrong place, 64 about 7 %.
        synthesis: name of the synthesis transform, for "jacobian". Default: found by running.
        baseline: for "integrated-gradients", an image of the shape of ``x``, or one that broadcasts to it. Default:
            the mean colour of each image.
        layer: for "grad-cam", the name of a module whose output has the latent's grid or another.
        seed: of the random signs of "jacobian".
        **forward_kwargs: for the model's ``forward``.

    Raises:
        ValueError: unknown method, latents of infinite bits, no synthesis transform or layer found, an option of
            another method; and as ``BitrateMapper``.
        ImportError: Captum is not installed, for the last two methods.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < FEWEST_PASSES:
        raise ValueError(f"passes must be a whole number of at least {FEWEST_PASSES}, got {passes!r}")
    options = {"synthesis": (synthesis, METHODS[0]), "baseline": (baseline, METHODS[1]), "layer": (layer, METHODS[2])}
    for name, (value, owner) in options.items():
        if value is not None and method != owner:
            raise ValueError(f"{name} belongs to method {owner!r}, and method is {method!r}")
    mapper = BitrateMapper(model)
    mapper.prepare(x, forward_kwargs)
    x = x.detach().clone()  # an inference tensor cannot be differentiated
    if method == "jacobian":
        return _jacobian(mapper, x, passes, synthesis, seed, forward_kwargs)
    from . import sensitivity

    if method == "integrated-gradients":
        return sensitivity.integrated_gradients(mapper, x, passes, baseline, forward_kwargs)
    return sensitivity.grad_cam(mapper, x, layer, forward_kwargs)


def _jacobian(
    mapper: BitrateMapper, x: Tensor, passes: int, named: str | None, seed: int, forward_kwargs: dict[str, Any]
) -> Attribution:
    if not len(x):
        raise ValueError(f"x must hold at least one image, got shape {list(x.shape)}")
    images = [_jacobian_of_one(mapper, one, passes, named, seed, forward_kwargs) for one in x.split(1)]
    maps = {name: torch.cat([image.maps[name] for image in images]) for name in images[0].maps}
    return Attribution(
        map=torch.cat([image.map for image in images]),
        method="jacobian",
        unit="bits per pixel",
        adds_up=True,
        total=torch.cat([image.total for image in images]),
        padding=torch.cat([image.padding for image in images]),
        error=torch.cat([image.error for image in images if image.error is not None]),
        maps=maps,
    )


def _jacobian_of_one(
    mapper: BitrateMapper, x: Tensor, passes: int, named: str | None, seed: int, forward_kwargs: dict[str, Any]
) -> Attribution:
    run = Run(mapper, x, forward_kwargs)
    transforms = _transforms(run, named)
    top, left, height, width = run.crop
    generator = torch.Generator().manual_seed(seed)
    maps: dict[str, Tensor] = {}
    total = padding = wrong = torch.zeros(1, dtype=torch.float64, device=x.device)
    for latent, likelihoods in run.likelihoods.items():
        cells = latent_bits(likelihoods, dtype=torch.float64)
        if not cells.isfinite().all():
            raise ValueError(f"latent {latent!r} has symbols of infinite or undefined bits, which belong nowhere")
        total = total + cells.sum()
        if latent in transforms:
            spread, error = spread_by_energy(transforms[latent], symbol_bits(likelihoods), passes, generator)
            inside = spread[top : top + height, left : left + width]
            wrong = wrong + error * cells.sum()
            padding = padding + (spread.sum() - inside.sum())
            maps[latent] = inside[None, None].to(torch.promote_types(likelihoods.dtype, torch.float32))
        else:
            over_cells = get_projection("nearest")
            padding = padding + outside_bits(cells, over_cells, run.size, run.crop).sum()
            maps[latent] = bitrate_map(likelihoods, run.size, crop=run.crop, projection=over_cells)
    one = torch.stack(list(maps.values())).sum(dim=0)
    error = torch.where(total > 0, wrong / total, 0)
    return Attribution(one, "jacobian", "bits per pixel", True, total, padding, error, maps)


def _transforms(run: Run, named: str | None) -> dict[str, Synthesis]:
    """The synthesis transform of each latent that has one.

    Raises:
        ValueError: none has.
    """
    found: dict[str, Synthesis] = {}
    trouble: ValueError | None = None
    for latent in run.likelihoods:
        if run.hyper_synthesis(latent) is None:
            try:
                found[latent] = run.synthesis(latent, named)
            except ValueError as error:
                trouble = trouble or error
    if trouble is not None and not found:
        raise trouble
    return found


def spread_by_energy(
    transform: Synthesis, bits: Tensor, passes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each symbol's bits, by the energy of its impulse response: an estimate, and its expected L1 error.

    Each forward pass drives its own part of the symbols, with random signs, so that a symbol's response has the energy
    of its bits. Squared and added up over the passes, products of two symbols' responses remain only within a pass, and
    cancel on average. The symbols of a cell take turns by their bits, from a random start: the costly ones of a
    neighbourhood fall into different passes. With as many passes as symbols that overlap, nothing is left to cancel.

    What remains is speckle, of a relative variance that is measured by driving some parts again with other signs. It is
    filtered as in radar images (Lee 1980, doi 10.1109/TPAMI.1980.4766994): towards the mean of the neighbourhood,
    by as much as the noise explains the variance there.

    Args:
        transform: of one image.
        bits: ``[1, C, h, w]``, what each symbol costs.
        passes: in forward mode; twice as many in reverse mode find the energy of each symbol's response.

    Returns:
        float64 ``[H, W]`` that adds up to the bits, and the expected L1 distance to what infinitely many passes give,
        as a share of the bits.

    Raises:
        ValueError: symbols that cost bits change nothing.
    """
    bits = bits.double().clamp_min(0)
    repeated = max(1, passes // REPEATED)
    parts = passes - repeated
    energy = transform.symbol_energy(REVERSE * passes, generator)
    amplitude = torch.where(energy > 0, bits / energy, 0).sqrt().to(transform.inputs)
    start = torch.randint(parts, bits.shape[2:], generator=generator).to(bits.device)
    rank = bits.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    part_of = (rank + start) % parts

    def driven(part: int) -> Tensor:
        tangent = random_signs(amplitude, generator) * amplitude
        return transform.energy(torch.where(part_of == part, tangent, 0)).double()[0]

    total = noise = torch.zeros(())
    for part in range(parts):
        one = driven(part)
        if part < repeated:
            other = driven(part)
            noise = noise + (one - other).square().sum() / 2  # variance of one draw
            one = (one + other) / 2
        total = total + one
    if not total.sum() > 0:
        if bits.any():
            raise ValueError(f"symbols that cost bits change nothing of what {transform.name} returns")
        return total.double(), total.sum()
    variance = noise / repeated * (parts - repeated / 2)
    relative = float(variance / (total.square().sum() - variance).clamp_min(variance))
    filtered, wrong = _without_speckle(total, relative)
    return filtered * (bits.sum() / filtered.sum()), wrong.sum() / filtered.sum()


def _without_speckle(noisy: Tensor, relative: float) -> tuple[Tensor, Tensor]:
    """Lee's filter for noise of that relative variance: the map ``[H, W]`` and its expected absolute error."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0]

    average = mean(noisy)
    variance = (mean(noisy.square()) - average.square()).clamp_min(0)
    signal = ((variance - relative * average.square()) / (1 + relative)).clamp_min(0)
    noise = relative * (average.square() + signal)
    trust = signal / (signal + noise).clamp_min(torch.finfo(noisy.dtype).tiny)
    squared = trust * noise + (1 - trust).square() * noise / WINDOW**2
    return average + trust * (noisy - average), (2 / math.pi * squared).sqrt()
