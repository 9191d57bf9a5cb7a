"""Video codecs with memory: state that is handed on, state that a model keeps, and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitrate_ext import FrameMapper

CLIP = [torch.rand(3, 70, 100, generator=torch.Generator().manual_seed(k)) for k in range(6)]
PAD = (14, 14, 29, 29)  # to 128 x 128


def coded(x: Tensor) -> dict[str, Any]:
    """Likelihoods that tell how much there is to code."""
    return {"y": torch.exp2(-64 * F.avg_pool2d(x.abs(), 16)), "z": torch.exp2(-8 * F.avg_pool2d(x.abs(), 64))}


class Keeping(nn.Module):
    """Codes what has changed against a frame that it keeps itself, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.9))
        self.register_buffer("before", torch.zeros(1, 3, 1, 1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.seen: list[Tensor] = []

    def keep(self, x_hat: Tensor) -> Tensor:
        self.before = x_hat
        self.calls += 1
        return x_hat

    def forward_keyframe(self, x: Tensor) -> tuple[Any, ...]:
        self.seen = [x]
        return self.keep(self.gain * x), {"key": coded(x)}

    def forward_inter(self, x: Tensor, reference: Any) -> tuple[Any, ...]:
        difference, change = x - self.before, x - self.seen[-1]
        self.seen.append(x)
        return self.keep(self.before + self.gain * difference), {"motion": coded(change), "residual": coded(difference)}


class KeepingData(Keeping):
    """Gives its buffer other memory."""

    def keep(self, x_hat: Tensor) -> Tensor:
        self.before.data = x_hat
        self.calls += 1
        return x_hat


class KeepingInPlace(Keeping):
    """Writes into its buffer."""

    def keep(self, x_hat: Tensor) -> Tensor:
        if self.before.shape != x_hat.shape:
            self.before = torch.empty_like(x_hat)
        self.before.copy_(x_hat)
        self.calls += 1
        return x_hat.clone()


class Handing(nn.Module):
    """The same codec, its state in a nest of tensors, some below 0 and above 1, and with the frame as it came."""

    def forward_keyframe(self, x: Tensor) -> tuple[Any, ...]:
        x_hat = 0.9 * x
        return x_hat, {"key": coded(x)}, {"shifted": [x_hat - 5, None], "seen": (x,), "index": 0}

    def forward_inter(self, x: Tensor, state: dict[str, Any]) -> tuple[Any, ...]:
        before = state["shifted"][0] + 5
        difference, change = x - before, x - state["seen"][0]
        x_hat = before + 0.9 * difference
        after = {"shifted": [x_hat - 5, None], "seen": (x,), "index": state["index"] + 1}
        assert isinstance(state["seen"], tuple)
        assert state["shifted"][1] is None
        return x_hat, {"motion": coded(change), "residual": coded(difference)}, after


class Random(Keeping):
    def forward_inter(self, x: Tensor, reference: Any) -> tuple[Any, ...]:
        x_hat, likelihoods = super().forward_inter(x, reference)
        return x_hat, {**likelihoods, "motion": coded(x + 0.01 * torch.rand_like(x))}


class RandomKeyframe(Keeping):
    def forward_keyframe(self, x: Tensor) -> tuple[Any, ...]:
        x_hat, _ = super().forward_keyframe(x)
        return x_hat, {"key": coded(x + 0.01 * torch.rand_like(x))}


class Never(Keeping):
    """Its keyframes do not begin anew: what it has seen before makes them dearer."""

    def forward_keyframe(self, x: Tensor) -> tuple[Any, ...]:
        scale = 1 + 0.01 * float(self.calls)
        x_hat, _ = super().forward_keyframe(x)
        return x_hat, {"key": coded(scale * x)}


class OfOneSize(Keeping):
    """Its keyframes add to what is there, which may be of another size."""

    def forward_keyframe(self, x: Tensor) -> tuple[Any, ...]:
        if self.calls:
            x = x + 0 * self.before
        return super().forward_keyframe(x)


def by_hand(model: Any, clip: list[Tensor], group: int | None = None) -> list[float]:
    """Bits of each frame, in a plain loop over a fresh model."""
    totals, state = [], None
    with torch.no_grad():
        for index, frame in enumerate(clip):
            x = F.pad(frame, PAD)[None]
            key = index == 0 or (group is not None and index % group == 0)
            x_hat, likelihoods, *after = model.forward_keyframe(x) if key else model.forward_inter(x, state)
            state = after[0] if after else x_hat.clamp(0, 1)
            totals.append(sum(float(-p.double().log2().sum()) for one in likelihoods.values() for p in one.values()))
    return totals


def mapped(mapper: FrameMapper, clip: list[Tensor] = CLIP) -> list[float]:
    return [result.total_bits.item() for result in mapper(clip)]


@pytest.mark.parametrize("group", [None, 2, 1])
@pytest.mark.parametrize("kind", [Keeping, KeepingInPlace, KeepingData, Handing])
def test_bits_are_those_of_a_plain_loop(kind: type[nn.Module], group: int | None) -> None:
    expected = by_hand(kind(), CLIP, group)
    mapper = FrameMapper(kind().eval(), group=group, channels_last=False)
    for _ in range(2):  # again from the start, with nothing left of the first time
        assert mapped(mapper) == pytest.approx(expected, rel=1e-12)
    assert by_hand(Handing(), CLIP, group) == pytest.approx(expected, rel=1e-5)  # a difference that states make


def test_no_probe_touches_the_network_that_runs() -> None:
    model = Keeping().eval()
    mapper = FrameMapper(model)
    list(mapper(CLIP))
    assert int(mapper._network.calls) == len(CLIP)
    assert int(model.calls) == 0
    assert model.seen == []
    assert model.before.shape == (1, 3, 1, 1)


def test_clips_that_are_mapped_side_by_side_have_states_of_their_own() -> None:
    mapper, other = FrameMapper(Handing().eval()), [frame.flip(1) for frame in CLIP]
    pairs = list(zip(mapper(CLIP), mapper(other), strict=True))
    assert [a.total_bits.item() for a, _ in pairs] == pytest.approx(by_hand(Handing(), CLIP), rel=1e-12)
    assert [b.total_bits.item() for _, b in pairs] == pytest.approx(by_hand(Handing(), other), rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Random, "frame 1 costs .* bits, then "),
        (RandomKeyframe, "frame 0 costs .* bits, then "),
        (Never, "frame 0 costs .* bits, then "),
        (OfOneSize, r"frame 0 fails then \("),
    ],
)
def test_bits_that_depend_on_more_than_the_frames_are_refused(kind: type[nn.Module], what: str) -> None:
    clip = [F.pad(frame, (30, 30, 0, 0)) for frame in CLIP]
    with pytest.raises(ValueError, match=rf"keeps state that forward_keyframe does not set anew.*{what}") as caught:
        list(FrameMapper(kind().eval())(clip))
    assert "forward_keyframe(x) -> (x_hat, likelihoods, state)" in str(caught.value)


def test_a_model_that_was_refused_is_refused_again() -> None:
    mapper = FrameMapper(RandomKeyframe().eval())
    for _ in range(2):
        with pytest.raises(ValueError, match="or computes at random"):
            list(mapper(CLIP))


def test_a_model_that_writes_into_its_input() -> None:
    class InPlace(Handing):
        def forward_inter(self, x: Tensor, state: dict[str, Any]) -> tuple[Any, ...]:
            result = super().forward_inter(x.clone(), state)
            x.zero_()
            return result

    expected = mapped(FrameMapper(Handing().eval()))
    assert mapped(FrameMapper(InPlace().eval())) == expected


def test_random_keyframes_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="or computes at random: frame 0"):
        list(FrameMapper(RandomKeyframe().eval(), group=1)(CLIP))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_does_not_matter(mode: Any) -> None:
    expected = by_hand(Handing(), CLIP)
    for kind in (Keeping, KeepingInPlace, Handing):
        model = kind().eval()
        with mode():
            assert mapped(FrameMapper(model, channels_last=False)) == pytest.approx(expected, rel=1e-5)


def test_the_frames_are_coded_again_once() -> None:
    mapper = FrameMapper(Keeping().eval())
    list(mapper(CLIP))
    tried = mapper.placed("inter").adapter.module.model
    after_first = int(tried.calls)
    list(mapper(CLIP))
    assert int(tried.calls) == after_first


class Changed(nn.Module):
    """A protocol that is broken in one place."""

    def __init__(self, key: Any = (), inter: Any = ()) -> None:
        super().__init__()
        self.key, self.inter = key, inter

    def forward_keyframe(self, x: Tensor) -> Any:
        return self.key(x)

    def forward_inter(self, x: Tensor, state: Any) -> Any:
        return self.inter(x)


@pytest.mark.parametrize(
    ("key", "inter", "words"),
    [
        (lambda x: {"x_hat": x}, lambda x: (x, coded(x)), "forward_keyframe must return x_hat, .*, got dict"),
        (lambda x: (x,), lambda x: (x, coded(x)), "forward_keyframe must return x_hat, .*, got 1 values"),
        (lambda x: (x, coded(x)), lambda x: (x, coded(x), 1, 2), "forward_inter must return x_hat, .*, got 4 values"),
        (
            lambda x: (x, coded(x)),
            lambda x: (coded(x), x),
            "forward_inter must return a tensor x_hat .*, got dict, Tensor",
        ),
        (lambda x: (x, coded(x), x), lambda x: (x, coded(x)), "forward_inter must return a state, as forward_keyframe"),
    ],
)
def test_what_a_model_returns_is_checked(key: Any, inter: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        list(FrameMapper(Changed(key, inter).eval())(CLIP))


def test_an_image_model_with_a_memory_is_probed_on_a_copy() -> None:
    class Remembering(nn.Module):
        """A video codec in the way of an image model."""

        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Upsample(scale_factor=16)
            self.before: Tensor | None = None

        def forward(self, x: Tensor) -> dict[str, Any]:
            change = x if self.before is None else x - self.before
            self.before = x.clone()
            y = F.avg_pool2d(x, 16)
            return {"likelihoods": coded(change)["y"], "x_hat": self.up(y)}

    expected, model, clip = [], Remembering(), [frame[:, :64, :96] for frame in CLIP]
    with torch.no_grad():
        expected = [float(-model(frame[None])["likelihoods"].double().log2().sum()) for frame in clip]
    assert mapped(FrameMapper(Remembering().eval(), channels_last=False), clip) == pytest.approx(expected, rel=1e-9)


@pytest.mark.medium
def test_receptive_fields_are_measured_on_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Painting(Keeping):
        """Its decoder is a module, which paints what is kept."""

        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 3, 4, stride=2, padding=1)

        def painted(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            y = (8 * F.avg_pool2d(x, 2)).round()
            return self.keep(self.up(y)), {"y": torch.exp2(-1 - y.abs())}

        def forward_keyframe(self, x: Tensor) -> tuple[Any, ...]:
            self.before = torch.zeros_like(x)
            return self.painted(x)

        def forward_inter(self, x: Tensor, reference: Any) -> tuple[Any, ...]:
            return self.painted(x - self.before)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    mapper = FrameMapper(Painting().eval(), projection="receptive-field")
    list(mapper(CLIP[:3]))
    assert int(mapper._network.calls) == 3
    assert all(mapper.placed(kind).projections["y"].reach == ((-1, 2), (-1, 2)) for kind in ("keyframe", "inter"))


class Finer(nn.Module):
    """Keyframes on a grid of 16 pixels; frames between them also on one of 64, on images of some sizes only."""

    def __init__(self, multiple: int, least: int) -> None:
        super().__init__()
        self.multiple, self.least = multiple, least

    def forward_keyframe(self, x: Tensor) -> tuple[Any, ...]:
        return x, {"y": torch.exp(-F.avg_pool2d(x, 16))}

    def forward_inter(self, x: Tensor, reference: Tensor) -> tuple[Any, ...]:
        assert reference.shape == x.shape
        for side in x.shape[2:]:
            if side % self.multiple or side < self.least:
                raise RuntimeError(f"an image side of {side} pixels is none of mine")
        change = (x - reference).abs()
        return x, {"y": torch.exp(-F.avg_pool2d(change, 16)), "z": torch.exp(-F.avg_pool2d(change, 64))}


@pytest.mark.parametrize(
    ("multiple", "least", "canvas"), [(64, 0, (128, 192)), (128, 0, (128, 256)), (64, 200, (256, 256))]
)
def test_both_kinds_of_frames_lie_on_a_canvas_that_suits_both(
    multiple: int, least: int, canvas: tuple[int, int]
) -> None:
    mapper = FrameMapper(Finer(multiple, least).eval())
    frames = [torch.rand(3, 90, 150, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    bits = [float(result.total_bits) for result in mapper(frames)]
    assert {kind: mapper.placed(kind).adapter.canvas(90, 150)[0] for kind in ("keyframe", "inter")} == {
        "keyframe": canvas,
        "inter": canvas,
    }
    nats = [frame.sum() / 256 for frame in frames[:1]]  # black padding costs nothing
    nats += [(b - a).abs().sum() * (1 / 256 + 1 / 4096) for a, b in pairwise(frames)]
    assert bits == pytest.approx([float(one) / math.log(2) for one in nats], rel=1e-5)


def test_keyframes_alone_do_not_ask_for_the_canvas_of_others() -> None:
    mapper = FrameMapper(Finer(64, 200).eval(), group=1)
    assert [result.kind for result in mapper([torch.rand(3, 90, 150)] * 2)] == ["keyframe"] * 2
    assert mapper.placed("keyframe").adapter.canvas(90, 150)[0] == (96, 160)
