"""What a page of many pictures is told: a table, column by column."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._version import __version__
from .document import Blobs


def folder_document(rows: Iterable[Mapping[str, Any]], blobs: Blobs, *, title: str, link: str | None) -> dict[str, Any]:
    """Return what a page of many pictures is told; see ``write_folder_page``.

    Columns of numbers are blobs of float64, NaN where one is missing; all others are texts.
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
            numbers = np.array([math.nan if value is None else float(value) for value in values])
            column["numbers"] = blobs.add(numbers)
            finite = numbers[np.isfinite(numbers)]
            large = bool(np.abs(finite).max(initial=0.0) >= 1000)
            column["digits"] = 0 if np.all(finite == np.round(finite)) else 2 if large else 4
        else:
            column["texts"] = ["" if value is None else str(value) for value in values]
        columns.append(column)
    return {"page": "folder", "title": title, "version": __version__, "count": len(table), "columns": columns}
