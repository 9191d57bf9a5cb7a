"""Cost each symbol exactly as CompressAI's range coder spends bits on it, from its integer tables.

CompressAI codes with rANS (after F. Giesen's ``ryg_rans``): a 64-bit state, 32-bit words, tables of cumulated
frequencies out of 2^16, and for symbols outside of their table an escape of 4-bit nibbles. A symbol of frequency f
costs ``16 - log2 f`` bits. What a string has beyond the sum of its symbols is the final state, which is written whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

PRECISION = 16  # frequencies are out of 2^16
NIBBLE = 4  # bits of one step of an escape
MOST_STEPS = 15  # the largest count that one nibble holds before another one follows

# Escapes of 2^28 and more never end: CompressAI's coder counts their nibbles by shifts of 32 bits, which do nothing.
# What is not a number becomes the symbol -2^31.
ESCAPE_LIMIT = 2**28

# The final state has 64 bits, and of these log2(state) - 31, between 0 and 32, hold symbols.
LEAST_OVERHEAD, MOST_OVERHEAD = 32.0, 64.0
# Bits that rounding of the state may add or take, a step. A step leaves a state x' with |x' - exact| < 2^16 where both
# are at least 2^31, and a word that goes out takes less than 2^-15 of the state with it.
DRIFT = 2 * math.log2(1 + 2.0**-15)


class CodingError(ValueError):
    """A model whose coder cannot be recorded, or must not be run; says why, and what can be asked for instead.

    Example:
        >>> try:
        ...     bitrate_ext.BitrateMapper(own_model, bits="coded")(x)
        ... except bitrate_ext.CodingError as error:
        ...     print("its coder is another one")
        its coder is another one
    """


@dataclass(frozen=True, eq=False)
class SymbolCosts:
    """What one call of the coder spends, symbol by symbol, in its order."""

    bits: NDArray[np.float64]  # [symbols]
    expected: NDArray[np.float64]  # [symbols]: what the symbol's table expects, the entropy of its frequencies
    escaped: NDArray[np.bool_]  # [symbols]: outside of their table
    steps: int  # of the coder: symbols and the nibbles of escapes
    table: NDArray[np.int64]  # [symbols]: which table each is of

    @property
    def escapes(self) -> int:
        """Symbols outside of their table."""
        return int(self.escaped.sum())

    @property
    def each(self) -> NDArray[np.float64]:
        """Bits, expected bits and escapes of each symbol, ``[3, symbols]``."""
        return np.stack([self.bits, self.expected, self.escaped])


class CdfTables:
    """Costs of every symbol of a coder's tables, from the last three arguments of ``encode_with_indexes``.

    Args:
        cdfs: tables of cumulated frequencies, from 0 to 2^16; the last frequency of a table is that of an escape.
        sizes: entries of each table that count.
        offsets: the symbol that each table begins with.
    """

    def __init__(self, cdfs: Sequence[Sequence[int]], sizes: Sequence[int], offsets: Sequence[int]) -> None:
        lengths = np.array(sizes, np.int64)
        rows = (cdf[:size] for cdf, size in zip(cdfs, sizes, strict=True))
        flat = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        frequency = np.diff(flat, append=0)
        counts = frequency > 0  # all but the steps from one table to the next
        self.cost = np.zeros(len(flat))  # bits
        self.cost[counts] = PRECISION - np.log2(frequency[counts])
        self.first = np.cumsum(lengths) - lengths  # of each table, in `cost`
        self.last = lengths - 2  # the escape's place
        self.offset = np.array(offsets, np.int64)
        weighed = np.where(counts, frequency, 0) * self.cost / 2.0**PRECISION
        self.entropy = np.add.reduceat(weighed, self.first)  # bits

    def costs(self, symbols: Sequence[int], indexes: Sequence[int]) -> SymbolCosts:
        """Return the costs of symbols, whole numbers, each by the table of its index.

        The expected bits count an escape as one symbol, without its nibbles: tables give it next to no probability.

        Raises:
            CodingError: a symbol so far from its table that the coder would run for ever.
        """
        table = np.fromiter(indexes, np.int64, len(indexes))
        last = self.last[table]
        value = np.fromiter(symbols, np.int64, len(symbols)) - self.offset[table]
        escaped = value.view(np.uint64) >= last.view(np.uint64)  # negative ones are the largest there
        place = self.first[table]
        place += np.where(escaped, last, value) if escaped.any() else value
        bits = self.cost[place]
        steps = len(bits)
        if escaped.any():
            value, last = value[escaped], last[escaped]
            raw = np.where(value < 0, -2 * value - 1, 2 * (value - last))
            if raw.max() >= ESCAPE_LIMIT:
                raise CodingError(
                    f"a latent's symbol is {int(raw.max()) // 2:,} steps outside of its table, or not a number: "
                    "CompressAI's coder would never end; see whether the model's output is finite"
                )
            nibbles = -(-np.frexp(raw.astype(np.float64))[1].astype(np.int64) // NIBBLE)
            nibbles += 1 + nibbles // MOST_STEPS  # their count goes first
            bits[escaped] += NIBBLE * nibbles
            steps += int(nibbles.sum())
        return SymbolCosts(bits, self.entropy[table], escaped, steps, table)


def overhead_is_possible(overhead: float, steps: int) -> bool:
    """Return whether a string can have so many bits more than its symbols, after so many steps of the coder."""
    slack = DRIFT * steps + 1e-9
    return LEAST_OVERHEAD - slack < overhead <= MOST_OVERHEAD + slack
