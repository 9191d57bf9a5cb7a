"""What tests compile, kept for the next run, made by one of several processes while the others wait."""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "kept"


def kept(name: str, of: Iterable[str | bytes | Path], make: Callable[[Path], object]) -> Path:
    """Return the file of that name that ``make`` writes to the path that it gets, from what ``of`` lists alone."""
    digest = hashlib.sha256()
    for part in of:
        digest.update(
            part.read_bytes() if isinstance(part, Path) else part if isinstance(part, bytes) else part.encode()
        )
        digest.update(b"\0")
    stem, end = name.rsplit(".", 1)
    target = CACHE / f"{stem}-{digest.hexdigest()[:16]}.{end}"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as folder:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                make(Path(folder) / name)
                (Path(folder) / name).replace(target)
    return target
