"""The GPU check without a GPU, on a tree of stubs: what fails it, what it tells, what is left if it is cut short."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import pytest

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]
PASSES = "def test_one(): pass\n"
ON_DEVICES = "import pytest\n@pytest.mark.parametrize('device', ['cpu', 'cuda'])\ndef test_one(device): pass\n"
STUBS = {
    "pyproject.toml": "",
    "setup.py": "",
    "tests/test_suite.py": ON_DEVICES,
    "tests/test_other.py": "import no_such_module_here\n",  # nothing in it takes a device, so nobody reads it
    "tests/gpu/test_bytes.py": PASSES,
    "tests/gpu/test_memory.py": PASSES,
    "tests/gpu/test_compute_sanitizer.py": PASSES,
    "benchmarks/gpu.py": "import sys\nopen(sys.argv[2], 'w').write('{\"rows\": [1]}')\nprint('a table')\n",
}
PATCHED = """
import sys, pathlib, gpu_check
gpu_check.ROOT, gpu_check.RESULTS = (pathlib.Path(path) for path in sys.argv[1:])
gpu_check.DEVICE, gpu_check.KERNELS = "print('{\\"name\\": \\"Some GPU\\"}')", "print('there')"
sys.exit(gpu_check.main())
"""


def begin(folder: Path, **changed: str) -> subprocess.Popen[str]:
    """Start the check of a tree of stubs, with other text in some."""
    for name, text in {**STUBS, **changed}.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    command = [sys.executable, "-c", PATCHED, str(folder / "tree"), str(folder / "results")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen[str], folder: Path) -> tuple[int, dict[str, str], dict]:
    """Wait for the exit code, the outcomes by step, which are printed as they are written, and the record."""
    said = process.communicate(timeout=300)[0]
    (path,) = (folder / "results").glob("gpu-some-gpu-*.json")
    record = json.loads(path.read_text())
    steps = {step["name"]: step["outcome"] for step in record["steps"]}
    assert all(f"{outcome:<4} {name}: " in said for name, outcome in steps.items()), said
    return process.returncode, steps, record


def test_a_run_in_which_all_is_well(tmp_path: Path) -> None:
    code, steps, record = end(begin(tmp_path), tmp_path)
    assert code == 0
    names = ["device", "build", "kernels", "suite", "GPU tests", "compute-sanitizer", "memory", "benchmarks"]
    assert steps == dict.fromkeys(names, "ok"), record["steps"]
    assert record["steps"][3]["said"].startswith("1 passed, 1 deselected")
    assert record["rows"] == [1]
    assert record["device"] == {"name": "Some GPU"}
    assert record["questions"] == {
        question: "ok" if shown_by == gpu_check.SPEED else "could not be run"
        for question, shown_by in gpu_check.QUESTIONS.items()
    }
    assert {"date", "commit", "driver", "nvcc"} <= set(record)


@pytest.mark.parametrize(
    ("file", "text", "step", "words"),
    [
        ("setup.py", "print('bitrate_ext: no CUDA toolkit (nvcc); building without CUDA kernels')", "build", "(nvcc)"),
        ("setup.py", "raise OSError('ninja is gone')", "build", "ninja is gone"),
        ("tests/test_suite.py", "def test_a(device): pass  # no such fixture: cuda", "suite", "code 5"),
        (
            "tests/gpu/test_bytes.py",
            "def test_bad(): assert 1 == 2",
            "GPU tests",
            "test_bytes.py::test_bad - assert 1 == 2",
        ),
        ("tests/gpu/test_bytes.py", "import os\ndef test_a(): os._exit(0)", "GPU tests", ""),
        ("tests/gpu/test_memory.py", "import no_such_module_here", "memory", "ERROR tests/gpu/test_memory.py"),
        ("benchmarks/gpu.py", "raise SystemExit('fused is wrong')", "benchmarks", "fused is wrong"),
    ],
)
def test_a_step_that_fails(tmp_path: Path, file: str, text: str, step: str, words: str) -> None:
    code, steps, record = end(begin(tmp_path, **{file: text}), tmp_path)
    assert code == 1
    assert [name for name, outcome in steps.items() if outcome == "FAIL"] == [step]
    (said,) = (found["said"] for found in record["steps"] if found["name"] == step)
    assert words in said
    if step == "build":
        assert steps["tests, compute-sanitizer, memory, benchmarks"] == "could not be run"


def test_what_could_not_be_run_is_no_ok(tmp_path: Path) -> None:
    skip = "import pytest\ndef test_skipped(): pytest.skip('a tool is not installed')\n"
    changed = {"tests/gpu/test_compute_sanitizer.py": skip, "tests/gpu/test_memory.py": skip + PASSES}
    code, steps, record = end(begin(tmp_path, **changed), tmp_path)
    assert code == 0
    assert "compute-sanitizer" not in steps
    assert steps["memory"] == "ok"
    skipped = {step["name"]: step["said"] for step in record["steps"] if step["outcome"] == "could not be run"}
    assert list(skipped) == ["compute-sanitizer, skipped", "memory, skipped"]
    assert all("a tool is not installed" in said for said in skipped.values())


def number_in(path: Path, process: subprocess.Popen) -> int:
    """Wait for the number that a program writes."""
    while not path.exists() or not path.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    return int(path.read_text())


def runs(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for yet does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interrupt_leaves_the_record_and_no_child(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    build = f"import os, time\nopen({str(begun)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n"
    process = begin(tmp_path, **{"setup.py": build})
    pid = number_in(begun, process)
    process.send_signal(signal.SIGINT)
    code, steps, record = end(process, tmp_path)
    assert code == 1
    assert steps == {"device": "ok", "the whole check": "FAIL"}
    assert "KeyboardInterrupt" in record["steps"][1]["said"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_over_its_limit_is_stopped_with_its_children(tmp_path: Path) -> None:
    check, begun = gpu_check.GpuCheck(tmp_path), tmp_path / "begun"
    child = f"import os, time\nopen({str(begun)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)"
    start = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    check.begin("slow", "-c", start)
    pid = number_in(begun, check.running["slow"])
    assert "begun" in check.end("slow", until=0)
    assert check.steps[0]["outcome"] == "FAIL"
    assert "stopped at its limit of time" in check.steps[0]["said"]
    deadline = time.monotonic() + 60
    while runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_answers_are_those_of_their_tests(tmp_path: Path) -> None:
    """One that failed counts before one that was skipped, and that before one that passed."""
    name = gpu_check.QUESTIONS["kernels that are loaded inside a capture"].partition("::")[2]
    late = gpu_check.QUESTIONS["an allocator under pressure"].partition("::")[2]
    text = f"""
import pytest
@pytest.mark.parametrize("how", ["a", "b"])
def {name}(how): assert how == "a"
@pytest.mark.parametrize("how", ["a", "b"])
def {late}(how): how == "a" or pytest.skip("no")
def {late}_indeed(): assert 0
def test_a_call_returns_before_its_work(): pass
"""
    code, _, record = end(begin(tmp_path, **{gpu_check.RUNTIME: text}), tmp_path)
    assert code == 1
    assert record["questions"]["kernels that are loaded inside a capture"] == "FAIL"
    assert record["questions"]["an allocator under pressure"] == "could not be run"
    assert record["questions"]["calls that return before their work"] == "ok"


def test_the_page_and_the_script_have_one_list() -> None:
    """And each of its tests is there."""
    page = (ROOT / "docs/gpu.md").read_text()
    assert dict(re.findall(r"^\| ([^|`]+) \| `([^|`]+)` \|", page, re.MULTILINE)) == gpu_check.QUESTIONS
    for shown_by in gpu_check.QUESTIONS.values():
        file, _, test = shown_by.partition("::")
        assert not test or f"\ndef {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("torch", ["", "raise ImportError"])
def test_without_a_gpu_it_fails_with_one_line_and_leaves_no_record(tmp_path: Path, torch: str) -> None:
    before = set(gpu_check.RESULTS.iterdir())
    if torch:
        (tmp_path / "torch.py").write_text(torch)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "tools/gpu_check.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("FAIL device: ")
    assert ("has no torch; name a Python that has" if torch else "torch sees no NVIDIA GPU") in line
    assert set(gpu_check.RESULTS.iterdir()) == before


SAYS = {  # a compute-sanitizer that sees nothing wrong with ours and nothing planted, but for some tools
    ("memcheck", "sanitize.py"): "sanitize: 64 shapes, 0 wrong\n=== ERROR SUMMARY: 0 errors",
    ("racecheck", "sanitize.py"): "sanitize: 64 shapes, 0 wrong\n=== RACECHECK SUMMARY: 1 hazard displayed",
    ("initcheck", "sanitize.py"): "sanitize: 64 shapes, 0 wrong",
    ("synccheck", "sanitize.py"): "sanitize: 64 shapes, 2 wrong case 7\n=== ERROR SUMMARY: 0 errors",
    ("memcheck", "planted"): "Invalid __global__ write of size 4 bytes at out_of_bounds(int *, int)+0x90",
    ("racecheck", "planted"): "Race reported between Write access at another_kernel(int *)+0x50",
    ("initcheck", "planted"): "=== ERROR SUMMARY: 0 errors",
    ("synccheck", "planted"): "=== Error: Device not supported. Please refer to ...",
}
FAKE = """#!/usr/bin/env python3
import sys
says = {says!r}
print(says[sys.argv[2], sys.argv[-2].split("/")[-1]])
"""


def test_what_is_made_of_a_sanitizer_s_reports(tmp_path: Path) -> None:
    """Of our kernels and of planted faults: a fault that a tool does not name fails its test."""
    for name, text in (("compute-sanitizer", FAKE.format(says=SAYS)), ("nvcc", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = [sys.executable, "-m", "pytest", "-v", "-rA", "-p", "no:cacheprovider", gpu_check.SANITIZER]
    environment = {**os.environ, "BITRATE_EXT_GPU_TESTS_ON": "cpu", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    outcomes = dict(re.findall(r"::test_(\w+\[\w+\]) (PASSED|FAILED|SKIPPED)", done.stdout))
    assert outcomes == {
        "our_kernels[memcheck]": "PASSED", "planted_faults[memcheck]": "PASSED",
        "our_kernels[racecheck]": "FAILED", "planted_faults[racecheck]": "FAILED",
        "our_kernels[initcheck]": "FAILED", "planted_faults[initcheck]": "FAILED",
        "our_kernels[synccheck]": "FAILED", "planted_faults[synccheck]": "SKIPPED",
    }, done.stdout  # fmt: skip
    assert "Device not supported" in done.stdout
    source = (ROOT / "tests/gpu/planted.cu").read_text()
    tests = (ROOT / gpu_check.SANITIZER).read_text()
    for tool, kernel in re.findall(r'"(\w+)": \("(\w+)", r"', tests):
        assert f"void {kernel}(" in source
        assert f'"{tool}"' in source
