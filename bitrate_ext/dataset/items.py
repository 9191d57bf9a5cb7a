"""What a data set holds: pictures and videos, one by one, in folders, by patterns, in lists and in tar shards."""

from __future__ import annotations

import codecs
import contextlib
import glob
import hashlib
import os
import sys
import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
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
TAKEN = frozenset(PICTURES + VIDEOS)
MASKS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm")  # endings, of which the first that is there is it
SHARD = ".tar"
_LONGEST = 4096  # bytes of a name
_CHUNK = 4096  # names that are hashed at once
MISSING = (-1, -1)  # the stamp of what is not there

Stamp = tuple[int, int]  # bytes, and time of the last change in ns


class DatasetError(ValueError):
    """What cannot be served of a data set as a whole; one line for the user."""


class Member(NamedTuple):
    """Where a tar shard has a picture: its file, the first byte, and how many there are, or why it cannot be read."""

    shard: str
    offset: int
    size: int
    why_not: str = ""


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
        return _stamp_of(self.name, self.member, self.mask, _stamp)


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return MISSING
    return status.st_size, status.st_mtime_ns


def _stamp_of(name: str, member: Member | None, mask: str | None, stamp: Callable[[str], Stamp]) -> Stamp:
    size, time = stamp(name if member is None else member.shard)
    if mask is None:
        return size, time
    size_of_mask, time_of_mask = stamp(mask)
    return size + size_of_mask, max(time, time_of_mask)


def stamps_digest(stamps: Iterable[Stamp]) -> str:
    """Hash the stamps of a part's files."""
    return hashlib.sha256(array("q", chain.from_iterable(stamps)).tobytes()).hexdigest()[:32]


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
        for start in range(0, len(self.names), _CHUNK):
            digest.update("\0".join([*self.names[start : start + _CHUNK], ""]).encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]

    def stamps_digest(self, numbers: range) -> str:
        """Hash the stamps of the items of those numbers, of which there may be many."""
        names = self.names[numbers.start : numbers.stop]
        if self.masks is None and not self.members:
            return stamps_digest(map(_stamp, names))
        stamp = lru_cache(maxsize=4)(_stamp)  # most of a shard's members follow one another
        return stamps_digest(_stamp_of(*item[1:], stamp) for item in self.items(numbers))

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
    listing, names = Listing(masks=masks), dict[str, None]()
    for one in inputs:
        found = list(_named(one, listing))
        names.update(dict.fromkeys(found))
        if not found and os.path.isdir(one):
            raise DatasetError(f"{shown(one)}: no picture in this folder; it must hold files such as .png or .mp4")
    for one in lists:
        for name in _lines(one):
            names.update(dict.fromkeys(_members(name, listing) if name.lower().endswith(SHARD) else [name]))
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
    folders = [folder]
    while folders:
        folder, taken = folders.pop(), list[str]()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif name[name.rfind(".") :].lower() in TAKEN:
                        taken.append(entry.path)
        except OSError as error:
            raise DatasetError(f"{shown(folder)}: the folder cannot be read ({error.strerror})") from error
        yield from sorted(taken)  # in pieces, of which sorting all of them makes use


def _members(shard: str, listing: Listing) -> Iterator[str]:
    """Yield the pictures of a tar shard by names that are a path's below it; members are read, never unpacked."""
    placed: dict[str, Member] = {}  # what hard links may lead to
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # which it would keep
                name, file = member.name, os.path.basename(member.name)
                if member.isdir() or file.startswith(".") or file[file.rfind(".") :].lower() not in TAKEN:
                    continue
                found = Member(shard, member.offset_data, member.size)
                if member.islnk():
                    found = placed.get(
                        member.linkname, found._replace(why_not="a link to what is no picture of the shard")
                    )
                elif member.issparse():
                    found = found._replace(why_not="stored sparse in the shard; store it whole")
                elif not member.isreg():
                    found = found._replace(why_not="a symbolic link or no file; tar -h stores what links lead to")
                placed[name] = listing.members[f"{shard}/{name}"] = found
                yield f"{shard}/{name}"
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{shown(shard)}: cannot be read as a tar shard, not compressed ({reason})") from error


def _lines(name: str) -> Iterator[str]:
    """Yield the names of a list: its lines, or, as ``find -print0`` writes them, what ends in null characters."""
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if name == STDIN else open(name, "rb") as file:
            start = file.read(_LONGEST).removeprefix(codecs.BOM_UTF8)
            found: Iterable[bytes]
            if b"\0" in start:
                found = (start + file.read()).split(b"\0")
            else:
                found = (line.rstrip(b"\r\n") for line in chain((start + file.readline()).split(b"\n"), file))
            yield from map(os.fsdecode, filter(None, found))
    except OSError as error:
        raise DatasetError(f"{shown(name)}: the list cannot be read ({error.strerror})") from error
