"""Codecs of data sets that are mappers: pictures from files and shards, bits by ``BitrateMapper``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cells.quality import measure_psnr
from ..choices import CODED
from ..io.decoding import ImageMemoryError
from ..io.files import open_regular, shown
from ..io.images import ImageError, load_picture
from ..mapping.mapper import BitrateMapper
from ..memory import MemoryLimitError, is_out_of_memory
from ..models.demo_codec import load_demo_forward
from ..receptive_field.fingerprint import fingerprint
from .codec import GPU, About, Read, Spent, Unreadable
from .items import Item
from .rescue import measure_in_tiles, with_warning

_SAMPLE = 64  # pixels a side of the picture that shows which latents a model has
_CHUNK = 1 << 20  # bytes
_LOST = ("CUDA error", "CUDA driver", "cuDNN error", "CUBLAS_STATUS", "NVIDIA driver")  # in what PyTorch raises


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Raise a lack of memory as ``MemoryError``, whose own words are of the day, and a GPU's end as ``Spent``."""
    try:
        yield
    except (RuntimeError, MemoryError, MemoryLimitError) as error:
        if isinstance(error, MemoryLimitError) or is_out_of_memory(error):
            raise MemoryError("not enough memory for this picture") from error
        if any(word in str(error) for word in _LOST):
            raise Spent from error  # nothing in this process will run on that device again
        raise


class PictureCodec:
    """Measure pictures with a mapper; see ``run``, whose ``make`` makes one in each worker.

    Args:
        mapper: of the model.
        name: of the model, for the column "model".
        settings: what else the numbers depend on: the mapper's options, and those of ``forward``; values that JSON has.
        device: that the model is on.
        forward: arguments for the model's ``forward``.
        fallback: makes the codec that measures on the CPU what the GPU failed over. Default: such pictures are errors.
    """

    def __init__(
        self,
        mapper: BitrateMapper,
        *,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
        forward: Mapping[str, Any] | None = None,
        fallback: Callable[[], PictureCodec] | None = None,
    ) -> None:
        self._mapper, self._device, self._forward = mapper, torch.device(device), dict(forward or {})
        self._fallback = fallback
        self.remarks: tuple[str, ...] = ()  # that all rows have among their warnings
        model = mapper.model
        mapper.resolve(torch.zeros(1, 3, _SAMPLE, _SAMPLE, device=self._device), dict(self._forward))
        weights = fingerprint(model, (), (), {}) if isinstance(model, nn.Module) else repr(model)
        known = {"device": self._device.type, **(settings or {}), "weights": weights, "forward": self._forward}
        self.about = About(name or type(model).__name__, tuple(mapper.strides), known)

    @classmethod
    def demo(cls, quality: int) -> PictureCodec:
        """Make one of the demo codec."""
        return cls(BitrateMapper(load_demo_forward(quality)), name=f"demo codec, quality {quality}")

    @_failures()
    def read(self, item: Item) -> Read:
        """Read, hash and decode a picture.

        Raises:
            Unreadable: it cannot be.
            MemoryError: it takes more memory than there is.
        """
        with _file_of(item) as path:
            try:
                sha256 = _hash(path)
            except ImageError as error:
                raise Unreadable(_reason(error, path)) from error
            try:
                picture = load_picture(path)
            except ImageMemoryError:
                raise
            except ImageError as error:
                raise Unreadable(_reason(error, path), sha256) from error
        return Read(sha256, tuple(picture.pixels.shape), (picture.pixels, picture.facts.warnings))

    @_failures()
    def rescue(self, item: Item, lack: str, alive: Callable[[], None]) -> tuple[str, dict[str, Any]]:
        """Measure a picture by itself: in tiles for want of memory, on the CPU where that was asked for.

        Raises:
            Unreadable: it cannot be read, or nothing else may be tried.
            MemoryError: also this takes more memory than there is.
        """
        if lack == GPU:
            if self._fallback is None:
                raise Unreadable("the GPU failed over it; --fallback cpu measures such pictures on the CPU")
            other = self._fallback()
            return other._alone(item, "measured on the CPU: the GPU failed over it")
        if self._mapper.bits == CODED:  # by the whole picture
            return self._alone(item, "measured alone, for want of memory")
        with _file_of(item) as path:
            sha256 = _hash(path)
            alive()
            try:
                return sha256, measure_in_tiles(self._mapper, path, self._forward, alive)
            except ImageMemoryError:
                raise
            except ImageError as error:
                raise Unreadable(_reason(error, path), sha256) from error

    def _alone(self, item: Item, why: str) -> tuple[str, dict[str, Any]]:
        read = self.read(item)
        return read.sha256, with_warning(self.measure([read.picture])[0], why)

    @_failures()
    def measure(self, pictures: Sequence[tuple[Tensor, Sequence[str]]]) -> list[dict[str, Any]]:
        """Run the model on pictures of one size, and add up their bits."""
        x = torch.cat([pixels for pixels, _ in pictures])
        result = self._mapper(x.to(self._device), **self._forward)
        rows = []
        for number, (pixels, warnings) in enumerate(pictures):
            one = result.image(number)
            height, width = one.size
            row: dict[str, Any] = {"height": height, "width": width, "bits": one.total_bits}
            row |= {"latents": one.latent_bits, "padding_bits": float(result.padding_bits[number]), "bpp": one.bpp}
            psnr = None if result.x_hat is None else measure_psnr(result.x_hat[number : number + 1], pixels)
            row |= {"file_bytes": one.file_bytes, "psnr_db": psnr}
            rows.append(row | {"warnings": "; ".join((*warnings, *one.warnings, *self.remarks)) or None})
        return rows


@contextlib.contextmanager
def _file_of(item: Item) -> Iterator[str]:
    """Yield the name of an item's file; a shard's member is one while the block runs."""
    if item.member is None:
        yield item.name
        return
    shard, offset, size = item.member
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


def _hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(open_regular(path, "an image", ImageError), "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: ImageError, path: str) -> str:
    return str(error).removeprefix(f"{shown(path)}: ")
