"""Import optional dependencies, and say what to install where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

INSTALL = 'pip install "bitrate-ext[{}]"'


def require(module: str, extra: str = "compressai") -> Any:
    """Import an optional dependency.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} cannot be imported ({error}); install it with {INSTALL.format(extra)}") from error
