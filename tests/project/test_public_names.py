"""The names that users are shown: each has an example that runs, and is in typed_use.py, which `make lint` checks."""

from __future__ import annotations

import ast
import doctest
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import zoo
from foreign_models import AsModule
from torch import nn

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

NAMES = [name for name in bitrate_ext.__all__ if name not in ("__version__", "models")]
EXAMPLES = {name: getattr(bitrate_ext, name) for name in NAMES}
EXAMPLES |= {f"models.{name}": getattr(bitrate_ext.models, name) for name in bitrate_ext.models.__all__}
METHODS = {
    f"{name}.{method}": function
    for name in NAMES
    if inspect.isclass(EXAMPLES[name])
    for method, function in vars(EXAMPLES[name]).items()
    if not method.startswith("_") and "Example:" in (getattr(function, "__doc__", None) or "")
}
DEAR = {"calibrate": pytest.mark.slow} | dict.fromkeys(
    ("coded_video", "errors_figure", "field_figure", "map_picture", "MemoryLimitError", "PictureResult"),
    pytest.mark.medium,
)


def test_only_public_names_are_shown() -> None:
    shown = [name for name in dir(bitrate_ext) if not name.startswith("__")]
    assert set(shown) == set(bitrate_ext.__all__) - {"__version__"}
    assert all(getattr(bitrate_ext, name) is not None for name in shown)


class OwnModel(AsModule):
    """Its coder is none of CompressAI's."""

    def compress(self, x: torch.Tensor) -> dict[str, Any]:
        return {"strings": [[b"?"]], "shape": x.shape[-2:]}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Any]]:
    """What examples begin with, made when the first needs it."""
    model = bitrate_ext.load_demo_codec()
    x = load_image(demo_photograph())[..., 60:124, 160:224].clone()
    result = bitrate_ext.BitrateMapper(model)(x)
    kernel = bitrate_ext.receptive_field.field.Term(1.0, numpy.ones(32), numpy.ones(32))  # type: ignore[attr-defined]
    return {
        "bitrate_ext": lambda: bitrate_ext,
        "compressai": lambda: pytest.importorskip("compressai.models") and sys.modules["compressai"],
        "torch": lambda: torch,
        "numpy": lambda: numpy,
        "model": lambda: model,
        "own_model": OwnModel,
        "video_model": zoo.video_model,
        "x": lambda: x,
        "result": lambda: result,
        "bits": lambda: result.image(picture=x),
        "field": lambda: bitrate_ext.ReceptiveField((16, 16), ((-8, 23), (-8, 23)), [kernel]),
        "folder": lambda: tmp_path_factory.mktemp("examples"),
    }


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[DEAR[name]] if name in DEAR else []) for name in [*EXAMPLES, *METHODS]],
)
def test_examples_run(name: str, names: dict[str, Callable[[], Any]]) -> None:
    documented = inspect.getdoc({**EXAMPLES, **METHODS}[name]) or ""
    assert "\nExample:\n" in documented, f"{name} has no example"
    found = {one: make() for one, make in names.items() if one in documented}
    test = doctest.DocTestParser().get_doctest(documented, found, name, None, 0)
    assert test.examples
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    runner.run(test, out=said.append)
    assert not said, "".join(said)
    model: nn.Module | None = found.get("model")
    assert model is None or not model.training


def test_every_name_is_used_with_its_type() -> None:
    tree = ast.parse((Path(__file__).parent / "typed_use.py").read_text())
    asserted = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "assert_type"
        for node in ast.walk(call)
        if isinstance(node, (ast.Attribute, ast.Name))
    }
    assert set(NAMES) - asserted == set()
