"""What is timed: named workloads, the buffers of their calls, and the bytes that a call must move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bitrate_ext
from bitrate_ext.cli.bench import sets_of_buffers
from bitrate_ext.receptive_field.field import ReceptiveField, Term

IMAGES = {"kodak": (512, 768), "1080p": (1088, 1920), "4k": (2160, 3840), "8k": (4320, 7680)}  # (H, W), pixels
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Exact support of an image model's decoder, pixels relative to stride * i: bands of 4, 5 and 22 taps.
REACHES = {"4 taps": (-30, 30), "5 taps": (-36, 36), "22 taps": (-164, 179)}
HYPER_STRIDE = 64  # of z
HYPER_REACH = (-158, 158)  # of z through y: five taps


@dataclass(frozen=True)
class Workload:
    """One kind of call: ``frames`` images at once, the cells of y alone or of y and z."""

    image: str | tuple[int, int]  # a name of IMAGES, or (H, W)
    channels: int = 192
    hyper: int = 0  # channels of z; 0: there is none
    frames: int = 1
    dtype: str = "float32"
    layout: str = "contiguous"
    stride: int = 16  # pixels a cell of y
    direction: str = "forward"
    projection: str = "bilinear"

    @property
    def name(self) -> str:
        image = self.image if isinstance(self.image, str) else "{} x {}".format(*self.image)
        parts = [
            f"{self.direction} {image}",
            f"C={self.channels}" if self.channels != 192 else "",
            "y + z" if self.hyper else "",
            f"{self.frames} frames" if self.frames > 1 else "",
            *(value for value in (self.dtype, self.layout, self.projection) if value not in USUAL),
            f"stride {self.stride}" if self.stride != 16 else "",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the map, pixels; with z, padded to its whole cells, as models do."""
        height, width = IMAGES[self.image] if isinstance(self.image, str) else self.image
        cell = HYPER_STRIDE if self.hyper else self.stride
        return -(-height // cell) * cell, -(-width // cell) * cell

    @property
    def shapes(self) -> dict[str, tuple[int, int, int, int]]:
        """Of the likelihoods, ``[N, C, h, w]``."""
        latents = {"y": (self.channels, self.stride), "z": (self.hyper, HYPER_STRIDE)}
        height, width = self.size
        return {name: (self.frames, c, height // s, width // s) for name, (c, s) in latents.items() if c}

    @property
    def pixels(self) -> int:
        return self.frames * self.size[0] * self.size[1]

    @property
    def likelihoods(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    @property
    def bytes(self) -> int:
        """Forward: likelihoods and the map. Backward: likelihoods, the map's gradient, and theirs."""
        element = DTYPES[self.dtype].itemsize
        return self.likelihoods * element * (2 if self.direction == "backward" else 1) + 4 * self.pixels

    @property
    def sets(self) -> int:
        """Sets of buffers that calls use in turn, so that none finds its own in a cache; one where all fit in one."""
        return sets_of_buffers(self.bytes)

    @property
    def memory(self) -> int:
        """Bytes that timing takes at most: all sets, the graphs of those that have them, and the exact answer."""
        graphs = 8 if self.direction == "backward" else 2
        return self.sets * self.bytes * graphs + 5 * 8 * self.likelihoods + 3 * 8 * self.pixels


USUAL = ("float32", "contiguous", "bilinear")


@dataclass
class Buffers:
    """Of one call."""

    likelihoods: dict[str, Tensor]
    out: Tensor  # [N, 1, H, W], the map; or its gradient where the direction is backward


def bell(stride: int, first: int, last: int) -> ReceptiveField:
    """A kernel of that reach; what is in it does not matter to the time."""
    kernel = np.exp(-((np.linspace(-3, 3, last - first + 1)) ** 2))
    return ReceptiveField((stride, stride), ((first, last), (first, last)), [Term(1, kernel, kernel)])


def projection_of(workload: Workload) -> Any:
    reach = REACHES.get(workload.projection)
    if reach is None:
        return workload.projection
    return {"y": bell(16, *reach), **({"z": bell(HYPER_STRIDE, *HYPER_REACH)} if workload.hyper else {})}


def make_buffers(workload: Workload, device: torch.device, sets: int | None = None) -> list[Buffers]:
    """Likelihoods in (0, 1]: most symbols nearly certain, some costly, as codecs give them."""
    sets = workload.sets if sets is None else sets
    generator = torch.Generator(device).manual_seed(1)
    first: dict[str, Tensor] = {}
    for name, shape in workload.shapes.items():
        values = torch.rand(shape, device=device, generator=generator).pow_(0.3).clamp_(min=1e-3)
        values = values.to(DTYPES[workload.dtype])
        last = workload.layout == "channels_last"
        first[name] = values.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    maps = torch.rand(workload.frames, 1, *workload.size, device=device, generator=generator)
    copies = [Buffers({name: p.clone() for name, p in first.items()}, maps.clone()) for _ in range(sets - 1)]
    return [Buffers(first, maps), *copies]


def exact_answer(workload: Workload, buffers: Buffers) -> list[Tensor]:
    """In float64 by the reference: the map, or the likelihoods' gradients."""
    p = {name: value.double().requires_grad_(workload.direction == "backward") for name, value in _values(buffers)}
    made = bitrate_ext.bitrate_map(p, workload.size, projection=projection_of(workload), impl="reference")
    if workload.direction == "forward":
        return [made]
    return list(torch.autograd.grad(made, list(p.values()), buffers.out.double()))


def _values(buffers: Buffers) -> list[tuple[str, Tensor]]:
    return [(name, value.detach()) for name, value in buffers.likelihoods.items()]


FORWARD = [
    *(Workload(image) for image in IMAGES),
    *(Workload("4k", channels=channels) for channels in (128, 320)),
    *(Workload(image, hyper=192) for image in ("kodak", "4k")),
    Workload("4k", channels=96, hyper=64),  # the bundled codec's
    Workload("1080p", frames=8),
    Workload("kodak", frames=64),
    *(Workload(image, layout="channels_last") for image in ("kodak", "4k", "8k")),
    *(Workload(image, dtype="bfloat16") for image in ("kodak", "4k", "8k")),
    Workload("1080p", stride=8),
    *(Workload(image, hyper=192, projection="4 taps") for image in ("kodak", "4k")),
    *(Workload(image, projection=taps) for taps in REACHES for image in ("kodak", "4k")),
]
BACKWARD = [
    *(Workload(image, direction="backward") for image in ("kodak", "4k", "8k")),
    Workload("4k", direction="backward", layout="channels_last"),
    Workload("4k", direction="backward", dtype="bfloat16"),
]
SMALLEST = Workload((64, 64), channels=8)  # next to nothing to compute: what a call costs
WORKLOADS = {workload.name: workload for workload in [SMALLEST, *FORWARD, *BACKWARD]}

GROWING = [
    *(Workload((side, side)) for side in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)),
    *(Workload("kodak", frames=frames) for frames in (1, 2, 4, 8, 16, 32, 64, 128, 256)),
]
