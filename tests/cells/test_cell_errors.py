"""Bits against errors: cells worked by hand, whatever projection lays them out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bitrate_ext.cells.errors import cell_errors, errors_figure
from bitrate_ext.cells.picture import CellGrid, PictureBits
from bitrate_ext.ops.projection import get_projection


def by_hand() -> PictureBits:
    """Four cells of 2 x 2 pixels; the lower two half in the padding, the left ones flat."""
    picture = torch.tensor([[0.5, 0.5, 0.0, 1.0], [0.5, 0.5, 1.0, 0.0], [0.2, 0.2, 0.0, 0.4]])[None, None]
    reconstruction = picture + torch.tensor([[0.1, 0.1, 0.05, -0.05], [0.1, 0.1, -0.05, 0.05], [0, 0, 0.2, 0.2]])
    grid = CellGrid(torch.tensor([[4.0, 8.0], [12.0, 16.0]]))
    return PictureBits({"y": grid}, (4, 4), (0, 0, 3, 4), picture=picture, reconstruction=reconstruction)


def test_cells_by_hand() -> None:
    cells = cell_errors(by_hand())
    expected = {
        "bits": [[4.0, 8.0], [6.0, 8.0]],  # of the lower ones half falls into the padding
        "mse": [[0.01, 0.0025], [0.0, 0.04]],
        "base_mse": [[0.0, 0.25], [0.0, 0.04]],
        "gain_db": [[-math.inf, 20.0], [math.nan, 0.0]],
    }
    for name, values in expected.items():
        torch.testing.assert_close(
            getattr(cells, name), torch.tensor(values).double(), equal_nan=True, atol=1e-6, rtol=1e-5, msg=name
        )
    nothing, something = cells.rows(), cells.rows(7.0)
    assert [(one.row, one.column) for one in nothing] == [(1, 1), (0, 0), (0, 1)]
    assert nothing[1].bits_per_db == math.inf
    assert nothing[2].bits_per_db == pytest.approx(8 / 20)
    assert [(one.row, one.column) for one in something] == [(1, 1), (0, 1)]
    torch.testing.assert_close(cells.bits_per_db[0], torch.tensor([math.inf, 0.4]).double(), atol=1e-6, rtol=1e-5)


def test_against_a_cheaper_one() -> None:
    bits = by_hand()
    assert bits.picture is not None
    worse = replace(
        bits,
        grids={"y": CellGrid(bits.grids["y"].bits / 2)},
        reconstruction=bits.picture + 10 * (bits.reconstruction - bits.picture) ** 2,
    )
    cells = cell_errors(bits, base=worse)
    torch.testing.assert_close(cells.bits, torch.tensor([[2.0, 4.0], [3.0, 4.0]]).double())
    gain = -10 * math.log10(8)  # a quarter of the error, and of the half that is above 1 nothing is left
    assert float(cells.gain_db[0, 1]) == pytest.approx(gain, abs=1e-4)


@pytest.mark.parametrize("projection", ["bilinear", "nearest", "area"])
def test_errors_follow_the_projection_of_the_bits(projection: str) -> None:
    torch.manual_seed(2)
    grid = CellGrid(torch.rand(3, 4), get_projection(projection))
    picture = torch.rand(1, 3, 24, 30)
    bits = PictureBits({"y": grid}, (24, 32), (0, 1, 24, 30), picture=picture, reconstruction=picture)
    constant = cell_errors(replace(bits, reconstruction=(picture * 0.0 + 0.5), picture=picture * 0.0))
    torch.testing.assert_close(constant.mse, torch.full((3, 4), 0.25).double())
    assert float(constant.bits.sum()) == pytest.approx(float(bits.map().sum()))
    spot = picture.clone()
    spot[..., 4, 20] += 0.1
    one_pixel = cell_errors(replace(bits, reconstruction=spot.clamp(0, 1), picture=picture.clamp(0, 0.9)))
    lone = CellGrid(torch.eye(12)[6].view(3, 4), grid.projection)  # cell (1, 2): what its weight is there
    weight = replace(bits, grids={"y": lone}).map()
    error = one_pixel.mse[1, 2] * weight.sum()
    expected = (weight * (spot.clamp(0, 1) - picture.clamp(0, 0.9)).double().square().mean(1)[0]).sum()
    assert float(error) == pytest.approx(float(expected), rel=1e-6)


def test_what_cannot_be_told_is_said() -> None:
    bits = by_hand()
    with pytest.raises(ValueError, match="latent must be among 'y', got 'z'"):
        cell_errors(bits, "z")
    with pytest.raises(ValueError, match="bits must have picture and reconstruction, got no picture; make it with"):
        cell_errors(replace(bits, picture=None))
    with pytest.raises(ValueError, match="base must have picture and reconstruction, got no reconstruction"):
        cell_errors(bits, base=replace(bits, reconstruction=None))
    with pytest.raises(ValueError, match=r"base must have a latent 'y' of \[2, 2\] cells over the same picture"):
        cell_errors(bits, base=replace(bits, crop=(1, 0, 3, 4)))


def test_the_figure_has_two_maps_and_a_point_for_each_cell() -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pytorch_msssim")
    torch.manual_seed(2)
    picture = torch.rand(1, 3, 20, 30)
    bits = PictureBits(
        {"y": CellGrid(100 * torch.rand(4, 4))},
        (32, 32),
        (0, 0, 20, 30),
        picture=picture,
        reconstruction=picture + torch.randn_like(picture) * torch.linspace(0.01, 2, 30),
    )
    figure, axes = errors_figure(bits, width=6)
    assert figure.get_size_inches()[0] == pytest.approx(6)
    assert axes[0].get_xlim() == axes[1].get_xlim() == (-0.5, 29.5)  # the last block goes beyond the picture
    gains = cell_errors(bits).gain_db
    assert sum(len(one.get_offsets()) for one in axes[2].collections) == int(gains.isfinite().sum()) == 12
    assert len(axes[2].collections[1].get_offsets()) == int((gains <= 0).sum()) > 0
    with pytest.raises(ValueError, match="width must be at least 5 inches, for maps and cells, got 'column'"):
        errors_figure(bits, width="column")
    for each in axes[:2]:  # pixels are square
        box = each.get_window_extent()
        assert box.width / box.height == pytest.approx(1.5)
    assert {"squared error", "SSIM"} <= {one.get_text() for one in figure.texts}
