"""The bits of one picture: maps, totals and the ledger of hand-made cells; what results of the mapper become."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import bitrate_ext
from bitrate_ext.cells.picture import CellGrid, PictureBits

CANVAS, CROP = (4, 4), (0, 0, 3, 4)


def by_hand(**changes: object) -> PictureBits:
    """Cells of 2 x 2 pixels with 4, 8, 12 and 16 bits; of the lower two half lies in the padding."""
    bits = torch.tensor([[4.0, 8.0], [12.0, 16.0]], dtype=torch.float64)
    made = PictureBits({"y": CellGrid(bits)}, CANVAS, CROP, elsewhere={"headers": 24.0}, file_bytes=8)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_map_and_totals_by_hand() -> None:
    bits = by_hand()
    expected = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]], dtype=torch.float64)
    torch.testing.assert_close(bits.map(), expected, rtol=0, atol=0)
    assert (bits.total_bits, bits.padding_bits, bits.latent_bits) == (64.0, 14.0, {"y": 40.0})
    assert bits.bpp == 64 / 12
    assert bits.closes
    assert bits.rim == (0, 2, 0, 0)


def test_ledger_that_does_not_close() -> None:
    assert by_hand(file_bytes=9).closes is False
    assert by_hand(file_bytes=None).closes is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": {}}, "grids must hold"),
        ({"grids": {"y": CellGrid(torch.zeros(1, 2, 2))}}, r"grids\['y'\].bits must be \[h, w\]"),
        ({"crop": (2, 0, 3, 4)}, "crop must be"),
        ({"picture": torch.zeros(1, 3, 4, 4)}, r"picture must be \[1, C, 3, 4\]"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand(**changes)


def test_unknown_latent() -> None:
    with pytest.raises(ValueError, match="latents must be among 'y', got 'z'"):
        by_hand().map("z")


@pytest.mark.parametrize("bits", ["estimated", "coded"])
@pytest.mark.parametrize("projection", ["bilinear", "guided"])
def test_images_of_a_result(bits: str, projection: str) -> None:
    x = torch.rand(2, 3, 50, 70)
    mapper = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec(), projection=projection, bits=bits)
    result = mapper(x)
    for number in (0, 1):
        one = result.image(number, picture=x[number : number + 1])
        torch.testing.assert_close(one.map().float(), result.map[number, 0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.map("z").float(), result.maps["z"][number, 0], rtol=1e-5, atol=1e-6)
        elsewhere = sum(one.elsewhere.values())
        assert one.total_bits - elsewhere == pytest.approx(float(result.total_bits[number]), rel=1e-12)
        assert one.padding_bits == pytest.approx(float(result.padding_bits[number]), rel=1e-9)
        assert float(one.map().sum()) + one.padding_bits == pytest.approx(one.total_bits - elsewhere, rel=1e-12)
        assert one.closes is (True if bits == "coded" else None)
    with pytest.raises(ValueError, match="number must be 0 to 1"):
        result.image(2)


def test_a_result_without_cells_is_a_grid_of_pixels() -> None:
    result = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec())(torch.rand(1, 3, 40, 48))
    one = replace(result, grids={}).image()
    assert torch.equal(one.map().float(), result.maps["y"][0, 0] + result.maps["z"][0, 0])
    assert one.total_bits == pytest.approx(float(result.total_bits), rel=1e-6)
