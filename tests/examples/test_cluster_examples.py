"""Data sets by arrays of jobs: the SLURM script under bash, submitit's own executors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")
CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
SRUN = '#!/bin/sh\nshift\nexec "{python}" -m bitrate_ext "$@"\n'
MODEL = ["--model", "block_codecs:BlockCodec"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "names.txt").write_text("".join(f"{path}\n" for path in sorted((tmp_path / "photos").iterdir())))
    root = Path(__file__).parents[2]
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")))
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def whole(folder: Path) -> None:
    rows = [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [Path(row["path"]).name for row in rows] == [f"{number}.png" for number in range(5)]
    assert all(row["status"] == "ok" for row in rows)
    assert (folder / "_SUCCESS").exists()


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, srun: str) -> dict[str, str]:
    """The environment of a job of an array of two, with that program as ``srun``."""
    (folder / "bin").mkdir()
    stub = folder / "bin" / "srun"
    stub.write_text(srun)
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_CPUS_PER_TASK": "3"}
    return {**os.environ, **array}


def test_what_the_slurm_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = slurm(tmp_path, monkeypatch, '#!/bin/sh\necho "$@"\n')
    command = ["bash", str(CLUSTER / "dataset.slurm"), "my names.txt", "out", "--quality", "4"]
    told = [
        subprocess.run(
            command, check=True, capture_output=True, text=True, env={**environment, "SLURM_ARRAY_TASK_ID": task}
        ).stdout
        for task in ("0", "1")
    ]
    common = "bitrate-ext dataset --from-file my names.txt -o out --shard {}/2 --jobs 3 --quality 4\n"
    assert told == [common.format(1), common.format(2)]
    assert subprocess.run(command[:2], capture_output=True, check=False).returncode != 0


@pytest.mark.slow
def test_the_slurm_script(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = slurm(photos, monkeypatch, SRUN.format(python=sys.executable))
    command = ["bash", str(CLUSTER / "dataset.slurm"), "names.txt", "out", *MODEL]
    for task in ("0", "1"):
        assert not (photos / "out" / "_SUCCESS").exists()
        subprocess.run(command, check=True, env={**array, "SLURM_ARRAY_TASK_ID": task})
    whole(photos / "out")


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_the_submitit_example(photos: Path, cluster: str) -> None:
    pytest.importorskip("submitit")
    command = [sys.executable, str(CLUSTER / "dataset_submitit.py"), "2", "--cluster", cluster, "--cpus", "1"]
    subprocess.run([*command, "--from-file", "names.txt", "-o", "out", "--jobs", "1", *MODEL], check=True)
    whole(photos / "out")


@pytest.mark.slow
def test_the_example_of_ray_data(photos: Path) -> None:
    pytest.importorskip("ray")
    (photos / "photos" / "bad.png").write_bytes(b"no picture")
    subprocess.run([sys.executable, str(CLUSTER / "ray_data.py"), "photos", "rows", "--quality", "3"], check=True)
    options = ["--quality", "3", "--jobs", "1"]
    subprocess.run([sys.executable, "-m", "bitrate_ext", "dataset", "photos", "-o", "out", *options], check=False)
    found = sorted(pq.read_table("rows").to_pylist(), key=lambda row: row["item"])
    command = [row for path in sorted(Path("out").glob("part-*")) for row in pq.read_table(path).to_pylist()]
    assert len(found) == len(command) == 6
    for one, other in zip(found, command, strict=True):
        told = set(one) - {"id", "path", "settings"}
        assert {name: one[name] for name in told - {"psnr_db"}} == {name: other[name] for name in told - {"psnr_db"}}
        assert one["psnr_db"] == (other["psnr_db"] and pytest.approx(other["psnr_db"], rel=1e-12))
    assert found[-1]["error"]
