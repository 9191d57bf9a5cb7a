"""Evidence of the GPU: the hash of the sources, files of runs, and the line that tells how they stand to this tree."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import evidence
import pytest

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=timezone.utc)


def record(csrc: str, days: int = 0, outcomes=("ok",), name: str = "NVIDIA H200") -> dict:
    return {
        "date": (NOW - timedelta(days=days)).isoformat(timespec="seconds"),
        "csrc": csrc,
        "device": {"name": name},
        "checks": [{"outcome": outcome} for outcome in outcomes],
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in evidence.SOURCES:
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "csrc/core/a.h").write_text("int a;\n")
    (tmp_path / "csrc/cuda/b.cu").write_text("int b;\n")
    return tmp_path


def test_the_hash_tells_contents_and_paths_of_the_kernels_sources(tree: Path):
    first = evidence.sources_hash(tree)
    assert len(first) == 64
    assert evidence.sources_hash(tree) == first
    (tree / "csrc/executor").mkdir()
    (tree / "csrc/executor/c.h").write_text("int c;\n")
    (tree / "setup.py").write_text("")
    assert evidence.sources_hash(tree) == first, "what the GPU's results do not depend on"
    seen = {first}
    for change in (
        lambda: (tree / "csrc/core/a.h").write_text("int a; \n"),
        lambda: (tree / "csrc/core/a.h").rename(tree / "csrc/core/z.h"),
        lambda: (tree / "csrc/ops/d.h").write_text(""),
        lambda: (tree / "csrc/cuda/b.cu").write_text("int b;\nint a;\n"),
    ):
        change()
        seen.add(evidence.sources_hash(tree))
    assert len(seen) == 5


def test_the_hash_is_that_of_this_tree_too(tmp_path: Path):
    for folder in evidence.SOURCES:
        shutil.copytree(evidence.ROOT / folder, tmp_path / folder)
    assert evidence.sources_hash(tmp_path) == evidence.sources_hash()


def test_files_are_named_by_device_and_date(tmp_path: Path):
    path = evidence.write(record("abc"), tmp_path / "results")
    assert path.name == "gpu-nvidia-h200-20260520-120000.json"
    assert json.loads(path.read_text()) == record("abc")
    assert evidence.slug("NVIDIA GeForce RTX 4090 (Laptop)") == "nvidia-geforce-rtx-4090-laptop"
    assert evidence.slug("?") == "unknown"


def test_runs_are_read_newest_first_and_broken_files_passed_over(tmp_path: Path):
    paths = [evidence.write(record("abc", days), tmp_path) for days in (3, 0, 7)]
    (tmp_path / "gpu-cut.json").write_text('{"date": "2026-')
    (tmp_path / "gpu-other.json").write_text("[1, 2]")
    (tmp_path / "latest.json").write_text("{}")
    assert [path for path, _ in evidence.read_all(tmp_path)] == [paths[1], paths[0], paths[2]]


def test_the_line_that_tests_print(tree: Path):
    there = evidence.sources_hash(tree)
    shown = there[:12]
    none = f"GPU evidence: none for this csrc/ (hash {shown}); "
    assert evidence.report(tree, NOW) == none + "none at all: run `make gpu-check` on a GPU"
    results = tree / evidence.RESULTS
    evidence.write(record("another", days=40), results)
    evidence.write(record("another", days=9), results)
    assert evidence.report(tree, NOW) == none + "newest is gpu-nvidia-h200-20260511-120000.json, 9 days old"
    evidence.write(record(there, days=20, outcomes=("ok", "miss", "ok")), results)
    fits = "GPU evidence: gpu-nvidia-h200-20260430-120000.json fits this csrc/ "
    assert evidence.report(tree, NOW) == fits + "(2 checks passed, 1 could not be run)"
    evidence.write(record(there, days=1, outcomes=("ok", "FAIL", "miss")), results)
    assert "(1 of 3 checks failed, 1 could not be run)" in evidence.report(tree, NOW)
    (tree / "csrc/core/a.h").write_text("int changed;\n")
    assert "none for this csrc/" in evidence.report(tree, NOW)


def test_evidence_is_tracked_and_other_results_are_not():
    def ignored(name: str) -> bool:
        command = ["git", "check-ignore", "--quiet", "--no-index", f"benchmarks/results/{name}"]
        return subprocess.run(command, cwd=evidence.ROOT).returncode == 0

    if not (evidence.ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert not ignored("gpu-nvidia-h200-20260520-120000.json")
    assert ignored("latest.json")
