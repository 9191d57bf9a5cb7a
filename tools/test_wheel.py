"""Test one wheel in environments of its own: the oldest and the newest that it serves, and one between.

python tools/test_wheel.py dist/NAME.whl    [--only 3.10] [--record FILE]

Each environment is a new one of Python's venv, gets PyTorch and what the tests need, and the wheel with neither a
compiler on the PATH nor the source tree near; then the chosen tests of the operator run from a copy of tests/, once for
each NumPy. It is removed before the next is made: PyTorch with CUDA takes up to 7 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTALL_SECONDS = 10  # that the wheel may take, where PyTorch is there
# The operator beside its reference, gradients, sources of bits, golden bytes, and how messages of C++ arrive in Python.
TESTS = [
    *(f"ops/test_{name}.py" for name in ("reference", "gradients", "sources", "rate_kernels", "golden", "errors")),
    *("ops/test_torch_internals.py", "receptive_field/test_receptive_field.py"),
]
NEEDED = ("pytest", "hypothesis", "scipy")
LOOK = """
import json, platform, bitrate_ext, numpy, torch
from bitrate_ext.ops import library
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__,
    "glibc": platform.libc_ver()[1], "file": bitrate_ext.__file__, "version": bitrate_ext.__version__,
    "cpu": library.absent_because, "cuda": library.cuda_absent_because}))
"""


@dataclass(frozen=True)
class Environment:
    """A Python and a PyTorch, and the NumPys that the tests run with, one after the other; "" is the newest."""

    python: str
    torch: str
    numpy: tuple[str, ...]


MATRIX = (
    Environment("3.10", "2.10.0", ("1.26.4", "2.2.6")),
    Environment("3.11", "2.13.0", ("1.26.4", "2.4.*")),
    Environment("3.12", "2.12.1", ("1.26.4", "2.1.3")),
    Environment("3.13", "", ("2.1.3", "")),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one wheel with one Python, PyTorch and NumPy; a reason is why kernels are not active."""

    python: str
    torch: str
    numpy: str
    glibc: str
    cpu: str | None
    cuda: str | None
    install_seconds: float
    passed: int
    failed: int

    def well(self) -> bool:
        return self.cpu is None and self.failed == 0 and self.passed > 0


def interpreter(version: str) -> str | None:
    """Return a Python of this version, on the PATH or one of pyenv's; None where there is none."""
    found = [shutil.which(f"python{version}")]
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
        found += map(str, sorted(Path(root, "versions").glob(f"{version}.*/bin/python")))
    for python in filter(None, found):  # one of pyenv's on the PATH may stand for none
        if subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def requirement(name: str, version: str) -> str:
    return f"{name}=={version}" if version else name


def counted(said: str) -> tuple[int, int]:
    """Return how many tests passed and how many did not, from pytest's last lines; what it did not count failed."""
    passed, failed, errors = (
        int(found[1]) if (found := re.search(rf"(\d+) {word}\b", said)) else 0
        for word in ("passed", "failed", "errors?")
    )
    return passed, failed + errors if passed or failed or errors else 1


def clean_environment(folder: Path) -> dict[str, str]:
    """Return variables as a shell without settings of this package, of Python or of compilers would have them."""
    start = ("BITRATE_EXT_", "PYTHON", "CUDA_", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(start)}
    kept |= {"BITRATE_EXT_TEST_SCALE": "0.02", "OMP_WAIT_POLICY": "passive", "TORCH_HOME": str(folder / "torch")}
    return {**kept, "PATH": str(folder / "env/bin"), "CXX": "", "CC": ""}


def run(*command: str | Path, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode not in (0, 1):  # 1: tests failed, and are counted
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done


def try_environment(wheel: Path, chosen: Environment, python: str, tests: list[str]) -> list[Outcome]:
    """Make an environment, install the wheel, and run tests with each NumPy."""
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        variables = clean_environment(folder)
        run(python, "-m", "venv", "env", folder=folder, variables=dict(os.environ))
        own = folder / "env/bin/python"

        def install(*what: str | Path) -> float:
            start = time.perf_counter()
            command = (own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
            done = run(*command, *what, folder=folder, variables=variables)
            if done.returncode:
                raise SystemExit(done.stderr[-4000:])
            return time.perf_counter() - start

        first = requirement("numpy", chosen.numpy[0])
        install(requirement("torch", chosen.torch), first, *NEEDED)
        seconds = install(wheel)
        for name in ("tests", "tools", "csrc"):  # without bitrate_ext: the wheel's is imported
            shutil.copytree(ROOT / name, folder / "run" / name)
        shutil.copy(ROOT / "pyproject.toml", folder / "run")
        for numpy in chosen.numpy:
            install("--upgrade", requirement("numpy", numpy))
            look = json.loads(run(own, "-c", LOOK, folder=folder, variables=variables).stdout)
            if not Path(look.pop("file")).is_relative_to(folder / "env"):
                raise SystemExit("the package that was imported is not the wheel's")
            look.pop("version")
            paths = [folder / "run/tests" / name for name in tests]
            done = run(own, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths, folder=folder, variables=variables)
            passed, failed = counted("\n".join(done.stdout.splitlines()[-3:]))
            if failed:
                print(done.stdout[-6000:], file=sys.stderr)
            outcomes.append(Outcome(**look, install_seconds=round(seconds, 1), passed=passed, failed=failed))
            print(json.dumps(asdict(outcomes[-1])), flush=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--only", action="append", metavar="PYTHON", help="of these versions of Python alone")
    parser.add_argument("--record", type=Path, help="write what became of it as JSON")
    asked = parser.parse_args()
    outcomes: list[Outcome] = []
    for chosen in MATRIX:
        if asked.only and chosen.python not in asked.only:
            continue
        python = interpreter(chosen.python)
        if python is None:
            print(f"Python {chosen.python} left out: it is neither on the PATH nor one of pyenv's", file=sys.stderr)
            continue
        outcomes += try_environment(asked.wheel.resolve(), chosen, python, TESTS)
    if asked.record:
        asked.record.write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
    faults = [one for one in outcomes if not one.well() or one.install_seconds > INSTALL_SECONDS]
    print(f"{len(outcomes) - len(faults)} of {len(outcomes)} well: {asked.wheel.name}")
    raise SystemExit(bool(faults) or not outcomes)


if __name__ == "__main__":
    main()
