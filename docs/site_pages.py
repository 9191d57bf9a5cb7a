"""Pages of the site that are made when it is built: the gallery, which is run for it, the command line, cards.

They go into docs/gallery/ and docs/made/, which are not kept.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SCRIPTS = ROOT / "examples" / "gallery"
FIRST = ("first_map", "live_page")  # of the gallery
COPIES = {  # from the root of the repository: a page of docs/made/
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bitrate_ext/data/demo_codec.md": "demo-codec.md",
    "bitrate_ext/data/demo_estimator.md": "demo-estimator.md",
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the pages before any is read, and let links to what was copied lead to the copies."""
    app.connect("config-inited", lambda app, _: make_pages())
    app.connect("source-read", _relink)
    app.connect("autodoc-process-signature", _readable)
    return {"parallel_read_safe": True}


def _readable(*found: Any) -> tuple[str | None, str | None]:
    """Leave defaults out that are no expressions, such as functions: Sphinx reads signatures as Python."""
    signature, returned = found[-2:]
    return signature and re.sub(r"= ?<.*?>+(?=[,)])", "= ...", signature), returned


def make_pages() -> None:
    """Write docs/made/ and docs/gallery/ anew."""
    for folder in ("made", "gallery"):
        shutil.rmtree(DOCS / folder, ignore_errors=True)
        (DOCS / folder).mkdir()
    for source, page in COPIES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        (DOCS / "made" / page).write_text(_from_made(text, (ROOT / source).parent), encoding="utf-8")
    (DOCS / "made" / "command-line.md").write_text(command_line(), encoding="utf-8")
    gallery(DOCS / "gallery")


def _from_made(text: str, folder: Path) -> str:
    """Let the links of a page that was in that folder be right in docs/made/."""

    def moved(link: re.Match[str]) -> str:
        return f"]({os.path.relpath(folder / link[1], DOCS / 'made')}"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)", moved, text)


def _relink(app: Sphinx, page: str, source: list[str]) -> None:
    here = (DOCS / page).parent
    places = {ROOT / name: DOCS / "made" / copy for name, copy in COPIES.items()}
    for place, copy in {**places, SCRIPTS: DOCS / "gallery" / "index.md"}.items():
        link = rf"\]\({re.escape(os.path.relpath(place, here))}(?=[)#])"
        source[0] = re.sub(link, f"]({os.path.relpath(copy, here)}", source[0])


def command_line() -> str:
    """Return a page with what `bitrate-ext COMMAND --help` prints of each command."""
    from bitrate_ext.cli.arguments import make_parser

    os.environ["COLUMNS"] = "100"
    parser = make_parser()
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    parts = [f"## {name}\n\n```text\n{one.format_help()}```\n" for name, one in commands.choices.items()]
    return "\n".join(["# Command line\n", f"```text\n{parser.format_help()}```\n", *parts])


def gallery(folder: Path) -> None:
    """Run each script in the folder, and write a page of what it draws, and an index of them all."""
    cards, names, live = [], [], DOCS / "made" / "whole" / "live"
    for script in sorted(SCRIPTS.glob("*.py"), key=lambda one: (one.stem not in FIRST, one.stem)):
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
            runpy.run_path(str(script), run_name="__main__")
        code = script.read_text(encoding="utf-8")
        about = ast.get_docstring(ast.parse(code)) or ""
        title, _, text = about.partition("\n\n")
        code = code.partition('"""\n\n')[2]
        name, title = script.stem, title.rstrip(".")
        parts = [f"# {title}", text, f"![{title}]({name}.png)"]
        if (folder / f"{name}.html").exists():
            live.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / f"{name}.html", live)
            parts.append(f'<iframe class="live" src="../live/{name}.html" title="{title}"></iframe>')
            parts.append(f'<p><a href="../live/{name}.html">Open the page by itself</a></p>')
        parts += [f"```python\n{code}```"]
        parts += [f"It prints:\n\n```text\n{printed.getvalue()}```"] if printed.getvalue() else []
        parts += [f"`python examples/gallery/{script.name}` makes it in the current folder."]
        (folder / f"{name}.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
        cards.append(f'<a href="{name}.html"><img src="../_images/{name}.png" alt="">{title}</a>')
        names.append(name)
    toctree = "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```"
    lead = "Scripts of the bundled codec and the bundled photographs, run when this site was built."
    grid = '<div class="gallery">\n' + "\n".join(cards) + "\n</div>"
    (folder / "index.md").write_text(f"# Gallery\n\n{lead}\n\n{grid}\n\n{toctree}\n", encoding="utf-8")
