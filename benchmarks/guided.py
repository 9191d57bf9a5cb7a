"""What a guided map costs over a bilinear one: under a guide that is given, and with making it of the reconstruction.

    python benchmarks/guided.py [--sizes 1080p 4k] [--wall] [--record FILE]

All take turns in one run, and calls rotate through buffers that no cache holds. Processor time of one thread by
default, which other work on the machine lengthens less than it does the time on the wall.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import Record, quantile
from workloads import IMAGES, Workload, make_buffers

import bitrate_ext
from bitrate_ext.receptive_field.field import ReceptiveField, Term
from bitrate_ext.receptive_field.guide import Guide

SETS = 8
REACH = (-30, 30)  # of most of CompressAI's decoders


def guided_field() -> ReceptiveField:
    """A kernel of two terms, with a guide; what is in them does not matter to the time."""
    position = np.linspace(-3, 3, REACH[1] - REACH[0] + 1)
    terms = [Term(0.5, kernel, kernel) for kernel in (np.exp(-(position**2)), np.exp(-((position / 2) ** 2)))]
    guide = Guide.of_arrays(np.array([0.3, 0.2, -0.1, 0.5]), np.zeros((16, 16)))
    return ReceptiveField((16, 16), (REACH, REACH), terms, guide=guide)


def measured(image: str, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Return medians and lower quartiles in milliseconds of each, and the medians over the bilinear map's."""
    workload = Workload(image)
    buffers, size, field = make_buffers(workload, torch.device("cpu"), SETS), workload.size, guided_field()
    pictures = [torch.rand(1, 3, *size) for _ in buffers]
    assert field.guide is not None
    make = field.guide
    guides = [make(picture).clone() for picture in pictures]  # copies, whose values are looked at

    def run(k: int, **options: Any) -> None:
        bitrate_ext.bitrate_map(buffers[k].likelihoods["y"], size, out=buffers[k].out, **options)

    calls: dict[str, Callable[[int], object]] = {
        "bilinear": run,
        "receptive field": lambda k: run(k, projection=field),
        "a guide": lambda k: make(pictures[k]),
        "guided, given": lambda k: run(k, projection=field, guide=guides[k]),
        "guided, made": lambda k: run(k, projection=field, guide=make(pictures[k])),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, rounds):
        for name, call in calls.items():
            start = clock()
            call(turn % SETS)
            if turn >= 0:
                seconds[name].append(clock() - start)
    found = {name: {"median": quantile(each, 0.5), "low": quantile(each, 0.25)} for name, each in seconds.items()}
    for row in found.values():
        row["over_bilinear"] = row["median"] / found["bilinear"]["median"]
    return {"size": image, "rounds": rounds, "calls": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", choices=IMAGES, default=["1080p", "4k"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--wall", action="store_true", help="time on the wall, all threads")
    parser.add_argument("--record", type=Path, help="file for the figures (.json)")
    chosen = parser.parse_args()
    if not chosen.wall:
        torch.set_num_threads(1)
    rows = [
        measured(size, chosen.rounds, time.perf_counter if chosen.wall else time.process_time) for size in chosen.sizes
    ]
    for row in rows:
        print(row["size"])
        for name, one in row["calls"].items():
            print(f"  {name:16} {1e3 * one['median']:7.2f} ms, {one['over_bilinear']:5.2f} times the bilinear map")
    if chosen.record:
        record = Record(chosen.record)
        del record.content["rows"], record.content["growth"], record.content["left_out"]
        record.content.update({"guided": rows, "clock": "wall" if chosen.wall else "processor time"})
        record.finish()
        print(json.dumps(record.content["machine"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
