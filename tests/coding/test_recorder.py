"""What is heard of a coder, and when the costs of its tables are computed anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitrate_ext.coding.recorder import EntropyModels, record_encoding

ans = pytest.importorskip("compressai.ans")
TABLES = ([[0, 40000, 65536]], [3], [0])


class Tables(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self._quantized_cdf: Tensor = torch.tensor(TABLES[0])
        self.__dict__.update(attributes)


def test_a_block_within_a_block_ends_nothing() -> None:
    memory, arguments = EntropyModels(nn.Module()), ([0, 1, 0], [0, 0, 0], *TABLES)
    plain, before = ans.RansEncoder.encode_with_indexes, ans.BufferedRansEncoder()
    before.encode_with_indexes(*arguments)
    with record_encoding(memory) as outer:
        with record_encoding(memory) as inner:
            first = ans.RansEncoder().encode_with_indexes(*arguments)
        second = ans.RansEncoder().encode_with_indexes(*arguments)
        unheard = before.flush()
    assert ans.RansEncoder.encode_with_indexes is plain
    assert [one.string for one in inner.strings] == [first]
    assert [one.string for one in outer.strings] == [second, unheard]
    assert [[len(part.costs.bits) for part in one.runs] for one in outer.strings] == [[3], []]


def test_costs_are_kept_while_their_tables_stay() -> None:
    memory = EntropyModels(nn.Module())
    module: Any = Tables()
    assert not memory.costs_are_known(module)
    first = memory.tables_of(module, TABLES)
    assert memory.costs_are_known(module)
    assert memory.tables_of(module, TABLES) is first
    two = memory.tables_of(
        module, ([[0, 1, 65536], [0, 2, 65536]], [3, 3], [0, 0])
    )  # made for one call: not the module's own
    assert len(two.last) == 2
    assert memory.tables_of(module, TABLES) is first
    module._quantized_cdf += 0
    assert not memory.costs_are_known(module)
    assert memory.tables_of(module, TABLES) is not first
    module._quantized_cdf = module._quantized_cdf.clone()
    assert not memory.costs_are_known(module)


def test_costs_are_not_kept_of_tables_whose_changes_do_not_show() -> None:
    memory = EntropyModels(nn.Module())
    with torch.inference_mode():
        module: Any = Tables()
    for one in (module, Tables(_build_cdf=None)):
        first = memory.tables_of(one, TABLES)
        assert not memory.costs_are_known(one)
        assert memory.tables_of(one, TABLES) is not first
