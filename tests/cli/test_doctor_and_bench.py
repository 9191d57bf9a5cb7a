"""The commands ``doctor`` and ``bench``: what they say, and that neither vouches for a wrong answer."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitrate_ext import optional
from bitrate_ext.cli import bench, doctor
from bitrate_ext.cli import main as cli

pytest.importorskip("compressai")


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("torch", "numpy", "compressai", "safetensors", "pillow", "matplotlib", "CPU kernels", "CUDA kernels"):
        assert name in out
    assert torch.__version__.split("+")[0] in out
    assert out.splitlines()[-1] == "bitrate_map works"


def test_doctor_says_how_to_mend(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, distribution in {"no_such_module": "no-such-package", "no_such_module_either": "numpy"}.items():
        monkeypatch.setitem(doctor.OPTIONAL, module, "this test")
        monkeypatch.setitem(optional.DISTRIBUTIONS, module, distribution)
    monkeypatch.setattr(doctor.library, "absent_because", "no compiled library in the package")
    assert cli.main(["doctor"]) == 0  # the reference serves
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "no-such-package" in line)
    assert lines[at].startswith("--  no-such-package")
    assert lines[at].endswith("not installed; needed for this test")
    assert lines[at + 1].strip() == 'to mend: pip install "no-such-package"'
    assert any("but it does not import: No module named 'no_such_module_either'" in line for line in lines)
    at = next(i for i, line in enumerate(lines) if "CPU kernels" in line)
    assert "absent: no compiled library in the package" in lines[at]
    assert "C++17 compiler" in lines[at + 1]


@pytest.mark.parametrize("wrong", ["value", "error"])
def test_doctor_fails_where_the_core_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def broken(*_: Any, **__: Any) -> Tensor:
        if wrong == "error":
            raise RuntimeError("two\nlines")
        return torch.zeros(1, 1, 4, 4)

    monkeypatch.setattr(doctor, "bitrate_map", broken)
    assert cli.main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert "BAD self-check, reference" in out
    assert ("fails: two lines" if wrong == "error" else "wrong map") in out
    assert out.splitlines()[-1] == "bitrate_map does not work: mend the lines marked BAD"


@pytest.fixture
def quick_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "IMAGES", {"tiny": (40, 64)})
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "ROTATED", 1 << 18)
    monkeypatch.setattr(bench, "_compiled", lambda _: (None, "it does not compile here (Exception)"))


def test_bench_without_a_compiler(quick_bench: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench"]) == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__} on cpu" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("tiny")]
    assert [row[1:4] for row in rows] == [["48", "x", "64"]] * 2  # hot and cold
    assert [row[6] for row in rows] == ["-"] * 2
    assert "torch.compile(recipe): left out, it does not compile here (Exception)" in out


def test_bench_times_no_wrong_answer(quick_bench: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "bitrate_map", lambda *_, out, **__: out.zero_())
    with pytest.raises(RuntimeError, match="fused gives a wrong map"):
        bench.compare(torch.device("cpu"), lambda _: None)


def test_compiled_program_is_cleared_of_an_absent_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any, **__: Any) -> None:
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    assert bench._compiled(torch.rand(1, 2, 3, 4)) == (None, "it does not compile here (OSError)")


@pytest.mark.skipif(platform.machine() != "x86_64" or not sys.platform.startswith("linux"), reason="reads Linux's list")
def test_the_best_instruction_set_is_named() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = "AVX-512" if {"avx512bw", "avx512vl"} <= flags else "AVX2" if {"avx2", "fma"} <= flags else "baseline"
    assert doctor.instruction_set().startswith(expected)
