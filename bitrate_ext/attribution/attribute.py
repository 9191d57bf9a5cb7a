"""Attribution of bits, image by image: to the pixels that a decoder paints with them, or to those that cause them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_whole_number
from ..choices import FEWEST_PASSES, METHODS, PADDING_SIDES, PADDINGS, PASSES, check_choice
from ..models.adapter import ModelAdapter
from ..models.observe import leave_as_found
from ..models.trace import Synthesis
from ..ops.units import LIKELIHOOD
from . import encoder_side
from .jacobian import follow_decoder
from .result import Attribution


def attribute(
    model: nn.Module | ModelAdapter,
    x: Tensor,
    method: str = "jacobian",
    passes: int = PASSES,
    *,
    synthesis: Synthesis = None,
    baseline: Tensor | None = None,
    layer: str | None = None,
    seed: int = 0,
    unit: str = LIKELIHOOD,
    padding: str = PADDINGS[0],
    padding_side: str = PADDING_SIDES[0],
    multiple: int | Sequence[int] | None = None,
    progress: Callable[[int, int], object] | None = None,
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
        model: as for ``BitrateMapper``, an ``nn.Module``, or a ``ModelAdapter`` of one.
        x: ``[N, C, H, W]`` in [0, 1], any H and W.
        method: one of the three.
        passes: at least 4. 16 leave about 15 % of the bits in the wrong place, 64 about 7 %.
        synthesis: the synthesis transform, for "jacobian": the name of a module, or a callable that takes a latent
            ``[N, C, h, w]`` to an image, such as ``model.decode``; see ``calibrate``. Default: found by running.
        baseline: for "integrated-gradients", an image of the shape of ``x``, or one that broadcasts to it. Default:
            the mean colour of each image.
        layer: for "grad-cam", the name of a module whose output has the latent's grid or another.
        seed: of the random signs of "jacobian".
        unit, padding, padding_side, multiple: as for ``BitrateMapper``.
        progress: called with the passes of "jacobian" done and their number, for each image.
        **forward_kwargs: for the model's ``forward``.

    Raises:
        ValueError: unknown method, latents of infinite bits, no synthesis transform or layer found, an option of
            another method; and as ``BitrateMapper``.
        ImportError: Captum is not installed, for the last two methods.

    Example:
        >>> found = bitrate_ext.attribute(model, x, passes=4)
        >>> bool(torch.isclose(found.map.double().sum() + found.padding, found.total, rtol=1e-4))
        True
    """
    check_choice("method", method, METHODS)
    check_whole_number("passes", passes, FEWEST_PASSES)
    options = {"synthesis": (synthesis, METHODS[0]), "baseline": (baseline, METHODS[1]), "layer": (layer, METHODS[2])}
    for name, (value, owner) in options.items():
        if value is not None and method != owner:
            raise ValueError(f"{name} belongs to method {owner!r}, and method is {method!r}")
    adapter = ModelAdapter.of(model, unit=unit, padding=padding, padding_side=padding_side, multiple=multiple)
    with leave_as_found(adapter.model), torch.enable_grad():
        adapter.prepare(x, forward_kwargs)
        x = x.detach().clone()  # an inference tensor cannot be differentiated
        if method == "jacobian":
            return follow_decoder(adapter, x, passes, synthesis, seed, forward_kwargs, progress)
        if method == "integrated-gradients":
            return encoder_side.integrated_gradients(adapter, x, passes, baseline, forward_kwargs)
        return encoder_side.grad_cam(adapter, x, layer, forward_kwargs)
