"""The page of many pictures: sorted, filtered, linked, quick with 100,000 rows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import opened

import bitrate_ext

pytestmark = pytest.mark.medium


def rows(count: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [
        {
            "image": f"kodim{i}.png",
            "bits": 1000 + chance.random(),
            "bpp": None if i == 3 else chance.random(),
            "width": chance.randrange(9999),
            "page": f"x.pages/kodim{i}.html",
        }
        for i in range(count)
    ]


def first_column(page: Any) -> list[str]:
    return page.page.locator(".many tbody th").all_text_contents()


def test_sort_filter_and_links(browser: Any, tmp_path: Path) -> None:
    table = rows(30)
    bitrate_ext.write_folder_page(table, tmp_path / "all.html", title="<b>all")
    with opened(browser, tmp_path / "all.html") as page:
        page.usable()
        assert page.page.locator("h1").text_content() == "<b>all"
        assert first_column(page) == [row["image"] for row in table]
        page.page.get_by_role("button", name="bpp").click()
        known = [row for row in table if row["bpp"] is not None]
        down = [row["image"] for row in sorted(known, key=lambda row: -row["bpp"])]
        assert first_column(page) == [*down, "kodim3.png"]  # what is unknown comes last
        page.page.get_by_role("button", name="bpp").click()
        assert first_column(page) == [*down[::-1], "kodim3.png"]
        page.page.get_by_role("button", name="image").click()
        assert first_column(page) == [row["image"] for row in table]  # kodim2 before kodim10
        assert page.page.locator(".many td").nth(0).text_content() == f"{table[0]['bits']:,.2f}"
        assert page.page.locator(".many td").nth(1).text_content() == f"{table[0]['bpp']:,.4f}"
        page.page.locator("input[type=search]").fill("KODIM1 bpp > 0.5")
        left = [row["image"] for row in known if "kodim1" in row["image"] and row["bpp"] > 0.5]
        assert first_column(page) == left
        assert page.page.get_by_text(f"{len(left)} of 30 pictures").is_visible()
        assert page.page.locator(".many a").first.get_attribute("href") == f"./x.pages/{left[0][:-4]}.html"


def test_thumbnails_of_both_ends(browser: Any, tmp_path: Path) -> None:
    table = rows(30)
    asked: list[str] = []

    def picture(row: Any) -> torch.Tensor | None:
        asked.append(row["image"])
        return None if row["image"] == cheapest[1] else torch.rand(1, 3, 300, 500)

    order = sorted((row for row in table if row["bpp"] is not None), key=lambda row: row["bpp"])
    cheapest, costliest = ([row["image"] for row in part] for part in (order[:6], order[:-7:-1]))
    bitrate_ext.write_folder_page(table, tmp_path / "all.html", picture=picture)
    assert asked == [*cheapest, *costliest]
    bitrate_ext.write_folder_page(table, tmp_path / "bare.html")
    size = (tmp_path / "all.html").stat().st_size - (tmp_path / "bare.html").stat().st_size
    assert size < 12 * 40_000  # of noise, which packs worst
    with opened(browser, tmp_path / "all.html") as page:
        page.usable()
        assert page.page.locator(".strips h2").all_text_contents() == ["Fewest bpp", "Most bpp"]
        expected = [
            [f"{row['image']}{row['bpp']:.4f}" for row in part if row["image"] != cheapest[1]]
            for part in (order[:6], order[:-7:-1])
        ]
        strips = page.page.locator(".strips ul")
        assert [strips.nth(i).locator("li").all_text_contents() for i in range(2)] == expected
        page.page.wait_for_function("[...document.images].every((one) => one.naturalWidth === 240)")
        link = page.page.locator(".strips a").first.get_attribute("href")
        assert link == f"./x.pages/{cheapest[0][:-4]}.html"


def test_few_pictures_are_at_one_end_each(tmp_path: Path) -> None:
    asked: list[str] = []
    table = rows(3)
    bitrate_ext.write_folder_page(table, tmp_path / "all.html", picture=lambda row: asked.append(row["image"]))
    assert sorted(asked) == [row["image"] for row in table]


def test_links_lead_nowhere_else(browser: Any, tmp_path: Path) -> None:
    hostile = [
        "javascript:alert(1)",
        "//example.invalid/x",
        "https://example.invalid",
        "../../etc/passwd",
        "",
        "a?b#c.html",
    ]
    bitrate_ext.write_folder_page([{"image": one or "none", "page": one} for one in hostile], tmp_path / "all.html")
    with opened(browser, tmp_path / "all.html") as page:
        page.usable()
        links = page.page.evaluate("() => [...document.querySelectorAll('a')].map(one => one.href)")
        assert links == [f"{tmp_path.as_uri()}/{name}" for name in ("javascript%3Aalert(1)", "a%3Fb%23c.html")]


def test_many_rows_stay_quick(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_folder_page(rows(100_000), tmp_path / "all.html")
    with opened(browser, tmp_path / "all.html") as page:
        page.usable()
        assert page.page.locator(".many tbody tr").count() < 100
        page.page.evaluate("document.querySelector('.many-rows').scrollTop = 1e9")
        page.page.get_by_text("kodim99999.png").wait_for()
        slow = page.page.evaluate(
            "() => { const t = performance.now(); document.querySelectorAll('.many thead button')[2].click(); "
            "return performance.now() - t; }"
        )
        assert slow < 3000  # milliseconds; a tenth of it on a machine that does nothing else
        page.page.locator("input[type=search]").fill("kodim99999")
        page.page.get_by_text("1 of 100,000 pictures").wait_for()


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows must hold at least one picture"):
        bitrate_ext.write_folder_page([], tmp_path / "all.html")
