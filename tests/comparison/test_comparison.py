"""Codecs beside each other: one scale, differences, the table, blocks, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo as small_zoo
from block_codecs import BlockCodec
from torch import Tensor

import bitrate_ext
from bitrate_ext.cells.picture import CellGrid, PictureBits
from bitrate_ext.cells.quality import measure_psnr
from bitrate_ext.io.images import load_image
from bitrate_ext.models import demo_codec, zoo
from bitrate_ext.models.demo_codec import demo_photograph, load_between, load_demo_codec, load_demo_forward


def flat(image: Tensor, quality: float | None) -> PictureBits:
    """As many bits in each block of 8 x 8 pixels as the quality says, and a file with 16 bits more."""
    grid = (image.shape[2] // 8, image.shape[3] // 8)
    bits = torch.full(grid, 5.0 if quality is None else float(quality), dtype=torch.float64)
    size = (image.shape[2], image.shape[3])
    count = round((float(bits.sum()) + 16) / 8)
    return PictureBits({"blocks": CellGrid(bits)}, size, (0, 0, *size), "flat", "coded", {"headers": 16}, count)


def searchable(image: Tensor, quality: float | None) -> PictureBits:
    return flat(image, quality)


searchable.qualities = (64, 1024)  # type: ignore[attr-defined]


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, 96, 128)


def test_table_differences_and_scale(x: Tensor) -> None:
    made = bitrate_ext.compare(x, (flat, 64), (flat, 128), c=BlockCodec().eval())
    a, b, c = made.rows
    assert [row.letter for row in made.rows] == ["a", "b", "c"]
    assert (a.bytes, b.bytes) == ((64 * 192 + 16) / 8, (128 * 192 + 16) / 8)
    assert (a.bpp, a.kind, a.quality, a.psnr_db, a.ms_ssim) == ((64 * 192 + 16) / (96 * 128), "coded", 64, None, None)
    result = bitrate_ext.BitrateMapper(BlockCodec().eval())(x)
    assert result.x_hat is not None
    assert c.bytes == float(result.total_bits) / 8
    assert c.psnr_db == pytest.approx(measure_psnr(result.x_hat, x))
    assert c.padding_share == pytest.approx(float(result.padding_bits / result.total_bits))
    torch.testing.assert_close(made.difference("a", "b"), torch.full((96, 128), -1.0, dtype=torch.float64))
    torch.testing.assert_close(made.difference("c", "a"), made.maps["c"] - made.maps["a"])
    assert made.limit == 2.0
    assert "flat" in repr(made)
    with pytest.raises(ValueError, match="the codecs of this comparison are a, b, c, got 'd'"):
        made.difference("a", "d")


def test_blocks_that_differ_most(x: Tensor) -> None:
    def uneven(image: Tensor, quality: float | None) -> PictureBits:
        made = flat(image, quality)
        made.grids["blocks"].bits[9, 2] += 30  # rows 72 to 79, columns 16 to 23
        made.grids["blocks"].bits[0, 15] -= 20
        return made

    first, second = bitrate_ext.compare(x, (flat, 64), (uneven, 64)).top_blocks(count=2)
    assert (first.left, first.top, first.width, first.height) == (0, 64, 64, 32)
    assert first.difference["b"] == pytest.approx(-30)
    assert first.bits == pytest.approx({"a": 64 * 32, "b": 64 * 32 + 30})
    assert (second.left, second.top, second.difference["b"]) == (64, 0, pytest.approx(20))


def test_several_images_share_the_scale(x: Tensor) -> None:
    dark, light = bitrate_ext.compare([0.1 * x, x], (flat, 0.1), BlockCodec().eval())
    alone = [bitrate_ext.compare(one, (flat, 0.1), BlockCodec().eval()) for one in (0.1 * x, x)]
    assert dark.limit == light.limit == max(one.limit for one in alone)
    assert dark.difference_limit == max(one.difference_limit for one in alone)
    assert alone[0].limit != alone[1].limit
    assert bitrate_ext.compare(x, (flat, 3), (flat, 4), limit=7.0).limit == 7.0


def test_equal_bytes_of_a_codec_function(x: Tensor) -> None:
    made = bitrate_ext.compare(x, (flat, 200), (searchable, "bytes=a,name=other"), c=(searchable, "bytes=3000"))
    a, b, c = made.rows
    assert b.off is not None
    assert abs(b.off) <= 0.01
    assert b.bytes == pytest.approx(a.bytes, rel=0.01)
    assert c.bytes == pytest.approx(3000, rel=0.01)
    assert (b.name, made.warnings) == ("other", ())
    assert 1 < b.encodes <= 8


def test_bytes_that_are_out_of_reach_are_told(x: Tensor) -> None:
    made = bitrate_ext.compare(x, (flat, 16), (searchable, "bytes=a"))
    (warning,) = made.warnings
    assert warning.startswith(
        "b: bytes=a is not reached: the nearest quality from 64 to 1024 is 64, with 1,538 bytes for "
    )
    assert made.rows[1].quality == 64


def test_other_sizes_and_colours_cannot_be_compared(x: Tensor) -> None:
    def smaller(image: Tensor, quality: float | None) -> PictureBits:
        return flat(image[..., :64], quality)

    def grey(image: Tensor, quality: float | None) -> PictureBits:
        made = flat(image, quality)
        return PictureBits(made.grids, made.canvas, made.crop, reconstruction=image[:, :1])

    with pytest.raises(ValueError, match=r"a and b cannot be compared: .* a of 128 x 96 and b of 64 x 96 pixels"):
        bitrate_ext.compare(x, flat, smaller)
    with pytest.raises(
        ValueError, match="b cannot be compared: its reconstruction has 1 colour channel, the picture of a"
    ):
        bitrate_ext.compare(x, flat, grey)


def _fails(image: Tensor, quality: float | None) -> PictureBits:
    raise RuntimeError("out of ink")


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (_fails, r"b: the codec function _fails raised RuntimeError: out of ink \(test_comparison.py, line \d+\)"),
        (lambda image, quality: image, "b: the codec function <lambda> must return a PictureBits, got Tensor"),
        (lambda: None, "takes 0 .*; it must take an image and a quality, and what makes a model is given as model=mod"),
        (lambda *_: torch.nn.ReLU(), "a PictureBits, got ReLU; what makes a model is given as model=module:name"),
        (BlockCodec, "b: a codec must be a SPEC, .* got the class BlockCodec"),
        (3, "b: a codec must be a SPEC, .* got int"),
        (
            (flat, "bytes=a"),
            r"b: bytes=a needs a codec whose quality can be searched; give flat the attribute qualities",
        ),
        ((flat, "bytes=c"), "b: bytes=c names no other codec"),
        ((BlockCodec().eval(), 3), "b: quality=3 is not for a model of one rate"),
        ("nothing.here:codec", "b: there is no module 'nothing'"),
        ("nothing.py:codec", "b: there is no file nothing.py"),
        ("checkpoint=nothing.pth", "b: the model cannot be loaded: there is no checkpoint file nothing.pth"),
    ],
)
def test_what_is_no_codec(codec: Any, message: str, x: Tensor) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        bitrate_ext.compare(x, flat, codec)


def test_wrong_images_and_letters(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"image must be \[1, C, H, W\], got \[2, 3, 96, 128\]"):
        bitrate_ext.compare(x.expand(2, -1, -1, -1), flat, flat)
    with pytest.raises(TypeError, match=r"codecs are called a, b, .*, got 'z'"):
        bitrate_ext.compare(x, flat, flat, z=flat)


def test_a_file_with_a_function(x: Tensor, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport torch\n"
        "from bitrate_ext.cells.picture import CellGrid, PictureBits\n\n"
        "@dataclass\nclass Kept:\n    quality: float\n\n"
        "def codec(image, quality):\n    size = tuple(image.shape[2:])\n"
        "    bits = torch.full((1, 1), Kept(quality).quality)\n"
        "    return PictureBits({'all': CellGrid(bits)}, size, (0, 0, *size))\n"
    )
    made = bitrate_ext.compare(x, f"{tmp_path}/own.py:codec:800", f"{tmp_path}/own.py:codec,quality=1600,name=more")
    assert [(row.bytes, row.name) for row in made.rows] == [(100, "codec, quality 800"), (200, "more")]


def test_models_are_loaded_once_and_left_as_they_were(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(quality: int) -> Any:
        loaded.append(quality)
        return BlockCodec().eval()

    monkeypatch.setattr(demo_codec, "load_demo_forward", load)
    bitrate_ext.compare([x, x], "demo:3", "demo:3,padding=reflect", c="demo:4")
    assert loaded == [3, 4]


@pytest.mark.medium
def test_a_model_of_ones_own_is_left_as_it_was(x: Tensor) -> None:
    model = small_zoo.coded_model("mbt2018-mean")
    before = {name: (one.data_ptr(), one.clone()) for name, one in model.state_dict().items()}
    made = bitrate_ext.compare(x, model, (model, "bits=coded"))
    assert [row.kind for row in made.rows] == ["estimated", "coded"]
    assert made.pictures["b"].closes
    for name, one in model.state_dict().items():
        assert one.data_ptr() == before[name][0]
        assert torch.equal(one, before[name][1])


@pytest.mark.medium
@pytest.mark.parametrize("how", ["", ",bits=coded", ",projection=receptive-field"])
def test_levels_of_variable_rate(x: Tensor, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("compressai.models")
    torch.manual_seed(0)
    model = models.MeanScaleHyperpriorVbr(8, 12).eval()
    model.update(force=True)
    monkeypatch.setattr(zoo, "load_zoo_model", lambda *_: model)
    name = "mbt2018-mean-vbr"
    made = bitrate_ext.compare(x, f"{name}:6{how}", f"{name}:2{how}", c=f"{name}:2.5{how}", d=f"{name}:3{how}")
    bits = [row.bytes for row in made.rows]
    assert bits[1] <= bits[2] <= bits[3] <= bits[0]
    assert "level 2.5" in made.rows[2].name
    for letter, level in (("a", 6), ("b", 2)):
        mapper = bitrate_ext.BitrateMapper(model, bits="coded" if "coded" in how else "estimated")
        zoo.set_level(model, level)
        assert sum(made.pictures[letter].latent_bits.values()) == pytest.approx(float(mapper(x, s=level).total_bits))
    with pytest.raises(ValueError, match="a: quality must be a number from 0 to 7, got 9"):
        bitrate_ext.compare(x, f"{name}:9{how}", "demo:3")


@pytest.mark.parametrize("load", [load_demo_codec, load_demo_forward])
def test_the_demo_codec_between_its_qualities(load: Callable[[int], Any]) -> None:
    pytest.importorskip("compressai")
    forward_only = load is load_demo_forward
    x = torch.rand(1, 3, 64, 128)
    for quality in (1, 8):
        between = load_between(float(quality), forward_only=forward_only)(x)
        assert torch.equal(between["x_hat"], load(quality)(x)["x_hat"])
    photograph = F.interpolate(load_image(demo_photograph()), (128, 192), mode="area")
    rates = []
    for quality in (3, 3.25, 3.5, 3.75, 4):
        mapper = bitrate_ext.BitrateMapper(load_between(quality, forward_only=forward_only))
        rates.append(float(mapper(photograph).total_bits))
    assert rates == sorted(rates)
    assert rates[2] ** 2 == pytest.approx(rates[0] * rates[4], rel=0.03)


@pytest.mark.medium
@pytest.mark.parametrize("how", ["", ",bits=coded,padding=replicate"])
def test_the_demo_codec_meets_another_ones_bytes(how: str) -> None:
    pytest.importorskip("compressai")
    made = bitrate_ext.compare(demo_photograph(), "demo:3.3,bits=coded", f"demo,bytes=a{how}")
    a, b = made.rows
    assert b.bytes == pytest.approx(a.bytes, rel=0.01)
    assert b.encodes <= 8
    assert a.ms_ssim is not None
    assert b.ms_ssim is not None
    assert 0.9 < a.ms_ssim < 1
    assert made.pictures["a"].closes


def test_figures_for_print(x: Tensor) -> None:
    pytest.importorskip("matplotlib")
    made = bitrate_ext.compare(x, flat, (searchable, 2.0))
    figure, axes = made.figure()
    assert axes.shape == (1, 3)
    assert [one.get_clim()[1] for panel in axes[0, 1:] for one in panel.images] == [pytest.approx(made.limit)] * 2
    said = {one.get_text() for one in figure.findobj(match=lambda one: hasattr(one, "get_text"))}
    assert {row.name for row in made.rows} <= said
    figure, axes = made.difference_figure(photograph=x[..., ::2, ::2], width=5.0)
    assert figure.get_size_inches()[0] == pytest.approx(5.0)
    low, high = axes[0, 1].images[0].get_clim()
    assert (low, high) == (pytest.approx(-made.difference_limit), pytest.approx(made.difference_limit))
    with pytest.raises(ValueError, match="the codecs of this comparison are a, b, got 'c'"):
        made.difference_figure("a", "c")
