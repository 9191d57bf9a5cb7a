"""Bits and quality slice by slice: what a decoder makes of the first so many channels of a latent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_whole_number
from ..coding.recorder import EntropyModels
from ..coding.symbol_layout import UnknownPlaceError, find_blocks, record_likelihoods
from ..mapping.layout import sum_cells, true_values
from ..models.adapter import ModelAdapter, crop_canvas
from ..models.observe import leave_as_found
from ..models.trace import ModelTrace, Synthesis, symbol_bits


@dataclass(frozen=True, eq=False)
class Slice:
    """What N images cost, and how good they are, once a decoder has the channels of a latent up to ``end``.

    Example:
        >>> channels = model.g_s[0].in_channels
        >>> last = bitrate_ext.follow_slices(model, x, [channels // 2, channels // 2])[-1]
        >>> last.end == channels, last.bits.shape, last.psnr_db.shape
        (True, torch.Size([1]), torch.Size([1]))
    """

    first: int  # of the slice's own channels
    end: int
    slice_bits: Tensor  # float64 [N], of its own channels
    bits: Tensor  # float64 [N], up to here, those of the other latents too, which a decoder needs before
    psnr_db: Tensor  # float64 [N], of the reconstruction cut to [0, 1]; infinite where it is exact


def follow_slices(
    model: nn.Module | ModelAdapter,
    x: Tensor,
    groups: Sequence[int] | None = None,
    *,
    latent: str | None = None,
    synthesis: Synthesis = None,
    **forward_kwargs: Any,
) -> list[Slice]:
    """Follow bits and PSNR slice by slice, for a model that codes its channels in groups.

    The synthesis transform is given zeros in the place of channels that have not come yet. Models whose decoders fill
    them in with what they expect do better than that before the last slice, and the same with it.

    Args:
        model: as for ``BitrateMapper``, an ``nn.Module``, or a ``ModelAdapter`` of one.
        x: ``[N, C, H, W]`` in [0, 1], any H and W.
        groups: how many channels each slice has, in order; they add up to the latent's. Default: those that its
            entropy models of CompressAI's kind code one after the other.
        latent: its name. Default: the one with the most cells.
        synthesis: as for ``attribute``.
        **forward_kwargs: for the model's ``forward``.

    Raises:
        ValueError: no such latent, one that is coded as a whole, groups that do not add up; as ``attribute``.
        TypeError: as ``attribute``.

    Example:
        >>> channels = model.g_s[0].in_channels
        >>> slices = bitrate_ext.follow_slices(model, x, [channels // 2, channels // 2])
        >>> bool(slices[0].bits < slices[1].bits)
        True
    """
    adapter = ModelAdapter.of(model)
    with leave_as_found(adapter.module), torch.no_grad():
        names = EntropyModels(adapter.module).names
        with record_likelihoods(names) as calls:
            run = ModelTrace(adapter, x, forward_kwargs, synthesis)
        finest = max(run.likelihoods, key=lambda name: run.grid(name)[0] * run.grid(name)[1])
        latent = finest if latent is None else latent
        transform = run.synthesis(latent)
        values = run.likelihoods[latent]
        if groups is None:
            try:
                found = find_blocks(names, calls, {latent: values})
            except UnknownPlaceError:
                found = {}
            blocks = sorted((one.first, one.channels) for several in found.values() for one in several)
            if len(blocks) < 2:
                raise ValueError(
                    f"groups must be given: latent {latent!r} is not coded by CompressAI's entropy models in several "
                    f"groups of its {values.shape[1]} channels"
                )
            groups = [channels for _, channels in blocks]
        for count in groups:
            check_whole_number("each of groups", count, 1)
        if sum(groups) != values.shape[1]:
            raise ValueError(
                f"groups must add up to the {values.shape[1]} channels of latent {latent!r}, got {list(groups)}"
            )

        worth, _ = true_values(adapter.run(run.padded, run.forward_kwargs, fused=True)[1])
        channel_bits = symbol_bits(worth.pop(latent), adapter.unit).double().sum(dim=(2, 3))
        bits = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for one in sum_cells(worth, adapter.unit).values():
            bits = bits + one.sum(dim=(1, 2))
        slices, end = [], 0
        for count in groups:
            first, end = end, end + count
            own = channel_bits[:, first:end].sum(dim=1)
            bits = bits + own
            inputs = transform.inputs.clone()
            inputs[:, transform.channels][:, end:] = 0
            x_hat = crop_canvas(transform.transform(inputs), run.crop)
            error = (x_hat.double().clamp(0, 1) - x.double()).square().mean(dim=(1, 2, 3))
            slices.append(Slice(first, end, own, bits, -10 * error.log10()))
        return slices
