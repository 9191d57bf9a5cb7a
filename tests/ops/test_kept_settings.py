"""What is kept of a call: the next one of its kind gets it, and no other."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
import torch
from cases import assert_same_bytes

import bitrate_ext
from bitrate_ext.ops import arguments

KINDS: dict[str, list[Any]] = {  # each argument's values; the first is the usual one
    "p": [
        torch.rand(1, 3, 4, 5), torch.rand(2, 3, 4, 5), torch.rand(1, 2, 4, 5), torch.rand(1, 3, 5, 4),
        torch.rand(1, 3, 4, 5).double(), torch.rand(1, 3, 4, 5).half(),
        {"y": torch.rand(1, 3, 4, 5), "z": torch.rand(1, 1, 2, 3)},
    ],
    "where": [
        {"size": (11, 13)}, {"size": [13, 11]}, {"size": (16, 20), "crop": (1, 2, 11, 13)},
        {"size": (16, 20), "crop": [2, 1, 11, 13]}, {"scale_factor": 3}, {"scale_factor": 2.5},
        {"scale_factor": (3, 2)}, {"scale_factor": [2, 3]},
    ],
    "projection": ["bilinear", "nearest", "area"],
    "conserve": [True, False],
    "dtype": [None, torch.float64, torch.float32],
}  # fmt: skip


def calls() -> list[tuple[Any, dict[str, Any]]]:
    """Calls of which each differs from the usual one in one or two arguments."""
    names = list(KINDS)
    usual = {name: values[0] for name, values in KINDS.items()}
    found = []
    for one, other in itertools.combinations(names, 2):
        for a, b in itertools.product(KINDS[one], KINDS[other]):
            chosen = {**usual, one: a, other: b}
            p, where = chosen.pop("p"), chosen.pop("where")
            if not (isinstance(p, dict) and "scale_factor" in where):
                found.append((p, {**chosen, **where}))
    return found


def test_a_kept_setting_is_that_of_its_call(rng: np.random.Generator) -> None:
    """In any order, with and without what earlier calls left."""
    expected = []
    for p, keywords in calls():
        arguments._settled.cache_clear()
        expected.append(bitrate_ext.bitrate_map(p, **keywords))
    arguments._settled.cache_clear()
    for _ in range(2):
        for index in rng.permutation(len(expected)):
            p, keywords = calls()[index]
            assert_same_bytes(bitrate_ext.bitrate_map(p, **keywords), expected[index], keywords)
    assert arguments._settled.cache_info().hits > len(expected)


def test_a_call_of_the_same_kind_settles_nothing() -> None:
    p = torch.rand(1, 3, 4, 5)
    bitrate_ext.bitrate_map(p, (11, 13))
    before = arguments._settled.cache_info()
    for q in (p, torch.rand(1, 3, 4, 5), torch.rand(1, 3, 5, 4).transpose(2, 3)):
        bitrate_ext.bitrate_map(q, [11, 13])
        bitrate_ext.bitrate_map(q, torch.Size((11, 13)), out=torch.empty(1, 1, 11, 13))
    after = arguments._settled.cache_info()
    assert (after.hits - before.hits, after.misses) == (6, before.misses)


def test_a_warm_call_calls_little() -> None:
    """Functions, of Python and of C: what the host pays for, counted because time is not the same twice."""
    p, count = torch.rand(1, 3, 4, 5), 0

    def see(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    bitrate_ext.bitrate_map(p, (11, 13))
    sys.setprofile(see)
    try:
        bitrate_ext.bitrate_map(p, (11, 13))
    finally:
        sys.setprofile(None)
    assert count <= 51  # 73 before settings were kept


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ({"size": (1, 1)}, {"size": (True, True)}, "size must be a pair of integers"),
        ({"size": (2, 2)}, {"size": (2.0, 2.0)}, "size must be a pair of integers"),
        ({"scale_factor": 1}, {"scale_factor": True}, "scale_factor must be a number"),
        ({"scale_factor": (1, 2)}, {"scale_factor": (True, 2)}, "scale_factor must be a number"),
        ({"size": (4, 5), "dtype": torch.float32}, {"size": (4, 5), "dtype": "float32"}, "dtype must be"),
        ({"size": (4, 5), "projection": "area"}, {"size": (4, 5), "projection": ["area"]}, "projection must be"),
    ],
)
def test_what_is_equal_and_wrong_is_refused_after_what_is_right(right: Any, wrong: Any, error: str) -> None:
    p = torch.rand(1, 2, 4, 5)
    for _ in range(2):
        bitrate_ext.bitrate_map(p, **right)
        with pytest.raises(TypeError, match=error):
            bitrate_ext.bitrate_map(p, **wrong)


class Shifted(bitrate_ext.Projection):
    """Of one name for all, and of different weights."""

    name = "shifted"

    def __init__(self, by: int) -> None:
        self.by = by

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Any:
        return (np.arange(pixels) + self.by) % cells, np.ones((1, pixels))


def test_projections_of_ones_own_are_told_apart() -> None:
    p = torch.rand(1, 1, 4, 4)
    for by in (0, 1, 0, 2):
        out = bitrate_ext.bitrate_map(p, (4, 4), projection=Shifted(by))
        torch.testing.assert_close(out, torch.roll(-p.log2(), (-by, -by), (2, 3)), rtol=1e-6, atol=1e-6)
        assert_same_bytes(bitrate_ext.bitrate_map({"y": p}, (4, 4), projection={"y": Shifted(by)}), out)


def test_an_error_is_told_each_time_and_names_its_tensor() -> None:
    p = torch.rand(1, 2, 4, 5)
    for name in ("y", "z", "y"):
        with pytest.raises(ValueError, match=rf"likelihoods\['{name}'\] must be \[N, C, h, w\]"):
            bitrate_ext.bitrate_map({name: p[0]}, (8, 10))


def test_what_is_kept_is_bounded() -> None:
    for height in range(1, 400):
        bitrate_ext.bitrate_map(torch.rand(1, 1, 1, 1), (height, 1))
    assert arguments._settled.cache_info().currsize <= 256
