"""Fetch the photographs that the demo codec is trained on, and reduce them.

    python tools/demo_photographs.py --state ~/demo-codec

``demo_photographs.tsv`` has the record of each: Debian package, version, licence as in the package's ``copyright``,
path in it (of pictures in a Qt resource file, that file's), and the first 16 digits of its SHA-256. They come from four
releases by ``apt-get download``, with lists of packages of their own, so that the machine's stay as they are, and are
kept in the state's folder alone. They were chosen by look from all pictures of these packages: photographs, no
drawings, nothing of scikit-image, scikit-learn or Debian's lomiri wallpapers, which are for tests.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

LIST = Path(__file__).with_suffix(".tsv")
RELEASES = ("oldoldstable", "oldstable", "stable", "sid")
LONGEST, LEAST = 1024, 300  # pixels: reduced by a whole factor to about this; halved once more if no smaller than this
RESOURCES = ".rcc"


def records() -> dict[str, list[tuple[str, str]]]:
    """By ``package=version``: path and digest of each photograph."""
    wanted: dict[str, list[tuple[str, str]]] = {}
    for line in LIST.read_text().splitlines()[1:]:
        package, version, _licence, path, digest = line.split("\t")
        wanted.setdefault(f"{package}={version}", []).append((path, digest))
    return wanted


def own_apt(folder: Path) -> dict[str, str]:
    """The environment in which apt-get knows all releases, from the server that the machine's own lists name."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian"]
    servers = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    server = next(one for one in servers if "security" not in one)
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    (folder / "sources.list").write_text("".join(f"deb {signed} {server} {release} main\n" for release in RELEASES))
    (folder / "apt.conf").write_text(
        f'Dir::State "{folder}/state";\nDir::Cache "{folder}/cache";\nDir::Etc::sourcelist "{folder}/sources.list";\n'
        'Dir::Etc::sourceparts "-";\nAPT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    subprocess.run(["apt-get", "-q", "update"], check=True, env=environment)
    return environment


def embedded(resources: bytes) -> Iterator[bytes]:
    """JPEG and WebP files in a Qt resource file, each of which follows its length in four bytes."""
    for match in re.finditer(rb"\xff\xd8\xff|RIFF....WEBP", resources, re.DOTALL):
        start = match.start()
        length = int.from_bytes(resources[start - 4 : start], "big")
        if start + length <= len(resources):
            yield resources[start : start + length]


def photographs(folder: Path) -> Iterator[bytes]:
    """The file of every photograph that can still be had; packages that are gone are named."""
    wanted = records()
    debs = folder / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    environment = own_apt(folder.resolve() / "apt")
    for package, files in wanted.items():
        name = package.replace("=", "_").replace(":", "%3a")
        if not list(debs.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "-q", "download", package], cwd=debs, env=environment, check=False)
        found = list(debs.glob(f"{name}_*.deb"))
        if not found:
            print(f"{package} is gone, and {len(files)} photographs with it", file=sys.stderr)
            continue
        paths, digests = ({entry[column] for entry in files} for column in (0, 1))
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(found[0])], stdout=subprocess.PIPE) as archive:
            assert archive.stdout is not None
            with tarfile.open(fileobj=archive.stdout, mode="r|") as members:
                for member in members:
                    path = member.name.removeprefix("./")
                    content = members.extractfile(member) if path in paths else None
                    if content is not None:
                        pictures = embedded(content.read()) if path.endswith(RESOURCES) else [content.read()]
                        yield from (one for one in pictures if hashlib.sha256(one).hexdigest()[:16] in digests)


def reduced(content: bytes) -> list[np.ndarray]:
    """uint8 ``[H, W, 3]``, area-averaged by whole factors, so that they are sharp and have no resampling artefacts."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    if max(picture.size) > 1.25 * LONGEST:
        picture = picture.reduce(round(max(picture.size) / LONGEST))
    levels = [picture, picture.reduce(2)] if min(picture.size) >= LEAST else [picture]
    return [np.asarray(level) for level in levels]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder for packages and pixels, of several GB")
    folder = parser.parse_args(argv).state
    Image.MAX_IMAGE_PIXELS = None
    index, start, count = [], 0, 0
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pixels.partial").open("wb") as file:
        for count, content in enumerate(photographs(folder), 1):
            for pixels in reduced(content):
                if min(pixels.shape[:2]) >= 128:
                    file.write(np.ascontiguousarray(pixels).tobytes())
                    index.append((start, *pixels.shape[:2], count))
                    start += pixels.size
    (folder / "pixels.json").write_text(json.dumps({"index": index}))
    os.replace(folder / "pixels.partial", folder / "pixels.u8")
    print(f"{count} photographs, {len(index)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
