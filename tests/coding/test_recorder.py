"""What is recorded of a coder, and when the costs of its tables are computed anew."""

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
    entropy_models, arguments = EntropyModels(nn.Module()), ([0, 1, 0], [0, 0, 0], *TABLES)
    plain, before = ans.RansEncoder.encode_with_indexes, ans.BufferedRansEncoder()
    before.encode_with_indexes(*arguments)
    with record_encoding(entropy_models) as outer:
        with record_encoding(entropy_models) as inner:
            first = ans.RansEncoder().encode_with_indexes(*arguments)
        second = ans.RansEncoder().encode_with_indexes(*arguments)
        unrecorded = before.flush()
    assert ans.RansEncoder.encode_with_indexes is plain
    assert [one.string for one in inner.strings] == [first]
    assert [one.string for one in outer.strings] == [second, unrecorded]
    assert [[len(run.costs.bits) for run in one.runs] for one in outer.strings] == [[3], []]


def test_costs_are_kept_while_their_tables_stay() -> None:
    entropy_models = EntropyModels(nn.Module())
    module: Any = Tables()
    assert not entropy_models.costs_are_known(module)
    first = entropy_models.tables_of(module, TABLES)
    assert entropy_models.costs_are_known(module)
    assert entropy_models.tables_of(module, TABLES) is first
    two = entropy_models.tables_of(
        module, ([[0, 1, 65536], [0, 2, 65536]], [3, 3], [0, 0])
    )  # made for one call: not the module's own
    assert len(two.last) == 2
    assert entropy_models.tables_of(module, TABLES) is first
    module._quantized_cdf += 0
    assert not entropy_models.costs_are_known(module)
    assert entropy_models.tables_of(module, TABLES) is not first
    module._quantized_cdf = module._quantized_cdf.clone()
    assert not entropy_models.costs_are_known(module)


def test_costs_are_not_kept_of_tables_whose_changes_do_not_show() -> None:
    entropy_models = EntropyModels(nn.Module())
    with torch.inference_mode():
        module: Any = Tables()
    for one in (module, Tables(_build_cdf=None)):
        first = entropy_models.tables_of(one, TABLES)
        assert not entropy_models.costs_are_known(one)
        assert entropy_models.tables_of(one, TABLES) is not first


def test_three_strings_beside_each_other_are_no_bitmap_of_channels() -> None:
    """Only ``GaussianMixtureConditional`` puts a tensor there; other entropy models may return strings in a tuple."""

    class Triple(Tables):
        def compress(self, inputs: Tensor) -> Any:
            strings = tuple(ans.RansEncoder().encode_with_indexes([0, 1, 0], [0, 0, 0], *TABLES) for _ in inputs)
            return strings, (1, 1)

    model = nn.Sequential(Triple(_cdf_length=torch.tensor([3]), _offset=torch.tensor([0])))
    with record_encoding(EntropyModels(model)) as recorder:
        model[0].compress(torch.zeros(3, 1))
    assert [coded.runs[0].call.coded_channels for coded in recorder.strings] == [None] * 3
