"""Maps of many frames: the same as frame by frame, with the state of a decoder, in the same buffers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import BitrateMapper, FrameMapper, bitrate_map
from bitrate_ext.mapping.layout import true_values
from bitrate_ext.models.accelerate import accelerate, skip_synthesis
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.threads import Stopwatch

pytest.importorskip("compressai")
from zoo import SMALL, small_model

ROWS, COLUMNS = 70, 100


@pytest.fixture
def clip(rng: np.random.Generator) -> list[np.ndarray]:
    """Seven frames of moving waves, uint8 [H, W, 3]."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return [
        np.stack([127 + 100 * np.sin((x + c * y + 5 * k) / 9) for c in (1, 2, 3)], axis=-1).astype(np.uint8)
        for k in range(7)
    ]


def as_image(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255


class SmallVideo(nn.Module):
    """A video codec as ``ScaleSpaceFlow`` is one: it does not cut its reconstruction to [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.references: list[Tensor] = []

    def _coded(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": F.avg_pool2d(x, 16).sigmoid(), "z": F.avg_pool2d(x, 64).sigmoid()}

    def forward_keyframe(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return self.gain * x, {"keyframe": self._coded(x)}

    def forward_inter(self, x: Tensor, reference: Tensor) -> tuple[Tensor, dict[str, Any]]:
        self.references.append(reference)
        return self.gain * x, {"motion": self._coded(x + reference), "residual": self._coded(x - reference)}


# Image codecs.


@pytest.mark.parametrize(
    ("name", "prefetch"),
    [("bmshj2018-factorized", 0), ("mbt2018-mean", 2), ("cheng2020-anchor-checkerboard", 2), ("mbt2018", 1)],
)
def test_each_frame_is_mapped_as_by_itself(name: str, prefetch: int, clip: list[np.ndarray]) -> None:
    model, clip = small_model(name), clip[:3]
    frames = FrameMapper(model, channels_last=False, reconstruction=True, each_latent=True, prefetch=prefetch)
    single = BitrateMapper(model)
    count = 0
    for index, (result, frame) in enumerate(zip(frames(clip), clip, strict=True)):
        expected = single(as_image(frame))
        assert (result.index, result.kind) == (index, "image")
        assert np.array_equal(result.frame.numpy(), frame)
        assert torch.equal(result.map, expected.map)
        assert torch.equal(result.total_bits, expected.total_bits)
        assert torch.equal(result.padding_bits, expected.padding_bits)
        assert torch.equal(result.bpp, expected.bpp)
        assert torch.equal(result.x_hat, expected.x_hat)
        for mine, theirs in ((result.maps, expected.maps), (result.latent_bits, expected.latent_bits)):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[latent], theirs[latent]) for latent in theirs)
        count += 1
    assert count == len(clip)


def test_frames_add_up_to_the_model_s_own_total(clip: list[np.ndarray]) -> None:
    model = small_model("mbt2018-mean")
    found = sum(result.total_bits.item() for result in FrameMapper(model, channels_last=False)(clip))
    mapper = BitrateMapper(model)
    mapper(as_image(clip[0]))
    with torch.no_grad(), bitrate_ext.fuse(model):
        outputs = [model(mapper.adapter.pad(as_image(frame))[0])["likelihoods"] for frame in clip]
    own = sum(float(bitrate_ext.rate(true_values(likelihoods)[0]).sum()) for likelihoods in outputs)
    assert found == pytest.approx(own, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
def test_batches_change_nothing_but_rounding(batch: int, clip: list[np.ndarray]) -> None:
    model = small_model("bmshj2018-factorized")
    one = [(r.index, r.map.clone(), r.total_bits) for r in FrameMapper(model)(clip)]
    some = [(r.index, r.map.clone(), r.total_bits) for r in FrameMapper(model, batch=batch)(iter(clip))]
    assert len(some) == len(one)
    for (i, first, bits), (k, second, other) in zip(one, some, strict=True):
        assert i == k
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(bits, other, rtol=1e-3, atol=0)


def test_floating_frames_and_tensors(clip: list[np.ndarray]) -> None:
    model = small_model("bmshj2018-factorized")
    mapper = FrameMapper(model)
    expected = [r.map.clone() for r in mapper(clip)]
    for given in ([as_image(f)[0] for f in clip], [torch.from_numpy(f) for f in clip]):
        found = [r.map.clone() for r in mapper(given)]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    read_only = [f.copy() for f in clip]
    for f in read_only:
        f.flags.writeable = False
    assert torch.equal(next(iter(mapper(read_only))).map, expected[0])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_decoder_is_left_out_where_bits_do_not_depend_on_it(name: str) -> None:
    model, x = small_model(name), torch.rand(1, 3, 64, 64)
    shorn = skip_synthesis(ModelAdapter(model), x, {}).module
    assert shorn is not model
    calls: list[int] = []
    handle = model.g_s.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        # A size of its own, so that what the probe saw does not serve.
        x = torch.rand(1, 3, 128, 64)
        mine, theirs = shorn(x), model(x)
    handle.remove()
    assert calls == [1]  # the model's own call alone
    assert mine["x_hat"].shape == theirs["x_hat"].shape
    assert not mine["x_hat"].any()
    assert all(torch.equal(mine["likelihoods"][latent], p) for latent, p in theirs["likelihoods"].items())


def test_a_decoder_that_bits_depend_on_stays() -> None:
    class TwoStage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = small_model("bmshj2018-factorized")
            self.second = small_model("bmshj2018-factorized")

        def forward(self, x: Tensor) -> dict[str, Any]:
            base = self.first(x)
            rest = self.second((x - base["x_hat"]).clamp(0, 1))
            likelihoods = {"base": base["likelihoods"]["y"], "rest": rest["likelihoods"]["y"]}
            return {"likelihoods": likelihoods, "x_hat": base["x_hat"] + rest["x_hat"]}

    model, x = TwoStage().eval(), torch.rand(1, 3, 64, 64)
    adapter = ModelAdapter(model)
    assert skip_synthesis(adapter, x, {}) is adapter
    frame = (255 * x[0].permute(1, 2, 0)).byte().numpy()
    (result,) = FrameMapper(model, channels_last=False)([frame])
    assert torch.equal(result.total_bits, BitrateMapper(model)(as_image(frame)).total_bits)
    assert result.x_hat is None


def test_the_model_is_left_as_it_is(clip: list[np.ndarray]) -> None:
    model = small_model("mbt2018-mean")
    before = {name: (t.clone(), t.stride()) for name, t in model.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    list(FrameMapper(model, dtype=torch.bfloat16)(clip[:1]))
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name][0])
        assert t.stride() == before[name][1]
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert type(model.g_s).__name__ == "Sequential"


def test_rates_of_a_variable_rate_model(clip: list[np.ndarray]) -> None:
    model = small_model("mbt2018-mean-vbr")
    totals = []
    for s in (0, 4):
        (result,) = FrameMapper(model, channels_last=False, forward_kwargs={"s": s})(clip[:1])
        assert torch.equal(result.total_bits, BitrateMapper(model)(as_image(clip[0]), s=s).total_bits)
        totals.append(result.total_bits.item())
    assert totals[0] != totals[1]
    with pytest.raises(ValueError, match="forward_kwargs are for image models"):
        FrameMapper(SmallVideo().eval(), forward_kwargs={"s": 1})


# Precision, compilation.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mbt2018-mean", "elic2022-official", "bmshj2018-hyperprior-vbr"])
def test_a_coarser_network_leaves_likelihoods_in_float32(name: str, dtype: torch.dtype) -> None:
    model = accelerate(small_model(name), dtype=dtype)
    seen: dict[str, list[torch.dtype]] = {"entropy": [], "network": []}
    for module in model.modules():
        kind = "entropy" if type(module).__name__ in ("EntropyBottleneck", "GaussianConditional") else "network"
        if kind == "entropy" or isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _m, _a, out, k=kind: seen[k].append((out[0] if isinstance(out, tuple) else out).dtype)
            )
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        output = model(torch.rand(1, 3, 64, 64))
    assert set(seen["network"]) == {dtype}
    assert all(p.dtype == torch.float32 for p in output["likelihoods"].values())
    smallest = min(p.min().item() for p in output["likelihoods"].values())
    assert smallest > 0  # the floor of 1e-9 would be 0 in float16


def test_likelihoods_are_those_of_float32_entropy_models(clip: list[np.ndarray]) -> None:
    """What the entropy model makes of the coarser network's latents, computed by the untouched entropy model."""
    model = small_model("bmshj2018-factorized")
    (result,) = FrameMapper(model, dtype=torch.bfloat16)([clip[0]])
    mapper = BitrateMapper(model)
    mapper(as_image(clip[0]))
    coarse = accelerate(model, dtype=torch.bfloat16)
    with torch.no_grad():
        padded = mapper.adapter.pad(as_image(clip[0]))[0].to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = coarse.g_a(padded)
        assert y.dtype == torch.bfloat16
        likelihoods = model.entropy_bottleneck(y.float())[1]
    assert float(-likelihoods.double().log2().sum()) == pytest.approx(result.total_bits.item(), rel=1e-12)


@pytest.mark.medium
def test_compiled_networks_give_the_same_bits(clip: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    original = nn.Module.compile  # tracing alone: code for the machine takes half a minute to make
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: original(self, backend="eager", **options))
    model = small_model("bmshj2018-factorized")
    plain = [r.total_bits.item() for r in FrameMapper(model)(clip[:2])]
    torch._dynamo.reset()
    mapper = FrameMapper(model, compile=True)
    compiled = [r.total_bits.item() for r in mapper(clip[:2])]
    assert compiled == pytest.approx(plain, rel=1e-3)
    network = mapper._adapters["image"].module
    assert network.g_a._compiled_call_impl is not None
    assert network.entropy_bottleneck._compiled_call_impl is None
    assert model.g_a._compiled_call_impl is None


# Buffers and threads.


def test_buffers_take_turns(clip: list[np.ndarray]) -> None:
    frames = FrameMapper(small_model("bmshj2018-factorized"), buffers=3)
    kept, copies, places = [], [], []
    for result in frames(clip):
        kept.append(result.map)
        copies.append(result.map.clone())
        places.append(result.map.data_ptr())
        for held, copy in list(zip(kept, copies, strict=True))[-3:]:
            assert torch.equal(held, copy)
    assert len(set(places)) == 3
    assert places[3:] == places[:-3]


def test_a_reconstruction_that_is_the_padded_image_is_kept(clip: list[np.ndarray]) -> None:
    class Lossless(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"likelihoods": F.avg_pool2d(x, 16).sigmoid(), "x_hat": x}

    results = list(FrameMapper(Lossless().eval(), reconstruction=True)(clip[:2]))
    assert all(torch.equal(one.x_hat, as_image(frame)) for one, frame in zip(results, clip, strict=False))


def test_a_float64_model_gives_float64_maps(clip: list[np.ndarray]) -> None:
    for result in FrameMapper(SmallVideo().double().eval(), buffers=1)(clip[:2]):
        assert result.map.dtype == torch.float64
        assert float(result.map.sum() + result.padding_bits) == pytest.approx(float(result.total_bits), rel=1e-12)


def test_frames_are_read_ahead_and_no_further(clip: list[np.ndarray]) -> None:
    given, threads = [], set()

    def source() -> Iterator[np.ndarray]:
        for frame in clip:
            given.append(1)
            threads.add(threading.current_thread())
            yield frame

    results = FrameMapper(small_model("bmshj2018-factorized"), prefetch=2)(source())
    next(results)
    assert len(given) <= 4  # one taken, two waiting, one in the thread's hand
    results.close()
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_what_the_source_raises_comes_after_the_frames_before_it(clip: list[np.ndarray]) -> None:
    def source() -> Iterator[np.ndarray]:
        yield from clip[:3]
        raise OSError("the disk has gone")

    seen = []
    with pytest.raises(OSError, match="the disk has gone"):
        seen.extend(result.index for result in FrameMapper(small_model("bmshj2018-factorized"))(source()))
    assert seen == [0, 1, 2]


def test_time_is_told_by_stage(clip: list[np.ndarray]) -> None:
    watch = Stopwatch()
    list(FrameMapper(small_model("bmshj2018-factorized"), watch=watch)(clip))
    assert set(watch.seconds) == {"source", "network", "map"}
    assert all(seconds > 0 for seconds in watch.seconds.values())


# Video codecs.


def test_video_is_coded_in_a_closed_loop(clip: list[np.ndarray]) -> None:
    model = SmallVideo().eval()
    frames = FrameMapper(model, group=3, reconstruction=True, channels_last=False)
    results = list(frames(clip))
    kinds = ["keyframe" if k % 3 == 0 else "inter" for k in range(7)]
    assert [r.kind for r in results] == kinds
    pad = BitrateMapper(lambda x: {"likelihoods": model._coded(x)})
    pad(as_image(clip[0]))
    reference = None
    with torch.no_grad():
        for frame, result, kind in zip(clip, results, kinds, strict=True):
            x, (top, left, *_), _ = pad.adapter.pad(as_image(frame))
            x_hat, likelihoods = model.forward_keyframe(x) if kind == "keyframe" else model.forward_inter(x, reference)
            named = {f"{b}.{n}": p for b, inner in likelihoods.items() for n, p in inner.items()}
            assert result.latent_bits.keys() == named.keys()
            crop = (top, left, ROWS, COLUMNS)
            expected = bitrate_map(likelihoods, x.shape[-2:], crop=crop)
            assert torch.equal(result.map, expected) or result.index <= 2  # the ring has four buffers
            own = sum(float(-p.double().log2().sum()) for p in named.values())
            assert result.total_bits.item() == pytest.approx(own, rel=1e-12)
            reference = x_hat.clamp(0, 1)
    assert max(r.max().item() for r in frames._network.references) <= 1
    assert results[0].x_hat.max() > 1  # the reconstruction is given as it is


def test_without_groups_only_the_first_frame_is_a_keyframe(clip: list[np.ndarray]) -> None:
    mapper = FrameMapper(SmallVideo().eval())
    clip = [np.tile(frame, (1, 2, 1)) for frame in clip]  # wider than what the model is probed with
    for _ in range(2):  # again from the start, with nothing left of the first time
        totals = [(r.kind, r.total_bits.item()) for r in mapper(clip)]
        assert [kind for kind, _ in totals] == ["keyframe", *["inter"] * 6]
    assert totals == [(r.kind, r.total_bits.item()) for r in FrameMapper(SmallVideo().eval())(clip)]


@pytest.mark.medium
def test_scale_space_flow_adds_up_to_its_own_bits() -> None:
    video = pytest.importorskip("compressai.models.video")
    torch.manual_seed(0)
    model = video.ScaleSpaceFlow().eval()
    rng = np.random.default_rng(0)
    clip = [rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(3)]
    results = list(FrameMapper(model, channels_last=False, each_latent=True)(clip))
    assert list(results[0].maps) == ["keyframe.y", "keyframe.z"]
    assert list(results[1].maps) == ["motion.y", "motion.z", "residual.y", "residual.z"]
    with torch.no_grad():
        x_hat, likelihoods = model.forward_keyframe(as_image(clip[0]))
        outputs = [likelihoods]
        for frame in clip[1:]:
            x_hat, likelihoods = model.forward_inter(as_image(frame), x_hat.clamp(0, 1))
            outputs.append(likelihoods)
    for result, output in zip(results, outputs, strict=True):
        own = sum(float(-p.double().log2().sum()) for branch in output.values() for p in branch.values())
        assert result.sources == tuple(result.maps)
        assert result.total_bits.item() == pytest.approx(own, rel=1e-6)  # theirs is computed in float32
        inside = sum(m.double().sum() for m in result.maps.values()).item()
        assert inside + result.padding_bits.item() == pytest.approx(own, rel=1e-6)


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": 0}, ValueError, "batch must be a whole number of at least 1, got 0"),
        ({"batch": 1.5}, TypeError, "batch must be a whole number of at least 1, got 1.5"),
        ({"buffers": 0}, ValueError, "buffers must be a whole number of at least 1, got 0"),
        ({"prefetch": -1}, ValueError, "prefetch must be a whole number of at least 0, got -1"),
        ({"group": 3}, ValueError, "group is for video models, and FactorizedPrior codes each frame by itself"),
        ({"dtype": torch.int8}, TypeError, "dtype must be None, torch.bfloat16 or torch.float16, got torch.int8"),
        ({"projection": "cubic"}, ValueError, "projection must be one of"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        FrameMapper(small_model("bmshj2018-factorized"), **options)


def test_bad_models_are_named() -> None:
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got function"):
        FrameMapper(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is in train mode"):
        FrameMapper(small_model("bmshj2018-factorized").train())
    with pytest.raises(ValueError, match="batch must be 1 for a video model"):
        FrameMapper(SmallVideo().eval(), batch=2)
    with pytest.raises(ValueError, match=r"needs a model built on CompressAI's entropy models.* SmallVideo has none"):
        FrameMapper(SmallVideo().eval(), dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (np.zeros((70, 101, 3), np.uint8), ValueError, r"frame 2 must be like the first, .*\[70, 100, 3\], got .*101"),
        (np.zeros((70, 100, 3), np.float32), ValueError, "frame 2 must be like the first"),
        (np.zeros((70, 100, 3), np.int16), TypeError, "frame 2 must be uint8 .* got torch.int16"),
        (np.zeros((70, 100), np.uint8), ValueError, r"frame 2 must be .* of shape \[70, 100\]; give "),
        (
            torch.full((3, 70, 100), 1.5),
            ValueError,
            r"frame 2 must have values in \[0, 1\], got values from 1.5 to 1.5",
        ),
        ("frame", TypeError, "frame 2 must be uint8 .* got str"),
    ],
)
def test_bad_frames_are_named(clip: list[np.ndarray], bad: Any, error: type[Exception], words: str) -> None:
    seen = []
    with pytest.raises(error, match=words):
        seen.extend(r.index for r in FrameMapper(small_model("bmshj2018-factorized"))([*clip[:2], bad, *clip[2:]]))
    assert seen == [0, 1]


def test_nothing_of_no_frames() -> None:
    assert list(FrameMapper(small_model("bmshj2018-factorized"))([])) == []


def test_one_pixel(clip: list[np.ndarray]) -> None:
    (result,) = FrameMapper(small_model("mbt2018-mean"))([clip[0][:1, :1]])
    assert result.map.shape == (1, 1, 1, 1)
    assert result.map.double().sum() + result.padding_bits == pytest.approx(result.total_bits.item(), rel=1e-6)
    assert bitrate_ext.FrameMapper is FrameMapper
