"""Pages of large pictures, whose stage is painted as it is seen; of a pixel, of many latents, of no bits; on paper."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import opened, shown
from pages import flat_bits, random_bits
from test_page_use import pixel

import bitrate_ext
from bitrate_ext.cells.picture import CellGrid, PictureBits
from bitrate_ext.page.document import PREVIEW_SIDE, eight_bits
from bitrate_ext.viz.colormap import COLOURS, colour_map

pytestmark = pytest.mark.medium
HIGH, WIDE, CELL, LIMIT = 1200, 1500, 300, 0.05
ERROR = (3 / 255) ** 2  # of its quarter below on the right


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[PictureBits, torch.Tensor, Path]:
    """Cells of 300 x 300 pixels, each of one density, over a picture that has a preview; their densities; a page."""
    chance = torch.Generator().manual_seed(1)
    densities = 0.08 * torch.rand(HIGH // CELL, WIDE // CELL, generator=chance, dtype=torch.float64)
    rows, columns = torch.arange(HIGH)[:, None] // 8, torch.arange(WIDE) // 8
    picture = torch.stack([rows + 0 * columns, columns + 0 * rows, (rows + columns) // 2])[None] / 255
    decoded = picture.clone()
    decoded[..., 600:, 750:] += 3 / 255
    grid = CellGrid(CELL**2 * densities)
    bits = PictureBits({"y": grid}, (HIGH, WIDE), (0, 0, HIGH, WIDE), picture=picture, reconstruction=decoded)
    assert HIGH * WIDE > PREVIEW_SIDE**2
    path = tmp_path_factory.mktemp("large") / "page.html"
    bitrate_ext.write_page(bits, path)
    return bits, densities, path


def colours(densities: torch.Tensor) -> list[list[int]]:
    palette = colour_map(COLOURS)(range(256), bytes=True)[:, :3].tolist()
    return [palette[min(255, int(256 * one / LIMIT))] for one in densities.flatten().tolist()]


def test_large_pictures_show_what_small_ones_do(browser: Any, large: Any) -> None:
    _, densities, path = large
    for width in (1300, 700):  # of one block a pixel, and of several
        viewport = {"width": width, "height": 800}
        with opened(browser, path, f"#limit={LIMIT}&base=none", viewport=viewport) as page:
            page.usable().page.wait_for_timeout(100)
            wide, high = (page.page.evaluate(f"document.getElementById('stage').{one}") for one in ("width", "height"))
            scale = 0.96 * min(wide / WIDE, high / HIGH)
            places = [(x, y) for y in range(CELL // 2, HIGH, CELL) for x in range(CELL // 2, WIDE, CELL)]
            seen = [
                pixel(page, 0.5 + (x - WIDE / 2) * scale / wide, 0.5 + (y - HIGH / 2) * scale / high) for x, y in places
            ]
            assert seen == colours(densities)
            beyond = 100 * float((densities > LIMIT).double().mean())
            page.page.get_by_text(f"Beyond the scale: {shown(beyond, 2)} % of the pixels.").wait_for()
    with opened(browser, path, f"#limit={1.9 * ERROR}&base=none&layer=error", viewport=viewport) as page:
        page.usable().page.wait_for_timeout(100)
        assert [pixel(page, 0.6, 0.6), pixel(page, 0.4, 0.4)] == colours(torch.tensor([LIMIT / 1.9, 0.0]))


def test_large_pictures_are_painted_where_one_looks(browser: Any, large: Any) -> None:
    _, densities, path = large
    with opened(browser, path, f"#limit={LIMIT}&base=none&view=300,300,2") as page:
        page.usable().page.wait_for_timeout(100)
        corners = [(0.4, 0.4), (0.6, 0.4), (0.4, 0.6), (0.6, 0.6)]
        assert [pixel(page, *at) for at in corners] == colours(densities[:2, :2])
        page.page.locator("#stage").focus()
        for key in ("ArrowRight", "ArrowDown"):
            for _ in range(20):  # 60 pixels of the screen each
                page.page.keyboard.press(f"Shift+{key}")
        page.page.wait_for_timeout(400)
        assert [pixel(page, *at) for at in corners] == colours(densities[2:4, 2:4])


def test_pixels_and_regions_of_large_pictures(browser: Any, large: Any) -> None:
    bits, _, path = large
    with opened(browser, path, "#view=700,600,4") as page:
        page.usable()
        assert bits.picture is not None
        assert bits.reconstruction is not None
        told = page.rows("#probe tbody")
        assert told["reconstruction, R G B"] == ["when asked"]
        page.page.mouse.move(*page.at(710.5, 610.5, (700, 600, 4)))
        for name, picture in (("photograph", bits.picture), ("reconstruction", bits.reconstruction)):
            colour = " ".join(map(str, eight_bits(picture)[0, :, 610, 710].tolist()))
            page.page.locator("#probe tbody tr").filter(has_text=name).get_by_text(colour, exact=True).wait_for()
        page.page.fill("#regions input[type=text][placeholder]", "70 333 1111 701")
        page.page.keyboard.press("Enter")
        page.page.wait_for_selector("#regions table")
        page.page.get_by_role("button", name="JSON", exact=True).click()
        (copied,) = json.loads(page.page.locator("#regions textarea").input_value())
        box = (slice(333, 333 + 701), slice(70, 70 + 1111))
        assert copied["bits"] == pytest.approx(float(bits.map()[box].sum()), rel=1e-9)
        error = (eight_bits(bits.picture).double() - eight_bits(bits.reconstruction).double()).square().sum(1)[0]
        psnr = 10 * math.log10(3 * 701 * 1111 * 255**2 / float(error[box].sum()))
        assert copied["PSNR, dB"] == pytest.approx(psnr, rel=1e-9)


def test_one_pixel(browser: Any, tmp_path: Path) -> None:
    one = torch.rand(1, 3, 1, 1)
    grids = {"y": CellGrid(torch.full((2, 2), 64.0).double()), "z": CellGrid(torch.full((1, 1), 256.0).double())}
    bits = PictureBits(grids, (16, 16), (7, 8, 1, 1), picture=one, reconstruction=one)
    bitrate_ext.write_page(bits, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.usable().page.wait_for_selector("#probe table")
        assert page.rows("#probe tbody")["bits per pixel, all"] == ["2.0000"]


def test_hundreds_of_latents_at_the_width_of_a_phone(browser: Any, tmp_path: Path) -> None:
    grids = {
        f"latent {i} of a model that names them at length": CellGrid(torch.ones(4, 4).double()) for i in range(300)
    }
    bits = PictureBits(grids, (32, 32), (0, 0, 32, 32), name="n" * 300)
    bitrate_ext.write_page(bits, tmp_path / "page.html", title="t" * 300)
    with opened(browser, tmp_path / "page.html", viewport={"width": 390, "height": 800}) as page:
        page.usable().page.wait_for_selector("#probe table")
        assert "and 297 more 2, 2" in page.page.locator("#probe .place").text_content()
        assert page.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.page.locator("header").bounding_box()["height"] < 250


def test_no_bits_at_all(browser: Any, tmp_path: Path) -> None:
    picture = torch.rand(1, 3, 32, 32)
    bits = flat_bits(0.0, picture=picture, reconstruction=picture)
    bitrate_ext.write_page([bits, bits], tmp_path / "page.html", regions=[(3, 3, 9, 9)])
    with opened(browser, tmp_path / "page.html") as page:
        page.usable().page.wait_for_selector("#regions table")
        assert page.rows("#regions tbody")["share of all bits, %"] == ["0.00", "0.00", "+0.00"]
        assert page.rows("#regions tbody")["PSNR, dB"] == ["exact", "exact", ""]
        assert "not a number" not in page.page.locator("#page").text_content()


def test_on_paper(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page([random_bits(1), random_bits(2)], tmp_path / "page.html", regions=[(3, 3, 9, 9)])
    with opened(browser, tmp_path / "page.html", color_scheme="dark") as page:
        page.usable().page.wait_for_selector("#regions table")
        page.page.emulate_media(media="print")
        kept = ("#stage", ".colours", ".ends", "#beyond", "#inputs", "#probe table", "#regions table", "#account table")
        assert [one for one in kept if not page.page.locator(one).first.is_visible()] == []
        gone = ("#toolbar", "#save", "button", ".handle", "#regions form")
        assert [one for one in gone if page.page.locator(one).first.is_visible()] == []
        assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
