"""Rows of a data set from stages of Ray Data, for those who have a pipeline there: CPUs decode, actors measure.

python examples/cluster/ray_data.py photos rows --quality 5 --actors 2

The rows have the numbers that those of bitrate-ext dataset have. That command has what Ray Data has not: it goes on
where it was stopped, and a picture over which a process dies is one row with its error, and not a run that fails.
"""

from __future__ import annotations

import argparse
import os
import pickle
from typing import Any

import pyarrow
import ray

from bitrate_ext.dataset import Item, Unreadable, find_items
from bitrate_ext.dataset.pictures import PictureCodec
from bitrate_ext.dataset.reading import PictureReader
from bitrate_ext.dataset.rows import error_row, ok_row, schema

read_picture = PictureReader()
DECODER = 0.9  # processors; were it as many as an actor's, Ray Data would have the actors decode


def decode(row: dict[str, Any]) -> dict[str, Any]:
    """Read, hash and decode a picture."""
    try:
        found: Any = read_picture(Item(row["item"], row["path"]))
    except (Unreadable, MemoryError) as error:
        found = error
    return row | {"read": pickle.dumps(found)}


class Measure:
    """A codec in an actor."""

    def __init__(self, quality: int) -> None:
        self.codec = PictureCodec.demo(quality)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Measure the pictures and videos of a batch, one after the other."""
        rows, about = [], self.codec.about
        for row in batch.to_pylist():
            item, read = Item(row["item"], row["path"]), pickle.loads(row["read"])
            try:
                if isinstance(read, Exception):
                    raise read
                *_, numbers = self.codec.measure([read.picture])  # of a video None for each frame before
                rows.append(ok_row(item, read, "", about.model, numbers or {}))
            except Unreadable as error:
                rows.append(error_row(item, error.sha256, "", about.model, error.reason))
            except MemoryError:
                rows.append(error_row(item, None, "", about.model, "not enough memory for this picture"))
        return pyarrow.Table.from_pylist(rows, schema=schema(about.latents))


def main() -> None:
    """Decode, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("output", help="folder of Parquet files")
    parser.add_argument("--quality", type=int, default=5, help="of the demo codec (default 5)")
    parser.add_argument("--actors", type=int, default=1, help="at most; Ray Data starts them as work comes (default 1)")
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    asked = parser.parse_args()
    listed = [{"item": item.number, "path": os.path.abspath(item.name)} for item in find_items([asked.folder]).items()]
    actors = ray.data.ActorPoolStrategy(min_size=1, max_size=asked.actors)
    stages = ray.data.from_items(listed).map(decode, num_cpus=DECODER)
    stages = stages.map_batches(
        Measure,
        fn_constructor_args=(asked.quality,),
        batch_size=8,
        batch_format="pyarrow",
        compute=actors,
        num_cpus=1,
        num_gpus=asked.gpus,
    )
    stages.write_parquet(os.path.abspath(asked.output))


if __name__ == "__main__":
    main()
