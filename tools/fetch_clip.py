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


def main() -> int:
    """Returns the exit code: 0 with the clips in CLIPS, 2 where there is no getting them."""
    if all((CLIPS / name).exists() for name in NAMES):
        print(f"the clips are in {CLIPS}")
        return 0
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            print(f"fetch_clip: error: there is no {tool} here; the clips come from a Debian package", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, capture_output=True, text=True)
        packages = list(Path(folder).glob("*.deb"))
        if done.returncode or not packages:
            reason = " ".join(done.stderr.split()) or "apt-get gave no package"
            print(f"fetch_clip: error: {PACKAGE} cannot be downloaded: {reason}", file=sys.stderr)
            return 2
        subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True)
        CLIPS.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            found = Path(folder) / WITHIN / name
            if not found.exists():
                print(f"fetch_clip: error: {packages[0].name} holds no {name}", file=sys.stderr)
                return 2
            shutil.copy(found, CLIPS)
    print(f"the clips are in {CLIPS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
