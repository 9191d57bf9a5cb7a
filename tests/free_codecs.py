"""A codec of data sets that costs nothing, reads no file, and misbehaves over items whose names say so."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitrate_ext.dataset import About, Item, Read, Unreadable
from bitrate_ext.dataset.codec import Spent
from bitrate_ext.dataset.storage import Journal


class FreeCodec:
    """Bits that follow from the name alone.

    Args:
        folder: where it is noted what was measured and what has died, by names of files; None: nowhere.
        seconds: that an item takes.
    """

    def __init__(self, folder: str | None = None, seconds: float = 0.0, setting: int = 0) -> None:
        self._notes, self._seconds = folder and Path(folder), seconds
        self.about = About("free", ("y", "z"), {"setting": setting})
        self.reader = self.read

    def read(self, item: Item) -> Read:
        name = os.path.basename(item.name)
        if "not-a-picture" in name:
            raise Unreadable("not an image", "0" * 64)
        self._misbehave("read", name)
        return Read(hashlib.sha256(item.name.encode()).hexdigest(), len(name) % 2, name)

    def measure(self, pictures: Sequence[str]) -> list[dict[str, Any]]:
        for name in pictures:
            self._misbehave("measure", name)
        if self._seconds:
            time.sleep(self._seconds * len(pictures))
        return [self._numbers(name) for name in pictures]

    def _numbers(self, name: str) -> dict[str, Any]:
        value = int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)
        y, z = value / 7, value / 1000.3
        row = {"height": 256, "width": 256, "bits": y + z, "latents": {"y": y, "z": z}}
        return row | {"padding_bits": 0.1, "bpp": (y + z) / 65536, "psnr_db": 30.0 + value % 10}

    def _misbehave(self, when: str, name: str) -> None:
        if f"die-{when}-always" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if f"die-{when}-once" in name and self._first(name):
            os.kill(os.getpid(), signal.SIGKILL)
        if f"hang-{when}" in name:
            time.sleep(3600)
        if f"large-{when}" in name:
            raise MemoryError("not enough memory for this picture")
        if f"lose-{when}-always" in name or (f"lose-{when}-once" in name and self._first(name)):
            raise Spent from RuntimeError("CUDA error: device-side assert triggered")
        if f"raise-{when}" in name:
            raise RuntimeError("no bits here")

    def _first(self, name: str) -> bool:
        """Whether this has not been asked of that name before, by any process."""
        try:
            (self._notes / name).touch(exist_ok=False)  # type: ignore[operator]
        except FileExistsError:
            return False
        return True


class Rescuing(FreeCodec):
    """One that has other means, which do not help names with "hopeless"."""

    def rescue(self, item: Item, lack: str, alive: Callable[[], None]) -> tuple[Read, dict[str, Any]]:
        alive()
        name = os.path.basename(item.name)
        if "hopeless" in name:
            raise MemoryError("not enough memory for this picture")
        if "deadly" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        return Read("1" * 64, None, None), {**self._numbers(name), "warnings": f"by other means for want of {lack}"}


class Unreturning(FreeCodec):
    """One whose process dies as it has published a part, before it can say so; of each part once."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        remove = Journal.remove

        def remove_and_die(journal: Journal) -> None:
            remove(journal)
            if self._first(journal.path.name):
                os.kill(os.getpid(), signal.SIGKILL)

        Journal.remove = remove_and_die  # type: ignore[method-assign]
