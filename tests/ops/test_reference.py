"""Numbers worked by hand, for the reference and the native operator alike: the oracle's oracle."""

import math

import pytest
import torch
from cases import assert_same_bytes

import bitrate_ext
from bitrate_ext import bitrate_map, latent_bits


@pytest.fixture(params=["auto", "reference"])
def impl(request):
    return request.param


def cells(values, device, dtype=torch.float32) -> torch.Tensor:
    """Return likelihoods [1, 1, h, w] that cost these bits."""
    return (2.0 ** -torch.tensor(values, dtype=torch.float64)).to(dtype)[None, None].to(device)


def table(values, device, dtype=torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=device)[None, None]


# name: (bits of the cells, projection, (H, W), conserve, the map)
WORKED = {
    "one cell, one pixel": ([[3.0]], "bilinear", (1, 1), True, [[3.0]]),
    "one cell over four pixels": ([[8.0]], "nearest", (2, 2), True, [[2.0, 2.0], [2.0, 2.0]]),
    "one cell, bilinear": ([[8.0]], "bilinear", (2, 2), True, [[2.0, 2.0], [2.0, 2.0]]),
    "same size is the identity": ([[1.0, 2.0], [3.0, 5.0]], "bilinear", (2, 2), True, [[1.0, 2.0], [3.0, 5.0]]),
    "nearest by two": ([[4.0, 8.0]], "nearest", (2, 4), True, [[1.0, 1.0, 2.0, 2.0]] * 2),
    # Centres at 0.25, 0.75, 1.25, 1.75 of cells at 0.5, 1.5: weights 1, 3/4, 1/4, 0 over 2, columns of 2 / 2.
    "bilinear by two": ([[0.0, 16.0]], "bilinear", (1, 4), True, [[0.0, 2.0, 6.0, 8.0]]),
    "bilinear by two, recipe": ([[0.0, 16.0]], "bilinear", (1, 4), False, [[0.0, 2.0, 6.0, 8.0]]),
    # Centres at 1/3, 1, 5/3: the middle pixel takes half of either cell; columns 3/2, so 16 splits 2/3 to 1/3.
    "bilinear two to three": ([[24.0, 0.0]], "bilinear", (1, 3), True, [[16.0, 8.0, 0.0]]),
    "bilinear two to three, recipe": ([[24.0, 0.0]], "bilinear", (1, 3), False, [[16.0, 8.0, 0.0]]),
    "area two to three": ([[24.0, 12.0]], "area", (1, 3), True, [[16.0, 12.0, 8.0]]),
    "area three to two": ([[4.0, 8.0, 2.0]], "area", (1, 2), True, [[8.0, 6.0]]),
    # Adaptive average: pixel 0 sees cells 0 and 1, pixel 1 cells 1 and 2; times 3 / 2 cells a pixel.
    "area three to two, recipe": ([[4.0, 8.0, 2.0]], "area", (1, 2), False, [[9.0, 7.5]]),
    # Pixel 0 holds cells 0 and 1, pixel 1 cell 2: floor(j * 2 / 3).
    "nearest three to two": ([[4.0, 8.0, 2.0]], "nearest", (1, 2), True, [[12.0, 2.0]]),
    # floor(i * 3 / 2): cells 0 and 1, each times 3 / 2.
    "nearest three to two, recipe": ([[4.0, 8.0, 2.0]], "nearest", (1, 2), False, [[6.0, 12.0]]),
    # Cell centres at -1/6, 1/2 and 7/6 of the two pixels' centres 0 and 1: the middle cell splits evenly.
    "bilinear three to two": ([[4.0, 8.0, 2.0]], "bilinear", (1, 2), True, [[8.0, 6.0]]),
    "everything to one pixel": ([[1.0, 2.0], [3.0, 4.0]], "bilinear", (1, 1), True, [[10.0]]),
    "rows and columns differ": ([[6.0], [0.0]], "nearest", (4, 3), True, [[1.0] * 3] * 2 + [[0.0] * 3] * 2),
}


@pytest.mark.parametrize("name", WORKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", ["likelihood", "bits"])
def test_worked_by_hand(device, impl, name, dtype, unit):
    bits, projection, size, conserve, expected = WORKED[name]
    given = cells(bits, device, dtype) if unit == "likelihood" else table(bits, device, dtype)[0]
    kwargs = {"projection": projection, "conserve": conserve, "impl": impl, "unit": unit}
    assert bitrate_map(given, size, **kwargs).dtype == (dtype if unit == "likelihood" else torch.float32)
    out = bitrate_map(given, size, dtype=dtype, **kwargs)
    assert out.dtype == dtype
    torch.testing.assert_close(out, table(expected, device, dtype), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_channels_add_up(device, impl, dtype):
    """1/2 and 1/8 cost 1 + 3 bits; 1/4 and 1 cost 2."""
    p = torch.tensor([[0.5, 0.25], [0.125, 1.0]], dtype=dtype, device=device).reshape(1, 2, 1, 2)
    out = latent_bits(p, impl=impl)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same_bytes(out.cpu(), torch.tensor([[[4.0, 2.0]]], dtype=out.dtype))


def test_the_recipe_of_the_issue(device, impl):
    """-log2, sum, / s^2, interpolate: as written there, for a stride of 16."""
    p = torch.rand(2, 7, 4, 6, device=device).clamp_min(1e-9)
    bits = -p.log2().sum(dim=1, keepdim=True)
    recipe = torch.nn.functional.interpolate(bits / 16**2, scale_factor=16, mode="bilinear", align_corners=False)
    for conserve in (True, False):
        out = bitrate_map(p, scale_factor=16, conserve=conserve, impl=impl)
        assert out.shape == (2, 1, 64, 96)
        torch.testing.assert_close(out, recipe, rtol=2e-6, atol=1e-6)


def test_gradient_worked_by_hand(device, impl):
    """One cell over four pixels, each a quarter of it: d map / dp = -1 / (4 p ln 2)."""
    p = torch.tensor(0.5, device=device).reshape(1, 1, 1, 1).requires_grad_()
    out = bitrate_map(p, (2, 2), impl=impl)
    (grad,) = torch.autograd.grad(out, p, table([[1.0, 2.0], [3.0, 6.0]], device))
    torch.testing.assert_close(grad.item(), -12 / 4 / (0.5 * math.log(2)))
    (grad,) = torch.autograd.grad(bitrate_map(p, (2, 2), impl=impl).sum(), p, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), p)
    torch.testing.assert_close(second.item(), 1 / (0.25 * math.log(2)))


def test_crop_is_a_window(device, impl):
    p = cells([[0.0, 16.0]], device)
    out = bitrate_map(p, (1, 4), crop=(0, 1, 1, 2), impl=impl)
    torch.testing.assert_close(out, table([[2.0, 6.0]], device))


def test_nested_latents_add_up(device, impl):
    y, z = cells([[4.0, 8.0], [12.0, 16.0]], device), cells([[16.0]], device)
    out = bitrate_map({"keyframe": {"y": y}, "motion": {"z": z}}, (4, 4), projection="nearest", impl=impl)
    top, bottom = [2.0, 2.0, 3.0, 3.0], [4.0, 4.0, 5.0, 5.0]
    torch.testing.assert_close(out, table([top, top, bottom, bottom], device))


def test_lists_give_lists(device, impl):
    frames = [cells([[4.0]], device), {"y": cells([[8.0]], device), "z": cells([[0.0]], device)}]
    maps = bitrate_map(frames, (2, 2), impl=impl)
    assert isinstance(maps, list)
    assert [m.sum().item() for m in maps] == [4.0, 8.0]
    assert [m.sum().item() for m in bitrate_map(tuple(frames[::-1]), (2, 2), impl=impl)] == [8.0, 4.0]
    assert bitrate_map([], (2, 2), impl=impl) == []


def test_scale_factors(device, impl):
    """floor(h * scale) each way; a pair is (vertical, horizontal)."""
    p = torch.rand(1, 2, 5, 7, device=device)
    assert bitrate_map(p, scale_factor=2, impl=impl).shape == (1, 1, 10, 14)
    assert bitrate_map(p, scale_factor=1.5, impl=impl).shape == (1, 1, 7, 10)
    assert bitrate_map(p, scale_factor=(3, 0.5), impl=impl).shape == (1, 1, 15, 3)
    assert_same_bytes(bitrate_map(p, scale_factor=3, impl=impl), bitrate_map(p, (15, 21), impl=impl))


def test_dtype_of_the_map(device, impl):
    single, double = torch.rand(1, 2, 3, 3, device=device), torch.rand(1, 2, 3, 3, device=device, dtype=torch.float64)
    half = single.half().clamp_min(0.01)
    for likelihoods, dtype, expected in (
        (single, None, torch.float32),
        (double, None, torch.float64),
        (half, None, torch.float32),
        ({"y": half, "z": double}, None, torch.float64),
        (single, torch.float64, torch.float64),
        (double, torch.float32, torch.float32),
    ):
        out = bitrate_map(likelihoods, (3, 3), dtype=dtype, impl=impl)
        assert out.dtype == expected
    rounded = bitrate_map(double, (3, 3), dtype=torch.float32, impl="auto")
    assert_same_bytes(rounded, bitrate_map(double, (3, 3)).float())


def test_version_and_names():
    assert bitrate_ext.__version__
    assert {"bitrate_map", "latent_bits", "Projection"} <= set(bitrate_ext.__all__)
    for name in bitrate_ext.__all__:
        assert hasattr(bitrate_ext, name)
