"""Pictures of a data set, from files and from members of tar shards: read, hashed, decoded."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..io.decoding import ImageMemoryError
from ..io.files import open_regular, shown
from ..io.images import ImageError, load_picture
from ..io.labels import load_labels
from ..memory import MemoryLimitError, is_out_of_memory
from ..video.reader import VideoReader
from .codec import Read, Spent, Unreadable
from .items import Item

_CHUNK = 1 << 20  # bytes
_LOST = ("CUDA error", "CUDA driver", "cuDNN error", "CUBLAS_STATUS", "NVIDIA driver")  # in what PyTorch raises


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Raise a lack of memory as ``MemoryError``, whose own words are of the day, and a GPU's end as ``Spent``."""
    try:
        yield
    except (RuntimeError, MemoryError, MemoryLimitError) as error:
        if isinstance(error, MemoryLimitError) or is_out_of_memory(error):
            raise MemoryError("not enough memory for this picture") from error
        if any(word in str(error) for word in _LOST):
            raise Spent from error  # nothing in this process will run on that device again
        raise


@dataclass(frozen=True, eq=False)
class Picture:
    """What is measured: the pixels of a picture, ``[1, 3, H, W]`` in [0, 1]; of a video None, it is read by then."""

    item: Item
    sha256: str
    pixels: Tensor | None
    labels: NDArray[Any] | None
    warnings: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process as an array, which those that share memory do not copy."""
        pixels = None if self.pixels is None else self.pixels.numpy()
        return _from_array, (self.item, self.sha256, pixels, self.labels, self.warnings)


def _from_array(item: Item, sha256: str, pixels: NDArray[Any] | None, *rest: Any) -> Picture:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor does anything write to it
        return Picture(item, sha256, None if pixels is None else torch.from_numpy(pixels), *rest)


class PictureReader:
    """Read pictures for a ``PictureCodec``, in whatever process: it holds no model.

    Args:
        sequential: each picture is measured by itself, as by a codec of video.
    """

    def __init__(self, sequential: bool = False) -> None:
        self._sequential = sequential

    @failures()
    def __call__(self, item: Item) -> Read:
        """Read and hash a picture with its mask, and decode it; of a video that is done when it is measured.

        Raises:
            Unreadable: it cannot be.
            MemoryError: it takes more memory than there is.
        """
        labels, mask_sha256, sha256 = None, None, None
        with file_of(item) as path:
            try:
                sha256 = hash_of(path, "a video" if item.is_video else "an image")
                if item.mask is not None:
                    mask_sha256, labels = hash_of(item.mask, "a mask"), load_labels(item.mask)
                picture = None if item.is_video else load_picture(path)
            except ImageMemoryError:
                raise
            except ImageError as error:
                raise Unreadable(reason_of(error, path), sha256) from error
        if picture is None:
            return Read(sha256, None, Picture(item, sha256, None, labels), mask_sha256)
        x = picture.pixels
        group = None if self._sequential else tuple(x.shape)
        return Read(sha256, group, Picture(item, sha256, x, labels, tuple(picture.facts.warnings)), mask_sha256)


def load_pixels(item: Item) -> Tensor:
    """Read a picture, or the first frame of a video, ``[1, 3, H, W]`` in [0, 1].

    Raises:
        ValueError: it cannot be read.
        OSError: its shard cannot be.
    """
    with file_of(item) as path:
        if not item.is_video:
            return load_picture(path).pixels
        with VideoReader(path, frames=1) as reader:
            return pixels_of(next(iter(reader)).pixels)


def pixels_of(frame: NDArray[np.uint8] | Tensor) -> Tensor:
    """Return a frame of bytes ``[H, W, 3]`` as ``[1, 3, H, W]`` in [0, 1]."""
    return torch.as_tensor(frame).permute(2, 0, 1)[None].float() / 255


@contextlib.contextmanager
def file_of(item: Item) -> Iterator[str]:
    """Yield the name of an item's file; a shard's member is one while the block runs."""
    if item.member is None:
        yield item.name
        return
    shard, offset, size, why_not = item.member
    if why_not:
        raise Unreadable(why_not)
    nameless = os.path.isdir("/proc/self/fd")
    with (tempfile.TemporaryFile if nameless else tempfile.NamedTemporaryFile)(prefix="bitrate-ext-") as file:
        with open(shard, "rb") as archive:
            archive.seek(offset)
            left = size
            while left and (chunk := archive.read(min(left, _CHUNK))):
                file.write(chunk)
                left -= len(chunk)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}" if nameless else str(file.name)


def hash_of(path: str, kind: str) -> str:
    """Return the SHA-256 of a file, which is ``kind`` in messages."""
    digest = hashlib.sha256()
    with open(open_regular(path, kind, ImageError), "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def reason_of(error: ValueError, path: str) -> str:
    """Return why a file cannot be read, without its name, and what takes a huge one; a data set has no such option."""
    reason, huge, _ = str(error).removeprefix(f"{shown(path)}: ").partition(", or give a memory limit")
    return f"{reason}, or map it by itself (bitrate-ext map --max-memory)" if huge else reason
