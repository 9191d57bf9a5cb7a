"""How wheels are made and looked at: the tools' own decisions, on small files. Nothing is compiled or installed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import build_wheel
import finish_wheel
import old_glibc
import pytest
import test_wheel

import bitrate_ext

ROOT = Path(__file__).parents[2]
WHEN = 1_700_000_000
LIBC = """\
0000000000085a40 T dlsym@GLIBC_2.2.5
0000000000085a40 T dlsym@@GLIBC_2.34
0000000000091110 T pthread_create@GLIBC_2.0
0000000000091110 T pthread_create@GLIBC_2.2.5
0000000000091110 T pthread_create@@GLIBC_2.34
0000000000097fe0 T memcpy@@GLIBC_2.14
0000000000097fe0 i memcpy@GLIBC_2.2.5
000000000003c5d0 T arc4random@@GLIBC_2.36
"""


def test_what_is_too_new_has_its_newest_older_version() -> None:
    assert old_glibc.older_versions(LIBC) == {"dlsym": "GLIBC_2.2.5", "pthread_create": "GLIBC_2.2.5"}
    assert old_glibc.older_versions(LIBC, (2, 34)) == {}  # memcpy's is old enough; of arc4random there is no other


def test_a_stub_defines_each_function_as_the_default_of_its_version() -> None:
    assembly, script = old_glibc.stub({"dlsym": "GLIBC_2.10", "dlinfo": "GLIBC_2.3.3"})
    assert re.findall(r"\.symver (\w+), (\S+)", assembly) == [
        ("stub0", "dlinfo@@GLIBC_2.3.3"),
        ("stub1", "dlsym@@GLIBC_2.10"),
    ]
    assert script.splitlines() == ["GLIBC_2.3.3 { };", "GLIBC_2.10 { };"]  # as numbers, not as text


def test_what_is_defined_is_hidden_and_what_is_wanted_is_not() -> None:
    assembly = "\t.globl\t_ZTVs\n_ZTVs:\n\t.weak\tours\nours:\n\tret\nlocal:\n\t.weak\ttheirs\n"
    assert old_glibc.hidden(assembly) == assembly + ".hidden _ZTVs\n.hidden ours\n"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("                 U aoti_torch_get_dim", False),
        ("                 U torch_parallel_for", False),
        ("                 U memcpy@GLIBC_2.14", False),
        ("                 U _ZSt9terminatev@GLIBCXX_3.4", False),
        ("                 w __gmon_start__", False),
        ("                 U _ZSt9terminatev", True),  # some library of torch's would be asked for it
        ("                 U _ZN3c105ErrorC1ENS_14SourceLocationE", True),
        ("                 U _ZN2at10TensorBase", True),
        ("                 U PyObject_Call", True),
        ("                 U cuLaunchKernel", True),
        ("                 U memcpy@MINE_1.0", True),
    ],
)
def test_symbols_that_no_stable_abi_promises(line: str, told: bool) -> None:
    assert finish_wheel.symbol_faults(f"\n{line}\n") == ([line.split()[-1]] if told else [])


def test_an_audit_names_every_kind_of_fault() -> None:
    header = "  NEEDED               libtorch_cpu.so\n  NEEDED               ld-linux-aarch64.so.1\n"
    assert finish_wheel.audit("  U torch_list_size\n", "", header) == []
    header += (
        "  NEEDED               libcudart.so.13\n  NEEDED  libtorch_python.so\n  RUNPATH              /home/me/lib\n"
    )
    assert finish_wheel.audit(" U Py_IncRef\n", "0010 W _ZNSt6vectorIdE\n", header) == [
        "wants Py_IncRef, which is not of a stable ABI",
        "exports _ZNSt6vectorIdE",
        "needs libcudart.so.13",
        "needs libtorch_python.so",
        "looks for libraries in /home/me/lib",
    ]


def small_wheel() -> dict[str, bytes]:
    return {
        "a-1.dist-info/RECORD": b"stale",
        "a-1.dist-info/METADATA": b"Name: a\n",
        "a/data/chelsea.png": b"cat",
        "a/_b.abi3.so": b"ELF" * 50,
        "a/__init__.py": b"",
    }


def test_a_wheel_depends_on_its_files_and_time_alone() -> None:
    files = small_wheel()
    made = finish_wheel.packed(files, WHEN)
    assert made == finish_wheel.packed(dict(reversed(files.items())), WHEN)
    assert made != finish_wheel.packed(files, WHEN + 2)
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        assert opened.namelist()[-1] == "a-1.dist-info/RECORD"  # metadata last, as the format recommends
        assert {path: opened.read(path) for path in opened.namelist()[:-1]} == {
            path: content for path, content in files.items() if not path.endswith("RECORD")
        }
        assert {entry.date_time for entry in opened.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        modes = {entry.filename: entry.external_attr >> 16 for entry in opened.infolist()}
        rows = [row.split(",") for row in opened.read("a-1.dist-info/RECORD").decode().splitlines()]
    assert modes["a/_b.abi3.so"] == 0o100755
    assert modes["a/__init__.py"] == 0o100644
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"cat").digest()).decode().rstrip("=")
    assert ["a/data/chelsea.png", f"sha256={digest}", "3"] in rows
    assert rows[-1] == ["a-1.dist-info/RECORD", "", ""]
    assert len(rows) == len(files)


def test_a_bill_of_materials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish_wheel, "compiled_in", lambda libraries: [{"name": f"runtime of {len(libraries)}"}])
    files = small_wheel()
    text = finish_wheel.bill_of_materials("a", "1", files, WHEN)
    assert text == finish_wheel.bill_of_materials("a", "1", dict(reversed(files.items())), WHEN)
    told = json.loads(text)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    parts = {part["name"]: part for part in told["components"]}
    assert set(parts) == {"runtime of 1", "a/data/chelsea.png", "a/_b.abi3.so"}
    assert parts["a/data/chelsea.png"]["licenses"] == [{"license": {"id": "CC0-1.0"}}]
    assert parts["a/data/chelsea.png"]["hashes"][0]["content"] == hashlib.sha256(b"cat").hexdigest()
    with pytest.raises(SystemExit, match=r"a/data/dog.png: .*LICENCES, does not say under what licence"):
        finish_wheel.bill_of_materials("a", "1", {**files, "a/data/dog.png": b""}, WHEN)


def test_the_licence_of_every_bundled_file_is_known() -> None:
    held = {path.name for path in (ROOT / "bitrate_ext/data").iterdir() if path.suffix != ".md"}
    assert held == set(finish_wheel.LICENCES)


def test_links_lead_to_the_published_address() -> None:
    text = "[a](docs/a.md#b) ![p](docs/p.png) [c](https://x.org/c) [d](#here) [*e*](LICENSE) `f[0](1)`"
    said = build_wheel.absolute_links(text, "https://host/me/it", "v1")
    assert said == (
        "[a](https://host/me/it/blob/v1/docs/a.md#b) ![p](https://host/me/it/raw/v1/docs/p.png) [c](https://x.org/c) "
        "[d](#here) [*e*](https://host/me/it/blob/v1/LICENSE) `f[0](https://host/me/it/blob/v1/1)`"
    )


def test_a_published_tree(tmp_path: Path) -> None:
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    build_wheel.publish_at(tmp_path, "https://host/me/it/", "v1.2")
    readme = (tmp_path / "README.md").read_text()
    assert re.findall(r"\]\((?!https:)[^)]*\)", readme) == []
    assert "](https://host/me/it/blob/v1.2/docs/install.md)" in readme
    assert "](https://host/me/it/raw/v1.2/docs/images/" in readme
    project = (tmp_path / "pyproject.toml").read_text()
    assert '\n[project.urls]\nRepository = "https://host/me/it"\n' in project
    assert re.sub(r"\[project.urls\](\n.+)+\n\n", "", project) == (ROOT / "pyproject.toml").read_text()


def test_a_source_archive_depends_on_its_files_and_time_alone(tmp_path: Path) -> None:
    archives = []
    for order, owner in (("ab", "me"), ("ba", "you")):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz") as opened:
            for name in order:
                entry = tarfile.TarInfo(f"p/{name}")
                entry.size, entry.uname, entry.mtime, entry.mode = (
                    1,
                    owner,
                    len(archives),
                    0o700 if name == "b" else 0o600,
                )
                opened.addfile(entry, io.BytesIO(name.encode()))
        archives.append(build_wheel.repacked(made.getvalue(), WHEN))
    assert archives[0] == archives[1]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archives[0]))) as opened:
        assert [(one.name, one.mode, one.mtime) for one in opened] == [("p/a", 0o644, WHEN), ("p/b", 0o755, WHEN)]


def test_a_tag_that_the_tree_contradicts(tmp_path: Path) -> None:
    for name, text in {
        "bitrate_ext/_version.py": '"""V."""\n\n__version__ = "1.2.0"\n',
        "CITATION.cff": "cff-version: 1.2.0\nversion: 1.1.0\n",
        "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n## 1.2.0 (2030-01-01)\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert build_wheel.tag_faults(tmp_path, "v1.2.0") == [
        "CITATION.cff says 1.1.0, the tag v1.2.0",
        "CHANGELOG.md says Unreleased, the tag v1.2.0",
    ]
    assert len(build_wheel.tag_faults(tmp_path, "1.2.0")) == 3


def test_the_version_is_one() -> None:
    version = bitrate_ext.__version__
    assert build_wheel.version_of(ROOT) == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert '\ndynamic = ["version"]\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ("== 3 passed in 1s ==", (3, 0)),
        ("1 failed, 12 passed, 2 skipped in 9.1s", (12, 1)),
        ("5 passed, 2 errors in 1s", (5, 2)),
        ("1 error in 0.1s", (0, 1)),
        ("no tests ran in 0.01s", (0, 1)),
        ("", (0, 1)),
    ],
)
def test_tests_are_counted(said: str, counts: tuple[int, int]) -> None:
    assert test_wheel.counted(said) == counts


def test_the_matrix_has_the_oldest_and_the_newest() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    pythons = [one.python for one in test_wheel.MATRIX]
    assert f'requires-python = ">={pythons[0]}"' in project
    assert f":: {pythons[-1]}" in project
    oldest, newest = test_wheel.MATRIX[0], test_wheel.MATRIX[-1]
    assert f'"torch>={oldest.torch.rpartition(".")[0]}", "numpy>={oldest.numpy[0].rpartition(".")[0]}"' in project
    assert (newest.torch, newest.numpy[-1]) == ("", "")
    assert sum(len(one.numpy) for one in test_wheel.MATRIX) >= 6
    for name in test_wheel.TESTS:
        assert (ROOT / "tests" / name).is_file()


def test_an_outcome_without_kernels_is_not_well() -> None:
    what = {"python": "3", "torch": "2", "numpy": "2", "glibc": "2", "cuda": "no GPU", "install_seconds": 1.0}
    assert test_wheel.Outcome(**what, cpu=None, passed=1, failed=0).well()
    assert not test_wheel.Outcome(**what, cpu="does not load", passed=1, failed=0).well()
    assert not test_wheel.Outcome(**what, cpu=None, passed=1, failed=1).well()
    assert not test_wheel.Outcome(**what, cpu=None, passed=0, failed=0).well()
