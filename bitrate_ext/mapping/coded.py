"""Map what a model really writes: each symbol's bits in the range coder, laid out as estimates are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cells.outside import outside_bits
from ..choices import CODED, ESCAPES, ESTIMATED, EXPECTED
from ..coding.coder import CodedLatent, Coder, noise
from ..coding.ledger import Account, Ledger
from ..coding.rans import CodingError
from ..coding.symbol_layout import INSTEAD
from ..models.adapter import ModelAdapter
from ..models.padding import Crop
from ..ops.projection import Projection
from .channels import ChannelMaps
from .guides import Guides, are_guided, make_guides
from .layout import BitrateResult, estimate, lay_out, map_dtype, run_forward


def map_coded(
    coder: Coder,
    adapter: ModelAdapter,
    projections: Mapping[str, Projection],
    padded: Tensor,
    crop: Crop,
    forward_kwargs: dict[str, Any],
    *,
    gap: bool,
    channels: bool = False,
) -> BitrateResult:
    """Map what ``compress`` writes of padded images; see ``BitrateMapper``."""
    size = (padded.shape[2], padded.shape[3])
    if not coder.channels:
        sample = noise((1, padded.shape[1], *adapter.proven), padded)
        coder.learn(sample, adapter.fit_arguments(forward_kwargs, sample.shape))
    (latents,) = coder.code(padded, adapter.grids(size), padded.shape[0], forward_kwargs)
    missing = [name for name in adapter.strides if name not in latents]
    if missing:
        raise CodingError(f"nothing that compress() returned belongs to latent {missing[0]!r}; {INSTEAD}")
    latents = {name: latents[name] for name in adapter.strides}
    warnings: list[str] = []
    # A coder's escapes have a limit, too: beside it stands the estimate that is stopped by the floor.
    wanted = gap or are_guided(projections)
    ran = run_forward(adapter, padded, forward_kwargs, fused=False) if wanted else None
    guides = make_guides(projections, ran and ran[0].get("x_hat"), padded, warnings)
    result = lay_out_coded(latents, projections, size, crop, padded, guides)
    if channels:
        values = {name: one.bits.to(padded.device) for name, one in latents.items()}
        symbols = ChannelMaps(values, "bits", projections, size, crop, map_dtype([padded]), guides)
        result = replace(result, symbols=symbols)
    warnings += coder.warnings
    if gap:
        estimated = estimate(adapter, projections, padded, crop, forward_kwargs, torch.float64, ran=ran)
        accounts = _compared(result, estimated)
        warnings = [*estimated.warnings, *coder.warnings, *_disagreements(coder, latents, accounts)]
        beside = result.beside | {ESTIMATED: {name: grid.bits for name, grid in estimated.grids.items()}}
        result = replace(
            result, x_hat=estimated.x_hat, gap=result.map - estimated.map, ledger=Ledger(accounts), beside=beside
        )
    return in_dtype(replace(result, warnings=tuple(warnings)), padded.dtype)


def lay_out_coded(
    latents: Mapping[str, CodedLatent],
    projections: Mapping[str, Projection],
    canvas: tuple[int, int],
    crop: Crop,
    padded: Tensor,
    guides: Guides | None = None,
) -> BitrateResult:
    """Lay coded latents out in float64, on the device of the padded images, with their ledger."""
    summed = {name: one.costs.sum(dim=2).to(padded.device) for name, one in latents.items()}
    cells, expected, escapes = ({name: one[:, place] for name, one in summed.items()} for place in range(3))
    result = lay_out(cells, projections, canvas, crop, torch.float64, guides=guides)
    accounts = {
        name: latents[name].ledger.account(
            result.maps[name].sum(dim=(1, 2, 3)),
            outside_bits(one, projections[name], canvas, crop, (guides or {}).get(name)),
        )
        for name, one in cells.items()
    }
    return replace(
        result,
        bits=CODED,
        channel_bits={name: one.bits.sum(dim=(2, 3)).to(padded.device) for name, one in latents.items()},
        ledger=Ledger(accounts),
        entropy=lay_out(expected, projections, canvas, crop, torch.float64, guides=guides, each=False).map,
        beside={EXPECTED: expected, ESCAPES: escapes},
    )


def in_dtype(result: BitrateResult, dtype: torch.dtype) -> BitrateResult:
    """Return the result with maps in float32, unless the model computes in float64."""
    if dtype == torch.float64:
        return result
    return replace(
        result,
        map=result.map.float(),
        maps={name: one.float() for name, one in result.maps.items()},
        latent_bits={name: one.float() for name, one in result.latent_bits.items()},
        entropy=None if result.entropy is None else result.entropy.float(),
        gap=None if result.gap is None else result.gap.float(),
    )


def _compared(result: BitrateResult, estimated: BitrateResult) -> dict[str, Account]:
    """Return the ledger's accounts with the estimate beside them."""
    assert result.ledger is not None
    accounts = {}
    for name, account in result.ledger.latents.items():
        ours, theirs = (one.latent_bits[name].double().cpu() for one in (result, estimated))
        coded, apart = ours.sum(dim=(1, 2)), (ours - theirs).abs().sum(dim=(1, 2))
        accounts[name] = replace(account, estimated=theirs.sum(dim=(1, 2)), disagreement=apart / coded)
    return accounts


def _disagreements(coder: Coder, latents: Mapping[str, CodedLatent], accounts: Mapping[str, Account]) -> Iterator[str]:
    """Yield a warning for each latent that is coded position after position, but estimated from other roundings."""
    by_position = {block.latent for blocks in coder.blocks.values() for block in blocks if block.positions}
    for name, latent in latents.items():
        disagreement = accounts[name].disagreement
        if latent.positions and name not in by_position and disagreement is not None:
            yield (
                f"forward() and compress() take the context of latent {name!r} from values that are rounded in "
                f"different ways: cell by cell the estimate is {100 * float(disagreement.mean()):.1f} % off"
            )
