from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import browser as driven
import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from driven.launch()
