"""Lay bits out over images: maps of each latent and of all, totals, and what the padding costs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..cells.outside import outside_bits, rim_of
from ..cells.picture import CellGrid, PictureBits
from ..cells.regions import Names, RegionTable, Where
from ..choices import ESTIMATED, EXPECTED
from ..coding.ledger import Ledger
from ..models.adapter import ModelAdapter, crop_reconstruction
from ..models.compressai_quirks import FLOOR, likelihood_warnings
from ..models.fuse import why_unseen
from ..models.padding import Crop, Size
from ..models.trace import symbol_bits
from ..ops.functional import bitrate_map, latent_bits
from ..ops.functional import map_dtype as map_dtype
from ..ops.projection import Projection
from ..ops.rate.deferred import sources_of
from ..ops.rate.packed import without_floor
from ..ops.sources import Source
from ..ops.units import LIKELIHOOD, noun_of, range_trouble, value_range
from .beliefs import Beliefs, belief_map, beliefs_of, expected_bits
from .channels import ChannelMaps
from .guides import Guides, make_guides

SHOWN = 4  # images of a batch, in a notebook
FLOOR_BITS = -math.log2(FLOOR)


@dataclass(frozen=True, eq=False, repr=False)
class BitrateResult:
    """Where a model spends its bits on a batch of N images of H x W pixels.

    ``map`` and ``maps`` are float32, float64 where the model computes in float64. A map's float64 sum plus
    ``padding_bits`` is ``total_bits``, to 6e-8 of it for float32 maps.

    Example:
        >>> result = bitrate_ext.BitrateMapper(model)(x)
        >>> bool(torch.isclose(result.map.double().sum() + result.padding_bits, result.total_bits))
        True
        >>> result.region((0, 0, 32, 32), names=["corner"])["corner"].pixels
        1024
    """

    map: Tensor  # [N, 1, H, W], bits per pixel, all latents together
    maps: dict[str, Tensor]  # the same for each latent; nested names are joined with dots
    latent_bits: dict[str, Tensor]  # [N, h, w], bits per cell on the grid of the padded image
    total_bits: Tensor  # float64 [N], everything the model spends
    padding_bits: Tensor  # float64 [N], the part of it that falls outside the image
    bpp: Tensor  # float64 [N], total_bits / (H * W)
    x_hat: Tensor | None  # [N, C, H, W], not clamped; None where the model returns no image of the padded size
    channel_bits: dict[str, Tensor] = field(default_factory=dict)  # float64 [N, C]; of estimates on request
    warnings: tuple[str, ...] = ()  # what is to be known of these numbers, a line each
    bits: str = ESTIMATED  # where they come from: "estimated" or "coded"
    sources: tuple[str, ...] = ()  # of estimates: latents whose bits are true values, without likelihoods or a floor
    unseen: dict[str, str] = field(default_factory=dict)  # why the others' are not; empty where none were asked for
    ledger: Ledger | None = None  # of coded bits: every bit of the strings
    entropy: Tensor | None = None  # of coded bits: [N, 1, H, W], bits per pixel that the coder's tables expect
    gap: Tensor | None = None  # on request: [N, 1, H, W], coded minus estimated, bits per pixel
    symbols: ChannelMaps | None = None  # on request: what channel_map lays out
    beliefs: Beliefs = field(default_factory=dict)  # on request: what belief_map lays out
    beside: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # see PictureBits: float64 [N, h, w]
    rim: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom, left, right: pixels, one cell wide, beside padding
    grids: dict[str, CellGrid] = field(default_factory=dict)  # float64 bits of cells; not of "jacobian"
    canvas: Size = (0, 0)  # that they cover, (H, W), pixels
    crop: Crop = (0, 0, 0, 0)  # the images on it: top, left, height, width, pixels

    def image(self, number: int = 0, *, name: str = "", picture: Tensor | None = None) -> PictureBits:
        """Return the bits of one image of the batch by themselves, which know regions, figures and files.

        Args:
            number: which of the N images.
            name: what made the bits, for titles.
            picture: ``[1, C, H, W]`` in [0, 1], the image itself, for figures and errors.

        Raises:
            ValueError: no such image, or a picture of another size.

        Example:
            >>> bits = result.image(name="demo codec", picture=x)
            >>> bits.size, list(bits.grids)
            ((64, 64), ['y', 'z'])
        """
        if not 0 <= number < len(self.total_bits):
            raise ValueError(f"number must be 0 to {len(self.total_bits) - 1}, an image of the batch, got {number}")
        grids = {latent: grid.of_image(number) for latent, grid in self.grids.items()}
        height, width = self.map.shape[-2:]
        canvas, crop = self.canvas, self.crop
        if not grids:  # each pixel is a cell of its own
            canvas, crop = (height, width), (0, 0, height, width)
            grids = {latent: CellGrid(bits[number, 0].double()) for latent, bits in self.maps.items()}
        accounts = self.ledger.latents.values() if self.ledger else ()
        overhead = sum(float(one.overhead[number]) for one in accounts)
        padding = 0.0 if self.grids else float(self.padding_bits[number])
        elsewhere = {"overhead of the coder": overhead, "padding": padding}
        return PictureBits(
            grids,
            canvas,
            crop,
            name=name,
            kind=self.bits,
            elsewhere={what: bits for what, bits in elsewhere.items() if bits},
            file_bytes=int(self.ledger.string_bytes[number]) if self.ledger else None,
            picture=picture,
            reconstruction=None if self.x_hat is None else self.x_hat[number : number + 1].detach().clamp(0, 1),
            channel_bits={latent: bits[number] for latent, bits in self.channel_bits.items()},
            symbol_bits=self.symbols.bits(number) if self.symbols and self.grids else {},
            warnings=self.warnings,
            beside={what: {name: one[number] for name, one in of.items()} for what, of in self.beside.items()}
            if self.grids
            else {},
        )

    def region(
        self,
        where: Where,
        *,
        names: Names = None,
        channels: bool = False,
        number: int = 0,
        picture: Tensor | None = None,
    ) -> RegionTable:
        """Measure what regions of one image cost, as ``PictureBits.region`` does.

        Args:
            where: a box ``(x, y, width, height)``, several, a mask, or labels.
            names: of the regions.
            channels: also the bits by channel.
            number: which of the N images.
            picture: ``[1, C, H, W]`` in [0, 1], the image itself, for the PSNR inside.

        Raises:
            ValueError: as ``PictureBits.region`` and ``image``.
        """
        return self.image(number, picture=picture).region(where, names=names, channels=channels)

    def save(self, path: str | os.PathLike[str], *, number: int = 0, pixels: bool = False) -> None:
        """Write the cells of one image to a small file, which ``PictureBits.load`` reads; see ``PictureBits.save``.

        Args:
            path: of the file; one of that name is replaced in one step.
            number: which of the N images.
            pixels: also the maps, guides and the reconstruction.

        Raises:
            ValueError: no such image, or a projection of one's own, which cannot be saved.
            OSError: the file cannot be written.

        Example:
            >>> result.save(folder / "bits.npz")
            >>> bitrate_ext.PictureBits.load(folder / "bits.npz").size
            (64, 64)
        """
        self.image(number).save(path, pixels=pixels)

    def summary(self) -> str:
        """Say in a line of each image what it costs: size, bits per pixel, bits by latent and in the padding."""
        return "\n".join(self.image(number).summary() for number in range(len(self.total_bits)))

    def __repr__(self) -> str:
        height, width = self.map.shape[-2:]
        rates = ", ".join(f"{one:.3f}" for one in self.bpp.detach()[:SHOWN].tolist())
        more = ", ..." if len(self.bpp) > SHOWN else ""
        return f"<BitrateResult of {len(self.bpp)} x {width} x {height}: {rates}{more} bits per pixel, {self.bits}>"

    def _repr_html_(self) -> str:
        shown = range(min(len(self.total_bits), SHOWN))
        more = f"<div>and {len(self.total_bits) - SHOWN} more</div>" if len(self.total_bits) > SHOWN else ""
        return "".join(self.image(number)._repr_html_() for number in shown) + more

    def figure(
        self,
        latents: str | Iterable[str] | None = None,
        *,
        number: int = 0,
        name: str = "",
        picture: Tensor | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Draw maps of one image of the batch for print; see ``image`` and ``PictureBits.figure``."""
        return self.image(number, name=name, picture=picture).figure(latents, **options)

    def channel_map(self, latent: str | None = None, channel: int | Sequence[int] | slice | None = None) -> Tensor:
        """Return the map of one channel of a latent, or of several together, ``[N, 1, H, W]``, bits per pixel.

        Args:
            latent: its name. Default: that of the costliest channel.
            channel: its number, several numbers, or a slice. Default: the costliest of that latent in these images.

        Raises:
            ValueError: no such latent or channel; or the mapper was not asked for channels.

        Example:
            >>> each = bitrate_ext.BitrateMapper(model, channels=True)(x)
            >>> each.channel_map("y", slice(0, 8)).shape
            torch.Size([1, 1, 64, 64])
        """
        if self.symbols is None:
            raise ValueError("channel_map needs a mapper that keeps channels: BitrateMapper(model, channels=True)")
        if latent is None or channel is None:
            latent, costliest = self.costliest_channel(latent)
            channel = costliest if channel is None else channel
        return self.symbols.map(latent, channel)

    def belief_map(
        self, latent: str, what: str = "scales", channel: int | Sequence[int] | slice | None = None
    ) -> Tensor:
        """Return what the entropy model believed of a latent, ``[N, 1, H, W]``, at each pixel that of its cell.

        Args:
            latent: its name.
            what: "scales", the standard deviation of what codes each symbol, in steps of the quantiser, or "means".
            channel: its number, several numbers, or a slice, of which the mean is taken. Default: all.

        Raises:
            ValueError: no such channel, or nothing is known: the mapper was not asked, or sees no such distributions.
        """
        return belief_map(self.beliefs, self.canvas, self.crop, latent, what, channel)

    def costliest_channel(self, latent: str | None = None) -> tuple[str, int]:
        """Return the latent and the number of the channel with the most bits in these images.

        Args:
            latent: look in this one alone.

        Raises:
            ValueError: no such latent, or no channels are known.
        """
        known = {name: bits for name, bits in self.channel_bits.items() if latent in (None, name)}
        if not known:
            names = ", ".join(map(repr, self.channel_bits)) or "none"
            raise ValueError(f"latent must be one of those whose channels are known, {names}, got {latent!r}")
        totals = {name: bits.sum(dim=0).max(dim=0) for name, bits in known.items()}
        name = max(totals, key=lambda one: float(totals[one].values))
        return name, int(totals[name].indices)


Ran = tuple[Mapping[str, Any], dict[str, Tensor], list[str]]  # a model's output, its likelihoods, and warnings


def run_forward(adapter: ModelAdapter, padded: Tensor, forward_kwargs: dict[str, Any], *, fused: bool = True) -> Ran:
    """Run a model's ``forward`` on padded images, with its entropy models fused or as they are."""
    warnings: list[str] = []
    return (*adapter.run(padded, forward_kwargs, warnings, fused=fused), warnings)


def estimate(
    adapter: ModelAdapter,
    projections: Mapping[str, Projection],
    padded: Tensor,
    crop: Crop,
    forward_kwargs: dict[str, Any],
    dtype: torch.dtype | None = None,
    *,
    channels: bool = False,
    sources: bool = True,
    beliefs: bool = False,
    ran: Ran | None = None,
) -> BitrateResult:
    """Map the likelihoods, or their sources, that ``forward`` returns for padded images, in a dtype of one's choice.

    With ``channels`` the result has ``channel_bits``, for which each likelihood is read once more, and ``channel_map``.
    Costs of cells have no channels, and are left out there. ``sources`` takes true values where it can, of which
    ``beliefs`` keeps scales and means, for ``belief_map``, and the bits that they expect. ``ran`` is what ``forward``
    returned, if it has run.
    """
    unit = adapter.unit
    output, likelihoods, said = ran or run_forward(adapter, padded, forward_kwargs, fused=sources)
    warnings = list(said)
    size = (padded.shape[2], padded.shape[3])
    dtype = dtype or map_dtype(likelihoods.values())
    guides = make_guides(projections, output.get("x_hat"), padded, warnings)
    values, known = true_values(likelihoods)
    believed = beliefs_of(known) if beliefs else {}
    given = values
    if channels and known:  # each symbol's bits, for the sums over cells as over channels
        values, unit = {name: symbol_bits(one, unit) for name, one in values.items()}, "bits"
    cells = sum_cells(values, unit)
    result = lay_out(cells, projections, size, crop, dtype, guides=guides)
    warnings += value_warnings(given, cells, adapter.unit)
    by_channel = {name: p for name, p in values.items() if channels and p.dim() == 4}
    return replace(
        result,
        x_hat=crop_reconstruction(output.get("x_hat"), size, crop),
        channel_bits={name: _channel_bits(p.detach(), unit) for name, p in by_channel.items()},
        symbols=ChannelMaps(by_channel, unit, projections, size, crop, dtype, guides) if channels else None,
        warnings=tuple(warnings),
        sources=tuple(known),
        unseen=why_unseen(adapter.model, likelihoods, known) if sources and adapter.unit == LIKELIHOOD else {},
        beliefs=believed,
        beside={EXPECTED: expected_bits(known)} if beliefs else {},
    )


def true_values(likelihoods: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Source]]:
    """Return likelihoods with those replaced that have a source, which has no floor; and the sources alone."""
    sources = {name: without_floor(source) for name, source in sources_of(likelihoods).items()}
    return {name: sources.get(name, p) for name, p in likelihoods.items()}, sources


def value_warnings(values: Mapping[str, Any], cells: Mapping[str, Tensor], unit: str = LIKELIHOOD) -> list[str]:
    """Return warnings of latents that are no likelihoods, or not of the unit that was said, and of coarse ones.

    Of likelihoods that takes a pass over each at memory's speed, of sources a look at the bits of their cells; either
    waits for the device.
    """
    warnings = []
    for name, one in values.items():
        if isinstance(one, Source):
            wrong = cells[name].numel() - int(torch.count_nonzero(torch.isfinite(cells[name])))
            if wrong:
                warnings.append(
                    f"the bits of latent {name!r} are not finite in {wrong:,} of {cells[name].numel():,} cells: its "
                    "values, or the distributions that code them, are NaN or infinite there"
                )
            elif (far := int(torch.count_nonzero(cells[name] > FLOOR_BITS * one.shape[1]))) > 0:
                warnings.append(
                    f"{far:,} of {cells[name].numel():,} cells of latent {name!r} cost more than {FLOOR_BITS:.1f} bits "
                    "for each of their symbols: true values of distributions that do not fit, more than a coder "
                    "spends; sources=False maps likelihoods as forward() returns them, with their floor"
                )
            continue
        low, high = value_range(one)
        trouble = range_trouble(f"{noun_of(unit)} of latent {name!r}", low, high, one.dtype, unit)
        if trouble:
            warnings.append(trouble)
        elif unit == LIKELIHOOD:
            warnings += likelihood_warnings(name, one, low)
    return warnings


def sum_cells(values: Mapping[str, Any], unit: str = LIKELIHOOD) -> dict[str, Tensor]:
    """Return the bits of each cell, float64 ``[N, h, w]``, of each latent; the one time that likelihoods are read."""
    return {name: latent_bits(one, dtype=torch.float64, unit=unit) for name, one in values.items()}


def lay_out(
    cells: Mapping[str, Tensor],
    projections: Mapping[str, Projection],
    canvas: tuple[int, int],
    crop: Crop,
    dtype: torch.dtype = torch.float32,
    *,
    guides: Guides | None = None,
    out: Tensor | None = None,
    each: bool = True,
) -> BitrateResult:
    """Lay bits of cells out on a canvas, of which the crop is the image: maps, totals, and the bits of the padding.

    Args:
        cells: float64 ``[N, h, w]``, bits per cell of each latent.
        projections: of each latent.
        canvas: ``(H, W)`` of the padded images, pixels.
        crop: ``(top, left, height, width)`` of the image on it, pixels.
        dtype: of the maps, float32 or float64.
        guides: of the latents whose projections have one, see ``make_guides``.
        out: a tensor for the map of all latents.
        each: make a map of each latent, too.
    """
    guides = guides or {}
    place: dict[str, Any] = {"size": canvas, "crop": crop, "unit": "bits"}
    total_map = _add_maps(cells, projections, guides, dtype, out, place)
    maps = {}
    if each and len(cells) == 1:
        maps = dict.fromkeys(cells, total_map)
    elif each:
        maps = {name: _add_maps({name: one}, projections, guides, dtype, None, place) for name, one in cells.items()}
    total_bits = torch.stack([bits.sum(dim=(1, 2)) for bits in cells.values()]).sum(dim=0)
    outside = [outside_bits(bits, projections[name], canvas, crop, guides.get(name)) for name, bits in cells.items()]
    return BitrateResult(
        map=total_map,
        maps=maps,
        latent_bits={name: bits.to(dtype) for name, bits in cells.items()},
        total_bits=total_bits,
        padding_bits=torch.stack(outside).sum(dim=0),
        bpp=total_bits / (crop[2] * crop[3]),
        x_hat=None,
        rim=rim_of([(bits.shape[-2], bits.shape[-1]) for bits in cells.values()], canvas, crop),
        grids={name: CellGrid(bits, projections[name], guides.get(name)) for name, bits in cells.items()},
        canvas=canvas,
        crop=crop,
    )


def _add_maps(
    cells: Mapping[str, Tensor],
    projections: Mapping[str, Projection],
    guides: Guides,
    dtype: torch.dtype,
    out: Tensor | None,
    place: Mapping[str, Any],
) -> Tensor:
    """Return the map of several latents, those of one guide in one call."""
    groups: dict[int, dict[str, Tensor]] = {}
    for name, bits in cells.items():
        groups.setdefault(id(guides.get(name)), {})[name] = bits

    def project(group: Mapping[str, Tensor], dtype: torch.dtype, out: Tensor | None) -> Tensor:
        guide = guides.get(next(iter(group)))
        made: Tensor = bitrate_map(group, projection=projections, guide=guide, dtype=dtype, out=out, **place)
        return made

    if len(groups) == 1:
        return project(cells, dtype, out)
    total = sum(project(group, torch.float64, None) for group in groups.values())
    assert isinstance(total, Tensor)
    return total.to(dtype) if out is None else out.copy_(total)


def _channel_bits(values: Tensor, unit: str) -> Tensor:
    """Return the bits of each channel, float64 ``[N, C]``: for the kernel, cells and channels change places."""
    turned = values.flatten(2).transpose(1, 2).unsqueeze(3)
    return latent_bits(turned, dtype=torch.float64, unit=unit).squeeze(2)
