"""Tables and plots of a record.

python benchmarks/report.py benchmarks/results/latest.json [--plots FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import Row, find, load

OTHERS = {
    "mapper": "mapper",
    "recipe": "recipe",
    "compiled recipe": "compiled",
    "compiled recipe, max-autotune": "autotuned",
    "reference": "reference",
    "NumPy and SciPy": "SciPy",
    "Triton": "Triton",
    "CompressAI": "CompressAI",
    "compiled CompressAI": "compiled",
    "kernel": "kernel",
    "empty call": "empty",
}
COLOURS = {"fused": "#0b6e4f", "copy": "#888888", "recipe": "#c1440e", "compiled recipe": "#d99a2b"}
COLOURS |= {"NumPy and SciPy": "#6b4e9b", "reference": "#3d7ea6", "Triton": "#b5547a"}
BAR = 0.2  # of the place of a workload


def groups(record: Row) -> Iterator[tuple[str, str, list[Row]]]:
    """Workload, device and the rows of both, in the order of the run."""
    keys = dict.fromkeys((row["workload"], row["device"]) for row in record["rows"])
    for workload, device in keys:
        yield workload, device, [r for r in record["rows"] if (r["workload"], r["device"]) == (workload, device)]


def spread(row: Row) -> str:
    """Half of the way from the first quartile to the third, of the median."""
    return f"{(row['high'] - row['low']) / 2 / row['median'] * 100:.0f}%"


def head(record: Row) -> list[str]:
    machine = record["machine"]
    where = [machine["processor"], f"{machine['cores']} cores", machine["instruction_set"], machine.get("gpu", "")]
    lines = [
        ", ".join(part for part in where if part),
        f"torch {record['torch']}, {record['threads']} threads, commit {record['commit']}, {record['started']}",
    ]
    if not record["complete"]:
        lines.append("The run was interrupted, or a check failed: rows are missing.")
    return lines


def cells_of(row: Row) -> str:
    share = "-" if row["of_copy"] is None else f"{row['of_copy']:.2f}"
    parts = f"{row['median'] * 1e3:.3f}", spread(row), f"{row['gbps']:.1f}", share
    return f"{parts[0]:>10}{parts[1]:>8}{parts[2]:>7}{parts[3]:>9}   "


def table(record: Row) -> list[str]:
    """A line for each workload: the fused operator's time, its rate, and the others' times over its own."""
    lines = [*head(record), ""]
    lines.append(f"{'':46}{'fused ms':>10}{'spread':>8}{'GB/s':>7}{'of copy':>9}   the others' times over it")
    for workload, device, rows in groups(record):
        fused = find(rows, workload, "fused", device)
        name = workload if device == "cpu" else f"{workload} ({device})"
        if fused is None:
            lines.append(f"{name:46}{'-':>10}")
            continue
        ratios = [
            f"{OTHERS[r['opponent']]} {r['median'] / fused['median']:.2f}" for r in rows if r["opponent"] in OTHERS
        ]
        lines.append(f"{name:46}{cells_of(fused)}{', '.join(ratios)}")
    if record["growth"]:
        lines += ["", f"{'growth':46}{'fused ms':>10}{'spread':>8}{'GB/s':>7}{'of copy':>9}   ns a pixel, extra memory"]
    for row in record["growth"]:
        if row["opponent"] == "fused":
            extra, pace = row.get("extra_memory"), row["median"] * 1e9 / row["pixels"]
            memory = f"{extra / 2**20:.1f} MiB" if extra is not None else "-"
            lines.append(f"{row['workload']:46}{cells_of(row)}{pace:.3f}, {memory}")
    lines += [f"left out: {name}: {why}" for name, why in record["left_out"].items()]
    return lines


def plot_roofline(record: Row, device: str, path: Path) -> None:
    """Rates beside the copy's: how far each call is from what memory allows."""
    import matplotlib.pyplot as plt

    rows = [row for row in record["rows"] if row["device"] == device and row["opponent"] == "fused"]
    rows = [row for row in rows if row["of_copy"] is not None and row["bytes"] > 1 << 20]
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(rows) + 1.4), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        copy = find(record["rows"], row["workload"], "copy", device)
        assert copy is not None
        axes.barh(place, copy["gbps"], height=0.75, color="#dddddd", label="a copy of the same bytes" * (place == 0))
        axes.barh(place, row["gbps"], height=0.4, color=COLOURS["fused"], label="fused operator" * (place == 0))
        axes.text(max(copy["gbps"], row["gbps"]), place, f" {row['of_copy']:.2f}", va="center", fontsize=8)
    axes.margins(y=0.01)
    axes.set_yticks(range(len(rows)), [row["workload"] for row in reversed(rows)], fontsize=8)
    axes.set_xlabel("GB/s of the bytes that a call must move; beside the bars, the share of the copy's rate")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_growth(record: Row, device: str, path: Path) -> None:
    """Time over pixels, for larger images and for more of them; straight at 45 degrees is linear."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for axes, title, frames in zip(panels, ("larger images", "more frames of 512 x 768"), (False, True), strict=True):
        for opponent, label in (("fused", "fused operator"), ("copy", "a copy of the same bytes")):
            rows = [
                r
                for r in record["growth"]
                if r["device"] == device and r["opponent"] == opponent and (r["image"] == "kodak") == frames
            ]
            pixels = [row["pixels"] / 1e6 for row in rows]
            axes.loglog(pixels, [row["median"] * 1e3 for row in rows], "o-", color=COLOURS[opponent], label=label)
            low, high = [row["low"] * 1e3 for row in rows], [row["high"] * 1e3 for row in rows]
            axes.fill_between(pixels, low, high, color=COLOURS[opponent], alpha=0.2, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("million pixels")
        axes.grid(True, which="major", color="#eeeeee")
    panels[0].set_ylabel("ms a call")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_speedups(record: Row, device: str, path: Path) -> None:
    """The others' times over the fused operator's."""
    import matplotlib.pyplot as plt

    shown = [name for name in OTHERS if name in COLOURS]
    wanted = [
        (workload, rows)
        for workload, where, rows in groups(record)
        if where == device and find(rows, workload, "fused", device) and find(rows, workload, "recipe", device)
    ]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(wanted) + 1.4), layout="constrained")
    told: set[str] = set()
    for place, (workload, rows) in enumerate(reversed(wanted)):
        fused = find(rows, workload, "fused", device)
        present = [row for name in shown if (row := find(rows, workload, name, device))]
        for k, row in enumerate(present):
            name = row["opponent"]
            ratio = row["median"] / fused["median"] if fused else 0.0
            at = place + (len(present) / 2 - k - 0.5) * BAR
            axes.barh(at, ratio - 1, height=BAR, left=1, color=COLOURS[name], label="" if name in told else name)
            axes.text(ratio, at, f" {ratio:.1f}", va="center", fontsize=6)
            told.add(name)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    axes.set_xscale("log")
    axes.set_yticks(range(len(wanted)), [workload for workload, _ in reversed(wanted)], fontsize=8)
    axes.set_xlabel("time over the fused operator's; right of the line, the fused operator is faster")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


PLOTS: dict[str, Any] = {"roofline": plot_roofline, "growth": plot_growth, "speedups": plot_speedups}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--plots", type=Path, help="folder for the pictures; beside the record, else")
    chosen = parser.parse_args()
    try:
        record = load(chosen.record)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    lines = table(record)
    print("\n".join(lines))
    chosen.record.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    import matplotlib

    matplotlib.use("Agg")
    folder = chosen.plots or chosen.record.parent
    folder.mkdir(parents=True, exist_ok=True)
    for device in dict.fromkeys(row["device"] for row in record["rows"]):
        for name, plot in PLOTS.items():
            if name == "growth" and not record["growth"]:
                continue
            path = folder / f"{name}-{device}.png"
            plot(record, device, path)
            print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
