"""What ``bitrate-ext video`` takes besides videos in containers: raw video, numbered images, the standard input."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import error_of

pytest.importorskip("av")
pytest.importorskip("PIL")
pytest.importorskip("matplotlib")
pytest.importorskip("compressai")

from block_codecs import BlockCodec
from PIL import Image
from raw_clips import FRAMES, raw, stored
from video_clips import clip, picture

from bitrate_ext.cli import main as cli
from bitrate_ext.cli import outputs
from bitrate_ext.models import demo_codec


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and a small stand-in of the demo codec."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_codec, "load_demo_codec", lambda quality: BlockCodec().eval())


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def images(folder: str, count: int = 3) -> None:
    Path(folder).mkdir(parents=True)
    for index in range(count):
        Image.fromarray(picture(index)).save(f"{folder}/f_{index:03d}.png")


def document(name: str) -> dict[str, Any]:
    return json.loads(Path(name).read_text())


def bits(name: str) -> list[float]:
    return [frame["total_bits"] for frame in document(name)["frames"]]


def test_raw_video_and_others_of_the_same_frames(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a_66x48_50_10bit.yuv").write_bytes(raw("yuv420p10le"))
    Path("b.y4m").write_bytes(stored("yuv4mpegpipe", "wrapped_avframe", "yuv420p10le"))
    assert cli.main(["video", "a_66x48_50_10bit.yuv", "b.y4m", "-o", "out"]) == 0
    assert bits("out/a_66x48_50_10bit.bitrate.json") == bits("out/b.bitrate.json")
    told = document("out/a_66x48_50_10bit.bitrate.json")
    assert (told["rate"], told["seconds"]) == (50, FRAMES / 50)
    assert told["picture"]["guessed"] == "size, pixel format, rate"
    assert told["warnings"][0].startswith("raw video is taken for 66 x 48 by its name")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"bitrate-ext: warning: a_66x48_50_10bit.yuv: {told['warnings'][0]}"


def test_options_say_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.bin").write_bytes(raw("yuv444p12le"))
    options = ["--size", "66x48", "--pixel-format", "yuv444p12", "--rate", "30000/1001"]
    assert cli.main(["video", "a.bin", *options, "--matrix", "bt2020nc", "--range", "full"]) == 0
    assert capsys.readouterr().err == ""
    told = document("a.bitrate.json")
    assert told["rate"] == 30000 / 1001
    picture = told["picture"]
    assert (picture["matrix"], picture["matrix_chosen"], picture["range"], picture["range_chosen"]) == (
        *("BT.2020", True),
        *("full", True),
    )
    assert (picture["pixel_format"], picture["guessed"]) == ("yuv444p12le", None)


@pytest.mark.parametrize("named", ["frames", "frames/", "frames/f_%03d.png", "."])
def test_numbered_images(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images("frames")
    if named == ".":
        monkeypatch.chdir("frames")
    assert cli.main(["video", named, "-o", str(tmp_path / "out"), "--rate", "10"]) == 0
    assert capsys.readouterr().err == ""
    stem = "f" if "%" in named else "frames"
    names = sorted(entry.name for entry in (tmp_path / "out").iterdir())
    assert names == [f"{stem}.bitrate.{end}" for end in ("csv", "json", "mp4")]
    told = document(str(tmp_path / f"out/{stem}.bitrate.json"))
    assert (told["rate"], len(told["frames"])) == (10, 3)


def test_stems() -> None:
    Path("clip.v2").mkdir()
    names = {"-": "stdin", "clip.v2": "clip.v2", "a/b/%04d.png": "b", "shot-%d.png": "shot", "x%d_b.png": "x_b"}
    assert {name: outputs.stem_of(name) for name in names} == names
    Path("a%d.mp4").write_bytes(b"x")
    assert outputs.stem_of("a%d.mp4") == "a%d"


KINDS: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "mp4": (lambda: clip("mp4", frames=3), []),
    "y4m": (lambda: stored("yuv4mpegpipe", "wrapped_avframe", "yuv422p"), []),
    "raw": (lambda: raw("yuv422p"), ["--size", "66x48", "--pixel-format", "yuv422p", "--rate", "50"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_stdin(kind: str, feed: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]) -> None:
    data, options = KINDS[kind]
    feed(data())
    assert cli.main(["video", "-", *options, "-o", "out"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("stdin: 3 frames of ")
    assert captured.err == ""
    assert sorted(entry.name for entry in Path("out").iterdir()) == [
        f"stdin.bitrate.{end}" for end in ("csv", "json", "mp4")
    ]
    assert document("out/stdin.bitrate.json")["video"] == "stdin"
    assert not any(Path("spool").iterdir())


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (b"", [], "error: stdin: the file is empty"),
        (
            b"hello" * 99,
            [],
            "error: stdin: is damaged, or no video (Invalid data found when processing input); raw video",
        ),
        (bytes(99), ["--pixel-format", "yuv420p"], "error: stdin: raw video states no size"),
        (bytes(99), ["--size", "64x48"], "error: stdin: its 99 bytes are 0.02 frames of 64 x 48 yuv420p"),
    ],
)
def test_stdin_that_cannot_be_read(
    data: bytes,
    options: list[str],
    words: str,
    feed: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    feed(data)
    assert words in error_of(capsys, "video", "-", *options)
    assert not any(Path("spool").iterdir())
    assert [entry.name for entry in Path().iterdir()] == ["spool"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.yuv", "--size", "-5x3"], "--size"),
        (["a.yuv", "--size", "0x3"], "expected width and height in pixels such as 1920x1080, got '0x3'"),
        (["a.yuv", "--size", "999999x3"], "expected width and height in pixels"),
        (["a.yuv", "--size", "99999x99999"], "size must be width and height, of 1 to 65,536 pixels"),
        (["a.yuv", "--size", "65000x65000"], "frames of 65000 x 65000 are more than 67,108,864 pixels"),
        (["a.yuv"], "a.yuv: raw video states no size, and its name none such as _1920x1080_"),
        (["a.yuv", "--size", "64x48", "--pixel-format", "yuv"], "pixel_format must be yuv420p, "),
        (["a.yuv", "--size", "64x48", "--rate", "2000"], "expected 0.001 to 1000 frames a second, such as 50, 29.97"),
        (["a.yuv", "--size", "64x48", "--rate", "1/0"], "expected 0.001 to 1000 frames a second"),
        (["a.yuv", "--size", "64x48", "--matrix", "ictcp"], "argument --matrix: invalid choice: 'ictcp'"),
        (["a.mp4", "--rate", "25"], "a.mp4: states its own times; rate is for raw video"),
        (["a.mp4", "--size", "64x48"], "a.mp4: is no raw video, but has a header that states its layout"),
        (["-", "-"], "-: the standard input can be read once"),
        (["x%d.png"], "x%d.png: no such file, and none in . that has a number there"),
        (["empty"], "empty: is a folder without images"),
        (["frames", "--size", "64x48"], "frames: images have a size of their own; leave size out"),
    ],
)
def test_what_cannot_be_served(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yuv").write_bytes(bytes(64 * 48 * 3 // 2))
    Path("a.mp4").write_bytes(clip("mp4", frames=1))
    Path("empty").mkdir()
    images("frames", 1)
    assert words in error_of(capsys, "video", *arguments)
    assert sorted(entry.name for entry in Path().iterdir()) == ["a.mp4", "a.yuv", "empty", "frames"]
