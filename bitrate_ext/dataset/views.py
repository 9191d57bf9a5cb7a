"""Pictures and pages of a run: its ends on a contact sheet, the mean of its maps, a table to look through."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..cells.picture import PictureBits
from ..io.files import shown
from ..page.write import write_folder_page
from ..viz.colormap import ClipLimit, apply_colormap, inside_rim
from ..viz.contact_sheet import Tile, contact_sheet
from ..viz.map_figure import as_levels, map_figure
from .files import CELLS, HTML, NPZ
from .items import DatasetError, item_named
from .reading import load_pixels
from .rows import counted
from .summary import Run, ask, open_run

if TYPE_CHECKING:
    from PIL import Image

GRID = 512  # pixels, the longer side of a mean over pictures of several sizes
MOST_ROWS = 1_000_000  # of a page
_UNTOLD = ("item", "id", "sha256", "mask_sha256", "top_channels", "regions", "files", "model", "settings")  # in it


def draw_sheet(folder: Run, count: int = 5) -> Image.Image:
    """Draw the pictures with the most bits per pixel, and those with the fewest; where cells were written, their maps.

    Args:
        folder: the output of ``run``, whole or not. Pictures are looked for where the run found them, from the current
            folder; of a video the first frame is shown.
        count: of pictures at each end.

    Returns:
        An RGB image.

    Raises:
        DatasetError: it holds no rows of a run, or none of a picture that is measured.
    """
    base, manifest = open_run(folder)
    which = "select path, files, bpp, psnr_db from rows where status = 'ok' order by bpp"
    most = ask(base, f"{which} desc, path limit {count}")
    fewest = [row for row in ask(base, f"{which}, path limit {count}") if row not in most]
    if not most:
        raise DatasetError(f"{shown(folder)}: no picture is measured")
    maps = [_cells(Path(folder), row) for row in (*most, *fewest)]
    clip = ClipLimit()
    for bits in maps:
        if bits is not None:
            clip.add(inside_rim(bits.map(), bits.rim))
    limit = clip.limit() if any(maps) else None
    tiles = [_tile(row, bits, limit) for row, bits in zip((*most, *fewest), maps, strict=True)]
    scale = f"   maps from 0, dark, to {limit:.3g} bits per pixel" if limit else ""
    return contact_sheet(
        {"most bits per pixel": tiles[: len(most)], "fewest": tiles[len(most) :]},
        title=os.path.basename(os.path.abspath(folder)),
        subtitle=f"{counted(manifest['items'], 'picture')}   {manifest['model']}{scale}",
    )


def _tile(row: dict[str, Any], bits: PictureBits | None, limit: float | None) -> Tile:
    try:
        x = load_pixels(item_named(row["path"]))
        picture: NDArray[np.uint8] | None = as_levels(x, tuple(x.shape[2:])).numpy()
    except (ValueError, OSError, ImportError):
        picture = None
    pictures = [picture]
    if limit is not None:
        pictures.append(None if bits is None else apply_colormap(bits.map(), limit).numpy())
    psnr = "" if row["psnr_db"] is None else f"   {row['psnr_db']:.2f} dB"
    return Tile(pictures, [f"{row['bpp']:.3f} bits per pixel{psnr}", os.path.basename(row["path"])])


def _cells(folder: Path, row: dict[str, Any]) -> PictureBits | None:
    names = [name for name in row["files"] or () if name.startswith(f"{CELLS}/") and name.endswith(NPZ)]
    return PictureBits.load(folder / names[0]) if names else None


@dataclass(frozen=True)
class MeanMap:
    """The mean of the maps of many pictures.

    Args:
        bits: float64 ``[H, W]``, bits per pixel.
        pictures: how many.
        resampled: whether they are of several sizes, and each was brought to ``bits``'s.
    """

    bits: Tensor
    pictures: int
    resampled: bool

    def figure(self, about: str = "") -> Image.Image:
        """Draw it with a colour bar; ``about`` is told below the title."""
        size = "resampled to" if self.resampled else "of"
        height, width = self.bits.shape
        told = f"{size} {width} x {height} pixels   mean {float(self.bits.mean()):.3f} bits per pixel"
        return map_figure(
            self.bits, title=f"mean of {counted(self.pictures, 'map')}", subtitle=f"{told}   {about}".rstrip()
        )


def mean_map(folder: Run) -> MeanMap:
    """Return the mean of the maps of a run that has written cells; a video, whose frames are one map, counts once.

    Cells of pictures of one size are added up before they are laid out, which is the same and takes no memory. Maps
    of several sizes are each averaged over a grid whose longer side has 512 pixels, and whose shape is that of the
    pictures' mean height and width.

    Args:
        folder: the output of ``run`` by a codec that writes ``"cells"``, whole or not.

    Raises:
        DatasetError: it holds no rows of a run, or no cells.
    """
    base, _ = open_run(folder)
    sums: dict[Any, tuple[PictureBits, int]] = {}
    for row in ask(base, "select files from rows where status = 'ok' order by item"):
        bits = _cells(Path(folder), row)
        if bits is None:
            continue
        key = (bits.canvas, bits.crop, tuple((name, tuple(one.bits.shape)) for name, one in bits.grids.items()))
        before, count = sums.get(key, (None, 0))
        sums[key] = (bits if before is None else _plus(before, bits)), count + 1
    if not sums:
        raise DatasetError(
            f"{shown(folder)}: a mean map is of cells, and the run wrote none; run with --write rows,cells"
        )
    total = sum(count for _, count in sums.values())
    sizes = {bits.size for bits, _ in sums.values()}
    size = next(iter(sizes)) if len(sizes) == 1 else _grid([(bits.size, count) for bits, count in sums.values()])
    mean = sum(_resampled(bits.map(), size) for bits, _ in sums.values())
    assert isinstance(mean, Tensor)
    return MeanMap(mean / total, total, len(sizes) > 1)


def _plus(one: PictureBits, other: PictureBits) -> PictureBits:
    grids = {name: replace(grid, bits=grid.bits + other.grids[name].bits) for name, grid in one.grids.items()}
    return replace(one, grids=grids)


def _grid(sizes: Sequence[tuple[tuple[int, int], int]]) -> tuple[int, int]:
    height, width = (sum(size[axis] * count for size, count in sizes) for axis in (0, 1))
    scale = GRID / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resampled(bits: Tensor, size: tuple[int, int]) -> Tensor:
    return bits if bits.shape == size else F.interpolate(bits[None, None], size=size, mode="area")[0, 0]


def write_table(folder: Run, target: str | os.PathLike[str]) -> None:
    """Write a page with a table of all pictures, to be sorted and filtered, which links to their own pages.

    Args:
        folder: the output of ``run``, whole or not.
        target: the file of HTML; one that exists is replaced.

    Raises:
        DatasetError: it holds no rows of a run, or more than a page should.
        OSError: the file cannot be written.
    """
    base, manifest = open_run(folder)
    rows = ask(base, f"select * from rows order by item limit {MOST_ROWS + 1}")
    if len(rows) > MOST_ROWS:
        raise DatasetError(
            f"{shown(folder)}: a page takes {MOST_ROWS:,} rows at most; DuckDB reads the parts as a table"
        )
    where, table = Path(target).absolute().parent, []
    for row in rows:
        page = next((name for name in row["files"] or () if name.endswith(HTML)), None)
        link = None if page is None else Path(os.path.relpath(Path(folder).absolute() / page, where)).as_posix()
        table.append({name: value for name, value in row.items() if name not in _UNTOLD} | {"page": link})
    known = [name for name in table[0] if any(row[name] is not None for row in table)]
    table = [{name: row[name] for name in known} for row in table]
    write_folder_page(table, target, title=f"{len(rows):,} pictures, {manifest['model']}")
