"""Numbers of bytes, as people write and read them."""

from __future__ import annotations

import math
import re

UNITS = {"": 1} | {f"{letter}i": 1 << 10 * (n + 1) for n, letter in enumerate("kmgt")}
UNITS |= {letter: 1000 ** (n + 1) for n, letter in enumerate("kmgt")}


def parse_bytes(text: str) -> int:
    """Return the number of bytes that a text such as ``"4GiB"``, ``"500 MB"``, ``"1.5G"`` or ``"2147483648"`` names.

    Raises:
        ValueError: something else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"expected a number of bytes such as 4GiB, 500MB or 2147483648, got {text!r}")
    return int(float(found[1]) * UNITS[found[2] or ""])


def format_bytes(count: float) -> str:
    """Return a number of bytes in words, in whole MiB or tenths of a GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{math.ceil(count / 2**20)} MiB"
