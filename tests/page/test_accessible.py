"""Pages read by axe-core: no serious findings, in light and in dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from browser import opened
from pages import random_bits

import bitrate_ext

pytestmark = pytest.mark.slow
RULES = {"resultTypes": ["violations"]}


def write(kind: str, path: Path) -> None:
    two = [random_bits(seed, name=f"codec {seed}", file_bytes=1000, warnings=("a line",)) for seed in (1, 2)]
    if kind == "one":
        bitrate_ext.write_page(two[0], path, facts={"command": "bitrate-ext report"})
    elif kind == "two":
        bitrate_ext.write_page(two, path, regions=[(3, 3, 20, 20), (9, 9, 30, 20)], names=["sky", "sea"])
    elif kind == "video":
        bitrate_ext.write_video_page(two * 3, path, kinds=["key", "inter"] * 3)
    else:
        table = [{"image": f"{i}.png", "bpp": i / 7, "kind": "a", "page": f"x.pages/{i}.html"} for i in range(60)]
        bitrate_ext.write_folder_page(table, path, picture=lambda _: torch.rand(1, 3, 90, 120))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["one", "two", "folder", "video"])
def test_nothing_serious(browser: Any, tmp_path: Path, kind: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    write(kind, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#pin=20,20", color_scheme=scheme) as page:
        page.usable()
        for one in page.page.locator("summary").all():
            if one.evaluate("one => !one.parentElement.open"):
                one.click()
        page.page.wait_for_timeout(300)
        found = axe.Axe().run(page.page, options=RULES).response["violations"]
    serious = [
        (one["id"], one["impact"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
