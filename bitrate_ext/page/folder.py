"""What a page of many pictures is told: a table, column by column."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .._version import __version__
from .document import LEVEL, Blobs

MISSING = -(2**31)
LONE = re.compile("[\ud800-\udfff]")  # of a name that is no UTF-8
SHOWN, SIDE, QUALITY = 6, 240, 80  # thumbnails of either end; their longer side, pixels; of their files


def folder_document(
    rows: Iterable[Mapping[str, Any]],
    blobs: Blobs,
    *,
    title: str,
    link: str | None,
    picture: Callable[[Mapping[str, Any]], Tensor | None] | None,
    by: str,
) -> dict[str, Any]:
    """Return what a page of many pictures is told; see ``write_folder_page``.

    Columns of numbers are blobs, of what is shown of them where that are whole numbers of 32 bits, else of float64; all
    others are texts, one after the other, and how many bytes each has.
    """
    table = list(rows)
    if not table:
        raise ValueError("rows must hold at least one picture, got none")
    columns = []
    for name in dict.fromkeys(name for row in table for name in row):
        values = [row.get(name) for row in table]
        numeric = all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values
        )
        column: dict[str, Any] = {"name": str(name), "link": name == link}
        if numeric and any(value is not None for value in values):
            column |= _numbers(np.array([math.nan if value is None else float(value) for value in values]), blobs)
        else:
            texts = [LONE.sub("\ufffd", "" if value is None else str(value)).encode() for value in values]
            column["texts"] = blobs.add_bytes(zlib.compress(b"".join(texts), LEVEL))
            column["lengths"] = blobs.add(np.array(list(map(len, texts)), np.int32))
        columns.append(column)
    made = {"page": "folder", "title": title, "version": __version__, "count": len(table), "columns": columns}
    return made | {"by": by, "ends": [] if picture is None else _ends(table, blobs, picture, by)}


def _numbers(numbers: NDArray[np.float64], blobs: Blobs) -> dict[str, Any]:
    """Return how numbers are shown, and where they are kept: times a power of ten, ``MISSING`` where there is none."""
    finite = numbers[np.isfinite(numbers)]
    most = float(np.abs(finite).max(initial=0.0))
    digits = 0 if np.all(finite == np.round(finite)) else 2 if most >= 1000 else 4
    if np.isinf(numbers).any() or most * 10**digits >= -MISSING:
        return {"numbers": blobs.add(numbers), "digits": digits}
    kept = np.where(np.isnan(numbers), MISSING, np.round(numbers * 10**digits)).astype(np.int32)
    return {"numbers": blobs.add(kept), "digits": digits}


def _ends(
    table: Sequence[Mapping[str, Any]], blobs: Blobs, picture: Callable[..., Tensor | None], by: str
) -> list[list[dict[str, int]]]:
    """Return the rows with the least and with the most of a column, each with its thumbnail."""
    known = [number for number, row in enumerate(table) if math.isfinite(row.get(by) or math.nan)]
    order = sorted(known, key=lambda number: float(table[number][by]))
    count = min(SHOWN, (len(order) + 1) // 2)
    ends = []
    for part in order[:count], order[count:][-SHOWN:][::-1]:
        thumbnails = [(number, _thumbnail(picture(table[number]))) for number in part]
        shown = [(number, one) for number, one in thumbnails if one is not None]
        ends.append([{"row": number, "picture": blobs.add_picture(one, quality=QUALITY)} for number, one in shown])
    return ends


def _thumbnail(picture: Tensor | None) -> Tensor | None:
    if picture is None or max(picture.shape[2:]) <= SIDE:
        return picture
    size = [max(1, round(side * SIDE / max(picture.shape[2:]))) for side in picture.shape[2:]]
    return F.interpolate(picture.detach().float().cpu(), size=size, mode="area")
