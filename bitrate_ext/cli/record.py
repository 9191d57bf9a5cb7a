"""What ``bitrate-ext map`` does to each image alike, and the record of it that ``STEM.json`` holds."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..choices import MEASURED
from ..io.facts import PictureFacts
from ..mapping.layout import BitrateResult
from ..mapping.mapper import BitrateMapper
from ..receptive_field.field import ReceptiveField
from ..tiled.map_picture import PictureResult
from ..viz.colormap import Rim
from ..viz.print_figure import Panel, rate_words
from .console import finite, number
from .model_options import forward_options


@dataclass
class AnimationRow:
    """What ``STEM.json`` says of one frame of an animation."""

    model: str
    total_bits: float | None
    bpp: float | None
    psnr_db: float | None
    warnings: list[str]


@dataclass
class Record:
    """What ``STEM.json`` says of one image. Bits are null where they are infinite or not a number."""

    image: str
    width: int  # pixels
    height: int
    model: str
    projection: str
    device: str
    total_bits: float | None
    padding_bits: float | None  # the part of total_bits that falls outside the image
    bpp: float | None  # total_bits / (width * height)
    latent_bits: dict[str, float | None]  # of each latent; they add up to total_bits
    psnr_db: float | None  # null where the reconstruction is exact, or the model gives none
    version: str
    receptive_field: dict[str, dict[str, Any]] | None = None  # how each latent is laid out, for that projection
    jacobian: dict[str, Any] | None = None  # for that one: passes, and the share of the bits expected in wrong places
    tiles: dict[str, Any] | None = None  # how a picture was cut that went in tiles, and what memory was planned
    bits: str = "estimated"  # or "coded"
    sources: list[str] = field(default_factory=list)  # latents whose bits are true values, without a floor
    picture: dict[str, Any] = field(default_factory=dict)  # what its file states, and what was made of it
    warnings: list[str] = field(default_factory=list)
    ledger: dict[str, Any] | None = None  # of coded bits
    channels: dict[str, dict[str, list[Any]]] | None = None  # on request: bits of each channel, most first
    regions: dict[str, Any] | None = None  # on request: what each costs, and what lies in none
    channel: str | None = None  # on request: whose map STEM.channel.png is, "y:17"
    errors: dict[str, Any] | None = None  # on request: cells of the finest latent that gain nothing for their bits
    animation: list[AnimationRow] | None = None  # on request: a frame each, in one scale of colours
    animation_limit: float | None = None  # where that ends, bits per pixel
    files: dict[str, str] = field(default_factory=dict)

    @property
    def subtitle(self) -> str:
        """Return what pictures of the map say below its title."""
        psnr = "" if self.psnr_db is None else f"   PSNR {self.psnr_db:.2f} dB"
        bits = f"{number(self.total_bits, ',.0f')} bits   {number(self.bpp, '.3f')} bits per pixel"
        return f"{self.width} x {self.height}   {bits}{psnr}   {self.bits}, {self.projection}   {self.model}"

    def panels(self, picture: Any, bits: Any, rim: Rim) -> list[Panel]:
        """Return panels for print of the picture and of its map, which may both be reduced."""
        size = f"{self.width} \N{MULTIPLICATION SIGN} {self.height} pixels"
        return [Panel(picture, "picture", size), map_panel(bits, self.model, self.bpp, self.psnr_db, rim)]


def map_panel(bits: Any, model: str, bpp: float | None, psnr_db: float | None, rim: Rim) -> Panel:
    """Return the panel for print of a map; bits that are not finite are left out of its words."""
    return Panel(bits, model, rate_words(math.nan if bpp is None else bpp, psnr_db), rim)


@dataclass(frozen=True)
class MapJob:
    """What is the same for all images of one command."""

    mapper: BitrateMapper
    model: str  # what to call it
    device: torch.device
    arguments: argparse.Namespace
    frames: tuple[MapJob, ...] = ()  # by each model that the animation goes over

    @property
    def forward(self) -> dict[str, Any]:
        """Return the arguments for the model's ``forward``."""
        return forward_options(self.arguments)

    def record(
        self,
        image: str,
        facts: PictureFacts,
        size: tuple[int, int],
        result: BitrateResult | PictureResult,
        psnr_db: float | None,
        files: dict[str, Path],
    ) -> Record:
        """Make the record of an image of ``size`` (height, width), whose results go to ``files``."""
        return Record(
            image=image,
            width=size[1],
            height=size[0],
            model=self.model,
            projection=self.arguments.projection,
            device=str(self.device),
            total_bits=finite(float(result.total_bits)),
            padding_bits=finite(float(result.padding_bits)),
            bpp=finite(float(result.bpp)),
            latent_bits={name: finite(bits.double().sum().item()) for name, bits in result.latent_bits.items()},
            psnr_db=finite(psnr_db),
            version=__version__,
            picture=asdict(facts),
            sources=list(result.sources),
            warnings=[*facts.warnings, *result.warnings],
            receptive_field=_layouts(self.mapper) if self.arguments.projection in MEASURED else None,
            files={name: str(path) for name, path in files.items()},
        )


def _layouts(mapper: BitrateMapper) -> dict[str, dict[str, Any]]:
    """Describe how the bits of each latent are laid out."""
    found = {}
    for latent, projection in mapper.projections.items():
        if isinstance(projection, ReceptiveField):
            stride, reach, center = projection.stride, projection.reach, projection.center
            centroid, spread = projection.centroid, projection.spread
        else:  # evenly over each cell
            stride = mapper.strides[latent]
            reach = (0, stride[0] - 1), (0, stride[1] - 1)
            center = centroid = (stride[0] - 1) / 2, (stride[1] - 1) / 2
            spread = ((stride[0] ** 2 - 1) / 12) ** 0.5, ((stride[1] ** 2 - 1) / 12) ** 0.5
        found[latent] = {
            "projection": projection.name,
            "stride": list(stride),
            "reach": [list(axis) for axis in reach],
            "center": list(center),
            "centroid": list(centroid),
            "spread": list(spread),
        }
        if isinstance(projection, ReceptiveField) and projection.guide is not None:
            found[latent]["guide"] = list(projection.guide.weights)
    return found
