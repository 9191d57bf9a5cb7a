"""Rules that the text of the sources must keep; each is tried on a text that breaks it, too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ("bitrate_ext", "tests", "tools", "benchmarks")
# What lets a compiler change results; in pieces, so that this file does not hold them.
LOOSE = tuple(
    "-" + flag
    for flag in (
        "-use_fast_" + "math",
        "use_fast_" + "math",
        "ffast-" + "math",
        "Ofast",
        "funsafe-math-" + "optimizations",
        "fassociative-" + "math",
        "ffp-contract=" + "fast",
        "-ftz=" + "true",
        "ftz=" + "true",
        "-fmad=" + "true",
        "-prec-div=" + "false",
        "-prec-sqrt=" + "false",
    )
)
WAITING = ("item", "cpu", "tolist", "numpy", "synchronize")  # for the device, from Python


def python_files() -> list[Path]:
    return [ROOT / "setup.py", *(path for folder in PYTHON for path in sorted((ROOT / folder).rglob("*.py")))]


def functions(text: str) -> dict[str, str]:
    """Bodies of the functions of a C++ file, by name; each begins and ends at the start of a line."""
    found = re.finditer(r"^\w[^\n;=]*?(\w+)\([^;{}]*\) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return {match[1]: match[2] for match in found}


def unguarded(text: str) -> list[str]:
    """Functions that launch, or ask about the current device, without having chosen it."""
    wrong = []
    for name, body in functions(text).items():
        uses = re.search(r"\b(start|no_code_reason|current_stream)\(", body)
        guard = re.search(r"\bDeviceGuard \w+\(", body)
        if uses and name != "current_stream" and (guard is None or guard.start() > uses.start()):
            wrong.append(name)
    return wrong


def keywords(tree: ast.AST, name: str, value: bool) -> Iterator[int]:
    """Lines of calls with that keyword argument."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is value:
                    yield node.lineno


def waits(text: str) -> list[str]:
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in WAITING]


def loose_flags(text: str) -> list[str]:
    return [flag for flag in LOOSE if re.search(rf"(?<![\w-]){re.escape(flag)}\b", text)]


def test_every_launch_is_under_a_device_guard():
    text = (ROOT / "csrc/ops/ops_cuda.cpp").read_text()
    assert {"project_cuda", "project_backward_cuda", "no_cuda_code"} <= set(functions(text))
    assert unguarded(text) == []
    broken = text.replace("const DeviceGuard guard(device);", "", 1)
    assert unguarded(broken) == ["project_cuda"]
    late = re.sub(r"(  const DeviceGuard guard\(static_cast.*\n)(.*\n)", r"\2\1", text)
    assert unguarded(late) == ["no_cuda_code"]


def test_launches_are_in_one_file():
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    assert [path for path in sources if re.search("<<<|cudaLaunch", path.read_text())] == [ROOT / "csrc/cuda/host.h"]


def test_no_compiler_may_change_results():
    files = [*python_files(), ROOT / "Makefile", ROOT / "pyproject.toml", *sorted((ROOT / "csrc").rglob("*"))]
    files += [path for path in (ROOT / "tests").rglob("*") if path.suffix in (".cu", ".cpp", ".h")]
    found = {str(path.relative_to(ROOT)): loose_flags(path.read_text()) for path in files if path.is_file()}
    planted = {"tests/kernels/test_sass.py": ["--ftz=" + "true"]}  # seen to be caught there
    assert {path: flags for path, flags in found.items() if flags} == planted
    for flag in LOOSE:
        assert loose_flags(f'FLAGS = ["-O3", "{flag}"]') == [flag]


def test_the_operators_do_not_wait_for_the_device():
    for name in ("autograd", "rate/cells", "rate/reference"):
        assert waits((ROOT / f"bitrate_ext/ops/{name}.py").read_text()) == []
    assert waits("def f(p):\n    return p.sum().item() + p.cpu()") == ["item", "cpu"]


@pytest.mark.parametrize(("name", "value"), [("weights_only", False), ("shell", True)])
def test_no_call_gives_up_safety(name: str, value: bool):
    found = {}
    for path in python_files():
        lines = list(keywords(ast.parse(path.read_text()), name, value))
        if lines:
            found[str(path)] = lines
    assert found == {}
    assert list(keywords(ast.parse(f"import os\nf(1, {name}={value})"), name, value)) == [2]
