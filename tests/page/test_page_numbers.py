"""The numbers of a page in a browser against Python's, to the digits shown."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import opened, shown, signed
from numpy.typing import NDArray
from pages import CANVAS, CROP, SIZE, random_bits

import bitrate_ext
from bitrate_ext.cells.picture import PictureBits
from bitrate_ext.page.document import eight_bits

pytestmark = pytest.mark.medium
VIEW = (30.0, 22.0, 6.0)
FRAGMENT = "#view=" + ",".join(map(str, VIEW))
POLYGON = [(5, 4), (50, 9), (40, 38), (22, 20), (8, 40)]


def account_of_cells(two: list[PictureBits], x: int, y: int) -> Iterator[tuple[list[float], int]]:
    for name in two[0].grids:
        yield [cell(one.grids[name].bits, x, y) for one in two], 3
        for what in (one for one in two[0].beside if name in two[0].beside[one]):
            yield [cell(one.beside[what][name], x, y) for one in two], 0 if what == "escapes" else 3


def cell(grid: torch.Tensor, x: int, y: int) -> float:
    row, column = (y + CROP[0]) * grid.shape[0] // CANVAS[0], (x + CROP[1]) * grid.shape[1] // CANVAS[1]
    return float(grid[row, column])


def inside(points: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """Pixels whose middle lies in a polygon: an odd number of edges to their left or on it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    odd = np.zeros(SIZE, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 != y1:
            odd ^= ((y0 <= y) != (y1 <= y)) & (x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd


def account(bits: PictureBits, mask: NDArray[np.bool_]) -> list[float]:
    """Bits, share, bits per pixel, PSNR, bits of each latent."""
    assert bits.picture is not None
    assert bits.reconstruction is not None
    each = [float(bits.map(name)[torch.from_numpy(mask)].sum()) for name in bits.grids]
    error = (eight_bits(bits.picture).double() - eight_bits(bits.reconstruction).double()).square()[0].sum(0).numpy()
    psnr = 10 * math.log10(3 * mask.sum() * 255**2 / error[mask].sum())
    return [sum(each), 100 * sum(each) / bits.total_bits, sum(each) / mask.sum(), psnr, *each]


def test_pixels_cells_and_channels(browser: Any, tmp_path: Path) -> None:
    two = [random_bits(1), random_bits(2)]
    bitrate_ext.write_page(two, tmp_path / "page.html", channels=4)
    places = [(0, 0), (61, 44), (61, 0), (0, 44), *((x, y) for x in range(3, 62, 11) for y in range(2, 45, 8))]
    checks = 0
    with opened(browser, tmp_path / "page.html", f"{FRAGMENT}&mode=slider") as page:
        page.usable().page.wait_for_selector("#probe table")
        maps = [{name: one.map(name) for name in one.grids} for one in two]
        costliest = two[0].channel_bits["y"].argsort(descending=True)[:4]
        page.page.mouse.move(*page.at(1, 1, VIEW))
        for row, what in ((2, "reconstruction"), (10, "y, estimated")):  # which come last
            told = page.page.locator("#probe tbody tr").nth(row)
            assert what in told.text_content()
            told.locator("td").nth(1).filter(has_text=re.compile(r"\d")).wait_for()
        for x, y in places:
            page.page.mouse.move(*page.at(x + 0.5, y + 0.5, VIEW))
            rows = page.table("#probe tbody")
            expected = [
                [" ".join(map(str, eight_bits(two[0].picture)[0, :, y, x].tolist()))],
                [" ".join(map(str, eight_bits(one.reconstruction)[0, :, y, x].tolist())) for one in two],
            ]
            for values, digits in [
                ([float(one.map()[y, x]) for one in two], 4),
                *(([float(one[name][y, x]) for one in maps], 4) for name in maps[0]),
                *account_of_cells(two, x, y),
            ]:
                expected.append([*(shown(one, digits) for one in values), signed(values[0] - values[1], digits)])
            told = [row[1:] for row in rows if len(row) > 1]
            for ours, theirs in zip(expected, told, strict=True):
                assert theirs[: len(ours)] == ours, (x, y)
                checks += len(ours)
            bars = page.page.locator("#probe .bar").all_text_contents()
            cells = two[0].symbol_bits["y"][costliest, (y + CROP[0]) // 8, (x + CROP[1]) // 8].float().double()
            order = cells.argsort(descending=True)
            assert bars[:4] == [f"y:{costliest[i]}{shown(float(cells[i]), 3)}" for i in order]
            checks += 4
    assert checks >= 1500


def test_a_latent_under_a_guide_is_held_as_pixels(browser: Any, tmp_path: Path) -> None:
    bits = random_bits(3, raster=True)
    bitrate_ext.write_page(bits, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", FRAGMENT) as page:
        page.usable().page.wait_for_selector("#probe table")
        for x, y in ((0, 0), (31, 20), (61, 44)):
            page.page.mouse.move(*page.at(x + 0.5, y + 0.5, VIEW))
            told = float(page.rows("#probe tbody")["of g"][0])
            assert told == pytest.approx(float(bits.map("g")[y, x]), abs=6e-5)


def test_regions(browser: Any, tmp_path: Path) -> None:
    two = [random_bits(4, raster=True), random_bits(5, raster=True, reconstruction=None)]
    mask = torch.zeros(SIZE, dtype=torch.int64)
    mask[10:30, 5:9] = 2
    mask[12:14, 40:] = 2
    bitrate_ext.write_page(two, tmp_path / "page.html", regions=mask, names={2: "=sky"})
    box = np.zeros(SIZE, dtype=bool)
    box[3:33, 8:28] = True
    with opened(browser, tmp_path / "page.html", FRAGMENT) as page:
        page.usable()
        page.page.fill("#regions input[type=text][placeholder]", "8 3 20 30")
        page.page.keyboard.press("Enter")
        page.page.get_by_role("button", name="Draw a polygon").click()
        for x, y in POLYGON:
            page.page.mouse.click(*page.at(x, y, VIEW))
        page.page.keyboard.press("Enter")
        page.page.wait_for_selector("#regions thead td:nth-child(4)")
        page.page.get_by_role("button", name="JSON", exact=True).click()
        copied = json.loads(page.page.locator("#regions textarea").input_value())
        rows = list(page.rows("#regions tbody").items())
        for number, pixels in enumerate((mask.numpy() == 2, box, inside(POLYGON))):
            assert copied[number]["pixels"] == pixels.sum()
            assert rows[0][1][number] == shown(int(pixels.sum()), 0)
            ours = account(two[0], pixels)
            for (name, texts), value in zip(rows[1:], ours, strict=True):
                digits = 4 if name == "bits per pixel" else 2
                exact = 1e-4 if name in ("bits of y", "bits of z", "bits of w") else 0.02
                assert copied[number][f"A {name}"] == pytest.approx(value, rel=1e-9 if exact == 1e-4 else 2e-5)
                assert float(texts[3 * number].replace(",", "")) == pytest.approx(value, abs=exact + 10**-digits / 2)
        page.page.get_by_role("button", name="CSV", exact=True).click()
        table = list(csv.reader(io.StringIO(page.page.locator("#regions textarea").input_value())))
        assert table[1][0] == "'=sky"
        assert float(table[3][2]) == copied[2]["A bits"]
        page.page.get_by_role("button", name="LaTeX", exact=True).click()
        assert "share of all bits, \\%" in page.page.locator("#regions textarea").input_value()


def test_head_ledger_and_charts(browser: Any, tmp_path: Path) -> None:
    bits = random_bits(6, file_bytes=1000, kind="coded", warnings=("a line",))
    bitrate_ext.write_page(bits, tmp_path / "page.html", facts={"command": "bitrate-ext report"})
    with opened(browser, tmp_path / "page.html") as page:
        page.usable()
        head = page.page.locator("#inputs tbody td").all_text_contents()
        psnr = account(bits, np.ones(SIZE, dtype=bool))[3]
        assert head == ["codec 6, coded", shown(bits.total_bits, 2), shown(bits.bpp, 4), shown(psnr, 2), "1,000"]
        ledger = page.rows("#account")
        for name, value in bits.latent_bits.items():
            assert ledger[name] == [shown(value, 2), f"{shown(100 * value / bits.total_bits, 2)} %"]
        for what, of in bits.beside.items():
            for name, cells in of.items():
                assert ledger[f"{name}, {what}"] == [shown(float(cells.sum()), 0 if what == "escapes" else 2), ""]
        assert ledger["headers"][0] == "24.00"
        assert ledger["of them in the padding"][0] == shown(bits.padding_bits, 2)
        assert ledger["the file, 1,000 bytes"] == ["8,000", "DOES NOT CLOSE"]
        assert page.page.locator(".warnings li").all_text_contents() == ["a line"]
        page.page.get_by_text("Charts").click()
        page.page.wait_for_selector("figure")
        notes = " ".join(page.page.locator("#charts .note").all_text_contents())
        values = np.sort(bits.map().numpy().ravel())[::-1]
        assert f"cost {shown(100 * values[: len(values) // 10].sum() / values.sum(), 1)} % of the bits" in notes
        assert f"80 cells, the costliest {shown(float(bits.grids['y'].bits.max()), 2)} bits" in notes
        page.page.locator("#charts figure svg").first.click()  # its middle: channel 2 of 6
        assert page.page.get_by_label("Layer", exact=True).input_value() == "channel:0:2"
