"""Runs tests of the suite on a copy of the package, in processes of their own.

Importing torch, CompressAI and matplotlib takes many times as long as a test. A fork server imports them once, never
the package itself, and each run is a fork of it: ``python -m pytest -x -q`` in all but the start.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import ROOT

LIBRARIES = [
    *("torch", "numpy", "pytest", "hypothesis", "PIL.Image"),
    *("compressai.models", "compressai.zoo", "safetensors.torch", "matplotlib.backends.backend_agg"),
]
TESTS_PASSED, TESTS_FAILED = 0, 1
NOT_RUN = 99  # unlike pytest's codes
SERVER_GONE = 255  # what multiprocessing says of a child when the fork server has died beside it
TIMEOUT = 900  # seconds; all tests that faults name take a few minutes on a busy machine


@dataclass(frozen=True)
class Run:
    code: int | None  # pytest's exit code; None where it hung, negative where a signal ended it
    output: str


def run_tests(folder: Path, tests: Sequence[str]) -> Run:
    """Run tests, such as ``test_mapper.py::test_name``, with the package that is in the folder.

    Once more where the fork server died: that says nothing of the tests. A second time is reported as it is.
    """
    run = _run_tests(folder, tests)
    return _run_tests(folder, tests) if run.code == SERVER_GONE else run


def _run_tests(folder: Path, tests: Sequence[str]) -> Run:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    output = folder / "output.txt"
    process = context.Process(target=_child, args=(str(folder), list(tests), str(output)))
    process.start()
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        process.join()
        return Run(None, output.read_text(errors="replace"))
    return Run(process.exitcode, output.read_text(errors="replace"))


def _child(folder: str, tests: Sequence[str], output: str) -> None:
    code = NOT_RUN
    try:
        with open(output, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(folder)
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = folder  # for the processes that tests start
        assert "bitrate_ext" not in sys.modules
        import bitrate_ext

        found = Path(bitrate_ext.__file__)
        assert found.parent == Path(folder) / "bitrate_ext", f"imported from {found}, not from {folder}"
        options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options += [f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}"]
        code = int(pytest.main([*options, *(str(ROOT / "tests" / test) for test in tests)]))
    except BaseException:
        traceback.print_exc()
    sys.exit(code)
