"""Work around what CompressAI 1.2.8 computes wrongly, or warn of it. The tests show each on CompressAI itself."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..memory import is_out_of_memory
from ..ops.functional import rate
from ..ops.rate.deferred import DeferredLikelihoods, defer
from .fuse import packed
from .observe import watch_calls

FLOOR = 1e-9  # CompressAI's least likelihood: 29.9 bits
HALF = (torch.float16, torch.bfloat16)


@contextlib.contextmanager
def apply_workarounds(model: Any) -> Iterator[list[str]]:
    """Correct the likelihoods of ``EntropyBottleneckVbr`` in the block to those of its quantisation step.

    CompressAI passes the step to ``_likelihood_variable`` in the place of another argument, so that it is never used.

    Yields:
        A list that a warning is added to for each correction.
    """
    warnings: list[str] = []

    def correct(name: str, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        step = kwargs.get("qs", args[2] if len(args) > 2 else None)
        if step is None:
            return None
        values, theirs = output
        if isinstance(theirs, DeferredLikelihoods):
            ours = defer(packed(module, values, step))
            wrong, right = (float(rate(p.detach()).sum()) for p in (theirs, ours))
            if math.isclose(wrong, right, rel_tol=1e-6):
                return None
        else:
            channels = values.shape[1]
            turned = values.transpose(0, 1)
            try:
                likelihoods = module._likelihood_variable(turned.reshape(channels, 1, -1), qs=step)[0]
            except (TypeError, RuntimeError, AttributeError) as error:  # another method of that name
                if is_out_of_memory(error):
                    raise
                warnings.append(f"the likelihoods of model.{name} cannot be checked for its quantisation step: {error}")
                return None
            if module.use_likelihood_bound:
                likelihoods = module.likelihood_lower_bound(likelihoods)
            ours = likelihoods.reshape(turned.shape).transpose(0, 1).contiguous()
            if torch.allclose(ours, theirs, rtol=1e-5, atol=0):
                return None
            wrong, right = (-p.detach().double().log2().sum().item() for p in (theirs, ours))
        warnings.append(
            f"the likelihoods of model.{name} leave its quantisation step of {float(step.detach()):.3g} out "
            f"({wrong:,.0f} bits); corrected ({right:,.0f} bits)"
        )
        return values, ours

    parts = model.named_modules() if isinstance(model, nn.Module) else ()
    with watch_calls([(name, part) for name, part in parts if hasattr(part, "_likelihood_variable")], correct):
        yield warnings


def likelihood_warnings(name: str, likelihoods: Tensor, least: float) -> list[str]:
    """Return warnings of a latent's likelihoods in half precision or at CompressAI's floor, given their least."""
    p = likelihoods.detach()
    if p.dtype in HALF:
        zeros = p.numel() - int(torch.count_nonzero(p))
        return [
            f"the likelihoods of latent {name!r} are {str(p.dtype).removeprefix('torch.')}, too coarse next to 1 "
            f"and for CompressAI's floor of 1e-9: {zeros:,} of {p.numel():,} are 0; run them in float32"
        ]
    bound = FLOOR * (1 + 1e-6)
    floored = int(torch.count_nonzero(p <= bound)) if least <= bound else 0
    if not floored:
        return []
    return [
        f"{floored:,} of {p.numel():,} likelihoods of latent {name!r} are at CompressAI's floor of 1e-9: the "
        "estimate stops at 29.9 bits there, whatever the coder spends"
    ]
