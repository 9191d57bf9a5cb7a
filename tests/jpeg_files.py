"""JPEG files for tests: Pillow's encodes of every kind, and files of random blocks whose every bit is known."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

LENGTHS = {"dc": [4] * 12, "ac": [2, 3, *[8] * 60, *[10] * 100]}  # of the codes of SYMBOLS, none of them complete
SYMBOLS = {"dc": [*range(12)], "ac": [0x00, 0xF0, *[16 * run + size for size in range(1, 11) for run in range(16)]]}
SCAN, END = b"\xff\xda", b"\xff\xd9"


def pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A slope under noise that grows from left to right."""
    noise = np.random.default_rng(0).normal(size=(height, width, channels)) * np.linspace(0, 60, width)[:, None]
    slope = np.linspace(30, 220, height)[:, None, None] * np.linspace(0.5, 1, channels)
    return (noise + slope).clip(0, 255).astype(np.uint8)


def by_pillow(height: int = 40, width: int = 56, mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    shown, file = pixels(height, width, {"L": 1, "RGB": 3, "CMYK": 4}[mode]), BytesIO()
    picture = Image.frombytes(mode, (width, height), shown.tobytes())
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def segment(marker: int, *body: int) -> bytes:
    return bytes([0xFF, marker, *(len(body) + 2).to_bytes(2, "big"), *body])


def codes(kind: str) -> dict[int, str]:
    """Canonical codes, by symbol, as text of 0 and 1."""
    found, code, before = {}, 0, 0
    for symbol, length in zip(SYMBOLS[kind], LENGTHS[kind], strict=True):
        code <<= length - before
        found[symbol], code, before = f"{code:0{length}b}", code + 1, length
    return found


@dataclass(frozen=True)
class Drawn:
    """A file of random blocks: its parts, and what each bit of it is."""

    head: bytes
    scans: tuple[bytes, ...]
    bits: tuple[np.ndarray, ...]  # of each component, [rows, columns], those in the padding included
    stuffing: int
    padding: int

    @property
    def data(self) -> bytes:
        return self.head + b"".join(self.scans) + END


def draw(
    size: tuple[int, int], factors: list[tuple[int, int]], *, apart: bool = False, interval: int = 0, seed: int = 0
) -> Drawn:
    """Write a file of components with factors (down, across), in one scan or apart."""
    rng, words = np.random.default_rng(seed), {kind: codes(kind) for kind in SYMBOLS}
    factors = factors if len(factors) > 1 else [(1, 1)]
    most = [max(one) for one in zip(*factors, strict=True)]
    units = [-(-size[axis] // (8 * most[axis])) for axis in (0, 1)]
    bits = tuple(np.zeros((units[0] * down, units[1] * across), int) for down, across in factors)
    tally = {"stuffing": 0, "padding": 0}

    def number(length: int) -> str:
        return "".join(rng.choice(["0", "1"], length))

    def block() -> str:
        size = int(rng.integers(12))
        text, done = words["dc"][size] + number(size), 1
        while done < 64 and rng.random() < 0.8:
            symbol = SYMBOLS["ac"][int(rng.integers(1, len(SYMBOLS["ac"])))]
            run, size = divmod(symbol, 16)
            if done + run + 1 > 64:
                break
            text, done = text + words["ac"][symbol] + number(size), done + run + 1
        return text if done == 64 else text + words["ac"][0]

    def coded(texts: list[str]) -> bytes:
        joined = "".join(texts)
        tally["padding"] += -len(joined) % 8
        joined += "1" * (-len(joined) % 8)
        plain = int(joined, 2).to_bytes(len(joined) // 8, "big")
        tally["stuffing"] += 8 * plain.count(b"\xff")
        return plain.replace(b"\xff", b"\xff\x00")

    def scan(chosen: list[int]) -> bytes:
        texts: list[str] = []
        if len(chosen) == 1:
            (one,) = chosen
            inside = [-(-size[axis] * factors[one][axis] // (8 * most[axis])) for axis in (0, 1)]
            places = [[(one, y, x)] for y in range(inside[0]) for x in range(inside[1])]
        else:
            places = [
                [
                    (one, v * factors[one][0] + y, u * factors[one][1] + x)
                    for one in chosen
                    for y in range(factors[one][0])
                    for x in range(factors[one][1])
                ]
                for v in range(units[0])
                for u in range(units[1])
            ]
        for unit in places:
            made = [block() for _ in unit]
            for (one, y, x), text in zip(unit, made, strict=True):
                bits[one][y, x] = len(text)
            texts.append("".join(made))
        step = interval or len(texts)
        parts = [coded(texts[start : start + step]) for start in range(0, len(texts), step)]
        body = parts[0] + b"".join(bytes([0xFF, 0xD0 + k % 8]) + part for k, part in enumerate(parts[1:]))
        return segment(0xDA, len(chosen), *(byte for one in chosen for byte in (one + 1, 0x12)), 0, 63, 0) + body

    head = b"\xff\xd8" + segment(0xDB, 0, *[1] * 64)
    frame = [byte for one, (down, across) in enumerate(factors, 1) for byte in (one, 16 * across + down, 0)]
    head += segment(0xC0, 8, *size[0].to_bytes(2, "big"), *size[1].to_bytes(2, "big"), len(factors), *frame)
    for kind, place in (("dc", 0x01), ("ac", 0x12)):
        counts = [LENGTHS[kind].count(length) for length in range(1, 17)]
        head += segment(0xC4, place, *counts, *SYMBOLS[kind])
    head += segment(0xDD, 0, interval)
    every = [*range(len(factors))]
    scans = tuple(scan(chosen) for chosen in ([[one] for one in every] if apart else [every]))
    return Drawn(head, scans, bits, **tally)
