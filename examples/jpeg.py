"""Where the bits of a JPEG file go: the exact bits of each 8 x 8 block, and of all else, to the bit.

    python examples/jpeg.py photograph.jpg

Walks the entropy-coded segments of a baseline file (ITU-T T.81, annexes B and F) as a decoder does, but keeps how long
each block is in the place of what it says. Grey or colour, any sampling and tables, one scan or several, restarts.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

OTHERS = {0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", 0xC9: "arithmetic-coded", 0xCA: "arithmetic-coded"}
END_OF_BLOCK, COEFFICIENTS = 128, 64


@dataclass
class Component:
    """A plane of the picture, such as the luminance."""

    down: int  # blocks of it in a unit of coding (MCU), each way
    across: int
    inside: tuple[int, int]  # rows and columns of blocks that show a part of the picture
    bits: np.ndarray  # [rows, columns], of each block, those beyond the picture included


@dataclass
class Jpeg:
    """A file's bits: those of the blocks, and how the others add up to the file."""

    size: tuple[int, int] = (0, 0)  # (H, W), pixels
    canvas: tuple[int, int] = (0, 0)  # that all components cover, pixels
    components: dict[int, Component] = field(default_factory=dict)
    ledger: dict[str, int] = field(default_factory=lambda: {"stuffing": 0, "filling": 0})  # bits; the sum is the file


def read_jpeg(data: bytes) -> Jpeg:
    """Walk a file; raises ValueError where it is no whole baseline JPEG file, with the reason."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG file: it does not begin with FF D8")
    found, tables, interval, at = Jpeg(), {}, 0, 2
    while data[at : at + 2] != b"\xff\xd9":
        if data[at : at + 2] == b"\xff\xff":  # a marker may be filled up with FF
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end + 2 > len(data):
            raise ValueError("the file is cut short: it has no end (FF D9)")
        marker, body = data[at + 1], data[at + 4 : end]
        if data[at] != 0xFF:
            raise ValueError(f"the file is damaged at byte {at}: there is no marker")
        if marker in OTHERS:
            raise ValueError(f"{OTHERS[marker]} JPEG: this reads baseline files")
        if marker == 0xC0:
            begin_frame(found, body)
        elif marker == 0xDD:
            interval = int.from_bytes(body, "big")
        while marker == 0xC4 and body:  # tables of codes
            count = sum(body[1:17])
            tables[body[0]] = code_steps(body[1:17], body[17 : 17 + count], body[0] < 16)
            body = body[17 + count :]
        at = walk_scan(found, data, body, end, tables, interval) if marker == 0xDA else end
    blocks = sum(int(one.bits.sum()) for one in found.components.values())
    inside = sum(int(one.bits[: one.inside[0], : one.inside[1]].sum()) for one in found.components.values())
    found.ledger |= {"blocks": inside, "blocks beyond the picture": blocks - inside}
    found.ledger["markers, tables, metadata"] = 8 * len(data) - sum(found.ledger.values())
    return found


def begin_frame(found: Jpeg, body: bytes) -> None:
    """Lay out the components."""
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    sampling = [(n, n & 0, body[7 + 3 * k] % 16, body[7 + 3 * k] // 16) for k, n in enumerate(body[6::3])]
    if body[0] != 8 or not height or not width or not sampling:
        raise ValueError("a frame of no baseline file: 8 bits a sample, and a size, were expected")
    most_down, most_across = max(one[2] for one in sampling), max(one[3] for one in sampling)
    unit = (8 * most_down, 8 * most_across) if len(sampling) > 1 else (8, 8)
    rows, columns = -(-height // unit[0]), -(-width // unit[1])
    found.size, found.canvas = (height, width), (rows * unit[0], columns * unit[1])
    for number, _, down, across in sampling:
        if len(sampling) == 1:
            down = across = most_down = most_across = 1
        inside = -(-height * down // (8 * most_down)), -(-width * across // (8 * most_across))
        bits = np.zeros((rows * down, columns * across), np.int64)
        found.components[number] = Component(down, across, inside, bits)


def code_steps(counts: bytes, symbols: bytes, is_first: bool) -> list[int]:
    """For each 16 bits that may come: by how many coefficients (times 256) and bits a symbol goes on; 0: no symbol."""
    steps, code, index = [0] * 65536, 0, 0
    for length in range(1, 17):
        for symbol in symbols[index : index + counts[length - 1]]:
            run, size = divmod(symbol, 16)
            more = 1 if is_first else run + 1 if size or run == 15 else END_OF_BLOCK if run == 0 else COEFFICIENTS + 1
            first, count = code << (16 - length), 1 << (16 - length)
            steps[first : first + count] = [256 * more + length + size] * count
            code += 1
        index, code = index + counts[length - 1], code * 2
    return steps


def walk_scan(found: Jpeg, data: bytes, body: bytes, begin: int, tables: dict, interval: int) -> int:
    """Add the bits of a scan's blocks; return where it ends."""
    end = re.compile(rb"\xff[^\x00\xd0-\xd7]").search(data, begin)
    if end is None:
        raise ValueError("the file is cut short: a scan has no end")
    chosen = [(found.components[body[1 + 2 * k]], body[2 + 2 * k]) for k in range(body[0])]
    parts = [(one, tables[t // 16], tables[16 + t % 16], *((one.down, one.across) if len(chosen) > 1 else (1, 1))) for one, t in chosen]
    first, _, _, down, across = parts[0]
    rows, columns = first.inside if len(chosen) == 1 else (first.bits.shape[0] // down, first.bits.shape[1] // across)
    segments = re.split(rb"\xff[\xd0-\xd7]", data[begin : end.start()])
    a_segment = interval or rows * columns
    if len(segments) != -(-rows * columns // a_segment):
        raise ValueError(f"the file is damaged: {len(segments)} segments, and {rows * columns} units of {a_segment} each")
    for number, stuffed in enumerate(segments):
        segment = stuffed.replace(b"\xff\x00", b"\xff")
        wide = np.frombuffer(segment + b"\xff\xff", np.uint8).astype(np.uint32)
        wide = wide[:-2] << 16 | wide[1:-1] << 8 | wide[2:]
        window = memoryview((wide[:, None] >> np.arange(8, 0, -1) & 0xFFFF).astype(np.uint16).reshape(-1))
        place = 0
        for unit in range(number * a_segment, min((number + 1) * a_segment, rows * columns)):
            for component, dc, ac, down, across in parts:
                for y in range(unit // columns * down, unit // columns * down + down):
                    for x in range(unit % columns * across, unit % columns * across + across):
                        place = walk_block(window, before := place, dc, ac)
                        component.bits[y, x] += place - before
        if not 0 <= len(window) - place < 8:
            raise ValueError(f"the file is damaged: segment {number} holds {len(window)} bits, its blocks {place}")
        found.ledger["stuffing"] += 8 * (len(stuffed) - len(segment))
        found.ledger["filling"] += len(window) - place
    return end.start()


def walk_block(window: memoryview, place: int, dc: list[int], ac: list[int]) -> int:
    """Return the bit at which a block ends that begins at ``place``."""
    try:
        place, done = place + dc[window[place]] % 256, 1
        while done < COEFFICIENTS:
            step = ac[window[place]]
            place, done = place + step % 256, done + step // 256
            if not step or COEFFICIENTS < done < END_OF_BLOCK:
                raise ValueError(f"the file is damaged: there is no such code at bit {place} of a segment")
    except IndexError:
        raise ValueError("the file is damaged: a segment ends within a block") from None
    return place


def main() -> None:
    found = read_jpeg(Path(sys.argv[1]).read_bytes())
    for what, bits in found.ledger.items():
        print(f"{bits:12,d} bits of {what}")
    print(f"{sum(found.ledger.values()):12,d} bits of {found.size[1]} x {found.size[0]} pixels")


if __name__ == "__main__":
    main()
