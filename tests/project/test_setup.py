"""What setup.py decides to build, with CUDA toolkits that only pretend. Nothing is compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import torch
import torch.utils.cpp_extension  # before its dependencies are hidden

ROOT = Path(__file__).parents[2]
CODES = "sm_75 sm_80 sm_86 sm_87 sm_89 sm_90 sm_100 sm_120 sm_121"


def toolkit(folder: Path, release: str = "13.0", codes: str = CODES, runtime: str = "lib") -> Path:
    """A folder with an nvcc that answers as the real one does, and a file in the runtime's place."""
    nvcc = folder / "bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f'--version) echo "Cuda compilation tools, release {release}, V{release}.88";;\n'
        f"--list-gpu-code) printf '%s\\n' {codes};;\n"
        f"--dryrun) echo '#$ TOP={nvcc.parent}/..' >&2;;\n"
        "esac\n"
    )
    nvcc.chmod(0o755)
    if runtime:
        (folder / runtime).mkdir()
        (folder / runtime / "libcudart_static.a").touch()
    return folder


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py on a machine with a C++ compiler, a torch for CUDA 13.2, and neither toolkit nor GPU."""
    spec = importlib.util.spec_from_file_location("bitrate_ext_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bin_folder = tmp_path / "path"
    bin_folder.mkdir()
    (bin_folder / "c++").touch(0o755)
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX", "TORCH_CUDA_ARCH_LIST", "BITRATE_EXT_NO_CUDA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("BITRATE_EXT_REFERENCE_ONLY", raising=False)
    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    monkeypatch.setattr(module, "USUAL_TOOLKIT", tmp_path / "usual")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with mock.patch.dict(os.environ):  # setup.py itself sets variables for torch
        yield module


def on_path(tmp_path: Path, folder: Path, linked: bool = False) -> None:
    nvcc = tmp_path / "path/nvcc"
    if linked:
        nvcc.symlink_to(folder / "bin/nvcc")
    else:
        nvcc.write_text(f'#!/bin/sh\nexec {folder}/bin/nvcc "$@"\n')
        nvcc.chmod(0o755)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_the_order_of_places(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    usual = toolkit(tmp_path / "usual")
    assert script.find_toolkit("13.2") == usual
    package = toolkit(tmp_path / "packages/nvidia/cu13")
    assert script.find_toolkit("13.2") == package
    on_path(tmp_path, toolkit(tmp_path / "opt"))
    assert script.find_toolkit("13.2") == tmp_path / "opt"
    monkeypatch.setenv("CUDA_PATH", str(toolkit(tmp_path / "named", runtime="lib64")))
    assert script.find_toolkit("13.2") == tmp_path / "named"
    monkeypatch.setenv("CUDA_HOME", str(usual))
    assert script.find_toolkit("13.2") == usual
    assert lines(capsys) == []


@pytest.mark.parametrize("linked", [False, True], ids=["script", "link"])
def test_nvcc_on_the_path_may_stand_for_one_elsewhere(script: ModuleType, tmp_path: Path, linked: bool) -> None:
    on_path(tmp_path, toolkit(tmp_path / "opt"), linked)
    assert script.find_toolkit("13.2") == tmp_path / "opt"


def test_a_toolkit_that_fits_is_found_behind_one_that_does_not(script: ModuleType, tmp_path: Path, capsys) -> None:
    on_path(tmp_path, toolkit(tmp_path / "old", "12.4"))
    assert script.find_toolkit("13.2") is None
    assert "12.4" in lines(capsys)[0]
    package = toolkit(tmp_path / "packages/nvidia/cu13", "13.2")
    assert script.find_toolkit("13.2") == package
    assert lines(capsys) == []


def named_nowhere(tmp_path: Path) -> None:
    os.environ["CUDA_HOME"] = str(tmp_path / "nowhere")
    toolkit(tmp_path / "usual")  # not asked: the user has named one


def old_release(tmp_path: Path) -> None:
    os.environ["CUDA_HOME"] = str(toolkit(tmp_path / "old", "12.4"))


def no_runtime(tmp_path: Path) -> None:
    on_path(tmp_path, toolkit(tmp_path / "half", runtime=""))


def broken_nvcc(tmp_path: Path) -> None:
    nvcc = toolkit(tmp_path / "usual") / "bin/nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda tmp_path: None, "no CUDA toolkit (nvcc)"),
        (named_nowhere, "no nvcc in {tmp_path}/nowhere/bin"),
        (old_release, "the CUDA toolkit in {tmp_path}/old is 12.4, torch's is 13.2"),
        (no_runtime, "no libcudart_static.a in {tmp_path}/half"),
        (broken_nvcc, "no CUDA toolkit (nvcc)"),
    ],
    ids=["none", "named nowhere", "old release", "no runtime", "broken nvcc"],
)
def test_without_a_toolkit_the_cpu_library_is_built(script: ModuleType, tmp_path: Path, capsys, prepare, said) -> None:
    prepare(tmp_path)
    assert [built.name for built in script.extensions()["ext_modules"]] == ["bitrate_ext._ops_cpu"]
    assert lines(capsys) == [f"bitrate_ext: {said.format(tmp_path=tmp_path)}; building without CUDA kernels"]


@pytest.mark.parametrize("because", ["BITRATE_EXT_NO_CUDA", "torch"])
def test_cuda_that_nobody_wants_is_not_missed(script: ModuleType, tmp_path: Path, monkeypatch, capsys, because) -> None:
    toolkit(tmp_path / "usual")
    if because == "torch":
        monkeypatch.setattr(torch.version, "cuda", None)
    else:
        monkeypatch.setenv(because, "1")
    assert script.cuda_extension() == []
    assert lines(capsys) == []


@pytest.mark.parametrize("because", ["REFERENCE_ONLY", "no compiler"])
def test_without_a_compiler_nothing_is_built(script: ModuleType, tmp_path: Path, monkeypatch, capsys, because) -> None:
    if because == "no compiler":
        (tmp_path / "path/c++").unlink()
    else:
        monkeypatch.setenv("BITRATE_EXT_REFERENCE_ONLY", "1")
    assert script.extensions() == {}
    assert lines(capsys) == ["bitrate_ext: no C++ compiler; installing the PyTorch reference only"]


def test_both_libraries(script: ModuleType, tmp_path: Path, capsys) -> None:
    home = toolkit(tmp_path / "usual")
    cpu, cuda = script.extensions()["ext_modules"]
    assert (cpu.name, cuda.name) == ("bitrate_ext._ops_cpu", "bitrate_ext._ops_cuda")
    assert cuda.extra_objects == [str(home / "lib/libcudart_static.a")]
    assert os.environ["CUDA_HOME"] == str(home)
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
    assert all((ROOT / source).is_file() for source in cpu.sources + cuda.sources)
    built = {*cpu.sources, *cuda.sources}
    sources = {str(path.relative_to(ROOT)) for path in [*ROOT.glob("csrc/*/*.cpp"), *ROOT.glob("csrc/*/*.cu")]}
    assert {source for source in sources - built if "executor" not in source} == set()
    assert lines(capsys) == []


def test_the_list_of_architectures_is_the_users(script: ModuleType, tmp_path: Path, monkeypatch) -> None:
    toolkit(tmp_path / "usual")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert len(script.cuda_extension()) == 1
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "9.0"


@pytest.mark.parametrize(
    ("seen", "codes", "chosen"),
    [
        ([], CODES, "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"),
        ([], "sm_75 sm_80 sm_86 sm_89 sm_90", "7.5;8.0;8.6;8.9;9.0+PTX"),
        ([(9, 0), (8, 6), (9, 0)], CODES, "8.6;9.0+PTX"),
        ([(12, 1)], CODES, "12.1+PTX"),
        ([(13, 0)], CODES, "7.5+PTX"),  # newer than nvcc: the driver compiles PTX for it
    ],
    ids=["no GPU", "an older nvcc", "two kinds", "an odd one", "a newer one"],
)
def test_what_is_compiled_for(script: ModuleType, tmp_path: Path, monkeypatch, seen, codes, chosen) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(seen))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(seen))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: seen[index])
    assert script.compiled_for(toolkit(tmp_path / "usual", codes=codes) / "bin/nvcc") == chosen


def test_a_source_archive_holds_every_source(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    (tree / "bitrate_ext").mkdir()
    shutil.copy(ROOT / "bitrate_ext/__init__.py", tree / "bitrate_ext")
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", tmp_path]
    settings = {**os.environ, "BITRATE_EXT_REFERENCE_ONLY": "1"}  # the extensions' lists are not what is asked
    subprocess.run(command, cwd=tree, env=settings, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert any(name.endswith(".cu") for name in sources)
    assert sources - packed == set()
