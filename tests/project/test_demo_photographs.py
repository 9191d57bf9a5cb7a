"""The record of the photographs that the demo codec is trained on, and how they are taken out of packages."""

from __future__ import annotations

import io
import re

import demo_photographs
import numpy as np
import pytest
from PIL import Image

FREE = {
    "BSD-2-clause", "BSD-3-clause", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "GPL-2+", "GPL-3+", "LGPL-2.1+",
    "public-domain",
}  # fmt: skip


def picture(side: int, file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)).save(buffer, file_format)
    return buffer.getvalue()


def test_every_photograph_has_its_record() -> None:
    lines = demo_photographs.LIST.read_text().splitlines()
    assert lines[0].split("\t") == ["package", "version", "licence", "path", "sha256"]
    rows = [line.split("\t") for line in lines[1:]]
    assert len(rows) > 300
    assert {licence for _, _, licence, _, _ in rows} <= FREE
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for *_, digest in rows)
    assert len({digest for *_, digest in rows}) == len(rows)
    assert not [package for package, *_ in rows if re.search("lomiri|skimage|sklearn|scikit", package)]
    assert sum(map(len, demo_photographs.records().values())) == len(rows)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_pictures_are_found_in_a_resource_file(file_format: str) -> None:
    pictures = [picture(side, file_format) for side in (40, 64)]
    resources = b"qres" + b"".join(len(one).to_bytes(4, "big") + one for one in pictures) + b"\0" * 9
    assert [one for one in demo_photographs.embedded(resources) if one in pictures] == pictures


@pytest.mark.parametrize(
    ("side", "expected"), [(200, [200]), (600, [600, 300]), (1200, [1200, 600]), (3000, [1000, 500])]
)
def test_pictures_are_reduced_by_whole_factors(side: int, expected: list[int]) -> None:
    assert [level.shape for level in demo_photographs.reduced(picture(side, "PNG"))] == [(n, n, 3) for n in expected]
