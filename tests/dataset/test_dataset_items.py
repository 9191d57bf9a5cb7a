"""What an item's row has beyond bits, what is written beside it, and videos as items."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")
from block_codecs import BlockCodec, BlockVideo  # noqa: E402
from commands import error_of  # noqa: E402
from dataset_runs import disturb, go, names  # noqa: E402
from free_codecs import FreeCodec  # noqa: E402

from bitrate_ext import BitrateMapper, FrameMapper, PictureBits  # noqa: E402
from bitrate_ext.cells.quality import measure_ms_ssim, measure_psnr  # noqa: E402
from bitrate_ext.dataset import DatasetError, Item, Read, find_items, measure, part, run  # noqa: E402
from bitrate_ext.dataset.pictures import PictureCodec  # noqa: E402
from bitrate_ext.io.images import load_image  # noqa: E402
from bitrate_ext.video.reader import VideoReader  # noqa: E402


def codec(top_channels: int = 0, **options: Any) -> PictureCodec:
    mapper = BitrateMapper(BlockCodec().eval(), channels=bool(top_channels))
    return PictureCodec(mapper, name="blocks", top_channels=top_channels, **options)


def rows_of(inputs: Sequence[str], masks: str | None = None, **options: Any) -> list[dict[str, Any]]:
    return list(measure(find_items(inputs, masks=masks).items(), codec(**options)))


def table(folder: str | Path) -> list[dict[str, Any]]:
    return [row for path in sorted(Path(folder).glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def written(folder: str | Path) -> dict[str, bytes]:
    """All files below folders of a run, by their names."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).glob("*/*/*"))}


def save(path: str | Path, pixels: np.ndarray) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three pictures of two sizes, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number, size in enumerate(((70, 100, 3), (64, 64, 3), (70, 100, 3))):
        save(f"photos/a/{number}.png", rng.integers(0, 256, size, dtype=np.uint8))
    return Path("photos")


def test_a_loops_rows_come_in_the_order_of_its_items(photos: Path) -> None:
    first, second, third = find_items([str(photos)]).items()
    rows = list(measure([third, first, third, second._replace(number=0)], codec()))
    assert [row["path"][-5] for row in rows] == ["2", "0", "2", "1"]
    assert [row["item"] for row in rows] == [2, 0, 2, 0]


# Videos


def test_a_video_costs_what_its_frames_cost_as_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = pytest.importorskip("video_clips")
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    Path("videos/clip.y4m").write_bytes(clips.clip("y4m"))
    with tarfile.open("shard.tar", "w") as archive:
        archive.add("videos/clip.y4m")
    with VideoReader("videos/clip.y4m") as reader:
        for frame in reader:
            save(f"frames/{frame.index:02d}.png", frame.pixels)
    frames = rows_of(["frames"], top_channels=2)
    (video,), (member,) = rows_of(["videos"], top_channels=2), rows_of(["shard.tar"], top_channels=2)
    assert (video["kind"], video["frames"], video["duration_s"]) == ("video", 12, pytest.approx(0.48))
    assert (video["width"], video["height"]) == clips.SIZE
    for name in ("bits", "bits_y", "bits_z", "padding_bits"):
        assert video[name] == pytest.approx(sum(row[name] for row in frames), rel=1e-12)
    assert video["bpp"] == pytest.approx(video["bits"] / (12 * 64 * 48), rel=1e-12)
    errors = [10 ** (-row["psnr_db"] / 10) for row in frames]
    assert video["psnr_db"] == pytest.approx(-10 * np.log10(np.mean(errors)), abs=1e-9)
    assert sum(one["bits"] for one in video["top_channels"]) <= video["bits"]
    assert all(row["kind"] == "picture" and "duration_s" not in row for row in frames)
    assert {**member, "id": 0, "path": 0} == {**video, "id": 0, "path": 0}


def video_codec(model: torch.nn.Module, group: int | None = 5, **options: Any) -> PictureCodec:
    return PictureCodec(FrameMapper(model.eval(), group=group, reconstruction=True), name="video", **options)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two videos, one of them cut, and a picture, in the current folder."""
    made = pytest.importorskip("video_clips")
    monkeypatch.chdir(tmp_path)
    whole = made.clip("y4m")
    Path("clips").mkdir()
    Path("clips/a.y4m").write_bytes(whole)
    Path("clips/b.y4m").write_bytes(whole[: len(whole) * 2 // 3])
    save("clips/c.png", np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8))
    return Path("clips")


@pytest.mark.parametrize("group", [None, 5])
def test_a_codec_of_video_codes_videos_from_keyframe_to_keyframe(clips: Path, group: int | None) -> None:
    make = partial(video_codec, BlockVideo(), group, write=["frames"], ms_ssim=True)
    report = run([str(clips)], "out", make, jobs=0)
    assert (report.ok, report.error) == (3, 0)
    video, cut, picture = table("out")
    with VideoReader("clips/a.y4m") as reader:
        wanted = list(FrameMapper(BlockVideo().eval(), group=group, reconstruction=True)(one.pixels for one in reader))
    kinds = [one.kind for one in wanted]
    assert kinds.count("keyframe") == (1 if group is None else 3)
    assert video["bits"] == pytest.approx(sum(float(one.total_bits) for one in wanted), rel=1e-6)
    names = ("keyframe.y", "keyframe.z", "motion.y", "motion.z", "residual.y", "residual.z")
    for name in names:
        bits = sum(float(one.latent_bits[name].sum()) for one in wanted if name in one.latent_bits)
        assert video[f"bits_{name}"] == pytest.approx(bits, rel=1e-6)
    assert sum(video[f"bits_{name}"] for name in names) == pytest.approx(video["bits"], rel=1e-9)
    pixels = [one.frame.permute(2, 0, 1)[None] / 255 for one in wanted]
    errors = [float((one.x_hat - x).double().square().mean()) for one, x in zip(wanted, pixels, strict=True)]
    assert video["psnr_db"] == pytest.approx(-10 * np.log10(np.mean(errors)), abs=1e-4)
    assert "as far as it goes" in cut["warnings"]
    assert (picture["kind"], picture["files"], picture["bits_motion.y"]) == ("picture", None, None)
    assert picture["bits"] == pytest.approx(picture["bits_keyframe.y"] + picture["bits_keyframe.z"])

    frames = pq.read_table(Path("out", *video["files"])).to_pylist()
    assert [one["kind"] for one in frames] == kinds
    assert [one["frame"] for one in frames] == list(range(12))
    assert frames[3]["time_s"] == pytest.approx(3 / 25)
    assert {one["path"] for one in frames} == {"clips/a.y4m"}
    for name in ("bits", "padding_bits", *(f"bits_{name}" for name in names)):
        assert sum(one[name] or 0 for one in frames) == pytest.approx(video[name], rel=1e-9)
    assert frames[1]["bits_keyframe.y"] is None
    assert frames[0]["psnr_db"] == pytest.approx(-10 * np.log10(errors[0]), abs=1e-4)
    whole = written("out")
    Path("out", *video["files"]).unlink()
    again = run([str(clips)], "out", make, jobs=0)
    assert (again.ok, again.skipped) == (1, 2)
    assert written("out") == whole


def test_frames_of_codecs_of_pictures_have_rows_too(clips: Path) -> None:
    run(["clips/a.y4m"], "out", partial(codec, write=["frames"]), jobs=0)
    (video,) = table("out")
    frames = pq.read_table(Path("out", *video["files"])).to_pylist()
    assert {one["kind"] for one in frames} == {"image"}
    for name in ("bits", "bits_y", "bits_z"):
        assert sum(one[name] for one in frames) == pytest.approx(video[name], rel=1e-9)
    with pytest.raises(ValueError, match="codes each frame by itself"):
        video_codec(BlockCodec(), None)
    with pytest.raises(ValueError, match="top_channels is for codecs of pictures"):
        video_codec(BlockVideo(), top_channels=2)


@pytest.mark.slow
def test_ssf2020_is_served(clips: Path) -> None:
    pytest.importorskip("compressai")
    from zoo import video_model

    run(["clips/a.y4m"], "out", partial(video_codec, video_model(), write=["frames"]), jobs=0)
    (video,) = table("out")
    assert (video["status"], video["frames"]) == ("ok", 12)
    parts = [one for name, one in video.items() if name.startswith("bits_")]
    assert (len(parts), sum(parts)) == (6, pytest.approx(video["bits"], rel=1e-9))


def test_a_video_that_is_damaged_is_measured_as_far_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = pytest.importorskip("video_clips")
    monkeypatch.chdir(tmp_path)
    whole = clips.clip("y4m")
    Path("cut.y4m").write_bytes(whole[: len(whole) * 2 // 3])
    Path("bad.mp4").write_bytes(b"nothing" * 100)
    Path("empty.mkv").touch()
    bad, cut, empty = rows_of(["bad.mp4", "cut.y4m", "empty.mkv"])
    assert (cut["status"], 0 < cut["frames"] < 12) == ("ok", True)
    assert "as far as it goes" in cut["warnings"]
    assert (bad["status"], empty["error"], bad["kind"]) == ("error", "the file is empty", "video")
    assert "no video" in bad["error"]
    assert "--" not in bad["error"]  # options of other commands


def test_the_mean_over_a_videos_frames_is_what_lies_beside_its_row(tmp_path: Path) -> None:
    clips = pytest.importorskip("video_clips")
    clip = tmp_path / "clip.y4m"
    clip.write_bytes(clips.clip("y4m"))
    run([str(clip)], tmp_path / "out", partial(codec, write=["cells", "png"]), jobs=0)
    (row,) = table(tmp_path / "out")
    bits = PictureBits.load(tmp_path / "out" / row["files"][0])
    assert bits.total_bits * 12 == pytest.approx(row["bits"], rel=1e-12)
    with VideoReader(clip) as reader:
        mapper = BitrateMapper(BlockCodec().eval())
        maps = [mapper(torch.from_numpy(one.pixels).permute(2, 0, 1)[None] / 255).map[0, 0] for one in reader]
    torch.testing.assert_close(bits.map().float(), torch.stack(maps).mean(dim=0), rtol=1e-5, atol=1e-6)


class Patient(FreeCodec):
    """Takes longer than any limit over an item, and says that it is still at work."""

    pause = 0.25

    def measure(self, pictures: Sequence[str]) -> Iterator[Any]:
        for _ in range(10):
            time.sleep(self.pause)
            yield None
        yield from super().measure(pictures)


def test_a_journal_tells_that_an_item_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(part, "_BEAT", -1.0)
    monkeypatch.setattr(Patient, "pause", 0.0)
    monkeypatch.setattr(part.Journal, "add", lambda self, entry: told.append(entry))
    go(tmp_path, ["a.mp4"], Patient)
    assert told.count({"read": 0}) == 11


@pytest.mark.slow
def test_an_item_that_goes_on_may_take_longer_than_the_time_limit(tmp_path: Path) -> None:
    report = go(tmp_path, ["a.mp4"], Patient, jobs=1, time_limit=1.6)
    assert (report.ok, report.error) == (1, 0)


# Files beside rows


def test_files_lie_beside_their_rows_and_come_back_where_they_are_missing(photos: Path) -> None:
    go_on = partial(run, [str(photos)], "out", partial(codec, write=["png", "page", "cells"]), jobs=0)
    go_on()
    rows, files = table("out"), written("out")
    assert sorted(files) == sorted(name for row in rows for name in row["files"])
    mapper = BitrateMapper(BlockCodec().eval())
    for row in rows:
        cells, first, second, page = row["files"]
        assert all(row["id"] in name for name in row["files"])
        result = mapper(load_image(row["path"]))
        bits = PictureBits.load(f"out/{cells}")
        torch.testing.assert_close(bits.map().float(), result.map[0, 0])
        assert bits.total_bits == pytest.approx(row["bits"], rel=1e-12)
        assert Image.open(f"out/{first}").size[0] > Image.open(f"out/{second}").size[0] >= row["width"]
        text = files[page].decode()
        assert text.startswith("<!doctype html>")
        assert row["sha256"] in text
    gone, more = Path("out", rows[1]["files"][0]), Path("out", rows[0]["files"][0]).parent / "half.npz.partial"
    gone.unlink()
    more.touch()
    assert go_on().skipped == 2
    assert written("out") == files
    save("photos/a/1.png", np.zeros((64, 64, 3), np.uint8))
    assert go_on().ok == 1
    changed = written("out")
    assert sorted(changed) == sorted(name for row in table("out") for name in row["files"])
    assert len(set(changed) - set(files)) == 4
    with pytest.raises(DatasetError, match=r"write \['cells', 'page', 'png'\], now \['cells'\]"):
        run([str(photos)], "out", partial(codec, write=["cells"]), jobs=0)
    with pytest.raises(ValueError, match="write must be some of"):
        codec(write=["tiff"])


@pytest.mark.slow
def test_files_are_the_same_whoever_writes_them(photos: Path) -> None:
    make = partial(codec, write=["cells", "png", "page"], top_channels=1, ms_ssim=True)
    for jobs in (0, 2):
        run([str(photos)], f"out{jobs}", make, jobs=jobs)
    assert written("out0") == written("out2")
    assert table("out0") == table("out2")
    assert Path("out0/rows.csv").read_bytes() == Path("out2/rows.csv").read_bytes()


class Writing(FreeCodec):
    """Writes two files of each item."""

    def __init__(self) -> None:
        super().__init__()
        self.about = type(self.about)(self.about.model, self.about.latents, {"writes": True}, ("cells", "png"))

    def _numbers(self, name: str) -> dict[str, Any]:
        files = {("cells", ".npz"): name.encode() * 9, ("png", ".map.png"): name.encode()}
        return {**super()._numbers(name), "files": files}


@pytest.mark.medium
def test_killed_at_any_call_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    listed = names(7)
    go(tmp_path / "undisturbed", listed, Writing, part_items=4)
    undisturbed, rows = written(tmp_path / "undisturbed"), table(tmp_path / "undisturbed")
    assert len(undisturbed) == 12  # one of seven is no picture
    at, how = 2, "before"
    while disturb(tmp_path / str(at), listed, at, how, make=Writing, part_items=4):
        folder = tmp_path / str(at)
        named = {name for row in table(folder) for name in row["files"] or ()}
        found = {name: data for name, data in written(folder).items() if not name.endswith(".partial")}
        assert named <= found.keys()  # no row of a part without its files
        assert all(undisturbed[name] == data for name, data in found.items())
        go(folder, listed, Writing, part_items=4)
        assert (written(folder), table(folder)) == (undisturbed, rows)
        at, how = at + 5, {"before": "half", "half": "after", "after": "before"}[how]
    assert at > 120  # there are as many calls


# Quality, channels, regions


def test_rows_have_quality_and_the_costliest_channels(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_msssim")
    rng = np.random.default_rng(1)
    path = save(tmp_path / "large.png", rng.integers(0, 256, (170, 190, 3), dtype=np.uint8))
    (row,) = rows_of([path], ms_ssim=True, top_channels=4)
    x = load_image(path)
    result = BitrateMapper(BlockCodec().eval(), channels=True)(x)
    assert row["psnr_db"] == pytest.approx(measure_psnr(result.x_hat, x), rel=1e-12)  # threads sum up in other orders
    assert row["ms_ssim"] == pytest.approx(measure_ms_ssim(result.x_hat, x), rel=1e-6)
    costs = {(n, k): b for n, bits in result.channel_bits.items() for k, b in enumerate(bits[0].tolist())}
    found = [((one["latent"], one["channel"]), one["bits"]) for one in row["top_channels"]]
    assert found == sorted(costs.items(), key=lambda one: -one[1])[:4]
    (small,) = rows_of([save(tmp_path / "small.png", np.zeros((64, 64, 3), np.uint8))], ms_ssim=True)
    assert small["ms_ssim"] is None
    with pytest.raises(ValueError, match="channels=True"):
        PictureCodec(BitrateMapper(BlockCodec().eval()), top_channels=1)


def test_regions_of_masks_add_up_to_the_picture(photos: Path) -> None:
    labels = np.zeros((70, 100), np.uint8)
    labels[:30], labels[40:60] = 1, 2
    save("masks/a/0.png", labels)
    save("masks/2.png", labels[:60])
    first, second, third = rows_of([str(photos)], "masks", names={1: "sky", 2: "sea"})
    assert [(one["name"], one["pixels"]) for one in first["regions"]] == [("sky", 3000), ("sea", 2000), ("rest", 2000)]
    total = sum(one["bits"] for one in first["regions"])
    assert total + first["padding_bits"] == pytest.approx(first["bits"], rel=1e-9)
    mapper = BitrateMapper(BlockCodec().eval())
    table = mapper(load_image(first["path"])).region(labels, names={1: "sky", 2: "sea"})
    assert first["regions"][0]["bits"] == pytest.approx(table["sky"].bits, rel=1e-12)
    assert "regions" not in second
    assert third["status"] == "error"
    assert third["error"].startswith("mask masks/2.png: regions must be [H, W] = [70, 100]")
    (unnamed, *_) = rows_of([str(photos)], "masks", names={1: "sky"})
    assert "label 2 has none" in unnamed["error"]


def test_the_mask_under_the_most_of_a_pictures_folders_is_its_own(photos: Path) -> None:
    def mask() -> str | None:
        return find_items(["photos/a/0.png"], masks="masks").items()[0].mask

    for path in ("masks/0.gif", "masks/a/0.tif", "masks/photos/a/0.bmp", "masks/photos/a/0.png"):
        save(path, np.ones((70, 100), np.uint8))
        assert mask() == path
    with pytest.raises(DatasetError, match="masks must be a folder"):
        find_items(["photos"], masks="masks/0.gif")


def test_a_changed_mask_is_seen(photos: Path) -> None:
    def go_on() -> Any:
        return run(find_items([str(photos)], masks="masks"), "out", codec, jobs=0)

    labels = np.ones((64, 64), np.uint8)
    save("masks/1.png", labels)
    go_on()
    before = table("out")[1]
    labels[:10] = 2
    save("masks/1.png", labels)
    report, after = go_on(), table("out")[1]
    assert (report.ok, after["sha256"]) == (1, before["sha256"])
    assert after["id"] != before["id"]
    assert [one["name"] for one in after["regions"]] == ["1", "2"]
    Path("masks/1.png").unlink()
    go_on()
    assert table("out")[1]["regions"] is None


# What does not depend on how a run is run


class Threads(BlockCodec):
    """Keeps how many threads it ran with."""

    seen: ClassVar[list[int]] = []

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        self.seen.append(torch.get_num_threads())
        return super().forward(x)


def test_threads_are_those_of_the_settings(photos: Path) -> None:
    before = torch.get_num_threads()
    for threads in (1, 2):
        Threads.seen.clear()
        made = PictureCodec(BitrateMapper(Threads().eval()), threads=threads)
        list(measure(find_items([str(photos)]).items(), made))
        assert set(Threads.seen) == {threads}
        assert torch.get_num_threads() == before
        assert made.about.settings["threads"] == threads


def test_few_pictures_wait_for_others_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, most = 0, 0

    class Sizes(FreeCodec):
        def read(self, item: Item) -> Read:
            nonlocal waiting
            waiting += 1
            return Read("0" * 64, item.number % 40, item.name)

        def measure(self, pictures: Sequence[str]) -> list[dict[str, Any]]:
            nonlocal waiting, most
            most = max(most, waiting)
            waiting -= len(pictures)
            return super().measure(pictures)

    items = [Item(number, f"{number:04d}.png") for number in range(60)]
    rows = list(measure(items, Sizes(), batch=3))
    assert [row["item"] for row in rows] == list(range(60))
    assert most <= part._WAITING * 3 + 2 * 3 + 3  # those that wait, those that are read ahead, one in each hand


# The command


def test_bad_input_of_the_command_for_items(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save("one.png", np.zeros((9, 9), np.uint8))
    for options, words in (
        (["--write", "rows,pdf"], "rows, cells, png, page"),
        (["--names", "1=sky"], "--mask DIR"),
        (["--mask", "one.png"], "masks must be a folder"),
        (["--mask", "nowhere"], "masks must be a folder"),
        (["--top-channels", "-1"], "whole number"),
        (["--sheet", "s.png"], "dataset summary"),
    ):
        assert words in error_of(capsys, "dataset", "photos", "-o", "out", *options)
        assert not Path("out").exists()


@pytest.mark.medium
def test_the_command_for_items(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitrate_ext.cli import main as cli

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    save("masks/0.png", np.ones((70, 100), np.uint8))
    argv = ["dataset", "photos", "-o", "out", "--model", "block_codecs:BlockCodec", "--jobs", "0", "--mask", "masks"]
    argv += ["--names", "1=all", "--write", "rows,cells", "--top-channels", "2", "--ms-ssim"]
    assert cli.main(argv) == 0
    first = table("out")[0]
    assert (first["regions"][0]["name"], len(first["top_channels"]), len(first["files"])) == ("all", 2, 1)
    capsys.readouterr()
    assert "threads 1, now 2" in error_of(capsys, *argv, "--threads", "2")
    assert "names [[1, 'all']], now None" in error_of(capsys, *[one for one in argv if one not in ("--names", "1=all")])


@pytest.mark.medium
def test_the_command_takes_codecs_of_video(
    clips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitrate_ext.cli import main as cli

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    argv = ["dataset", "clips", "-o", "out", "--model", "block_codecs:BlockVideo", "--jobs", "0"]
    assert cli.main([*argv, "--group", "4", "--write", "rows,frames"]) == 0
    video = table("out")[0]
    kinds = [one["kind"] for one in pq.read_table(Path("out", *video["files"])).to_pylist()]
    assert kinds == ["keyframe", "inter", "inter", "inter"] * 3
    capsys.readouterr()
    assert "group 4, now 32" in error_of(capsys, *argv, "--write", "rows,frames")
    assert "method compress()" in error_of(capsys, *argv[:3], "coded", *argv[4:], "--bits", "coded")
    image = [one.replace("BlockVideo", "BlockCodec") for one in argv]
    assert "--group 4 is for codecs of video" in error_of(capsys, *image, "--group", "4")
