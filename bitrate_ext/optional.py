"""Import optional dependencies, and say what to do where they or the compiled libraries are missing or others.

Every remedy that names a command is made here. No index has this package: what is missing of an extra is named itself,
as the installed metadata names it, and the package is built again from the folder that it came from.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE, DISTRIBUTION = Path(__file__).resolve().parent, "bitrate-ext"
DISTRIBUTIONS = {
    "PIL": "pillow",
    "pillow_heif": "pillow-heif",
    "pillow_jxl": "pillow-jxl-plugin",
}  # that bring modules of other names
ZOO = ("model_urls", "model_architectures")
NEEDED: dict[str, tuple[str, ...]] = {  # of a module, what is used of it
    "compressai.ans": ("RansEncoder", "BufferedRansEncoder"),
    "compressai.models": ("MeanScaleHyperprior",),
    "compressai.registry": ("MODELS",),
    "compressai.zoo": ("pointcloud_models", "video_models"),
    "compressai.zoo.image": ZOO,
    "compressai.zoo.image_vbr": ZOO,
    "compressai.zoo.pretrained": ("load_pretrained",),
    "compressai.zoo.video": ZOO,
}


def require(module: str) -> Any:
    """Import an optional dependency.

    Raises:
        ImportError: it is not installed, or what is first on Python's path under its name is damaged or another version
            without what is needed of it; names its folder, and says what to install.
    """
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything while it is imported
        folder, remedy = _instead_of(module)
        where = "" if folder is None else f"; it would be that in {folder}"
        raise ImportError(f"{module} cannot be imported ({error}){where}; {remedy}") from error
    missing = _missing(module, found)
    if missing:
        folder, remedy = _instead_of(module)
        raise ImportError(f"{folder} is not the package that is needed, without {', '.join(missing)}; {remedy}")
    return found


def _instead_of(module: str) -> tuple[str | None, str]:
    """Return the folder that a module is looked for in, if there is one, and what to do to have another."""
    folder, install = folder_of(module.partition(".")[0]), f"install it with {install_command(module)}"
    return folder, install if folder is None else f"{take_off(folder)}, or {install}"


def missing_names(package: str) -> list[str]:
    """Return what is needed of a package and is not in it, its modules imported."""
    modules = [module for module in NEEDED if module.partition(".")[0] == package]
    return [name for module in modules for name in _missing(module, importlib.import_module(module))]


def folder_of(package: str) -> str | None:
    """Return the folder or the file that a package is imported from, or would be; None where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return None if spec is None else next(iter(spec.submodule_search_locations or ()), spec.origin)


def take_off(folder: str) -> str:
    """Say what to do where that folder is not the one that is wanted."""
    return f"where {folder} is not the released package, take it off Python's path"


def install_command(module: str) -> str:
    """Return the command that installs what a module comes from, and what else is missing of its extra.

    What is there already, broken, is installed anew, without what it requires.
    """
    wanted = distribution_of(module)
    found = ((requirement, extra) for name, requirement, extra in _requirements() if name == wanted)
    requirement, extra = next(found, (wanted, ""))
    required = dict(_of_extra(extra)) if extra else {wanted: requirement}
    if installed_version(wanted) is not None:
        return f'pip install --force-reinstall --no-deps "{required[wanted]}"'
    absent = [f'"{required[name]}"' for name in required if name == wanted or installed_version(name) is None]
    return f"pip install {' '.join(absent)}"


def remedy_of(error: ImportError) -> str:
    """Return what to do about a plain import that failed, after a semicolon; nothing where no extra brings the module.

    Of a module that nothing here requires, no package is named: it may be anybody's.
    """
    known = isinstance(error, ModuleNotFoundError) and error.name is not None
    if not known or distribution_of(str(error.name)) not in {name for name, _, _ in _requirements()}:
        return ""
    return f"; install it with {install_command(str(error.name))}"


def distribution_of(module: str) -> str:
    """Return the name of the distribution that brings a module."""
    package = module.partition(".")[0]
    return DISTRIBUTIONS.get(package, package)


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution that is installed; None where it is not."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def build_again(need: str) -> str:
    """Say how the compiled libraries, which are not there, come about.

    Args:
        need: what has to be there first, such as ``"install a C++17 compiler"``; empty where nothing has.
    """
    installed = shadowed()
    if installed is not None:
        return (
            f"the source folder {PACKAGE} shadows the installed package {installed}: start Python in another folder, "
            f"or take {PACKAGE.parent} off Python's path"
        )
    command = f"pip install --force-reinstall --no-deps --no-build-isolation {_source_folder()}"
    return f"{need}, then {command}" if need else command


def shadowed() -> Path | None:
    """Return the folder of an installed package that the source folder, which runs, keeps from being imported."""
    if not _runs_from_source():
        return None
    found = (Path(str(one.locate_file(PACKAGE.name))).resolve() for one in metadata.distributions(name=DISTRIBUTION))
    return next((folder for folder in found if folder != PACKAGE and (folder / "__init__.py").is_file()), None)


def _runs_from_source() -> bool:
    return (PACKAGE.parent / "setup.py").is_file()


def _source_folder() -> str:
    """Return the folder that the package came from, as pip is told of it."""
    if _runs_from_source():
        return f"-e {shlex.quote(str(PACKAGE.parent))}"
    from urllib.parse import urlsplit  # not where a command only prints its help
    from urllib.request import url2pathname

    for one in metadata.distributions(name=DISTRIBUTION):
        url = urlsplit(json.loads(one.read_text("direct_url.json") or "{}").get("url", ""))
        if url.scheme == "file" and not url.path.endswith(".whl"):  # a wheel is not built again
            return shlex.quote(url2pathname(url.path))
    return ". in the source folder"


def _requirements() -> Iterator[tuple[str, str, str]]:
    """Yield what the installed metadata require: name, requirement, and the extra that needs it or nothing."""
    for text in next((one.requires or [] for one in metadata.distributions(name=DISTRIBUTION)), []):
        requirement, _, marker = (part.strip() for part in text.partition(";"))
        extra = re.search(r"""extra\s*==\s*["']([^"']+)""", marker)
        name = re.match(r"[\w.-]+", requirement)
        if name is not None:
            yield name[0], re.sub(r"[\s()]", "", requirement), extra[1] if extra else ""


def _of_extra(extra: str) -> Iterator[tuple[str, str]]:
    """Yield name and requirement of what an extra brings, those of the extras that it names first."""
    for name, requirement, owner in _requirements():
        inner = re.search(r"\[(.+)\]", requirement)
        if owner == extra and name == DISTRIBUTION and inner is not None:
            yield from _of_extra(inner[1])
        elif owner == extra:
            yield name, requirement


def _missing(module: str, found: Any) -> list[str]:
    return [f"{module}.{name}" for name in NEEDED.get(module, ()) if not hasattr(found, name)]
