"""Codecs of data sets that are mappers: pictures from files and shards, bits by ``BitrateMapper``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cells.quality import measure_psnr
from ..io.files import open_regular, shown
from ..io.images import ImageError, load_picture
from ..mapping.mapper import BitrateMapper
from ..memory import is_out_of_memory
from ..models.demo_codec import load_demo_forward
from ..receptive_field.fingerprint import fingerprint
from .codec import About, Read, Spent, Unreadable
from .items import Item

_SAMPLE = 64  # pixels a side of the picture that shows which latents a model has
_CHUNK = 1 << 20  # bytes


class PictureCodec:
    """Measure pictures with a mapper; see ``run``, whose ``make`` makes one in each worker.

    Args:
        mapper: of the model.
        name: of the model, for the column "model".
        settings: what else the numbers depend on: the mapper's options, and those of ``forward``; values that JSON has.
        device: that the model is on.
        forward: arguments for the model's ``forward``.
    """

    def __init__(
        self,
        mapper: BitrateMapper,
        *,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
        forward: Mapping[str, Any] | None = None,
    ) -> None:
        self._mapper, self._device, self._forward = mapper, torch.device(device), dict(forward or {})
        model = mapper.model
        mapper.resolve(torch.zeros(1, 3, _SAMPLE, _SAMPLE, device=self._device), dict(self._forward))
        weights = fingerprint(model, (), (), {}) if isinstance(model, nn.Module) else repr(model)
        known = {**(settings or {}), "weights": weights, "device": self._device.type, "forward": self._forward}
        self.about = About(name or type(model).__name__, tuple(mapper.strides), known)

    @classmethod
    def demo(cls, quality: int) -> PictureCodec:
        """Make one of the demo codec."""
        return cls(BitrateMapper(load_demo_forward(quality)), name=f"demo codec, quality {quality}")

    def read(self, item: Item) -> Read:
        """Read, hash and decode a picture.

        Raises:
            Unreadable: it cannot be.
        """
        with _file_of(item) as path:
            try:
                sha256 = _hash(path)
            except ImageError as error:
                raise Unreadable(_reason(error, path)) from error
            try:
                picture = load_picture(path)
            except ImageError as error:
                raise Unreadable(_reason(error, path), sha256) from error
        return Read(sha256, tuple(picture.pixels.shape), (picture.pixels, picture.facts.warnings))

    def measure(self, pictures: Sequence[tuple[Tensor, Sequence[str]]]) -> list[dict[str, Any]]:
        """Run the model on pictures of one size, and add up their bits."""
        x = torch.cat([pixels for pixels, _ in pictures])
        try:
            result = self._mapper(x.to(self._device), **self._forward)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):  # whose own words are of the day
                raise MemoryError("not enough memory to measure it on this device") from error
            if "CUDA error" in str(error):
                raise Spent from error  # nothing in this process will run on that device again
            raise
        rows = []
        for number, (pixels, warnings) in enumerate(pictures):
            one = result.image(number)
            height, width = one.size
            row: dict[str, Any] = {"height": height, "width": width, "bits": one.total_bits}
            row |= {"latents": one.latent_bits, "padding_bits": float(result.padding_bits[number]), "bpp": one.bpp}
            psnr = None if result.x_hat is None else measure_psnr(result.x_hat[number : number + 1], pixels)
            row |= {"file_bytes": one.file_bytes, "psnr_db": psnr}
            rows.append(row | {"warnings": "; ".join((*warnings, *one.warnings)) or None})
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
