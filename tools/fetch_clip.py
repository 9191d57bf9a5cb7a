"""Fetch two real clips from Debian's package python3-imageio with apt, into a folder that git ignores.

    python tools/fetch_clip.py

Nothing is installed. cockatoo.mp4 (1280 x 720) and realshort.mp4 come from imageio's standard images, with the licences
that the package's copyright file gives.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "python3-imageio"
WITHIN = Path("usr/lib/python3/dist-packages/imageio/resources/images")
NAMES = ("cockatoo.mp4", "realshort.mp4")
CLIPS = Path(__file__).parent.parent / "build/clips"


TIMEOUT = 30.0  # seconds for the download


def fetch() -> str | None:
    """Put the clips into CLIPS, if they are not there; returns why that cannot be done, in one line."""
    if all((CLIPS / name).exists() for name in NAMES):
        return None
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here; the clips come from a Debian package"
    with tempfile.TemporaryDirectory() as folder:
        command = ["apt-get", "download", "-qq", PACKAGE]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return f"{PACKAGE} was not downloaded within {TIMEOUT:g} s"
        packages = list(Path(folder).glob("*.deb"))
        if done.returncode or not packages:
            return f"{PACKAGE} cannot be downloaded: {' '.join(done.stderr.split()) or 'apt-get gave no package'}"
        subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True)
        missing = [name for name in NAMES if not (Path(folder) / WITHIN / name).exists()]
        if missing:
            return f"{packages[0].name} holds no {' and no '.join(missing)}"
        CLIPS.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            shutil.copy(Path(folder) / WITHIN / name, CLIPS)
    return None


def main() -> int:
    """Returns the exit code: 0 with the clips in CLIPS, 2 where there is no getting them."""
    reason = fetch()
    if reason:
        print(f"fetch_clip: error: {reason}", file=sys.stderr)
        return 2
    print(f"the clips are in {CLIPS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
