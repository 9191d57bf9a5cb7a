"""Picture files of every kind that is read, damaged in many ways, and things that are no picture files."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, features

NAMES = (
    "a.png",
    "b.JPG",
    "no ending",
    "c.tar.gz",
    "d\x1b[31m.png",
    "e\n.jpg",
    "f\u202egnp.png",
    "-g.gif",
    "\u00fc \u4e2d.webp",
    "$(h).bmp",
)


def photograph(size: tuple[int, int] = (40, 56)) -> Image.Image:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    smooth = np.stack([4 * rows, 3 * columns, 2 * (rows + columns)], axis=2)
    return Image.fromarray((smooth + rng.integers(0, 40, (*size, 3))).clip(0, 255).astype(np.uint8))


@lru_cache
def sound() -> dict[str, bytes]:
    """A small file of each kind, and of the ways that a kind has."""
    colour = photograph()
    deep = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    clear = colour.convert("RGBA")
    clear.putalpha(colour.convert("L"))
    ways: list[tuple[str, Image.Image, str, dict[str, object]]] = [
        ("png", colour, "PNG", {}),
        ("png palette", colour.quantize(16), "PNG", {}),
        ("png deep", deep, "PNG", {}),
        ("png alpha", clear, "PNG", {}),
        ("apng", colour, "PNG", {"save_all": True, "append_images": [colour.rotate(90)]}),
        ("jpeg", colour, "JPEG", {}),
        ("jpeg progressive", colour, "JPEG", {"progressive": True}),
        ("jpeg cmyk", colour.convert("CMYK"), "JPEG", {}),
        ("webp", colour, "WEBP", {}),
        ("tiff", colour, "TIFF", {}),
        ("tiff lzw", colour, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff deflate", colour, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("tiff jpeg", colour, "TIFF", {"compression": "jpeg"}),
        ("tiff fax", colour.convert("1"), "TIFF", {"compression": "group4"}),
        ("tiff deep", deep, "TIFF", {}),
        ("bmp", colour, "BMP", {}),
        ("gif", colour.quantize(32), "GIF", {"save_all": True, "append_images": [colour.rotate(90).quantize(32)]}),
        ("ppm", colour, "PPM", {}),
        ("pgm deep", deep, "PPM", {}),
        ("pbm", colour.convert("1"), "PPM", {}),
    ]
    ways += [("avif", colour, "AVIF", {})] if features.check("avif") else []
    if features.check("jpg_2000"):
        ways += [("jp2", colour, "JPEG2000", {}), ("jp2 deep", deep, "JPEG2000", {})]
    found = {}
    for name, image, form, options in ways:
        file = io.BytesIO()
        image.save(file, form, **options)
        found[name] = file.getvalue()
    found["pgm plain"] = b"P2\n# plain\n3 2\n9\n0 1 2\n3 4 9\n"
    found |= _by_plugins(colour)
    return found


def _by_plugins(colour: Image.Image) -> dict[str, bytes]:
    found, file = {}, io.BytesIO()
    try:
        import pillow_heif

        pillow_heif.from_pillow(colour).save(file)
        found["heic"] = file.getvalue()
    except ImportError:
        pass
    file = io.BytesIO()
    try:
        import pillow_jxl  # noqa: F401

        colour.save(file, "JXL")
        found["jxl"] = file.getvalue()
    except ImportError:
        pass
    return found


Change = Callable[[bytes, np.random.Generator], bytes]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(0, len(data) if rng.integers(2) else min(len(data), 400)))
        changed[at] = int(rng.integers(0, 256))
    return bytes(changed)


def _huge(data: bytes, rng: np.random.Generator) -> bytes:
    """Numbers in the header as large as they can be, sizes among them."""
    at, width = int(rng.integers(2, min(len(data), 200))), int(rng.choice([1, 2, 4]))
    return data[:at] + b"\xff" * width + data[at + width :]


def _none(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data)))
    return data[:at] + bytes(int(rng.integers(1, 200))) + data[at:]


def _lost(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data)))
    return data[:at] + data[at + int(rng.integers(1, 60)) :]


def _beheaded(data: bytes, rng: np.random.Generator) -> bytes:
    return data[int(rng.integers(1, 20)) :]


def _joined(data: bytes, rng: np.random.Generator) -> bytes:
    return data + _flip(data, rng)


def _masked(data: bytes, rng: np.random.Generator) -> bytes:
    """Another kind's first bytes."""
    others = list(sound().values())
    return others[int(rng.integers(len(others)))][:16] + data[16:]


CHANGES: tuple[Change, ...] = (_cut, _flip, _flip, _huge, _none, _lost, _beheaded, _joined, _masked)


def odd_files(folder: Path, count: int, seed: int = 0) -> Iterator[Path]:
    """Write so many odd files, one after the other, each below a folder of its own."""
    rng = np.random.default_rng(seed)
    kinds = list(sound())
    for number in range(count):
        below = folder / f"{number:04}"
        below.mkdir()
        path = below / NAMES[int(rng.integers(len(NAMES)))]
        data = sound()[kinds[number % len(kinds)]]
        if rng.random() < 0.9:
            data = CHANGES[int(rng.integers(len(CHANGES)))](data, rng)
        path.write_bytes(data)
        yield path


def no_files(folder: Path) -> list[Path]:
    """Things that are no picture file, and names of nothing."""
    names = ("absent", "folder", "pipe", "socket", "loop", "dangling", "empty", "text", "locked")
    paths = {name: folder / f"{name}.png" for name in names}
    paths["folder"].mkdir()
    os.mkfifo(paths["pipe"])
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(folder)  # a socket's name is short
        try:
            one.bind("socket.png")
        finally:
            os.chdir(here)
    paths["loop"].symlink_to(paths["loop"])
    paths["dangling"].symlink_to(folder / "nothing")
    paths["empty"].touch()
    paths["text"].write_text("hello")
    paths["locked"].write_bytes(sound()["png"])
    paths["locked"].chmod(0)
    if not os.geteuid():  # who may read everything
        del paths["locked"]
    return [*paths.values(), folder / ("n" * 300), folder / "text.png/x", Path("/dev/null")]
