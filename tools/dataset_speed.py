"""How fast data sets are measured, for docs/datasets.md: beside a loop, beyond the network, with Ray, found done.

    python tools/dataset_speed.py loop --count 1000       # two workers, beside a loop by hand with two threads
    python tools/dataset_speed.py overhead --count 96     # processor time beyond the network, parts as of a thousand
    python tools/dataset_speed.py ray --count 300         # Ray's actors beside worker processes, on this machine
    python tools/dataset_speed.py resume --count 1000000  # until all is found done, start of the process included

Pictures are of 768 x 512 pixels, 64 different ones under as many names as asked for, the codec is the demo codec at
quality 5. Of ``loop`` and ``ray`` each side is a process of its own, start included, timed by the clock, ``--pairs``
times in turns: nothing else should run.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

SIZE, UNLIKE, QUALITY = (768, 512), 64, 5
PART = 16  # pictures in a part where there are a thousand
COMMAND = [sys.executable, "-m", "bitrate_ext", "dataset"]


def make_photographs(folder: Path, count: int) -> None:
    """Cut pieces out of the bundled photograph, and give each several names."""
    import numpy as np
    from PIL import Image

    from bitrate_ext.models.demo_codec import demo_photograph

    rng = np.random.default_rng(0)
    with Image.open(demo_photograph()) as photograph:
        for number in range(count):
            path = folder / f"{number:06d}.jpg"
            if number >= UNLIKE:
                os.link(folder / f"{number % UNLIKE:06d}.jpg", path)
                continue
            left, top, side = rng.integers(0, 60), rng.integers(0, 40), rng.uniform(0.6, 0.85)
            box = (left, top, left + side * photograph.width, top + side * photograph.height)
            photograph.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC, box=box).save(path, quality=92)


def measure_by_hand(folder: Path) -> None:
    """Measure a folder as one would without the data set command: a loop, two threads, a table of CSV."""
    import torch

    from bitrate_ext import BitrateMapper
    from bitrate_ext.cells.quality import measure_psnr
    from bitrate_ext.io.images import load_image
    from bitrate_ext.models.demo_codec import load_demo_forward

    torch.set_num_threads(2)
    mapper = BitrateMapper(load_demo_forward(QUALITY))
    with open(folder.parent / "loop.csv", "w", newline="") as file:
        table = csv.writer(file)
        for path in sorted(folder.iterdir()):
            x = load_image(path)
            result = mapper(x)
            assert result.x_hat is not None
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            latents = [float(bits.sum()) for bits in result.latent_bits.values()]
            table.writerow([path, digest, float(result.total_bits), *latents, measure_psnr(result.x_hat, x)])


def by_command(folder: Path, *options: str) -> None:
    """Measure a folder with the command and two workers."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        command = [*COMMAND, str(folder), "-o", f"{out}/out", "--quality", str(QUALITY), "--jobs", "2", *options]
        subprocess.run(command, check=True, capture_output=True)


def compare(named: dict[str, Callable[[], object]], count: int, pairs: int) -> None:
    """Time two ways in turns, and print a line for each turn and the median of the ratios."""
    ratios = []
    print(f"| {count:,} pictures, load | {' | '.join(f'{name}, s' for name in named)} | ratio |\n|---|---|---|---|")
    for _ in range(pairs):
        load, seconds = os.getloadavg()[0], []
        for run in named.values():
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
        print(f"| load {load:.1f} | {' | '.join(f'{one:.1f}' for one in seconds)} | {ratios[-1]:.2f} |", flush=True)
    print(f"median ratio {median(ratios):.2f}")


def overhead(folder: Path, count: int) -> None:
    """Tell the processor time of a run beyond that of the network, which is clocked within it."""
    import torch

    from bitrate_ext import BitrateMapper
    from bitrate_ext.dataset import run
    from bitrate_ext.dataset.pictures import PictureCodec
    from bitrate_ext.models.accelerate import accelerate
    from bitrate_ext.models.demo_codec import load_demo_forward

    torch.set_num_threads(1)
    model: Any = accelerate(load_demo_forward(QUALITY))
    forward, network = model.forward, 0.0

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal network
        start = time.thread_time()
        output = forward(*arguments, **options)
        network += time.thread_time() - start
        return output

    codec = PictureCodec(BitrateMapper(model), name="timed")
    measure, measured = codec.measure, 0.0

    def timed_too(pictures: Any) -> list[Any]:
        nonlocal measured
        start = time.thread_time()
        rows = list(measure(pictures))
        measured += time.thread_time() - start
        return rows

    model.forward, codec.measure = timed, timed_too  # type: ignore[method-assign]
    for number in range(3):
        network, measured, start = 0.0, 0.0, time.process_time()
        report = run([str(folder)], folder.parent / f"out{number}", lambda: codec, jobs=0, part_items=PART)
        assert (report.ok, report.error) == (count, 0), report
        parts = (network, measured - network, time.process_time() - start - measured)
        net, totals, rest = (1000 * one / count for one in parts)
        print(
            f"network {net:.1f} ms a picture; decode, hash, rows {rest:.2f} ms, {100 * rest / net:.2f} %; "
            f"map, totals, PSNR {totals:.2f} ms, {100 * totals / net:.2f} %",
            flush=True,
        )


class Free:
    """A codec that costs nothing."""

    def __init__(self) -> None:
        from bitrate_ext.dataset import About

        self.about = About("free", ("y",))

    def read(self, item: Any) -> Any:
        from bitrate_ext.dataset import Read

        return Read(hashlib.sha256(item.name.encode()).hexdigest(), 0, item.name)

    def measure(self, pictures: Any) -> list[dict[str, Any]]:
        return [{"height": 256, "width": 256, "bits": 1.0, "latents": {"y": 1.0}, "bpp": 1 / 65536} for _ in pictures]


def resume(folder: Path, count: int) -> None:
    """Make empty files, a thousand a folder, and a run of them; then time the same run twice more."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:06d}").mkdir()
        (folder / f"{number // 1000:06d}" / f"{number % 1000:03d}.png").touch()
    for name in ("first", "again", "again"):
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, "_resume", "--folder", str(folder)], check=True)
        print(f"{name}: {time.perf_counter() - start:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loop", "overhead", "ray", "resume", "_loop", "_resume"))
    parser.add_argument("--count", type=int, default=200, help="pictures (default 200)")
    parser.add_argument("--pairs", type=int, default=1, help="turns of loop and ray (default 1)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "_loop":
        measure_by_hand(arguments.folder)
    elif arguments.what == "_resume":
        from bitrate_ext.dataset import run

        report = run([str(arguments.folder)], arguments.folder.parent / "out", Free, jobs=2)
        print(f"{report.ok:,} measured, {report.skipped:,} done earlier")
    else:
        with tempfile.TemporaryDirectory(prefix="dataset-speed-") as made:
            folder = Path(made, "photographs")
            folder.mkdir()
            if arguments.what == "resume":
                resume(folder, arguments.count)
                return
            make_photographs(folder, arguments.count)
            if arguments.what == "overhead":
                overhead(folder, arguments.count)
                return
            by_hand = partial(subprocess.run, [sys.executable, __file__, "_loop", "--folder", str(folder)], check=True)
            sides: dict[str, Callable[[], object]] = {
                "loop": {"loop by hand": by_hand, "data set": partial(by_command, folder)},
                "ray": {
                    "Ray": partial(by_command, folder, "--engine", "ray"),
                    "processes": partial(by_command, folder),
                },
            }[arguments.what]
            compare(sides, arguments.count, arguments.pairs)


if __name__ == "__main__":
    main()
