"""Books by hand."""

from __future__ import annotations

import torch

from bitrate_ext.coding.ledger import Ledger, LedgerBuilder
from bitrate_ext.coding.rans import overhead_is_possible


def test_overheads_that_a_coder_can_have() -> None:
    """The state has 64 bits, of which up to 32 hold symbols; a step may round 2 log2(1 + 2**-15) bits away."""
    possible = [overhead_is_possible(bits, 0) for bits in (31.9, 32.0, 48.0, 64.0, 64.1)]
    assert possible == [False, True, True, True, False]
    assert [overhead_is_possible(32 - bits, 1000) for bits in (0.08, 0.1)] == [True, False]
    assert [overhead_is_possible(64 + bits, 1000) for bits in (0.08, 0.1)] == [True, False]


def test_strings_of_two_images() -> None:
    books = LedgerBuilder(2)
    for image, string_bytes, bits, escapes in ((0, 10, 40.0, 3), (1, 20, 120.0, 0), (1, 30, 200.0, 2), (0, 8, 30.0, 1)):
        books.enter(image, string_bytes, bits, escapes, 5)
    account = books.account(torch.tensor([50.0, 300.0]), torch.tensor([20.0, 20.0]))
    assert account.overhead.tolist() == [40 + 34, 40 + 40]
    assert account.string_bytes.tolist() == [18, 50]
    assert account.strings.tolist() == [2, 2]
    assert account.escapes.tolist() == [4, 2]
    assert account.overhead_possible.tolist() == [True, True]
    assert account.closure.tolist() == [50 + 20 + 74 - 144, 300 + 20 + 80 - 400]
    ledger = Ledger({"y": account, "z": account})
    assert ledger.string_bytes.tolist() == [36, 100]
    assert ledger.container_bytes.tolist() == [23 + 4 * 4, 23 + 4 * 4]  # of 23 bytes, and 4 for each string's length
    assert ledger.closes.tolist() == [True, True]
    off = books.account(torch.tensor([50.0 + 2e-6, 300.0 - 0.9e-6], dtype=torch.float64), torch.tensor([20.0, 20.0]))
    assert Ledger({"y": account, "z": off}).closes.tolist() == [False, True]
    books.enter(1, 10, 60.0, 0, 5)  # 20 bits are less than a state
    books.enter(1, 10, 40.0, 0, 5)
    wrong = books.account(torch.tensor([50.0, 400.0]), torch.tensor([20.0, 20.0]))
    assert wrong.closure.tolist() == [0, 0]
    assert Ledger({"y": wrong}).closes.tolist() == [True, False]


def test_books_of_very_long_strings_close_to_a_part_of_them() -> None:
    books = LedgerBuilder(1)
    books.enter(0, 10**12, 8e12 - 40, 0, 5)
    for wrong, closes in ((7.9, True), (8.1, False)):
        account = books.account(torch.tensor([8e12 - 40 + wrong], dtype=torch.float64), torch.zeros(1))
        assert Ledger({"y": account}).closes.tolist() == [closes]
