"""Contact sheets, mean maps and tables of runs, and sums by folder and region."""

from __future__ import annotations

import base64
import json
import os
import re
import tarfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")
Image = pytest.importorskip("PIL.Image")
from block_codecs import BlockCodec  # noqa: E402
from commands import error_of  # noqa: E402
from dataset_runs import go, names  # noqa: E402

from bitrate_ext import BitrateMapper  # noqa: E402
from bitrate_ext.cli import main as cli  # noqa: E402
from bitrate_ext.dataset import DatasetError, find_items, run  # noqa: E402
from bitrate_ext.dataset.pictures import PictureCodec  # noqa: E402
from bitrate_ext.dataset.summary import summarise  # noqa: E402
from bitrate_ext.dataset.views import draw_sheet, mean_map  # noqa: E402
from bitrate_ext.io.images import load_image  # noqa: E402
from bitrate_ext.viz.contact_sheet import BOX, Tile, contact_sheet, fitted  # noqa: E402

WITH_CELLS = partial(PictureCodec, BitrateMapper(BlockCodec().eval()), name="blocks", write=["cells"])


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two folders of pictures, one brighter than the other, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, brightest in (("bright", 256), ("dark", 40)):
        Path("photos", folder).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, brightest, (96, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{folder}/{number}.png")
    return Path("photos")


def test_the_mean_map_is_the_mean_of_the_maps(photos: Path) -> None:
    run([str(photos)], "out", WITH_CELLS, jobs=0)
    mapper = BitrateMapper(BlockCodec().eval())
    maps = [mapper(load_image(path)).map[0, 0] for path in sorted(photos.rglob("*.png"))]
    found = mean_map("out")
    assert (found.pictures, found.resampled) == (6, False)
    torch.testing.assert_close(found.bits.float(), torch.stack(maps).mean(dim=0))
    Image.fromarray(np.zeros((192, 256, 3), np.uint8)).save("photos/wide.png")
    run([str(photos)], "more", WITH_CELLS, jobs=0)
    both = mean_map("more")
    assert (both.pictures, both.resampled, tuple(both.bits.shape)) == (7, True, (512, 427))
    rates = [float(one.mean()) for one in (*maps, mapper(load_image("photos/wide.png")).map)]
    assert float(both.bits.mean()) == pytest.approx(np.mean(rates), rel=0.02)
    assert both.figure().size[0] > 427


def test_sums_by_folder_and_by_region(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.zeros((96, 64), np.uint8)
    labels[:20] = 1
    Path("masks").mkdir()
    for number in range(2):
        Image.fromarray(labels).save(f"masks/{number}.png")
    run(find_items([str(photos)], masks="masks"), "out", partial(WITH_CELLS, names={1: "sky"}), jobs=0)
    told = summarise("out")
    dark, bright = told["folders"]  # of which the darker has the smaller likelihoods
    assert (dark["name"], bright["name"], dark["pictures"]) == ("dark", "bright", 3)
    assert dark["bits"] + bright["bits"] == pytest.approx(told["bits"])
    assert dark["bpp"] == pytest.approx(dark["bits"] / (3 * 96 * 64))
    regions = {row["name"]: row for row in told["regions"]}
    assert (regions["sky"]["pictures"], regions["sky"]["pixels"]) == (4, 4 * 20 * 64)
    mapper, error, bits = BitrateMapper(BlockCodec().eval()), 0.0, 0.0
    for path in sorted(photos.rglob("[01].png")):
        x = load_image(path)
        sky = mapper(x).region(labels.astype(np.int64), picture=x)["1"]
        error, bits = error + sky.squared_error, bits + sky.bits
    assert regions["sky"]["bits"] == pytest.approx(bits)
    assert regions["sky"]["psnr_db"] == pytest.approx(-10 * np.log10(error / regions["sky"]["pixels"]))
    assert cli.main(["dataset", "summary", "out", "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert "folder dark:" in out
    assert "and 1 more" in out
    assert "region rest:" in out or "region sky:" in out


def test_a_sheet_shows_what_there_is(photos: Path) -> None:
    with tarfile.open("shard.tar", "w") as archive:
        archive.add("photos/bright/0.png")
    run([str(photos), "shard.tar"], "out", WITH_CELLS, jobs=0)
    sheet = np.asarray(draw_sheet("out", count=2))
    os.remove("photos/bright/1.png")
    os.remove("photos/bright/2.png")
    (Path("shard.tar")).write_bytes(b"not a shard")
    again = np.asarray(draw_sheet("out", count=2))
    assert sheet.shape == again.shape  # pictures that are gone leave grey boxes
    assert not np.array_equal(sheet, again)
    few = draw_sheet("out", count=20)
    assert few.size[1] < 3 * sheet.shape[0]


def test_tiles_are_fitted_and_hold_any_name() -> None:
    for shape in ((500, 4000, 3), (4000, 3, 3), (1, 1, 3), (90, 120, 3)):
        height, width = fitted(np.zeros(shape, np.uint8)).shape[:2]
        assert 1 <= height <= BOX[1]
        assert 1 <= width <= BOX[0]
        assert height == BOX[1] or width == BOX[0]
    tile = Tile([np.zeros((9, 9, 3), np.uint8), None], ["$x_\\frac{", "a\nb\x07" * 50])
    assert contact_sheet({"all": [tile] * 7, "none": []}, title="<b>&").size[0] == 6 * (BOX[0] + 14) + 14
    with pytest.raises(ValueError, match="at least one tile"):
        contact_sheet({"none": []}, title="")


def test_the_command_writes_views(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run([str(photos)], "out", partial(WITH_CELLS, write=["cells", "page"]), jobs=0)
    Path("views").mkdir()
    argv = ["dataset", "summary", "out", "--sheet", "views/s.png", "--mean-map", "views/m.png"]
    argv += ["--table", "views/t.html", "--json"]
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["views/s.png", "views/m.png", "views/t.html"]
    assert all(Image.open(f"views/{name}.png").size[0] > 100 for name in "sm")
    blobs = re.findall(r'id="blob-\d+">(.*?)</script>', Path("views/t.html").read_text())
    page = "".join(zlib.decompress(base64.b64decode(blob)).decode(errors="ignore") for blob in blobs)
    assert "photos/dark/2.png" in page
    assert all(f"../{one.as_posix()}" in page for one in Path("out").glob("page/*/*.html"))
    assert "exists" in error_of(capsys, *argv)
    assert cli.main([*argv, "--overwrite"]) == 0
    capsys.readouterr()
    for options, words in (
        (["out", "--sheet", "s.jpg"], "ends in .png"),
        (["out", "out", "--sheet", "s.png"], "of one run"),
        (["out", "--mean-map", "nowhere/m.png"], "there is no folder"),
        (["out", "--sheet", "s.png", "--mean-map", "./s.png"], "one file"),
    ):
        assert words in error_of(capsys, "dataset", "summary", *options)
    assert not list(Path().glob("*.png"))


def test_runs_without_cells_and_of_other_versions_are_refused(tmp_path: Path) -> None:
    go(tmp_path / "out", names(3))
    with pytest.raises(DatasetError, match="--write rows,cells"):
        mean_map(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1}))
    with pytest.raises(DatasetError, match="another version"):
        summarise(tmp_path / "out")
