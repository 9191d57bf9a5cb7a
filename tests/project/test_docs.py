"""The blocks of code in README and docs/ run as they stand, in order, a page's in one set of names.

A block that cannot run here says why in a comment before it: ``<!-- not run: ... -->``.
"""

from __future__ import annotations

import builtins
import re
import runpy
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import check_site
import documents
import pytest
import torch
from documents import LANGUAGES, PAGES, Unit

import bitrate_ext
from bitrate_ext.cli.console import UsageError

pytest.importorskip("compressai")
BLOCKS = {page: documents.blocks(page) for page in PAGES}
UNITS = {page: [unit for block in found for unit in documents.units(block)] for page, found in BLOCKS.items()}
# Blocks of Python that cost seconds, by a part of their text: run in `make test-all`, as all commands are.
SLOW = re.compile(r"32768|jobs=|animation_frames|attribute\(|receptive-field|ssf2020|field_figure|compare\(|calibrate")
NOT_RUN = {  # why, and how many blocks
    "installs packages": 5,
    "needs an NVIDIA GPU": 1,
    "needs a cluster with SLURM": 1,
    "needs the program ffmpeg": 1,
    "these are the tests themselves": 2,
}
PYTHON = {page: [one for one in found if one.language == "python"] for page, found in UNITS.items()}
COMMANDS = {page: [one for one in found if one.language != "python"] for page, found in UNITS.items()}


@pytest.fixture(autouse=True)
def _zoo_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of the zoo have few channels and random weights."""
    from compressai.zoo import image, image_vbr, video
    from zoo import small_model, video_model

    def weights(url: str, **_: Any) -> dict[str, torch.Tensor]:
        urls = {**image.model_urls, **image_vbr.model_urls, **video.model_urls}
        name = next(name for name, known in urls.items() if url in str(known))
        return (video_model() if name == "ssf2020" else small_model(name)).state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", weights)


def run(units: Sequence[Unit], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run units of one page; each command has a folder of its own, blocks of Python share theirs, and their names."""
    free = documents.free_names([one.code for one in units if one.language == "python"])
    names = {"__name__": "page", **{name: make() for name, make in documents.NAMES.items() if name in free}}
    failures = []
    for number, one in enumerate(units):
        place = folder / ("python" if one.language == "python" else str(number))
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        began = time.process_time()
        try:
            documents.run(one, names)
        except Exception:
            failures.append(f"{one}\n{traceback.format_exc()}")
        print(f"{one}: {time.process_time() - began:.1f} s")
    assert not failures, "\n".join(failures)


@pytest.mark.medium
@pytest.mark.parametrize("page", [page for page in PAGES if any(not SLOW.search(one.code) for one in PYTHON[page])])
def test_quick_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run([one for one in PYTHON[page] if not SLOW.search(one.code)], tmp_path, monkeypatch)


@pytest.mark.parametrize("page", [page for page in PAGES if COMMANDS[page]])
def test_commands_are_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for one in COMMANDS[page]:
        documents.parse(one)


@pytest.mark.parametrize("page", [page for page in PAGES if PYTHON[page]])
def test_pages_import_what_they_use(page: str) -> None:
    free = documents.free_names([one.code for one in PYTHON[page]])
    assert free <= set(documents.NAMES) | set(dir(builtins))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if UNITS[page]])
def test_all_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(UNITS[page], tmp_path, monkeypatch)


def test_what_is_not_run_says_why() -> None:
    reasons = Counter(block.reason for found in BLOCKS.values() for block in found if block.reason)
    assert reasons == NOT_RUN
    assert {block.language for found in BLOCKS.values() for block in found} <= set(LANGUAGES)


def test_no_fence_is_overlooked() -> None:
    for page in PAGES:
        text = (documents.ROOT / page).read_text()
        assert 2 * len(BLOCKS[page]) == len(re.findall(r"^ *(```|~~~)", text, re.MULTILINE)), page
        assert text.count("<!-- not run") == sum(block.reason is not None for block in BLOCKS[page]), page


def test_a_block_that_is_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```python\nundefined\n```\n```sh\nbitrate-ext map photo.png --no-such-option\n```\n"
    python, command = (unit for block in documents.blocks("page", text) for unit in documents.units(block))
    with pytest.raises(AssertionError, match="page:1: undefined"):
        run([python], tmp_path, monkeypatch)
    with pytest.raises(UsageError, match="no-such-option"):
        documents.parse(command)
    assert documents.same_but_for_numbers("a 1.5 %\n b ...", "x\na  27 %\nb and more\n")
    assert not documents.same_but_for_numbers("a 1.5 %", "a 1.5 MB\n")


def test_every_public_name_is_in_the_reference_once() -> None:
    pages = "".join(page.read_text() for page in (documents.ROOT / "docs/api").glob("*.md"))
    named = Counter(re.findall(r"^\.\. auto\w+:: bitrate_ext\.(\w+)$", pages, re.MULTILINE))
    assert named == Counter(set(bitrate_ext.__all__) - {"models", "__version__"})


def test_the_readme_has_what_a_citation_has() -> None:
    cited = (documents.ROOT / "CITATION.cff").read_text()
    (entry,) = (block.text for block in BLOCKS["README.md"] if block.language == "bibtex")
    for key, field in {"title": "title", "version": "version", "license": "license", "  - name": "author"}.items():
        value = re.search(rf"^{key}: (.*)$", cited, re.MULTILINE)[1].strip('"')
        assert re.search(rf"^  {field} = \{{+{re.escape(value)}\}}+,?$", entry, re.MULTILINE), field


GALLERY = sorted((documents.ROOT / "examples/gallery").glob("*.py"))


@pytest.mark.slow  # `make docs` runs them, too
@pytest.mark.parametrize("script", GALLERY, ids=[script.stem for script in GALLERY])
def test_scripts_of_the_gallery_draw(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(script.read_text().splitlines()) <= 60
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / f"{script.stem}.png").stat().st_size > 10_000


def test_a_site_that_is_wrong_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<h1 id="here"></h1><a href="b.html#there"></a><a href="a.html#here"></a>')
    (tmp_path / "b.html").write_text(
        '<a href="c.html"></a><img src="https://example.org/x.png"><a href="https://x.y"></a>'
    )
    assert list(check_site.faults(tmp_path)) == [
        "a.html: leads to b.html#there, where there is no such heading",
        "b.html: leads to c.html, which is not there",
        "b.html: asks for https://example.org/x.png",
    ]
