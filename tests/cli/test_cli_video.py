"""The command ``bitrate-ext video``: files, words and exit codes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import error_of

pytest.importorskip("av")
pytest.importorskip("PIL")
pytest.importorskip("matplotlib")
pytest.importorskip("compressai")

from block_codecs import FRAMES, BlockCodec, BlockVideo
from PIL import Image
from video_clips import clip

from bitrate_ext.cli import main as cli
from bitrate_ext.cli import video
from bitrate_ext.models import demo_codec, zoo
from bitrate_ext.video.reader import VideoReader
from bitrate_ext.video.writer import VideoWriter


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes videos in the current folder, which is empty before; the demo codec is a small stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_codec, "load_demo_codec", lambda quality: BlockCodec().eval())

    def make(*names: str) -> list[str]:
        for name in names:
            Path(name).write_bytes(clip("mp4"))
        return list(names)

    return make


def files(folder: str = ".") -> list[str]:
    return sorted(entry.name for entry in Path(folder).iterdir())


def frames_in(path: str) -> int:
    with VideoReader(path) as video:
        return sum(1 for _ in video)


def test_a_page_beside_them(clips: Callable) -> None:
    clips("cat.mp4")
    assert cli.main(["video", "cat.mp4", "-o", "out.mp4", "--page"]) == 0
    assert files() == ["cat.mp4", "out.csv", "out.html", "out.json", "out.mp4"]
    record = json.loads(Path("out.json").read_text())
    assert record["files"]["page"] == "out.html"
    told = re.search(r'id="data">(.*?)</script>', Path("out.html").read_text(), re.DOTALL)
    assert told is not None
    page = json.loads(told[1])
    assert (page["title"], page["rate"], page["kinds"]) == ("cat.mp4", record["rate"], None)
    totals = [one["inputs"][0]["total"] for one in page["frames"]]
    assert totals == pytest.approx([one["total_bits"] for one in record["frames"]])
    assert all(one["picture"] is not None and not one["exact"] for one in page["frames"])


def test_video_writes_three_files(clips: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    clips("cat.mp4")
    assert cli.main(["video", "cat.mp4", "-o", "new/out.mp4"]) == 0
    assert files("new") == ["out.csv", "out.json", "out.mp4"]
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert first.startswith(f"cat.mp4: {FRAMES} frames of 64 x 48, 0.48 s, ")
    assert "bits per pixel" in first
    assert "bits per second" in first
    assert second == "Written: new/out.mp4, new/out.csv, new/out.json"
    assert captured.err == ""
    assert frames_in("new/out.mp4") == FRAMES


def test_what_became_of_the_picture_is_in_the_record(clips: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    clips()
    labels = (("colorspace", 9), ("color_primaries", 9), ("color_trc", 16))
    Path("hdr.mp4").write_bytes(clip("mp4", labels=labels))
    assert cli.main(["video", "hdr.mp4", "-o", "out.mp4"]) == 0
    document = json.loads(Path("out.json").read_text())
    assert document["picture"]["matrix"] == "BT.2020"
    assert document["picture"]["hdr"] == "PQ"
    assert any(words.startswith("HDR (PQ) is not tone-mapped") for words in document["warnings"])
    assert "warning: hdr.mp4: HDR (PQ) is not tone-mapped" in capsys.readouterr().err


def test_bits_per_second_of_frames_stored_in_another_order(clips: Callable) -> None:
    """An AVI has the order of decoding alone."""
    clips()
    rates = {}
    for suffix in ("mp4", "avi"):
        Path(f"in.{suffix}").write_bytes(clip(suffix, codec="libx264", reordered=3))
        assert cli.main(["video", f"in.{suffix}", "-o", f"{suffix}.mp4"]) == 0
        document = json.loads(Path(f"{suffix}.json").read_text())
        rates[suffix] = document["bits_per_second"]
        assert document["seconds"] == pytest.approx(FRAMES / 25)
    # No closer: the encoder reads memory that it has not written, so that two clips may differ in a block.
    assert rates["avi"] == pytest.approx(rates["mp4"], rel=1e-2)


def test_numbers_agree_with_one_another(clips: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    clips("cat.mp4")
    assert cli.main(["video", "cat.mp4", "--json", "--psnr"]) == 0
    document = json.loads(Path("cat.bitrate.json").read_text())
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"version": document["version"], "videos": [document], "failures": []}
    with open("cat.bitrate.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(document["frames"]) == FRAMES
    assert list(rows[0]) == ["frame", "seconds", "kind", "total_bits", "padding_bits", "bpp", "psnr_db", "y", "z"]
    for row, frame in zip(rows, document["frames"], strict=True):
        assert int(row["frame"]) == frame["index"]
        assert float(row["seconds"]) == frame["time"]
        assert row["kind"] == frame["kind"] == "image"
        for key in ("total_bits", "padding_bits", "bpp", "psnr_db"):
            assert float(row[key]) == frame[key]
        assert {name: float(row[name]) for name in ("y", "z")} == frame["latent_bits"]
        assert frame["bpp"] == pytest.approx(frame["total_bits"] / (64 * 48))
    total = sum(frame["total_bits"] for frame in document["frames"])
    assert document["total_bits"] == pytest.approx(total, rel=1e-12)
    assert document["bpp"] == pytest.approx(total / (64 * 48 * FRAMES))
    assert document["bits_per_second"] == pytest.approx(total / 0.48)
    assert document["latent_bits"]["y"] == pytest.approx(sum(f["latent_bits"]["y"] for f in document["frames"]))
    assert document["files"] == {
        "video": "cat.bitrate.mp4",
        "table": "cat.bitrate.csv",
        "record": "cat.bitrate.json",
    }
    assert (document["partial"], document["scale"], document["model"]) == (None, "clip", "demo codec, quality 5")


def test_infinite_bits_are_null(clips: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    class Infinite(BlockCodec):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            output = super().forward(x)
            output["likelihoods"]["y"] = torch.zeros_like(output["likelihoods"]["y"])
            return output

    monkeypatch.setattr(demo_codec, "load_demo_codec", lambda quality: Infinite().eval())
    clips("cat.mp4")
    assert cli.main(["video", "cat.mp4"]) == 0
    document = json.loads(Path("cat.bitrate.json").read_text())
    assert document["total_bits"] is document["latent_bits"]["y"] is document["frames"][3]["bpp"] is None
    assert document["latent_bits"]["z"] > 0


def test_several_videos_and_one_that_fails(clips: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    clips("a.mp4", "c.mp4")
    Path("b.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    assert cli.main(["video", "a.mp4", "b.mp4", "gone.mp4", "c.mp4", "-o", "out"]) == 2
    assert files("out") == [f"{stem}.bitrate.{end}" for stem in "ac" for end in ("csv", "json", "mp4")]
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 2
    assert "b.mp4" in captured.err.splitlines()[0]
    assert captured.err.splitlines()[1] == "bitrate-ext: error: gone.mp4: no such file"


def test_a_video_that_is_cut_short(clips: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    clips("whole.mp4")
    data = clip("mp4", index_first=True, frames=30, keyframes=5)
    Path("cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    assert cli.main(["video", "cut.mp4", "whole.mp4"]) == 1
    assert files() == [
        *(f"cut.bitrate.partial.{end}" for end in ("csv", "json", "mp4")),
        "cut.mp4",
        *(f"whole.bitrate.{end}" for end in ("csv", "json", "mp4")),
        "whole.mp4",
    ]
    document = json.loads(Path("cut.bitrate.partial.json").read_text())
    assert "cut short" in document["partial"]
    assert len(document["frames"]) == frames_in("cut.bitrate.partial.mp4")
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("bitrate-ext: warning: cut.mp4: ")
    assert line.endswith("; mapped as far as it goes")


@pytest.mark.medium
@pytest.mark.parametrize("name", ["-i.mp4", "new\nline.mp4", "concat:a.mp4", "ünï ©.mp4", "a.b.mp4"])
def test_names_are_only_names(clips: Callable, name: str) -> None:
    clips(name)
    assert cli.main(["video", f"./{name}", "-o", "out"]) == 0
    stem = name.removesuffix(".mp4")
    assert files("out") == [f"{stem}.bitrate.{end}" for end in ("csv", "json", "mp4")]


def test_a_name_that_starts_with_a_dash_needs_a_folder_before_it(
    clips: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    clips("-i.mp4")
    assert "-i.mp4" in error_of(capsys, "video", "-i.mp4") or "required" in error_of(capsys, "video", "-i.mp4")
    assert cli.main(["video", "-o", "out", "--", "-i.mp4"]) == 0
    assert len(files("out")) == 3


def test_video_codecs(clips: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = []
    monkeypatch.setattr(
        zoo, "load_zoo_model", lambda name, q, metric: loaded.append((name, q, metric)) or BlockVideo().eval()
    )
    clips("cat.mp4")
    assert cli.main(["video", "cat.mp4", "--model", "ssf2020", "--quality", "3", "--group", "5"]) == 0
    assert loaded == [("ssf2020", 3, "mse")]
    with open("cat.bitrate.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["inter" if k % 5 else "keyframe" for k in range(FRAMES)]
    assert rows[0]["motion.y"] == rows[1]["keyframe.y"] == ""
    assert float(rows[1]["motion.y"]) > 0
    capsys.readouterr()
    chosen = ("--model", "ssf2020", "--quality", "3")
    assert "--batch 2: frames of a video codec depend on one another" in error_of(
        capsys, "video", "cat.mp4", *chosen, "--batch", "2"
    )
    Image.new("RGB", (32, 32)).save("cat.png")
    assert "ssf2020, quality 3, mse is a video codec; bitrate-ext video takes it" in error_of(
        capsys, "map", "cat.png", *chosen
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.mp4", "b.mp4", "-o", "out.mp4"], "--output out.mp4: one file for 2 videos; name a folder"),
        (["a.mp4", "-o", "a.mp4"], "a.mp4: a.mp4 would replace an input"),
        (["a.mp4", "--scale", "0"], "expected clip, frame or a positive number of bits per pixel, got '0'"),
        (["a.mp4", "--scale", "video"], "got 'video'"),
        (["a.mp4", "--frames", "0"], "expected a whole number of at least 1, got '0'"),
        (["a.mp4", "--batch", "x"], "expected a whole number of at least 1, got 'x'"),
        (["a.mp4", "--group", "4"], "--group 4 is for video codecs"),
        (["a.mp4", "--quality", "9"], "--quality: quality of the demo codec must be one of 1, 2"),
        (["a.mp4", "--precision", "float16"], "needs a model built on CompressAI's entropy models"),
        (["a.mp4", "--crf", "99"], "argument --crf: expected a whole number from 0 to 51, got '99'"),
    ],
)
def test_what_cannot_be_served(
    clips: Callable, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    Path("sub").mkdir()
    clips("a.mp4", "b.mp4", "sub/a.mp4")
    assert words in error_of(capsys, "video", *arguments)
    assert files() == ["a.mp4", "b.mp4", "sub"]


def test_equal_stems_are_told_apart(clips: Callable) -> None:
    Path("sub").mkdir()
    names = clips("a.mp4", "a.mkv", "sub/a.mp4")
    Path("a.mp4").write_bytes(b"no video")
    assert cli.main(["video", *names, "-o", "out"]) == 2
    made = {str(path.relative_to("out")): json.loads(path.read_text())["video"] for path in Path("out").rglob("*.json")}
    assert made == {"a.mkv.bitrate.json": "a.mkv", "sub/a.bitrate.json": "sub/a.mp4"}


@pytest.mark.parametrize("existing", ["mp4", "csv", "json", "partial.json"])
def test_results_that_exist_are_kept(clips: Callable, capsys: pytest.CaptureFixture[str], existing: str) -> None:
    clips("a.mp4")
    Path(f"a.bitrate.{existing}").write_text("of another model")
    assert f"a.mp4: a.bitrate.{existing} exists; " in error_of(capsys, "video", "a.mp4")
    assert Path(f"a.bitrate.{existing}").read_text() == "of another model"
    assert cli.main(["video", "a.mp4", "--overwrite", "--frames", "2"]) == 0
    assert json.loads(Path("a.bitrate.json").read_text())["video"] == "a.mp4"


@pytest.mark.parametrize("rate", [Fraction(2000), Fraction(1, 2000), Fraction(1 << 40, 3)])
def test_a_rate_that_cannot_be_written_is_told_before_anything_is_mapped(
    clips: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rate: Fraction
) -> None:
    class Rated(VideoReader):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.rate = rate

    clips("a.mp4")
    monkeypatch.setattr("bitrate_ext.video.map_video.VideoReader", Rated)
    monkeypatch.setattr(BlockCodec, "forward", lambda *_: pytest.fail("it was mapped"))
    assert f"error: a.mp4: states {float(rate):g} frames a second, and videos of 0.001 to 1000" in error_of(
        capsys, "video", "a.mp4"
    )
    assert files() == ["a.mp4"]


def test_names_cannot_steer_the_terminal(clips: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    odd = ["good\n\x1b[31m.mp4", "bad\x1b]0;title\x07.mp4"]
    clips(*odd)
    Path(odd[1]).write_bytes(b"no video")
    assert cli.main(["video", *odd]) == 2
    captured = capsys.readouterr()
    assert all(line.isprintable() for said in captured for line in said.splitlines())
    assert captured.out.startswith("'good\\n\\x1b[31m.mp4': ")
    assert "Written: 'good\\n\\x1b[31m.bitrate.mp4', " in captured.out
    assert captured.err.startswith("bitrate-ext: error: 'bad\\x1b]0;title\\x07.mp4': ")


def test_a_full_disk_is_told_in_one_line(
    clips: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    clips("cat.mp4")
    monkeypatch.setattr(VideoWriter, "write", full)
    assert error_of(capsys, "video", "cat.mp4").endswith(
        "cat.mp4: its results cannot be written (No space left on device)\n"
    )
    assert files() == ["cat.mp4"]


def test_progress_has_a_bar_for_each_pass(capsys: pytest.CaptureFixture[str]) -> None:
    progress = video.progress_on_stderr()
    for what in ("measuring", "drawing"):
        done = progress(what, 3)
        for _ in range(3):
            done()
    progress("mapping", None)()
    shown = capsys.readouterr().err
    assert "measuring" in shown
    assert "drawing" in shown
    assert "frame/s" in shown
