"""Coded bits of video, of users' own models, and of models whose coder cannot be recorded."""

from __future__ import annotations

import threading
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import zoo
from cases import random_field
from coded_models import string_bits
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import BitrateMapper, CodingError
from bitrate_ext.receptive_field.guide import FEATURES, Guide

pytest.importorskip("compressai")
ans = pytest.importorskip("compressai.ans")
codecs = pytest.importorskip("compressai.latent_codecs")
entropy = pytest.importorskip("compressai.entropy_models")
layers = pytest.importorskip("compressai.layers")
base = pytest.importorskip("compressai.models.base")
from coded_clips import CodedClips  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# Video.


@pytest.fixture(scope="module")
def video() -> Any:
    return zoo.video_model()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("way", "edges", "mode"),
    [
        ({}, (53, 53, 29, 29), "constant"),
        ({"padding": "replicate", "padding_side": "end"}, (0, 106, 0, 58), "replicate"),
    ],
)
def test_every_frame_and_branch_of_a_video_adds_up(video: Any, way: dict[str, str], edges: Any, mode: str) -> None:
    frames = [torch.rand(1, 3, 70, 150) for _ in range(3)]
    results = bitrate_ext.coded_video(video, frames, **way)
    padded = [torch.nn.functional.pad(frame, edges, mode=mode) for frame in frames]
    with torch.no_grad():
        strings, _ = video.compress(padded)
    assert [sorted(result.maps) for result in results] == [
        ["keyframe.y", "keyframe.z"],
        *[["motion.y", "motion.z", "residual.y", "residual.z"]] * 2,
    ]
    for result, frame in zip(results, strings, strict=True):
        assert result.ledger is not None
        assert result.ledger.closes.all()
        assert 8 * int(result.ledger.string_bytes) == string_bits(frame)
        branches = frame if isinstance(frame, dict) else {"keyframe": frame}
        for branch, pair in branches.items():
            for latent, one in zip("yz", pair, strict=True):
                assert 8 * int(result.ledger.latents[f"{branch}.{latent}"].string_bytes) == string_bits(one)
        shown = result.map.double().sum() + result.padding_bits
        assert float((shown - result.total_bits).abs()) <= 6e-8 * float(result.total_bits)
        assert result.map.shape == (1, 1, 70, 150)
        assert result.bits == "coded"
    assert any(int(one.escapes) for result in results for one in result.ledger.latents.values())


@pytest.mark.medium
def test_a_batch_of_videos(video: Any) -> None:
    frames = [torch.rand(2, 3, 128, 128) for _ in range(2)]
    both = bitrate_ext.coded_video(video, frames, projection="nearest")
    second = bitrate_ext.coded_video(video, [frame[1:] for frame in frames], projection="nearest")
    for batch, single in zip(both, second, strict=True):
        assert batch.ledger is not None
        assert batch.ledger.closes.tolist() == [True, True]
        torch.testing.assert_close(batch.total_bits[1:], single.total_bits, rtol=0.02, atol=50)


@pytest.mark.medium
def test_videos_under_a_guide(video: Any, rng: Any) -> None:
    """Made of each frame itself, which is told; bits add up."""
    field = random_field(rng, 16, (-16, 32))
    field.guide = Guide.of_arrays(rng.uniform(-0.5, 0.5, FEATURES), rng.uniform(-0.3, 0.3, (16, 16)))
    names = [f"{branch}.{latent}" for branch in ("keyframe", "motion", "residual") for latent in "yz"]
    projection = {**dict.fromkeys(names, "nearest"), "keyframe.y": field, "residual.y": field}
    for result in bitrate_ext.coded_video(video, [torch.rand(1, 3, 70, 150) for _ in range(2)], projection=projection):
        assert any("made of the image itself" in one for one in result.warnings)
        shown = result.map.double().sum() + result.padding_bits
        assert float((shown - result.total_bits).abs()) <= 6e-8 * float(result.total_bits)


def test_frames_that_are_refused(video: Any) -> None:
    frame = torch.rand(1, 3, 64, 64)
    with pytest.raises(TypeError, match=r"frames must be a list of tensors \[N, C, H, W\], at least one, got Tensor"):
        bitrate_ext.coded_video(video, frame)
    with pytest.raises(TypeError, match="at least one, got list"):
        bitrate_ext.coded_video(video, [])
    with pytest.raises(ValueError, match=r"one shape, \[1, 3, 64, 64\] as the first, got \[1, 3, 64, 60\] for frame 1"):
        bitrate_ext.coded_video(video, [frame, frame[..., :60]])
    with pytest.raises(ValueError, match=r"frames\[0\] must have values in \[0, 1\]"):
        bitrate_ext.coded_video(video, [3 * frame])
    for name in ("mbt2018-mean", "elic2022-official"):
        with pytest.raises(TypeError, match="model must be a video model, which takes a list of frames and returns"):
            bitrate_ext.coded_video(zoo.small_model(name), [frame])
    with pytest.raises(ValueError, match=r"'keyframe\.z' is missing, it names 'keyframe\.y'"):
        bitrate_ext.coded_video(video, [frame], projection={"keyframe.y": "area"})


def test_branches_whose_likelihoods_are_equal() -> None:
    """Which entropy model codes a latent is told by what forward() hands on, where values do not tell."""
    model = CodedClips()
    model.residuals.load_state_dict(model.keyframes.state_dict())
    torch.nn.init.zeros_(model.analysis.weight)
    torch.nn.init.zeros_(model.analysis.bias)  # type: ignore[arg-type]
    results = bitrate_ext.coded_video(model, [torch.zeros(1, 3, 64, 64)] * 2)
    assert [list(one.latent_bits) for one in results] == [["keyframe"], ["residual"]]
    assert all(bool(one.ledger.closes) for one in results if one.ledger)


# Models of users' own.


def parameters(channels: int) -> nn.Module:
    return nn.Conv2d(channels, 2 * channels, 1)


class Gain(base.CompressionModel):
    """Gains around a hyperprior, as in variable-rate models that are built on CompressAI's codecs."""

    def __init__(self) -> None:
        super().__init__()
        self.g_a, self.g_s = nn.Conv2d(3, 8, 16, 16), nn.ConvTranspose2d(8, 3, 16, 16)
        self.codec = codecs.GainHyperpriorLatentCodec(
            latent_codec={
                "y": codecs.GaussianConditionalLatentCodec(),
                "hyper": codecs.GainHyperLatentCodec(
                    entropy_bottleneck=entropy.EntropyBottleneck(6),
                    h_a=nn.Conv2d(8, 6, 4, 4),
                    h_s=nn.ConvTranspose2d(6, 16, 4, 4),
                ),
            }
        )

    def gains(self) -> list[Tensor]:
        return [torch.tensor(value) for value in (20.0, 30.0, 1 / 20, 1 / 30)]

    def forward(self, x: Tensor) -> dict[str, Any]:
        return self.codec(self.g_a(x), *self.gains())

    def compress(self, x: Tensor) -> Any:
        return self.codec.compress(self.g_a(x), *self.gains())


def composed(kind: str) -> Any:
    """Small models of CompressAI's latent codecs, stride 16 and, with a hyperprior, 64."""
    if kind == "gain":
        return Gain()
    y: Any = codecs.GaussianConditionalLatentCodec()
    if kind == "bottleneck":
        codec: Any = codecs.EntropyBottleneckLatentCodec(channels=8)
    else:
        if kind == "raster":
            y = codecs.RasterScanLatentCodec(
                gaussian_conditional=entropy.GaussianConditional(None),
                entropy_parameters=nn.Conv2d(32, 16, 1),
                context_prediction=layers.MaskedConv2d(8, 16, 5, padding=2),
            )
        if kind in ("groups", "odd checkerboard"):
            groups = {
                f"y{k}": codecs.GaussianConditionalLatentCodec(entropy_parameters=nn.Conv2d(16 + 6 * k, 2 * size, 1))
                for k, size in enumerate((3, 5))
            }
            if kind == "odd checkerboard":
                groups["y1"] = codecs.CheckerboardLatentCodec(
                    latent_codec={"y": codecs.GaussianConditionalLatentCodec()},
                    entropy_parameters=nn.Conv2d(10 + 22, 10, 1),
                    context_prediction=layers.CheckerboardMaskedConv2d(5, 10, 5, padding=2),
                    anchor_parity="odd",
                )
                # Groups of one string each and of two cannot be mixed.
                groups["y0"] = codecs.CheckerboardLatentCodec(
                    latent_codec={"y": codecs.GaussianConditionalLatentCodec()},
                    entropy_parameters=nn.Conv2d(6 + 16, 6, 1),
                    context_prediction=layers.CheckerboardMaskedConv2d(3, 6, 5, padding=2),
                )
            y = codecs.ChannelGroupsLatentCodec(
                latent_codec=groups, channel_context={"y1": parameters(3)}, groups=[3, 5]
            )
        hyper = codecs.HyperLatentCodec(
            entropy_bottleneck=entropy.EntropyBottleneck(6),
            h_a=nn.Conv2d(8, 6, 4, 4),
            h_s=nn.ConvTranspose2d(6, 16, 4, 4),
        )
        codec = codecs.HyperpriorLatentCodec(latent_codec={"y": y, "hyper": hyper})
    model = base.SimpleVAECompressionModel()
    model.g_a, model.g_s = nn.Conv2d(3, 8, 16, 16), nn.ConvTranspose2d(8, 3, 16, 16)
    model.g_a.register_forward_hook(lambda _, __, y: 20 * y)
    model.latent_codec = codec
    return model


@pytest.mark.parametrize("kind", ["bottleneck", "gaussian", "raster", "groups", "odd checkerboard", "gain"])
def test_compositions_of_latent_codecs(kind: str) -> None:
    model = composed(kind).eval()
    model.update(force=True)
    x = torch.rand(2, 3, 70, 130)
    mapper = BitrateMapper(model, bits="coded", gap=True)
    result = mapper(x)
    assert result.ledger is not None
    assert result.ledger.closes.all()
    with torch.no_grad():
        assert string_bits(model.compress(mapper.adapter.pad(x)[0])["strings"]) == 8 * int(
            result.ledger.string_bytes.sum()
        )
    if kind not in ("raster",):  # there the estimate is of other symbols
        for name, one in result.ledger.latents.items():
            assert one.disagreement is not None
            assert (one.disagreement < 0.25).all(), name


class Sliced(nn.Module):
    """Slices of channels, one entropy model for all and one string of them, as research code often has it."""

    def __init__(self, slices: int = 3, together: bool = True) -> None:
        super().__init__()
        self.slices, self.together = slices, together
        self.g_a = nn.Conv2d(3, 12, 16, 16)
        self.h_a = nn.Conv2d(12, 4, 4, 4)
        self.h_s = nn.ConvTranspose2d(4, 24, 4, 4)
        self.entropy_bottleneck = entropy.EntropyBottleneck(4)
        self.gaussian_conditional = entropy.GaussianConditional(None)

    def update(self) -> None:
        self.entropy_bottleneck.update(force=True)
        self.gaussian_conditional.update_scale_table(base.get_scale_table().tolist(), force=True)

    def parts(self, x: Tensor, z_hat: Tensor) -> Any:
        scales, means = (3 * self.h_s(z_hat)).chunk(2, 1)
        return zip(*(one.chunk(self.slices, 1) for one in (4 * self.g_a(x), scales.abs() + 2, means)), strict=True)

    def forward(self, x: Tensor) -> dict[str, Any]:
        z_hat, z = self.entropy_bottleneck(9 * self.h_a(self.g_a(x)))
        y = [self.gaussian_conditional(one, scale, mean)[1] for one, scale, mean in self.parts(x, z_hat)]
        return {"likelihoods": {"y": torch.cat(y, dim=1), "z": z}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        z = 9 * self.h_a(self.g_a(x))
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        gaussian = self.gaussian_conditional
        if not self.together:
            y = [
                gaussian.compress(one, gaussian.build_indexes(scale), mean) for one, scale, mean in self.parts(x, z_hat)
            ]
            return {"strings": [*y, z_strings]}
        encoder, symbols, indexes = ans.BufferedRansEncoder(), [], []
        for one, scale, mean in self.parts(x, z_hat):
            indexes += gaussian.build_indexes(scales=scale).flatten().tolist()
            symbols += gaussian.quantize(one, "symbols", mean).flatten().tolist()
        tables = (getattr(gaussian, name).tolist() for name in ("quantized_cdf", "cdf_length", "offset"))
        encoder.encode_with_indexes(symbols, indexes, *tables)
        return {"strings": [[encoder.flush()], z_strings]}


@pytest.mark.parametrize("together", [True, False])
def test_one_entropy_model_for_many_slices(together: bool) -> None:
    model: Any = Sliced(together=together).eval()
    model.update()
    mapper = BitrateMapper(model, bits="coded", gap=True)
    result = mapper(torch.rand(1, 3, 128, 64))
    assert result.ledger is not None
    assert result.ledger.closes.all()
    assert int(result.ledger.latents["y"].strings) == (1 if together else 3)
    assert all(float(one.disagreement) < 0.1 for one in result.ledger.latents.values()), result.ledger
    if together:
        with pytest.raises(CodingError, match="one string holds 2 images; code them one at a time; bits='estimated'"):
            mapper(torch.rand(2, 3, 64, 64))


class Mixture(nn.Module):
    """A mixture of Gaussians, as far as CompressAI can code it: one image, some channels all zero."""

    def __init__(self) -> None:
        super().__init__()
        self.g_a = nn.Conv2d(3, 6, 16, 16)
        self.mixture = entropy.GaussianMixtureConditional(K=3)
        self.side = nn.Parameter(torch.randn(3, 18, 1, 1))

    def parts(self, x: Tensor) -> list[Tensor]:
        y = 8 * self.g_a(x)
        y[:, 2] = 0.1  # is not coded at all
        ones = torch.ones(len(x), 18, *y.shape[2:])
        weights = torch.softmax(self.side[2].reshape(3, 6, 1, 1), dim=0).reshape(18, 1, 1)
        return [y, self.side[0].abs() * ones + 1, self.side[1] * ones, weights * ones]

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"likelihoods": {"y": self.mixture(*self.parts(x))[1]}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        (string, _, _), _ = self.mixture.compress(*self.parts(x))
        return {"strings": [[string]]}


@pytest.mark.parametrize("size", [(48, 64), (16, 80)])
def test_a_mixture_of_gaussians(size: tuple[int, int]) -> None:
    result = BitrateMapper(Mixture().eval(), bits="coded", gap=True)(torch.rand(1, 3, *size))
    assert result.ledger is not None
    assert result.ledger.closes.all()
    channels = result.channel_bits["y"][0]
    assert any("model.mixture tells which channels it has coded" in one for one in result.warnings)
    assert channels[2] == 0
    assert (channels[[0, 1, 3, 4, 5]] > 5).all()


# Models whose coder cannot be recorded.


def test_what_has_no_coder_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"bits='coded' needs an nn.Module with a method compress\(\).*got Conv2d; bits="
    ):
        BitrateMapper(nn.Conv2d(3, 3, 1), bits="coded")
    with pytest.raises(ValueError, match="bits must be 'estimated' or 'coded', got 'exact'"):
        BitrateMapper(nn.Conv2d(3, 3, 1), bits="exact")
    with pytest.raises(
        ValueError, match="gap is that of coded bits to the estimate; it needs bits='coded', got 'estim"
    ):
        BitrateMapper(nn.Conv2d(3, 3, 1), gap=True)


@pytest.mark.parametrize("name", ["sfu2023-pcc-rec-pointnet", "sfu2024-pcc-rec-pointnet2-ssg", "hrtzxf2022-pcc-rec"])
@pytest.mark.parametrize("bits", ["estimated", "coded"])
def test_point_clouds_are_refused(name: str, bits: str) -> None:
    architecture = zoo.MODELS[name]
    model = architecture.__new__(architecture)  # its constructor takes seconds, or packages that are not here
    nn.Module.__init__(model)
    with pytest.raises(
        TypeError, match=rf"image model, got {architecture.__name__}: point clouds have no image to map"
    ):
        BitrateMapper(model, bits=bits)


class Changed(Sliced):
    """``Sliced``, with a string, an order or a likelihood that is not as the coder had it."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> dict[str, Any]:
        output = super().forward(x)
        if self.what == "likelihoods":
            output["likelihoods"]["y"] = output["likelihoods"]["y"] ** 2
        return output

    def compress(self, x: Tensor) -> Any:
        if self.what == "grid":
            self.entropy_bottleneck.compress(torch.zeros(1, 4, 3, 3))
            return {"strings": [self.entropy_bottleneck.compress(torch.zeros(1, 4, 3, 3))]}
        if self.what == "indexes":
            encoder = ans.BufferedRansEncoder()
            encoder.encode_with_indexes([1, 2], [0, 0], [[0, 9, 90, 65536]], [4], [0])
            return {"strings": [encoder.flush()]}
        strings = super().compress(x)["strings"]
        if self.what == "packed":
            return {"strings": [[b"zip" + strings[0][0]], strings[1]]}
        if self.what == "half":
            return {"strings": strings[1]}
        if self.what == "none":
            return {"strings": []}
        return x if self.what == "no strings" else {"strings": strings}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("packed", r"returned a string of \d+ bytes that CompressAI's range coder did not write as it is"),
        ("half", r"nothing that compress\(\) returned belongs to latent 'y'"),
        ("none", r"compress\(\) returned no strings"),
        ("no strings", r"compress\(\) returned no strings, but a Tensor without any"),
        (
            "grid",
            r"model.entropy_bottleneck sit cannot be told: it coded a grid \[3, 3\] of a latent of \[1, 1\] cells",
        ),
        ("indexes", r"2 symbols went to the coder, but the model's entropy models have made indexes for 0"),
        (
            "likelihoods",
            r"the likelihoods of latent 'y' are of none of the model's entropy models, 'entropy_bottleneck', ",
        ),
    ],
)
def test_coders_that_cannot_be_recorded(what: str, message: str) -> None:
    model: Any = Changed(what).eval()
    model.update()
    mapper = BitrateMapper(model, bits="coded")
    with pytest.raises(CodingError, match=f"{message}.*; bits='estimated' maps this model without its coder"):
        mapper(torch.rand(1, 3, 64, 64))
    assert BitrateMapper(model)(torch.rand(1, 3, 64, 64)).total_bits > 0


Written = namedtuple("Written", "y_strings z_strings image_size")


@dataclass
class Record:
    strings_of: dict[str, list[bytes]]
    header: str = "v1"


RETURNED: dict[str, Any] = {
    "list": lambda y, z: [y, z, (1, 4, 1, 1)],
    "names": lambda y, z: {"y": y, "z": z[0], "shape": torch.Size([1, 1])},
    "namedtuple": lambda y, z: Written(y, z, (64, 64)),
    "dataclass": lambda y, z: Record({"y": y, "z": z}),
    "twice": lambda y, z: (y, z, {"z again": z}),
}


@pytest.mark.parametrize("shape", RETURNED)
def test_strings_in_any_nest(shape: str) -> None:
    class Returning(Sliced):
        def compress(self, x: Tensor) -> Any:
            return RETURNED[shape](*super().compress(x)["strings"])

    torch.manual_seed(0)
    model: Any = Returning().eval()
    model.update()
    x = torch.rand(1, 3, 64, 64)
    result = BitrateMapper(model, bits="coded")(x)
    assert result.ledger is not None
    assert result.ledger.closes.all()
    model.__class__ = Sliced
    assert torch.equal(result.map, BitrateMapper(model, bits="coded")(x).map)


def test_another_coder_is_refused() -> None:
    model: Any = Sliced().eval()
    model.update()
    model.gaussian_conditional.entropy_coder.name = "rangecoder"
    with pytest.raises(
        CodingError, match=r"model.gaussian_conditional codes with 'rangecoder', whose costs are not known"
    ):
        BitrateMapper(model, bits="coded")(torch.rand(1, 3, 64, 64))


def test_nothing_stays_wrapped() -> None:
    before = {name: getattr(ans.BufferedRansEncoder, name) for name in ("encode_with_indexes", "flush")}
    plain = ans.RansEncoder.encode_with_indexes
    for what in ("", "indexes"):
        model: Any = Changed(what).eval()
        model.update()
        mapper = BitrateMapper(model, bits="coded")
        if what:
            with pytest.raises(CodingError):
                mapper(torch.rand(1, 3, 64, 64))
        else:
            mapper(torch.rand(1, 3, 64, 64))
        assert ans.RansEncoder.encode_with_indexes is plain
        assert all(getattr(ans.BufferedRansEncoder, name) is one for name, one in before.items())
        for module in model.modules():
            assert not {"compress", "build_indexes"} & module.__dict__.keys()


def test_other_threads_are_not_recorded() -> None:
    table = ([1, 0, 1], [0, 0, 0], [[0, 9, 65530, 65536]], [4], [0])
    strings: list[bytes] = []
    model: Any = Sliced().eval()
    model.update()
    quantize = model.gaussian_conditional.quantize

    def slow_quantize(*arguments: Any) -> Tensor:
        """While indexes are made, and the coder has not run, another thread codes."""
        thread = threading.Thread(target=lambda: strings.append(ans.RansEncoder().encode_with_indexes(*table)))
        thread.start()
        thread.join()
        return quantize(*arguments)

    model.gaussian_conditional.quantize = slow_quantize
    result = BitrateMapper(model, bits="coded")(torch.rand(1, 3, 64, 64))
    assert result.ledger is not None
    assert result.ledger.closes.all()
    assert set(strings) == {ans.RansEncoder().encode_with_indexes(*table)}
