"""The bits of one picture: cells, where they lie over its pixels, and every other bit of its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..choices import ESTIMATED
from ..models.padding import Crop, Size
from ..ops.functional import bitrate_map
from ..ops.projection import Projection, get_projection
from ..viz.print_figure import Panel, print_figure, rate_words
from .outside import outside_bits, rim_of
from .quality import measure_psnr

TOLERANCE = 1e-6  # bits, of sums in float64; beyond a million bits this part of them


@dataclass(frozen=True, eq=False)
class CellGrid:
    """Bits of one latent's cells, and how they are laid over the canvas.

    Args:
        bits: ``[h, w]`` (of N images ``[N, h, w]``), bits per cell, float64.
        projection: as for ``bitrate_map``; "nearest" lays a cell's bits evenly over its own pixels.
        guide: ``[1, 1, H, W]`` on the canvas (of N images ``[N, 1, H, W]``), which the bits follow; see
            ``bitrate_map``.
    """

    bits: Tensor
    projection: Projection = field(default_factory=lambda: get_projection("nearest"))
    guide: Tensor | None = None

    def of_image(self, number: int) -> CellGrid:
        """Return the grid of one of N images."""
        guide = None if self.guide is None else self.guide[number : number + 1].detach()
        return CellGrid(self.bits[number].detach(), self.projection, guide)


@dataclass(frozen=True, eq=False)
class PictureBits:
    """Where the bits of one picture of H x W pixels lie, whatever codec made them.

    A new codec is a function that returns one: its blocks or latents as grids of cells, how much of the canvas they
    cover is the picture, and what of the file lies on no pixel.

    Args:
        grids: of each latent, or whatever the codec's parts are called, in the order of tables.
        canvas: ``(H, W)`` that the cells cover, pixels.
        crop: ``(top, left, height, width)`` of the picture on it, pixels.
        name: what made the bits, for titles.
        kind: "estimated" or "coded".
        elsewhere: bits of the file that lie on no pixel, by what they are: "headers", "overhead of the coder".
        file_bytes: length of the file or of the strings, where the bits are coded; cells and ``elsewhere`` then add up
            to 8 times that.
        picture: ``[1, C, H, W]`` in [0, 1], what was coded.
        reconstruction: the same of what is decoded.
        channel_bits: of each latent, float64 ``[C]``, where they are known.
        warnings: what is to be known of these numbers, a line each.

    Raises:
        ValueError: no grid, grids that are not ``[h, w]``, a crop outside of the canvas, pictures of another size.
    """

    grids: Mapping[str, CellGrid]
    canvas: Size
    crop: Crop
    name: str = ""
    kind: str = ESTIMATED
    elsewhere: Mapping[str, float] = field(default_factory=dict)
    file_bytes: int | None = None
    picture: Tensor | None = field(default=None, repr=False)
    reconstruction: Tensor | None = field(default=None, repr=False)
    channel_bits: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.grids:
            raise ValueError("grids must hold the bits of at least one latent, got none")
        for name, grid in self.grids.items():
            if grid.bits.dim() != 2 or not grid.bits.numel():
                raise ValueError(f"grids[{name!r}].bits must be [h, w], not empty, got {list(grid.bits.shape)}")
        top, left, height, width = self.crop
        inside = min(top, left) >= 0 and top + height <= self.canvas[0] and left + width <= self.canvas[1]
        if not inside or min(height, width) < 1:
            raise ValueError(f"crop must be (top, left, height, width) inside of canvas {self.canvas}, got {self.crop}")
        for what, one in (("picture", self.picture), ("reconstruction", self.reconstruction)):
            if one is not None and (one.dim() != 4 or one.shape[0] != 1 or tuple(one.shape[2:]) != self.size):
                raise ValueError(f"{what} must be [1, C, {height}, {width}], as the crop, got {list(one.shape)}")

    @property
    def size(self) -> Size:
        """``(H, W)`` of the picture, pixels."""
        return self.crop[2], self.crop[3]

    @property
    def latent_bits(self) -> dict[str, float]:
        """Bits of each latent, those in the padding included."""
        return {name: float(grid.bits.double().sum()) for name, grid in self.grids.items()}

    @property
    def total_bits(self) -> float:
        """Bits of all cells and of all that lies on no pixel."""
        return sum(self.latent_bits.values()) + sum(self.elsewhere.values())

    @property
    def padding_bits(self) -> float:
        """Bits of cells that fall outside of the picture."""
        return sum(
            float(outside_bits(grid.bits[None].double(), grid.projection, self.canvas, self.crop, grid.guide))
            for grid in self.grids.values()
        )

    @property
    def bpp(self) -> float:
        """Bits per pixel of the picture, all of them."""
        return self.total_bits / (self.size[0] * self.size[1])

    @property
    def psnr(self) -> float | None:
        """PSNR of the reconstruction, dB; None where there is none, or it is exact."""
        known = self.picture is not None and self.reconstruction is not None
        return measure_psnr(self.reconstruction, self.picture) if known else None  # type: ignore[arg-type]

    @property
    def closes(self) -> bool | None:
        """Whether every bit of the file is accounted for, to 1e-6 bit; None where no file is known."""
        if self.file_bytes is None:
            return None
        return abs(self.total_bits - 8 * self.file_bytes) <= max(TOLERANCE, 1e-12 * 8 * self.file_bytes)

    @property
    def rim(self) -> tuple[int, int, int, int]:
        """Top, bottom, left, right: pixels, one cell wide, beside padding."""
        return rim_of([(g.bits.shape[0], g.bits.shape[1]) for g in self.grids.values()], self.canvas, self.crop)

    def map(self, latents: str | Iterable[str] | None = None) -> Tensor:
        """Lay bits over the picture, float64 ``[H, W]``, bits per pixel.

        Args:
            latents: the name of one, or several names. Default: all together.

        Raises:
            ValueError: no such latent.
        """
        names = list(self.grids) if latents is None else [latents] if isinstance(latents, str) else list(latents)
        for name in names:
            if name not in self.grids:
                raise ValueError(f"latents must be among {', '.join(map(repr, self.grids))}, got {name!r}")
        total = torch.zeros(1, 1, *self.size, dtype=torch.float64)
        for grid in (self.grids[name] for name in names):
            bits = grid.bits[None].double()
            total = total.to(bits.device) + bitrate_map(
                bits,
                self.canvas,
                crop=self.crop,
                projection=grid.projection,
                guide=grid.guide,
                unit="bits",
                dtype=torch.float64,
            )
        return total[0, 0]

    def panel(self, latents: str | Iterable[str] | None = None) -> Panel:
        """Return the panel of a figure for print that ``map`` of these latents makes."""
        if latents is None:
            return Panel(self.map(), self.name or f"{self.kind} bits", rate_words(self.bpp, self.psnr), self.rim)
        names = [latents] if isinstance(latents, str) else list(latents)
        pixels, title = self.map(names), f"latent{'s' * (len(names) > 1)} {', '.join(names)}"
        bits = sum(self.latent_bits[name] for name in names)
        return Panel(pixels, title, rate_words(bits / (self.size[0] * self.size[1])), self.rim)

    def picture_panel(self) -> Panel | None:
        """Return the panel of the picture, or else of its reconstruction; None where there is neither."""
        shown, title = (self.reconstruction, "reconstruction") if self.picture is None else (self.picture, "picture")
        if shown is None or shown.shape[1] not in (1, 3):
            return None
        return Panel(shown.expand(1, 3, -1, -1), title, f"{self.size[1]} \N{MULTIPLICATION SIGN} {self.size[0]} pixels")

    def figure(self, latents: str | Iterable[str] | None = None, **options: Any) -> tuple[Any, Any]:
        """Draw the picture and maps of its bits beside it, for print.

        Args:
            latents: a map for each of these names. Default: one of all together.
            **options: ``width``, ``limit``, ``notes`` and others, as ``print_figure`` has them: "column" or "page".

        Returns:
            Matplotlib's figure and its axes, one a panel; ``figure.savefig("name.pdf")`` keeps text as text.

        Raises:
            ValueError: no such latent, another width.
        """
        first, names = self.picture_panel(), [latents] if latents is None or isinstance(latents, str) else list(latents)
        figure, axes = print_figure([[*([first] if first else []), *map(self.panel, names)]], **options)
        return figure, axes[0]
