"""Children of ``VideoReader`` that start in a tenth of the time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import video_forks

from bitrate_ext.video import decoded


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(decoded, "_start", video_forks.Fork)
    with video_forks.forked():
        yield
