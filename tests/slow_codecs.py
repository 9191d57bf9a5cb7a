"""A codec that takes its time."""

from __future__ import annotations

import time
from typing import Any

from block_codecs import BlockCodec
from torch import Tensor


class SlowCodec(BlockCodec):
    def forward(self, x: Tensor) -> dict[str, Any]:
        time.sleep(0.2)
        return super().forward(x)
