"""Another CompressAI first on the path: the doctor names its folder, and commands end in one line that does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import error_of

from bitrate_ext import optional
from bitrate_ext.cli import doctor
from bitrate_ext.cli import main as cli

pytest.importorskip("compressai")
Fork = Callable[[dict[str, str]], Path]
MODELS = """
class MeanScaleHyperprior:
    {}
"""
WHOLE = {
    "__init__.py": "__version__ = '9.9.fork'",
    "ans.py": "class RansEncoder: pass\nclass BufferedRansEncoder: pass",
    "models/__init__.py": MODELS.format("pass"),
    "registry.py": "MODELS = {}",
    "zoo/__init__.py": "video_models = pointcloud_models = {}",
    "zoo/image.py": "model_urls = model_architectures = {}",
    "zoo/image_vbr.py": "model_urls = model_architectures = {}",
    "zoo/pretrained.py": "def load_pretrained(weights): return weights",
    "zoo/video.py": "model_urls = model_architectures = {}",
}


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fork:
    """Put a package of that name, of those files, first on the path."""

    def made(files: dict[str, str]) -> Path:
        folder = tmp_path / "compressai"
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        for name in [one for one in sys.modules if one.partition(".")[0] == "compressai"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)
        return folder

    yield made  # type: ignore[misc]
    for name in [one for one in sys.modules if one.partition(".")[0] == "compressai"]:
        del sys.modules[name]  # of the fork; the real ones come back


def line_of(capsys: pytest.CaptureFixture[str], name: str) -> tuple[str, str]:
    """The doctor's line on a package, and the one below it."""
    assert cli.main(["doctor"]) == 0
    lines = [*capsys.readouterr().out.splitlines(), ""]
    at = next(i for i, line in enumerate(lines) if line[4:].startswith(name))
    return lines[at], lines[at + 1]


def without(*names: str) -> dict[str, str]:
    return {name: text for name, text in WHOLE.items() if name not in names}


BROKEN = [
    ({**WHOLE, "zoo/__init__.py": "video_models = {}"}, "without compressai.zoo.pointcloud_models"),
    (without("registry.py"), "but it does not import: No module named 'compressai.registry'"),
    ({**WHOLE, "zoo/image.py": "raise RuntimeError('no\\nlibrary')"}, "but it does not import: no library"),
    ({**WHOLE, "__init__.py": "from ._C import ops"}, "but it does not import: No module named 'compressai._C'"),
    ({**WHOLE, "ans.py": "class RansEncoder: pass"}, "without compressai.ans.BufferedRansEncoder"),
]


@pytest.mark.parametrize(("files", "state"), BROKEN)
def test_the_doctor_looks_at_what_would_be_imported(
    fork: Fork, files: dict[str, str], state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fork(files)
    line, below = line_of(capsys, "compressai")
    assert line.startswith("--  compressai")
    assert f"from {folder} and not the installed " in line
    assert line.endswith(state)
    assert f"where {folder} is not the released package, take it off Python's path" in below


def test_the_doctor_names_a_fork_that_serves(fork: Fork, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fork(WHOLE)
    line, below = line_of(capsys, "compressai")
    assert line.startswith("ok  compressai")
    assert f"9.9.fork, from {folder} and not the installed " in line
    assert "to mend" not in below


def test_the_doctor_names_the_folder_of_what_is_installed_and_broken(
    fork: Fork, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fork(without("registry.py"))
    about = folder.parent / "compressai-9.9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: compressai\nVersion: 9.9\n")
    line, below = line_of(capsys, "compressai")
    assert f"9.9.fork, from {folder}, but it does not import: " in line
    assert f"where {folder} is not the released package" in below


def test_the_doctor_on_what_was_never_installed(
    fork: Fork, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fork({}).parent / "lonely.py").write_text("")
    monkeypatch.setitem(doctor.OPTIONAL, "lonely", "this test")
    line, _ = line_of(capsys, "lonely ")
    assert line.startswith("ok  lonely")
    assert "of unknown version, from " in line
    assert line.endswith("lonely.py")


def test_the_doctor_says_ok_of_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("compressai", "pillow", "tqdm"):
        line, _ = line_of(capsys, package)
        assert line.startswith("ok")
        assert "from " not in line


COMMANDS = {
    "calibrate": ["calibrate", "--no-cache"],
    "map of a checkpoint": ["map", "{photo}", "--checkpoint", "{photo}"],
    "map of a zoo's model": ["map", "{photo}", "--model", "mbt2018-mean", "--quality", "1"],
    "check": ["check", "{photo}"],
    "coded": ["map", "{photo}", "--bits", "coded"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_end_in_a_line_that_names_the_folder(
    fork: Fork, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bitrate_ext.models.demo_codec import demo_photograph

    folder = fork({**WHOLE, "models/__init__.py": "", "zoo/__init__.py": ""})
    (folder / "zoo" / "image.py").unlink()
    argv = [one.format(photo=demo_photograph()) for one in COMMANDS[command]]
    message = error_of(capsys, *argv, *([] if command == "check" else ["-o", str(tmp_path / "out")]))
    assert str(folder) in message
    assert "take it off Python's path" in message


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("pass", "TypeError: "),
        ("def __init__(self, N, M): pass", "AttributeError: "),
        ("def __init__(self, N, M): raise AssertionError('N must be odd')", "AssertionError: N must be odd"),
        ("def __init__(self, N, M): self.N = [][N]", "IndexError: "),
    ],
)
def test_an_architecture_that_has_changed_is_told(
    fork: Fork, body: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fork(
        {**WHOLE, "models/__init__.py": MODELS.format(body), "layers.py": "from torch.nn import Identity as GDN"}
    )
    message = error_of(capsys, "calibrate", "--no-cache", "-o", str(tmp_path))
    assert f"the compressai in {folder} does not take the demo codec ({reason}" in message


def test_what_another_zoo_cannot_build_is_told(
    fork: Fork, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = "model_urls = {'mbt2018-mean': {'mse': {1: 'https://example.com/weights'}}}\nmodel_architectures = {}"
    folder = fork({**WHOLE, "zoo/image.py": zoo})
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: {})
    message = error_of(
        capsys, "calibrate", "--model", "mbt2018-mean", "--quality", "1", "--no-cache", "-o", str(tmp_path)
    )
    assert f"the compressai in {folder} cannot build the model (KeyError: 'mbt2018-mean')" in message


def test_every_name_that_is_needed_is_in_compressai() -> None:
    assert optional.missing_names("compressai") == []
    assert optional.folder_of("compressai") == str(Path(importlib.util.find_spec("compressai").origin).parent)


def test_what_is_not_installed_is_told_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "absent_package", None)
    with pytest.raises(ImportError, match=r"absent_package cannot be imported \(.*\); install it with pip install"):
        optional.require("absent_package")
