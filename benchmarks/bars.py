"""What the GPU's times should reach, and the table of them. No torch: tools/gpu_check.py reads figures of others.

Figures are what benchmarks/gpu.py writes; a time is {"median": seconds, "low": ..., "high": ...} under the name of a
contender and the way it ran: "call" (from Python, one after another) or "graph" (replayed, so the GPU alone counts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A ratio and the bar that it should reach."""

    name: str
    value: float
    bar: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def line(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'reached' if self.reached else 'below the bar'}: {self.name} {self.value:.2f} ({sign} {self.bar:g})"

    def record(self) -> Row:
        return {**asdict(self), "reached": self.reached}


def median(row: Row, contender: str, way: str) -> float | None:
    time = row["times"].get(contender, {}).get(way)
    return None if time is None else time["median"]


def ratio(row: Row, contender: str, way: str) -> float | None:
    """The contender's time over the fused operator's, both run the same way."""
    theirs, ours = median(row, contender, way), median(row, "fused", way)
    return None if theirs is None or not ours else theirs / ours


def copy_share(row: Row) -> float | None:
    """The fastest copy's time over the fused operator's: its share of the copy's rate."""
    times, ours = [time["median"] for time in row["times"].get("copy", {}).values()], median(row, "fused", "graph")
    return min(times) / ours if times and ours else None


def rows_of(figures: Row, part: str) -> Iterator[Row]:
    """The rows that count for the bars: 192 channels, float32."""
    for row in figures.get(part, []):
        if row["channels"] == 192 and row["dtype"] == "float32":
            yield row


def bars(figures: Row) -> list[Bar]:
    """All that can be told from these figures."""
    found: list[Bar] = []

    def add(name: str, value: float | None, bar: float, at_most: bool = False) -> None:
        if value is not None:
            found.append(Bar(name, value, bar, at_most))

    for row in rows_of(figures, "forward"):
        image = row["image"]
        if image in ("4k", "8k"):
            add(f"{image}, share of a copy's rate", copy_share(row), 0.85)
        ours, empty = median(row, "fused", "graph"), figures.get("empty", {}).get("median")
        if image == "kodak" and ours is not None and empty:
            add("kodak, times an empty kernel", ours / empty, 2, at_most=True)
        add(f"{image}, eager recipe over fused", ratio(row, "recipe", "call"), 5)
    for image in {row["image"]: None for row in figures.get("compiled", [])}:
        ratios = [ratio(row, "compiled", "graph") for row in figures["compiled"] if row["image"] == image]
        known = [value for value in ratios if value is not None]
        add(f"{image}, torch.compile over fused", min(known, default=None), 1.5)
    for row in rows_of(figures, "backward"):
        add(f"{row['image']}, autograd of the recipe over fused", ratio(row, "recipe", "call"), 4)
    add("64 frames of 1080p in one call, share of linear", figures.get("frames", {}).get("linear"), 0.95)
    return found


def _cell(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def table(figures: Row) -> list[str]:
    """Compact lines: microseconds on the GPU, and ratios to it."""
    lines = [f"{'':34}{'us':>8}{'spread':>8}{'GB/s':>7}{'copy':>6}{'recipe':>8}{'graph':>7}{'triton':>8}{'call us':>9}"]
    for part in ("forward", "backward"):
        for row in figures.get(part, []):
            ours = row["times"].get("fused", {}).get("graph")
            if ours is None:
                continue
            call = median(row, "fused", "call")
            cells = [
                _cell(ours["median"] * 1e6),
                f"{(ours['high'] / ours['low'] - 1) * 100:.0f}%" if ours["low"] else "-",
                _cell(row["bytes"] / ours["median"] / 1e9, 0),
                _cell(copy_share(row), 2),
                _cell(ratio(row, "recipe", "call")),
                _cell(ratio(row, "recipe", "graph")),
                _cell(ratio(row, "triton", "graph"), 2),
                _cell(call * 1e6 if call else None),
            ]
            name = f"{part} {row['image']} C={row['channels']} {row['dtype']}"
            widths = (8, 8, 7, 6, 8, 7, 8, 9)
            lines.append(f"{name:34}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    for row in figures.get("compiled", []):
        both = [_cell(ratio(row, "compiled", way), 2) for way in ("call", "graph")]
        lines.append(f"torch.compile {row['mode']}, {row['image']}: {both[0]} times as a call, {both[1]} as a graph")
    if "empty" in figures:
        lines.append(f"an empty kernel: {figures['empty']['median'] * 1e6:.2f} us")
    lines += [f"left out: {what}" for what in figures.get("left_out", [])]
    return lines
