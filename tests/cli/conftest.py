"""Photographs in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from block_codecs import BlockCodec

from bitrate_ext.models import demo_codec


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes photographs in the current folder, which is empty before; the demo codec is a small stand-in."""
    Image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_codec, "load_demo_forward", lambda quality: BlockCodec().eval())
    rng = np.random.default_rng(0)

    def make(*names: str) -> list[str]:
        for name in names:
            Image.fromarray(rng.integers(0, 256, (70, 100, 3), dtype=np.uint8)).save(name)
        return list(names)

    return make
