"""The benchmark suite: only right answers are timed, and nothing that went wrong looks like a result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import compare
import record
import report
import sources

QUICK = ["--device", "cpu", "-p", "no:cacheprovider", "-p", "no:randomly", "--ignore", "benchmarks/test_training.py"]


def run(folder: Path, *arguments: str, patch: str = "") -> subprocess.CompletedProcess[str]:
    """The suite's smallest workloads, a few rounds each, in a process of their own; with some code before them."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "benchmarks")!r}]
import pytest, workloads
workloads.WORKLOADS = {{workloads.SMALLEST.name: workloads.SMALLEST}}
workloads.GROWING = workloads.GROWING[:1]
{patch}
class Few:
    def pytest_configure(self, config):
        sys.modules["conftest"].SECONDS, sys.modules["conftest"].ROUNDS = 0.0, (2, 2)
sys.exit(pytest.main(sys.argv[1:], plugins=[Few()]))
"""
    command = [sys.executable, "-c", code, "benchmarks", "--record", str(folder / "record.json"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = run(folder, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "record.json"


@pytest.mark.medium
def test_a_row_says_what_it_is(small_run: Path) -> None:
    content = record.load(small_run)
    assert content["complete"]
    assert content["torch"] == torch.__version__
    assert content["machine"]["processor"]
    rows = {row["opponent"]: row for row in content["rows"]}
    assert set(rows) == {"fused", "copy", "recipe", "empty call"}
    fused = rows["fused"]
    assert fused["bytes"] == 4 * (8 * 4 * 4 + 64 * 64)
    assert 0 < fused["low"] <= fused["median"] <= fused["high"]
    assert fused["gbps"] == pytest.approx(fused["bytes"] / fused["median"] / 1e9)
    assert 0 <= fused["error"] < 1e-6
    assert rows["copy"]["error"] is None
    assert fused["of_copy"] == rows["copy"]["median"] / fused["median"]
    assert rows["copy"]["of_copy"] == 1
    assert [row["opponent"] for row in content["growth"]] == ["copy", "fused"]
    assert content["growth"][1]["extra_memory"] >= 0


@pytest.mark.medium
def test_tables_and_plots(small_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/report.py", small_run, "--plots", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "recipe " in done.stdout
    assert done.stdout.startswith(small_run.with_suffix(".txt").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {
        "roofline-cpu.png",
        "growth-cpu.png",
        "speedups-cpu.png",
    }


@pytest.mark.medium
def test_sources_beside_what_others_do(tmp_path: Path) -> None:
    """Every contender of small latents; then a wrong answer, which is not timed."""
    command = [sys.executable, "benchmarks/rate.py", "--scale", "small", "--seconds", "0.01", "--record"]
    done = subprocess.run([*command, tmp_path / "rate.json"], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rate.json").read_text())["rows"]
    assert len(rows) == 13
    assert all(row["wall"] > 0 for row in rows)
    code = """
import sys
sys.path.append("benchmarks")
import rate
rate.check("half", [rate.torch.ones(2)], [rate.torch.full((2,), 0.5)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert "half is wrong by 1.0e+00; it was not timed" in done.stderr


def by_compressai(family: str, values: torch.Tensor, **rest: torch.Tensor) -> Any:
    theirs = pytest.importorskip("compressai.entropy_models")
    if family == "Gaussian":
        return theirs.GaussianConditional(None)._likelihood(values, **rest)
    if family == "GaussianMixture":
        return theirs.GaussianMixtureConditional(K=3)._likelihood(values, **rest)
    module = theirs.EntropyBottleneck(values.shape[1])
    for kind, given in zip((module.matrices, module.biases, module.factors), sources.layers(rest), strict=True):
        for one, other in zip(kind, given, strict=True):
            one.data = other
    moved = values.transpose(0, 1)
    return module._likelihood(moved.reshape(len(moved), 1, -1))[0].reshape(moved.shape).transpose(0, 1)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_sources_are_measured_by_on_a_gpu(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """CompressAI's chain, written out, is CompressAI's, and right; compiled, too."""
    monkeypatch.setattr(sources, "SHAPES", {"4k": (1, 24, 9, 10), "training": (2, 24, 4, 4)})
    program = torch.compile(sources.chain, dynamic=False) if compiled else sources.chain
    for workload in sources.WORKLOADS:
        (buffers,) = sources.make_buffers(workload, torch.device("cpu"), 1)
        exact, tensors = sources.exact_answer(workload, buffers), buffers.likelihoods
        if workload.direction == "forward" and workload.family not in ("Laplace", "Logistic"):
            found = sources.LIKELIHOODS[workload.family](**tensors)
            torch.testing.assert_close(found, by_compressai(workload.family, **tensors), rtol=1e-5, atol=1e-7)
        sources.checked(workload, "CompressAI", sources.by_chain(workload, buffers, program)(), exact)
        sources.checked(workload, "fused", sources.fused(workload, buffers)(), exact)
        with pytest.raises(AssertionError, match=r"fused is wrong by .*; it was not timed"):
            sources.checked(workload, "fused", [1.001 * one for one in exact], exact)


@pytest.mark.medium
def test_a_step_of_training_is_timed_both_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("compressai")
    import training

    monkeypatch.setattr(training, "SIZE", (2, 3, 64, 64))
    monkeypatch.setattr(training, "CODECS", {"mbt2018-mean": {"N": 8, "M": 12}})
    threads = torch.get_num_threads()
    try:
        assert training.main(["--seconds", "0"]) == 0
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["mbt2018-mean, CompressAI", "mbt2018-mean, fused"]
    kept = [training.kept(training.step("mbt2018-mean", way, torch.device("cpu"))) for way in training.WAYS]
    assert kept[1] < kept[0]
    monkeypatch.setattr(training, "RateDistortionLoss", lambda **_: training.bitrate_ext.RateLoss(lmbda=0.02))
    with pytest.raises(AssertionError, match="mbt2018-mean is wrong by"):
        training.check("mbt2018-mean", torch.device("cpu"))


@pytest.mark.medium
def test_a_wrong_answer_is_not_timed(tmp_path: Path) -> None:
    patch = "import bitrate_ext; right = bitrate_ext.bitrate_map\n"
    patch += "bitrate_ext.bitrate_map = lambda *a, **k: right(*a, **k).mul_(1 if k.get('impl') else 0.999)"
    done = run(tmp_path, *QUICK, patch=patch)
    assert done.returncode == 1
    assert "fused is wrong by 1.0e-03; it was not timed" in done.stdout
    assert "the map's sum is wrong by 1.0e-03; it was not timed" in done.stdout
    content = record.load(tmp_path / "record.json")
    assert not content["complete"]
    assert {row["opponent"] for row in content["rows"]} == {"copy", "recipe", "empty call"}


@pytest.mark.slow
def test_steps_of_training_are_rows(tmp_path: Path) -> None:
    patch = """
import training
training.SIZE, training.CODECS = (2, 3, 64, 64), {"bmshj2018-factorized": {"N": 8, "M": 12}}
"""
    done = run(tmp_path, *QUICK[:-2], "-v", "-k", "training", patch=patch)
    assert done.returncode == 0, done.stdout + done.stderr
    for way in ("CompressAI", "fused"):
        assert f"test_a_step_of_training[bmshj2018-factorized-cpu-{way}] PASSED" in done.stdout


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    patch = "import opponents\ndef stop(*_):\n    raise KeyboardInterrupt\n"
    patch += "opponents.OPPONENTS['recipe'] = stop"
    done = run(tmp_path, *QUICK, patch=patch)
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    content = record.load(tmp_path / "record.json")
    assert not content["complete"]
    assert [row["opponent"] for row in content["rows"]] == ["copy", "fused"]
    assert "The run was interrupted, or a check failed: rows are missing." in report.table(content)


@pytest.mark.slow
def test_too_little_memory_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, *QUICK, "--memory", "0.00001")
    assert done.returncode == 0
    content = record.load(tmp_path / "record.json")
    assert (content["rows"], content["growth"]) == ([], [])
    why = content["left_out"]["forward 64 x 64, C=8, fused, cpu"]
    assert why == "needs 0.000128 GiB of memory, 1e-05 are free"
    assert f"left out: forward 64 x 64, C=8, fused, cpu: {why}" in report.table(content)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, "--device", "cuda")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--device cuda: torch finds no CUDA device; nothing was timed" in done.stderr
    assert not (tmp_path / "record.json").exists()


def made_up(**changes: Any) -> dict[str, Any]:
    """A record of two rows; a change is of the fused operator's row, or of the record."""
    base = {"workload": "forward 4k", "device": "cpu", "low": 0.9, "median": 1.0, "high": 1.1}
    row = {key: value for key, value in changes.items() if key in base}
    content = {"machine": {"processor": "one"}, "complete": True, "growth": []}
    content |= {key: value for key, value in changes.items() if key not in base}
    copy = {**base, "opponent": "copy", "low": 2.0, "median": 2.0, "high": 2.0}
    return {**content, "rows": [{**base, "opponent": "fused", **row}, copy]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "the same"),
        ({"low": 1.15, "median": 1.2, "high": 1.3}, "slower"),
        ({"low": 0.7, "median": 0.75, "high": 0.8}, "faster"),
        ({"low": 1.05, "median": 1.2, "high": 1.3}, "the same"),  # the middle halves touch
        ({"low": 1.151, "median": 1.152, "high": 1.153}, "slower"),
        ({"low": 1.145, "median": 1.149, "high": 1.15}, "the same"),
        ({"low": 0.8, "median": 0.851, "high": 0.89}, "the same"),
    ],
)
def test_what_of_a_difference_is_noise(changes: dict[str, Any], said: str) -> None:
    line = next(line for line in compare.lines(made_up(), made_up(**changes)) if "fused" in line)
    assert line.endswith(said)


def test_a_machine_that_is_slower_at_all_things() -> None:
    slow = made_up(low=1.8, median=2.0, high=2.2)
    slow["rows"][1] = {**slow["rows"][1], "low": 4.0, "median": 4.0, "high": 4.0}
    assert next(line for line in compare.lines(made_up(), slow) if "fused" in line).endswith("1.00  the same")
    lines = compare.lines(made_up(), {**slow, "machine": {"processor": "another"}, "complete": False})
    assert lines[0] == "The machines differ: times do not compare, shares of the copy may."
    assert lines[1] == "The new run did not come to its end."
    assert next(line for line in lines if "fused" in line).endswith("1.00  the same")


def test_a_faster_machine_does_not_hide_a_loss() -> None:
    new = made_up()
    new["rows"][1] = {**new["rows"][1], "low": 1.0, "median": 1.0, "high": 1.0}
    assert next(line for line in compare.lines(made_up(), new) if "fused" in line).endswith("2.00  the same")
    new["machine"] = {"processor": "another"}
    lines = compare.lines(made_up(), new)
    assert next(line for line in lines if "fused" in line).endswith("2.00  slower")
    assert next(line for line in lines if ", copy" in line).endswith("-  no copy to compare with")


def test_rows_of_one_run_only() -> None:
    new = made_up()
    new["rows"][0] = {**new["rows"][0], "workload": "forward 8k"}
    lines = compare.lines(made_up(), new)
    assert any(line.startswith("forward 8k, fused") and line.endswith("not in the old run") for line in lines)
    assert "forward 4k, fused, cpu: not in the new run" in lines


@pytest.mark.medium
@pytest.mark.parametrize("content", ["", "[]", json.dumps({"rows": []})])
def test_a_file_that_is_no_record(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no record of benchmarks"):
        record.load(path)
    done = subprocess.run(
        [sys.executable, "benchmarks/report.py", path], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert "is no record of benchmarks" in done.stderr


@pytest.mark.slow
def test_whole_videos_are_timed_beside_the_naive_loop(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "benchmarks")!r}]
import frames
frames.SIZES = {{"1080p": (128, 192)}}
frames.STEADY = 2
print("code", frames.main())
right = frames.naive
frames.naive = lambda *arguments: [0.8 * bits for bits in right(*arguments)]
frames.main()
"""
    options = ["--sizes", "1080p", "--frames", "3", "--rounds", "1", "--memory", "4"]
    command = [sys.executable, "-W", "ignore", "-c", code, *options, "--record", str(tmp_path / "record.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert "code 0" in done.stdout, done.stderr
    assert "times the naive loop's" in done.stdout
    assert "by the naive loop; nothing was timed" in done.stderr  # the second time, with a wrong loop
    content = json.loads((tmp_path / "record.json").read_text())
    assert content["complete"]
    (video,) = content["videos"]
    assert video["contenders"]["naive loop"]["over_naive"] == 1.0
    assert set(video["stages"]) == set(video["share"]) == {"bilinear", "guided"}
    for projection, stages in video["stages"].items():
        assert set(stages) == {"decode", "network", "map", "colour", "overlay", "encode"}
        assert all(seconds > 0 for seconds in stages.values())
        assert 0 < video["share"][projection] < 1
    assert content["memory"]["frames"] >= 4


@pytest.mark.medium
def test_guided_maps_are_timed_beside_the_bilinear_one(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "benchmarks")!r}]
import guided, workloads
workloads.IMAGES["1080p"] = (64, 96)
print("code", guided.main())
"""
    options = ["--sizes", "1080p", "--rounds", "3", "--record", str(tmp_path / "record.json")]
    command = [sys.executable, "-W", "ignore", "-c", code, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert "code 0" in done.stdout, done.stderr
    content = json.loads((tmp_path / "record.json").read_text())
    assert content["complete"]
    (row,) = content["guided"]
    assert row["calls"]["bilinear"]["over_bilinear"] == 1.0
    assert all(call["median"] > 0 for call in row["calls"].values())
    assert {"a guide", "guided, given", "guided, made"} <= set(row["calls"])
