"""Import optional dependencies, and say what to do where they are missing, or others than they should be."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

INSTALL = 'pip install "bitrate-ext[{}]"'
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


def require(module: str, extra: str = "compressai") -> Any:
    """Import an optional dependency.

    Raises:
        ImportError: it is not installed, or what is first on Python's path under its name is damaged or another version
            without what is needed of it; names its folder, and says what to install.
    """
    install = f"install it with {INSTALL.format(extra)}"
    folder = folder_of(module.partition(".")[0])
    remedy = install if folder is None else f"{take_off(folder)}, or {install}"
    where = "" if folder is None else f"; it would be that in {folder}"
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything while it is imported
        raise ImportError(f"{module} cannot be imported ({error}){where}; {remedy}") from error
    missing = _missing(module, found)
    if missing:
        raise ImportError(f"{folder} is not the package that is needed, without {', '.join(missing)}; {remedy}")
    return found


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


def _missing(module: str, found: Any) -> list[str]:
    return [f"{module}.{name}" for name in NEEDED.get(module, ()) if not hasattr(found, name)]
