"""Check a built site: each link and picture leads to something, and nothing is asked of elsewhere.

python tools/check_site.py docs/_site
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src"}  # what a browser fetches
POINTING = ("canonical", "index", "search", "next", "prev")  # relations that nothing is fetched for


class Page(HTMLParser):
    """What a page holds: its anchors, where it leads, and what it has a browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attributes if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if (
            tag == "link"
            and "href" in given
            and given.get("rel") not in ("canonical", "index", "search", "next", "prev")
        ):
            self.loaded.append(given["href"])
        if tag in LOADED and LOADED[tag] in given:
            self.loaded.append(given[LOADED[tag]])


def faults(site: Path) -> Iterator[str]:
    """Each fault of a site's pages, in one line."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts, name = urlsplit(link), path.relative_to(site)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.scheme or parts.netloc:
                if link in page.loaded:
                    yield f"{name}: asks for {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{name}: leads to {link}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name}: leads to {link}, where there is no such heading"


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    found = list(faults(site))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
