"""The package in environments of its own: the oldest and the newest that it names, and one that has its wheel alone.

They fetch PyTorch, take minutes and gigabytes, and are removed afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_wheel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "csrc", "tools", "bitrate_ext")
PROJECT = (ROOT / "pyproject.toml").read_text()
NEWEST_PYTHON = "3.13"
# Those of the operator: with torch, NumPy and what tests themselves need, and nothing else.
TESTS = ("ops", "kernels/test_cuda_host.py", "receptive_field/test_receptive_field.py", "test_threads.py")
LOOK = """
import sys, numpy, torch, bitrate_ext
print(".".join(map(str, sys.version_info[:2])), torch.__version__, numpy.__version__, bitrate_ext.__file__)
"""


def lowest(what: str) -> str:
    """The lower bound of "requires-python", or of a requirement, as pyproject.toml has it."""
    found = re.search(rf'^(?:dependencies = .*"{what}|{what} = ")>=([\d.]+)"', PROJECT, re.MULTILINE)
    assert found is not None, what
    return found[1]


def copied(names: tuple[str, ...], target: Path) -> Path:
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def run(*command: str | Path, folder: Path) -> str:
    """Run a program outside the clone, as a shell without settings of this package would; returns what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BITRATE_EXT_", "PYTHON"))}
    kept |= {"BITRATE_EXT_NO_CUDA": "1", "BITRATE_EXT_TEST_SCALE": "0.02", "TORCH_HOME": str(folder / "torch")}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=kept, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


def assert_well(doctor: str) -> None:
    assert doctor.splitlines()[-1] == "bitrate_map works"
    assert re.search("^ok  CPU kernels +active", doctor, re.MULTILINE), doctor


def interpreter(version: str) -> str:
    """A Python of this version, on the PATH or one of pyenv's; skips where there is none."""
    found = test_wheel.interpreter(version)
    if found is None:
        pytest.skip(f"no Python {version}: there is no python{version} on the PATH, nor one of pyenv's")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not stay: pytest keeps those of its last three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("pair", ["oldest", "newest"])
def test_the_operator_with_the_oldest_and_the_newest(folder: Path, pair: str) -> None:
    oldest = pair == "oldest"
    version = lowest("requires-python") if oldest else NEWEST_PYTHON
    torch, numpy = (f"{name}=={lowest(name)}.*" if oldest else name for name in ("torch", "numpy"))
    run(interpreter(version), "-m", "venv", "env", folder=folder)
    python = folder / "env/bin/python"
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    needed = ("setuptools>=77", "wheel", "ninja", "pytest", "hypothesis", "scipy")
    run(*install, "--only-binary", ":all:", torch, numpy, *needed, folder=folder)
    run(*install, "--no-build-isolation", copied(SOURCES, folder / "tree"), folder=folder)
    shutil.rmtree(folder / "tree")

    found = run(python, "-c", LOOK, folder=folder).split()
    print("Python", found[0], "torch", found[1], "NumPy", found[2])
    assert found[0] == version
    assert not oldest or [".".join(v.split(".")[:2]) for v in found[1:3]] == [lowest("torch"), lowest("numpy")]
    assert Path(found[3]).is_relative_to(folder / "env")
    assert_well(run(python, "-m", "bitrate_ext", "doctor", folder=folder))

    copied(("tests", "tools", "csrc", "pyproject.toml"), folder / "run")
    tests = [folder / "run/tests" / name for name in TESTS]
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, folder=folder)
    passed = re.search(r"(\d+) passed", said)
    assert passed
    print(said.splitlines()[-1])
    assert int(passed[1]) >= 700
    assert [
        line for line in said.splitlines() if line.startswith("SKIPPED") and not re.search("CUDA|compressai", line)
    ] == []


def test_a_wheel_is_the_whole_package(folder: Path) -> None:
    tree = copied(SOURCES, folder / "tree")
    own = {str(path.relative_to(tree)) for path in (tree / "bitrate_ext").rglob("*") if path.is_file()}
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, tree, folder=folder)
    shutil.rmtree(tree)
    (wheel,) = folder.glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert packed - own == {"bitrate_ext/_ops_cpu.abi3.so"}
    assert own - packed == set()

    run(sys.executable, "-m", "venv", "--without-pip", "env", folder=folder)
    python = folder / "env/bin/python"
    run(*pip, "--python", python, "install", "--no-deps", wheel, folder=folder)
    home = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    # Everything else is lent by the environment of these tests. Links to the clone in there are not followed.
    lent = [path for path in sys.path if Path(path).name == "site-packages"]
    (home / "lent.pth").write_text("\n".join(lent) + "\n")
    assert Path(run(python, "-c", LOOK, folder=folder).split()[-1]) == home / "bitrate_ext/__init__.py"
    assert str(ROOT) not in run(python, "-c", "import sys; print('\\n'.join(sys.path))", folder=folder).splitlines()

    command = folder / "env/bin/bitrate-ext"
    assert_well(run(command, "doctor", folder=folder))
    run(command, "map", home / "bitrate_ext/data/chelsea.png", "-o", "out", folder=folder)
    written = {path.name for path in (folder / "out").iterdir() if path.stat().st_size > 0}
    assert written == {f"chelsea.{end}" for end in ("bitrate.png", "overlay.png", "bitrate.npz", "json")}
