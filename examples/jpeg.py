"""Where the bits of a baseline JPEG file (ITU-T T.81) go: the exact bits of each 8 x 8 block, and of all else."""

import re
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from bitrate_ext import CellGrid, PictureBits

OTHERS = {0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", 0xF7: "lossless"}  # processes, by their marker
OTHERS |= dict.fromkeys(b"\xc9\xca\xcb", "arithmetic") | dict.fromkeys(b"\xc5\xc6\xc7\xcd\xce\xcf\xde", "hierarchical")
MARKER, SCAN_END = re.compile(rb"\xff+([^\x00\xff])", re.S), re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.S)
TABLES, STUFFING, PADDING, AFTER = "markers, tables, metadata", "stuffing", "padding of last bytes", "after the end"
BLOCK, NO_CODE, NO_MORE = 64, 65, 192  # coefficients of a block; a step too far; one that ends a block


def expect(kept: Any, otherwise: str = "") -> None:
    """Raise ValueError where something does not hold; LookupError, which says damage, if there is no text for it."""
    if not kept:
        raise ValueError(otherwise) if otherwise else LookupError


def read_jpeg(data: bytes, **pictures: torch.Tensor) -> PictureBits:
    """Map a file, given its pictures or not; ValueError, with the reason, where it is no whole baseline JPEG file."""
    expect(data[:2] == b"\xff\xd8", f"no JPEG file: it begins with {data[:2].hex(' ') or 'nothing'}, not with ff d8")
    rest, planes, tables, scanned = {TABLES: 16, STUFFING: 0, PADDING: 0}, {}, {}, []
    marker, at, interval, rgb = 0, 2, 0, False
    try:
        while marker != 0xD9:
            found = MARKER.match(data, at)
            expect(found, "" if found or data[at:].strip(b"\xff") else "the file is cut short: it has no end (ff d9)")
            marker, end, deep = found[1][0], found.end(), max(data[found.end() + 2 : found.end() + 3], default=8)
            expect(marker not in OTHERS, f"{OTHERS.get(marker)} JPEG of {deep} bits: this reads baseline files of 8")
            end += 0 if marker == 0xD9 else max(2, int.from_bytes(data[end : end + 2], "big"))
            expect(end <= len(data), f"the file is cut short: a segment goes on to byte {end} of {len(data)}")
            body = data[found.end() + 2 : end]
            rest[TABLES] += 8 * (end - at)
            if marker == 0xC0:  # a frame: lay out the blocks of its components
                ids, height, width = body[6::3], int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
                expect(deep == 8, f"JPEG of {deep} bits: this reads files of 8")
                expect(len(ids) in (1, 3), f"JPEG of {len(ids)} components (CMYK has 4): this reads grey and three")
                expect(height * width, f"JPEG of {width} x {height} pixels: a later height (DNL) is not read")
                factors = [(factor % 16, factor // 16) if len(ids) == 3 else (1, 1) for factor in body[7::3]]
                expect(body[5] == len({*ids}) and {*sum(factors, ())} <= {1, 2, 3, 4} and not planes)
                down, across = (8 * max(one) for one in zip(*factors, strict=True))
                rows, columns = -(-height // down), -(-width // across)  # of units of coding (MCU)
                expect(rows * columns <= 4 * len(data), "the file is cut short: its blocks need more bytes")
                for number, (a, b) in zip(ids, factors, strict=True):
                    blocks = np.arange(rows * a * columns * b).reshape(rows * a, columns * b)
                    alone = blocks[: -(-height * a // down), : -(-width * b // across)].reshape(-1, 1)
                    together = blocks.reshape(rows, a, columns, b).swapaxes(1, 2).reshape(-1, a * b)
                    planes[number] = number, np.zeros(blocks.shape), alone, together
            while marker == 0xC4 and body:  # codes, and by how many coefficients and bits each goes on
                lengths = np.repeat(np.arange(1, 17), [body[length] for length in range(1, 17)])
                symbols, first = np.frombuffer(body[17 : 17 + len(lengths)], np.uint8).astype(int), body[0] < 16
                expect(len(symbols) == len(lengths) and sum(counts := 65536 >> lengths) <= 65536)
                kinds = [first & (symbols > 11), first, symbols % 16 > 0, symbols == 0, symbols == 0xF0]
                more = np.select(kinds, [NO_CODE, 1, symbols // 16 + 1, NO_MORE, 16], NO_CODE)
                steps = np.repeat(256 * more + lengths + symbols % 16, counts).tolist()
                tables[body[0]], body = steps + [256 * NO_CODE] * (65536 - len(steps)), body[17 + len(lengths) :]
            if marker == 0xDA:
                for k in range(1, 2 * body[0], 2):
                    scanned.append((*planes[body[k]], tables[body[k + 1] // 16], tables[body[k + 1] % 16 + 16]))
                end = walk_scan(data, end, scanned[len(scanned) - body[0] :], interval, rest)
            interval = int.from_bytes(body, "big") if marker == 0xDD else interval
            rgb = not body[11] if marker == 0xEE and body[:5] == b"Adobe" else rgb
            at = end
        expect(planes and sorted(number for number, *_ in scanned) == sorted(planes))
    except LookupError:
        raise ValueError(f"the file is damaged in the segment that begins at byte {at}") from None
    names = ("Y",) if len(planes) == 1 else ("R", "G", "B") if rgb or ids == b"RGB" else ("Y", "Cb", "Cr")
    grids = {name: CellGrid(torch.from_numpy(plane[1])) for name, plane in zip(names, planes.values(), strict=True)}
    canvas, crop, rest[AFTER] = (rows * down, columns * across), (0, 0, height, width), 8 * (len(data) - at)
    return PictureBits(grids, canvas, crop, "JPEG", "coded", rest, len(data), **pictures)


def walk_scan(data: bytes, begin: int, parts: list[Any], interval: int, rest: dict[str, int]) -> int:
    """Add the bits of a scan's blocks, and of all else in it; return where it ends."""
    expect(found := SCAN_END.search(data, begin), "the file is cut short: a scan has no end")
    segments = [part.rstrip(b"\xff") for part in re.split(rb"\xff[\xd0-\xd7]", data[begin : found.start()])]
    rest[TABLES] += 8 * (found.start() - begin - sum(map(len, segments)))
    units = range(len(parts[0][2 if len(parts) == 1 else 3]))
    expect(len(segments) == len(range(0, len(units), interval or len(units))))
    for number, stuffed in enumerate(segments):
        wide, place = np.frombuffer(stuffed.replace(b"\xff\x00", b"\xff") + b"\xff\xff", np.uint8), 0
        window = memoryview(np.convolve(np.unpackbits(wide), 1 << np.arange(16), "valid")[:-1])
        for unit in units[number * interval :][: interval or None]:
            for _, bits, alone, together, dc, ac in parts:
                for block in alone[unit] if len(parts) == 1 else together[unit]:
                    before, step = place, dc[window[place]]
                    place, done = place + step % 256, step // 256
                    while done < BLOCK:
                        step = ac[window[place]]
                        place, done = place + step % 256, done + step // 256
                    expect(not BLOCK < done < NO_MORE)
                    bits.flat[block] = place - before
        expect(0 <= len(window) - place < 8)
        rest[STUFFING] += 8 * len(stuffed) - len(window)
        rest[PADDING] += len(window) - place
    return found.start()


def encode(image: torch.Tensor, quality: float) -> PictureBits:
    """Code an image, ``[1, C, H, W]`` in [0, 1], grey or colour, with Pillow: 4:2:0, optimised tables; and map it."""
    good, got = 1 <= quality <= 100 and image.shape[:2] in ((1, 1), (1, 3)), f"{list(image.shape)} and {quality}"
    expect(good, f"image must be [1, 1 or 3, H, W] and quality 1 to 100, got {got}")
    pixels = (255 * image[0]).round().clamp(0, 255).byte().permute(1, 2, 0).squeeze(2).cpu().numpy()
    scales = [5000 // whole if whole < 50 else 200 - 2 * whole for whole in range(1, 101)]  # per cent, as in libjpeg
    Image.new("RGB", (8, 8)).save(seed := BytesIO(), "JPEG", quality=50)  # its tables are those that are scaled
    tables = np.array([*Image.open(seed).quantization.values()]) * np.interp(quality, range(1, 101), scales)
    tables = np.clip((tables + 50) // 100, 1, 255).astype(int).tolist()
    Image.fromarray(pixels).save(file := BytesIO(), "JPEG", qtables=tables, subsampling="4:2:0", optimize=True)
    decoded = torch.from_numpy(np.array(Image.open(file))).reshape(*pixels.shape[:2], -1)
    return read_jpeg(file.getvalue(), picture=image, reconstruction=decoded.permute(2, 0, 1)[None].float() / 255)


encode.qualities = (1.0, 100.0)
