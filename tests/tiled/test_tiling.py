"""Models in tiles: the halo is the measured reach, and the inside is that of the whole run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from block_codecs import GlobalCodec
from torch import Tensor, nn
from zoo import small_model

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.io.windowed import TensorImage
from bitrate_ext.mapping.layout import sum_cells, true_values
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.models.demo_codec import demo_photograph
from bitrate_ext.tiled import tiling
from bitrate_ext.tiled.tiling import Tiling, measure_halo, run_tile

# Rounded up to blocks of 16 or 64. For a hyperprior 30 pixels of the analysis, 7 cells of y of the hyper-analysis and 7
# of the hyper-synthesis add up to 254.
HALOS = {
    "bmshj2018-factorized": (32, 32),
    "bmshj2018-hyperprior": (256, 256),
    "mbt2018": (256, 256),
    "cheng2020-anchor-checkerboard": (448, 448),
}


class Blur(nn.Module):
    """Likelihoods of one latent, 8 pixels a cell, each of a mean over its neighbours as far as ``reach`` cells."""

    def __init__(self, reach: tuple[int, int], offset: int = 0) -> None:
        super().__init__()
        self.reach, self.offset = reach, offset

    def forward(self, x: Tensor) -> dict[str, Any]:
        cells = F.avg_pool2d(x, 8)
        down, across = self.reach
        padded = F.pad(cells, (across, across, down + self.offset, down - self.offset), value=0.5)
        mean = F.avg_pool2d(padded, (2 * down + 1, 2 * across + 1), stride=1)
        return {"likelihoods": mean * 0.9 + 0.05, "x_hat": x * 0.5}


def prepared(model: nn.Module, like: Tensor) -> ModelAdapter:
    adapter = ModelAdapter(model.eval())
    adapter.prepare(like[:, :, :64, :64], {})
    return adapter


def in_tiles(adapter: ModelAdapter, x: Tensor, tiling: Tiling) -> tuple[dict[str, Tensor], Tensor | None]:
    """Bits of cells and reconstruction of the padded canvas, put together."""
    found: dict[str, Tensor] = {}
    image = None
    picture = TensorImage(x)
    for rows in tiling.spans(0):
        for columns in tiling.spans(1):
            tile = run_tile(adapter, picture, tiling, rows, columns, {}, x.device, x_hat=True)
            top, left, height, width = tile.crop
            for name, bits in tile.cells.items():
                down, across = adapter.strides[name]
                if name not in found:
                    size = (tiling.canvas[0] // down, tiling.canvas[1] // across)
                    found[name] = bits.new_full((1, *size), torch.nan)
                found[name][:, top // down : (top + height) // down, left // across : (left + width) // across] = bits
            if tile.x_hat is not None:
                image = torch.full((1, tile.x_hat.shape[1], *tiling.canvas), torch.nan) if image is None else image
                image[:, :, top : top + height, left : left + width] = tile.x_hat
    return found, image


def whole_run(adapter: ModelAdapter, padded: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the model makes of all at once, and the bits of its cells."""
    with torch.inference_mode():
        output, likelihoods = adapter.run(padded, {}, fused=True)
        return output, sum_cells(true_values(likelihoods)[0])


def photograph(height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Smooth with noise on it."""
    rng = np.random.default_rng(5)
    coarse = torch.from_numpy(rng.uniform(0, 1, (1, 3, height // 16 + 2, width // 16 + 2)))
    fine = torch.from_numpy(rng.normal(0, 0.03, (1, 3, height, width)))
    return (F.interpolate(coarse, size=(height, width), mode="bicubic") + fine).clamp(0, 1).to(dtype)


@pytest.mark.medium
@pytest.mark.parametrize("name", HALOS)
def test_the_inside_of_tiles_is_that_of_the_whole(name: str) -> None:
    """In float64, where no value comes so near to the middle between two symbols that its rounding could decide.

    Tiles without a halo must show, or the comparison would see nothing.
    """
    model = small_model(name).double()
    like = photograph(64, 64, torch.float64)
    adapter = prepared(model, like)
    halo = measure_halo(adapter, like, {})
    assert halo == HALOS[name]
    block = adapter.multiple
    x = photograph(2 * halo[0] + 3 * block[0] - 5, 2 * block[1] - 3, torch.float64)
    padded = adapter.pad(x)[0]
    _, whole = whole_run(adapter, padded)
    canvas = (padded.shape[2], padded.shape[3])
    found, _ = in_tiles(adapter, x, Tiling(canvas, canvas, halo, block).cut(block))
    for latent, bits in whole.items():
        torch.testing.assert_close(found[latent], bits, rtol=1e-9, atol=1e-9)
    found, _ = in_tiles(adapter, x, Tiling(canvas, canvas, (0, 0), block).cut(block))
    assert max((found[latent] - bits).abs().max().item() for latent, bits in whole.items()) > 1e-3


@pytest.mark.medium
def test_of_the_demo_codec_in_float32() -> None:
    """Bits and reconstruction; a cell may differ where a value is next to the middle between two symbols.

    Then it costs other bits, and cells that are coded with its help may, too. They are few, one in a thousand at most
    here, and the picture's bits stay as they are; a halo that is too narrow makes a hundred times as many differ.
    """
    model = bitrate_ext.load_demo_codec()
    x = load_image(demo_photograph())
    x = torch.cat([x, x.flip(2), x, x.flip(2)], dim=2)[..., :128]
    adapter = prepared(model, x)
    halo = measure_halo(adapter, x, {}, x_hat=True)
    assert halo == (192, 192)
    padded = adapter.pad(x)[0]
    canvas = (padded.shape[2], padded.shape[3])
    output, whole = whole_run(adapter, padded)
    tiling = Tiling(canvas, canvas, halo, adapter.multiple)
    found, image = in_tiles(adapter, x, tiling.cut((128, 128)))
    without, _ = in_tiles(adapter, x, replace(tiling, halo=(0, 0)).cut((128, 128)))
    for latent, bits in whole.items():
        share, broken = (((q[latent] - bits).abs() > 1e-2).double().mean().item() for q in (found, without))
        assert share < 1e-3 < 1e-1 < broken, (latent, share, broken)
        assert abs(found[latent].sum() - bits.sum()) < 1e-4 * bits.sum()
    assert image is not None
    assert ((image - output["x_hat"]).abs() > 1e-3).double().mean() < 1e-2


@pytest.mark.parametrize(
    ("reach", "offset", "halo"),
    [((2, 5), 0, (16, 40)), ((3, 0), 3, (48, 0)), ((3, 0), -3, (48, 0)), ((0, 0), 0, (0, 0))],
)
def test_halo_of_a_model_with_a_known_reach(reach: tuple[int, int], offset: int, halo: tuple[int, int]) -> None:
    """Different each way, to one side only, and none."""
    like = torch.zeros(1, 1, 64, 64)
    adapter = prepared(Blur(reach, offset), like)
    assert adapter.multiple == (8, 8)
    assert measure_halo(adapter, like, {}) == halo


def test_models_without_a_finite_reach_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "PROBE_BLOCKS", (5, 9))  # in sequence means slowly
    like = torch.zeros(1, 3, 64, 64)
    with pytest.raises(
        ValueError, match=r"cannot be run in tiles: 16 rows of pixels change its likelihoods over all of"
    ):
        measure_halo(prepared(GlobalCodec(), like), like, {})
    sequential = prepared(small_model("mbt2018-vbr"), like)
    with pytest.raises(
        ValueError, match="its reach is global, as with attention over the whole picture or coding in seq"
    ):
        measure_halo(sequential, like, {})


def test_models_that_ignore_their_picture_or_stumble() -> None:
    like = torch.zeros(1, 3, 64, 64)

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"likelihoods": x.new_full((1, 4, x.shape[2] // 16, x.shape[3] // 16), 0.5)}

    class Stumbles(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            if x.isnan().any():
                raise RuntimeError("not finite")
            return {"likelihoods": F.avg_pool2d(x, 16) * 0.5 + 0.2}

    with pytest.raises(ValueError, match="its likelihoods do not depend on its image"):
        measure_halo(prepared(Constant(), like), like, {})
    with pytest.raises(ValueError, match=r"does not run on pixels that are not a number \(RuntimeError: not finite\)"):
        measure_halo(prepared(Stumbles(), like), like, {})


def test_tiles_cover_the_canvas_once_and_see_their_halo() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        block = tuple(int(b) for b in rng.choice([1, 16, 64], 2))
        canvas = tuple(b * int(n) for b, n in zip(block, rng.integers(1, 40, 2), strict=True))
        halo = tuple(b * int(n) for b, n in zip(block, rng.integers(0, 6, 2), strict=True))
        inside = tuple(int(n) for n in rng.integers(1, 1000, 2))
        tiling = Tiling(canvas, canvas, halo, block).cut(inside)  # type: ignore[arg-type]
        for axis in (0, 1):
            done = 0
            for begin, first, last in tiling.spans(axis):
                end = begin + tiling.window[axis]
                assert first == done < last
                assert begin >= 0
                assert end <= canvas[axis]
                assert begin % block[axis] == 0
                assert begin == 0 or first - begin >= halo[axis]
                assert end == canvas[axis] or end - last >= halo[axis]
                done = last
            assert done == canvas[axis]
        half = tiling.halved()
        assert half is None or half.window < tiling.window or half.window[1] < tiling.window[1]
