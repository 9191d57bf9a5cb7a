"""Checks the CUDA kernels on this machine's NVIDIA GPU, in at most 8 minutes; `make gpu-check` runs it.

It builds a copy of the tree for the GPU that is here, runs the tests that need one, compute-sanitizer and the
benchmarks, prints a line for each check, and writes a dated JSON to benchmarks/results/, which is to be committed.
It needs a Python that has torch with CUDA, setuptools, NumPy and pytest, nvcc and a C++ compiler; no network.

A check is "ok", "FAIL", or "miss": it could not be run here. Ratios below their bars are told, and fail nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import evidence
from gpu_jobs import Check, Ended, Job, Report, find_tool, read_planted, read_pytest, read_sanitizer, run_jobs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import bars  # noqa: E402  needs the path above

BUDGET = 480.0  # seconds, in all
STEPS = ("build", "tests", "sanitizers", "memory", "benchmarks")
LATER = 130.0  # seconds kept from the tests for the steps after them
COPIED = ("setup.py", "README.md", "LICENSE", "csrc", "bitrate_ext", "tests", "benchmarks", "tools")
TOOLS = ("racecheck", "memcheck", "initcheck", "synccheck")  # the slowest first
# Tests of the suite: name, files, which of them, and how many cases in parts of what CI runs. The longest first.
SUITE = (
    ("accuracy", ("test_accuracy",), "cuda", 2.0),
    ("compiled", ("test_compile",), "cuda", 1.0),
    ("gradients", ("test_gradients",), "cuda and not closed_form", 0.3),
    ("closed form", ("test_gradients",), "cuda and closed_form", 2.0),
    (
        "values",
        ("test_layouts", "test_special_values", "test_reference", "test_golden", "test_receptive_field"),
        "cuda",
        1.0,
    ),
    ("relations", ("test_conservation", "test_metamorphic", "test_bitwise"), "cuda", 0.25),
    ("projections", ("test_projection",), "cuda", 1.0),
)
NEEDED = {"test_projection": "hypothesis"}  # by a test file, beyond pytest
GPU_TESTS = ("bytes", "launches", "streams")  # tests/gpu/test_<name>.py

PROBE = """
import json, sys, torch, bitrate_ext
from bitrate_ext.ops import library
device = torch.device("cuda")
there = torch.cuda.get_device_properties(device)
p = torch.rand(2, 19, 5, 12).clamp_min(1e-6)
found, expected = (bitrate_ext.bitrate_map(q, (40, 96), impl="native").cpu() for q in (p.to(device), p))
print(json.dumps({
    "package": bitrate_ext.__file__, "available": library.available(device), "absent": library.why_absent(device),
    "same": torch.equal(found, expected), "torch": torch.__version__, "cuda": torch.version.cuda, "name": there.name,
    "capability": f"{there.major}.{there.minor}", "multiprocessors": there.multi_processor_count,
    "memory_bytes": there.total_memory, "cache_bytes": there.L2_cache_size, "gpus": torch.cuda.device_count(),
}))
"""
SEES_A_GPU = """
import torch
print(torch.version.cuda and torch.cuda.is_available() and torch.cuda.get_device_name(0) or "")
"""


def output_of(command: Sequence[str | Path]) -> str:
    """What a program prints; empty where there is none or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def driver_version() -> str:
    return output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).partition("\n")[0]


class GpuCheck:
    """One run: where it works, what it found."""

    def __init__(self, report: Report, folder: Path, budget: float) -> None:
        self.report = report
        self.folder = folder
        self.tree = folder / "tree"
        self.end = report.start + budget
        cores = os.cpu_count() or 2
        self.workers = max(2, min(8, cores // 2))
        self.scale = min(1.0, cores / 12)  # of the numbers of cases: small machines get fewer
        paths = [self.tree, self.tree / "tools", self.tree / "tests", os.environ.get("PYTHONPATH", "")]
        # Warnings and plugins of what else is installed are not under test, and the GPU's own build is wanted.
        unwanted = (
            "TORCH_CUDA_ARCH_LIST",
            "BITRATE_EXT_",
            "PYTEST_ADDOPTS",
            "TRITON_INTERPRET",
            "CUDA_LAUNCH_BLOCKING",
        )
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)} | {
            "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
            "REQUIRE_CUDA": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OMP_NUM_THREADS": "2",
        }
        self.sources = evidence.sources_hash(ROOT)
        self.figures: dict[str, Any] = {}
        self.device: dict[str, Any] = {}

    def run(self, jobs: Sequence[Job], workers: int, end: float) -> None:
        for job, ended in run_jobs(jobs, workers, end, self.tree, self.folder / "logs", self.environment):
            self.report.add(*job.checks(ended))

    # Build

    def copy_tree(self) -> None:
        ignore = shutil.ignore_patterns("*.so", "__pycache__", "results", "*.o")
        for name in COPIED:
            source, target = ROOT / name, self.tree / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignore)
            elif source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def build(self) -> bool:
        """Whether there is a package to check. The metadata stays behind: a build in place needs none of it."""
        self.copy_tree()
        begun = len(self.report.failed())
        self.run(
            [Job("build", [sys.executable, "setup.py", "build_ext", "--inplace"], 150, self.read_build)], 1, self.end
        )
        shutil.copy(ROOT / "pyproject.toml", self.tree)
        if len(self.report.failed()) > begun:
            return False
        self.run([Job("device", [sys.executable, "-c", PROBE], 60, self.read_probe)], 1, self.end)
        return len(self.report.failed()) == begun

    def read_build(self, ended: Ended) -> list[Check]:
        built = sorted(path.name for path in (self.tree / "bitrate_ext").glob("_ops_*.so"))
        if ended.code == 0 and len(built) == 2:
            return [Check("build", "ok", f"{', '.join(built)} in {ended.seconds:.0f} s", ended.seconds)]
        said = [line for line in ended.log.splitlines() if line.startswith("bitrate_ext: ") or "rror" in line]
        why = said[0] if said else ended.last_line()
        return [Check("build", "FAIL", f"code {ended.code}, made {built}: {why}", ended.seconds, detail=ended.tail())]

    def read_probe(self, ended: Ended) -> list[Check]:
        if ended.code != 0:
            return [Check("device", "FAIL", ended.last_line(), ended.seconds, detail=ended.tail())]
        found = json.loads(next(line for line in reversed(ended.log.splitlines()) if line.startswith("{")))
        self.device = {key: found[key] for key in found if key not in ("package", "available", "absent", "same")}
        if Path(found["package"]).resolve() != (self.tree / "bitrate_ext/__init__.py").resolve():
            return [Check("device", "FAIL", f"another package was imported: {found['package']}", ended.seconds)]
        if not found["available"]:
            return [Check("device", "FAIL", f"no kernels for it: {found['absent']}", ended.seconds)]
        if not found["same"]:
            return [Check("device", "FAIL", "a first map has other bytes than the CPU's", ended.seconds)]
        said = (
            f"{found['name']}, compute capability {found['capability']}, torch {found['torch']}, CUDA {found['cuda']}"
        )
        return [Check("device", "ok", said, ended.seconds)]

    # Tests

    def pytest_job(self, name: str, files: Sequence[str], which: str, scale: float, limit: float, by_file: bool) -> Job:
        found = self.folder / f"{name.replace(' ', '-')}.jsonl"
        found.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_report", *files]
        environment = {"GPU_REPORT": str(found), "BITRATE_EXT_TEST_SCALE": str(scale * self.scale)}
        return Job(
            name, [*command, *(("-k", which) if which else ())], limit, read_pytest(name, found, by_file), environment
        )

    def test_jobs(self) -> Iterator[Job]:
        if importlib.util.find_spec("pytest") is None:
            said = f"pytest is not installed; get it with: {sys.executable} -m pip install pytest"
            self.report.add(Check("tests", "FAIL", said))
            return
        for name, files, which, scale in SUITE:
            absent = [
                NEEDED[file] for file in files if file in NEEDED and importlib.util.find_spec(NEEDED[file]) is None
            ]
            if absent:
                self.report.add(Check(name, "miss", f"{', '.join(absent)} is not installed"))
                continue
            yield self.pytest_job(name, [f"tests/{file}.py" for file in files], which, scale, 170, by_file=True)
        for name in GPU_TESTS:
            yield self.pytest_job(name, [f"tests/gpu/test_{name}.py"], "", 1.0, 170, by_file=False)

    def sanitizer_jobs(self) -> Iterator[Job]:
        sanitizer, nvcc = find_tool("compute-sanitizer"), find_tool("nvcc")
        if sanitizer is None:
            for tool in TOOLS:
                for name in (tool, f"{tool}, planted fault"):
                    self.report.add(Check(name, "miss", "compute-sanitizer is not installed"))
            return
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
        planted = self.folder / "planted"
        architecture = f"-arch=sm_{self.device.get('capability', '7.5').replace('.', '')}"
        compiled = nvcc is not None and self.compiled(nvcc, architecture, planted)
        for tool in TOOLS:
            options = ["--tool", tool, "--launch-timeout", "60", "--print-limit", "20"]
            if tool == "memcheck":  # PyTorch probes for what drivers lack, and deals with the answer
                options += ["--report-api-errors", "no"]
            command = [sanitizer, *options, sys.executable, "tests/gpu/sanitize.py"]
            yield Job(tool, command, 170, read_sanitizer(tool), environment)
            if compiled:
                name = f"{tool}, planted fault"
                yield Job(name, [sanitizer, *options, planted, tool], 60, read_planted(name, tool))

    def compiled(self, nvcc: Path, architecture: str, target: Path) -> bool:
        source = self.tree / "tests/gpu/planted.cu"
        done = subprocess.run(
            [nvcc, architecture, "-lineinfo", "-o", target, source],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if done.returncode != 0:
            lines = (done.stderr + done.stdout).strip().splitlines() or ["it said nothing"]
            self.report.add(
                Check("planted faults", "FAIL", f"nvcc does not compile them: {lines[0]}", detail=done.stderr)
            )
        return done.returncode == 0

    # Memory and benchmarks, with the GPU to themselves

    def memory_jobs(self) -> Iterator[Job]:
        if importlib.util.find_spec("pytest") is not None:  # else it has been told
            yield self.pytest_job("memory", ["tests/gpu/test_memory.py"], "", 1.0 / self.scale, 90, by_file=False)

    def benchmark_jobs(self) -> Iterator[Job]:
        left = max(20.0, self.end - time.monotonic())
        yield self.benchmark_job("benchmarks", min(0.5 * left, 130), ())
        for mode in ("default", "max-autotune-no-cudagraphs"):
            yield self.benchmark_job(f"torch.compile {mode}", 75, ("--compiled", mode))

    def benchmark_job(self, name: str, seconds: float, options: Sequence[str]) -> Job:
        figures = self.folder / f"{name.replace(' ', '-')}.json"
        command = [
            sys.executable,
            "benchmarks/gpu.py",
            "--json",
            figures,
            "--seconds",
            f"{0.75 * seconds:.0f}",
            *options,
        ]

        def read(ended: Ended) -> list[Check]:
            found = json.loads(figures.read_text()) if figures.exists() else {}
            for part, value in found.items():
                if isinstance(value, list):
                    self.figures[part] = self.figures.get(part, []) + value
                else:
                    self.figures[part] = value
            rows = sum(len(found.get(part, [])) for part in ("forward", "backward", "sweep", "compiled"))
            if ended.code == 0:
                left = f", {len(found['left_out'])} parts left out for time" if found["left_out"] else ""
                return [Check(name, "ok", f"{rows} rows in {ended.seconds:.0f} s{left}", ended.seconds)]
            how = ended.last_line() if ended.code is not None else f"stopped at its limit; {rows} rows were measured"
            # An opponent that takes too long or fails to compile is no fault of ours.
            return [Check(name, "miss" if options else "FAIL", how, ended.seconds, detail=ended.tail())]

        return Job(name, command, seconds, read, {"OMP_NUM_THREADS": "8"})

    # The record

    def record(self) -> dict[str, Any]:
        nvcc = find_tool("nvcc")
        release = output_of([nvcc, "--version"]).splitlines() if nvcc else []
        git = ["git", "-C", str(ROOT)]
        commit = output_of([*git, "rev-parse", "HEAD"]) or None
        found = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "verdict": "",
            "csrc": self.sources,
            "commit": commit,
            "changed": bool(output_of([*git, "status", "--porcelain", "--", "csrc", "bitrate_ext"]))
            if commit
            else None,
            "device": {"driver": driver_version(), **self.device},
            "python": platform.python_version(),
            "nvcc": next((line for line in release if "release" in line), None),
            "cores": os.cpu_count(),
            "scale": self.scale,
            "seconds": round(self.report.elapsed(), 1),
            "checks": [check.record() for check in self.report.checks],
            "bars": [bar.record() for bar in bars.bars(self.figures)],
            "benchmarks": self.figures,
        }
        return {**found, "verdict": evidence.verdict(found)}


def run(check: GpuCheck, steps: Sequence[str]) -> None:
    report = check.report
    built = check.build()
    for step in STEPS[1:]:
        if step not in steps or not built:
            report.add(Check(step, "miss", "left out by --only" if built else "there is nothing to run it with"))
    if not built:
        return
    together = [*(check.test_jobs() if "tests" in steps else ())]
    if "sanitizers" in steps:
        together[3:3] = check.sanitizer_jobs()  # they take long, and early enough
    if together:
        report.say(f"-- {len(together)} jobs, {check.workers} at a time")
        check.run(together, check.workers, check.end - LATER)
    if "memory" in steps:
        report.say("-- memory, by itself")
        check.run([*check.memory_jobs()], 1, check.end)
    if "benchmarks" in steps:
        report.say("-- benchmarks, by themselves")
        check.run([*check.benchmark_jobs()], 1, check.end)
        for line in (*bars.table(check.figures), *(bar.line() for bar in bars.bars(check.figures))):
            report.say(f"     {line}")


def finish(check: GpuCheck, results: Path) -> int:
    """Write the evidence, tell what is wrong, and the exit code."""
    report = check.report
    for failed in report.failed():
        if failed.detail:
            report.say(f"\n-- {failed.name}\n{failed.detail[-1500:]}")
    record = check.record()
    if check.device:
        report.say(f"evidence: {evidence.write(record, results)}")
    report.say(f"{record['verdict']}, {report.elapsed():.0f} s")
    return 1 if report.failed() else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=STEPS, default=STEPS, help="some steps; the evidence tells which not"
    )
    parser.add_argument("--results", type=Path, default=ROOT / evidence.RESULTS, help="folder of the evidence")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    chosen = parser.parse_args(arguments)
    report = Report(lambda text: print(text, flush=True))
    if importlib.util.find_spec("torch") is None:
        report.add(
            Check(
                "device",
                "FAIL",
                f"{sys.executable} has no torch; name a Python that has: make gpu-check GPU_PYTHON=...",
            )
        )
        return 1
    seen = subprocess.run([sys.executable, "-c", SEES_A_GPU], capture_output=True, text=True, timeout=120, check=False)
    if not seen.stdout.strip():
        why = seen.stderr.strip().splitlines()[-1:] or ["torch sees no NVIDIA GPU"]
        report.add(Check("device", "FAIL", f"{why[0]}; this check needs one"))
        return 1
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = GpuCheck(report, Path(folder), chosen.budget)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was found so far is kept, and no child stays
        try:
            run(check, chosen.only)
        except KeyboardInterrupt:
            report.add(Check("the whole check", "FAIL", "interrupted"))
        return finish(check, chosen.results)


if __name__ == "__main__":
    raise SystemExit(main())
