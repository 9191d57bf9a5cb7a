"""Where symbols are laid, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from bitrate_ext.coding.rans import CodingError, SymbolCosts
from bitrate_ext.coding.recorder import EncodeCall, EncodedString, SymbolRun
from bitrate_ext.coding.symbol_layout import ChannelBlock, SymbolLocator

ONE, OTHER, LAST = nn.Identity(), nn.Identity(), nn.Identity()
GRIDS = {"y": (2, 3), "z": (1, 2), "w": (1, 2)}
BLOCKS = {
    ONE: [ChannelBlock("y", 1, 2, False)],
    OTHER: [ChannelBlock("z", 0, 1, False), ChannelBlock("z", 1, 2, False)],
    LAST: [ChannelBlock("w", 0, 2, False)],
}


def locator() -> SymbolLocator:
    return SymbolLocator({ONE: "one", OTHER: "other"}, {}, BLOCKS, GRIDS)


def run(count: int, call: EncodeCall | None = None, indexed: Any = (), image: int = -1) -> SymbolRun:
    bits = np.arange(count, dtype=np.float64)
    costs = SymbolCosts(bits, bits + 100, bits == 1, count, np.zeros(count, np.int64))
    return SymbolRun(costs, call, image, list(indexed))


def laid(located: list[Any], latent: str, channels: int) -> tuple[list[Any], list[Any]]:
    target = np.zeros((3, channels, *GRIDS[latent]))
    for one in located:
        if one.latent == latent:
            one.add_to(target)
    np.testing.assert_array_equal(target[2], target[0] == 1)
    return target[0].tolist(), target[1].tolist()


def test_positions_one_after_the_other_each_with_its_channels() -> None:
    place = locator()
    for image in (0, 1, 2):
        (found,) = located = place.locate(EncodedString(b"", [run(12, indexed=[(ONE, (1, 2, 1, 1))] * 6)]))
        assert (found.image, found.positions) == (image, True)
        bits, expected = laid(located, "y", 4)
        nothing = [[0, 0, 0], [0, 0, 0]]
        assert bits == [nothing, [[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]], nothing]
        assert expected[1] == [[100, 102, 104], [106, 108, 110]]


def test_blocks_of_several_modules_in_one_string() -> None:
    shapes = [(ONE, (1, 2, 2, 3)), (OTHER, (1, 1, 1, 2)), (OTHER, (1, 2, 1, 2)), *2 * [(LAST, (1, 2, 1, 1))]]
    located = locator().locate(EncodedString(b"", [run(22, indexed=shapes)]))
    assert [(one.latent, one.image, one.positions) for one in located] == [(name, 0, name == "w") for name in "yzzw"]
    assert laid(located, "w", 2)[0] == [[[18, 20]], [[19, 21]]]
    assert laid(located, "y", 3)[0] == [[[0, 0, 0], [0, 0, 0]], [[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert laid(located, "z", 3) == ([[[12, 13]], [[14, 15]], [[16, 17]]], [[[112, 113]], [[114, 115]], [[116, 117]]])


def test_a_single_cell_is_coded_all_at_once() -> None:
    alone = SymbolLocator({}, {}, BLOCKS, {"w": (1, 1)})
    assert not alone.locate(EncodedString(b"", [run(2, indexed=[(LAST, (1, 2, 1, 1))])]))[0].positions


def test_calls_take_a_module_s_blocks_in_turn() -> None:
    for number, (count, channels) in enumerate([(2, 1), (4, 2), (2, 1)]):
        call = EncodeCall(OTHER, number, (1, channels, 1, 2))
        (found,) = located = locator().locate(EncodedString(b"", [run(count, call, image=7)]))
        assert (found.image, found.positions) == (7, False)
        assert laid(located, "z", 3)[0][1][0] == [[0, 0], [0, 1], [0, 0]][number]
    some = EncodeCall(OTHER, 1, (1, 2, 1, 2), coded_channels=[1])
    assert laid(locator().locate(EncodedString(b"", [run(2, some)])), "z", 3)[1] == [[[0, 0]], [[0, 0]], [[100, 101]]]


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (run(12, indexed=[(ONE, (2, 2, 2, 3))]), "24: where the symbols sit cannot be told"),
        (run(24, indexed=[(ONE, (2, 2, 2, 3))]), "one string holds 2 images; code them one at a time"),
        (run(12, indexed=[(ONE, (1, 2, 3, 2))]), r"made indexes of the shapes \[\(1, 2, 3, 2\)\]"),
        (run(4, indexed=[(ONE, (1, 2, 1, 1))] * 2), "made indexes of the shapes"),
        (run(6, indexed=[(ONE, (1, 1, 1, 1))] * 6), "made indexes of the shapes"),
        (run(2, indexed=[(OTHER, (1, 1, 1, 2))]), r"made indexes of the shapes \[\(1, 1, 1, 2\)\]"),
        (run(6, indexed=[(OTHER, (3, 1, 1, 2))]), r"made indexes of the shapes \[\(3, 1, 1, 2\)\]"),
        (run(6, EncodeCall(ONE, 0, (1, 1, 2, 3))), r"coded a tensor \[1, 1, 2, 3\], 2 channels were expected"),
        (run(2, EncodeCall(ONE, 0, (1, 2))), r"coded a tensor \[1, 2\], 2 channels were expected"),
        (run(12, EncodeCall(ONE, 0, (1, 2, 3, 2))), r"coded a grid \[3, 2\] of a latent of \[2, 3\] cells"),
        (run(11, EncodeCall(ONE, 0, (1, 2, 2, 3))), "handed 11 symbols over for 12 places"),
        (run(1, EncodeCall(nn.Identity(), 0, (1, 1, 1, 1))), "Identity sit cannot be told: it took no part in forward"),
    ],
)
def test_symbols_without_a_place_are_refused(part: SymbolRun, what: str) -> None:
    with pytest.raises(CodingError, match=what):
        locator().locate(EncodedString(b"", [part]))
