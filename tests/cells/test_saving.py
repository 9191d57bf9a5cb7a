"""Files of cells: everything comes back, exactly, in kilobytes; what is damaged or foreign is refused by its name."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from block_codecs import BlockCodec
from cases import random_field, some_guide, with_guide
from zoo import coded_model

import bitrate_ext
from bitrate_ext import CellGrid, PictureBits, Projection
from bitrate_ext.ops.projection import get_projection

SIZE, CANVAS, CROP = (100, 150), (128, 192), (14, 21, 100, 150)


def bits_of(rng: np.random.Generator, kind: str = "bilinear") -> PictureBits:
    fields = {"y": random_field(rng, 16, (-30, 30)), "a.z/0": random_field(rng, 64, (-90, 80), 1)}
    grids = {}
    for name, stride in (("y", 16), ("a.z/0", 64)):
        bits = torch.from_numpy(rng.gamma(0.3, 300.0, (CANVAS[0] // stride, CANVAS[1] // stride)))
        projection: Projection = get_projection(kind) if kind in ("nearest", "bilinear", "area") else fields[name]
        guide = None
        if kind == "guided":
            projection = with_guide(fields[name], some_guide(rng, stride))
            guide = torch.from_numpy(rng.gamma(1.0, 1.0, (1, 1, *CANVAS))).float() + 0.05
        grids[name] = CellGrid(bits, projection, guide)
    x, made = (torch.from_numpy(rng.random((1, 3, *SIZE))).float() for _ in range(2))
    return PictureBits(
        grids,
        CANVAS,
        CROP,
        name="a <codec>",
        kind="coded",
        elsewhere={"headers": 24.5},
        file_bytes=8,
        picture=x,
        reconstruction=made,
        channel_bits={"y": torch.from_numpy(rng.random(5))},
        warnings=("a & b",),
    )


def loaded(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def assert_same(one: PictureBits, other: PictureBits) -> None:
    for name in ("canvas", "crop", "name", "kind", "elsewhere", "file_bytes", "warnings"):
        assert getattr(one, name) == getattr(other, name), name
    assert list(one.grids) == list(other.grids)
    for name, grid in one.grids.items():
        assert torch.equal(grid.bits, other.grids[name].bits)
    assert {name: of.tolist() for name, of in one.channel_bits.items()} == {
        name: of.tolist() for name, of in other.channel_bits.items()
    }
    torch.testing.assert_close(one.map(), other.map(), rtol=1e-13, atol=0)  # a kernel is normalised when it is read


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("kind", ["nearest", "bilinear", "area", "field", "guided"])
def test_everything_comes_back(rng: np.random.Generator, tmp_path: Path, kind: str, pixels: bool) -> None:
    bits = bits_of(rng, kind)
    bits.save(tmp_path / "a.npz", pixels=pixels)
    again = PictureBits.load(tmp_path / "a.npz")
    if kind == "guided" and not pixels:
        notes = [f"the guide of latent {name!r} was not saved: its bits are laid out by the receptive field alone"
                 for name in bits.grids]  # fmt: skip
        assert again.warnings == (*bits.warnings, *notes)
        bits = replace(bits, grids={name: replace(of, guide=None) for name, of in bits.grids.items()})
        bits = replace(bits, warnings=again.warnings)
    assert_same(bits, again)
    again.save(tmp_path / "b.npz", pixels=pixels)  # again, and nothing is told twice
    assert PictureBits.load(tmp_path / "b.npz").warnings == again.warnings
    arrays = loaded(tmp_path / "a.npz")
    if not pixels:
        assert again.picture is None
        assert again.reconstruction is None
        assert not {"map", "picture"} & set(arrays)
        return
    assert torch.equal(again.picture, bits.picture)
    assert torch.equal(again.reconstruction, bits.reconstruction)
    np.testing.assert_array_equal(arrays["map"], bits.map().float().numpy())
    np.testing.assert_array_equal(arrays["maps/a.z/0"], bits.map("a.z/0").float().numpy())


def test_values_that_float32_holds_take_half(rng: np.random.Generator, tmp_path: Path) -> None:
    whole = torch.from_numpy(rng.integers(0, 1000, (30, 40))).double()
    odd = torch.tensor([[torch.inf, torch.nan, 1e300, 0.1]], dtype=torch.float64)
    PictureBits({"whole": CellGrid(whole), "odd": CellGrid(odd)}, (240, 320), (0, 0, 240, 320)).save(tmp_path / "a.npz")
    arrays = loaded(tmp_path / "a.npz")
    assert (arrays["cells/whole"].dtype, arrays["cells/odd"].dtype) == (np.float32, np.float64)
    again = PictureBits.load(tmp_path / "a.npz")
    assert torch.equal(again.grids["whole"].bits, whole)
    torch.testing.assert_close(again.grids["odd"].bits, odd, rtol=0, atol=0, equal_nan=True)


def test_a_picture_of_4k_takes_less_than_a_megabyte(rng: np.random.Generator, tmp_path: Path) -> None:
    """Cells of float64 that nothing can be saved of, and measured kernels as wide as the widest decoder's."""
    grids = {
        name: CellGrid(torch.from_numpy(rng.gamma(0.5, 200.0, (2160 // stride, 3840 // stride))), field)
        for name, stride, field in (
            ("y", 16, random_field(rng, 16, (-60, 60))),
            ("z", 60, random_field(rng, 60, (-300, 300))),
        )
    }
    PictureBits(grids, (2160, 3840), (0, 0, 2160, 3840)).save(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20


def test_equal_bits_give_equal_files_in_one_step(rng: np.random.Generator, tmp_path: Path) -> None:
    bits = bits_of(rng, "field")
    for name in ("a.npz", "b.npz", "b.npz"):
        bits.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


class Own(Projection):
    name = "nearest"

    def rows(self, cells: int, pixels: int, cells_per_pixel: float, conserve: bool) -> Any:
        return get_projection("nearest").rows(cells, pixels, cells_per_pixel, conserve)


def test_a_projection_of_ones_own(rng: np.random.Generator, tmp_path: Path) -> None:
    own = PictureBits({"y": CellGrid(torch.ones(2, 2), Own())}, (4, 4), (0, 0, 4, 4))
    with pytest.raises(ValueError, match="projection of latent 'y' must be built in or a ReceptiveField to be saved"):
        own.save(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())
    x = torch.randint(0, 256, (3, 100, 150), dtype=torch.uint8)
    bitrate_ext.map_picture(BlockCodec().eval(), x, tmp_path / "a.npz", tile=64, projection=Own())
    assert loaded(tmp_path / "a.npz")["cells/y"].shape == (8, 12)
    with pytest.raises(ValueError, match=r"a\.npz: .*laid out by a projection of one's own, <Projection nearest>"):
        PictureBits.load(tmp_path / "a.npz")


def spoiled(path: Path, **changes: Any) -> None:
    arrays = loaded(path)
    about = json.loads(str(arrays["bits"]))
    for name, value in changes.items():
        if name in about:
            about[name] = value
        else:
            arrays[name.replace("__", "/")] = value
    np.savez(path, **{**arrays, "bits": np.array(json.dumps(about))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "of another format than 1"),
        ({"canvas": [128]}, "2 whole numbers were expected"),
        ({"canvas": [64, 64]}, "crop must be"),
        ({"crop": "full"}, "invalid literal"),
        ({"latents": {}}, "grids must hold"),
        ({"latents": {"x": "nearest"}}, "cells/x is not a file in the archive"),
        ({"latents": {"y": "receptive-field"}}, "a projection of one's own"),
        ({"latents": ["y"]}, "no attribute 'items'"),
        ({"cells__y": np.zeros(3)}, r"cells/y must be floating point of 2 dimensions, got float64 \[3\]"),
        ({"cells__y": np.zeros((3, 3), "U3")}, "cells/y must be floating point of 2 dimensions, got <U3"),
        ({"guides__y": np.ones((8, 8), np.float32)}, r"guides/y must be \[128, 192\] like the canvas, got \[8, 8\]"),
        ({"projections__y": np.zeros(100, np.uint8)}, "it is no saved receptive field, or is damaged"),
        ({"picture": np.zeros((3, 8, 8), np.float32)}, r"picture must be \[1, C, 100, 150\]"),
        ({"channels__y": np.array([{}], dtype=object)}, "allow_pickle=False"),
    ],
)
def test_files_that_hold_something_else(
    rng: np.random.Generator, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    bits_of(rng).save(tmp_path / "a.npz")
    spoiled(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=message) as refused:
        PictureBits.load(tmp_path / "a.npz")
    assert str(refused.value).startswith(f"{tmp_path / 'a.npz'}: no saved bits of a picture, or damaged (")
    assert "\n" not in str(refused.value)


def test_files_that_are_damaged_or_of_another_kind(rng: np.random.Generator, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    bits_of(rng, "guided").save(path, pixels=True)
    content = path.read_bytes()
    others = [content[:end] for end in (1, 100, len(content) // 2, len(content) - 1)]
    others += [b"text", b"\x80\x04N.", b"\x93NUMPY", b"PK\x05\x06" + bytes(18)]
    file = io.BytesIO()
    np.savez(file, map=np.zeros((3, 3)))
    others.append(file.getvalue())
    np.save(file := io.BytesIO(), np.zeros((3, 3)))
    others.append(file.getvalue())
    for other in others:
        path.write_bytes(other)
        with pytest.raises(ValueError, match=r"a\.npz: no saved bits of a picture, or damaged \("):
            PictureBits.load(path)
    path.write_bytes(b"")
    for name, reason in (("a.npz", "the file is empty"), ("absent.npz", "no such file"), (".", "is a folder")):
        with pytest.raises(ValueError, match=reason):
            PictureBits.load(tmp_path / name)


def test_flipped_bits_are_told_or_change_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    path, bits = tmp_path / "a.npz", bits_of(rng, "field")
    bits.save(path)
    content, refused = path.read_bytes(), 0
    for place in rng.integers(0, len(content), 300):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            again = PictureBits.load(path)
        except ValueError:
            refused += 1
        else:
            assert_same(bits, again)
    assert refused > 200


# Results, and what is said of them.


@pytest.mark.medium
@pytest.mark.parametrize("source", ["estimated", "coded"])
def test_results_are_saved_image_by_image(tmp_path: Path, source: str) -> None:
    result = bitrate_ext.BitrateMapper(coded_model("bmshj2018-hyperprior"), bits=source)(torch.rand(2, 3, 70, 100))
    result.save(tmp_path / "one.npz", number=1)
    again = PictureBits.load(tmp_path / "one.npz")
    assert_same(result.image(1), again)
    assert again.closes is (True if source == "coded" else None)
    lines = result.summary().splitlines()
    assert lines == [result.image(0).summary(), result.image(1).summary()]
    assert lines[1].startswith(f"100 x 70, {result.image(1).bpp:.3f} bits per pixel, ")
    assert lines[1].endswith(f" in padding, {source}")
    assert ("overhead of the coder" in lines[1]) == (source == "coded")
    rates = f"{float(result.bpp[0]):.3f}, {float(result.bpp[1]):.3f}"
    assert repr(result) == f"<BitrateResult of 2 x 100 x 70: {rates} bits per pixel, {source}>"
    assert result._repr_html_().count("<table>") == 2
    with pytest.raises(ValueError, match="number must be 0 to 1"):
        result.save(tmp_path / "two.npz", number=2)


def test_a_notebook_gets_a_small_card(rng: np.random.Generator) -> None:
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    bits = bits_of(rng)
    html = bits._repr_html_()
    assert "a &lt;codec&gt;" in html
    assert "warning: a &amp; b" in html
    assert f"{bits.psnr_db:.2f} dB" in html
    assert not re.search(r"<script|\son\w+=|javascript:|https?:", html)
    found = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        assert picture.size == (150, 100)
        assert np.asarray(picture.convert("RGB")).std() > 20
    grid = CellGrid(torch.rand(135, 240), get_projection("bilinear"))
    large = PictureBits({"y": grid}, (2160, 3840), (0, 0, 2160, 3840))._repr_html_()
    assert len(large) < 80_000
    assert repr(bits).startswith("<PictureBits a <codec>: 150 x 100, ")
    assert "24 headers" in bits.summary()
    assert "of 8 bytes" in bits.summary()
