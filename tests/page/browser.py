"""A page in headless Chromium: what went wrong in it, what it asked for, and its texts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def launch() -> Iterator[Any]:
    """Yield a browser; skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page that was opened, and everything that it did which it should not."""

    def __init__(self, context: Any, path: Path, fragment: str, init: str) -> None:
        self.page = context.new_page()
        self.faults: list[str] = []
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.faults.append(f"error {error}"))
        self.page.on("console", lambda message: self.faults.append(f"console {message.text}"))
        self.page.on("request", lambda request: self._asked(request.url, path))
        if init:
            self.page.add_init_script(init)
        self.page.goto(path.as_uri() + fragment)

    def _asked(self, url: str, path: Path) -> None:
        if not url.startswith((path.as_uri(), "blob:")):
            self.faults.append(f"request {url}")

    def usable(self) -> Opened:
        self.page.wait_for_selector("html[data-usable]")
        return self

    def at(self, x: float, y: float, view: tuple[float, float, float]) -> tuple[float, float]:
        """Where a point of the picture is in the window, for a view (middle's x and y, scale) of one pane."""
        box = self.page.locator("#stage").bounding_box()
        return box["x"] + box["width"] / 2 + (x - view[0]) * view[2], box["y"] + box["height"] / 2 + (
            y - view[1]
        ) * view[2]

    def table(self, selector: str) -> list[list[str]]:
        """Texts of the rows of tables."""
        found: list[list[str]] = self.page.evaluate(
            "selector => [...document.querySelectorAll(`${selector} tr`)].map("
            "row => [...row.children].map(one => one.textContent))",
            selector,
        )
        return found

    def rows(self, selector: str) -> dict[str, list[str]]:
        """Rows of tables by their first cell."""
        return {row[0]: row[1:] for row in self.table(selector)}


@contextmanager
def opened(browser: Any, path: Path, fragment: str = "", *, init: str = "", **options: Any) -> Iterator[Opened]:
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **options})
    made = Opened(context, path, fragment, init)
    try:
        yield made
        assert made.faults == []
    finally:
        context.close()


def shown(value: float, digits: int) -> str:
    """A number as the page shows it."""
    return "not a number" if math.isnan(value) else format(value, f",.{digits}f")


def signed(value: float, digits: int) -> str:
    return ("+" if value >= 0 else "") + shown(value, digits)
