"""BitrateMapper: every image model of CompressAI's registry with small random weights, and models of users' own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import SMALL, small_model

import bitrate_ext
from bitrate_ext import BitrateMapper, fuse
from bitrate_ext.mapping.layout import true_values
from bitrate_ext.models import sizes
from bitrate_ext.models.compressai_quirks import apply_workarounds
from bitrate_ext.models.trace import symbol_bits

compressai_models = pytest.importorskip("compressai.models")

HALF_UNIT = 6.0e-8  # of a float32 map: half a unit in the last place, relative to the value


class Toy(nn.Module):
    """Latents ``coarse`` (stride 32) and ``fine.detail`` (stride 8 by 4), differentiable, strict about its sizes."""

    def __init__(self, multiple: tuple[int, int] = (32, 32)) -> None:
        super().__init__()
        self.multiple = multiple
        self.weight = nn.Parameter(torch.tensor([0.3, 0.5, 0.9]))
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, brightness: float = 0.0) -> dict[str, Any]:
        self.calls.append(tuple(x.shape))
        if x.shape[-2] % self.multiple[0] or x.shape[-1] % self.multiple[1]:
            raise RuntimeError(f"sizes must be multiples of {self.multiple}")
        cost = torch.sigmoid(x * self.weight[: x.shape[1], None, None] + brightness)
        coarse, fine = F.avg_pool2d(cost, 32), F.avg_pool2d(cost**2, (8, 4))
        return {"x_hat": x * 2, "likelihoods": {"coarse": coarse, "fine": {"detail": fine}}}


def returning(output: Any) -> Any:
    return lambda x: output(x) if callable(output) else output


def cell_bits(p: Tensor) -> Tensor:
    return -p.double().log2().sum(dim=1, keepdim=True)


def padded(x: Tensor, rows: int, columns: int) -> tuple[Tensor, int, int]:
    below, beside = -x.shape[-2] % rows, -x.shape[-1] % columns
    top, left = below // 2, beside // 2
    return F.pad(x, (left, beside - left, top, below - top)), top, left


def assert_nothing_lost(result: bitrate_ext.BitrateResult) -> None:
    found = result.map.double().sum(dim=(1, 2, 3)) + result.padding_bits
    assert ((found - result.total_bits).abs() <= HALF_UNIT * result.total_bits + 1e-9).all()


@pytest.mark.parametrize("name", SMALL)
def test_every_registered_image_model(name: str) -> None:
    model = small_model(name)
    bitrate_mapper = BitrateMapper(model)
    x = torch.rand(1, 3, 70, 101)
    result = bitrate_mapper(x)

    strides = {"y": (16, 16), "z": (64, 64)} if "factorized" not in name else {"y": (16, 16)}
    assert bitrate_mapper.strides == strides
    image, top, left = padded(x, *(max(strides.values())))
    with torch.no_grad(), apply_workarounds(model):
        output = model(image)
        with fuse(model):
            sources = true_values(model(image)["likelihoods"])[1]
    assert result.sources == tuple(sources)
    assert set(sources) == set(strides)
    total = torch.zeros(1, dtype=torch.float64)
    whole = torch.zeros(1, 1, 70, 101, dtype=torch.float64)
    for latent, (stride, _) in strides.items():
        p = output["likelihoods"][latent]
        bits = cell_bits(p)
        if latent in sources:
            true, theirs = symbol_bits(sources[latent]), -p.double().log2()
            torch.testing.assert_close(true[p > 1e-8], theirs[p > 1e-8], rtol=1e-4, atol=3e-7)  # theirs is float32
            assert (true[p <= 1e-8] > 26.5).all()
            bits = true.sum(dim=1, keepdim=True)
        density = F.interpolate(bits / stride**2, scale_factor=stride, mode="bilinear", align_corners=False)
        expected = density[..., top : top + 70, left : left + 101]
        torch.testing.assert_close(result.maps[latent].double(), expected, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(result.latent_bits[latent].double(), bits[:, 0], rtol=1e-6, atol=1e-9)
        whole += expected
        total += bits.sum()
    torch.testing.assert_close(result.map.double(), whole, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(result.total_bits, total, rtol=1e-6, atol=0)
    torch.testing.assert_close(result.bpp, result.total_bits / (70 * 101), rtol=1e-12, atol=0)
    assert total > 100
    assert result.map.dtype == torch.float32
    assert result.padding_bits > 0
    assert_nothing_lost(result)
    assert result.x_hat is not None
    assert torch.equal(result.x_hat, output["x_hat"][..., top : top + 70, left : left + 101])
    assert not result.map.requires_grad


def test_every_registered_image_model_is_in_the_list() -> None:
    from compressai.registry import MODELS
    from compressai.zoo import pointcloud_models, video_models

    assert set(SMALL) == MODELS.keys() - pointcloud_models.keys() - video_models.keys()


@pytest.mark.parametrize("projection", ["nearest", "bilinear", "area"])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (64, 96), (65, 97), (33, 31)])
def test_a_model_of_ones_own(size: tuple[int, int], projection: str) -> None:
    bitrate_mapper = BitrateMapper(Toy().eval(), projection=projection)
    result = bitrate_mapper(torch.rand(2, 3, *size))
    assert bitrate_mapper.strides == {"coarse": (32, 32), "fine.detail": (8, 4)}
    assert list(result.maps) == list(result.latent_bits) == ["coarse", "fine.detail"]
    assert result.map.shape == (2, 1, *size)
    assert result.latent_bits["fine.detail"].shape == (2, -(-size[0] // 32) * 4, -(-size[1] // 32) * 8)
    torch.testing.assert_close(result.map, sum(result.maps.values()), rtol=1e-6, atol=0)
    assert_nothing_lost(result)
    if size == (64, 96):
        assert (result.padding_bits == 0).all()


def test_the_size_is_the_least_common_multiple_of_each_axis() -> None:
    def model(x: Tensor) -> dict[str, Any]:
        return {"likelihoods": {"a": F.avg_pool2d(x, (16, 24)) / 2 + 0.1, "b": F.avg_pool2d(x, (20, 8)) / 2 + 0.1}}

    bitrate_mapper = BitrateMapper(model)
    result = bitrate_mapper(torch.rand(1, 3, 81, 25))
    assert bitrate_mapper.strides == {"a": (16, 24), "b": (20, 8)}
    assert result.latent_bits["a"].shape == (1, 10, 2)
    assert result.x_hat is None
    assert_nothing_lost(result)


def test_the_larger_half_of_the_padding_is_right_and_below() -> None:
    seen = []

    def model(x: Tensor) -> dict[str, Any]:
        seen.append(x)
        return {"likelihoods": F.avg_pool2d(x, 8) / 2 + 0.1}

    result = BitrateMapper(model)(torch.ones(1, 1, 5, 3))
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., 1:6, 2:5] = 1
    assert torch.equal(seen[-1], expected)
    assert list(result.maps) == ["y"]
    assert result.maps["y"] is result.map


def test_infinite_bits_inside_the_image_are_no_padding() -> None:
    def model(x: Tensor) -> dict[str, Any]:
        p = torch.full((1, 1, x.shape[-2] // 8, x.shape[-1] // 8), 0.5)
        p[..., 1, 1] = 0
        return {"likelihoods": p}

    result = BitrateMapper(model, projection="nearest")(torch.rand(1, 3, 20, 24))
    assert result.total_bits.isinf().all()
    assert result.padding_bits.item() == pytest.approx(1.5)  # 4 of 8 rows in two rows of three cells, 1 bit each


def test_the_model_is_probed_once() -> None:
    model = Toy().eval()
    bitrate_mapper = BitrateMapper(model)
    bitrate_mapper(torch.rand(2, 3, 40, 70))
    bitrate_mapper(torch.rand(1, 3, 10, 10))
    assert model.calls == [(1, 3, 128, 128), (2, 3, 64, 96), (1, 3, 32, 32)]


def test_probing_records_no_graph() -> None:
    recorded = []

    def model(x: Tensor) -> dict[str, Any]:
        recorded.append(torch.is_grad_enabled())
        return {"likelihoods": F.avg_pool2d(x, 8) / 2 + 0.1}

    BitrateMapper(model)(torch.rand(1, 3, 20, 20), gradients=True)
    assert recorded == [False, True]


def test_probing_goes_on_to_larger_images() -> None:
    model = Toy(multiple=(256, 512)).eval()
    bitrate_mapper = BitrateMapper(model)
    x = torch.rand(1, 3, 40, 70)
    result = bitrate_mapper(x)  # strides of 32 do not tell what it takes
    tried = [(call[-2], call[-1]) for call in model.calls]
    assert tried[:4] == [(128, 128), (256, 256), (512, 512), (64, 96)]
    assert tried[-1] == (512, 512)
    assert bitrate_mapper.adapter.multiple == (512, 512)
    assert result.total_bits == BitrateMapper(model, multiple=512)(x).total_bits
    del model.calls[:]
    bitrate_mapper(torch.rand(1, 3, 256, 600))
    assert [(call[-2], call[-1]) for call in model.calls] == [(512, 1024)]  # remembered


def test_forward_arguments_reach_the_model() -> None:
    bitrate_mapper = BitrateMapper(Toy().eval())
    x = torch.rand(1, 3, 40, 70)
    assert bitrate_mapper(x, brightness=3.0).total_bits < bitrate_mapper(x).total_bits
    sizes: list[int] = []  # of the probe, too, to which two cells each way are enough

    def needing(x: Tensor, *, level: float) -> dict[str, Any]:
        sizes.append(x.shape[2])
        return {"likelihoods": F.avg_pool2d(x, 64) / 2 + level}

    BitrateMapper(needing)(x, level=0.25)
    assert sizes == [128, 64]
    with pytest.raises(TypeError, match=r"Toy wants other .* and level \(got an unexpected keyword argument 'level'"):
        BitrateMapper(Toy().eval())(x, level=3)
    with pytest.raises(
        TypeError, match=r"and no others \(missing a required .*'level'\); give them with the call, mapper"
    ):
        BitrateMapper(needing)(x)
    variable = BitrateMapper(small_model("mbt2018-mean-vbr"))
    with torch.no_grad():
        variable.model.Gain.copy_(torch.arange(1, 9) / 4)
    assert variable(x, s=7).maps["y"].sum() > variable(x, s=1).maps["y"].sum()


def test_a_batch_is_its_images_one_by_one() -> None:
    bitrate_mapper = BitrateMapper(small_model("mbt2018-mean"))
    x = torch.rand(3, 3, 30, 70)
    whole = bitrate_mapper(x)
    for i in range(3):
        alone = bitrate_mapper(x[i : i + 1])
        torch.testing.assert_close(alone.map[0], whole.map[i], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(alone.total_bits[0], whole.total_bits[i], rtol=1e-4, atol=0)


def test_an_empty_batch_gives_empty_results() -> None:
    result = BitrateMapper(small_model("mbt2018-mean"))(torch.rand(0, 3, 30, 70))
    assert result.map.shape == (0, 1, 30, 70)
    assert result.latent_bits["z"].shape == (0, 1, 2)
    assert result.total_bits.shape == result.padding_bits.shape == result.bpp.shape == (0,)
    assert result.x_hat is not None
    assert result.x_hat.shape == (0, 3, 30, 70)


def test_a_float64_model_gives_float64_maps() -> None:
    result = BitrateMapper(small_model("mbt2018-mean").double())(torch.rand(1, 3, 30, 70, dtype=torch.float64))
    assert {t.dtype for t in (result.map, *result.maps.values(), *result.latent_bits.values())} == {torch.float64}
    torch.testing.assert_close(result.map.sum((1, 2, 3)) + result.padding_bits, result.total_bits, rtol=1e-12, atol=0)


def test_a_float32_model_gives_float32_maps_and_float64_totals() -> None:
    result = BitrateMapper(Toy().eval())(torch.rand(1, 3, 30, 70))
    assert {t.dtype for t in (result.map, *result.maps.values(), *result.latent_bits.values())} == {torch.float32}
    assert {t.dtype for t in (result.total_bits, result.padding_bits, result.bpp)} == {torch.float64}


def test_an_image_of_another_size_is_no_reconstruction() -> None:
    def model(x: Tensor) -> dict[str, Any]:
        return {"likelihoods": F.avg_pool2d(x, 8) / 2 + 0.1, "x_hat": F.avg_pool2d(x, 2)}

    assert BitrateMapper(model)(torch.rand(1, 3, 64, 64)).x_hat is None


def test_a_model_of_buffers_alone_has_a_device() -> None:
    model = nn.Module()
    model.register_buffer("table", torch.zeros(3, device="meta"))
    with pytest.raises(ValueError, match=r"x must be on the model's device meta, got cpu"):
        BitrateMapper(model.eval())(torch.rand(1, 3, 8, 8))


def test_a_spatial_loss_reaches_the_image_and_the_parameters() -> None:
    model = Toy().eval()
    x = torch.rand(1, 3, 40, 70, requires_grad=True)
    result = BitrateMapper(model)(x)
    (result.map * torch.linspace(0, 1, 70)).sum().backward(retain_graph=True)
    assert x.grad is not None
    assert x.grad.abs().min() > 0
    assert model.weight.grad is not None
    x.grad = None
    result.total_bits.sum().backward(retain_graph=True)
    by_total, x.grad = x.grad, None
    (result.map.double().sum() + result.padding_bits.sum()).backward()
    torch.testing.assert_close(x.grad, by_total, rtol=1e-4, atol=1e-6)


def test_gradients_of_compressai_models() -> None:
    """Straight-through models pass gradients to the image; plain rounding only to parameters after it."""
    x = torch.rand(1, 3, 30, 70, requires_grad=True)
    BitrateMapper(small_model("elic2022-official"))(x).map.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    model = small_model("mbt2018-mean")
    BitrateMapper(model)(x.detach(), gradients=True).map.sum().backward()
    assert model.h_s[-1].bias.grad.abs().sum() > 0


def test_gradients_are_recorded_when_asked_for_and_only_then() -> None:
    bitrate_mapper = BitrateMapper(Toy().eval())
    x = torch.rand(1, 3, 40, 70, requires_grad=True)
    assert bitrate_mapper(x).map.requires_grad
    assert bitrate_mapper(x.detach(), gradients=True).total_bits.requires_grad
    with torch.no_grad():
        assert not bitrate_mapper(x).map.requires_grad
        assert bitrate_mapper(x, gradients=True).map.requires_grad
    assert not bitrate_mapper(x, gradients=False).map.requires_grad
    assert not bitrate_mapper(x.detach()).map.requires_grad


@pytest.mark.parametrize("part", ["", "g_s.1"])
def test_train_mode_is_refused(part: str) -> None:
    model = small_model("mbt2018-mean")
    (model.get_submodule(part) if part else model).train()
    with pytest.raises(
        ValueError, match=rf"model{'.' if part else ''}{part} \(\w+\) is in train mode.*model\.eval\(\)"
    ):
        BitrateMapper(model)(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("picture.png", TypeError, r"x must be a floating-point tensor.*got str"),
        (
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            TypeError,
            r"got torch.uint8 .*; give x\.float\(\)\.div\(255\)$",
        ),
        (
            torch.zeros(1, 3, 8, 8, dtype=torch.int64),
            TypeError,
            r"got torch.int64 .*; give x\.float\(\)\.div\(255\)$",
        ),
        (torch.zeros(3, 8, 8), ValueError, r"of shape \[3, 8, 8\]; give x\[None\]$"),
        (torch.zeros(8, 8), ValueError, r"of shape \[8, 8\]; give x\[None, None\]$"),
        (
            torch.zeros(1, 3, 0, 8),
            ValueError,
            r"at least one channel and pixel, got .* of shape \[1, 3, 0, 8\]$",
        ),
        (
            torch.zeros(1, 3, 8, 0),
            ValueError,
            r"at least one channel and pixel, got .* of shape \[1, 3, 8, 0\]$",
        ),
        (
            torch.zeros(1, 0, 8, 8),
            ValueError,
            r"at least one channel and pixel, got .* of shape \[1, 0, 8, 8\]$",
        ),
        (torch.full((1, 3, 8, 8), 200.0), ValueError, r"in \[0, 1\], got values from 200 to 200"),
        (torch.full((1, 3, 8, 8), -1e-5), ValueError, r"got values from -1e-05 to -1e-05"),
        (torch.full((1, 3, 8, 8), 1.00001), ValueError, r"got values from 1\.00001 to 1\.00001"),
        (torch.full((1, 3, 8, 8), torch.nan), ValueError, r"got values from nan to nan"),
        (torch.zeros(1, 3, 8, 8, device="meta"), ValueError, r"x must be on the model's device cpu, got meta"),
    ],
)
def test_images_that_are_refused(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BitrateMapper(Toy().eval())(x)


def test_images_may_leave_the_range_by_rounding() -> None:
    BitrateMapper(Toy().eval())(torch.tensor([-5e-7, 1 + 5e-7, 0.5, 0.5]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2))


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (torch.zeros(1), TypeError, r"model must return a mapping with the key 'likelihoods', got Tensor"),
        ({"x_hat": 0, "loss": 1}, ValueError, r"got the keys 'x_hat', 'loss'"),
        ({}, ValueError, r"got the keys none"),
        ({"likelihoods": {}}, ValueError, r"mapping under 'likelihoods' is empty"),
        ({"likelihoods": [{}, {}]}, TypeError, r"got a list with dicts.*video models.*bitrate_map takes such lists"),
        (
            {"likelihoods": {"y": torch.zeros(1, 8, 1)}},
            ValueError,
            r"'y' must be \[N, C, h, w\], got shape \[1, 8, 1\]",
        ),
        ({"likelihoods": {"y": 3}}, TypeError, r"likelihoods\['y'\] must be a tensor or a dict of tensors"),
    ],
)
def test_outputs_that_are_refused(output: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BitrateMapper(returning(output))(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(("model", "found"), [(None, "NoneType"), ("mbt2018-mean", "str"), (Toy, "the class Toy")])
def test_models_that_are_refused(model: Any, found: str) -> None:
    with pytest.raises(TypeError, match=rf"model must be an nn\.Module or another callable object, got {found}"):
        BitrateMapper(model)


def test_projections_that_are_refused() -> None:
    with pytest.raises(ValueError, match="projection must be one of"):
        BitrateMapper(Toy(), projection="cubic")


def test_a_model_that_suits_no_size_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "PROBE_SIDES", (128, 256))
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"no image of 3 channels: tried 128 x 128, 256 x 256 pixels.*RuntimeError: sizes must be mult"
    ):
        BitrateMapper(Toy(multiple=(1000, 1)).eval())(x)
    with pytest.raises(ValueError, match=r"256 x 256 pixels.* ValueError: latent grids y 1 x 1; whole strides"):
        BitrateMapper(lambda x: {"likelihoods": x.mean((2, 3), keepdim=True)})(x)
    with pytest.raises(ValueError, match=r"256 x 256 pixels.* latent grids y 18 x 18;"):
        BitrateMapper(lambda x: {"likelihoods": F.avg_pool2d(x, 14)})(x)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_ends_probing(error: Exception) -> None:
    """On the CPU, too, where PyTorch has no type of its own for it; larger images would not help."""
    calls = []

    def model(x: Tensor) -> dict[str, Any]:
        calls.append(x.shape)
        if len(calls) == after:
            raise error
        return {"likelihoods": F.avg_pool2d(x, 8)}

    for after in (1, 2):  # while strides are looked for; while the image is mapped
        del calls[:]
        with pytest.raises(type(error)):
            BitrateMapper(model)(torch.rand(1, 3, 8, 8))
        assert len(calls) == after


def test_a_model_that_breaks_the_promise_of_its_probe_is_refused() -> None:
    def resizing(x: Tensor) -> dict[str, Any]:
        return {"likelihoods": F.adaptive_avg_pool2d(x, 8)}

    with pytest.raises(
        ValueError, match=r"grid of \[8, 8\] cells for latent 'y' .* \[32, 32\] pixels.* promised \[2, 2\]"
    ):
        BitrateMapper(resizing, multiple=32)(torch.rand(1, 3, 20, 20))
    with pytest.raises(ValueError, match=r"takes no image of this size.* tried 208 x 208, .* promised \["):
        BitrateMapper(resizing)(torch.rand(1, 3, 200, 200))

    def merging(x: Tensor) -> dict[str, Any]:
        return {"likelihoods": F.avg_pool2d(x, 8)[:1]}

    with pytest.raises(ValueError, match="1 images' likelihoods for latent 'y', x has 2"):
        BitrateMapper(merging)(torch.rand(2, 3, 20, 20))

    def growing(x: Tensor, more: bool = False) -> dict[str, Any]:
        y = F.avg_pool2d(x, 8)
        return {"likelihoods": {"y": y, "z": y} if more else {"y": y}}

    bitrate_mapper = BitrateMapper(growing)
    bitrate_mapper(torch.rand(1, 3, 20, 20))
    with pytest.raises(ValueError, match=r"the latents \['y', 'z'\], but \['y'\] when it was probed"):
        bitrate_mapper(torch.rand(1, 3, 20, 20), more=True)


def test_importing_the_package_does_not_import_compressai() -> None:
    code = (
        "import sys, bitrate_ext; sys.exit(any(m in sys.modules for m in ('compressai', 'safetensors', 'torchvision')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
