"""Coded bits of codecs of video in data sets: rows, frames, and models that cannot give them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("compressai")
made = pytest.importorskip("video_clips")
from coded_clips import CodedClips, OtherClips, WholeClips  # noqa: E402
from commands import error_of  # noqa: E402

from bitrate_ext import CodingError, coded_video  # noqa: E402
from bitrate_ext.dataset import find_items, run  # noqa: E402
from bitrate_ext.dataset.codec import MEMORY  # noqa: E402
from bitrate_ext.dataset.pictures import PictureCodec  # noqa: E402
from bitrate_ext.dataset.reading import load_pixels  # noqa: E402
from bitrate_ext.mapping.coded_video import CodedFrameMapper  # noqa: E402
from bitrate_ext.mapping.layout import BitrateResult  # noqa: E402
from bitrate_ext.video.reader import VideoReader  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def coded(group: int | None = 5, model: Any = None, **options: Any) -> PictureCodec:
    return PictureCodec(CodedFrameMapper(model or CodedClips(), group=group), name="clips", write=["frames"], **options)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two videos, one of them cut, and a picture, in the current folder."""
    monkeypatch.chdir(tmp_path)
    whole = made.clip("y4m")
    Path("clips").mkdir()
    Path("clips/a.y4m").write_bytes(whole)
    Path("clips/b.y4m").write_bytes(whole[: len(whole) * 2 // 3])
    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("clips/c.png")
    return Path("clips")


def table(path: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(path.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def everything(path: Path) -> dict[str, bytes]:
    """All rows and files of a run, without what depends on the day."""
    kept = [*path.glob("part-*.parquet"), *path.glob("*/*/*")]
    return {str(one.relative_to(path)): one.read_bytes() for one in kept}


def wanted(frames: list[torch.Tensor], group: int | None) -> list[BitrateResult]:
    """What ``coded_video`` says of each group of frames by itself."""
    size = group or len(frames)
    starts = range(0, len(frames), size)
    return [one for start in starts for one in coded_video(CodedClips(), frames[start : start + size])]


def written(results: list[BitrateResult]) -> int:
    return sum(int(one.ledger.string_bytes) for one in results if one.ledger)


@pytest.mark.parametrize("group", [None, 5])
def test_rows_are_what_coded_video_says(clips: Path, group: int | None) -> None:
    report = run(["clips"], "out", partial(coded, group), jobs=0)
    assert (report.ok, report.error) == (3, 0)
    video, cut, picture = table(Path("out"))
    with VideoReader("clips/a.y4m") as reader:
        frames = [torch.as_tensor(one.pixels).permute(2, 0, 1)[None] / 255 for one in reader]
    results = wanted(frames, group)
    assert (video["frames"], cut["frames"]) == (len(results), 7)
    assert video["file_bytes"] == written(results)
    assert cut["file_bytes"] == written(wanted(frames[:7], group))
    assert picture["file_bytes"] == written(wanted([load_pixels(find_items(["clips/c.png"]).items()[0])], group))
    assert "as far as it goes" in cut["warnings"]
    for row in (video, cut, picture):
        assert row["bits"] == pytest.approx(8 * row["file_bytes"], rel=1e-12)
        assert row["psnr_db"] is None
        assert 0 < row["bits"] - row["bits_keyframe"] - (row["bits_residual"] or 0) < 64 * row["frames"]  # the coder's

    rows = pq.read_table(Path("out", *video["files"])).to_pylist()
    assert [one["kind"] for one in rows].count("keyframe") == (1 if group is None else 3)
    for one, result in zip(rows, results, strict=True):
        assert one["file_bytes"] == written([result])
        assert one["bits"] == pytest.approx(8 * one["file_bytes"], rel=1e-12)
        assert one["padding_bits"] == pytest.approx(float(result.padding_bits), rel=1e-6)
        for name in ("keyframe", "residual"):
            located = result.latent_bits.get(name)
            assert one[f"bits_{name}"] == (
                None if located is None else pytest.approx(float(located.double().sum()), rel=1e-6)
            )


@pytest.mark.slow
def test_workers_write_the_same_bytes(clips: Path) -> None:
    make = partial(coded, 5)
    run(["clips"], "here", make, jobs=0)
    assert run(["clips"], "there", make, jobs=2).ok == 3
    assert everything(Path("there")) == everything(Path("here"))


def test_frames_are_coded_as_they_are_read(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, however long a group is, and each is a sign of life."""
    taken = []

    def frames() -> Iterator[torch.Tensor]:
        for number in range(6):
            taken.append(number)
            yield torch.rand(3, 64, 48)

    mapper = CodedFrameMapper(CodedClips())
    for result in mapper(frames()):
        assert len(taken) == result.index + 1
    with monkeypatch.context() as patch:
        patch.delattr("bitrate_ext.coding.coder.Coder.learn")  # what codes what is learned once
        assert [one.kind for one in mapper([torch.rand(3, 40, 40)])] == ["keyframe"]
    codec, item = coded(), find_items(["clips/a.y4m"]).items()[0]
    assert [one is None for one in codec.measure([codec.read(item).picture])] == [True] * 12 + [False]
    signs = list[None]()
    _, numbers = codec.rescue(item, MEMORY, lambda: signs.append(None))
    assert (numbers["frames"], len(signs)) == (12, 13)
    assert numbers["warnings"].endswith("measured alone, for want of memory")


def test_frames_and_models_that_are_refused() -> None:
    mapper, x = CodedFrameMapper(CodedClips()), torch.rand(3, 64, 48)
    with pytest.raises(ValueError, match="frame 1 must be like the first"):
        list(mapper([x, x[:, :40]]))
    with pytest.raises(ValueError, match=r"frame 0 must have values in \[0, 1\]"):
        list(mapper([3 * x]))
    with pytest.raises(ValueError, match="group must be a whole number"):
        CodedFrameMapper(CodedClips(), group=0)
    with pytest.raises(ValueError, match="train"):
        CodedFrameMapper(CodedClips().train())
    with pytest.raises(TypeError, match=r"needs a model with a method encode_inter\(\).*got WholeClips; bits='estim"):
        CodedFrameMapper(WholeClips())
    with pytest.raises(CodingError, match=r"encode_inter\(\) writes .* bytes, and compress\(\)"):
        list(CodedFrameMapper(OtherClips())([x]))
    with pytest.raises(ValueError, match="top_channels is for codecs of pictures"):
        coded(top_channels=2)
    model: Any = CodedClips()
    model.encode_keyframe = lambda x: x
    with pytest.raises(CodingError, match=r"encode_keyframe\(\) must return a state and strings, got Tensor"):
        list(CodedFrameMapper(model)([x]))


@pytest.mark.medium
def test_the_command_codes_videos(
    clips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitrate_ext.cli import main as cli

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    argv = ["dataset", "clips", "-o", "out", "--jobs", "0", "--bits", "coded", "--group", "5"]
    assert cli.main([*argv, "--write", "rows,frames", "--model", "coded_clips:CodedClips"]) == 0
    run(["clips"], "here", partial(coded, 5), jobs=0)
    for mine, theirs in zip(table(Path("out")), table(Path("here")), strict=True):
        own = dict.fromkeys(("id", "files", "model", "settings"))
        assert {**mine, **own} == {**theirs, **own}
    capsys.readouterr()
    argv[argv.index("out")] = "other"
    for model, words in (("WholeClips", "encode_inter()"), ("OtherClips", "bits='estimated' maps this model")):
        told = error_of(capsys, *argv, "--model", f"coded_clips:{model}")
        assert words in told
        assert "\n" not in told.strip()
        assert not Path("other").exists()


@pytest.mark.slow
def test_ssf2020_is_coded(clips: Path) -> None:
    from zoo import video_model

    model = video_model()
    run(["clips/a.y4m"], "out", partial(coded, None, model), jobs=0)
    (video,) = table(Path("out"))
    with VideoReader("clips/a.y4m") as reader:
        frames = [torch.as_tensor(one.pixels).permute(2, 0, 1)[None] / 255 for one in reader]
    assert video["file_bytes"] == written(coded_video(model, frames))
    assert video["bits"] == pytest.approx(8 * video["file_bytes"], rel=1e-12)
