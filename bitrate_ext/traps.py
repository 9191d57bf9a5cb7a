"""Traps of CompressAI 1.2.8: each is handled or told. The tests show each of them on CompressAI itself."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .listening import Listener, Memory, has_own_tables
from .range_coder import PRECISION, CodingError

FLOOR = 1e-9  # CompressAI's least likelihood: 29.9 bits
HALF = (torch.float16, torch.bfloat16)
SLACK = 2  # of 2^16: what tables made on another machine may differ by in one frequency


@contextlib.contextmanager
def corrected(model: Any) -> Iterator[list[str]]:
    """For the time of the block, likelihoods of ``EntropyBottleneckVbr`` are those of its quantisation step.

    CompressAI passes the step to ``_likelihood_variable`` in the place of another argument, so that it is never used.
    Yields notes on what was corrected.
    """
    notes: list[str] = []
    handles = []
    if isinstance(model, nn.Module):
        for name, part in model.named_modules():
            if hasattr(part, "_likelihood_variable"):
                handles.append(part.register_forward_hook(_correction(name, notes), with_kwargs=True))
    try:
        yield notes
    finally:
        for handle in handles:
            handle.remove()


def _correction(name: str, notes: list[str]) -> Any:
    def correct(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        step = kwargs.get("qs", args[2] if len(args) > 2 else None)
        if step is None:
            return None
        values, theirs = output
        channels = values.shape[1]
        turned = values.transpose(0, 1)
        likelihoods = module._likelihood_variable(turned.reshape(channels, 1, -1), qs=step)[0]
        if module.use_likelihood_bound:
            likelihoods = module.likelihood_lower_bound(likelihoods)
        ours = likelihoods.reshape(turned.shape).transpose(0, 1).contiguous()
        if torch.allclose(ours, theirs, rtol=1e-5, atol=0):
            return None
        wrong, right = (-p.detach().double().log2().sum().item() for p in (theirs, ours))
        notes.append(
            f"the likelihoods of model.{name} leave its quantisation step of {float(step.detach()):.3g} out "
            f"({wrong:,.0f} bits); corrected ({right:,.0f} bits)"
        )
        return values, ours

    return correct


def likelihood_notes(likelihoods: Mapping[str, Tensor]) -> list[str]:
    """What is to be told of likelihoods ``[N, C, h, w]``: half precision, and those at the floor."""
    notes = []
    for name, p in likelihoods.items():
        if p.dtype in HALF:
            zeros = int((p == 0).sum())
            notes.append(
                f"the likelihoods of latent {name!r} are {str(p.dtype).removeprefix('torch.')}, too coarse next to 1 "
                f"and for CompressAI's floor of 1e-9: {zeros:,} of {p.numel():,} are 0; run them in float32"
            )
            continue
        floored = int((p.detach() <= FLOOR * (1 + 1e-6)).sum())
        if floored:
            notes.append(
                f"{floored:,} of {p.numel():,} likelihoods of latent {name!r} are at CompressAI's floor of 1e-9: the "
                "estimate stops at 29.9 bits there, whatever the coder spends"
            )
    return notes


class TableChecks:
    """The coder's tables of a model: there, sound, and those of its parameters."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._verdicts: dict[tuple[nn.Module, float | None], tuple[Tensor, bool]] = {}

    def check(self, modules: Iterable[nn.Module]) -> None:
        """Before the coder runs, which trusts its tables: with damaged ones it would crash the process.

        Raises:
            ValueError: there are none.
            CodingError: they are damaged.
        """
        for module in modules:
            name = self.memory.names[module]
            if has_own_tables(module) or self.memory.costs_are_known(module):
                continue
            tables: Any = module
            cdf, length, offset = tables._quantized_cdf, tables._cdf_length, tables._offset
            if cdf.numel() == 0:
                raise ValueError(
                    f"model.{name} has no tables for the coder; call model.update() after loading or training, or "
                    "ask for bits='estimated'"
                )
            if not _sound(cdf, length, offset):
                raise CodingError(
                    f"the coder's tables in model.{name} are damaged; call model.update(force=True), or ask for "
                    "bits='estimated'"
                )

    def notes(self, heard: Listener) -> list[str]:
        """After coding: whether the tables that were used are those of the parameters.

        They are compared when they are first used, or at another step, or where ``update`` has made others since.
        """
        used: dict[tuple[Any, float | None], Any] = {}
        for coded in heard.strings:
            for part in coded.parts:
                step = part.call.step if part.call else None
                for module in [part.call.module] if part.call else dict.fromkeys(one for one, _ in part.indexed):
                    used[module, None if step is None else float(step.detach())] = step
        return [note for (module, key), step in used.items() for note in self._note(module, key, step)]

    def _note(self, module: Any, key: float | None, step: Any) -> Iterator[str]:
        name = self.memory.names[module]
        if has_own_tables(module):
            yield (
                f"model.{name} tells which channels it has coded, and their range, beside its string: that is in no "
                "string, and not in the ledger"
            )
            return
        tables, match = self._verdicts.get((module, key), (None, True))
        if tables is not module._quantized_cdf:
            match = _match(module, _rebuilt(module, step))
            self._verdicts[module, key] = module._quantized_cdf, match
        if not match:
            rate = "" if key is None else f" at its quantisation step of {key:.3g}"
            call = "update(force=True)" if key is None else "update(force=True, scale=...) for each rate"
            yield (
                f"the coder's tables in model.{name} are not those of its parameters{rate}: the file is larger than it "
                f"need be, or cannot be decoded; call model.{call}"
            )


def _sound(cdf: Tensor, length: Tensor, offset: Tensor) -> bool:
    """Whether the coder can use tables: each rises from 0 to 2^16 in whole steps within its length."""
    if cdf.dim() != 2 or length.shape != cdf.shape[:1] or offset.shape != cdf.shape[:1]:
        return False
    if cdf.is_floating_point() or int(length.min()) < 3 or int(length.max()) > cdf.shape[1]:
        return False
    inside = torch.arange(1, cdf.shape[1], device=cdf.device) < length[:, None]
    rises = (cdf.diff(dim=1) > 0) | ~inside
    ends = cdf.gather(1, length.long()[:, None] - 1) == 2**PRECISION
    return bool(rises.all() & ends.all() & (cdf[:, 0] == 0).all())


def _rebuilt(module: nn.Module, step: Any) -> Any:
    """A copy of an entropy model with tables of its parameters."""
    fresh: Any = copy.deepcopy(module)
    if step is not None:
        fresh.update_variable(force=True, qs=step)
    elif hasattr(fresh, "scale_table"):
        fresh.update()
    else:
        fresh.update(force=True)
    return fresh


def _match(module: Any, fresh: Any) -> bool:
    if not torch.equal(module._cdf_length.cpu(), fresh._cdf_length.cpu()):
        return False
    if not torch.equal(module._offset.cpu(), fresh._offset.cpu()):
        return False
    width = int(module._cdf_length.max())
    theirs, ours = (one._quantized_cdf[:, :width].cpu().diff(dim=1) for one in (module, fresh))
    inside = torch.arange(1, width) < module._cdf_length.cpu()[:, None]
    return bool((((theirs - ours).abs() <= SLACK) | ~inside).all())
