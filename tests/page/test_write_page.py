"""Pages as files: what may be in them, their policy, their size, and what cannot be written."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import flat_bits, random_bits

import bitrate_ext
from bitrate_ext.cells.picture import CellGrid, PictureBits
from bitrate_ext.page import write
from bitrate_ext.page.document import Blobs, page_document

pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_policy_allows_the_one_script_and_style(tmp_path: Path) -> None:
    bitrate_ext.write_page(random_bits(1, name="</script><style>"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="(.*?)">', text)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(scripts) == len(styles) == 1
    assert policy[1].startswith("default-src 'none'; ")
    assert f"script-src '{digest(scripts[0])}'" in policy[1]
    assert f"style-src '{digest(styles[0])}'" in policy[1]
    assert "unsafe" not in policy[1]
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script>")
    assert "innerHTML" not in scripts[0]
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", scripts[0])


def test_a_page_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        bitrate_ext.write_page([random_bits(1), random_bits(2)], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_program_is_small_and_whole() -> None:
    text = write.program()
    assert len(text) < 110_000
    names = {path.stem for path in (Path(write.__file__).parent / "src").glob("*.js")}
    assert set(re.findall(r"^modules\.(\w+) = ", text, re.MULTILINE)) == names
    assert "@param" not in text
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)


def test_what_is_alike_is_held_once(tmp_path: Path) -> None:
    one = random_bits(1)
    bitrate_ext.write_page(one, tmp_path / "one.html")
    bitrate_ext.write_page([one] * 8, tmp_path / "eight.html")
    assert (tmp_path / "eight.html").stat().st_size < (tmp_path / "one.html").stat().st_size + 30_000


def test_bits_that_are_not_finite(tmp_path: Path) -> None:
    for value in (float("inf"), float("nan")):
        bitrate_ext.write_page(flat_bits(value), tmp_path / "page.html")
        assert '"total":null' in (tmp_path / "page.html").read_text()


def test_bits_without_cells_are_held_as_pixels() -> None:
    values = torch.rand(20, 30, dtype=torch.float64)
    bits = PictureBits({"y": CellGrid(values)}, (20, 30), (0, 0, 20, 30))
    blobs = Blobs()
    told = page_document([bits], blobs, channels=0, title="", facts={})
    (latent,) = told["inputs"][0]["latents"]
    assert (latent["cells"], latent["terms"]) == (None, [])
    pack, start = zlib.decompress(base64.b64decode(blobs.first)), latent["raster"]["start"]
    raster = np.frombuffer(pack, np.uint8, 4 * 20 * 30, start).reshape(4, -1).T.copy().view(np.float32).reshape(20, 30)
    np.testing.assert_allclose(raster, values.numpy(), rtol=2e-5)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_of_any_channels(tmp_path: Path, channels: int) -> None:
    bitrate_ext.write_page(flat_bits(1.0, picture=torch.rand(1, channels, 32, 32)), tmp_path / "page.html")


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([], {}, "inputs must be at least one PictureBits"),
        ([flat_bits(1.0), random_bits(1)], {}, r"inputs\[1\] has 45 x 62: write a page for each"),
        (
            flat_bits(1.0),
            {"regions": torch.zeros(3, 3)},
            r"regions must be \[H, W\] = \[32, 32\] like the picture, got \[3, 3\]",
        ),
        (flat_bits(1.0), {"channels": -1}, "channels must be a number of at least 0, or None for all, got -1"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, inputs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bitrate_ext.write_page(inputs, tmp_path / "page.html", **options)
    assert not list(tmp_path.iterdir())


def test_results_are_not_bits_of_a_picture(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"as result.image\(0\) gives them; inputs\[0\] is int"):
        bitrate_ext.write_page([3], tmp_path / "page.html")  # type: ignore[list-item]
