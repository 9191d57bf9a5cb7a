"""Fetch a real clip from Debian's package python3-imageio with apt, into a folder that git ignores.

    python tools/fetch_clip.py

Nothing is installed. cockatoo.mp4 (1280 x 720) is one of imageio's standard images, with the licence that the package's
copyright file gives.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "python3-imageio"
WITHIN = Path("usr/lib/python3/dist-packages/imageio/resources/images/cockatoo.mp4")
CLIP = Path(__file__).parent.parent / "build/clips/cockatoo.mp4"
TIMEOUT = 30.0  # seconds for the download


def fetch() -> str | None:
    """Fetch the clip, if it is not there; returns why that cannot be done, in one line."""
    if CLIP.exists():
        return None
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here; the clip comes from a Debian package"
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
        if not (Path(folder) / WITHIN).exists():
            return f"{packages[0].name} holds no {CLIP.name}"
        CLIP.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(folder) / WITHIN, CLIP)
    return None


if __name__ == "__main__":
    sys.exit(fetch())
