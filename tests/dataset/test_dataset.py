"""What is measured of a data set, how it is listed, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet")
from block_codecs import BlockCodec  # noqa: E402
from commands import error_of  # noqa: E402
from dataset_runs import go, holds, names, rows_of  # noqa: E402
from free_codecs import FreeCodec  # noqa: E402

from bitrate_ext import BitrateMapper  # noqa: E402
from bitrate_ext.cli import main as cli  # noqa: E402
from bitrate_ext.dataset import DatasetError, Listing, find_items, measure, run  # noqa: E402
from bitrate_ext.dataset.pictures import PictureCodec  # noqa: E402
from bitrate_ext.io.images import load_image  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a folder of pictures, of which every third is of another size, in the current folder."""
    Image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def make(count: int, where: str = "photos") -> Path:
        Path(where, "deep").mkdir(parents=True)
        for number in range(count):
            size = (70, 100, 3) if number % 3 else (64, 64, 3)
            name = Path(where, "deep" if number % 2 else "", f"{number:03d}.png")
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(name)
        return Path(where)

    return make


def block_codec(**options: object) -> PictureCodec:
    return PictureCodec(BitrateMapper(BlockCodec().eval()), name="blocks", **options)  # type: ignore[arg-type]


def table(folder: str | Path) -> list[dict[str, object]]:
    return [row for path in sorted(Path(folder).glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_rows_are_what_the_mapper_says(folder: Callable[..., Path]) -> None:
    photos = folder(5)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (photos / "notes.txt").write_text("not taken")
    report = run([str(photos)], "out", block_codec, jobs=0)
    assert (report.items, report.ok, report.error, report.skipped) == (6, 5, 1, 0)
    holds(Path("out"), sorted(map(str, photos.rglob("*.png"))))
    mapper = BitrateMapper(BlockCodec().eval())
    for row in table("out"):
        if row["status"] == "error":
            assert row["path"] == "photos/broken.png"
            assert len(row["sha256"]) == 64
            assert "photos" not in row["error"]
            continue
        result = mapper(load_image(row["path"]))
        assert row["bits"] == pytest.approx(result.total_bits.item(), rel=1e-12)
        assert row["bits_y"] + row["bits_z"] == pytest.approx(row["bits"], rel=1e-12)
        assert row["padding_bits"] == result.padding_bits.item()
        assert (row["height"], row["width"]) == tuple(result.map.shape[-2:])
        assert row["psnr_db"] > 20
    text = Path("out/rows.csv").read_text().splitlines()
    assert len(text) == 7


def test_rows_for_a_loop_of_ones_own(tmp_path: Path) -> None:
    listed = names(150)
    go(tmp_path, listed, batch=3)
    key = json.loads((tmp_path / "manifest.json").read_text())["key"]
    rows = list(measure(Listing(listed).items(), FreeCodec(), key, batch=3))
    assert [{name: value for name, value in row.items() if value is not None} for row in table(tmp_path)] == rows


@pytest.mark.medium
def test_batches_and_workers_give_the_same_rows(folder: Callable[..., Path]) -> None:
    photos = folder(11)
    run([str(photos)], "one", block_codec, jobs=0, part_items=4)
    run([str(photos)], "two", block_codec, jobs=2, part_items=4)
    assert rows_of(Path("one")) == rows_of(Path("two"))
    run([str(photos)], "three", block_codec, jobs=0, part_items=4, batch=3)
    for one, other in zip(table("one"), table("three"), strict=True):
        assert one["bits"] == pytest.approx(other["bits"], rel=1e-9)
        assert one["sha256"] == other["sha256"]


def test_corrupt_pictures_among_many_are_rows_with_their_cause(folder: Callable[..., Path]) -> None:
    photos = folder(60)
    whole = (photos / "000.png").read_bytes()
    broken = {
        "truncated": (whole[: len(whole) // 2], "damaged"),
        "bomb": (b"P6 60000 60000 255\n" + bytes(100), "pixels"),
        "text": (b"not a picture at all", "not a PNG"),
        "empty": (b"", "the file is empty"),
    }
    for name, (data, _) in broken.items():
        (photos / f"{name}.png").write_bytes(data)
    os.mkfifo(photos / "fifo.png")
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "gone.png").symlink_to("nowhere.png")
    causes = {name: words for name, (_, words) in broken.items()}
    causes |= {"fifo": "not a regular file", "loop": "cannot be read", "gone": "no such file"}
    report = run([str(photos)], "out", block_codec, jobs=0, batch=4)
    assert (report.ok, report.error) == (60, len(causes))
    errors = {Path(row["path"]).stem: row["error"] for row in table("out") if row["status"] == "error"}
    assert errors.keys() == causes.keys()
    for name, words in causes.items():
        assert words in errors[name], (name, errors[name])


def test_shards_of_tar_are_the_files(folder: Callable[..., Path]) -> None:
    photos = folder(4)
    with tarfile.open("shard.tar", "w") as archive:
        archive.add(photos)
        archive.addfile(tarfile.TarInfo("photos/label.txt"), io.BytesIO())
    run([str(photos)], "files", block_codec, jobs=0)
    run(["shard.tar"], "shard", block_codec, jobs=0)
    assert [row["path"] for row in table("shard")] == [f"shard.tar/{row['path']}" for row in table("files")]
    for name in ("sha256", "bits", "psnr_db"):
        assert [row[name] for row in table("shard")] == [row[name] for row in table("files")]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_strangers(folder: Callable[..., Path], form: int) -> None:
    photos = folder(3)
    one, other, third = (path.read_bytes() for path in sorted(photos.rglob("*.png")))
    with tarfile.open("shard.tar", "w", format=form) as archive:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, leads_to: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, leads_to
            archive.addfile(member, io.BytesIO(data))

        add("0.left.png", one)
        add("0.right.seg.PNG", other)
        add("twice.png", third)
        add("twice.png", one)  # which tar would unpack last
        add("new\nline.png", one)
        add("../up.png", one)
        add("\u4e2d" * 99 + ".png", one)
        add("hard.png", kind=tarfile.LNKTYPE, leads_to="0.right.seg.PNG")
        add("nowhere.png", kind=tarfile.LNKTYPE, leads_to="gone.png")
        add("soft.png", kind=tarfile.SYMTYPE, leads_to="0.left.png")
        add("pipe.png", kind=tarfile.FIFOTYPE)
        add("folder.png", kind=tarfile.DIRTYPE)
        add("0.json", b"{}")
    run(["shard.tar"], "out", block_codec, jobs=0)
    rows = {str(row["path"]).removeprefix("shard.tar/"): row for row in table("out")}
    sums = {data: hashlib.sha256(data).hexdigest() for data in (one, other)}
    wanted = dict.fromkeys(["0.left.png", "twice.png", "new\nline.png", "../up.png", "\u4e2d" * 99 + ".png"], sums[one])
    wanted |= dict.fromkeys(["0.right.seg.PNG", "hard.png"], sums[other])
    assert {name: row["sha256"] for name, row in rows.items() if row["status"] == "ok"} == wanted
    errors = {name: str(row["error"]) for name, row in rows.items() if row["status"] == "error"}
    assert errors.keys() == {"nowhere.png", "soft.png", "pipe.png"}
    assert "tar -h" in errors["soft.png"]


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_members_of_shards_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    with open("holes.png", "wb") as file:
        file.seek(1 << 20)
        file.write(b"not at the start")
    command = ["tar", "--sparse", f"--format={form}", "-cf", "shard.tar", "holes.png"]
    if shutil.which("tar") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no GNU tar")
    run(["shard.tar"], "out", block_codec, jobs=0)
    assert [row["error"] for row in table("out")] == ["stored sparse in the shard; store it whole"]


def test_names_of_strangers(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder(1)
    data = (photos / "000.png").read_bytes()
    kept = [
        b"new\nline.png",
        b"car\rriage.png",
        b"latin\xe9.png",
        b"A.PNG",
        b"a.png",
        b" .png",
        b"\x1b[31m.png",
        b"=1.png",
    ]
    kept += [b"*[a].png", b"-o.png", b"a" * 250 + b".png"]
    for name in [*kept, b"trailing.png ", b".hidden.png"]:
        Path(os.fsdecode(os.path.join(b"photos", name))).write_bytes(data)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("photos/socket.png")
    os.symlink("..", "photos/deep/up")
    os.symlink("/dev/zero", "photos/endless.png")
    report = run(["photos"], "out", block_codec, jobs=0)
    assert (report.ok, report.error) == (len(kept) + 1, 2)
    assert {row["path"] for row in table("out")} >= {"photos/latin\\xe9.png", "photos/new\nline.png", "photos/ .png"}
    assert run(["photos"], "out", block_codec, jobs=0).skipped == report.items
    names = sorted(os.fsdecode(b"photos/" + name) for name in [*kept, b"trailing.png "])
    raw = [os.fsencode(name) for name in names]
    Path("lines.txt").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(name for name in raw if b"\n" not in name))
    assert find_items([], ["lines.txt"]).names == [name for name in names if "\n" not in name]
    many = [b"x/%05d" % number for number in range(2000)]  # longer than what is looked at first
    Path("nulls").write_bytes(b"\0".join([*raw, *many, b""]))  # as find -print0 writes them
    assert find_items([], ["nulls"]).names == sorted([*names, *map(os.fsdecode, many)])
    Path("long.txt").write_bytes(b"\n".join(many))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(open("long.txt", "rb"), encoding="ascii"))  # noqa: SIM115
    assert find_items([], ["-"]).names == list(map(os.fsdecode, many))
    scan = os.scandir

    def locked(path: str) -> Any:
        if path.endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(DatasetError, match=r"photos/deep: the folder cannot be read \(Permission denied\)"):
        find_items(["photos"])


def test_listing(folder: Callable[..., Path]) -> None:
    photos = folder(4)
    every = sorted(map(str, photos.rglob("*.png")))
    assert find_items([str(photos)]).names == every
    assert find_items(["photos/**/*.png"]).names == every
    Path("list.txt").write_text("\n".join([*reversed(every), "", "missing.png", ""]))
    assert find_items([], ["list.txt"]).names == sorted([*every, "missing.png"])
    assert find_items([*every, str(photos)]).names == every
    Path("empty").mkdir()
    for bad, words in (("empty", "no picture in this folder"), ("no.png", "no such"), ("no*.png", "pattern")):
        with pytest.raises(DatasetError, match=words):
            find_items([bad])


def test_a_changed_file_is_done_again_and_no_other(folder: Callable[..., Path]) -> None:
    photos = folder(6)
    run([str(photos)], "out", block_codec, jobs=0, part_items=3)
    before = table("out")
    changed, touched = (photos / one for one in ("000.png", "002.png"))
    changed.write_bytes((photos / "004.png").read_bytes())
    os.utime(touched, (1, 1))
    measured = []

    class Watched(PictureCodec):
        def measure(self, pictures):
            measured.extend(pictures)
            return super().measure(pictures)

    report = run([str(photos)], "out", lambda: Watched(BitrateMapper(BlockCodec().eval()), name="blocks"), jobs=0)
    assert len(measured) == 1
    assert report.items == 6
    assert report.complete
    after = table("out")
    assert [one["id"] == other["id"] for one, other in zip(before, after, strict=True)].count(False) == 1
    assert after[0]["sha256"] == after[2]["sha256"]


def test_another_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(out, names(10))
    for change, words in (
        ({"batch": 2}, "batch 1, now 2"),
        ({"make": partial(FreeCodec, setting=3)}, "setting 0, now 3"),
        ({"listed": names(11)}, "10, now 11"),
        ({"listed": [f"y{name}" for name in names(10)]}, "names of pictures"),
        ({"part_items": 3}, "part_items 1, now 3"),
        ({"resume": False}, "holds a run"),
    ):
        before = rows_of(out)
        with pytest.raises(DatasetError, match=words):
            go(out, **{"listed": names(10), **change})
        assert rows_of(out) == before
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DatasetError, match="another version"):
        go(out, names(10))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(DatasetError, match="not empty"):
        go(tmp_path / "other", names(10))
    assert os.listdir(tmp_path / "other") == ["thesis.txt"]


def test_too_many_errors_stop_it_and_a_higher_limit_goes_on(tmp_path: Path) -> None:
    listed = names(200)
    with pytest.raises(DatasetError, match="more than limit_errors 3"):
        go(tmp_path, listed, limit_errors=3)
    assert not (tmp_path / "_SUCCESS").exists()
    report = go(tmp_path, listed)
    assert report.skipped > 0
    holds(tmp_path, listed)


def test_shards_of_work_add_up(tmp_path: Path) -> None:
    listed = names(100)
    go(tmp_path / "undisturbed", listed, part_items=7)
    reports = [go(tmp_path / "out", listed, shard=(number, 3), part_items=7) for number in (1, 2, 3)]
    assert [one.complete for one in reports] == [False, False, True]
    assert sum(one.items for one in reports) == 100
    holds(tmp_path / "out", listed, tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jobs": -1}, "jobs"),
        ({"batch": 0}, "batch"),
        ({"part_items": 0}, "part_items"),
        ({"shard": (3, 2)}, "shard"),
        ({"limit_errors": -1}, "limit_errors"),
        ({"time_limit": 0}, "time_limit"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        go(tmp_path, names(3), **options)


def test_bad_input_of_the_command(folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    photos = str(folder(2))
    Path("empty").mkdir()
    Path("gone.txt").write_text("a.png\nb.png\n")
    for argv, words in (
        (["empty", "-o", "out"], "no picture in this folder"),
        ([photos], "-o DIR"),
        (["-o", "out"], "--from-file"),
        (["--from-file", "gone.txt", "-o", "out"], "none of its 2 names exists, such as a.png"),
        ([photos, "-o", "out", "--shard", "3/2"], "I from 1 to N"),
        ([photos, "-o", "out", "--jobs", "x"], "whole number"),
        ([photos, "-o", "out", "--address", "auto"], "--engine ray"),
        ([photos, "-o", "out", "--readers", "2"], "--readers is for --engine ray"),
        (["summary"], "name the folder"),
        (["summary", "out"], "manifest.json"),
    ):
        assert words in error_of(capsys, "dataset", *argv)
        assert not Path("out").exists()


@pytest.mark.medium
def test_the_command(
    folder: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = folder(3)
    Path("more.txt").write_text("photos/gone.png\n")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    argv = ["dataset", str(photos), "--from-file", "more.txt", "-o", "out", "--model", "block_codecs:BlockCodec"]
    assert cli.main([*argv, "--jobs", "1", "--log", "jsonl"]) == 1
    assert "4 pictures: 3 measured, 1 failed" in capsys.readouterr().out
    assert [row["error"] for row in table("out") if row["error"]] == ["no such file"]
    assert cli.main([*argv, "--jobs", "0", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["skipped"] == 4
    assert "batch 1, now 2" in error_of(capsys, *argv, "--batch", "2", "--jobs", "0")
