"""Two records side by side, and what of their difference is noise.

    python benchmarks/compare.py OLD.json NEW.json

Machines drift from run to run, and the copy of the same bytes drifts with them, if not always alike. So a difference
counts if it is larger than 15 per cent both in time and in time over the copy's of the same run, and if the middle
halves of the two runs' rounds lie apart. On different machines only times over the copy's count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from record import Row, find, load

COUNTS = 0.15


def over_copy(record: Row, part: str, row: Row) -> Row | None:
    """The row's times over the copy's median; None where there is no copy, or the row is the copy."""
    copy = find(record[part], row["workload"], "copy", row["device"])
    if copy is None or row["opponent"] == "copy":
        return None
    return {key: row[key] / copy["median"] for key in ("low", "median", "high")}


def change(old: Row, new: Row) -> float:
    """By how much the median grew; zero where the middle halves of the rounds touch."""
    apart = new["low"] > old["high"] or new["high"] < old["low"]
    return float(new["median"] / old["median"] - 1) if apart else 0.0


def verdict(changes: list[float]) -> str:
    if all(one > COUNTS for one in changes):
        return "slower"
    return "faster" if all(one < -COUNTS for one in changes) else "the same"


def lines(old: Row, new: Row) -> list[str]:
    found = []
    same_machine = old["machine"] == new["machine"]
    if not same_machine:
        found.append("The machines differ: times do not compare, shares of the copy may.")
    for name, record in (("old", old), ("new", new)):
        if not record["complete"]:
            found.append(f"The {name} run did not come to its end.")
    found.append(f"{'':70}{'old ms':>10}{'new ms':>10}{'ratio':>8}  over the copy's")
    for part in ("rows", "growth"):
        for row in new[part]:
            before = find(old[part], row["workload"], row["opponent"], row["device"])
            name = f"{'growth, ' if part == 'growth' else ''}{row['workload']}, {row['opponent']}, {row['device']}"
            if before is None:
                found.append(f"{name:70}{'-':>10}{row['median'] * 1e3:10.3f}{'':>8}  not in the old run")
                continue
            pairs = [(before, row)] if same_machine else []
            one, other = over_copy(old, part, before), over_copy(new, part, row)
            if one is not None and other is not None:
                pairs.append((one, other))
            times = f"{before['median'] * 1e3:10.3f}{row['median'] * 1e3:10.3f}"
            ratio = f"{other['median'] / one['median']:8.2f}" if one is not None and other is not None else f"{'-':>8}"
            said = verdict([change(*pair) for pair in pairs]) if pairs else "no copy to compare with"
            found.append(f"{name:70}{times}{ratio}  {said}")
        for row in old[part]:
            if find(new[part], row["workload"], row["opponent"], row["device"]) is None:
                found.append(f"{row['workload']}, {row['opponent']}, {row['device']}: not in the new run")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    chosen = parser.parse_args()
    try:
        records = load(chosen.old), load(chosen.new)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print("\n".join(lines(*records)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
