"""The bits of one picture: cells, where they lie over its pixels, and every other bit of its file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import check_layout
from ..choices import ESTIMATED
from ..models.padding import Crop, Size
from ..viz.print_figure import Panel, print_figure, rate_words
from . import notebook, saving
from .grid import CellGrid as CellGrid
from .outside import outside_bits, rim_of, share_of
from .quality import to_decibels
from .regions import Names, RegionTable, Where, areas_of, measure

TOLERANCE = 1e-6  # bits, of sums in float64; beyond a million bits this part of them


@dataclass(frozen=True, eq=False, repr=False)
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
        symbol_bits: of each latent, float64 ``[C, h, w]``, where they were asked for: of regions by channel.
        warnings: what is to be known of these numbers, a line each.
        beside: of each latent what else is known of its cells, float64 ``[h, w]``: "expected", bits by the entropy of
            its distributions; "escapes", symbols outside of their table; "estimated", bits, beside coded ones.

    Raises:
        ValueError: no grid, grids that are not ``[h, w]``, a crop outside of the canvas, pictures of another size.

    Example:
        >>> blocks = bitrate_ext.CellGrid(torch.full((2, 3), 80.0))  # of 16 x 16 pixels
        >>> bits = bitrate_ext.PictureBits({"blocks": blocks}, canvas=(32, 48), crop=(0, 0, 30, 40), name="mine")
        >>> bits.total_bits, round(bits.padding_bits, 1), bits.map().shape
        (480.0, 105.0, torch.Size([30, 40]))
    """

    grids: Mapping[str, CellGrid]
    canvas: Size
    crop: Crop
    name: str = ""
    kind: str = ESTIMATED
    elsewhere: Mapping[str, float] = field(default_factory=dict)
    file_bytes: int | None = None
    picture: Tensor | None = None
    reconstruction: Tensor | None = None
    channel_bits: Mapping[str, Tensor] = field(default_factory=dict)
    symbol_bits: Mapping[str, Tensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    beside: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.grids:
            raise ValueError("grids must hold the bits of at least one latent, got none")
        for name, grid in self.grids.items():
            if grid.bits.dim() != 2 or not grid.bits.numel():
                raise ValueError(f"grids[{name!r}].bits must be [h, w], not empty, got {list(grid.bits.shape)}")
        for what, of in self.beside.items():
            for name, held in of.items():
                wanted = list(self.grids[name].bits.shape) if name in self.grids else "of a latent in grids"
                if list(held.shape) != wanted:
                    raise ValueError(f"beside[{what!r}][{name!r}] must be {wanted}, got {list(held.shape)}")
        top, left, height, width = self.crop
        inside = min(top, left) >= 0 and top + height <= self.canvas[0] and left + width <= self.canvas[1]
        if not inside or min(height, width) < 1:
            raise ValueError(f"crop must be (top, left, height, width) inside of canvas {self.canvas}, got {self.crop}")
        for what, one in (("picture", self.picture), ("reconstruction", self.reconstruction)):
            if one is None:
                continue
            check_layout(one, what)
            if one.shape[0] != 1 or tuple(one.shape[2:]) != self.size:
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
        total = torch.zeros(*self.size, dtype=torch.float64)
        for name in names:
            laid = self.grids[name].map(self.canvas, self.crop)
            total = total.to(laid.device) + laid
        return total

    @property
    def psnr_db(self) -> float | None:
        """PSNR of the reconstruction, dB; None where it is exact, or one of the two pictures is not known."""
        error = self._squared_error()
        return None if error is None else to_decibels(float(error.mean()))

    def _squared_error(self) -> Tensor | None:
        """Return the squared error of each pixel, mean over colours, float64 ``[H, W]``, where it is known."""
        if self.picture is None or self.reconstruction is None:
            return None
        made = self.reconstruction.double().clamp(0, 1)
        return (made - self.picture.to(made)).square().mean(dim=1)[0]

    def region(self, where: Where, *, names: Names = None, channels: bool = False) -> RegionTable:
        """Measure what regions cost: bits, share, bits per pixel, PSNR, by latent, and what crossed their border.

        Sums of the float64 map of each latent's cells.

        Args:
            where: a box ``(x, y, width, height)`` in pixels, or a list of up to 62 that may overlap; a mask, bool
                ``[H, W]``; or labels, whole numbers ``[H, W]``, of which 0 and below are the rest unless they are
                named. Masks and labels are tensors or NumPy arrays.
            names: of boxes and masks a text or a list; of labels a dict, or a list whose entry k is of label k. Labels
                above 0 must all be named then; those of one name are one region.
            channels: also the bits by channel, of a mapper that keeps channels: ``BitrateMapper(model,
                channels=True)``.

        Raises:
            ValueError: another size than the picture's, a box that leaves it, an empty region, labels without names, or
                channels that are not known.

        Example:
            >>> table = bits.region([(0, 0, 16, 16), (16, 0, 32, 16)], names=["left", "right"])
            >>> [row.name for row in table.rows]
            ['left', 'right', 'rest']
        """
        if channels and not self.symbol_bits:
            raise ValueError("channels are not known of these bits; map with BitrateMapper(model, channels=True)")

        def channels_of(mask: NDArray[Any]) -> dict[str, NDArray[Any]]:
            found = {}
            for name, bits in self.symbol_bits.items():
                inside = torch.from_numpy(mask.reshape(self.size))
                shares = self.grids[name].shares(inside, self.canvas, self.crop).to(bits.device)
                found[name] = share_of(bits, shares).cpu().numpy()
            return found

        return measure(
            areas_of(where, self.size, names),
            ((name, self.map(name)) for name in self.grids),
            (grid.on_own_squares().map(self.canvas, self.crop) for grid in self.grids.values()),
            channels_of if channels else None,
            squared_error=self._squared_error(),
            padding_bits=self.padding_bits,
            elsewhere_bits=sum(self.elsewhere.values()),
        )

    def arrays(self, *, guides: bool = False) -> dict[str, NDArray[Any]]:
        """Return the arrays of ``save`` without pixels; on request with the guides, as large as the canvas."""
        known = ("canvas", "crop", "name", "kind", "elsewhere", "file_bytes", "warnings")
        about = {name: getattr(self, name) for name in known}
        return saving.pack(about, self.grids, self.channel_bits, guides=guides)

    def save(self, path: str | os.PathLike[str], *, pixels: bool = False) -> None:
        """Write the cells, exactly, and how they lie to a small npz file, which ``PictureBits.load`` reads.

        Args:
            path: of the file; one of that name is replaced in one step.
            pixels: also what takes space with the picture: ``map`` and ``maps/...`` (float32 ``[H, W]``, bits per
                pixel), guides, the picture and the reconstruction. Without them bits that follow a guide are laid out
                without it when they are read.

        Raises:
            ValueError: a projection of one's own, which cannot be saved.
            OSError: the file cannot be written.
        """
        saving.check_projections(self.grids)
        arrays = self.arrays(guides=pixels)
        if pixels:
            tensors = {"map": self.map(), **{f"maps/{name}": self.map(name) for name in self.grids}}
            images = {"picture": self.picture, "reconstruction": self.reconstruction}
            tensors |= {name: one[0] for name, one in images.items() if one is not None}
            arrays |= {name: one.detach().float().cpu().numpy() for name, one in tensors.items()}
        saving.write(path, arrays, packed=not pixels)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PictureBits:
        """Read what ``save`` or ``bitrate-ext map`` wrote. Nothing in the file is executed.

        Raises:
            ValueError: no such file, or it is damaged, cut short, or another kind of file; names it.
        """
        made: PictureBits = saving.read(path, cls)
        return made

    def summary(self) -> str:
        """Say in a line what the picture costs: bits per pixel, PSNR, bits by latent, in the padding and elsewhere."""
        parts = ", ".join(f"{name} {bits:,.0f}" for name, bits in self.latent_bits.items())
        psnr = "" if self.psnr_db is None else f", {self.psnr_db:.2f} dB"
        file = "" if self.file_bytes is None else f" of {self.file_bytes:,} bytes"
        elsewhere = "".join(f", {bits:,.0f} {what}" for what, bits in self.elsewhere.items())
        return (
            f"{self.name + ': ' if self.name else ''}{self.size[1]} x {self.size[0]}, {self.bpp:.3f} bits per pixel"
            f"{psnr}, {self.total_bits:,.0f} bits{file} ({parts}{elsewhere}), {self.padding_bits:,.0f} in padding, "
            f"{self.kind}"
        )

    def __repr__(self) -> str:
        return f"<PictureBits {self.summary()}>"

    def _repr_html_(self) -> str:
        facts = {"size": f"{self.size[1]} x {self.size[0]}", "bits": f"{self.total_bits:,.0f}, {self.kind}"}
        facts["bits per pixel"] = f"{self.bpp:.3f}"
        facts |= {} if self.psnr_db is None else {"PSNR": f"{self.psnr_db:.2f} dB"}
        facts |= {name: f"{bits:,.0f} bits" for name, bits in self.latent_bits.items()}
        facts["in padding"] = f"{self.padding_bits:,.0f} bits"
        facts |= {what: f"{bits:,.0f} bits" for what, bits in self.elsewhere.items()}
        return notebook.card(self.name, facts, self.map(), self.rim, self.warnings)

    def panel(self, latents: str | Iterable[str] | None = None) -> Panel:
        """Return the panel of a figure for print that ``map`` of these latents makes."""
        if latents is None:
            return Panel(self.map(), self.name or f"{self.kind} bits", rate_words(self.bpp, self.psnr_db), self.rim)
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
