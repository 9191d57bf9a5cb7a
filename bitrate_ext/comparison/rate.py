"""Find the quality at which a codec spends as many bytes as another one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..cells.picture import PictureBits

TOLERANCE, MOST = 0.01, 8  # of the bytes, and encodes
LEAST_STEP = 0.05  # from an end of what encloses the target, a part of it
DECADES = 1.0  # powers of ten of the bytes that a range of qualities spans, until two points say so


@dataclass(frozen=True)
class Found:
    """The encode that came nearest to the bytes asked for.

    ``off`` is its bytes over those, minus one; ``encodes`` says how many it took.
    """

    bits: PictureBits
    quality: float
    encodes: int
    off: float


def bytes_of(bits: PictureBits) -> float:
    """Return the bytes of the file, of estimated bits an eighth of their number."""
    return bits.total_bits / 8 if bits.file_bytes is None else float(bits.file_bytes)


def find_quality(
    encode: Callable[[float], PictureBits],
    target: float,
    qualities: tuple[float, float],
    *,
    whole: bool = False,
    tolerance: float = TOLERANCE,
    most: int = MOST,
) -> Found:
    """Search for the quality at which a codec spends so many bytes.

    The logarithm of the bytes is taken for a smooth function of the quality: the next one to try is where the
    polynomial through the nearest points meets the target; where that is not between the two that enclose it, where
    the line through these does; where two tries have not halved what lies between them, their middle.

    Args:
        encode: gives the bits at a quality.
        target: bytes, above zero.
        qualities: where the fewest bytes are spent, and where the most.
        whole: only whole numbers count.
        tolerance: the part of the target that is near enough.
        most: encodes.

    Returns:
        The nearest that was found, within the tolerance or not: nothing nearer may be there, as between whole numbers.

    Raises:
        ValueError: bytes that are none or not finite.
    """
    first, last = qualities
    tried: dict[float, tuple[float, PictureBits]] = {}  # place from 0 to 1: logarithm of bytes over target
    place: float | None = 0.5
    while place is not None and len(tried) < most:
        quality = _quality_at(place, first, last, whole)
        place = (quality - first) / (last - first)
        if place in tried:
            break
        bits = encode(quality)
        spent = bytes_of(bits)
        if not (math.isfinite(spent) and spent > 0):
            raise ValueError(f"equal bytes cannot be searched: at quality {quality:g} there are {spent:g} bytes")
        tried[place] = math.log(spent / target), bits
        if abs(spent / target - 1) <= tolerance:
            break
        step = 1 / abs(last - first) if whole else 0.0
        place = _next_place({one: off for one, (off, _) in tried.items()}, step)
    place = min(tried, key=lambda one: abs(math.expm1(tried[one][0])))
    off, bits = tried[place]
    return Found(bits, _quality_at(place, first, last, whole), len(tried), math.expm1(off))


def _quality_at(place: float, first: float, last: float, whole: bool) -> float:
    quality = first + place * (last - first)
    return float(round(quality)) if whole else quality


def _next_place(tried: dict[float, float], step: float) -> float | None:
    """Return where to look next; None where there is nothing left.

    Args:
        tried: places from 0 to 1, and the logarithm of the bytes there over the target.
        step: between two places where only some count.
    """
    below, above = _enclosing(tried)
    near = sorted(tried, key=lambda one: abs(tried[one]))[:3]
    if below is None or above is None:  # go on to the side where it must be, rather too far than too near
        end, start = (1.0, below) if above is None else (0.0, above)
        assert start is not None
        if start == end:
            return None
        slope = DECADES * math.log(10)
        if len(near) > 1 and tried[near[0]] != tried[near[1]]:
            slope = max((tried[near[0]] - tried[near[1]]) / (near[0] - near[1]), 0.1 * slope)
        guess = min(max(start - 1.2 * tried[start] / slope, 0.0), 1.0)
        return end if len(tried) > 2 or abs(guess - start) < step or abs(end - guess) < step else guess
    low, high = sorted((below, above))
    if step and high - low < 1.5 * step:
        return None
    offs = [tried[one] for one in near]
    guess = (low + high) / 2
    earlier = [one for one in _enclosing(dict(list(tried.items())[:-2])) if one is not None]
    halved = len(earlier) < 2 or high - low <= 0.5 * abs(earlier[0] - earlier[1])
    if halved and len(set(offs)) == len(offs):
        meets = sum(
            one * math.prod(other / (other - off) for other in offs if other != off)
            for one, off in zip(near, offs, strict=True)
        )
        guess = meets if low < meets < high else low - tried[low] * (high - low) / (tried[high] - tried[low])
    away = max(step, LEAST_STEP * (high - low))
    return min(max(guess, low + away), high - away)


def _enclosing(tried: dict[float, float]) -> tuple[float | None, float | None]:
    """Return the last place with too few bytes, and the first with too many."""
    below = max((one for one, off in tried.items() if off < 0), default=None)
    return below, min((one for one, off in tried.items() if off > 0), default=None)
