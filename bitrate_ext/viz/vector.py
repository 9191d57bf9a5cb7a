"""Figures whose files keep text as text, so that it can be searched, copied and set in another size."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.figure import Figure

TEXT_KEPT = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "bitrate_ext"}
UNDATED: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


class VectorFigure(Figure):
    """A figure of matplotlib's, saved with text as text and in its own size, whatever the settings are."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save as matplotlib does; in PDF with TrueType fonts, in SVG with the names of fonts."""
        with matplotlib.rc_context(TEXT_KEPT | {"savefig.bbox": None, "savefig.facecolor": "auto"}):
            super().savefig(fname, **options)

    def write(self, file: Any, kind: str) -> None:
        """Save as "png", "pdf" or "svg" under a name or into an open file, the same bytes whenever it is done."""
        self.savefig(file, format=kind, metadata=UNDATED.get(kind))
