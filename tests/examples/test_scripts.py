"""The short examples and the notebooks: each runs offline, as it stands, and gives what it says."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import re
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bitrate_ext

pytest.importorskip("compressai")
pytestmark = [pytest.mark.medium, pytest.mark.usefixtures("one_thread", "_offline")]

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ("drop_in", "compare_models", "map_a_video", "spatial_loss", "own_codec")
NOTEBOOKS = [
    pytest.param(EXAMPLES / f"notebooks/{name}.ipynb", marks=marks, id=name)
    for name, marks in (("where_the_bits_go", []), ("compare_and_train", [pytest.mark.slow]))
]


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("examples need no network")

    monkeypatch.setattr(socket.socket, "connect", refused)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    load(name).main(folder)
    return capsys.readouterr().out


def drawn(path: Path) -> bool:
    return path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", SHORT)
def test_it_is_short(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count("\n") < 60
    assert f"python examples/{name}.py [FOLDER]" in text


def test_drop_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("drop_in", tmp_path, capsys)
    bits = bitrate_ext.PictureBits.load(tmp_path / "bits.npz")
    assert f"{bits.total_bits:,.0f} bits (y" in said
    assert drawn(tmp_path / "bits.png")


@pytest.mark.slow
def test_compare_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("compare_models", tmp_path, capsys)
    a, b = (int(one.replace(",", "")) for one in re.findall(r"^[ab] +demo codec.*estimated +([\d,]+)", said, re.M))
    assert abs(a - b) <= 0.01 * a
    rates = [float(one) for one in re.findall(r"'bpp': ([\d.]+)", said)]
    assert rates == sorted(rates)
    assert drawn(tmp_path / "maps.png")
    assert drawn(tmp_path / "difference.png")


def test_map_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("map_a_video", tmp_path, capsys)
    rows = list(csv.DictReader((tmp_path / "frames.csv").open()))
    assert len(rows) == 8
    for row in rows:
        assert float(row["bits"]) == pytest.approx(float(row["y"]) + float(row["z"]), rel=1e-5)
        assert f"{float(row['bits']):,.0f} bits" in said
    assert "A window over a photograph" in (tmp_path / "video.html").read_text()


def test_spatial_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("spatial_loss", tmp_path, capsys)
    (inside, rest), (inside_after, rest_after) = (
        [float(one.replace(",", "")) for one in re.findall(r"([\d,]+) bits", line)]
        for line in said.splitlines()
        if "rest" in line
    )
    assert rest_after / rest < inside_after / inside  # what is dear falls more
    assert (tmp_path / "model.pth").stat().st_size > 10**5


def test_own_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("own_codec", tmp_path, capsys)
    assert "deflated blocks, quality 16  coded" in said
    assert drawn(tmp_path / "blocks.png")
    from bitrate_ext.io.images import load_image
    from bitrate_ext.models.demo_codec import demo_photograph

    assert load("own_codec").deflated(load_image(demo_photograph())[..., :40, :50], 8).closes


def shown(code: str, names: dict[str, Any]) -> Any:
    """Run a cell, and return what a notebook would show of its last line."""
    tree = ast.parse(code)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        return exec(compile(tree, "cell", "exec"), names)
    exec(compile(ast.Module(tree.body[:-1], []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebooks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        assert (cell["outputs"], cell["execution_count"]) == ([], None), "clear the outputs before you commit"
        value = shown("".join(line for line in cell["source"] if not line.startswith("%")), names)
        if isinstance(value, bitrate_ext.BitrateResult):
            assert value._repr_html_().startswith("<div>")
    assert not list(tmp_path.iterdir())


def test_every_notebook_is_run() -> None:
    assert {path for one in NOTEBOOKS for path in one.values} == set((EXAMPLES / "notebooks").glob("*.ipynb"))
