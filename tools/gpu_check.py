"""Check the CUDA kernels on this machine's NVIDIA GPU, in at most eight minutes; `make gpu-check` runs it.

It builds a copy of the tree for the GPU that is here, runs the tests that need one, compute-sanitizer and the
benchmarks, prints a line for each step, and writes a dated JSON to benchmarks/results/, which is to be committed.
It needs a Python that has torch with CUDA, setuptools, NumPy and pytest, nvcc and a C++ compiler; no network.

A step is "ok", "FAIL", or "could not be run", which is no ok, but fails nothing. So is the answer to each question of
docs/gpu.md, told at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OK, FAIL, NOT_RUN = "ok", "FAIL", "could not be run"
UNWANTED = ("TORCH_CUDA_ARCH_LIST", "BITRATE_EXT_", "PYTEST_ADDOPTS", "TRITON_INTERPRET", "CUDA_LAUNCH_BLOCKING")
SCALE = 0.3 * min(1.0, (os.cpu_count() or 1) / 12)  # of the numbers of cases of the suite, which the CPU runs in full
RESULTS = ROOT / "benchmarks/results"
SANITIZER, MEMORY = "tests/gpu/test_compute_sanitizer.py", "tests/gpu/test_memory.py"
RUNTIME, STREAMS, SPEED = "tests/gpu/test_runtime.py", "tests/gpu/test_streams.py", "benchmarks"
QUESTIONS = {  # what only a GPU can answer, and the test or the step that does; docs/gpu.md has the same list
    "the CUDA runtime that is linked in, beside PyTorch's": f"{RUNTIME}::test_errors_of_pytorch_are_not_ours",
    "a GPU that is not the current one": f"{RUNTIME}::test_a_device_that_is_not_the_current_one",
    "kernels that are loaded inside a capture": f"{RUNTIME}::test_a_first_launch_inside_a_capture",
    "replays of graphs": f"{STREAMS}::test_graph_replays_with_new_inputs",
    "calls that return before their work": f"{RUNTIME}::test_a_call_returns_before_its_work",
    "data that come late, on other streams": f"{STREAMS}::test_a_producer_that_comes_late",
    "bands that are let go while a kernel waits": f"{RUNTIME}::test_bands_let_go_while_a_kernel_waits",
    "an allocator under pressure": f"{RUNTIME}::test_little_memory",
    "code that the driver compiles from PTX": f"{RUNTIME}::test_code_that_the_driver_compiles_from_ptx",
    "speed, beside the recipe, Triton and a copy": SPEED,
}
DEVICE = """
import json, platform, sys
try: import torch
except ImportError: sys.exit(f"{sys.executable} has no torch; name a Python that has: make gpu-check GPU_PYTHON=...")
if not torch.cuda.is_available(): sys.exit("torch sees no NVIDIA GPU")
there = torch.cuda.get_device_properties(0)
print(json.dumps({"name": there.name, "capability": f"{there.major}.{there.minor}", "memory": there.total_memory,
    "torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}))
"""
KERNELS = """
import pathlib, torch, bitrate_ext
assert pathlib.Path(bitrate_ext.__file__).is_relative_to(pathlib.Path.cwd()), f"imported {bitrate_ext.__file__}"
p = torch.rand(2, 19, 5, 12).clamp_min(1e-6)
found, expected = (bitrate_ext.bitrate_map(q, (40, 96), impl="native").cpu() for q in (p.cuda(), p))
assert torch.equal(found, expected), "a first map has other bytes than the CPU's"
print("they are there, and a first map has the CPU's bytes")
"""


def last_line(said: str) -> str:
    """Return the last line of what a program said, without the rule that pytest draws around it."""
    return (said.strip().splitlines() or [""])[-1].strip("= ")


def output_of(*command: str | Path) -> str:
    """Return what a program prints; nothing where there is none or it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    return ""


def tests_on_devices(tests: Path) -> list[Path]:
    """Find the files of the suite that have tests with a device to choose."""
    files = sorted(path for path in tests.rglob("test_*.py") if path.parent.name != "gpu")
    return [path for path in files if re.search(r"^ *def \w+\([^)]*\bdevice\b", path.read_text(), re.MULTILINE)]


class GpuCheck:
    """One run: where it works, what runs, what was found."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tree, self.figures = folder, folder / "tree", folder / "figures.json"
        self.tree.mkdir()
        self.start = time.monotonic()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.steps: list[dict[str, Any]] = []
        self.said = ""  # by all programs
        self.failed = False
        self.device: dict[str, Any] = {}
        paths = [str(self.tree), str(self.tree / "tests"), os.environ.get("PYTHONPATH", "")]
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(UNWANTED)}
        self.environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "REQUIRE_CUDA": "1"}
        self.environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "2", "COLUMNS": "200"}

    def tell(self, name: str, outcome: str, said: str, log: str = "") -> None:
        """Print a step's line, with the end of its log if it failed, and keep both for the record."""
        self.failed |= outcome == FAIL
        kept = log[-20_000:] if outcome == FAIL else ""
        seconds = round(time.monotonic() - self.start, 1)
        self.steps.append({"name": name, "outcome": outcome, "said": said, "ended": seconds, "log": kept})
        print(f"{outcome:<4} {name}: {said[:300]}  [{seconds:.0f} s]", flush=True)
        if kept.strip() not in said:
            print(kept[-1500:], flush=True)

    def begin(self, name: str, *arguments: str | Path, **environment: str) -> None:
        """Start Python in the copied tree, in a group of its own, so that its children can be stopped with it."""
        with open(self.folder / f"{name}.log", "wb") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *map(str, arguments)], cwd=self.tree, env={**self.environment, **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def begin_tests(self, name: str, *which: str | Path, scale: float = 1.0) -> None:
        options = ("-m", "pytest", "-v", "-ra", "-p", "no:cacheprovider")
        self.begin(name, *options, *which, BITRATE_EXT_TEST_SCALE=str(scale))

    def stop(self, name: str) -> None:
        """Stop a program and its children; an interrupt comes first, after which pytest tells what it has."""
        process = self.running[name]
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        del self.running[name]

    def end(self, name: str, until: float, sign: str = "") -> str:
        """Wait until so many seconds from the start, tell how a program ended (well: with a sign); return its log."""
        try:
            code = self.running[name].wait(max(0.0, self.start + until - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        self.stop(name)
        said = (self.folder / f"{name}.log").read_text(errors="replace")
        self.said += said
        wrong = re.findall(r"^(?:FAILED |ERROR |bitrate_ext: ).*", said, re.MULTILINE)  # of pytest and of setup.py
        skipped = re.findall(r"^SKIPPED (.*)", said, re.MULTILINE)
        if code != 0 or wrong or not (skipped or sign in last_line(said)):
            how = "stopped at its limit of time" if code is None else f"code {code}"
            self.tell(name, FAIL, "; ".join([how, last_line(said), *wrong[:1]]), said)
        elif sign in last_line(said):
            self.tell(name, OK, last_line(said))
        if skipped:
            self.tell(f"{name}, skipped", NOT_RUN, "; ".join(skipped))
        return said

    def answers(self) -> dict[str, str]:
        """Return the outcome of each question: that of its step, or of all runs of its test."""
        found = {}
        for question, shown_by in QUESTIONS.items():
            outcomes = {step["outcome"] for step in self.steps if step["name"] == shown_by}
            for word in re.findall(rf"^{re.escape(shown_by)}(?:\[.*\])? ([A-Z]+)", self.said, re.MULTILINE):
                outcomes.add({"PASSED": OK, "SKIPPED": NOT_RUN}.get(word, FAIL))
            found[question] = next((one for one in (FAIL, NOT_RUN, OK) if one in outcomes), NOT_RUN)
        return found

    def run(self) -> None:
        """Take the steps in turn, each until its second."""
        self.begin("device", "-c", DEVICE)
        said = self.end("device", until=60)
        if self.failed:
            return
        self.device = json.loads(last_line(said))
        ignored = shutil.ignore_patterns(".*", "*.so", "__pycache__", "results", "build", "out", "pyproject.toml")
        shutil.copytree(ROOT, self.tree, ignore=ignored, dirs_exist_ok=True)
        self.begin("build", "setup.py", "build_ext", "--inplace")
        self.end("build", until=180)
        shutil.copy(ROOT / "pyproject.toml", self.tree)  # not before: a build in place needs no new setuptools then
        if not self.failed:
            self.begin("kernels", "-c", KERNELS)
            self.end("kernels", until=200)
        if self.failed:
            self.tell("tests, compute-sanitizer, memory, benchmarks", NOT_RUN, "there are no kernels to run them with")
            return
        self.begin_tests("suite", *tests_on_devices(self.tree / "tests"), "-k", "cuda", scale=SCALE)
        self.begin_tests("GPU tests", "tests/gpu", f"--ignore={SANITIZER}", f"--ignore={MEMORY}")
        self.begin_tests("compute-sanitizer", SANITIZER)
        for name in list(self.running):  # side by side: none of these needs the GPU for itself
            self.end(name, until=350, sign=" passed")
        self.begin_tests("memory", MEMORY)
        self.end("memory", until=400, sign=" passed")
        left = self.start + 470 - time.monotonic()
        self.begin("benchmarks", "benchmarks/gpu.py", "--record", self.figures, "--seconds", f"{0.6 * left:.0f}")
        print(self.end("benchmarks", until=470))

    def write(self) -> Path:
        """Write the record: that of the benchmarks, which report.py reads, with the steps and where they ran."""
        now = datetime.now(timezone.utc)
        record = json.loads(self.figures.read_text()) if self.figures.exists() else {}
        record |= {
            "date": now.isoformat(timespec="seconds"),
            "commit": output_of("git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
            "device": self.device,
            "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "nvcc": last_line(output_of("nvcc", "--version")),
            "steps": self.steps,
            "questions": self.answers(),
        }
        name = re.sub(r"[^a-z0-9]+", "-", self.device["name"].lower()).strip("-")
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"gpu-{name}-{now:%Y%m%d-%H%M%S}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        return path


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was found so far is kept, and no child stays
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = GpuCheck(Path(folder))
        try:
            check.run()
        except BaseException as error:  # an interrupt, too
            check.tell("the whole check", FAIL, f"{type(error).__name__} {error}")
        for name in list(check.running):
            check.stop(name)
        if check.device:
            for question, outcome in check.answers().items():
                print(f"{outcome:<4} question: {question}")
            print(f"record: {check.write()}")
    return 1 if check.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
