"""The rate of a data set, gathered batch by batch, in one process or in several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..checks import check_layout, check_whole_number
from ..models.padding import Size
from ..ops.arguments import image_latents, unwrap
from ..ops.functional import rate
from ..ops.units import LIKELIHOOD, noun_of
from .layout import BitrateResult

AVERAGES = ("pixels", "images")
TOTAL = "bpp"


class RateMetric:
    """Gather bits per pixel over a data set, in total and of each latent, as metrics of torchmetrics do.

    ``update`` with each batch, ``compute`` at the end, ``reset`` before the next. Sums are float64 and wait for no
    device. Under ``torch.distributed`` each process updates with images of its own, as many as it has, none too, and
    ``compute``, which all must call, gives all of them the same numbers, of all images together.

    Args:
        average: ``"pixels"``: all bits over all pixels; or ``"images"``: the mean of the images' bits per pixel, which
            CompressAI's evaluation reports. They differ where images differ in size.
        process_group: of processes that gather together. Default: all.
        sync_on_compute: gather over processes. False: each for itself, where only one of them computes.

    Raises:
        ValueError: another ``average``.

    Example:
        >>> metric = bitrate_ext.RateMetric()
        >>> metric.update(model(x), x)
        >>> sorted(metric.compute())
        ['bpp', 'bpp_y', 'bpp_z']
    """

    def __init__(self, average: str = AVERAGES[0], *, process_group: Any = None, sync_on_compute: bool = True) -> None:
        if average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(map(repr, AVERAGES))}, got {average!r}")
        self.average, self.process_group, self.sync_on_compute = average, process_group, sync_on_compute
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._sums: dict[str, Tensor] = {}  # float64, of bits or of bits per pixel
        self._weight = 0  # pixels, or images

    @torch.no_grad()
    def update(self, output: Any, target: Any = None, *, size: Sequence[int] | None = None) -> None:
        """Add the images of a batch.

        Args:
            output: what a model returned, of which the entry ``"likelihoods"`` is read; likelihoods or sources of bits
                alone, as ``rate`` takes them; or a ``BitrateResult``. Of a video a list, with an entry a frame.
            target: ``[N, C, H, W]``, the images as they were before padding; of a video one of its frames, or a list.
            size: ``(H, W)`` of the images, pixels, in the place of ``target``; needless with a ``BitrateResult``.

        Raises:
            TypeError, ValueError: as ``rate``; no size, or other images than likelihoods. Nothing is added then.
        """
        for bits, of in list(_batches(output, target, size)):  # all of them are read before one counts
            pixels, images = of[0] * of[1], len(bits[TOTAL])
            for name, one in bits.items():
                value = one.detach().double().sum() / (pixels if self.average == AVERAGES[1] else 1)
                self._sums[name] = value + self._sums[name].to(value.device) if name in self._sums else value
            self._weight += images if self.average == AVERAGES[1] else images * pixels

    def compute(self) -> dict[str, Tensor]:
        """Return bits per pixel of all images so far: ``"bpp"``, and ``"bpp_y"`` of latent ``y``; float64, on the CPU.

        Raises:
            ValueError: there was no image yet, in no process.
        """
        sums, weight = {name: float(one) for name, one in self._sums.items()}, self._weight
        gathered: list[Any] = [(sums, weight)]
        if self.sync_on_compute and dist.is_available() and dist.is_initialized():
            gathered = [None] * dist.get_world_size(self.process_group)
            dist.all_gather_object(gathered, (sums, weight), group=self.process_group)
        weight = sum(one for _, one in gathered)
        if not weight:
            raise ValueError("compute needs at least one image; call update(output, target) before")
        names = dict.fromkeys(name for one, _ in gathered for name in one)
        return {
            name: torch.tensor(math.fsum(one.get(name, 0.0) for one, _ in gathered) / weight, dtype=torch.float64)
            for name in names
        }


def _batches(output: Any, target: Any, size: Sequence[int] | None) -> Iterator[tuple[dict[str, Tensor], Size]]:
    """Yield the bits of images, float64 ``[N]``, in total and of each latent, and their size; of a video by frames."""
    if isinstance(output, BitrateResult):
        cells = {name: grid.bits for name, grid in output.grids.items()} or output.latent_bits
        each = {f"{TOTAL}_{name}": one.double().sum((1, 2)) for name, one in cells.items()}
        yield {TOTAL: output.total_bits, **each}, (output.map.shape[2], output.map.shape[3])
        return
    latents = unwrap(output, noun_of(LIKELIHOOD))
    if isinstance(latents, (list, tuple)) and any(isinstance(one, Mapping) for one in latents):
        targets = target if isinstance(target, (list, tuple)) else [target] * len(latents)
        for frame, image in zip(latents, targets, strict=True):
            yield from _batches(frame, image, size)
        return
    each = {f"{TOTAL}_{name}": rate({name: one}) for name, one in image_latents(latents).items()}
    if not each:
        raise ValueError(f"output must have the likelihoods of at least one latent, got {output!r:.80}")
    total = torch.stack(list(each.values())).sum(0)
    yield {TOTAL: total, **each}, _size(target, size, len(total))


def _size(target: Any, size: Sequence[int] | None, images: int) -> Size:
    """Return the size of the images; check that they are as many as the likelihoods'."""
    if (target is None) == (size is None):
        got = "neither" if size is None else "both"
        raise ValueError(f"update needs the size of the images before padding: give target or size=(H, W), got {got}")
    if target is not None:
        check_layout(target, "target")
        if len(target) != images:
            raise ValueError(f"target must hold {images} images, as the likelihoods do, got {len(target)}")
        return target.shape[2], target.shape[3]
    height, width = size if isinstance(size, Sequence) and len(size) == 2 else (0, 0)
    for side in (height, width):
        check_whole_number("a side of size, (H, W) in pixels,", side, 1)
    return height, width
