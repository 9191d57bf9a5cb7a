"""Pages in headless Chromium: their sizes, how fast they open and answer, and the memory that they take.

    .venv/bin/python tools/page_speed.py [--times 5] [--only photograph,4k,folder,million] [--keep FOLDER]
                                         [--beside FOLDER]

Times are milliseconds, the least of several openings and their median, on this machine as busy as it is, in a browser
that has started and come to rest: "usable" from the start of navigation until everything can be pressed and pixels
tell their bits; "sharp" until a large photograph, whose preview is shown before, is decoded. A region of a megapixel
and memory are of a picture of 3840 x 2160 pixels with two inputs. Memory is that of the page's own process with its
part of what it shares, the highest seen.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from playwright.sync_api import sync_playwright

import bitrate_ext
from bitrate_ext.cells.picture import CellGrid, PictureBits
from bitrate_ext.io.images import load_image
from bitrate_ext.ops.projection import get_projection

ROOT = Path(__file__).resolve().parents[1]
MOVES = 200
REST = 1.0  # seconds for what a browser does when it starts
SHARP = "() => performance.getEntriesByName('sharp')[0]?.startTime ?? null"
HOVER = """count => {
  const stage = document.getElementById("stage"), box = stage.getBoundingClientRect(), times = [];
  for (let i = 0; i < count; i++) {
    const at = { clientX: box.left + box.width * (0.2 + 0.6 * i / count), clientY: box.top + box.height / 2 };
    const start = performance.now();
    stage.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, ...at }));
    times.push(performance.now() - start);
  }
  return times.sort((one, other) => one - other)[count >> 1];
}"""
REGION = """async () => {
  const form = document.querySelector("#regions form"), field = form.querySelector("input");
  const add = (box) => ((field.value = box), form.requestSubmit());
  const there = (count) => document.querySelectorAll("#regions thead input").length === count;
  add("0 0 9 9"); // which decodes reconstructions
  while (!there(1)) await new Promise((done) => setTimeout(done));
  const start = performance.now();
  add("8 8 1024 1024");
  while (!there(2)) await null;
  return performance.now() - start;
}"""
SORT = """place => {
  const start = performance.now();
  document.querySelectorAll(".many thead button")[place].click();
  return performance.now() - start;
}"""


def photograph(height: int, width: int, noise: float) -> torch.Tensor:
    """The bundled photograph in another size, with noise of a camera, of 8 bits."""
    chance = torch.Generator().manual_seed(1)
    enlarged = F.interpolate(
        load_image(ROOT / "bitrate_ext/data/chelsea.png"), size=(height, width), mode="bicubic", antialias=True
    )
    noisy = enlarged + noise / 255 * torch.randn(enlarged.shape, generator=chance)
    return (noisy.clamp(0, 1) * 255).round() / 255


def coded(x: torch.Tensor, quality: int) -> PictureBits:
    """Its bits by the demo codec."""
    from bitrate_ext.models import demo_codec

    model = demo_codec.load_demo_forward(quality)
    result = bitrate_ext.BitrateMapper(model, channels=True)(x)
    return result.image(0, name=f"demo codec, quality {quality}", picture=x)


def made_up(x: torch.Tensor, seed: int) -> PictureBits:
    """Bits of chance in cells of a codec's sizes, with a noisy reconstruction: no model has to run."""
    chance = torch.Generator().manual_seed(seed)
    height, width = x.shape[2:]
    canvas = -(-height // 64) * 64, -(-width // 64) * 64
    grids = {
        name: CellGrid(
            9 * torch.rand(canvas[0] // s, canvas[1] // s, generator=chance).double(), get_projection("bilinear")
        )
        for name, s in (("y", 16), ("z", 64))
    }
    decoded = (F.avg_pool2d(x, 3, 1, 1) + torch.randn(x.shape, generator=chance) / 255).clamp(0, 1)
    return PictureBits(grids, canvas, (0, 0, height, width), name=f"input {seed}", picture=x, reconstruction=decoded)


class Memory(threading.Thread):
    """The most memory that the largest of Chromium's processes of pages has had, MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = 0.0, False

    def run(self) -> None:
        while not self.ended:
            for one in Path("/proc").glob("[0-9]*"):
                try:
                    if b"--type=renderer" in (one / "cmdline").read_bytes():
                        text = (one / "smaps_rollup").read_text()
                        self.most = max(self.most, int(text.split("Pss:")[1].split()[0]) / 1000)
                except (OSError, IndexError):
                    continue
            time.sleep(0.02)


@contextmanager
def opened(playwright: Any, path: Path, fragment: str = "") -> Iterator[tuple[Any, float]]:
    """A page in a browser of its own, and when it could be used."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    time.sleep(REST)
    page.goto(path.as_uri() + fragment)
    page.wait_for_selector("html[data-usable]", timeout=120_000)
    yield page, float(page.get_attribute("html", "data-usable"))
    browser.close()


def measure(
    playwright: Any, paths: list[Path], times: int, more: dict[str, tuple[str, Any]], *, memory: bool = False
) -> Iterator[str]:
    """Open pages several times, one after the other; tell of each its size and the least of what each script says."""
    told: dict[Path, dict[str, list[float]]] = {path: {} for path in paths}
    for turn in range(times):
        for path in paths if turn % 2 else paths[::-1]:
            watched = Memory()
            if memory:
                watched.start()
            with opened(playwright, path) as (page, usable):
                told[path].setdefault("usable ms", []).append(usable)
                if memory:
                    time.sleep(2)
                    watched.ended = True
                    watched.join()
                    told[path].setdefault("memory MB", []).append(watched.most)
                    told[path].setdefault("sharp ms", []).append(page.evaluate(SHARP) or usable)
                for name, (script, argument) in more.items():
                    told[path].setdefault(name, []).append(page.evaluate(script, argument))
    for path, found in told.items():
        texts = [f"{name} {min(values):.1f} (median {statistics.median(values):.1f})" for name, values in found.items()]
        yield f"{path}: {path.stat().st_size / 1000:,.0f} KB; {'; '.join(texts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, metavar="N")
    parser.add_argument("--only", default="photograph,4k,folder", metavar="WHAT,...")
    parser.add_argument("--keep", metavar="FOLDER", help="where pages stay, and are taken from where they are there")
    parser.add_argument(
        "--beside", metavar="FOLDER", help="of pages that another program wrote, opened in turn with these"
    )
    arguments = parser.parse_args()
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="bitrate-ext-pages-"))
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        for series in arguments.only.split(","):
            make, scripts = SERIES[series]
            for name, inputs, options in make():
                path = folder / f"{name}.html"
                if not path.exists():
                    write = bitrate_ext.write_page if series in ("photograph", "4k") else bitrate_ext.write_folder_page
                    write(inputs(), path, **options)
                paths = [path, *(other for other in [Path(arguments.beside or "") / path.name] if other.is_file())]
                for line in measure(playwright, paths, arguments.times, scripts, memory=series in ("4k", "million")):
                    print(line, flush=True)
    if not arguments.keep:
        shutil.rmtree(folder)


Made = Iterator[tuple[str, Callable[[], Any], dict[str, Any]]]  # a page's name, what makes what it shows, options


def photographs() -> Made:
    @lru_cache
    def one(quality: int) -> PictureBits:
        return coded(photograph(512, 768, 2.0), quality)

    def bare() -> PictureBits:
        return replace(one(5), picture=None, reconstruction=None)

    yield "16-channels", lambda: one(5), {"channels": 16}
    yield "96-channels", lambda: one(5), {"channels": 96}
    yield "no-pictures-16", bare, {"channels": 16}
    yield "no-pictures-96", bare, {"channels": 96}
    yield "two-inputs", lambda: [one(5), one(2)], {"channels": 16}


def large() -> Made:
    def two() -> list[PictureBits]:
        x = photograph(2160, 3840, 3.0)
        return [made_up(x, 1), made_up(x, 2)]

    yield "4k", two, {}


def many(count: int = 100_000) -> Made:
    def rows() -> list[dict[str, Any]]:
        values = torch.rand(count, 3, generator=torch.Generator().manual_seed(1)).tolist()
        return [
            {"image": f"picture{i}.png", "bpp": a, "bits": 1e6 * b, "PSNR, dB": 40 * c, "page": f"x.pages/{i}.html"}
            for i, (a, b, c) in enumerate(values)
        ]

    yield f"folder-{count}", rows, {}


SORTED = {"sort numbers ms": (SORT, 1), "sort texts ms": (SORT, 0)}
MOVED = {"hover ms": (HOVER, MOVES)}
SERIES: dict[str, tuple[Callable[[], Made], dict[str, tuple[str, Any]]]] = {
    "photograph": (photographs, MOVED),
    "4k": (large, {"region ms": (REGION, None)} | MOVED),
    "folder": (many, SORTED),
    "million": (lambda: many(1_000_000), SORTED),
}

if __name__ == "__main__":
    sys.exit(main())
