"""What README says of the GPUs that a build serves, read from the library that was built."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import cuda_toolkit
import device_code
import pytest
import torch

import bitrate_ext

ROOT = Path(__file__).parents[2]
CLAIM = "a build holds code or PTX for every compute capability from 7.5 on"
APART = {
    (8, 7),
    (8, 8),
    (11, 0),
}  # boards that do not run code of another capability, though its first number be theirs
MOST_BYTES = 6_000_000

Capability = tuple[int, int]


def found_cuobjdump() -> Path | None:
    """Find the tool on the PATH, beside an nvcc, or in Triton, which PyTorch brings."""
    nvcc, triton = device_code.find_nvcc(), importlib.util.find_spec("triton")
    places = [Path(shutil.which("cuobjdump") or "")]
    places += [nvcc.parent / "cuobjdump"] if nvcc else []
    places += [Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"] if triton and triton.origin else []
    return next((path for path in places if path.is_file()), None)


def capabilities(text: str) -> set[Capability]:
    return {(int(major), int(minor)) for major, minor in re.findall(r"sm_(\d+)(\d)\b", text)}


def serves(wanted: Capability, code: set[Capability], ptx: set[Capability]) -> bool:
    """Whether a GPU of that capability can run what is there: its own code, an older neighbour's, or older PTX."""
    neighbour = wanted not in APART and any(one[0] == wanted[0] and one <= wanted and one not in APART for one in code)
    return wanted in code or neighbour or any(one <= wanted for one in ptx)


def test_who_is_served() -> None:
    code, newest = {(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)}, {(12, 0)}
    served = [(7, 5), (8, 0), (8, 9), (9, 0), (10, 3), (12, 1), (13, 0)]
    assert all(serves(wanted, code, newest) for wanted in served)
    assert not any(serves(wanted, code, newest) for wanted in [(7, 0), (8, 7), (8, 8), (11, 0)])
    assert all(serves(wanted, code, {(7, 5)}) for wanted in [(8, 7), (8, 8), (11, 0), (13, 0)])
    assert not serves((7, 0), code, {(7, 5)})


@pytest.fixture(scope="module")
def library() -> Path:
    found = sorted(Path(bitrate_ext.__file__).parent.glob("_ops_cuda*.so"))
    if not found:
        pytest.skip("no CUDA toolkit when this was built")
    if torch.cuda.is_available():
        pytest.skip("built for the GPU of this machine alone: what a build for any GPU holds is unchecked")
    return found[-1]


def test_the_build_serves_whom_readme_says(library: Path) -> None:
    assert CLAIM in " ".join((ROOT / "README.md").read_text().split())
    tool, nvcc = found_cuobjdump(), device_code.find_nvcc()
    if tool is None or nvcc is None:
        pytest.skip("no cuobjdump or no nvcc: what the library holds is unchecked")

    def listed(option: str) -> set[Capability]:
        done = subprocess.run([tool, option, library], capture_output=True, text=True, check=True)
        return capabilities(done.stdout)

    code, ptx = listed("--list-elf"), listed("--list-ptx")
    known = capabilities(subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout)
    assert {(11, 0), (8, 7)} & known
    lost = {wanted for wanted in known | {(7, 5), (13, 0)} if not serves(wanted, code, ptx)}
    assert lost == set()
    asked = cuda_toolkit.architectures(nvcc, ())
    names = re.findall(r"(\d+)\.(\d+)(\+PTX)?", asked)
    assert code == {(int(major), int(minor)) for major, minor, _ in names}
    assert ptx == {(int(major), int(minor)) for major, minor, with_ptx in names if with_ptx}


def test_the_library_is_of_a_size_to_ship(library: Path) -> None:
    assert library.stat().st_size < MOST_BYTES
