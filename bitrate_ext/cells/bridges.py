"""Block maps as CSV and npy, and YUView's statistics, both ways: maps of AV1, HEVC or VVC that were made elsewhere."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..atomic import open_all_or_none
from ..choices import CODED
from ..models.padding import Size
from .picture import CellGrid, PictureBits

COLUMNS = ("x", "y", "width", "height", "latent", "bits")
PER_BIT = 1000  # YUView reads whole numbers: thousandths of a bit
MOST_CELLS, LARGEST = 2**28, 2**31 - 1  # of a latent that is read; whole number that YUView reads
PADDING = "padding"  # among what is elsewhere: of cells outside of the picture, where a format has no place for them


class Block(NamedTuple):
    """A rectangle of pixels, from the picture's top left corner on, and its bits."""

    x: int
    y: int
    width: int
    height: int
    latent: str
    bits: float


@dataclass
class Facts:
    """What a file says of its picture besides blocks."""

    size: Size | None = None
    name: str = ""
    kind: str = CODED
    file_bytes: int | None = None
    per_bit: float | None = None
    elsewhere: dict[str, float] = field(default_factory=dict)

    def lines(self) -> Iterator[tuple[object, ...]]:
        """Yield the rows that say so; ``read`` takes them."""
        yield ("name", self.name)
        yield ("kind", self.kind)
        if self.size is not None:
            yield ("size", *self.size)
        if self.file_bytes is not None:
            yield ("file_bytes", self.file_bytes)
        if self.per_bit is not None:
            yield ("per_bit", self.per_bit)
        for what, some in self.elsewhere.items():
            yield ("elsewhere", what, repr(float(some)))

    def read(self, row: Sequence[str]) -> None:
        """Take a row; others are comments."""
        match [cell.strip() for cell in row]:
            case ["name" | "kind" as what, text]:
                setattr(self, what, text)
            case ["size", height, width]:
                self.size = int(height), int(width)
            case ["file_bytes", number]:
                self.file_bytes = int(number)
            case ["per_bit", number]:
                self.per_bit = float(number)
            case ["elsewhere", what, number]:
                self.elsewhere[what] = float(number)


def write_blocks(bits: PictureBits, path: str | Path) -> None:
    """Write the bits of cells as CSV or npy, by the path's ending; a file of that name is replaced.

    CSV: a row for each cell, ``x, y, width, height, latent, bits``, pixels from the picture's top left corner on, and
    lines of comment that hold the ledger; ``read_blocks`` gives the same cells back. npy: float64 ``[h, w]``, bits per
    block of all latents together, over the canvas, where coarser cells are spread evenly over the blocks. In both a
    cell's bits are on its own pixels, whatever its projection.

    Raises:
        ValueError: another ending, or cells that are no whole number of pixels.
    """
    path = Path(path)
    if path.suffix == ".npy":
        side = [math.gcd(*(_side(bits, name)[axis] for name in bits.grids)) for axis in (0, 1)]
        shape = bits.canvas[0] // side[0], bits.canvas[1] // side[1]
        total = np.zeros(shape)
        for name, grid in bits.grids.items():
            more = [_side(bits, name)[axis] // side[axis] for axis in (0, 1)]
            total += np.kron(grid.bits.double().cpu().numpy() / math.prod(more), np.ones(more))
        with open_all_or_none([path]) as (file,):
            np.save(file, total)
        return
    if path.suffix != ".csv":
        raise ValueError(f"path must end in .csv or .npy, got {str(path)!r}")
    facts = Facts(bits.size, bits.name, bits.kind, bits.file_bytes, None, dict(bits.elsewhere))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(("#", *line) for line in facts.lines())
    writer.writerow(COLUMNS)
    writer.writerows((*block[:5], repr(block.bits)) for block in _blocks_of(bits))
    _write(path, text.getvalue())


def read_blocks(
    path: str | Path, *, size: Size | None = None, block: Size | None = None, origin: tuple[int, int] = (0, 0)
) -> PictureBits:
    """Read the bits of blocks: CSV with the columns that ``write_blocks`` writes, or npy, ``[h, w]``.

    Blocks may have any sizes and lie anywhere: the bits of each are spread evenly over cells as large as all blocks of
    its latent allow, blocks that overlap are added, and what lies outside of the picture is padding. Columns may come
    in any order, that of the latent may be missing.

    Args:
        path: the file.
        size: ``(H, W)`` of the picture, pixels. Default: what the file says, else all that blocks cover.
        block: of npy, ``(height, width)`` of a block, pixels. Default: the size over the array's shape.
        origin: of npy, ``(top, left)`` of the picture on the blocks, pixels.

    Raises:
        ValueError: a file that is none of these, with the line and what was expected; arguments that do not go
            together.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return _read_npy(path, size, block, origin)
    if block is not None or tuple(origin) != (0, 0):
        raise ValueError(f"block and origin are for .npy alone: the blocks of {path} say where they are")
    facts, blocks, places = Facts(), list[Block](), list[int]()
    with path.open(newline="", encoding="utf-8", errors="replace") as file, _lines_of(path, file) as lines:
        for row in csv.reader(lines):
            first = row[0].strip() if row else ""
            if first.startswith("%"):
                raise ValueError("a file of YUView's: read_yuview reads it")
            if first == "#":
                facts.read(row[1:])
            elif places and any(row):
                blocks.append(_block(*(row[place] if 0 <= place < len(row) else None for place in places)))
            elif any(row):
                names = [name.strip() for name in row]
                missing = [name for name in COLUMNS if name not in names and name != "latent"]
                if missing:
                    raise ValueError(f"columns {', '.join(COLUMNS)} were expected, {', '.join(missing)} missing")
                places = [names.index(name) if name in names else -1 for name in COLUMNS]
    return _picture(path, blocks, facts, size)


def write_yuview(bits: PictureBits, path: str | Path, *, frame: int = 0) -> None:
    """Write a file of statistics that YUView shows over the picture, a type for each latent.

    Values are thousandths of a bit; the sum of a latent is exact to half of one. Blocks are cut at the picture's edge.
    What of their bits is outside, or is lost by rounding, is said in a comment, as is the ledger: ``read_yuview`` gives
    the same total.

    Args:
        bits: of the picture.
        path: the file; one of that name is replaced.
        frame: its number, from 0 on.

    Raises:
        ValueError: cells that are no whole number of pixels, or more bits in one than YUView's numbers hold.
    """
    inside: dict[str, list[Block]] = {name: [] for name in bits.grids}
    height, width = bits.size
    for block in _blocks_of(bits):
        left, top = max(block.x, 0), max(block.y, 0)
        wide, high = min(block.x + block.width, width) - left, min(block.y + block.height, height) - top
        if wide > 0 and high > 0:
            share = wide * high / (block.width * block.height)
            inside[block.latent].append(Block(left, top, wide, high, block.latent, block.bits * share))
    types: list[tuple[object, ...]] = []
    data: list[tuple[object, ...]] = []
    left_over = sum(bits.latent_bits.values())
    for number, (name, blocks) in enumerate(inside.items()):
        values = np.diff(np.rint(np.cumsum([PER_BIT * block.bits for block in blocks])), prepend=0)
        if not np.abs(values).max() <= LARGEST:
            raise ValueError(f"latent {name!r} must have at most {LARGEST / PER_BIT:,.0f} bits in a cell, for YUView")
        left_over -= float(values.sum()) / PER_BIT
        types.append(("%", "type", number, name, "range"))
        types.append(("%", "defaultRange", int(min(values.min(), 0)), int(max(values.max(), 1)), "jet"))
        data += [(frame, *block[:4], number, int(value)) for block, value in zip(blocks, values, strict=True)]
    facts = Facts(None, bits.name, bits.kind, bits.file_bytes, PER_BIT, {**bits.elsewhere, PADDING: left_over})
    rows: list[tuple[object, ...]] = [("%", "syntax-version", "v1.2")]
    rows.append(("%", "seq-specs", Path(path).stem, 0, width, height, 0))
    rows += [("%", "%", *line) for line in facts.lines()]
    lines = [";".join(str(cell).replace(";", ",").replace("\n", " ") for cell in row) for row in (*rows, *types, *data)]
    _write(Path(path), "\n".join(lines) + "\n")


def read_yuview(
    path: str | Path, *, types: Iterable[str] | None = None, frame: int = 0, per_bit: float | None = None
) -> PictureBits:
    """Read the bits of one frame from a file of YUView's statistics, as codecs of any kind write them.

    Args:
        path: the file.
        types: names of those of its types whose values are bits, each a latent. Default: all of them, if there is
            only one or ``write_yuview`` wrote the file.
        frame: the number of the frame (POC).
        per_bit: how many of its units are a bit. Default: what ``write_yuview`` says in the file, else 1.

    Raises:
        ValueError: a file that is none, with the line and what was expected; no such frame or type; types that are
            not said and could be anything.
        OSError: the file cannot be read.
    """
    path, facts, names, blocks = Path(path), Facts(), dict[int, str](), list[Block]()
    chosen = None if types is None else list(types)
    with path.open(encoding="utf-8", errors="replace") as file, _lines_of(path, file) as lines:
        for line in lines:
            match row := line.rstrip().split(";"):
                case [""]:
                    pass
                case ["%", "%", *comment]:
                    facts.read(comment)
                case ["%", "seq-specs", _, _, width, height, *_]:
                    facts.size = _whole("height", height), _whole("width", width)
                case ["%", "type", which, name, "map" | "range", *_]:
                    names[_whole("type", which)] = name.strip()
                case ["%", *_]:
                    pass
                case [poc, x, y, width, height, which, value, *_]:
                    if _whole("POC", poc) == frame:
                        latent = names.get(_whole("type", which))
                        if latent is not None and (chosen is None or latent in chosen):
                            blocks.append(_block(x, y, width, height, latent, value))
                case _:
                    raise ValueError(f"POC;x;y;width;height;type;value was expected, got {len(row)} columns")
    known = list(dict.fromkeys(names.values()))
    if not known:
        raise ValueError(f"{path} must be a file of YUView's statistics, with lines %;type;0;name;range: it has none")
    if not set(chosen or ()) <= set(known) or (chosen is None and len(known) > 1 and facts.per_bit is None):
        raise ValueError(f"types must be those of {', '.join(map(repr, known))} that are bits, got {types!r}")
    if not blocks:
        raise ValueError(f"{path} has no blocks of {', '.join(map(repr, chosen or known))} in frame {frame}")
    scale = per_bit or facts.per_bit or 1.0
    blocks = [block._replace(bits=block.bits / scale) for block in blocks]
    return _picture(path, blocks, facts, None)


@contextlib.contextmanager
def _lines_of(path: Path, file: Iterable[str]) -> Iterator[Iterator[str]]:
    """Hand on lines, and say in errors at which of them they came up."""
    number, last = 0, ""

    def lines() -> Iterator[str]:
        nonlocal number, last
        for number, last in enumerate(file, 1):  # noqa: B007 (read below)
            yield last

    try:
        yield lines()
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {number}, {last.strip()[:80]!r}: {error}") from None


def _write(path: Path, text: str) -> None:
    with open_all_or_none([path]) as (file,):
        file.write(text.encode())


def _whole(name: str, text: str | None, least: int = -LARGEST) -> int:
    try:
        number = int(text or "")
    except ValueError:
        number = least - 1
    if not least <= number <= LARGEST:
        raise ValueError(f"{name} must be a whole number{' from 1 on' if least == 1 else ''}, got {text!r}")
    return number


def _number(name: str, text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number, got {text!r}")
    return number


def _block(
    x: str | None, y: str | None, width: str | None, height: str | None, latent: str | None, bits: str | None
) -> Block:
    size = _whole("width", width, 1), _whole("height", height, 1)
    return Block(_whole("x", x), _whole("y", y), *size, (latent or "bits").strip(), _number("bits", bits))


def _side(bits: PictureBits, name: str) -> tuple[int, int]:
    """Return ``(height, width)`` of a latent's cells, pixels."""
    rows, columns = bits.grids[name].bits.shape
    if bits.canvas[0] % rows or bits.canvas[1] % columns:
        canvas = " x ".join(map(str, bits.canvas))
        raise ValueError(f"cells of {name!r} must be whole pixels, got {rows} x {columns} cells on {canvas} pixels")
    return bits.canvas[0] // rows, bits.canvas[1] // columns


def _blocks_of(bits: PictureBits) -> Iterator[Block]:
    """Yield the cells of each latent, row by row."""
    top, left = bits.crop[:2]
    for name, grid in bits.grids.items():
        height, width = _side(bits, name)
        for i, row in enumerate(grid.bits.double().tolist()):
            for j, some in enumerate(row):
                yield Block(width * j - left, height * i - top, width, height, name, some)


def _picture(path: Path, blocks: Sequence[Block], facts: Facts, size: Size | None) -> PictureBits:
    """Put blocks on grids, one for each latent, of the greatest cells that no block's edge cuts."""
    if not blocks:
        raise ValueError(f"{path} must have blocks: it has none")
    places: dict[str, list[tuple[int, ...]]] = {}
    for block in blocks:
        places.setdefault(block.latent, []).append((block.y, block.x, block.y + block.height, block.x + block.width))
    every = np.array([place for some in places.values() for place in some], dtype=np.int64)
    first, last = np.minimum(every[:, :2].min(0), 0), every[:, 2:].max(0)  # pixels, from the picture's corner on
    size = size or (facts.size if facts.size and min(facts.size) > 0 else None) or (int(last[0]), int(last[1]))
    canvas = np.maximum(last, size) - first
    grids = {}
    for name, some in places.items():
        edges = np.array(some, dtype=np.int64) - np.tile(first, 2)
        side = np.array([np.gcd.reduce([*edges[:, axis], *edges[:, axis + 2], canvas[axis]]) for axis in (0, 1)])
        shape, edges = canvas // side, edges // np.tile(side, 2)
        if int(shape[0]) * int(shape[1]) > MOST_CELLS:
            raise ValueError(f"{path}: blocks of {name!r} need {shape[0]} x {shape[1]} cells, more than {MOST_CELLS:,}")
        cells = np.zeros(tuple(shape))
        worth = (block.bits for block in blocks if block.latent == name)
        for (top, left, bottom, right), bits in zip(edges.tolist(), worth, strict=True):
            cells[top:bottom, left:right] += bits / ((bottom - top) * (right - left))
        grids[name] = CellGrid(torch.from_numpy(cells))
    crop = (-int(first[0]), -int(first[1]), size[0], size[1])
    whole = int(canvas[0]), int(canvas[1])
    name = facts.name or path.stem
    return PictureBits(grids, whole, crop, name, facts.kind, facts.elsewhere, facts.file_bytes)


def _read_npy(path: Path, size: Size | None, block: Size | None, origin: tuple[int, int]) -> PictureBits:
    try:
        cells: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} must be an array of numbers in NumPy's format: {error}") from None
    if cells.ndim != 2 or not cells.size or cells.dtype.kind not in "iuf" or not np.isfinite(cells).all():
        raise ValueError(f"{path} must be [h, w], finite numbers, got {cells.dtype} {list(cells.shape)}")
    rows, columns = cells.shape
    if block is None:
        if size is None or size[0] % rows or size[1] % columns:
            raise ValueError(f"block must be given, or a size that is {rows} x {columns} blocks, got size {size}")
        block = size[0] // rows, size[1] // columns
    canvas = rows * block[0], columns * block[1]
    crop = (*origin, *(size or (canvas[0] - origin[0], canvas[1] - origin[1])))
    return PictureBits({"bits": CellGrid(torch.from_numpy(cells.astype(float)))}, canvas, crop, path.stem, CODED)
