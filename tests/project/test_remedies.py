"""Remedies that the code prints: commands that parse, of packages that there are, and options that exist."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import in_new_process

from bitrate_ext import optional
from bitrate_ext.cli import doctor
from bitrate_ext.cli import main as cli
from bitrate_ext.cli.arguments import make_parser
from bitrate_ext.ops import library

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "bitrate_ext").rglob("*.py"))
ABOUT = "Metadata-Version: 2.1\nName: bitrate-ext\nVersion: 0.1.0\n"
OTHERS = {"--no-deps", "--force-reinstall", "--no-build-isolation"}  # pip's


def texts(path: Path) -> Iterator[str]:
    """The strings of a program, those of an f-string piece by piece."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def options(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(options, action.choices.values()))
    return found


def parsed(command: str) -> list[str]:
    """What a command installs, by pip's own parser; in a new process, since pip takes setuptools' distutils away."""
    program, action, *arguments = shlex.split(command)
    assert (program, action) == ("pip", "install")
    code = (
        "import json; from pip._internal.commands import create_command\n"
        f"given, names = create_command('install').parse_args({arguments!r})\n"
        "print(json.dumps([*names, *given.editables]))"
    )
    return list(json.loads(in_new_process(code)))


def test_one_place_makes_the_commands() -> None:
    assert [path.name for path in SOURCES if any("pip install" in text for text in texts(path))] == ["optional.py"]


def test_no_remedy_names_the_package_on_an_index() -> None:
    pages = [*SOURCES, ROOT / "setup.py", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert [path.name for path in pages if re.search(r"bitrate[-_]ext\[", path.read_text())] == []


@pytest.mark.parametrize("there", [True, False], ids=["installed", "absent"])
@pytest.mark.parametrize("module", [*doctor.OPTIONAL, "captum.attr", "compressai.ans"])
def test_what_is_to_be_installed_is_required_and_can_be(
    module: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = pytest.importorskip("packaging.requirements")
    if not there:
        monkeypatch.setattr(optional, "installed_version", lambda _: None)
    names = parsed(optional.install_command(module))
    wanted = [requirements.Requirement(name) for name in names]
    assert optional.distribution_of(module) in {one.name for one in wanted}
    known = (ROOT / "pyproject.toml").read_text()
    for one in wanted:
        assert (one.name != "bitrate-ext", one.extras, bool(one.specifier)) == (True, set(), True)
        assert f'"{one.name}>=' in known
        assert one.specifier.contains(metadata.version(one.name), prereleases=True)


def test_what_is_missing_of_an_extra_is_named_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "installed_version", lambda name: None if name in ("captum", "tqdm") else "1.0")
    assert optional.install_command("captum.attr") == 'pip install "tqdm>=4.60" "captum>=0.7"'
    assert optional.install_command("PIL").startswith("pip install --force-reinstall --no-deps ")


def test_plain_imports_that_fail_have_a_remedy_if_an_extra_brings_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "installed_version", lambda name: None if name == "pillow" else "1.0")
    assert (
        optional.remedy_of(ModuleNotFoundError("no", name="PIL.Image"))
        == '; install it with pip install "pillow>=11.3"'
    )
    for error in (ModuleNotFoundError("no", name="my_codec"), ModuleNotFoundError("no"), ImportError("no", name="PIL")):
        assert optional.remedy_of(error) == ""
    assert "torch>=" in optional.remedy_of(ModuleNotFoundError("no", name="torch"))


def test_without_metadata_the_name_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional.metadata, "distributions", lambda **_: [])
    monkeypatch.setattr(optional, "installed_version", lambda _: None)
    assert optional.install_command("PIL") == 'pip install "pillow"'


def test_the_package_is_built_from_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need, command = optional.build_again("install a compiler").split(", then ")
    assert need == "install a compiler"
    assert parsed(command) == [str(ROOT)]
    monkeypatch.setattr(optional, "PACKAGE", tmp_path / "bitrate_ext")  # installed: no setup.py beside it
    about = installed(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (about / "direct_url.json").write_text('{"url": "file:///a%20folder/of/source", "dir_info": {}}')
    assert parsed(optional.build_again("")) == ["/a folder/of/source"]


@pytest.mark.parametrize("reason", ["no compiled library", "does not load"])
def test_libraries_that_are_absent_are_told_with_the_command(
    reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if reason == "does not load":
        (tmp_path / "_ops_cpu.so").write_bytes(b"no library")
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    said = library._load("_ops_cpu", "install a C++17 compiler")
    assert said is not None
    assert reason in said
    assert parsed("pip " + said.rpartition("pip ")[2].removesuffix(")")) == [str(ROOT)]


def test_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "absent_because", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    said = str(library._load_cuda())
    assert said.startswith("this PyTorch is built without CUDA (install one that has it, then pip install ")


def test_a_torch_of_another_cuda_loads_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "_ops_cuda13.abi3.so").write_bytes(b"no library: not to be loaded")
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    monkeypatch.setattr(library, "absent_because", None)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    said = str(library._load_cuda())
    assert said.startswith(f"no compiled library _ops_cuda12 in {tmp_path} (install a CUDA 12 toolkit with nvcc, then ")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert str(library._load_cuda()).startswith("_ops_cuda13.abi3.so does not load: ")


@pytest.mark.parametrize(
    ("url", "said"), [("file:///a/clone", "/a/clone"), ("file:///a/b-1-any.whl", ". in the source folder")]
)
def test_a_wheel_is_nothing_to_build_from(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = SimpleNamespace(read_text=lambda _: f'{{"url": "{url}"}}')
    monkeypatch.setattr(optional.metadata, "distributions", lambda name: [record])
    monkeypatch.setattr(optional, "_runs_from_source", lambda: False)
    assert optional._source_folder() == said


def installed(site: Path) -> Path:
    """A folder with an installed package; returns that of its metadata."""
    (site / "bitrate_ext").mkdir(parents=True)
    (site / "bitrate_ext/__init__.py").touch()
    about = site / "bitrate_ext-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(ABOUT)
    return about


@pytest.mark.parametrize("built", [True, False], ids=["metadata in the clone", "none"])
def test_a_source_folder_that_shadows_is_named(
    built: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "clone"
    (clone / "bitrate_ext").mkdir(parents=True)
    (clone / "bitrate_ext/__init__.py").touch()
    (clone / "setup.py").touch()
    if built:  # by a build in the source folder
        (clone / "bitrate_ext.egg-info").mkdir()
        (clone / "bitrate_ext.egg-info/PKG-INFO").write_text(ABOUT)
    installed(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(clone)
    monkeypatch.setattr(optional, "PACKAGE", clone / "bitrate_ext")
    monkeypatch.setattr(doctor, "PACKAGE", clone / "bitrate_ext")
    assert optional.shadowed() == tmp_path / "site/bitrate_ext"
    said = optional.build_again("install a C++17 compiler")
    assert said == (
        f"the source folder {clone}/bitrate_ext shadows the installed package {tmp_path}/site/bitrate_ext: start "
        f"Python in another folder, or take {clone} off Python's path"
    )
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"from {clone}/bitrate_ext and not the installed" in out
    assert said in out


@pytest.mark.medium
def test_the_doctor_in_a_clone(tmp_path: Path) -> None:
    """A clone without libraries, an installed package beside it, and Python started in the clone."""
    clone, site = tmp_path / "clone", tmp_path / "site"
    shutil.copytree(ROOT / "bitrate_ext", clone / "bitrate_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "setup.py", clone)
    installed(site)
    out = in_new_process(
        f"""
        import os, sys
        sys.path.append({str(site)!r})
        from bitrate_ext.cli.main import main
        main(["doctor"])
        """,
        folder=str(clone),
    )
    (line,) = (line for line in out.splitlines() if "CPU kernels" in line)
    assert f"the source folder {clone}/bitrate_ext shadows the installed package {site}/bitrate_ext" in line


def test_options_that_are_named_exist() -> None:
    known = options(make_parser()) | OTHERS
    named = {
        (path.name, option)
        for path in SOURCES
        for text in texts(path)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)
    }
    assert ("decoding.py", "--max-memory") in named
    assert {(name, option) for name, option in named if option not in known} == set()
