"""compute-sanitizer finds nothing in small calls of every kind, and finds each fault that is planted for its tools."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import CUDA_HOME

HERE = Path(__file__).parent
PLANTED = {  # by tool: the kernel of planted.cu that it must name, and its words
    "memcheck": ("out_of_bounds", r"Invalid __global__ write"),
    "racecheck": ("shared_memory_race", r"[Rr]ace reported|hazard"),
    "initcheck": ("uninitialised_read", r"Uninitialized __global__ memory read"),
    "synccheck": ("divergent_barrier", r"Barrier error detected|Divergent thread"),
}
# What a tool says where it cannot watch this GPU, whatever runs on it.
UNABLE = r".*(?:[Dd]evice(?: is)? not supported|[Nn]o attachable process|[Ff]ailed to (?:initialize|inject)).*"
SUMMARY = r"(?:ERROR|RACECHECK) SUMMARY: (\d+) "


def find(name):
    """Find a program of the CUDA toolkit, which may be one of Python packages."""
    homes = [
        CUDA_HOME or "/usr/local/cuda",
        *(f"{path}/nvidia/cu{(torch.version.cuda or '')[:2]}" for path in sys.path),
    ]
    places = [name, *(f"{home}/{folder}/{name}" for home in homes for folder in ("bin", name))]
    found = next(filter(None, map(shutil.which, places)), None)
    return found or pytest.skip(f"{name} is not installed")


def begin(tool, *program):
    options = ["--tool", tool, "--launch-timeout", "60", "--print-limit", "20"]
    if tool == "memcheck":  # PyTorch probes for what drivers lack, and deals with the answer
        options += ["--report-api-errors", "no"]
    command = [find("compute-sanitizer"), *options, *map(str, program)]
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    settings["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # each tensor an allocation of its own
    environment = {**os.environ, **settings}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def said_by(process):
    """Return what a tool says; skip where it cannot watch this GPU."""
    try:
        said = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    unable = re.search(UNABLE, said)
    if unable and "sanitize: " not in said:
        pytest.skip(unable[0].strip("= "))
    return said


@pytest.fixture(scope="module")
def watched(device):
    """Begin all tools over our kernels, side by side, since each takes its time."""
    processes = {tool: begin(tool, sys.executable, HERE / "sanitize.py", device) for tool in PLANTED}
    yield processes
    for process in processes.values():
        process.kill()


@pytest.fixture(scope="module")
def planted(device, tmp_path_factory):
    program = tmp_path_factory.mktemp("planted") / "planted"
    subprocess.run([find("nvcc"), "-arch=native", "-lineinfo", "-o", program, HERE / "planted.cu"], check=True)
    return program


@pytest.mark.parametrize("tool", PLANTED)
def test_our_kernels(watched, tool):
    said = said_by(watched[tool])
    assert watched[tool].returncode == 0, said
    assert re.search(r"^sanitize: \d+ shapes, 0 wrong", said, re.MULTILINE), said
    assert set(re.findall(SUMMARY, said)) == {"0"}, said


@pytest.mark.parametrize("tool", PLANTED)
def test_planted_faults(planted, tool):
    """Whether such a kernel comes to an end is no matter."""
    kernel, words = PLANTED[tool]
    said = said_by(begin(tool, planted, tool))
    assert re.search(words, said), said
    assert kernel in said, said
