"""Tables of numbers: CSV for programs, LaTeX for papers, text for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

_LATEX = str.maketrans(
    {**{one: f"\\{one}" for one in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    | {"^": r"\textasciicircum{}", "\n": " ", "\r": " "}
)


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a head of all their keys; None is an empty field, floating point is exact."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list({key: None for row in rows for key in row}), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def latex_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a ``tabular`` with the rules of booktabs: the first column to the left, numbers to the right."""
    lines = [" & ".join(one.translate(_LATEX) for one in row) + r" \\" for row in (head, *body)]
    columns = "l" + "r" * (len(head) - 1)
    rows = [rf"\begin{{tabular}}{{{columns}}} % \usepackage{{booktabs}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*rows, *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def text_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return columns for a terminal: the first to the left, numbers to the right."""
    wide = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    lines = []
    for row in (head, *body):
        others = [one.rjust(width) for one, width in zip(row[1:], wide[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(wide[0]), *others]).rstrip())
    return "\n".join(lines)
