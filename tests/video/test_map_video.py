"""Videos in, videos with their maps out: what is drawn, what is told, and what is left when something goes wrong."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from block_codecs import FRAMES, SIZE, BlockCodec, BlockVideo
from torch import Tensor

pytest.importorskip("av")
pytest.importorskip("matplotlib")
pytest.importorskip("compressai")

import av
from commands import in_new_process
from full_disk import largest_file
from PIL import Image
from raw_clips import SIZE as RAW_SIZE
from raw_clips import raw, stored
from video_clips import clip, picture

from bitrate_ext import BitrateMapper, FrameMapper
from bitrate_ext.mapping.frames import FrameResult
from bitrate_ext.threads import Stopwatch
from bitrate_ext.video import panels
from bitrate_ext.video.map_video import map_video
from bitrate_ext.video.reader import VideoError, VideoReader
from bitrate_ext.video.writer import VideoWriter
from bitrate_ext.viz import colormap

Drawn = list[tuple[np.ndarray, Fraction]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """The pictures that are written, before they are compressed, and their times."""
    kept: Drawn = []
    write = VideoWriter.write

    def keep(self: VideoWriter, pixels: np.ndarray, time: Fraction) -> None:
        kept.append((pixels.copy(), time))
        write(self, pixels, time)

    monkeypatch.setattr(VideoWriter, "write", keep)
    return kept


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip("mp4"))
    return path


def read(path: Path) -> list[np.ndarray]:
    with VideoReader(path) as reader:
        return [frame.pixels for frame in reader]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("scale", ["clip", "frame", 0.5])
def test_what_is_told_is_what_each_frame_costs(source: Path, tmp_path: Path, scale: str | float) -> None:
    record = map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), scale=scale)
    mapper = BitrateMapper(BlockCodec().eval())
    results = [mapper(torch.from_numpy(f).permute(2, 0, 1)[None].float() / 255) for f in read(source)]
    assert [row.total_bits for row in record.frames] == [r.total_bits.item() for r in results]
    assert record.total_bits == math.fsum(r.total_bits.item() for r in results)
    assert [row.padding_bits for row in record.frames] == [r.padding_bits.item() for r in results]
    assert [row.time for row in record.frames] == [k / 25 for k in range(FRAMES)]
    assert record.seconds == pytest.approx(FRAMES / 25)
    assert {row.kind for row in record.frames} == {"image"}
    assert sum(record.latent_bits.values()) == pytest.approx(record.total_bits, rel=1e-6)
    assert (record.width, record.height, record.rate) == (*SIZE, 25)
    assert record.partial is None
    assert record.file == str(tmp_path / "out.mp4")
    assert record.limit == {"clip": record.limit, "frame": None, 0.5: 0.5}[scale]
    assert names(tmp_path) == ["clip.mp4", "out.mp4"]


@pytest.mark.medium
@pytest.mark.parametrize("view", ["side", "overlay", "map"])
@pytest.mark.parametrize("scale", ["clip", 0.5])
def test_panels_show_picture_and_map(source: Path, drawn: Drawn, tmp_path: Path, view: str, scale: str | float) -> None:
    record = map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), view=view, scale=scale)
    assert len(drawn) == FRAMES
    mapper = BitrateMapper(BlockCodec().eval())
    zoom = drawn[0][0].shape[1] // (2 * SIZE[0] if view == "side" else SIZE[0])
    assert zoom == {"side": 3, "overlay": 6, "map": 6}[view]  # 360 pixels wide at least
    for (pixels, time), frame, row in zip(drawn, read(source), record.frames, strict=True):
        bits = mapper(torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255).map[0, 0]
        assert time == Fraction(row.index, 25)
        panels = torch.from_numpy(pixels[: zoom * SIZE[1] : zoom, ::zoom])
        shown = colormap.apply_colormap(bits, record.limit or 0.5)
        laid_over = colormap.overlay_bits(torch.from_numpy(frame), bits, record.limit or 0.5)
        beside = torch.cat([torch.from_numpy(frame), shown], dim=1)
        expected = {"side": beside, "overlay": laid_over, "map": shown}[view].int()
        # In two passes the map is made of float32 cells: a pixel at the edge of a level may fall on the other side.
        assert (panels.int() - expected).abs().max() <= (5 if scale == "clip" else 0)


def test_the_video_that_is_written_can_be_read(source: Path, drawn: Drawn, tmp_path: Path) -> None:
    map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), crf=0)
    found = read(tmp_path / "out.mp4")
    assert len(found) == FRAMES
    for pixels, (expected, _) in zip(found, drawn, strict=True):
        assert pixels.shape[:2] == (expected.shape[0] + expected.shape[0] % 2, expected.shape[1])
        assert np.abs(pixels[: len(expected)].astype(int) - expected).mean() < 4  # chroma of two by two pixels


def inside(result: FrameResult) -> np.ndarray:
    """The map away from padding, which sets the scale."""
    assert any(result.rim)
    return colormap.inside_rim(result.map[0, 0], result.rim).numpy().copy()


def test_one_scale_serves_the_whole_clip(source: Path, tmp_path: Path) -> None:
    record = map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()))
    maps = np.stack([inside(r) for r in FrameMapper(BlockCodec().eval())(read(source))])
    assert record.limit == pytest.approx(np.percentile(maps, 99.5), rel=0.012)


def test_frames_have_their_own_scales(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    apply = colormap.apply_colormap
    monkeypatch.setattr(
        panels, "apply_colormap", lambda bits, limit, out: limits.append(limit) or apply(bits, limit, out)
    )
    map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), scale="frame")
    maps = [inside(r) for r in FrameMapper(BlockCodec().eval())(read(source))]
    assert limits == pytest.approx([np.percentile(one, 99.5) for one in maps], rel=0.012)


def test_times_are_kept_at_a_variable_rate(tmp_path: Path) -> None:
    pts = (0, 1, 2, 10, 11, 30)
    (tmp_path / "clip.mkv").write_bytes(clip("mkv", frames=6, pts=pts))
    record = map_video(tmp_path / "clip.mkv", tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()))
    assert [row.time for row in record.frames] == pytest.approx([p / 25 for p in pts], abs=1e-3)
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert [float(frame.time) for frame in reader] == pytest.approx([p / 25 for p in pts], abs=1e-3)


@pytest.mark.medium
@pytest.mark.parametrize("size", [(63, 47), (2, 2), (400, 2), (2, 400), (800, 500)])
def test_odd_and_small_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "clip.y4m").write_bytes(clip("y4m", size=size, frames=2))
    record = map_video(tmp_path / "clip.y4m", tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()))
    assert (record.width, record.height) == size
    assert len(read(tmp_path / "out.mp4")) == 2


@pytest.mark.parametrize("scale", ["clip", 1.0])
@pytest.mark.parametrize(
    ("aspect", "kept"), [(Fraction(4, 3), Fraction(4, 3)), (Fraction(10, 11), Fraction(10, 11)), (Fraction(40), None)]
)
def test_pixels_keep_their_aspect(scale: str | float, aspect: Fraction, kept: Fraction | None, tmp_path: Path) -> None:
    """As a probe of the result tells; what no player would show is not handed on."""
    (tmp_path / "clip.mkv").write_bytes(clip("mkv", frames=2, labels=(("sample_aspect_ratio", aspect),)))
    record = map_video(tmp_path / "clip.mkv", tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), scale=scale)
    assert record.picture["pixel_aspect"] == f"{aspect.numerator}:{aspect.denominator}"
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == (kept or 1)


@pytest.mark.parametrize("scale", ["clip", 1.0])
def test_raw_video_costs_what_the_same_frames_cost(scale: str | float, tmp_path: Path) -> None:
    (tmp_path / "clip.yuv").write_bytes(raw("yuv422p10le"))
    (tmp_path / "clip.mkv").write_bytes(stored("matroska", "ffv1", "yuv422p10le"))
    reading = {"size": RAW_SIZE, "pixel_format": "yuv422p10le", "rate": 50, "matrix": "bt709"}
    mapper = FrameMapper(BlockCodec().eval())
    found = map_video(tmp_path / "clip.yuv", tmp_path / "a.mp4", mapper, scale=scale, reading=reading)
    expected = map_video(tmp_path / "clip.mkv", tmp_path / "b.mp4", mapper, scale=scale, reading={"matrix": "bt709"})
    assert [row.total_bits for row in found.frames] == [row.total_bits for row in expected.frames]
    assert (found.rate, found.seconds, found.partial) == (50, 3 / 50, None)
    assert (found.picture["matrix"], found.picture["matrix_chosen"]) == ("BT.709", True)


@pytest.mark.parametrize("scale", ["clip", 1.0])
def test_numbered_images_of_which_one_is_damaged(scale: str | float, tmp_path: Path) -> None:
    for index in range(4):
        Image.fromarray(picture(index)).save(tmp_path / f"f{index}.png")
    (tmp_path / "f1.png").write_bytes((tmp_path / "f1.png").read_bytes()[:200])
    mapper = FrameMapper(BlockCodec().eval())
    record = map_video(tmp_path / "f%d.png", tmp_path / "out.mp4", mapper, scale=scale, reading={"rate": 10})
    assert [row.time for row in record.frames] == [0, 0.2, 0.3]
    assert record.partial is not None
    assert record.partial.startswith("images that cannot be read: 1 (")
    assert len(read(tmp_path / "out.partial.mp4")) == 3


def test_one_frame(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip("mp4", frames=1))
    record = map_video(tmp_path / "clip.mp4", tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()))
    assert len(record.frames) == 1
    assert len(read(tmp_path / "out.mp4")) == 1


@pytest.mark.parametrize("scale", ["clip", 1.0])
def test_only_the_first_frames(source: Path, tmp_path: Path, scale: str | float) -> None:
    record = map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), frames=5, scale=scale)
    assert [row.index for row in record.frames] == [0, 1, 2, 3, 4]
    assert record.partial is None
    assert len(read(tmp_path / "out.mp4")) == 5


@pytest.mark.parametrize("scale", ["clip", 0.5])
def test_video_codecs_have_kinds_of_frames(source: Path, tmp_path: Path, scale: str | float) -> None:
    mapper = FrameMapper(BlockVideo().eval(), group=5, reconstruction=True)
    record = map_video(source, tmp_path / "out.mp4", mapper, scale=scale)
    assert [row.kind for row in record.frames] == ["inter" if k % 5 else "keyframe" for k in range(FRAMES)]
    branches = ["keyframe.y", "keyframe.z", "motion.y", "motion.z", "residual.y", "residual.z"]
    assert list(record.latent_bits) == branches
    for row in record.frames:
        assert list(row.latent_bits) == (branches[:2] if row.kind == "keyframe" else branches[2:])
    for row, frame in zip(record.frames, read(source), strict=True):
        error = np.square(0.1 * frame / 255).mean() if row.kind == "keyframe" else 0
        assert row.psnr_db == (pytest.approx(-10 * math.log10(error), abs=1e-3) if error else None)


def test_progress_and_time_are_told(source: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int | None]] = []
    steps: list[str] = []

    def progress(what: str, count: int | None) -> Callable[[], None]:
        told.append((what, count))
        return lambda: steps.append(what)

    watch = Stopwatch()
    mapper = FrameMapper(BlockCodec().eval(), watch=watch)
    map_video(source, tmp_path / "out.mp4", mapper, progress=progress, watch=watch)
    assert told == [("measuring", FRAMES), ("drawing", FRAMES)]
    assert steps == ["measuring"] * FRAMES + ["drawing"] * FRAMES
    assert set(watch.seconds) == {"decode", "source", "network", "map", "colour", "encode"}
    told.clear()
    map_video(source, tmp_path / "out.mp4", mapper, progress=progress, scale=1.0, frames=7)
    assert told == [("mapping", 7)]


# What goes wrong.


@pytest.mark.parametrize("scale", ["clip", 0.5])
def test_a_video_that_is_cut_short_is_mapped_as_far_as_it_goes(tmp_path: Path, scale: str | float) -> None:
    whole = clip("mp4", index_first=True, frames=30, keyframes=5)
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    (tmp_path / "out.mp4").write_bytes(b"of an earlier time")
    record = map_video(tmp_path / "cut.mp4", tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), scale=scale)
    assert record.partial is not None
    assert "cut short" in record.partial
    assert 5 <= len(record.frames) < 30
    assert record.file == str(tmp_path / "out.partial.mp4")
    assert names(tmp_path) == ["cut.mp4", "out.mp4", "out.partial.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"of an earlier time"
    assert len(read(tmp_path / "out.partial.mp4")) == len(record.frames)


@pytest.mark.parametrize("scale", ["clip", 0.5])
@pytest.mark.parametrize("size", [0, 10_000])
def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path, scale: str | float, size: int) -> None:
    with pytest.raises(OSError, match="File too large"), largest_file(size):
        map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), scale=scale)
    assert names(tmp_path) == ["clip.mp4"]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("scale", ["clip", 0.5])
def test_a_model_that_fails_leaves_nothing(source: Path, tmp_path: Path, scale: str | float) -> None:
    class Failing(BlockCodec):
        calls = 0

        def forward(self, x: Tensor) -> dict[str, Any]:
            Failing.calls += x.shape[2] == 64  # the frame's padded height; probes are larger
            if Failing.calls > 6:
                raise RuntimeError("out of luck")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="out of luck"):
        map_video(source, tmp_path / "out.mp4", FrameMapper(Failing().eval()), scale=scale)
    assert names(tmp_path) == ["clip.mp4"]


def test_a_video_that_changes_between_the_passes_is_told(source: Path, tmp_path: Path) -> None:
    def progress(what: str, count: int | None) -> Callable[[], None]:
        if what == "measuring":
            return lambda: source.write_bytes(clip("mp4", frames=5))
        return lambda: None

    with pytest.raises(VideoError, match=r"clip\.mp4: read a second time, it ends after 5 of 12 frames"):
        map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), progress=progress)
    assert names(tmp_path) == ["clip.mp4"]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"view": "top"}, "view must be one of 'side', 'overlay', 'map', got 'top'"),
        ({"scale": "video"}, "scale must be one of 'clip', 'frame' or a number, got 'video'"),
        ({"scale": 0.0}, r"scale must be positive and finite, got 0\.0"),
        ({"scale": math.inf}, "scale must be positive and finite, got inf"),
        ({"crf": 99}, "crf must be 0 to 51"),
    ],
)
def test_bad_arguments_are_named(source: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        map_video(source, tmp_path / "out.mp4", FrameMapper(BlockCodec().eval()), **options)
    assert names(tmp_path) == ["clip.mp4"]


@pytest.mark.medium
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's memory")
def test_memory_is_flat_over_many_frames(tmp_path: Path) -> None:
    """In a process of its own: what the first frames take is all that it takes."""
    (tmp_path / "long.mp4").write_bytes(clip("mp4", size=(320, 180), frames=150))
    code = f"""
        from bitrate_ext import FrameMapper, memory
        from bitrate_ext.video.map_video import map_video
        from block_codecs import BlockCodec

        seen = []
        record = map_video(
            {str(tmp_path / "long.mp4")!r}, {str(tmp_path / "out.mp4")!r}, FrameMapper(BlockCodec().eval()),
            scale=0.5, progress=lambda what, count: lambda: seen.append(memory.resident()),
        )
        assert len(record.frames) == len(seen) == 150
        print(seen[20], max(seen[20:]))
    """
    steady, largest = map(int, in_new_process(code, folder=str(Path(__file__).parents[1])).split())
    assert largest <= 1.02 * steady
