"""What is written of each picture beside its row: its cells, pictures of its map, and a page to look into them."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..cells import saving
from ..cells.picture import PictureBits
from ..choices import DATASET_FILES
from ..io.files import shown
from ..page.write import write_page
from ..viz.map_figure import map_figure, overlay_figure
from ..viz.print_figure import rate_words

CELLS, PNG, PAGE, FRAMES = DATASET_FILES
NPZ, HTML, PARQUET = ".npz", ".html", ".parquet"

Files = dict[tuple[str, str], bytes]  # by kind and ending


def make_files(bits: PictureBits, kinds: Sequence[str], name: str, facts: Mapping[str, str]) -> Files:
    """Make the files of a picture: ``.npz`` as ``PictureBits.load`` reads, ``.map.png`` and ``.overlay.png``, a page.

    Args:
        bits: with the picture.
        kinds: which of them.
        name: of the picture's file, for titles.
        facts: what a page tells of how it came to be.

    Raises:
        ValueError: a projection of one's own, which cannot be saved.
    """
    made: Files = {}
    if CELLS in kinds:
        saving.check_projections(bits.grids)
        file = io.BytesIO()
        saving.write_arrays(file, bits.arrays(), packed=True)
        made[CELLS, NPZ] = file.getvalue()
    title = os.path.basename(name)
    if PNG in kinds:
        laid, (height, width) = bits.map(), bits.size
        about = f"{width} x {height}   {bits.total_bits:,.0f} bits   {rate_words(bits.bpp, bits.psnr_db)}   {bits.name}"
        assert bits.picture is not None
        pictures = {
            ".map": map_figure(laid, title=shown(title), subtitle=about, rim=bits.rim),
            ".overlay": overlay_figure(bits.picture, laid, rim=bits.rim),
        }
        for which, picture in pictures.items():
            file = io.BytesIO()
            picture.save(file, "PNG")
            made[PNG, f"{which}.png"] = file.getvalue()
    if PAGE in kinds:
        with tempfile.TemporaryDirectory(prefix="bitrate-ext-") as folder:
            path = Path(folder, "page")
            write_page(bits, path, title=title, facts=facts)
            made[PAGE, HTML] = path.read_bytes()
    return made
