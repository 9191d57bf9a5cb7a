"""What `make gpu-check` runs, on the CPU and at a small scale: mistakes show before a GPU's time is spent on them.

This proves nothing of the kernels.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(command: list[str | Path], **environment: str) -> str:
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "tests", "benchmarks"))
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.medium
def test_gpu_tests_on_the_cpu():
    out = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"],
        BITRATE_EXT_GPU_TESTS_ON="cpu",
        BITRATE_EXT_TEST_SCALE="0.002",
        REQUIRE_CUDA="",
    )
    passed = re.search(r"(\d+) passed", out)
    assert passed
    assert int(passed[1]) >= 60


@pytest.mark.medium
def test_a_required_gpu_that_is_absent_fails_these_tests():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/gpu/test_launches.py",
        "-k",
        "many",
    ]
    environment = {**os.environ, "REQUIRE_CUDA": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout
    assert "this job must have a GPU" in done.stdout


@pytest.mark.medium
def test_what_the_sanitizers_watch():
    out = run([sys.executable, "tests/gpu/sanitize.py", "cpu"])
    assert re.fullmatch(r"sanitize: \d+ shapes, 0 wrong \n", out)


@pytest.mark.medium
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_planted_faults_compile(architecture: str, tmp_path: Path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: the planted faults of the sanitizers are not compiled")
    source = ROOT / "tests/gpu/planted.cu"
    run([nvcc, "-std=c++17", f"-arch={architecture}", "-Werror", "all-warnings", "-o", tmp_path / "planted", source])


@pytest.mark.slow
def test_benchmarks_on_the_cpu(tmp_path: Path):
    """Every part, with a record that report.py reads; then a wrong answer."""
    code = f"""
        import workloads
        workloads.IMAGES.clear()
        workloads.IMAGES.update({{"kodak": (32, 48), "1080p": (48, 64), "4k": (48, 64)}})
        import gpu
        gpu.sources.SHAPES.update({{"4k": (1, 24, 9, 10), "training": (2, 24, 4, 4)}})
        gpu.sources.CONTENDERS["compiled CompressAI"][""] = gpu.sources.by_chain  # compiling takes minutes
        gpu.SECONDS, gpu.ROUNDS, gpu.GRAPH_CALLS, gpu.TURN = 0.0, (1, 1), 2, 1e-9
        gpu.CONTENDERS["compiled recipe"].pop("max-autotune-no-cudagraphs")  # it takes half a minute
        print("code", gpu.main(["--device", "cpu", "--record", {str(tmp_path / "record.json")!r}]))
        right, all_parts = gpu.opponents.fused, gpu.parts
        gpu.CONTENDERS["fused"] = {{"": lambda *arguments: lambda: right(*arguments)() * 0.9}}
        gpu.parts = lambda *arguments: list(all_parts(*arguments))[:1]
        print("code", gpu.main(["--device", "cpu", "--record", {str(tmp_path / "wrong.json")!r}]))
    """
    out = run([sys.executable, "-c", textwrap.dedent(code)])
    assert re.findall(r"^code (\d)$", out, re.MULTILINE) == ["0", "1"]
    found, wrong = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("record", "wrong"))
    assert found["complete"]
    assert found["failed"] == {}
    assert all("Triton" in what for what in found["left_out"])
    assert found["linear"] > 0
    assert len(found["sweep"]) == 6
    rows = {(row["workload"], row["device"], row["opponent"]): row for row in found["rows"]}
    assert len({workload for workload, _, _ in rows}) == 19 + 10
    for family in ("Gaussian", "Laplace", "Logistic", "GaussianMixture", "Factorized"):
        for workload in (f"{family} forward, 4k", f"{family} backward, training"):
            assert rows[workload, "cpu-graph", "fused"]["of_copy"] > 0
            for contender in ("CompressAI", "compiled CompressAI"):
                assert rows[workload, "cpu", contender]["over_fused"] > 0
    for workload in ("forward 4k", "backward kodak, bfloat16"):
        for way in ("cpu", "cpu-graph"):
            assert rows[workload, way, "fused"]["over_fused"] == 1
            assert rows[workload, way, "fused"]["of_copy"] > 0
    assert rows["forward kodak", "cpu-graph", "compiled recipe"]["over_fused"] > 0
    assert rows["backward 4k", "cpu", "recipe"]["over_fused"] > 0
    assert set(rows["forward 4k", "cpu", "copy"]["variants"]) == {"copy_", "kernel"}
    assert "forward kodak (cpu-graph)" in out
    assert "fused is wrong by 1.0e-01; it was not timed" in wrong["failed"]["forward kodak, fused"]
    assert {row["opponent"] for row in wrong["rows"]} == {"copy", "recipe", "empty call"}


@pytest.mark.medium
def test_triton_kernels_in_its_interpreter():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("no Triton: its kernels are not tried")
    code = """
        import torch
        import opponents_triton as t
        from bitrate_ext.cli.bench import recipe

        for dtype, shape, blocks in zip((torch.float32, torch.bfloat16), ((2, 37, 3, 5), (1, 7, 4, 9)), t.TRIALS):
            p = torch.rand(shape).clamp_min(1e-3).to(dtype)
            out = torch.full((shape[0], 1, shape[2] * 16, shape[3] * 16), float("nan"))
            t.by_triton(p, out, t.scratch(p), 16, blocks)
            torch.testing.assert_close(out.double(), recipe(p.double()), rtol=1e-5, atol=1e-7)

        import sources
        sources.SHAPES["4k"] = (2, 37, 3, 5)
        workload = sources.SourceWorkload("Gaussian")
        (buffers,) = sources.make_buffers(workload, torch.device("cpu"), 1)
        for blocks in t.GAUSSIAN_TRIALS:
            answer = sources.by_triton(workload, buffers, blocks)()
            error = sources.opponents.relative_error(answer, sources.exact_answer(workload, buffers))
            assert error < 2e-5, error
        print("right")
    """
    assert run([sys.executable, "-c", textwrap.dedent(code)], TRITON_INTERPRET="1").splitlines()[-1] == "right"


def test_what_is_used_of_torch_cuda_exists():
    """Lines for CUDA alone do not run here: at least no name in them is misspelt."""
    files = [*(ROOT / "tests/gpu").glob("*.py"), ROOT / "benchmarks/gpu.py"]
    used = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch.cuda":
                used.add(node.attr)
    assert {"CUDAGraph", "graph", "Stream", "_sleep", "mem_get_info"} <= used
    assert [name for name in sorted(used) if not hasattr(torch.cuda, name)] == []
