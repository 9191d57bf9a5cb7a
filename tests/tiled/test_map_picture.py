"""Big pictures from file to file: maps, totals, plans, memory that runs out, and the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from block_codecs import GlobalCodec
from cases import assert_same_bytes, random_field
from commands import error_of, in_new_process
from full_disk import largest_file
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext import memory
from bitrate_ext.cli import main as cli
from bitrate_ext.cli.map import tiled as map_tiled
from bitrate_ext.io.map_writers import regroup_rows
from bitrate_ext.io.windowed import TensorImage
from bitrate_ext.memory import Footprint, MemoryLimitError
from bitrate_ext.models import demo_codec
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.tiled import map_picture as map_picture_module
from bitrate_ext.tiled import tiling
from bitrate_ext.tiled.downsample import Downsampler
from bitrate_ext.tiled.map_picture import TiledRun
from bitrate_ext.tiled.planning import CPU

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

MIB = 1 << 20


class Blocks(nn.Module):
    """Latents y, 16 pixels a cell, and z, 64, of means over 3 cells; the same bytes in tiles: sums of whole numbers.

    Pictures must be of 8 bits.
    """

    def forward(self, x: Tensor) -> dict[str, Any]:
        whole = (x.double() * 255).round()
        found = {}
        for name, stride in (("y", 16), ("z", 64)):
            cells = F.avg_pool2d(whole, stride, divisor_override=1)
            near = F.avg_pool2d(cells, 3, stride=1, padding=1, divisor_override=1)
            found[name] = (0.1 + 0.8 * near / (9 * 255 * stride**2)).to(x.dtype)
        return {"likelihoods": found, "x_hat": 0.9 * x}


def photograph(height: int, width: int) -> Tensor:
    """uint8 ``[3, H, W]``."""
    return torch.from_numpy(np.random.default_rng(height).integers(0, 256, (3, height, width), dtype=np.uint8))


def loaded(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def test_costs_of_symbols_and_of_cells_go_in_tiles(tmp_path: Path) -> None:
    class Costs(Blocks):
        def forward(self, x: Tensor) -> dict[str, Any]:
            y, z = (-p.log() for p in super().forward(x)["likelihoods"].values())
            return {"likelihoods": {"y": y, "z": z.sum(dim=1)}}

    adapter, x = ModelAdapter(Costs().eval(), unit="nats"), photograph(200, 330)
    expected = bitrate_ext.BitrateMapper(adapter)(x[None].float() / 255)
    result = bitrate_ext.map_picture(adapter, x, tmp_path / "a.npz", tile=64)
    assert_same_bytes(torch.from_numpy(loaded(tmp_path / "a.npz")["map"])[None, None], expected.map)
    assert result.total_bits == pytest.approx(expected.total_bits.item(), rel=1e-12)
    found = bitrate_ext.map_picture(Blocks().eval(), x, tmp_path / "b.npz", tile=64)
    assert result.total_bits == pytest.approx(found.total_bits, rel=1e-6)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("projection", "tile"), [("bilinear", 64), ("nearest", 100), ("area", 10_000), ("fields", 64), ("fields", 10_000)]
)
def test_maps_are_those_of_the_mapper(tmp_path: Path, rng: np.random.Generator, projection: Any, tile: int) -> None:
    """Every byte and every total, since this model gives the same likelihoods in tiles."""
    if projection == "fields":
        projection = {"y": random_field(rng, 16, (-30, 30)), "z": random_field(rng, 64, (-200, 150), 1)}
    model, x = Blocks().eval(), photograph(413, 530)
    expected = bitrate_ext.BitrateMapper(model, projection=projection)(x[None].float() / 255)
    x_hat, seen = torch.zeros(3, 413, 530), []
    result = bitrate_ext.map_picture(
        model,
        x,
        tmp_path / "a.npz",
        projection=projection,
        tile=tile,
        psnr=True,
        x_hat=x_hat,
        progress=lambda done, total: seen.append((done, total)),
    )
    arrays = loaded(tmp_path / "a.npz")
    assert {"map", "maps/y", "maps/z", "metadata", "bits", "cells/y", "cells/z"} <= set(arrays)
    cells = bitrate_ext.PictureBits.load(tmp_path / "a.npz")
    assert_same_bytes(cells.map()[None, None].to(expected.map), expected.image().map()[None, None].to(expected.map))
    assert cells.total_bits == pytest.approx(result.image().total_bits, rel=1e-15)
    assert_same_bytes(torch.from_numpy(arrays["map"])[None, None], expected.map, projection)
    for name, one in expected.maps.items():
        assert_same_bytes(torch.from_numpy(arrays[f"maps/{name}"])[None, None], one, name)
        assert result.latent_bits[name].sum().item() == pytest.approx(expected.latent_bits[name].sum().item(), rel=1e-6)
    for name in ("total_bits", "padding_bits", "bpp"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name).item(), rel=1e-12), name
    assert expected.x_hat is not None
    assert torch.equal(x_hat, expected.x_hat[0])
    assert result.psnr_db == pytest.approx(-10 * math.log10(0.01 * (x.double() / 255).square().mean()), abs=1e-5)
    record = json.loads(str(arrays["metadata"]))["tiles"]
    assert record["tiles"] == len(seen) == {64: 35, 100: 12, 10_000: 1}[tile]
    assert seen == [(k + 1, len(seen)) for k in range(len(seen))]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_tiff_is_the_map_alone(tmp_path: Path) -> None:
    model, x = Blocks().eval(), photograph(200, 330)
    expected = bitrate_ext.BitrateMapper(model)(x[None].float() / 255)
    bitrate_ext.map_picture(model, x, tmp_path / "a.tiff", tile=64)
    with tifffile.TiffFile(tmp_path / "a.tiff") as tiff:
        assert tiff.is_bigtiff
        assert tiff.pages[0].tile == (256, 256)
        assert_same_bytes(torch.from_numpy(tiff.asarray())[None, None], expected.map, "tiff")
    bitrate_ext.map_picture(model, x, tmp_path / "b.npz", tile=64, latents=False)
    assert set(loaded(tmp_path / "b.npz")) == {"map", "metadata", "bits", "cells/y", "cells/z"}


def test_models_in_float64_give_maps_in_float64(tmp_path: Path) -> None:
    model, x = Blocks().eval(), photograph(200, 200).double() / 255
    expected = bitrate_ext.BitrateMapper(model)(x[None])
    bitrate_ext.map_picture(model, x, tmp_path / "a.npz", tile=64)
    assert_same_bytes(torch.from_numpy(loaded(tmp_path / "a.npz")["map"])[None, None], expected.map, "float64")


@pytest.mark.medium
def test_equal_pictures_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        bitrate_ext.map_picture(Blocks().eval(), photograph(100, 100), tmp_path / name, tile=64, max_memory=1 << 40)
    a, b = (loaded(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert all(np.array_equal(a[key], b[key]) for key in a if key != "metadata")


# Plans.


def planned_run(x: Tensor, monkeypatch: pytest.MonkeyPatch, room: int, **kwargs: Any) -> TiledRun:
    """With a model that is said to take 1,000 bytes a pixel, and so many bytes for it."""
    monkeypatch.setattr(memory, "measure_footprint", lambda device, multiple, run: run(256) or Footprint(0, 1000.0))
    monkeypatch.setattr(memory, "resident", lambda: 0)
    monkeypatch.setattr(memory, "bytes_in_use", lambda device: 0)
    mapper = bitrate_ext.BitrateMapper(Blocks().eval())
    return TiledRun(mapper, TensorImage(x), max_memory=room, **kwargs)


def test_the_largest_tiles_that_fit_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x = photograph(1000, 1200)
    whole = planned_run(x, monkeypatch, 1 << 40).plan
    assert whole.tiling.window == whole.tiling.canvas == (1024, 1216)
    assert whole.peak is not None
    assert planned_run(x, monkeypatch, whole.peak).plan.tiling.window == whole.tiling.window
    before = whole
    for room in (whole.peak - 1, 600 * MIB, 300 * MIB, 100 * MIB):
        plan = planned_run(x, monkeypatch, room).plan
        assert plan.peak is not None
        assert plan.peak <= room
        assert plan.tiling.window != plan.tiling.canvas
        assert plan.tiling.halo == (64, 64)
        assert plan.peak >= 1000 * plan.tiling.window[0] * plan.tiling.window[1]
        assert plan.record()["tiles"] > before.record()["tiles"]
        before = plan


def test_too_low_a_limit_is_told_with_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        MemoryLimitError, match=r"even the smallest tiles, 64 x 64 pixels with a halo of 64 and 64, take .* MiB"
    ):
        planned_run(photograph(1000, 1200), monkeypatch, 10 * MIB)
    with pytest.raises(MemoryLimitError, match="tiles of that size, 640 x 640 pixels"):
        planned_run(photograph(1000, 1200), monkeypatch, 400 * MIB, tile=600)
    monkeypatch.undo()
    with pytest.raises(MemoryLimitError, match="max_memory is too low"):
        bitrate_ext.map_picture(Blocks().eval(), photograph(600, 600), tmp_path / "a.npz", max_memory=MIB)
    assert list(tmp_path.iterdir()) == []


def test_without_a_measure_of_memory_the_tile_must_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def cannot(*_: object) -> None:
        raise MemoryLimitError("cannot be measured")

    monkeypatch.setattr(memory, "measure_footprint", cannot)
    model, x = Blocks().eval(), photograph(300, 300)
    with pytest.raises(MemoryLimitError, match="cannot be measured"):
        bitrate_ext.map_picture(model, x, tmp_path / "a.npz")
    result = bitrate_ext.map_picture(model, x, tmp_path / "a.npz", tile=64)
    assert result.plan.peak is None
    assert result.plan.record()["tiles"] == 9


@pytest.mark.medium
def test_the_plan_holds_in_a_fresh_process(tmp_path: Path) -> None:
    """A limit that cuts, and an address space of little more: peak at most the plan and a tenth."""
    code = f"""
        import resource, torch, bitrate_ext
        from compressai.models import MeanScaleHyperprior
        from bitrate_ext import memory
        model, side = MeanScaleHyperprior(16, 24).eval(), 1800
        x = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
        bitrate_ext.map_picture(model, x[:, :64, :64], {str(tmp_path / "w.npz")!r})
        limit = memory.resident() + (150 << 20)
        space = memory.address_space() + (350 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (space, -1))
        memory.trim()
        memory.reset_peak()
        result = bitrate_ext.map_picture(model, x, {str(tmp_path / "a.npz")!r}, max_memory=limit)
        print(memory.peak(), result.plan.peak, limit, result.plan.record()["tiles"])
    """
    peak, plan, limit, tiles = map(int, in_new_process(code).split())
    assert tiles > 1
    assert plan <= limit
    assert 0.5 * plan < peak <= 1.1 * plan


# Trouble.


class RunsOut(Blocks):
    """Raises as the allocator does for pictures of more pixels than it is said to bear."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.tried: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> dict[str, Any]:
        if x.shape[2] * x.shape[3] > self.most:
            self.tried.append((x.shape[2], x.shape[3]))
            raise self.error
        return super().forward(x)


@pytest.mark.medium
def test_where_memory_runs_out_tiles_are_halved_once(tmp_path: Path) -> None:
    x, error = photograph(700, 800), RuntimeError("DefaultCPUAllocator: can't allocate memory")
    expected = bitrate_ext.BitrateMapper(Blocks().eval())(x[None].float() / 255)
    model = RunsOut(350_000, error).eval()
    result = bitrate_ext.map_picture(model, x, tmp_path / "a.npz", tile=512)
    assert model.tried == [(640, 640)]
    assert result.plan.tiling.inside == (256, 256)
    assert_same_bytes(torch.from_numpy(loaded(tmp_path / "a.npz")["map"])[None, None], expected.map, "halved")
    model = RunsOut(270_000, error).eval()
    with pytest.raises(
        MemoryLimitError, match="memory ran out with tiles of 512 x 512 pixels as it did with twice that"
    ):
        bitrate_ext.map_picture(model, photograph(1500, 1500), tmp_path / "b.npz", tile=1024)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_tile_before_memory_ran_out_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run_out_once(*args: Any, **kwargs: Any) -> tiling.Tile:
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return tiling.run_tile(*args, **kwargs)

    monkeypatch.setattr(map_picture_module, "run_tile", run_out_once)
    x = photograph(300, 500)
    x[:, :, :256] = 0
    result = bitrate_ext.map_picture(Blocks().eval(), x, tmp_path / "a.npz", tile=256, psnr=True)
    assert result.psnr_db == pytest.approx(-10 * math.log10(0.01 * (x.double() / 255).square().mean()), abs=1e-5)


@pytest.mark.medium
def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        bitrate_ext.map_picture(
            RunsOut(350_000, RuntimeError("shapes differ")).eval(), photograph(700, 800), tmp_path / "a.npz", tile=512
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"before")
    for ending in ("npz", "tiff"):
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(OSError, match=r"File too large|requested and"), largest_file(100_000):
            bitrate_ext.map_picture(Blocks().eval(), photograph(300, 300), tmp_path / f"a.{ending}", tile=64)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "a.npz").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"max_memory": 0}, ValueError, "max_memory must be a whole number of at least 1, got 0"),
        ({"tile": 2.5}, TypeError, "tile must be a whole number of at least 1, got 2.5"),
        ({"projection": "cubic"}, ValueError, "projection must be one of"),
        ({"x_hat": torch.zeros(3, 100, 101)}, ValueError, r"x_hat must be \[C, 100, 100\] like the picture"),
    ],
)
def test_bad_arguments(tmp_path: Path, kwargs: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        bitrate_ext.map_picture(Blocks().eval(), photograph(100, 100), tmp_path / "a.npz", **kwargs)
    with pytest.raises(ValueError, match=r"output must end in .npz, .tif or .tiff, got 'a.png'"):
        bitrate_ext.map_picture(Blocks().eval(), photograph(100, 100), "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_models_without_a_finite_reach_go_whole_or_not_at_all(tmp_path: Path) -> None:
    model = GlobalCodec().eval()
    result = bitrate_ext.map_picture(model, photograph(100, 100), tmp_path / "a.npz")
    assert result.plan.record()["tiles"] == 1
    with pytest.raises(ValueError, match="the model cannot be run in tiles"):
        bitrate_ext.map_picture(model, photograph(300, 300), tmp_path / "b.npz", tile=64)


# What becomes of strips.


def test_rows_are_dealt_anew() -> None:
    rows = np.arange(50)[:, None]
    for cuts in ([], [3, 4, 30], [10, 20], [49]):
        dealt = list(regroup_rows(16, iter(np.split(rows, cuts))))
        assert [len(part) for part in dealt] == [16, 16, 16, 2]
        assert np.array_equal(np.concatenate(dealt), rows)


def test_reduced_pictures_are_means_of_squares(rng: np.random.Generator) -> None:
    for shape, side, factor in (((70, 90), 30, 3), ((50, 20), 100, 1), ((64, 65), 32, 3), ((7, 7), 1, 7)):
        for channels in (0, 3):
            pixels = rng.uniform(0, 1, (*shape, *([channels] if channels else [])))
            reduced = Downsampler(shape, channels, side)
            assert reduced.factor == factor
            for strip in np.split(pixels, sorted(rng.integers(0, shape[0], 4))):
                reduced.add(strip)
            for row in range(-(-shape[0] // factor)):
                for column in range(-(-shape[1] // factor)):
                    square = pixels[factor * row : factor * (row + 1), factor * column : factor * (column + 1)]
                    assert np.allclose(reduced.pixels[row, column], square.mean(axis=(0, 1)), rtol=1e-6)


# The command line.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a photograph; the demo codec is a small stand-in."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for name in ("load_demo_codec", "load_demo_forward"):
        monkeypatch.setattr(demo_codec, name, lambda quality: Blocks().eval())
    Image.fromarray(photograph(300, 500).permute(1, 2, 0).numpy()).save("cat.png")
    return tmp_path


@pytest.mark.medium
def test_the_command_in_tiles(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["map", "cat.png", "-o", "whole", "--pixels"]) == 0
    assert cli.main(["map", "cat.png", "-o", "tiles", "--tile", "64", "--pixels"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("cat.png: 500 x 300 pixels in 18 tiles of 64 x 64, at most ")
    assert captured.err.count("\n") == 1
    lines = captured.out.splitlines()
    assert lines[2] == lines[0]  # the summary: bits, PSNR and all
    assert sorted(path.name for path in Path("whole").iterdir()) == sorted(
        path.name for path in Path("tiles").iterdir()
    )
    arrays = [loaded(Path(name) / "cat.bitrate.npz") for name in ("whole", "tiles")]
    assert all(arrays[0][key].tobytes() == arrays[1][key].tobytes() for key in ("map", "maps/y", "maps/z"))
    for name in ("cat.overlay.png", "cat.bitrate.png"):
        with Image.open(f"whole/{name}") as one, Image.open(f"tiles/{name}") as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))
    record = json.loads(Path("tiles/cat.json").read_text())
    assert json.loads(str(arrays[1]["metadata"])) == record
    assert record["tiles"]["tile"] == [64, 64]
    assert record["tiles"]["halo"] == [64, 64]
    assert record["tiles"]["planned_peak_bytes"] > 0
    whole = json.loads(Path("whole/cat.json").read_text())
    assert record.pop("latent_bits") == pytest.approx(whole.pop("latent_bits"), rel=1e-6)  # rounded to float32 there
    assert {**record, "tiles": None, "files": None} == {**whole, "files": None}
    assert cli.main(["map", "cat.png", "-o", "cells", "--tile", "64"]) == 0
    assert set(loaded(Path("cells/cat.bitrate.npz"))) == {"bits", "cells/y", "cells/z", "metadata"}
    one, other = (bitrate_ext.PictureBits.load(f"{name}/cat.bitrate.npz") for name in ("whole", "cells"))
    assert torch.equal(one.map(), other.map())


def test_the_command_writes_tiff(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["map", "cat.png", "--format", "tiff", "--max-memory", "64GiB", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["images"][0]
    assert record["files"]["arrays"] == "cat.bitrate.tiff"
    assert record["tiles"]["limit_bytes"] == 64 << 30
    assert tifffile.imread("cat.bitrate.tiff").sum(dtype=np.float64) + record["padding_bits"] == pytest.approx(
        record["total_bits"], rel=1e-7
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "cat.bitrate.png", "cat.bitrate.tiff", "cat.json", "cat.overlay.png", "cat.png"
    ]  # fmt: skip


@pytest.mark.medium
def test_pictures_that_do_not_fit_go_in_tiles_by_themselves(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_tiled, "MODEST", 200 * 200)
    assert cli.main(["map", "cat.png", "-o", "fits"]) == 0
    assert "tiles" not in capsys.readouterr().err
    monkeypatch.setattr(memory, "measure_footprint", lambda device, multiple, run: run(256) or Footprint(0, 1e6))
    monkeypatch.setattr(memory, "limit", lambda device, asked: memory.resident() + 90_000 * MIB)
    assert cli.main(["map", "cat.png", "-o", "cut"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("cat.png: 500 x 300 pixels in ")
    assert err.count("\n") == 1
    assert "does not fit into memory as a whole" in error_of(capsys, "map", "cat.png", "--projection", "jacobian")


@pytest.mark.medium
def test_beyond_pillow_s_limit(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressed files need a limit that admits them; an uncompressed TIFF has as many bytes as it says."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    monkeypatch.setattr(map_tiled, "MODEST", 200 * 200)
    assert "cat.png: the image is larger than 100,000 pixels" in error_of(capsys, "map", "cat.png")
    assert cli.main(["map", "cat.png", "--max-memory", "64GiB", "--pixels"]) == 0
    tifffile.imwrite("raw.tif", photograph(300, 500).permute(1, 2, 0).numpy(), photometric="rgb")
    tifffile.imwrite("packed.tif", photograph(300, 500).permute(1, 2, 0).numpy(), photometric="rgb", compression="zlib")
    assert cli.main(["map", "raw.tif", "--pixels"]) == 0
    assert loaded(Path("raw.bitrate.npz"))["map"].tobytes() == loaded(Path("cat.bitrate.npz"))["map"].tobytes()
    assert Image.MAX_IMAGE_PIXELS == 100_000
    capsys.readouterr()
    assert "packed.tif: the image is larger than 100,000 pixels" in error_of(capsys, "map", "packed.tif")


def test_errors_of_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    assert "expected a number of bytes such as 4GiB" in error_of(capsys, "map", "cat.png", "--max-memory", "lots")
    assert "argument --tile: expected a whole number of at least 1, got '0'" in error_of(
        capsys, "map", "cat.png", "--tile", "0"
    )
    assert "and the memory limit leaves 0 MiB" in error_of(capsys, "map", "cat.png", "--max-memory", "1MB")
    with monkeypatch.context() as patch:
        patch.setattr(memory, "measure_footprint", lambda device, multiple, run: run(256) or Footprint(0, 1e9))
        told = error_of(capsys, "map", "cat.png", "--max-memory", "64GiB")
    assert told.startswith("bitrate-ext: error: cat.png: --max-memory is too low: even the smallest tiles, ")
    told = error_of(capsys, "map", "cat.png", "--projection", "jacobian", "--tile", "64")
    assert "--projection jacobian is for whole pictures" in told
    assert "no such file" in error_of(capsys, "map", "dog.png", "--tile", "64")
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_estimate_of_the_whole_run_counts_maps_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    mapper = bitrate_ext.BitrateMapper(Blocks().eval())
    needed = 1024 * 1024 * (100 + 4 * (9 + 2 * 3))
    monkeypatch.setattr(memory, "measure_footprint", lambda *_: Footprint(0, 100.0))
    monkeypatch.setattr(memory, "bytes_in_use", lambda _: 7)
    for limit, fit in ((needed + 7, True), (needed + 6, False)):
        monkeypatch.setattr(memory, "limit", lambda *_, limit=limit: limit)
        assert map_tiled.fits(mapper.adapter, 1024, 1024, CPU, {}) is fit
