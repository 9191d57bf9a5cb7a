"""Images of the wrong layout, type, range or colour: told at the call that took them, with what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from foreign_models import AsModule
from PIL import Image
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import BitrateMapper, FrameMapper, PictureBits, RateEstimator, map_picture
from bitrate_ext.checks import ChannelsError, remedy
from bitrate_ext.models.adapter import ModelAdapter

pytestmark = pytest.mark.usefixtures("one_thread")
LEVELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 48), dtype=np.uint8))
RIGHT = LEVELS[None].float() / 255
HWC = LEVELS.permute(1, 2, 0)
OPAQUE = torch.cat([RIGHT, torch.ones(1, 1, 40, 48)], 1)
GREY = RIGHT[:, :1].expand(-1, 3, -1, -1)

WRONG: dict[str, tuple[Any, Tensor]] = {  # what came, and what was meant
    "uint8": (LEVELS[None], RIGHT),
    "uint8, no batch": (LEVELS, RIGHT),
    "uint8 HWC": (HWC, RIGHT),
    "uint8 NHWC": (HWC[None], RIGHT),
    "int64": (LEVELS[None].long(), RIGHT),
    "uint16": (torch.from_numpy(LEVELS[None].numpy().astype(np.uint16) * 257), RIGHT),
    "bool": (LEVELS[None] > 127, (LEVELS[None] > 127).float()),
    "no batch": (RIGHT[0], RIGHT),
    "HWC": (RIGHT[0].permute(1, 2, 0), RIGHT),
    "NHWC": (RIGHT.permute(0, 2, 3, 1), RIGHT),
    "two batch axes": (RIGHT[None], RIGHT),
    "0 to 255": (RIGHT * 255, RIGHT),
    "NHWC of 0 to 255": ((RIGHT * 255).permute(0, 2, 3, 1), RIGHT),
    "-1 to 1": (RIGHT * 2 - 1, RIGHT),
    "a reconstruction": (RIGHT * 1.2 - 0.1, (RIGHT * 1.2 - 0.1).clamp(0, 1)),
    "not a number": (torch.where(RIGHT > 0.9, torch.nan, RIGHT), torch.where(RIGHT > 0.9, 0, RIGHT)),
    "grey": (RIGHT[:, :1], GREY),
    "grey HW": (LEVELS[0], GREY),
    "grey and opacity": (torch.cat([RIGHT[:, :1], RIGHT[:, :1]], 1), GREY),
    "RGBA": (OPAQUE, RIGHT),
    "RGBA NHWC": (OPAQUE.permute(0, 2, 3, 1), RIGHT),
    "NumPy, HWC": (HWC.numpy(), RIGHT),
    "NumPy, BGR turned": (np.ascontiguousarray(HWC.numpy()[..., ::-1])[..., ::-1], RIGHT),
    "NumPy, float": (RIGHT.numpy(), RIGHT),
    "Pillow": (Image.fromarray(HWC.numpy()), RIGHT),
    "Pillow, grey": (Image.fromarray(LEVELS[0].numpy()), GREY),
    "Pillow, RGBA": (Image.fromarray(HWC.numpy()).convert("RGBA"), RIGHT),
}


def codec(channels: int = 3) -> AsModule:
    model = AsModule()
    model.analysis = nn.Conv2d(channels, 4, 4, stride=4).eval()
    return model


def told(call: Callable[[], object], name: str) -> str:
    with pytest.raises((TypeError, ValueError), match=f"^(a: )?{re.escape(name)} must (be|have) ") as caught:
        call()
    return str(caught.value)


def mended(said: str, **names: Any) -> Any:
    """What the message says to give, made as it says."""
    return eval(said.partition("; give ")[2], {"torch": torch, "numpy": np, **names})


@pytest.mark.parametrize("known", [False, True], ids=["first call", "later"])
@pytest.mark.parametrize("kind", WRONG)
def test_the_remedy_works(kind: str, known: bool) -> None:
    given, meant = WRONG[kind]
    mapper = BitrateMapper(codec())
    if known:
        mapper(RIGHT)
    x = given
    for _ in range(3):  # of colour the model is asked, once all else is right
        x = mended(told(lambda x=x: mapper(x), "x"), x=x)  # type: ignore[misc]
        if isinstance(x, Tensor) and x.shape == meant.shape:
            break
    torch.testing.assert_close(x, meant, rtol=0, atol=1e-6)
    assert mapper(x).map.shape == (len(meant), 1, 40, 48)


def test_conv2d_has_not_the_last_word() -> None:
    with pytest.raises(ChannelsError, match=r"x must have 3 channels, as the model takes them, got ") as caught:
        BitrateMapper(codec())(RIGHT[:, :1])
    assert caught.value.channels == 3
    assert "expected input" in str(caught.value.__cause__)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_codecs_of_other_colour_go_on_working(channels: int) -> None:
    mapper = BitrateMapper(codec(channels))
    x = torch.rand(2, channels, 20, 24)
    assert mapper(x).map.shape == (2, 1, 20, 24)
    said = told(lambda: BitrateMapper(codec(channels))(x.new_zeros(1, 3, 20, 24)), "x")
    assert f"must have {channels} channel" in said
    if channels == 1:
        assert mended(said, x=RIGHT).shape == (1, 1, 40, 48)
    else:
        assert "give" not in said  # nobody can say where more colours are to come from
    assert mended(told(lambda: mapper(x.permute(0, 2, 3, 1)), "x"), x=x.permute(0, 2, 3, 1)).equal(x)


def test_a_model_that_takes_any_colour_is_believed() -> None:
    def each_channel(x: Tensor) -> dict[str, Tensor]:
        return {"likelihoods": torch.full((len(x), x.shape[1], x.shape[2] // 4, x.shape[3] // 4), 0.5)}

    mapper = BitrateMapper(each_channel)
    for x in (RIGHT, RIGHT[:, :1], torch.rand(1, 64, 40, 4)):
        assert float(mapper(x).total_bits) == x.numel() / 16


def test_a_decoder_that_comes_first_says_nothing_of_images() -> None:
    class DecoderFirst(AsModule):
        def __init__(self) -> None:
            super().__init__()
            analysis, paint = self.analysis, nn.Sequential(nn.Conv2d(4, 192, 1), nn.Conv2d(192, 4, 1), self.paint)
            del self.analysis, self.paint
            self.paint, self.analysis = paint, analysis  # type: ignore[assignment]
            self.eval()

    said = told(lambda: BitrateMapper(DecoderFirst())(LEVELS), "x")
    assert mended(said, x=LEVELS).equal(RIGHT)
    assert "3 channels" in told(lambda: BitrateMapper(DecoderFirst())(RIGHT[:, :1]), "x")


def test_a_model_that_does_not_run_says_why_itself() -> None:
    def broken(x: Tensor) -> None:
        raise RuntimeError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        BitrateMapper(broken)(RIGHT[:, :1])


def test_a_model_is_asked_once_for_each_colour() -> None:
    model = codec()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    adapter = ModelAdapter(model)
    adapter.prepare(RIGHT, {})
    first = len(calls)
    for _ in range(3):
        adapter.prepare(RIGHT, {})
        with pytest.raises(ChannelsError):
            adapter.prepare(RIGHT[:, :1], {})
    assert len(calls) == first


def bits(**pictures: Any) -> PictureBits:
    return PictureBits({"y": bitrate_ext.CellGrid(torch.ones(2, 3))}, (40, 48), (0, 0, 40, 48), **pictures)


CALLS: dict[str, tuple[str, Callable[[Any], object]]] = {  # what images are called, and the call
    "attribute": ("x", lambda x: bitrate_ext.attribute(codec(), x, passes=4)),
    "follow_slices": ("x", lambda x: bitrate_ext.follow_slices(codec(), x, [2, 2])),
    "calibrate": ("images[0]", lambda x: bitrate_ext.calibrate(codec(), images=[x], cache=False)),
    "compare": ("image", lambda x: bitrate_ext.compare(x, codec(), codec())),
    "coded_video": ("frames[0]", lambda x: bitrate_ext.coded_video(zoo.small_model("bmshj2018-factorized"), [x])),
    "RateEstimator": ("x", lambda x: RateEstimator.demo()(x, 3)),
    "train_estimator": ("image", lambda x: bitrate_ext.train_estimator(codec(), [x], held_out=[x], steps=1)),
    "PictureBits": ("picture", lambda x: bits(picture=x)),
    "PictureBits, decoded": ("reconstruction", lambda x: bits(reconstruction=x)),
}


@pytest.mark.parametrize("kind", ["NumPy, HWC", "uint8 NHWC", "HWC", "Pillow"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_that_takes_images(call: str, kind: str) -> None:
    (name, run), (given, meant) = CALLS[call], WRONG[kind]
    said = told(lambda: run(given), name)
    found = mended(said, **{name.partition("[")[0]: [given] if "[" in name else given})
    torch.testing.assert_close(found, meant)


@pytest.mark.parametrize("call", ["attribute", "follow_slices", "calibrate", "compare", "RateEstimator"])
def test_every_call_that_runs_a_model_tells_of_colour(call: str) -> None:
    name, run = CALLS[call]
    assert "3 channels, as the model takes them" in told(lambda: run(RIGHT[:, :1]), name)


def test_the_bundled_photograph_is_not_for_every_model() -> None:
    with pytest.raises(ValueError, match="images must be given, with 1 channels: the bundled photograph has 3"):
        bitrate_ext.calibrate(codec(1), cache=False)


PICTURES = {kind: WRONG[kind] for kind in ("uint8 HWC", "HWC", "NHWC", "grey", "RGBA", "int64", "0 to 255", "Pillow")}


@pytest.mark.parametrize("kind", PICTURES)
def test_map_picture(kind: str, tmp_path: Path) -> None:
    given, meant = PICTURES[kind]
    said = told(lambda: map_picture(codec(), given, tmp_path / "a.npz"), "picture")
    torch.testing.assert_close(mended(said, picture=given), meant)
    assert not (tmp_path / "a.npz").exists()


def test_map_picture_of_a_file_by_a_grey_codec(tmp_path: Path) -> None:
    from bitrate_ext.io.images import load_image

    Image.fromarray(HWC.numpy()).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    said = told(lambda: map_picture(codec(1), path, tmp_path / "a.npz"), "load_image(picture)")
    assert mended(said, load_image=load_image, picture=path).shape == (1, 1, 40, 48)


FRAMES = {
    "uint8 CHW": (LEVELS.numpy(), RIGHT),
    "HWC": (RIGHT[0].permute(1, 2, 0), RIGHT),
    "0 to 255": (RIGHT[0].numpy() * 255, RIGHT),
    "int64": (HWC.numpy().astype(np.int64), RIGHT),
    "grey": (HWC.numpy()[..., 0], None),
    "one channel": (HWC.numpy()[..., :1], GREY),
    "RGBA": (OPAQUE[0], RIGHT),
    "a batch": (RIGHT, RIGHT),
    "Pillow": (Image.fromarray(HWC.numpy()), RIGHT),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames(kind: str) -> None:
    given, meant = FRAMES[kind]
    mapper = FrameMapper(zoo.small_model("bmshj2018-factorized"))
    found = mended(told(lambda: list(mapper([given])), "frame 0"), frame=given)
    assert found.dim() == 3
    if meant is not None:
        torch.testing.assert_close(found, meant[0])
        assert len(list(mapper([found]))) == 1


def test_frames_of_opencv() -> None:
    """Turned from BGR to RGB, an array has a negative stride, which tensors have not."""
    mapper = FrameMapper(zoo.small_model("bmshj2018-factorized"))
    (one,), (other,) = (list(mapper([frame])) for frame in (HWC.numpy(), HWC.flip(2).numpy()[..., ::-1]))
    assert torch.equal(one.total_bits, other.total_bits)


@pytest.mark.parametrize("given", [None, 3, [RIGHT], np.array(["a"]), torch.rand(5), torch.rand(1, 3, 4, 4) * 1j])
def test_no_remedy_is_invented(given: Any) -> None:
    assert remedy(given, "x") == ""
    assert "give" not in told(lambda: BitrateMapper(codec())(given), "x")
