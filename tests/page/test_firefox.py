"""Pages in headless Firefox, by its own protocol for being driven: they open from disk and show Python's numbers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import shown
from pages import random_bits

import bitrate_ext

pytestmark = pytest.mark.slow
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
WAIT = 60  # seconds, for the browser


class Marionette:
    """Firefox, as ``firefox --marionette`` is spoken to: messages of JSON, their lengths before them."""

    def __init__(self, port: int) -> None:
        until = time.monotonic() + WAIT
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), WAIT)
                break
            except OSError:
                assert time.monotonic() < until, "Firefox does not answer"
                time.sleep(0.2)
        self.file = self.socket.makefile("rb")
        self._read()
        self.count = 0

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            length += self.file.read(1)
        return json.loads(self.file.read(int(length[:-1])))

    def __call__(self, command: str, **given: Any) -> Any:
        self.count += 1
        message = json.dumps([0, self.count, f"WebDriver:{command}", given]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        assert error is None, error
        return result

    def script(self, text: str) -> Any:
        return self("ExecuteScript", script=text, args=[])["value"]

    def open(self, path: Path, fragment: str = "") -> None:
        self("Navigate", url=path.as_uri() + fragment)
        until = time.monotonic() + WAIT
        while not self.script("return document.documentElement.dataset.usable"):
            assert time.monotonic() < until, self.script("return document.body.textContent.slice(0, 500)")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Marionette]:
    if FIREFOX is None:
        pytest.skip("needs Firefox: apt-get install firefox-esr")
    profile = tmp_path_factory.mktemp("profile")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (profile / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
    with subprocess.Popen([FIREFOX, "--headless", "--marionette", "--profile", profile]) as process:
        try:
            made = Marionette(port)
            made("NewSession", capabilities={"alwaysMatch": {}})
            yield made
        finally:
            process.terminate()


def test_pictures(firefox: Marionette, tmp_path: Path) -> None:
    two = [random_bits(1), random_bits(2)]
    bitrate_ext.write_page(two, tmp_path / "page.html", regions=[(3, 4, 20, 10)], names=["sky"])
    firefox.open(tmp_path / "page.html", "#pin=30,20&mode=side")
    time.sleep(1)
    rows = firefox.script(
        "return [...document.querySelectorAll('tbody tr')].map(row => [...row.children].map(one => one.textContent))"
    )
    told = {row[0]: row[1:] for row in reversed(rows)}
    for name in two[0].grids:
        assert told[f"of {name}"][:2] == [shown(float(one.map(name)[20, 30]), 4) for one in two]
    assert told["bits"][:2] == [shown(float(one.map()[4:14, 3:23].sum()), 2) for one in two]
    drawn = firefox.script(
        "const one = document.getElementById('stage'); const data = one.getContext('2d')"
        ".getImageData(0, 0, one.width, one.height).data; return new Set(new Uint32Array(data.buffer)).size"
    )
    assert drawn > 1000


def test_many_pictures_and_videos(firefox: Marionette, tmp_path: Path) -> None:
    table = [{"image": f"{i}.png", "bpp": i / 7, "page": f"{i}.html"} for i in range(40)]
    picture = random_bits(1).picture
    bitrate_ext.write_folder_page(table, tmp_path / "all.html", picture=lambda _: picture)
    firefox.open(tmp_path / "all.html")
    time.sleep(0.5)
    assert firefox.script("return [...document.images].filter((one) => one.naturalWidth === 62).length") == 12
    assert firefox.script("return document.querySelector('.many td').textContent") == "0.0000"
    frames = [random_bits(seed) for seed in range(3)]
    bitrate_ext.write_video_page(frames, tmp_path / "video.html")
    firefox.open(tmp_path / "video.html", "#frame=2")
    words = firefox.script("return document.querySelector('.frames [role=status]').textContent")
    assert words == f"Frame 2 of 3, 0.080 s: {shown(frames[2].total_bits, 2)} bits"
