"""Check a coder's tables: there, sound, and those of the model's parameters.

CompressAI trusts them, and its ``update`` leaves old ones in place. The tests show that on CompressAI itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..memory import is_out_of_memory
from ..models.copies import copy_model
from .rans import PRECISION, CodingError
from .recorder import EncodeRecorder, EntropyModels, has_own_tables

SLACK = 2  # of 2^16: what tables made on another machine may differ by in one frequency


class TableChecks:
    """The coder's tables of a model: there, sound, and those of its parameters."""

    def __init__(self, entropy_models: EntropyModels) -> None:
        self.entropy_models = entropy_models
        self._verdicts: dict[tuple[nn.Module, float | None], tuple[Tensor, bool | str]] = {}

    def check(self, modules: Iterable[nn.Module]) -> None:
        """Check tables before the coder runs, which trusts them: damaged ones would crash the process.

        Raises:
            ValueError: there are none.
            CodingError: they are damaged.
        """
        for module in modules:
            name = self.entropy_models.names[module]
            if has_own_tables(module) or self.entropy_models.costs_are_known(module):
                continue
            tables: Any = module
            cdf, length, offset = tables._quantized_cdf, tables._cdf_length, tables._offset
            if cdf.numel() == 0:
                raise ValueError(
                    f"model.{name} has no tables for the coder; call model.update(), or what else its code makes them "
                    "with, after loading or training, or ask for bits='estimated'"
                )
            if not _sound(cdf, length, offset):
                raise CodingError(
                    f"the coder's tables in model.{name} are damaged; call model.update(force=True), or ask for "
                    "bits='estimated'"
                )

    def warnings(self, recorder: EncodeRecorder) -> list[str]:
        """Warn, after coding, of tables in use that are not those of the parameters.

        They are compared when they are first used, or at another step, or where ``update`` has made others since.
        """
        used: dict[tuple[Any, float | None], Any] = {}
        for coded in recorder.strings:
            for run in coded.runs:
                step = run.call.step if run.call else None
                for module in [run.call.module] if run.call else dict.fromkeys(one for one, _ in run.indexed):
                    used[module, None if step is None else float(torch.as_tensor(step).detach())] = step
        return [warning for (module, key), step in used.items() for warning in self._warnings(module, key, step)]

    def _warnings(self, module: Any, key: float | None, step: Any) -> Iterator[str]:
        name = self.entropy_models.names[module]
        if has_own_tables(module):
            yield (
                f"model.{name} tells which channels it has coded, and their range, beside its string: that is in no "
                "string, and not in the ledger"
            )
            return
        known = self._verdicts.get((module, key))
        if known is None or known[0] is not module._quantized_cdf:
            known = self._verdicts[module, key] = module._quantized_cdf, _verdict(module, step)
        if isinstance(known[1], str):
            yield f"the coder's tables in model.{name} cannot be compared with its parameters: {known[1]}"
        elif not known[1]:
            rate = "" if key is None else f" at its quantisation step of {key:.3g}"
            call = "update(force=True)" if key is None else "update(force=True, scale=...) for each rate"
            yield (
                f"the coder's tables in model.{name} are not those of its parameters{rate}: the file is larger than it "
                f"need be, or cannot be decoded; call model.{call}"
            )


def _sound(cdf: Tensor, length: Tensor, offset: Tensor) -> bool:
    """Return whether the coder can use tables: each rises from 0 to 2^16 in whole steps within its length."""
    if cdf.dim() != 2 or length.shape != cdf.shape[:1] or offset.shape != cdf.shape[:1]:
        return False
    if cdf.is_floating_point() or int(length.min()) < 3 or int(length.max()) > cdf.shape[1]:
        return False
    inside = torch.arange(1, cdf.shape[1], device=cdf.device) < length[:, None]
    rises = (cdf.diff(dim=1) > 0) | ~inside
    ends = cdf.gather(1, length.long()[:, None] - 1) == 2**PRECISION
    return bool(rises.all() & ends.all() & (cdf[:, 0] == 0).all())


def _verdict(module: nn.Module, step: Any) -> bool | str:
    """Return whether a module's tables are those of its parameters, or why that cannot be told."""
    try:
        return _match(module, _rebuilt(module, step))
    except Exception as error:  # of a model's own code; its bits do not depend on it
        if is_out_of_memory(error):
            raise
        return str(error) or type(error).__name__


def _rebuilt(module: nn.Module, step: Any) -> Any:
    """Return a copy of an entropy model with tables of its parameters."""
    fresh: Any = copy_model(module)
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
