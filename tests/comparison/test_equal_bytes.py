"""The search for equal bytes: how near, in how many encodes, and what is said where nothing nearer is there."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from bitrate_ext.cells.picture import CellGrid, PictureBits
from bitrate_ext.comparison.rate import MOST, TOLERANCE, bytes_of, find_quality


def of_bytes(count: float) -> PictureBits:
    return PictureBits({"y": CellGrid(torch.full((1, 1), 8.0 * count, dtype=torch.float64))}, (4, 4), (0, 0, 4, 4))


SHAPES: dict[str, Callable[[float], float]] = {  # bytes over places from 0 to 1
    "exponential": lambda place: 1000 * 10**place,
    "steep": lambda place: 1000 * 1000**place,
    "as JPEG's": lambda place: 4000 + 6000 * place + 3000 / (1.03 - place),
    "rising late": lambda place: 1000 + 1e5 * place**6,
    "rising early": lambda place: 1000 * (1 + math.log1p(50 * place)),
    "flat": lambda place: 1000 * (1 + 0.3 * place),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("qualities", [(1.0, 8.0), (51.0, 0.0)])
def test_real_qualities_are_met_within_the_tolerance(shape: str, qualities: tuple[float, float]) -> None:
    first, last = qualities
    for place in torch.linspace(0, 1, 41).tolist():
        asked: list[float] = []

        def encode(quality: float, asked: list[float] = asked) -> PictureBits:
            asked.append(quality)
            return of_bytes(SHAPES[shape]((quality - first) / (last - first)))

        target = SHAPES[shape](place)
        found = find_quality(encode, target, qualities)
        assert abs(found.off) <= TOLERANCE
        assert found.off == pytest.approx(bytes_of(found.bits) / target - 1, abs=1e-12)
        assert found.encodes == len(asked) <= MOST
        assert min(qualities) <= min(asked)
        assert max(asked) <= max(qualities)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("qualities", [(1.0, 8.0), (1.0, 100.0), (63.0, 0.0)])
def test_the_nearest_whole_quality_is_found(shape: str, qualities: tuple[float, float]) -> None:
    first, last = qualities

    def count(quality: float) -> float:
        assert quality == int(quality)
        return SHAPES[shape]((quality - first) / (last - first))

    for place in torch.linspace(0, 1, 41).tolist():
        target = SHAPES[shape](place)
        found = find_quality(lambda quality: of_bytes(count(quality)), target, qualities, whole=True)
        every = range(int(min(qualities)), int(max(qualities)) + 1)
        nearest = min(abs(count(quality) / target - 1) for quality in every)
        assert abs(found.off) <= max(nearest + 1e-12, TOLERANCE)
        assert found.encodes <= MOST


@pytest.mark.parametrize(("target", "quality"), [(10.0, 1.0), (1e6, 8.0)])
def test_beyond_the_range_its_end_is_found(target: float, quality: float) -> None:
    found = find_quality(lambda quality: of_bytes(1000 * quality), target, (1, 8))
    assert found.quality == quality
    assert found.encodes <= 3
    assert abs(found.off) > TOLERANCE


def test_bytes_that_do_not_rise() -> None:
    found = find_quality(lambda quality: of_bytes(1000 + 50 * math.sin(9 * quality)), 5000, (1, 8))
    assert found.encodes <= MOST
    assert found.off == pytest.approx(-0.8, abs=0.02)


def test_bits_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match=r"equal bytes cannot be searched: at quality 4\.5 there are inf bytes"):
        find_quality(lambda _: of_bytes(math.inf), 5000, (1, 8))
