"""The names that users are shown; the types that their checkers see are in typed_use.py, which `make lint` checks."""

from __future__ import annotations

import bitrate_ext


def test_only_public_names_are_shown() -> None:
    shown = [name for name in dir(bitrate_ext) if not name.startswith("__")]
    assert set(shown) == set(bitrate_ext.__all__) - {"__version__"}
    assert all(getattr(bitrate_ext, name) is not None for name in shown)
