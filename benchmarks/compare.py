"""Two records side by side, and what of their difference is noise.

    python benchmarks/compare.py OLD.json NEW.json

Machines drift from run to run, and the copy of the same bytes drifts with them: each time is divided by the copy's of
its run, where there is one. A difference counts if it is larger than 10 per cent and the middle halves of the two
runs' rounds lie apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from record import Row, find, load

COUNTS = 0.10


def scaled(record: Row, part: str, row: Row) -> tuple[float, float, float, bool]:
    """First quartile, median and third quartile, over the copy's median where there is one; and whether there is."""
    copy = find(record[part], row["workload"], "copy", row["device"])
    known = copy is not None and row["opponent"] != "copy"
    unit = copy["median"] if copy is not None and known else 1.0
    return row["low"] / unit, row["median"] / unit, row["high"] / unit, known


def verdict(old: tuple[float, float, float, bool], new: tuple[float, float, float, bool]) -> str:
    apart = new[0] > old[2] or new[2] < old[0]
    change = new[1] / old[1] - 1
    if abs(change) <= COUNTS or not apart:
        return "the same"
    return "slower" if change > 0 else "faster"


def lines(old: Row, new: Row) -> list[str]:
    found = []
    if old["machine"] != new["machine"]:
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
            one, other = scaled(old, part, before), scaled(new, part, row)
            times = f"{before['median'] * 1e3:10.3f}{row['median'] * 1e3:10.3f}"
            said = verdict(one, other) if one[3] == other[3] else "no copy to compare with"
            ratio = f"{other[1] / one[1]:8.2f}" if one[3] == other[3] else f"{'-':>8}"
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
