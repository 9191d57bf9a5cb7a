"""What tests of coded bits share: models with tables, and the ledger's promise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import zoo
from torch import Tensor

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models import demo_codec


@lru_cache
def model_of(name: str) -> Any:
    """One for all tests, none of which changes it."""
    return zoo.coded_model(name)


@lru_cache
def photograph() -> Tensor:
    return load_image(demo_codec.demo_photograph())


def string_bits(strings: Any) -> int:
    """Of all that ``compress`` returned, by a walk of its own."""
    if isinstance(strings, bytes):
        return 8 * len(strings)
    return sum(map(string_bits, strings.values() if isinstance(strings, dict) else strings))


def assert_closes(result: bitrate_ext.BitrateResult, strings: Any, x: Tensor) -> None:
    """Every bit of the strings is in the map, in the padding or in the coder's overhead."""
    ledger = result.ledger
    assert ledger is not None
    assert int(8 * ledger.string_bytes.sum()) == string_bits(strings)
    assert ledger.closes.all()
    located = torch.stack([one.located for one in ledger.latents.values()]).sum(dim=0)
    padding = torch.stack([one.padding for one in ledger.latents.values()]).sum(dim=0)
    overhead = torch.stack([one.overhead for one in ledger.latents.values()]).sum(dim=0)
    assert (located + padding + overhead - 8 * ledger.string_bytes).abs().max() <= 1e-6
    shown = result.map.double().sum(dim=(1, 2, 3))
    assert ((shown - located).abs() <= 6e-8 * located + 1e-9).all()
    assert ((shown + result.padding_bits - result.total_bits).abs() <= 6e-8 * result.total_bits).all()
    assert torch.allclose(result.bpp, result.total_bits / (x.shape[2] * x.shape[3]), rtol=1e-12)
    for name, account in ledger.latents.items():
        each = account.overhead / account.strings
        assert ((each > 32 - 1e-3) & (each <= 64 + 1e-3)).all(), name
        channels = result.channel_bits[name].sum(dim=1)
        assert torch.allclose(channels, account.located + account.padding, rtol=1e-9)
