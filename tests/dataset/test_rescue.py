"""Pictures that take all memory, or the GPU with them: tried once more by other means, and the row says so."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet")
from block_codecs import BlockCodec  # noqa: E402
from commands import in_new_process  # noqa: E402
from dataset_runs import go, holds  # noqa: E402
from free_codecs import FreeCodec, Rescuing  # noqa: E402

from bitrate_ext import BitrateMapper  # noqa: E402
from bitrate_ext.cli import main as cli  # noqa: E402
from bitrate_ext.dataset import DatasetError, Item, Unreadable, pool, rescue, run  # noqa: E402
from bitrate_ext.dataset.codec import GPU, MEMORY, Spent  # noqa: E402
from bitrate_ext.dataset.pictures import PictureCodec  # noqa: E402

BY_MEMORY, BY_GPU = (f"by other means for want of {lack}" for lack in (MEMORY, GPU))
LOST = (  # what PyTorch raises of a GPU that is gone for this process
    "CUDA error: device-side assert triggered",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: unspecified launch failure",
    "CUDA driver error: unknown error",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "Found no NVIDIA driver on your system.",
)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def listed(**special: str) -> list[str]:
    found = [f"x/{number:06d}.png" for number in range(30)]
    for at, kind in special.items():
        found[int(at[1:])] = f"x/{int(at[1:]):06d}-{kind}.png"
    return found


@pytest.mark.parametrize("batch", [1, 4])
def test_out_of_memory_is_tried_again_by_other_means(tmp_path: Path, batch: int) -> None:
    some = listed(n3="large-read", n9="large-measure", n12="large-measure-hopeless")
    report = go(tmp_path / "out", some, Rescuing, part_items=10, batch=batch)
    found = rows(tmp_path / "out")
    assert (report.ok, report.error) == (29, 1)
    assert [found[n]["warnings"] for n in (3, 9, 12)] == [BY_MEMORY, BY_MEMORY, None]
    assert found[12]["error"] == "MemoryError: not enough memory for this picture"
    assert sum(row["warnings"] is not None for row in found) == 2
    holds(tmp_path / "out", some)


def test_without_other_means_it_is_an_error(tmp_path: Path) -> None:
    some = listed(n3="large-read", n9="large-measure")
    assert go(tmp_path / "out", some, part_items=10).error == 2
    assert rows(tmp_path / "out")[3]["error"] == "MemoryError: not enough memory for this picture"


@pytest.mark.medium
def test_workers_that_the_system_kills_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = itertools.count()
    monkeypatch.setattr(pool, "_memory_kills", lambda: next(kills))
    some = listed(n5="die-measure-always", n8="die-read-always-hopeless", n21="die-measure-always-deadly")
    report = go(tmp_path / "out", some, partial(Rescuing, str(tmp_path)), jobs=2, part_items=10)
    found = rows(tmp_path / "out")
    assert (report.ok, report.error) == (28, 2)
    assert found[5]["warnings"] == BY_MEMORY
    assert found[8]["error"] == "MemoryError: not enough memory for this picture"
    assert found[21]["error"] == pool.NO_MEMORY.reason
    holds(tmp_path / "out", some)


@pytest.mark.medium
def test_crashes_end_with_other_means(tmp_path: Path) -> None:
    some = listed(n5="die-measure-always", n21="die-read-always-deadly")
    report = go(tmp_path / "out", some, Rescuing, jobs=2, part_items=10)
    found = rows(tmp_path / "out")
    assert (report.ok, report.error) == (29, 1)
    assert found[5]["warnings"] == BY_MEMORY
    assert found[21]["error"] == pool.CRASHED.reason


class Greedy(FreeCodec):
    """Its process may have 300 MB in a control group of memory, and one picture wants more."""

    def __init__(self, group: str) -> None:
        super().__init__()
        Path(group, "cgroup.procs").write_text(str(os.getpid()))

    def measure(self, pictures: Any) -> list[dict[str, Any]]:
        if any("greedy" in name for name in pictures):
            np.ones(1 << 27)
        return super().measure(pictures)

    rescue = Rescuing.rescue


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group of memory with a limit, where this process may make one."""
    first = Path("/sys/fs/cgroup/memory")
    group = (first if first.is_dir() else Path("/sys/fs/cgroup")) / f"bitrate-ext-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first.is_dir() else "memory.max")).write_text(str(300 << 20))
        if not first.is_dir():
            (group / "memory.swap.max").write_text("0")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group of memory can be made here ({error})")
    yield group
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


@pytest.mark.slow
def test_the_systems_own_kill(tmp_path: Path, memory_group: Path) -> None:
    some = listed(n5="greedy", n21="greedy-hopeless")
    some += [f"x/{number:06d}-greedy.png" for number in range(30, 38)]
    before = pool._memory_kills()
    report = go(tmp_path / "out", some, partial(Greedy, str(memory_group)), jobs=1, part_items=10)
    assert pool._memory_kills() >= before + 10
    assert (report.ok, report.error) == (37, 1)
    assert rows(tmp_path / "out")[5]["warnings"] == BY_MEMORY


@pytest.mark.medium
def test_a_gpu_that_fails_over_pictures(tmp_path: Path) -> None:
    some = listed(n2="lose-measure-once", n5="lose-measure-always", n21="lose-measure-always-hopeless")
    start = time.monotonic()
    report = go(tmp_path / "out", some, partial(Rescuing, str(tmp_path)), jobs=2, part_items=10)
    assert time.monotonic() - start < 60
    found = rows(tmp_path / "out")
    assert (report.ok, report.error) == (29, 1)
    assert found[2]["warnings"] in (None, BY_GPU)  # by itself, the first loss is certain to be its own
    assert found[5]["warnings"] == BY_GPU
    assert "memory" in found[21]["error"]
    holds(tmp_path / "out", some)


@pytest.mark.medium
def test_a_gpu_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    some = [f"x/{n:06d}-lose-measure-always.png" for n in range(30)]
    with pytest.raises(DatasetError, match=r"the GPU is lost \(CUDA error: device-side assert triggered\).*goes on"):
        go(tmp_path / "out", some, jobs=1, part_items=30)
    with pytest.raises(DatasetError, match="the GPU is lost"):
        go(tmp_path / "here", some, part_items=30)


class Breaking(BlockCodec):
    """A model whose device fails with those words."""

    words = ""

    def forward(self, x: Any) -> dict[str, Any]:
        if self.words:
            raise RuntimeError(self.words)
        return super().forward(x)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def block_codec(model: Any = None, **options: Any) -> PictureCodec:
    return PictureCodec(BitrateMapper((model or BlockCodec()).eval()), name="blocks", **options)


def test_what_a_lost_gpu_raises_and_the_cpu_in_its_place(photo: Path) -> None:
    model, item = Breaking(), Item(0, str(photo))
    codec = block_codec(model, fallback=block_codec)
    read = codec.read(item)
    for words in LOST * 15:
        model.words = words
        with pytest.raises(Spent):
            list(codec.measure([read.picture]))
        again, numbers = codec.rescue(item, GPU, lambda: None)
        (usual,) = block_codec().measure([read.picture])
        assert again.sha256 == read.sha256
        assert numbers == {**usual, "warnings": "measured on the CPU: the GPU failed over it"}
    for words in ("CUDA out of memory, cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"):
        model.words = words
        with pytest.raises(MemoryError, match="not enough memory for this picture"):
            list(codec.measure([read.picture]))
    with pytest.raises(Unreadable, match="--fallback cpu"):
        block_codec().rescue(item, GPU, lambda: None)


@pytest.mark.parametrize("side", [64, 512])
def test_tiles_give_the_same_numbers(photo: Path, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    monkeypatch.setattr(rescue, "TILE", side)
    codec, item, signs = block_codec(), Item(0, str(photo)), list[None]()
    read = codec.read(item)
    again, numbers = codec.rescue(item, MEMORY, lambda: signs.append(None))
    (usual,) = codec.measure([read.picture])
    assert again.sha256 == read.sha256
    assert len(signs) > (2 if side == 64 else 1)
    for name in ("height", "width"):
        assert numbers[name] == usual[name]
    for name in ("bits", "padding_bits", "bpp", "psnr_db"):
        assert numbers[name] == pytest.approx(usual[name], rel=1e-6)
    assert numbers["latents"] == pytest.approx(usual["latents"], rel=1e-6)
    assert "measured alone, in tiles of" in numbers["warnings"]


def test_tiles_say_what_they_leave_out_and_videos_are_measured_alone(photo: Path) -> None:
    codec = block_codec(ms_ssim=True, write=["cells"])
    read, numbers = codec.rescue(Item(0, str(photo), mask=str(photo)), MEMORY, lambda: None)
    assert read.mask_sha256 == read.sha256
    assert numbers["warnings"].endswith("without regions, cells, MS-SSIM")
    video, signs = photo.with_suffix(".y4m"), list[None]()
    video.write_bytes(pytest.importorskip("video_clips").clip("y4m"))
    _, numbers = codec.rescue(Item(0, str(video)), MEMORY, lambda: signs.append(None))
    assert (numbers["frames"], len(signs)) == (12, 13)
    assert numbers["warnings"].endswith("measured alone, for want of memory")


LIMITED = """
    import resource
    import torch
    from block_codecs import BlockCodec
    from bitrate_ext import BitrateMapper, memory
    from bitrate_ext.dataset import run
    from bitrate_ext.dataset.pictures import PictureCodec

    class Hungry(BlockCodec):
        def forward(self, x):
            room = torch.empty(200 * x.shape[-2] * x.shape[-1])  # 800 bytes a pixel
            return super().forward(x)

    codec = PictureCodec(BitrateMapper(Hungry().eval()))
    room = memory.address_space() + ({1} << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    report = run([{0!r}], {0!r} + "/out", lambda: codec, jobs=0)
    assert (report.ok, report.error) == (2, 0), report
"""


@pytest.mark.medium
@pytest.mark.parametrize("room", [600, *(pytest.param(one, marks=pytest.mark.slow) for one in range(520, 700, 20))])
def test_a_picture_too_large_for_the_addresses_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    Image = pytest.importorskip("PIL.Image")
    pixels = np.tile(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), (16, 16, 1))
    Image.fromarray(pixels).save(tmp_path / "large.png", compress_level=1)
    Image.fromarray(pixels[:256, :256]).save(tmp_path / "small.png")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(root), str(root / "tests"))))
    in_new_process(LIMITED.format(str(tmp_path), room))
    large, small = rows(tmp_path / "out")
    assert "in tiles of 512 x 512" in large["warnings"]
    assert (large["status"], small["status"], small["warnings"]) == ("ok", "ok", None)
    usual = block_codec()
    (expected,) = usual.measure([usual.read(Item(0, str(tmp_path / "large.png"))).picture])
    assert large["bits"] == pytest.approx(expected["bits"], rel=1e-6)


def test_a_picture_beyond_the_limit_of_pixels_is_a_row_among_others(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image = pytest.importorskip("PIL.Image")
    small = photo.with_name("small.png")
    Image.open(photo).crop((0, 0, 50, 60)).save(small)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    report = run([str(photo.parent)], photo.parent / "out", block_codec, jobs=0)
    large, other = rows(photo.parent / "out")
    assert (report.ok, report.error, other["status"]) == (1, 1, "ok")
    assert large["error"] == (
        "the image is larger than 5,000 pixels; crop it, cut it into tiles, or map it by itself "
        "(bitrate-ext map --max-memory)"
    )
    assert large["sha256"]


@pytest.mark.medium
def test_the_command_falls_back_only_where_asked(photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(photo.parent)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    common = ["dataset", "photo.png", "--model", "block_codecs:BlockCodec", "--device", "cuda", "--jobs", "0"]
    assert cli.main([*common, "-o", "out"]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err
    assert cli.main([*common, "-o", "out", "--fallback", "cpu"]) == 0
    (row,) = rows(Path("out"))
    assert row["warnings"] == "measured on the CPU: cuda cannot be used"
    assert cli.main([*common[:4], "-o", "other", "--fallback", "cpu"]) == 2
    assert "other than cpu" in capsys.readouterr().err
