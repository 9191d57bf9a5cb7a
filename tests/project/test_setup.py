"""What setup.py decides to build, with CUDA toolkits that only pretend. Nothing is compiled."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import cuda_toolkit
import pytest
import torch
import torch.utils.cpp_extension  # before its dependencies are hidden

ROOT = Path(__file__).parents[2]
CODES = "sm_75 sm_80 sm_86 sm_87 sm_89 sm_90 sm_100 sm_120 sm_121"
WRITE_OUTPUT = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done'
UNSUPPORTED = (  # what nvcc 13.0 says of a host compiler that is too new
    "In file included from /opt/cuda/include/cuda_runtime.h:82,\n"
    "                 from <command-line>:\n"
    "/opt/cuda/include/crt/host_config.h:143:2: error: #error -- unsupported GNU version!  gcc later than 15\n"
    "  143 | #error -- unsupported GNU version!\n"
)


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def toolkit(
    folder: Path, release: str = "13.0", codes: str = CODES, runtime: str = "lib", compiles: str = WRITE_OUTPUT
) -> Path:
    """A folder with an nvcc that answers as the real one does, and a file in the runtime's place."""
    program(
        folder / "bin/nvcc",
        'case "$1" in\n'
        f'--version) echo "Cuda compilation tools, release {release}, V{release}.88";;\n'
        f"--list-gpu-code) printf '%s\\n' {codes};;\n"
        f"--dryrun) echo '#$ TOP={folder}/bin/..' >&2;;\n"
        f"*) {compiles};;\n"
        "esac",
    )
    if runtime:
        (folder / runtime).mkdir()
        (folder / runtime / "libcudart_static.a").touch()
    return folder


def loaded() -> ModuleType:
    """setup.py as a module, which builds nothing."""
    spec = importlib.util.spec_from_file_location("bitrate_ext_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [*sys.path]):  # setup.py adds a folder
        spec.loader.exec_module(module)
    return module


EMPTY = dict.fromkeys((*loaded().VARIABLES, "BITRATE_EXT_NO_CUDA", "BITRATE_EXT_REFERENCE_ONLY"), "")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """setup.py on a machine with a C++ compiler, a torch for CUDA 13.2, and neither toolkit nor GPU."""
    bin_folder = tmp_path / "path"
    bin_folder.mkdir()
    (bin_folder / "c++").touch(0o755)
    for name in EMPTY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    monkeypatch.setattr(cuda_toolkit, "USUAL_TOOLKIT", tmp_path / "usual")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with mock.patch.dict(os.environ):  # setup.py itself sets variables for torch
        yield loaded()


def on_path(tmp_path: Path, folder: Path, linked: bool = False) -> None:
    nvcc = tmp_path / "path/nvcc"
    if linked:
        nvcc.symlink_to(folder / "bin/nvcc")
    else:
        program(nvcc, f'exec {folder}/bin/nvcc "$@"')


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def names(script: ModuleType) -> list[str]:
    """The libraries that setup.py decides to build."""
    return [built.name.removeprefix("bitrate_ext.") for built in script.extensions().get("ext_modules", [])]


def test_the_order_of_places(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = toolkit(tmp_path / "usual")
    assert script.find_toolkit("13.2") == (usual, "")
    package = toolkit(tmp_path / "packages/nvidia/cu13")
    assert script.find_toolkit("13.2") == (package, "")
    on_path(tmp_path, toolkit(tmp_path / "opt"))
    assert script.find_toolkit("13.2") == (tmp_path / "opt", "")
    monkeypatch.setenv("CUDA_PATH", str(toolkit(tmp_path / "named", runtime="lib64")))
    assert script.find_toolkit("13.2") == (tmp_path / "named", "")
    monkeypatch.setenv("CUDA_HOME", str(usual))
    assert script.find_toolkit("13.2") == (usual, "")


@pytest.mark.parametrize("linked", [False, True], ids=["script", "link"])
def test_nvcc_on_the_path_may_stand_for_one_elsewhere(script: ModuleType, tmp_path: Path, linked: bool) -> None:
    on_path(tmp_path, toolkit(tmp_path / "opt"), linked)
    assert script.find_toolkit("13.2") == (tmp_path / "opt", "")


@pytest.mark.parametrize("wrong", [{"release": "12.4"}, {"compiles": "exit 1"}, {"runtime": ""}], ids=str)
def test_a_toolkit_that_fits_is_found_behind_one_that_does_not(
    script: ModuleType, tmp_path: Path, wrong: dict[str, str]
) -> None:
    on_path(tmp_path, toolkit(tmp_path / "first", **wrong))
    toolkit(tmp_path / "usual", "11.8")
    found, because = script.find_toolkit("13.2")
    assert found is None
    assert f"{tmp_path}/first" in because  # both are told of
    assert f"; the CUDA toolkit in {tmp_path}/usual is 11.8, torch's is 13.2" in because
    package = toolkit(tmp_path / "packages/nvidia/cu13", "13.2")
    assert script.find_toolkit("13.2") == (package, "")


def test_a_toolkit_is_tried_once_by_whatever_name(script: ModuleType, tmp_path: Path) -> None:
    on_path(tmp_path, toolkit(tmp_path / "cuda-13.0", compiles="exit 1"))
    (tmp_path / "usual").symlink_to(tmp_path / "cuda-13.0")
    assert script.find_toolkit("13.2")[1] == f"nvcc of {tmp_path}/cuda-13.0 does not compile here, it says: nothing"


def named_nowhere(tmp_path: Path) -> None:
    os.environ["CUDA_HOME"] = str(tmp_path / "nowhere")
    toolkit(tmp_path / "usual")  # not asked: the user has named one


def old_release(tmp_path: Path) -> None:
    os.environ["CUDA_HOME"] = str(toolkit(tmp_path / "old", "12.4"))


def no_runtime(tmp_path: Path) -> None:
    on_path(tmp_path, toolkit(tmp_path / "half", runtime=""))


def no_release(tmp_path: Path) -> None:
    program(toolkit(tmp_path / "usual") / "bin/nvcc", "exit 1")


def no_program(tmp_path: Path) -> None:
    (tmp_path / "path/nvcc").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "path/nvcc").chmod(0o755)


def too_new_a_host(tmp_path: Path) -> None:
    toolkit(tmp_path / "usual", compiles=f"printf '{UNSUPPORTED}' >&2; exit 1")


def half_installed(tmp_path: Path) -> None:
    toolkit(tmp_path / "usual", compiles="echo 'sh: 1: cicc: not found' >&2; exit 1")


def silent(tmp_path: Path) -> None:
    toolkit(tmp_path / "usual", compiles="exit 139")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda tmp_path: None, "no CUDA toolkit (nvcc)"),
        (named_nowhere, "no nvcc in {tmp_path}/nowhere/bin"),
        (old_release, "the CUDA toolkit in {tmp_path}/old is 12.4, torch's is 13.2"),
        (no_runtime, "no libcudart_static.a in {tmp_path}/half"),
        (no_release, "no CUDA toolkit (nvcc)"),
        (no_program, "no CUDA toolkit (nvcc)"),
        (
            too_new_a_host,
            "nvcc of {tmp_path}/usual does not compile here, it says: /opt/cuda/include/crt/host_config.h:143:2: "
            "error: #error -- unsupported GNU version! gcc later than 15",
        ),
        (half_installed, "nvcc of {tmp_path}/usual does not compile here, it says: sh: 1: cicc: not found"),
        (silent, "nvcc of {tmp_path}/usual does not compile here, it says: nothing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_without_a_toolkit_the_cpu_library_is_built(script: ModuleType, tmp_path: Path, capsys, prepare, said) -> None:
    prepare(tmp_path)
    assert names(script) == ["_ops_cpu"]
    said = f"{said.format(tmp_path=tmp_path)}; building without CUDA kernels, as BITRATE_EXT_NO_CUDA=1 does"
    assert lines(capsys) == [f"bitrate_ext: {said}"]


@pytest.mark.parametrize("host", ["", "gcc-14"])
def test_the_trial_is_compiled_as_the_kernels_are(script: ModuleType, tmp_path: Path, monkeypatch, host: str) -> None:
    """With the flags of the kernels, and with the host compiler and the nvcc that torch then takes."""
    monkeypatch.setenv("CC", host)
    home = toolkit(tmp_path / "usual", compiles=f'echo "$@" > {tmp_path}/said; {WRITE_OUTPUT}')
    assert script.find_toolkit("13.2") == (home, "")
    monkeypatch.setenv("PYTORCH_NVCC", f"{program(tmp_path / 'cached', 'exit 1')} nvcc")
    assert script.find_toolkit("13.2")[0] is None
    said = (tmp_path / "said").read_text().split()
    assert said[: len(script.NVCC_FLAGS)] == script.NVCC_FLAGS
    assert said[-4::2] == ["-c", "-o"]
    assert said[len(script.NVCC_FLAGS) : -4] == (["-ccbin", host] if host else [])


@pytest.mark.parametrize("because", ["BITRATE_EXT_NO_CUDA", "torch"])
def test_cuda_that_nobody_wants_is_not_missed(script: ModuleType, tmp_path: Path, monkeypatch, capsys, because) -> None:
    toolkit(tmp_path / "usual")
    if because == "torch":
        monkeypatch.setattr(torch.version, "cuda", None)
    else:
        monkeypatch.setenv(because, "1")
    assert script.cuda_extension() == []
    assert lines(capsys) == []


@pytest.mark.parametrize("because", ["BITRATE_EXT_REFERENCE_ONLY=1", "no C++ compiler (c++)", "no C++ compiler (mine)"])
def test_without_a_compiler_nothing_is_built(script: ModuleType, tmp_path: Path, monkeypatch, capsys, because) -> None:
    if "=" in because:
        monkeypatch.setenv(*because.split("="))
    elif "mine" in because:
        monkeypatch.setenv("CXX", "mine --flag")
    else:
        (tmp_path / "path/c++").unlink()
    assert script.extensions() == {}
    assert lines(capsys) == [f"bitrate_ext: {because}; installing the PyTorch reference only"]


def test_without_torch_one_line_says_what_to_install(script: ModuleType, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as raised:
        script.extensions()
    said = str(raised.value.code)
    assert said.startswith("bitrate_ext: torch, which the kernels are built against, cannot be imported (")
    assert said.endswith(f"; install it with {script.TORCH}, or leave out --no-build-isolation")
    needed = (ROOT / "pyproject.toml").read_text().partition("\n\n")[0]
    assert all(f'"{one}"' in needed for one in shlex.split(script.TORCH)[2:])


@pytest.mark.parametrize("empty", ["", " "], ids=["empty", "blank"])
def test_variables_that_are_empty_are_as_if_unset(
    script: ModuleType, tmp_path: Path, monkeypatch, capsys, empty
) -> None:
    home = toolkit(tmp_path / "usual")
    for name in EMPTY:
        monkeypatch.setenv(name, empty)
    assert names(script) == ["_ops_cpu", "_ops_cuda13"]
    assert os.environ["CUDA_HOME"] == str(home)
    assert os.environ["TORCH_CUDA_ARCH_LIST"].endswith("+PTX")
    assert not {"CC", "CXX", "CUDA_PATH", "PYTORCH_NVCC"} & set(os.environ)
    assert lines(capsys) == []


def test_both_libraries(script: ModuleType, tmp_path: Path, capsys) -> None:
    home = toolkit(tmp_path / "usual")
    cpu, cuda = script.extensions()["ext_modules"]
    assert (cpu.name, cuda.name) == ("bitrate_ext._ops_cpu", "bitrate_ext._ops_cuda13")
    assert cuda.extra_objects == [str(home / "lib/libcudart_static.a")]
    assert os.environ["CUDA_HOME"] == str(home)
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "7.5+PTX;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
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
        ([], CODES, "7.5+PTX;8.0;8.6;8.9;9.0;10.0;12.0+PTX"),
        ([], "sm_75 sm_80 sm_86 sm_89 sm_90", "7.5+PTX;8.0;8.6;8.9;9.0+PTX"),
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
    toolkit(tmp_path / "usual", codes=codes)
    assert names(script) == ["_ops_cpu", "_ops_cuda13"]
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == chosen


def run_in_a_copy(tmp_path: Path, *arguments: str | Path, **environment: str) -> tuple[Path, str]:
    """Run setup.py in a folder that holds little of the package; returns the folder, and what was said."""
    tree = tmp_path / "tree"
    for name in (
        "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "tools/cuda_toolkit.py",
        "bitrate_ext/__init__.py", "bitrate_ext/_version.py", "bitrate_ext/py.typed", "bitrate_ext/data/README.md",
    ):  # fmt: skip
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    for name in ("bitrate_ext/inner", "bitrate_ext/inner/innermost", "other"):
        (tree / name).mkdir()
        (tree / name / "__init__.py").touch()
    command = [sys.executable, "setup.py", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree, done.stdout + done.stderr


def test_a_source_archive_holds_every_source(tmp_path: Path) -> None:
    # The extensions' lists of sources are not what is asked.
    tree, _ = run_in_a_copy(tmp_path, "sdist", "--dist-dir", tmp_path, BITRATE_EXT_REFERENCE_ONLY="1")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    sources = {str(path.relative_to(tree)) for path in (tree / "csrc").rglob("*") if path.is_file()}
    assert any(name.endswith(".cu") for name in sources)
    assert sources | {"tools/cuda_toolkit.py", "bitrate_ext/inner/innermost/__init__.py"} <= packed


def test_the_command_leads_to_a_function() -> None:
    scripts = re.findall(r'^bitrate-ext = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    ((module, function),) = scripts
    assert callable(getattr(importlib.import_module(module), function))


def test_packages_inside_the_package_are_installed(tmp_path: Path) -> None:
    built = tmp_path / "built"
    run_in_a_copy(tmp_path, "build_py", "--build-lib", built, BITRATE_EXT_REFERENCE_ONLY="1")
    assert {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()} == {
        "bitrate_ext/__init__.py", "bitrate_ext/_version.py", "bitrate_ext/py.typed", "bitrate_ext/data/README.md",
        "bitrate_ext/inner/__init__.py", "bitrate_ext/inner/innermost/__init__.py",
    }  # fmt: skip


@pytest.mark.medium
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
@pytest.mark.parametrize("works", [True, False], ids=["a compiler that torch holds too new", "nvcc that does not work"])
def test_the_build_goes_on(tmp_path: Path, works: bool) -> None:
    """PyTorch's own build, with compilers that only pretend: one that is not in its table, and an nvcc that fails."""
    home = toolkit(tmp_path / "cuda", torch.version.cuda, compiles=WRITE_OUTPUT if works else "echo no >&2; exit 1")
    cxx = program(tmp_path / "g++", f'case "$1" in -dump*) echo 99.0.0;; *) {WRITE_OUTPUT};; esac')
    variables = {**EMPTY, "CXX": str(cxx), "CUDA_HOME": str(home)}
    tree, said = run_in_a_copy(tmp_path, "build_ext", "--inplace", **variables)
    built = sorted(path.name.partition(".")[0] for path in tree.glob("bitrate_ext/*.so"))
    assert built == ["_ops_cpu", f"_ops_cuda{torch.version.cuda.split('.')[0]}"] if works else ["_ops_cpu"]
    assert ("does not compile here, it says: no; building without CUDA kernels" in said) != works


@pytest.mark.slow
def test_type_checkers_find_what_is_installed_to_be_edited(tmp_path: Path) -> None:
    """They follow plain paths in .pth files, and no hooks of the import system."""
    shutil.copytree(
        ROOT / "bitrate_ext", tmp_path / "bitrate_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools.build_meta import build_editable; build_editable('made')"
    environment = {**os.environ, "BITRATE_EXT_REFERENCE_ONLY": "1"}
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, env=environment, check=True, capture_output=True)
    (wheel,) = (tmp_path / "made").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        outside = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert [Path(name).suffix for name in outside] == [".pth"]
        assert archive.read(outside[0]).decode().split() == [str(tmp_path)]
