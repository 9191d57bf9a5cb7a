"""What a data set holds: pictures and videos, one by one, in folders, by patterns, in lists and in tar shards."""

from __future__ import annotations

import glob
import hashlib
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..io.files import STDIN, shown

PICTURES = (  # endings of what is taken from folders and tar shards
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif"),
    *(".jxl", ".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm"),
)
VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".y4m", ".mpg", ".mpeg", ".mts", ".m2ts", ".ogv", ".flv"),
    *(".wmv", ".asf", ".ivf", ".h264", ".264", ".hevc", ".h265", ".265", ".obu", ".yuv"),
)
MASKS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm")  # endings, of which the first that is there is it
SHARD = ".tar"
MISSING = (-1, -1)  # the stamp of what is not there

Stamp = tuple[int, int]  # bytes, and time of the last change in ns


class DatasetError(ValueError):
    """What cannot be served of a data set as a whole; one line for the user."""


class Member(NamedTuple):
    """Where a tar shard has a picture: its file, the first byte, and how many there are."""

    shard: str
    offset: int
    size: int


class Item(NamedTuple):
    """One picture or video: its number in the order of names, its name, the member of a shard that it is, its mask."""

    number: int
    name: str
    member: Member | None = None
    mask: str | None = None

    @property
    def is_video(self) -> bool:
        """Whether its name ends as those of videos do."""
        return self.name.lower().endswith(VIDEOS)

    @property
    def stamp(self) -> Stamp:
        """Bytes and time of the last change of its files, by which a later run sees that they are others."""
        size, time = _stamp(self.name if self.member is None else self.member.shard)
        if self.mask is None:
            return size, time
        size_of_mask, time_of_mask = _stamp(self.mask)
        return size + size_of_mask, max(time, time_of_mask)


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return MISSING
    return status.st_size, status.st_mtime_ns


@dataclass
class Listing:
    """All items of a data set: their names, sorted, each once; those in shards; and the folder with their masks."""

    names: list[str] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    masks: str | None = None

    @property
    def digest(self) -> str:
        """Hash of all names in order."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode(errors="surrogateescape") + b"\0")
        return digest.hexdigest()[:32]

    def items(self, numbers: range | None = None) -> list[Item]:
        """Return the items of those numbers. Default: all."""
        numbers = range(len(self.names)) if numbers is None else numbers
        names = [self.names[number] for number in numbers]
        masks = [None] * len(names) if self.masks is None else [_mask_of(name, self.masks) for name in names]
        return [Item(*one[:2], self.members.get(one[1]), one[2]) for one in zip(numbers, names, masks, strict=True)]


def find_items(inputs: Iterable[str] = (), lists: Iterable[str] = (), masks: str | None = None) -> Listing:
    """Find the pictures and videos of a data set, in an order that depends on their names alone.

    Args:
        inputs: names of files, of folders, which are searched with all that is in them, of tar shards, and patterns
            such as ``photos/**/*.png``. Of folders and shards what ends as pictures and videos do is taken, hidden
            files are not.
        lists: files with a name in each line, ``"-"`` is the standard input; empty lines do not count.
        masks: a folder with label maps: of ``photos/a/1.jpg`` the first there is of ``photos/a/1.png``, ``a/1.png``
            and ``1.png``, or with another ending of what keeps labels.

    Raises:
        DatasetError: a name that does not exist, a pattern or folder without pictures, a damaged shard, no picture at
            all, no such folder of masks. Names in lists are not looked for: what is missing becomes a row of its own.
    """
    if masks is not None and not os.path.isdir(masks):
        raise DatasetError(f"{shown(masks)}: masks must be a folder with a label map for each picture, of its stem")
    listing, names = Listing(masks=masks), set[str]()
    for one in inputs:
        found = list(_named(one, listing))
        names.update(found)
        if not found and os.path.isdir(one):
            raise DatasetError(f"{shown(one)}: no picture in this folder; it must hold files such as .png or .mp4")
    for one in lists:
        for name in _lines(one):
            names.update(_members(name, listing) if name.lower().endswith(SHARD) else [name])
    if not names:
        raise DatasetError(
            "no picture: name pictures, videos, folders, patterns or tar shards, or a list of them that has one"
        )
    listing.names = sorted(names)
    return listing


def item_named(name: str) -> Item:
    """Return the item of that name by itself; a picture in a shard is looked for in it.

    Raises:
        DatasetError: the shard cannot be read.
    """
    end = name.lower().find(f"{SHARD}/") + len(SHARD)
    if os.path.lexists(name) or end < len(SHARD):
        return Item(0, name)
    listing = Listing()
    for found in _members(name[:end], listing):
        if found == name:
            break
    return Item(0, name, listing.members.get(name))


def _mask_of(name: str, folder: str) -> str | None:
    """Return the mask of a picture: the one under the most of its folders' names, if there is any."""
    *folders, file = (part for part in os.path.abspath(name).split(os.sep) if part)
    for start in range(len(folders) + 1):
        below = os.path.join(folder, *folders[start:])
        if os.path.isdir(below):
            for ending in MASKS:
                mask = os.path.join(below, os.path.splitext(file)[0] + ending)
                if os.path.lexists(mask):
                    return mask
    return None


def _named(name: str, listing: Listing) -> Iterator[str]:
    if os.path.isdir(name):
        yield from _in_folder(name)
    elif name.lower().endswith(SHARD) and os.path.exists(name):
        yield from _members(name, listing)
    elif os.path.lexists(name) or not glob.has_magic(name):
        if not os.path.lexists(name):
            raise DatasetError(f"{shown(name)}: no such file or folder")
        yield name
    else:
        found = glob.glob(name, recursive=True)
        if not found:
            raise DatasetError(f"{shown(name)}: no file has a name of this pattern")
        for one in found:
            if not os.path.isdir(one):
                yield from _named(one, listing)


def _in_folder(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from _in_folder(entry.path)
                elif entry.name.lower().endswith(PICTURES + VIDEOS):
                    yield entry.path
    except OSError as error:
        raise DatasetError(f"{shown(folder)}: the folder cannot be read ({error.strerror})") from error


def _members(shard: str, listing: Listing) -> Iterator[str]:
    """Yield the pictures of a tar shard by names that are a path's below it; members are read, never unpacked."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                hidden = os.path.basename(member.name).startswith(".")
                if member.isreg() and member.name.lower().endswith(PICTURES + VIDEOS) and not hidden:
                    name = f"{shard}/{member.name}"
                    listing.members[name] = Member(shard, member.offset_data, member.size)
                    yield name
                archive.members = []  # type: ignore[attr-defined]  # which it would keep
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{shown(shard)}: cannot be read as a tar shard, not compressed ({reason})") from error


def _lines(name: str) -> Iterator[str]:
    try:
        if name == STDIN:
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
            return
        with open(name, encoding="utf-8", errors="surrogateescape") as file:
            yield from filter(None, (line.rstrip("\r\n") for line in file))
    except OSError as error:
        raise DatasetError(f"{shown(name)}: the list cannot be read ({error.strerror})") from error
