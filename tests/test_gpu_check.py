"""The GPU check's plumbing, without a GPU: commands and their limits, what is read out of them, bars, the verdict."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import evidence
import gpu_check
import pytest
import torch
from gpu_jobs import PLANTED, Check, Ended, Job, Report, find_tool, read_planted, read_pytest, read_sanitizer, run_jobs

bars = gpu_check.bars
CLEAN = "sanitize: 64 shapes, 0 wrong \n========= ERROR SUMMARY: 0 errors\n"


def ended(log: str, code: int | None = 0) -> Ended:
    return Ended(code, 1.5, log)


def silent() -> Report:
    return Report(lambda _: None)


# Lines and outcomes


def test_lines():
    said: list[str] = []
    report = Report(said.append)
    report.add(Check("a", "ok", "12 cases"), Check("b", "FAIL", "two\nlines"), Check("c", "miss", "not installed"))
    assert [line.rpartition("  [")[0] for line in said] == [
        "ok   a: 12 cases",
        "FAIL b: two lines",
        "miss c: not installed",
    ]
    assert [check.name for check in report.failed()] == ["b"]
    assert [check.name for check in report.missed()] == ["c"]
    with pytest.raises(ValueError, match="an outcome is one of ok, FAIL, miss, got 'passed'"):
        Check("d", "passed", "")


# Commands


def job(name: str, code: str, limit: float = 30.0, **environment: str) -> Job:
    return Job(name, [sys.executable, "-c", code], limit, lambda e: [Check(name, "ok", e.last_line())], environment)


def test_jobs_run_side_by_side_each_with_its_own_environment(tmp_path: Path):
    code = "import os, time; t = time.time(); time.sleep(2); print(t, time.time(), os.environ['MINE'], os.getcwd())"
    jobs = [job("a", code, MINE="1"), job("b", code, MINE="2")]
    found = {one.name: e for one, e in run_jobs(jobs, 2, time.monotonic() + 60, tmp_path, tmp_path / "logs", {})}
    first, second = (found[name].log.split() for name in "ab")
    assert max(float(first[0]), float(second[0])) < min(float(first[1]), float(second[1])), "one after the other"
    assert (first[2:], second[2:]) == (["1", str(tmp_path)], ["2", str(tmp_path)])
    assert all(e.code == 0 and e.seconds >= 2 for e in found.values())


def test_a_job_over_its_limit_is_stopped_with_its_children(tmp_path: Path):
    code = f"""
        import subprocess, sys, time
        child = "import time, pathlib; time.sleep(3); pathlib.Path({str(tmp_path / "lived")!r}).touch()"
        print("begun", flush=True)
        subprocess.Popen([sys.executable, "-c", child])
        time.sleep(30)
    """
    (_, stopped), (_, after) = run_jobs(
        [job("slow", textwrap.dedent(code), limit=1.5), job("next", "print(5)")],
        1,
        time.monotonic() + 60,
        tmp_path,
        tmp_path,
        {},
    )
    assert stopped.code is None
    assert stopped.log == "begun\n"
    assert 1.5 <= stopped.seconds < 10
    assert (after.code, after.log) == (0, "5\n")
    time.sleep(2.5)
    assert not (tmp_path / "lived").exists()


def test_what_no_time_is_left_for_is_a_miss(tmp_path: Path):
    (first, second) = run_jobs(
        [job("a", "import time; time.sleep(9)"), job("b", "")], 1, time.monotonic() + 1, tmp_path, tmp_path, {}
    )
    assert first[1].code is None
    assert [check.outcome for check in second[0].checks(second[1])] == ["miss"]


def test_output_that_is_not_understood_is_a_failure():
    (check,) = Job("a", [], 1, lambda e: [Check(e.log, "ok", str(1 / 0))]).checks(ended("text"))
    assert (check.outcome, check.detail) == ("FAIL", "text")
    assert "ZeroDivisionError" in check.text


def test_tools_are_found_beside_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_tool("no-such-tool-of-cuda") is None
    program = tmp_path / "compute-sanitizer" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/bin")
    assert find_tool("compute-sanitizer") == program


# Tests


def checks_of(tmp_path: Path, text: str, by_file: bool = False, which: str = "") -> dict[str, Check]:
    """What the check makes of a test file, run as it runs them."""
    (tmp_path / "test_some.py").write_text(textwrap.dedent(text))
    check = gpu_check.GpuCheck(silent(), tmp_path, 60)
    check.tree = tmp_path
    check.environment["PYTHONPATH"] = str(Path(gpu_check.__file__).parent)
    check.run([check.pytest_job("job", ["test_some.py"], which, 1.0, 60, by_file)], 1, check.end)
    return {found.name: found for found in check.report.checks}


def test_outcomes_of_tests(tmp_path: Path):
    text = """
        import pytest

        @pytest.mark.parametrize("k", range(3))
        def test_good(k, record_property):
            record_property("cases", 1200)

        @pytest.mark.parametrize("k", range(3))
        def test_bad(k):
            assert k != 1, "not this one"

        def test_absent():
            pytest.skip("needs 24 GB of free memory")

        @pytest.fixture
        def broken():
            raise OSError("no device")

        def test_with_fixture(broken):
            pass
    """
    found = checks_of(tmp_path, text)
    assert {name: check.outcome for name, check in found.items()} == {
        "job: test_good": "ok", "job: test_bad": "FAIL", "job: test_absent": "miss", "job: test_with_fixture": "FAIL",
    }  # fmt: skip
    assert "1,200 cases" in found["job: test_good"].text
    assert found["job: test_good"].figures == {"tests": 3, "cases": 1200}
    assert "1 of 3 failed: test_bad[1]: AssertionError: not this one" in found["job: test_bad"].text
    assert "assert 1 != 1" in found["job: test_bad"].detail
    assert found["job: test_absent"].text == "1 of 1 not run: needs 24 GB of free memory"
    assert "no device" in found["job: test_with_fixture"].text
    (whole,) = checks_of(tmp_path, text, by_file=True, which="good or absent").values()
    assert (whole.name, whole.outcome) == ("job: test_some", "miss"), "a skipped test makes no ok of its file"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os\ndef test_a(): os._exit(9)", "pytest ended with code 9"),
        ("def test_a(): pass", "pytest ended with code 5"),  # which="nothing": no test is chosen
        ("import no_such_module_here\ndef test_a(): pass", "no_such_module_here"),
    ],
)
def test_a_run_of_tests_that_breaks_off_fails(tmp_path: Path, text: str, words: str):
    found = checks_of(tmp_path, text, which="nothing" if words.endswith("5") else "")
    assert [check.outcome for check in found.values()].count("FAIL") >= 1
    assert any(words in check.text for check in found.values())
    assert all(check.outcome == "FAIL" for check in found.values())


def test_a_run_of_tests_that_is_stopped_fails(tmp_path: Path):
    (tmp_path / "found.jsonl").write_text('{"test": "test_a.py::test_x[1]", "outcome": "passed", "seconds": 2.0}\n')
    checks = read_pytest("job", tmp_path / "found.jsonl", by_file=False)(ended("", None))
    assert [check.outcome for check in checks] == ["ok", "FAIL"]
    assert "1 tests had ended" in checks[1].text


def test_without_pytest_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    check = gpu_check.GpuCheck(silent(), tmp_path, 60)
    assert [*check.test_jobs(), *check.memory_jobs()] == []
    (said,) = check.report.checks
    assert said.outcome == "FAIL"
    assert f"{sys.executable} -m pip install pytest" in said.text


def test_tests_that_need_more_than_pytest_are_a_miss_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = gpu_check.importlib.util.find_spec
    monkeypatch.setattr(
        gpu_check.importlib.util, "find_spec", lambda name: None if name == "hypothesis" else found(name)
    )
    check = gpu_check.GpuCheck(silent(), tmp_path, 60)
    jobs = list(check.test_jobs())
    assert [(c.outcome, c.text) for c in check.report.checks] == [("miss", "hypothesis is not installed")]
    assert len(jobs) == len(gpu_check.SUITE) - 1 + len(gpu_check.GPU_TESTS)
    for path in (Path(part) for one in jobs for part in one.command if str(part).endswith(".py")):
        assert (evidence.ROOT / path).exists(), path
    assert not any(
        "compressai" in (evidence.ROOT / f"tests/{f}.py").read_text() for _, fs, _, _ in gpu_check.SUITE for f in fs
    )


# compute-sanitizer


@pytest.mark.parametrize(
    ("log", "code", "outcome"),
    [
        (CLEAN, 0, "ok"),
        (
            CLEAN.replace("ERROR SUMMARY: 0 errors", "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"),
            0,
            "ok",
        ),
        (CLEAN.replace("0 errors", "3 errors"), 0, "FAIL"),
        (
            CLEAN.replace("ERROR SUMMARY: 0 errors", "RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"),
            0,
            "FAIL",
        ),
        (CLEAN.replace("0 wrong", "2 wrong case 7"), 1, "FAIL"),
        ("sanitize: 64 shapes, 0 wrong \n", 0, "FAIL"),  # no summary
        ("========= ERROR SUMMARY: 0 errors\n", 139, "FAIL"),  # the program died
        (CLEAN, 139, "FAIL"),
        (CLEAN, None, "FAIL"),
        ("========= Error: Device not supported. Please refer to ...\n", 1, "miss"),
        ("========= Error: process didn't terminate successfully\n", 1, "FAIL"),
        ("ImportError\n========= Target application terminated before first instrumented API call\n", 1, "FAIL"),
    ],
)
def test_reports_of_the_sanitizer(log: str, code: int | None, outcome: str):
    (check,) = read_sanitizer("memcheck")(ended(log, code))
    assert check.outcome == outcome, check


def test_planted_faults_must_be_named():
    at = "\n=========     at "
    said = {
        "memcheck": f"========= Invalid __global__ write of size 4 bytes{at}out_of_bounds(int *, int)+0x90",
        "racecheck": "========= Error: Race reported between Write access at shared_memory_race(int *)+0x50",
        "initcheck": f"========= Uninitialized __global__ memory read of size 4 bytes{at}uninitialised_read",
        "synccheck": f"========= Barrier error detected. Divergent thread(s) in warp{at}divergent_barrier",
    }
    assert set(said) == set(PLANTED) == set(gpu_check.TOOLS)
    for tool, log in said.items():
        assert read_planted("x", tool)(ended(log, None))[0].outcome == "ok", "a kernel may hang after its report"
        assert read_planted("x", tool)(ended("planted: done\n========= ERROR SUMMARY: 1 error"))[0].outcome == "FAIL"
        assert read_planted("x", tool)(ended(log.replace(PLANTED[tool][0], "another_kernel")))[0].outcome == "FAIL"
        assert read_planted("x", tool)(ended("========= Error: Device not supported."))[0].outcome == "miss"
    source = (evidence.ROOT / "tests/gpu/planted.cu").read_text()
    for tool, (kernel, _) in PLANTED.items():
        assert f"void {kernel}(" in source
        assert f'"{tool}"' in source


def test_without_a_sanitizer_each_of_its_checks_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_check, "find_tool", lambda name: None)
    check = gpu_check.GpuCheck(silent(), tmp_path, 60)
    assert list(check.sanitizer_jobs()) == []
    assert [c.outcome for c in check.report.checks] == ["miss"] * 8


# Bars


def timed(**medians: float) -> dict:
    """Times by "contender_way"; e.g. fused_graph=2e-6."""
    times: dict = {}
    for name, value in medians.items():
        contender, _, way = name.partition("_")
        times.setdefault(contender, {})[way] = {"median": value, "low": value, "high": value * 1.1}
    return times


def row(image: str, **medians: float) -> dict:
    return {"image": image, "channels": 192, "dtype": "float32", "bytes": 10**6, "times": timed(**medians)}


FIGURES = {
    "empty": {"median": 2e-6},
    "forward": [
        row("kodak", fused_graph=3e-6, fused_call=10e-6, recipe_call=60e-6, copy_graph=2e-6),
        row("4k", fused_graph=20e-6, fused_call=20e-6, recipe_call=80e-6, copy_graph=18e-6, copy_call=17e-6),
        row("8k", fused_graph=60e-6, fused_call=60e-6, recipe_call=330e-6, copy_graph=48e-6),
        {**row("8k", fused_graph=1.0, fused_call=1.0, recipe_call=1.0, copy_graph=1e-9), "dtype": "bfloat16"},
    ],
    "backward": [row("4k", fused_call=10e-6, recipe_call=39e-6, fused_graph=9e-6)],
    "compiled": [
        {**row("4k", fused_graph=20e-6, compiled_graph=40e-6), "mode": "default"},
        {**row("4k", fused_graph=20e-6, compiled_graph=28e-6), "mode": "max-autotune"},
    ],
    "frames": {"linear": 0.95},
    "left_out": ["launches 8k"],
}


def test_bars():
    found = {bar.name: (round(bar.value, 3), bar.reached) for bar in bars.bars(FIGURES)}
    assert found == {
        "kodak, times an empty kernel": (1.5, True),
        "kodak, eager recipe over fused": (6.0, True),
        "4k, share of a copy's rate": (0.85, True),  # the fastest copy counts
        "4k, eager recipe over fused": (4.0, False),
        "8k, share of a copy's rate": (0.8, False),
        "8k, eager recipe over fused": (5.5, True),
        "4k, torch.compile over fused": (1.4, False),  # the better of its modes counts
        "4k, autograd of the recipe over fused": (3.9, False),
        "64 frames of 1080p in one call, share of linear": (0.95, True),
    }
    lines = [bar.line() for bar in bars.bars(FIGURES)]
    assert "below the bar: 4k, eager recipe over fused 4.00 (>= 5)" in lines
    assert "reached: kodak, times an empty kernel 1.50 (<= 2)" in lines
    assert bars.bars({}) == bars.bars({"forward": [row("4k")], "frames": {}}) == []


def test_table():
    lines = bars.table(FIGURES)
    assert any(line.startswith("forward 4k C=192 float32") and " 0.85 " in line for line in lines)
    assert "left out: launches 8k" in lines
    assert bars.table({})[1:] == []


# The whole


def check_with(tmp_path: Path, *checks: Check) -> gpu_check.GpuCheck:
    check = gpu_check.GpuCheck(silent(), tmp_path / "work", 60)
    check.device = {"name": "Some GPU", "capability": "9.0"}
    check.report.add(*checks)
    check.figures = FIGURES
    return check


def test_exit_code_and_evidence(tmp_path: Path):
    good, bad, gone = (
        Check("a", "ok", ""),
        Check("b", "FAIL", "wrong", detail="all of it"),
        Check("c", "miss", "absent"),
    )
    assert gpu_check.finish(check_with(tmp_path, good), tmp_path / "1") == 0
    assert gpu_check.finish(check_with(tmp_path, good, gone), tmp_path / "2") == 0
    assert gpu_check.finish(check_with(tmp_path, good, bad, gone), tmp_path / "3") == 1
    verdicts = []
    for folder in ("1", "2", "3"):
        ((path, found),) = evidence.read_all(tmp_path / folder)
        assert path.name.startswith("gpu-some-gpu-")
        assert found["csrc"] == evidence.sources_hash()
        assert {"date", "commit", "device", "python", "nvcc", "seconds", "bars", "benchmarks"} <= set(found)
        assert found["benchmarks"] == json.loads(json.dumps(FIGURES))
        verdicts.append(found["verdict"])
    assert verdicts == [
        "1 checks passed", "1 checks passed, 1 could not be run", "1 of 3 checks failed, 1 could not be run",
    ]  # fmt: skip
    assert found["checks"][1] == {
        "name": "b", "outcome": "FAIL", "text": "wrong", "seconds": 0.0, "figures": {}, "detail": "all of it",
    }  # fmt: skip


def test_a_build_that_fails_leaves_nothing_that_looks_like_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check = gpu_check.GpuCheck(silent(), tmp_path, 60)
    check.tree.mkdir()
    (check.tree / "setup.py").write_text("import sys; sys.exit('bitrate_ext: no CUDA toolkit (nvcc)')")
    monkeypatch.setattr(check, "copy_tree", lambda: None)
    gpu_check.run(check, gpu_check.STEPS)
    found = [(c.name, c.outcome) for c in check.report.checks]
    assert found == [("build", "FAIL"), *((step, "miss") for step in gpu_check.STEPS[1:])]
    assert "no CUDA toolkit (nvcc)" in check.report.checks[0].text


def test_a_build_of_the_cpu_alone_is_no_build(tmp_path: Path):
    check = gpu_check.GpuCheck(silent(), tmp_path, 60)
    (check.tree / "bitrate_ext").mkdir(parents=True)
    (check.tree / "bitrate_ext/_ops_cpu.abi3.so").touch()
    log = "bitrate_ext: the CUDA toolkit in /usr is 12.0, torch's is 13.0; building without CUDA kernels\nmore\n"
    (found,) = check.read_build(ended(log))
    assert found.outcome == "FAIL"
    assert "building without CUDA kernels" in found.text
    (check.tree / "bitrate_ext/_ops_cuda.abi3.so").touch()
    assert check.read_build(ended("more\n"))[0].outcome == "ok"
    assert check.read_build(ended("more\n", 1))[0].outcome == "FAIL"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"package": "/elsewhere/bitrate_ext/__init__.py"}, "another package was imported"),
        ({"available": False, "absent": "no kernel image"}, "no kernels for it: no kernel image"),
        ({"same": False}, "other bytes"),
    ],
)
def test_the_first_look_at_the_device(tmp_path: Path, changed: dict, words: str):
    check = gpu_check.GpuCheck(silent(), tmp_path, 60)
    said = {
        "package": str(check.tree / "bitrate_ext/__init__.py"), "available": True, "absent": "", "same": True,
        "name": "Some GPU", "capability": "9.0", "torch": "2.11", "cuda": "13.0",
    }  # fmt: skip
    (found,) = check.read_probe(ended("a warning\n" + json.dumps({**said, **changed})))
    assert (found.outcome == "FAIL", words in found.text) == (bool(changed), True)
    assert check.device["name"] == "Some GPU"
    assert check.read_probe(ended("Traceback\nRuntimeError: no driver", 1))[0].text == "RuntimeError: no driver"


def test_the_environment_is_that_of_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BITRATE_EXT_GPU_TESTS_ON", "cpu")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.0")
    monkeypatch.setenv("PYTHONPATH", "/carried")
    environment = gpu_check.GpuCheck(silent(), tmp_path, 60).environment
    assert not {"BITRATE_EXT_GPU_TESTS_ON", "TORCH_CUDA_ARCH_LIST"} & set(environment)
    paths = environment["PYTHONPATH"].split(":")
    assert (paths[0], paths[-1]) == (str(tmp_path / "tree"), "/carried")
    assert environment["REQUIRE_CUDA"] == "1"


def test_without_a_gpu_it_fails_and_leaves_no_evidence(tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: `make gpu-check` is to be run")
    command = [sys.executable, "tools/gpu_check.py", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=evidence.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL device: torch sees no NVIDIA GPU")
    assert list(tmp_path.iterdir()) == []
