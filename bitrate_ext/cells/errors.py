"""Bits beside what they buy: for each cell its bits, the error under it, and the decibels that they gain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops.functional import bitrate_map
from ..viz.error_figure import error_figure
from .picture import CellGrid, PictureBits
from .quality import BLOCK, error_map, ssim_map


class CellRow(NamedTuple):
    """What one cell spends and gains."""

    row: int
    column: int
    bits: float
    gain_db: float

    @property
    def bits_per_db(self) -> float:
        """Bits for each decibel; infinite where nothing is gained."""
        return self.bits / self.gain_db if self.gain_db > 0 else float("inf")


@dataclass(frozen=True, eq=False)
class CellErrors:
    """What each cell of a latent spends on the picture, and what it gains, float64 ``[h, w]`` each.

    ``gain_db`` is how many decibels the error under a cell is less than it would be without its bits. Cells that lie
    outside of the picture have no bits, and NaN else.
    """

    bits: Tensor  # that fall inside of the picture, beyond those of what it is compared with
    mse: Tensor  # mean squared error under the cell, by its projection
    base_mse: Tensor  # that of what it is compared with

    @property
    def gain_db(self) -> Tensor:
        """Decibels that the bits gain; infinite where the cell is exact."""
        return 10 * (self.base_mse.log10() - self.mse.log10())

    @property
    def bits_per_db(self) -> Tensor:
        """Bits for each decibel; infinite where bits are spent and nothing is gained."""
        return torch.where(self.gain_db > 0, self.bits / self.gain_db, torch.where(self.bits > 0, torch.inf, torch.nan))

    def rows(self, least: float = 0.0) -> list[CellRow]:
        """Return cells that spend more than ``least`` bits, those that gain least for theirs first."""
        return sorted(self._each(least), key=lambda one: (-one.bits_per_db, -one.bits))

    def _each(self, least: float) -> Iterator[CellRow]:
        for row, column in ((self.bits > least) & ~self.gain_db.isnan()).nonzero().tolist():
            yield CellRow(row, column, float(self.bits[row, column]), float(self.gain_db[row, column]))


def cell_errors(bits: PictureBits, latent: str | None = None, base: PictureBits | None = None) -> CellErrors:
    """Set the bits of each cell of a latent against the error of the reconstruction under it.

    The error under a cell is the mean over pixels by the weights that lay its bits over them, so both follow the same
    projection. What the bits gain is told against ``base``, such as the same codec at a lower quality; or else against
    a picture that has one colour under each cell, the mean of its own, for which nothing is spent.

    Args:
        bits: of a picture, with picture and reconstruction.
        latent: whose cells. Default: the finest.
        base: bits of the same picture on the same grid, with its reconstruction.

    Raises:
        ValueError: no such latent, no reconstruction, or a base of another picture or grid.

    Example:
        >>> cells = bitrate_ext.cell_errors(bits, "y")
        >>> cells.gain_db.shape == bits.grids["y"].bits.shape
        True
    """
    latent = latent or max(bits.grids, key=lambda name: bits.grids[name].bits.numel())
    if latent not in bits.grids:
        raise ValueError(f"latent must be among {', '.join(map(repr, bits.grids))}, got {latent!r}")
    grid, (x, x_hat) = bits.grids[latent], _pair(bits, "bits")
    mse, inside = _under(bits, grid, error_map(x_hat, x)[0, 0])
    spent = grid.bits.double() * inside
    if base is None:
        moments = [
            _under(bits, grid, channel.double() ** power)[0] for channel in x[0] for power in (1, 2)
        ]  # of each channel its mean and its mean square
        flat = [(square - mean.square()).clamp(min=0) for mean, square in zip(moments[::2], moments[1::2], strict=True)]
        return CellErrors(spent, mse, torch.stack(flat).mean(dim=0))
    known = latent in base.grids and base.grids[latent].bits.shape == grid.bits.shape
    if not known or base.crop != bits.crop:
        raise ValueError(f"base must have a latent {latent!r} of {list(grid.bits.shape)} cells over the same picture")
    of_base, _ = _under(bits, grid, error_map(_pair(base, "base")[1], x)[0, 0])
    return CellErrors(spent - base.grids[latent].bits.double() * inside, mse, of_base)


def errors_figure(bits: PictureBits, latent: str | None = None, *, width: str | float = "page") -> tuple[Any, Any]:
    """Draw squared error and SSIM of a reconstruction beside each other, and for each cell its bits against its gain.

    Args:
        bits: of a picture, with picture and reconstruction.
        latent: as for ``cell_errors``.
        width: "page", 7 inches, or inches from 5.

    Returns:
        Matplotlib's figure and its three axes.

    Raises:
        ValueError: as ``cell_errors``.

    Example:
        >>> figure, axes = bitrate_ext.errors_figure(bits)
        >>> figure.savefig(folder / "errors.pdf")
    """
    cells, (x, x_hat) = cell_errors(bits, latent), _pair(bits, "bits")
    return error_figure(
        error_map(x_hat, x)[0, 0].cpu().numpy(),
        ssim_map(x_hat, x)[0, 0].cpu().numpy(),
        cells.bits.cpu().numpy(),
        cells.gain_db.cpu().numpy(),
        block=BLOCK,
        width=width,
    )


def _pair(bits: PictureBits, what: str) -> tuple[Tensor, Tensor]:
    if bits.picture is None or bits.reconstruction is None:
        lacks = "picture" if bits.picture is None else "reconstruction"
        raise ValueError(f"{what} must have picture and reconstruction, got no {lacks}; make it with {lacks}=")
    return bits.picture, bits.reconstruction


def _under(bits: PictureBits, grid: CellGrid, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of ``pixels`` ``[H, W]`` under each cell by the weights that lay its bits out, and their sum."""
    with torch.inference_mode(False), torch.enable_grad():
        unit = torch.zeros_like(grid.bits, dtype=torch.float64)[None].requires_grad_()
        laid = bitrate_map(
            unit, bits.canvas, crop=bits.crop, projection=grid.projection, guide=grid.guide, unit="bits",
            dtype=torch.float64,
        )[0, 0]  # fmt: skip
        each = torch.stack([pixels.to(laid).clone(), torch.ones_like(laid)])
        sums = [torch.autograd.grad(laid, unit, one, retain_graph=True)[0][0] for one in each]
    return sums[0] / sums[1], sums[1]  # 0 / 0 of cells that lie outside
