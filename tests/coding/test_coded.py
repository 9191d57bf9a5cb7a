"""Coded bits: the coder's cost of every symbol, its place, and a ledger that adds up to the strings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zoo
from cases import scaled
from coded_models import assert_closes, model_of, photograph
from torch import Tensor, nn

from bitrate_ext import BitrateMapper
from bitrate_ext.coding.rans import DRIFT, CdfTables, CodingError

ans = pytest.importorskip("compressai.ans")
SIZES = [(70, 101), (1, 130), (130, 1), (7, 5), (17, 64), (63, 65), (64, 64), (1, 1)]
pytestmark = pytest.mark.usefixtures("one_thread")


def pictures(size: tuple[int, int], number: int) -> Tensor:
    """Of one size: noise in odd cases, a part of the photograph in even ones; two of them in every fourth case."""
    height, width = size
    if number % 2:
        return torch.rand(1 + (number % 4 == 1), 3, height, width)
    top, left = 13 * number % 150, 29 * number % 200
    return photograph()[:, :, top : top + height, left : left + width]


@pytest.mark.medium
@pytest.mark.parametrize("name", zoo.SMALL)
def test_the_map_adds_up_to_the_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    returned: list[Any] = []
    compress = type(model).compress
    monkeypatch.setattr(
        model, "compress", lambda *args, **kwargs: returned.append(compress(model, *args, **kwargs)) or returned[-1]
    )
    mapper = BitrateMapper(model, bits="coded")
    escapes = 0
    for number, size in enumerate([*SIZES, *SIZES][: scaled(16)]):
        x = pictures(size, number + (number >= len(SIZES)))
        rate = zoo.set_rate(model, number % 8)
        result = mapper(x, **rate)
        strings = returned[-1]["strings"]
        assert_closes(result, strings, x)
        assert result.ledger is not None
        assert all((one.located + one.padding > 0).all() for one in result.ledger.latents.values())
        for name, one in result.ledger.latents.items():
            assert result.beside["escapes"][name].sum(dim=(1, 2)).tolist() == one.escapes.tolist()
            escapes += int(one.escapes.sum())
        assert not result.warnings
    assert escapes > 0


def test_coded_bits_have_no_gradients() -> None:
    mapper, x = (
        BitrateMapper(model_of("bmshj2018-factorized"), bits="coded"),
        torch.rand(1, 3, 9, 9, requires_grad=True),
    )
    assert not mapper(x).map.requires_grad
    with pytest.raises(ValueError, match="have no gradients"):
        mapper(x, gradients=True)


class Spike(nn.Module):
    """A transform whose output is zero but for one value of the second of two images."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.output = torch.zeros(2, *shape)

    def put(self, value: float, place: tuple[int, int, int]) -> None:
        self.output.zero_()
        self.output[(1, *place)] = value

    def forward(self, _: Tensor) -> Tensor:
        return self.output


def assert_spent_there(latents: dict[str, Any], name: str, place: tuple[int, int, int]) -> None:
    bits = latents[name].bits.clone()
    spent = float(bits[(1, *place)])
    bits[(1, *place)] = 0.0
    assert spent > float(bits.max()) + 4, (name, place)


@pytest.mark.medium
@pytest.mark.parametrize("name", zoo.SMALL)
def test_a_symbol_s_bits_are_where_it_is(name: str) -> None:
    model = zoo.coded_model(name)
    x = torch.rand(2, 3, 64, 128)
    rate = zoo.set_rate(model, 7)
    mapper = BitrateMapper(model, bits="coded")
    latent_channels = {latent: bits.shape[1] for latent, bits in mapper(x, **rate).channel_bits.items()}
    coder = mapper._source.args[0]
    with torch.no_grad():
        for part_name, part in model.named_modules():  # what follows the spike is not to be about it
            if part_name.endswith("context_prediction") or (
                ".channel_context." in part_name and hasattr(part, "weight")
            ):
                part.weight.zero_()
    analyses = {"y": Spike((latent_channels["y"], 4, 8)), "z": Spike((latent_channels.get("z", 1), 1, 2))}
    model.g_a = analyses["y"]
    for part in list(model.modules()):
        if hasattr(part, "h_a"):
            part.h_a = analyses["z"]
    for latent, places in {"y": [(0, 0, 0), (1, 1, 0), (2, 1, 5), (-1, 3, 7), (5, 2, 4)], "z": [(3, 0, 1)]}.items():
        for place in places:
            if latent in latent_channels:
                analyses[latent].put(500.0, place)
                (latents,) = coder.code(x, {"y": (4, 8), "z": (1, 2)}, 2, rate)
                assert_spent_there(latents, latent, place)
        analyses[latent].output.zero_()


# The cost of a symbol against a coder of whole numbers.


def coded_by_whole_numbers(symbols: list[int], cdf: list[int]) -> tuple[bytes, float]:
    """The string of rANS, and the bits of its last state that hold symbols."""
    state, words, last = 1 << 31, [], len(cdf) - 2

    def put(start: int, frequency: int, precision: int) -> None:
        nonlocal state
        if state >= (1 << 63 >> precision) * frequency:
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        state = (state // frequency << precision) + state % frequency + start

    steps: list[tuple[int, int, int]] = []
    for symbol in symbols:
        outside = symbol < 0 or symbol >= last
        value = last if outside else symbol
        steps.append((cdf[value], cdf[value + 1] - cdf[value], 16))
        if outside:
            raw = -2 * symbol - 1 if symbol < 0 else 2 * (symbol - last)
            nibbles = -(-raw.bit_length() // 4)
            steps.append((nibbles, 1, 4))
            steps += [(raw >> 4 * k & 15, 1, 4) for k in range(nibbles)]
    for step in reversed(steps):
        put(*step)
    words += [state >> 32, state & 0xFFFFFFFF]
    return b"".join(word.to_bytes(4, "little") for word in reversed(words)), np.log2(state) - 31


@pytest.mark.parametrize("number", range(20))
def test_costs_are_those_of_the_coder(number: int, rng: np.random.Generator) -> None:
    count = int(rng.integers(2, 400))
    frequencies = rng.integers(1, 2 ** int(rng.integers(1, 12)), int(rng.integers(2, 30)))
    cdf = np.cumsum([0, *frequencies])
    cdf = (cdf * (60000 / cdf[-1])).astype(int) + np.arange(len(cdf))
    table = [*cdf.tolist(), 65536]
    symbols = rng.integers(-3, len(table) + 3, count)
    symbols[rng.random(count) < 0.05] *= int(10 ** rng.integers(1, 6))
    arguments = (symbols.tolist(), [0] * count, [[*table, 0, 0]], [len(table)], [0])
    string = ans.RansEncoder().encode_with_indexes(*arguments)
    expected, held = coded_by_whole_numbers(symbols.tolist(), table)
    assert string == expected
    costs = CdfTables(*arguments[2:]).costs(*arguments[:2])
    assert abs(8 * len(string) - costs.bits.sum() - (64 - held)) <= DRIFT * costs.steps
    p = np.diff(table) / 65536
    np.testing.assert_allclose(costs.expected, -(p * np.log2(p)).sum(), rtol=1e-12)
    assert costs.escapes == ((symbols < 0) | (symbols >= len(table) - 2)).sum()


def test_offsets_and_several_tables() -> None:
    tables, sizes, offsets = (
        [[0, 1024, 65535, 65536, 0], [0, 1, 65524, 65528, 65536], [0, 65535, 65536, 0, 0]],
        [4, 5, 3],
        [7, -2, 0],
    )
    costs = CdfTables(tables, sizes, offsets).costs([8, -2, 7, -1, 0, 10, 9], [0, 1, 0, 1, 1, 0, 0])
    p = [64511 / 65536, 1 / 65536, 1024 / 65536, 65523 / 65536, 4 / 65536]
    np.testing.assert_allclose(costs.bits[:5], -np.log2(p), rtol=1e-11)
    np.testing.assert_allclose(costs.bits[5:], [16 + 4 * 2, 16 + 4], rtol=1e-14)  # escapes of 2 and of 0
    assert (costs.escapes, costs.steps) == (2, 7 + 2 + 1)


@pytest.mark.parametrize("symbol", [2**31 - 1, -(2**31), 2**28])
def test_symbols_that_would_never_end_are_refused(symbol: int) -> None:
    with pytest.raises(
        CodingError, match="steps outside of its table, or not a number: CompressAI's coder would never"
    ):
        CdfTables([[0, 65000, 65536]], [3], [0]).costs([0, symbol], [0, 0])
