"""Guides: features worked by hand, fits that find what was planted, files, and maps that follow one everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import random_field, some_guide, with_guide
from torch import Tensor, nn
from zoo import small_model

import bitrate_ext
from bitrate_ext.receptive_field import guide as guides
from bitrate_ext.receptive_field.field import ReceptiveField
from bitrate_ext.receptive_field.guide import Example, distance, features, fit_guide

STRIDE = 4


def guided_field(rng: np.random.Generator, stride: int = STRIDE) -> ReceptiveField:
    return with_guide(random_field(rng, stride, (-stride, 2 * stride)), some_guide(rng, stride))


def textured(rng: np.random.Generator, height: int = 64, width: int = 96) -> Tensor:
    """A picture that is flat at the left and rough at the right."""
    picture = rng.random((1, 3, height, width)) * np.linspace(0, 1, width)
    return torch.from_numpy(picture).float()


def test_features_of_a_slope_worked_by_hand() -> None:
    """0.1 brighter each pixel to the right: energy 0.01 inside, a quarter of it at both ends; no texture inside."""
    ramp = (torch.arange(9) / 10).expand(1, 3, 11, 9)
    near, _, texture, middle = features(ramp)[0]
    inside = slice(2, -2)
    torch.testing.assert_close(near[inside, inside].exp(), torch.full((7, 5), 0.01 + guides.EDGE))
    torch.testing.assert_close(near[5, 0].exp(), torch.tensor((0.0025 + 0.0025 + 0.01) / 3 + guides.EDGE))
    torch.testing.assert_close(texture[inside, inside].exp(), torch.full((7, 5), guides.TEXTURE), rtol=1e-3, atol=0)
    torch.testing.assert_close(middle[0], torch.tensor([x / 10 * (1 - x / 10) for x in range(9)]))


def test_features_of_grey_and_beyond_the_range() -> None:
    picture = textured(np.random.default_rng(0))
    grey = picture.mean(dim=1, keepdim=True)
    torch.testing.assert_close(features(grey), features(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert torch.equal(features(picture * 3 - 1), features((picture * 3 - 1).clamp(0, 1)))


def test_the_guide_of_a_part_is_the_whole_ones(rng: np.random.Generator) -> None:
    """From its reach inside the part's borders on; the places in the cells are those of the whole picture."""
    picture, guide, reach = torch.from_numpy(rng.random((2, 3, 50, 60))), some_guide(rng, 7), guides.REACH
    whole = guide(picture)
    for top, left, height, width in ((0, 0, 50, 60), (13, 22, 20, 31), (36, 1, 14, 59), (3, 20, 11, 11)):
        part = guide(picture[..., top : top + height, left : left + width], origin=(top, left))
        inside = (..., slice(reach, -reach), slice(reach, -reach))
        expected = whole[..., top : top + height, left : left + width]
        torch.testing.assert_close(part[inside], expected[inside], rtol=1e-6, atol=0)
        assert (top, left) == (0, 0) or not torch.allclose(part, expected, rtol=1e-3)


def test_a_planted_guide_is_found(rng: np.random.Generator) -> None:
    """Maps made by a guide are its own best fit: little is left on pictures that were not in the fit."""
    field, planted = random_field(rng, STRIDE, (-STRIDE, 2 * STRIDE)), some_guide(rng, STRIDE)
    examples = []
    for _ in range(4):
        picture, cells = textured(rng), torch.from_numpy(rng.uniform(1, 9, (1, 16, 24)))
        made = bitrate_ext.bitrate_map(cells, (64, 96), projection=field, guide=planted(picture), unit="bits")
        examples.append(Example(cells, picture, made[0, 0]))
    found, fit = fit_guide(field, field.stride, examples)
    assert found is not None
    assert fit["unguided_distance"] > 5
    assert fit["guided_distance"] < fit["unguided_distance"] / 5
    other = textured(rng)
    unlike = (found(other) / planted(other)).log()
    assert float(unlike.std()) < 0.1


def test_no_guide_where_none_helps(rng: np.random.Generator) -> None:
    field = random_field(rng, STRIDE, (-STRIDE, 2 * STRIDE))
    picture, cells = textured(rng), torch.from_numpy(rng.uniform(1, 9, (1, 16, 24)))
    exact = bitrate_ext.bitrate_map(cells, (64, 96), projection=field, unit="bits")[0, 0]
    found, fit = fit_guide(field, field.stride, [Example(cells, picture, exact)])
    assert found is None
    assert fit["unguided_distance"] < 1e-3


def test_distance_of_columns(rng: np.random.Generator) -> None:
    """Half the picture counts: its own bits in the numerator and in the denominator."""
    field, cells = random_field(rng, STRIDE, (0, STRIDE - 1)), torch.ones(1, 2, 2, dtype=torch.float64)
    made = bitrate_ext.bitrate_map(cells, (8, 8), projection=field, unit="bits")[0, 0]
    exact = made.clone()
    exact[:, 4:] *= 2
    example = Example(cells, torch.rand(1, 3, 8, 8), exact, (4, None))
    assert float(distance(field, None, example)) == pytest.approx(50)
    assert float(distance(field, None, Example(cells, example.picture, exact, (0, 4)))) == pytest.approx(0, abs=1e-5)


def test_files_keep_it(rng: np.random.Generator, tmp_path: Any) -> None:
    field, picture = guided_field(rng), textured(rng)
    field.save(tmp_path / "one.npz")
    again = ReceptiveField.load(tmp_path / "one.npz")
    assert again.guide is not None
    assert field.guide is not None
    assert torch.equal(again.guide(picture), field.guide(picture))
    random_field(rng, STRIDE, (-1, STRIDE)).save(tmp_path / "two.npz")
    assert ReceptiveField.load(tmp_path / "two.npz").guide is None


@pytest.mark.parametrize("bad", [np.full(4, np.nan), np.full(4, 1e9), np.ones(3)])
def test_files_with_other_weights_are_refused(rng: np.random.Generator, tmp_path: Any, bad: Any) -> None:
    field = guided_field(rng)
    object.__setattr__(field.guide, "weights", tuple(bad))
    field.save(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match="a guide has 4 weights and a table of phases"):
        ReceptiveField.load(tmp_path / "bad.npz")


class Codec(nn.Module):
    """A decoder that repeats pixels; ``x_hat`` is the picture, darker, or of another size."""

    def __init__(self, x_hat: bool = True) -> None:
        super().__init__()
        self.weight, self.with_x_hat = nn.Parameter(torch.tensor(0.4)), x_hat

    def forward(self, x: Tensor) -> dict[str, Any]:
        cost = torch.sigmoid(nn.functional.avg_pool2d(x, STRIDE) + self.weight)
        mean = torch.sigmoid(nn.functional.avg_pool2d(x[:, :1], 4 * STRIDE))
        return {"likelihoods": {"y": cost, "z": mean}, **({"x_hat": x * 0.9} if self.with_x_hat else {})}


def test_maps_follow_the_reconstruction(rng: np.random.Generator) -> None:
    """A guided latent beside an unguided one; map, padding and total agree, and each is what its own call gives."""
    model, field, x = Codec().eval(), guided_field(rng), torch.rand(1, 3, 70, 90)
    result = bitrate_ext.BitrateMapper(model, projection={"y": field, "z": "nearest"}, channels=True)(x)
    total = float(result.total_bits)
    assert abs(float(result.map.double().sum() + result.padding_bits) - total) <= 6e-8 * total
    torch.testing.assert_close(result.map, sum(result.maps.values()), rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]
    unguided = bitrate_ext.BitrateMapper(model, projection={"y": random_field(rng, STRIDE, (0, 3)), "z": "nearest"})(x)
    assert torch.equal(result.maps["z"], unguided.maps["z"])
    assert not torch.equal(result.maps["y"], unguided.maps["y"])
    assert result.warnings == ()
    both = result.channel_map("y", slice(0, 3))
    torch.testing.assert_close(both, result.maps["y"], rtol=1e-5, atol=1e-6)


def test_the_image_itself_where_there_is_no_reconstruction(rng: np.random.Generator) -> None:
    field, x = guided_field(rng), torch.rand(1, 3, 64, 96)
    result = bitrate_ext.BitrateMapper(Codec(x_hat=False).eval(), projection={"y": field, "z": "nearest"})(x)
    assert len(result.warnings) == 1
    assert "made of the image itself" in result.warnings[0]


def test_frames_have_the_maps_of_images(rng: np.random.Generator) -> None:
    """Though nobody asks for x_hat, the network makes it for the guide."""
    model, projection = Codec().eval(), {"y": guided_field(rng), "z": "nearest"}
    frames = [torch.from_numpy(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)) for _ in range(3)]
    mapper = bitrate_ext.BitrateMapper(model, projection=projection)
    for frame, result in zip(frames, bitrate_ext.FrameMapper(model, projection=projection)(frames), strict=True):
        x = (frame.permute(2, 0, 1)[None].float()) / 255
        torch.testing.assert_close(result.map, mapper(x).map, rtol=1e-4, atol=1e-5)
        assert result.x_hat is None


@pytest.mark.medium
def test_coded_bits_and_their_gap_lie_under_one_guide(rng: np.random.Generator) -> None:
    model = small_model("mbt2018-mean")
    model.update(force=True)
    projection = {"y": guided_field(rng, 16), "z": "nearest"}
    x = torch.rand(1, 3, 64, 128)
    result = bitrate_ext.BitrateMapper(model, projection=projection, bits="coded", gap=True)(x)
    estimated = bitrate_ext.BitrateMapper(model, projection=projection, sources=False)(x)
    assert result.gap is not None
    torch.testing.assert_close(result.map - result.gap, estimated.map, rtol=1e-4, atol=1e-4)
    total = float(result.total_bits)
    assert abs(float(result.map.double().sum() + result.padding_bits) - total) <= 1e-6 * total


@pytest.mark.medium
def test_calibrate_fits_one_and_says_how_well(tmp_path: Any) -> None:
    """Of random weights: whichever it finds, it is no worse than the field by more than is said."""
    model = small_model("mbt2018-mean")
    images = [torch.rand(1, 3, 128, 160), torch.rand(1, 3, 128, 128)]
    field = bitrate_ext.calibrate(model, "y", images, 8, guide=True, cache=tmp_path)
    without, fitted = field.fit["unguided_distance"], field.fit["guided_distance"]
    assert (field.guide is None) == (fitted > without - guides.HELP)
    again = bitrate_ext.calibrate(model, "y", images, 8, guide=True, cache=tmp_path)
    assert again.fit == field.fit
    assert bitrate_ext.calibrate(model, "y", images, 8, cache=tmp_path).guide is None
