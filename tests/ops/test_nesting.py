"""What codecs return: nested dicts and lists, whole outputs, and lists that are frames or latents."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from cases import assert_same_bytes

from bitrate_ext import bitrate_map, latent_bits, map_strips
from bitrate_ext.ops.arguments import image_latents, named_likelihoods

SIZE = (16, 16)
Y, Z, X_HAT = (torch.rand(1, channels, n, n).clamp_min(0.01) for channels, n in ((6, 8), (4, 2), (3, 16)))
ImageResult = namedtuple("ImageResult", "x_hat likelihoods")
Latents = namedtuple("Latents", "y z")
Picture = namedtuple("Picture", "x_hat rate")
Fields = namedtuple("Fields", "image feature y_likelihoods quantized_y_likelihoods z_likelihoods")


def names(values: object) -> list[str]:
    return list(named_likelihoods(values))  # type: ignore[arg-type]


def test_lists_in_dicts_are_named_by_number():
    assert names({"y": [Y, Y], "z": (Z,)}) == ["y.0", "y.1", "z.0"]
    assert names({"y": [[Y, Y], {"a": Y, "b": [Z]}]}) == ["y.0.0", "y.0.1", "y.1.a", "y.1.b.0"]
    assert names({"y": Y, "z": None, "w": [], "v": {}, "u": [None, Y]}) == ["y", "u.1"]
    assert names(MappingProxyType({"y": Latents(Y, Z)})) == ["y.y", "y.z"]
    both = bitrate_map({"y": list(Y.split([2, 4], dim=1)), "z": None}, SIZE)
    torch.testing.assert_close(both, bitrate_map(Y, SIZE))
    chosen = bitrate_map({"y": [Y, Z]}, SIZE, projection={"y.0": "nearest", "y.1": "area"})
    expected = bitrate_map(Y, SIZE, projection="nearest") + bitrate_map(Z, SIZE, projection="area")
    torch.testing.assert_close(chosen, expected)


@pytest.mark.parametrize("wrap", [
    lambda likelihoods: {"x_hat": X_HAT, "likelihoods": likelihoods},
    lambda likelihoods: OrderedDict(likelihoods=likelihoods, para={"means": X_HAT}),
    lambda likelihoods: ImageResult(X_HAT, likelihoods),
])  # fmt: skip
def test_a_whole_output_stands_for_its_likelihoods(wrap):
    likelihoods = {"y": Y, "z": Z}
    expected = bitrate_map(likelihoods, SIZE)
    assert_same_bytes(bitrate_map(wrap(likelihoods), SIZE), expected)
    assert_same_bytes(torch.cat([strip for _, strip in map_strips(wrap(likelihoods), SIZE)], dim=2), expected)
    assert_same_bytes(bitrate_map(wrap(Y), SIZE), bitrate_map(Y, SIZE))
    for frames in (wrap([likelihoods, likelihoods]), [wrap(likelihoods), likelihoods]):  # a video's, and one a frame
        one, two = bitrate_map(frames, SIZE)
        assert_same_bytes(one, expected)
        assert_same_bytes(two, expected)
    assert names({"a": wrap(likelihoods), "b": wrap(Y)}) == ["a.y", "a.z", "b"]
    assert list(image_latents(wrap(likelihoods))) == ["y", "z"]


@pytest.mark.parametrize("wrap", [
    lambda y, z: Fields(X_HAT, Z, y, y / 2, z),
    lambda y, z: {"x_hat": X_HAT, "y_likelihoods": y, "z_likelihoods": z},
    lambda y, z: {"image": X_HAT, "z_likelihoods": z, "y_likelihoods": y},
    lambda y, z: {"y_likelihoods": y, "quantized_y_likelihoods": y / 2, "z_likelihoods": z},
])  # fmt: skip
def test_a_whole_output_that_names_its_likelihoods_apart(wrap):
    expected = bitrate_map({"y": Y, "z": Z}, SIZE)
    torch.testing.assert_close(bitrate_map(wrap(Y, Z), SIZE), expected)
    torch.testing.assert_close(bitrate_map([wrap(Y, Z)], SIZE)[0], expected)
    assert sorted(image_latents(wrap(Y, Z))) == ["y", "z"]
    if "x_hat" in wrap(Y, Z):
        with pytest.raises(ValueError, match="bits must hold bits alone, got a whole output"):
            bitrate_map(wrap(Y, Z), SIZE, unit="bits")


def test_a_named_tuple_is_a_dict():
    assert names({"y_likelihoods": Y, "z_likelihoods": Z}) == ["y_likelihoods", "z_likelihoods"]
    assert_same_bytes(bitrate_map(Latents(Y, Z), SIZE), bitrate_map({"y": Y, "z": Z}, SIZE))


WRONG = [
    ({"x_hat": X_HAT, "rate": Y}, ValueError, "likelihoods alone, got a whole output, with the keys 'x_hat', 'rate'; "),
    (Picture(X_HAT, Y), ValueError, "a whole output, with the keys 'x_hat', 'rate'; hand over its entry with the"),
    ({"a": {"x_hat": X_HAT}}, ValueError, r"likelihoods\['a'\] must hold likelihoods alone"),
    ({"strings": [[b"1"]], "shape": (1, 1)}, ValueError, "which forward may return, and compress does not"),
    (SimpleNamespace(x_hat=X_HAT, likelihoods={"y": Y}), TypeError, "got SimpleNamespace; hand over its .likelihoods"),
    (
        (X_HAT, {"y": Y}),
        TypeError,
        r"got a pair of a Tensor and a dict, as \(x_hat, likelihoods\) is; hand over",
    ),
    ((X_HAT, Latents(Y, Z)), TypeError, r"got a pair of a Tensor and a Latents, as \(x_hat, likelihoods\) is"),
    ({"x_hat": X_HAT, "likelihoods": None}, TypeError, "must be a tensor or a dict of tensors, got NoneType"),
    ({"x_hat": X_HAT, "likelihoods": {}}, ValueError, "must hold at least one tensor, got an empty dict"),
]


@pytest.mark.parametrize(("values", "error", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_latent_is_refused(values, error, words):
    with pytest.raises(error, match=words):
        bitrate_map(values, SIZE)
    if not isinstance(values, tuple):
        with pytest.raises(error, match=words):
            bitrate_map([Y, values], SIZE)
        with pytest.raises(error, match=words):
            map_strips(values, SIZE)


def test_other_units_have_their_own_words():
    with pytest.raises(ValueError, match="bits must hold bits alone, got a whole output"):
        bitrate_map({"x_hat": X_HAT, "bits": Y}, SIZE, unit="bits")
    assert_same_bytes(bitrate_map({"y": [Y, None]}, SIZE, unit="bits"), bitrate_map(Y, SIZE, unit="bits"))


def test_latents_of_one_image():
    assert list(image_latents(Y)) == ["y"]
    assert list(image_latents({"y": Y, "z": [Z, Z]})) == ["y", "z.0", "z.1"]
    assert list(image_latents([Y, Z])) == ["0", "1"]
    assert list(image_latents(([Y, Y], None, Z))) == ["0.0", "0.1", "2"]
    assert image_latents([]) == {}
    for video in ([{"y": Y}], [{"y": Y}, Z], [[Y, {"z": Z}]], ({"keyframe": {"y": Y}}, {"motion": {"y": Y}})):
        with pytest.raises(TypeError, match=r"those of one image, got a (list|tuple) with dicts, one entry a frame"):
            image_latents(video)
    with pytest.raises(TypeError, match=r"likelihoods\['1'\] must be a tensor or a dict of tensors, got int"):
        image_latents([Y, 3])
    with pytest.raises(TypeError, match="bits must be a tensor or a dict of tensors, got NoneType"):
        image_latents(None, "bits")


def test_bits_of_cells_of_whatever_maps_are_made_of():
    y, z = latent_bits(Y), latent_bits(Z)
    found = latent_bits({"x_hat": X_HAT, "likelihoods": {"y": [Y, None], "z": Z}})
    assert list(found) == ["y.0", "z"]
    assert torch.equal(found["y.0"], y)
    assert torch.equal(found["z"], z)
    one, two = latent_bits([{"y": Y}, Z])
    assert torch.equal(one["y"], y)
    assert torch.equal(two, z)
