"""Write pages: one file of HTML with its data, its style and its program, which asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic import open_all_or_none
from ..cells.picture import PictureBits
from ..cells.regions import Names, Where, areas_of
from ..choices import SHOWN_CHANNELS
from .document import PACK, Blobs, page_document
from .folder import folder_document
from .video import VideoFrames

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
_COMMENT = re.compile(r"^\s*//.*$|/\*\*(?:(?!\*/)[\s\S])*\*/", re.MULTILINE)
_SPACE = re.compile(r"\n\s+")  # of empty lines, and that lines begin with
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class) (\w+))", re.MULTILINE)


def write_page(
    inputs: PictureBits | Sequence[PictureBits],
    path: str | PathLike[str],
    *,
    channels: int | None = SHOWN_CHANNELS,
    title: str = "",
    facts: Mapping[str, str] | None = None,
    regions: Where | None = None,
    names: Names = None,
) -> None:
    """Write one HTML file in which the bits of a picture can be looked into, with any browser, without a network.

    It holds the cells of each latent, not pixels, and lays them out in the browser, so its numbers are the same as
    those of ``PictureBits``; bits under a guide and those without cells are held as pixels, right to 2e-5 of each.

    Args:
        inputs: the bits of one picture, or of one picture several times: of other models, qualities, coded and
            estimated; any two can be laid beside each other.
        path: of the file; one that exists is replaced.
        channels: how many of each latent, the costliest, can be looked at; None for all. They are known of results
            of ``BitrateMapper(model, channels=True)``.
        title: of the page; default: the name of the first input.
        facts: what is to be told of how it came to be, such as the command.
        regions: that the page begins with: boxes, a mask or labels, as for ``PictureBits.region``.
        names: of them, likewise.

    Raises:
        ValueError: no input, pictures of different sizes, regions that do not fit.
        ImportError: Pillow or Matplotlib is missing.
        OSError: the file cannot be written.

    Example:
        >>> bitrate_ext.write_page(bits, folder / "bits.html", facts={"codec": "demo"})
        >>> (folder / "bits.html").read_text()[:15].lower()
        '<!doctype html>'
    """
    given = [inputs] if isinstance(inputs, PictureBits) else list(inputs)
    if not given:
        raise ValueError("inputs must be at least one PictureBits, got none")
    for number, one in enumerate(given):
        if not isinstance(one, PictureBits):
            raise TypeError(
                f"inputs must be PictureBits, as result.image(0) gives them; inputs[{number}] is {type(one).__name__}"
            )
        if one.size != given[0].size:
            raise ValueError(
                f"inputs must be of one picture, of {given[0].size[0]} x {given[0].size[1]} pixels; inputs[{number}] "
                f"has {one.size[0]} x {one.size[1]}: write a page for each"
            )
    if channels is not None and channels < 0:
        raise ValueError(f"channels must be a number of at least 0, or None for all, got {channels}")
    areas = None if regions is None else areas_of(regions, given[0].size, names)
    blobs = Blobs()
    document = page_document(
        given,
        blobs,
        channels=channels,
        title=title or given[0].name or "Bits of a picture",
        facts=facts or {},
        regions=areas,
    )
    write_document(document, blobs, path)


def write_folder_page(
    rows: Iterable[Mapping[str, Any]],
    path: str | PathLike[str],
    *,
    title: str = "Pictures",
    link: str | None = "page",
    picture: Callable[[Mapping[str, Any]], Tensor | None] | None = None,
    by: str = "bpp",
) -> None:
    """Write one HTML file with a table of many pictures that can be sorted and filtered.

    Args:
        rows: of each picture what is known of it, by the names of columns: numbers and texts, None where unknown.
        path: of the file; one that exists is replaced.
        title: of the page.
        link: the column that names each picture's own page, relative to this one.
        picture: returns the picture of a row, ``[1, C, H, W]`` in [0, 1], or None; it is asked for those that cost the
            least and the most, at most 6 of each, which the page shows at 240 pixels a side, about 8 KB each.
        by: the column of numbers that says what a picture costs.

    Raises:
        ValueError: no rows.
        OSError: the file cannot be written.

    Example:
        >>> rows = [{"picture": "cat", "bpp": 0.17}, {"picture": "dog", "bpp": None}]
        >>> bitrate_ext.write_folder_page(rows, folder / "index.html", title="Pets")
    """
    blobs = Blobs()
    write_document(folder_document(rows, blobs, title=title, link=link, picture=picture, by=by), blobs, path)


def write_video_page(
    frames: Iterable[PictureBits],
    path: str | PathLike[str],
    *,
    rate: float = 25.0,
    kinds: Sequence[str] | None = None,
    channels: int | None = 0,
    quality: int | None = None,
    title: str = "Video",
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write one HTML file with the bits of each frame of a video, by latent and over time, and the map of any frame.

    Args:
        frames: in their order, of one size; read one after the other. Those that have a ``picture`` show it.
        path: of the file; one that exists is replaced.
        rate: frames a second.
        kinds: of each frame, such as "key" and "inter". A key frame begins a group.
        channels: as for ``write_page``.
        quality: of the pictures, 1 to 100, which are then kept with losses and without reconstructions, in a tenth of
            the room; PSNR is of the exact ones. None: as they are.
        title: of the page.
        facts: what is to be told of how it came to be.

    Raises:
        ValueError: no frames, frames of different sizes, a rate that is none, not a kind for each.
        OSError: the file cannot be written.

    Example:
        >>> bitrate_ext.write_video_page([bits, bits], folder / "video.html", rate=2, kinds=["key", "inter"])
    """
    taken = VideoFrames(channels=channels, quality=quality, facts=facts or {})
    for frame in frames:
        taken.add(frame)
    write_document(taken.document(rate=rate, kinds=kinds, title=title), taken.blobs, path)


@lru_cache(maxsize=1)
def program() -> str:
    """Return the page's program: its modules, each a function that returns what it exports, after those it imports."""
    made: dict[str, str] = {}

    def add(name: str) -> None:
        text = (files(__package__) / "src" / f"{name}.js").read_text(encoding="utf-8")
        text = _SPACE.sub("\n", _COMMENT.sub("", text))
        for found in _IMPORT.finditer(text):
            if found[2] not in made:
                add(found[2])
        exports = ", ".join(found[2] for found in _EXPORT.finditer(text))
        body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = modules.\2;", text))
        made[name] = f"modules.{name} = (() => {{\n{body}return {{ {exports} }};\n}})();\n"

    add("main")
    return '"use strict";\n(() => {\nconst modules = {};\n' + "".join(made.values()) + "})();\n"


def write_document(document: Mapping[str, Any], blobs: Blobs, path: str | PathLike[str]) -> None:
    """Write what a page is told, with its blobs, its style and its program, in one step."""
    style = (files(__package__) / "src" / "page.css").read_text(encoding="utf-8")
    skeleton = (files(__package__) / "src" / "page.html").read_text(encoding="utf-8")
    script = program()
    # Inside of a script element nothing but "</script" and "<!--" has a meaning; JSON can do without "<".
    text = json.dumps(document, allow_nan=False, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    text = text.encode("utf-8", "backslashreplace").decode()  # names of files may hold halves of surrogates
    held: dict[bool, list[str]] = {False: [], True: []}  # by whether a page can open without
    for name, blob in [(PACK, blobs.first), *enumerate(blobs.texts)]:
        held[name in blobs.later] += [f'<script type="text/plain" id="blob-{name}">{blob}</script>\n']
    pieces = {
        "title": html.escape(document["title"].encode("utf-8", "replace").decode()),
        "policy": f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src blob:; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "data": f'<script type="application/json" id="data">{text}</script>\n{"".join(held[False])}',
        "later": "".join(held[True]),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: pieces[found[1]], skeleton)
    with open_all_or_none([Path(path)]) as (file,):
        file.write(page.encode())


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
