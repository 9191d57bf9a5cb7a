"""A page as somebody uses it: two inputs, keys, links, colours, sizes of windows, damaged files, hostile names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import opened
from pages import flat_bits, random_bits

import bitrate_ext
from bitrate_ext.viz.colormap import COLOURS, DIFFERENCES, colour_map

pytestmark = pytest.mark.medium
MARKUP = (
    "<script>alert(1)</script>", "</script><script>alert(2)</script>", "<img src=x onerror=alert(3)>",
    "]]><svg onload=alert(4)>", '" onmouseover="alert(5)', "' autofocus onfocus='alert(6)", "javascript:alert(7)",
    "<!--<script>", "--><b>", "&lt;b&gt;&amp;", "https://example.invalid/x", "//example.invalid/y",
    "data:text/html,<script>alert(8)</script>", "{{data}}", "{{script}}", '=HYPERLINK("http://example.invalid")',
    "+1+1", "@SUM(A1)", "-2", "\x1b[31mred\x1b[0m", "\x07bell", "\u202etxt.exe", "\u2066left\u2069",
    "\u05e9\u05dc\u05d5\u05dd", "a\x00b", "line\u2028end", "tab\tin", "\\u003cscript", "${alert(9)}", "`alert(10)`",
    "url(//example.invalid/z)", "</title><script>alert(11)</script>", "</style><script>alert(12)</script>",
    "<base href=//example.invalid>", "<meta http-equiv=refresh content=0>", "<iframe srcdoc=x>", "\U0001f600",
    "constructor", "__proto__", "toString",
)  # fmt: skip
HOSTILE = [f"{part}{number}" if number else part for number in range(5) for part in MARKUP]


def pixel(page: Any, x: float, y: float) -> list[int]:
    """The colour that is drawn at a place of the stage, parts of its sides."""
    return page.page.evaluate(
        "([x, y]) => { const c = document.getElementById('stage'); "
        "const one = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true }); "
        "one.drawImage(c, -Math.floor(x * c.width), -Math.floor(y * c.height)); "
        "return [...one.getImageData(0, 0, 1, 1).data].slice(0, 3); }",
        [x, y],
    )


def test_two_inputs(browser: Any, tmp_path: Path) -> None:
    a, b = flat_bits(64.0, name="a"), flat_bits(32.0, name="b")
    bitrate_ext.write_page([a, b], tmp_path / "page.html")  # 1 and 0.5 bits per pixel, of a scale to 1
    bits, differences = (colour_map(name)(range(256), bytes=True)[:, :3].tolist() for name in (COLOURS, DIFFERENCES))
    view = "view=16,16,30&limit=1"
    expected = {
        "single": (bits[255], bits[255]),
        "slider": (bits[255], bits[128]),
        "side": (bits[255], bits[128]),
        "difference": (differences[192], differences[192]),
    }
    for mode, (left, right) in expected.items():
        with opened(browser, tmp_path / "page.html", f"#b=1&mode={mode}&base=none&{view}") as page:
            page.usable().page.wait_for_timeout(150)
            assert [pixel(page, 0.3, 0.5), pixel(page, 0.7, 0.5)] == [left, right], mode
    with opened(browser, tmp_path / "page.html", f"#b=1&mode=slider&base=none&{view}") as page:
        page.usable()
        page.page.get_by_label("Where the slider is").fill("0.2")
        page.page.wait_for_timeout(100)
        assert pixel(page, 0.3, 0.5) == bits[128]
        page.page.get_by_label("How A and B are shown").select_option("blink")
        seen = set()
        page.page.locator("#stage").focus()
        for _ in range(8):
            page.page.keyboard.press("b")
            page.page.wait_for_timeout(60)
            seen.add(tuple(pixel(page, 0.3, 0.5)))
        assert seen == {tuple(bits[255]), tuple(bits[128])}


def test_inputs_are_chosen_by_keys(browser: Any, tmp_path: Path) -> None:
    few, other = random_bits(1), random_bits(2, channel_bits={}, symbol_bits={})
    bitrate_ext.write_page([few, other, random_bits(3)], tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#layer=channel:0:1") as page:
        page.usable()
        assert "B does not hold this layer" in page.page.locator("#beyond").text_content()
        page.page.get_by_label("Layer", exact=True).select_option("held:0")
        page.page.get_by_label("Input B").focus()
        page.page.keyboard.press("ArrowUp")
        page.page.keyboard.press("ArrowUp")
        assert page.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Input B"
        assert page.page.get_by_label("Input B").input_value() == ""
        page.page.wait_for_timeout(500)
        link = page.page.evaluate("location.hash")
    with opened(browser, tmp_path / "page.html", link) as page:
        page.usable()
        assert page.page.get_by_label("Input B").input_value() == ""
        assert page.page.get_by_label("Layer", exact=True).input_value() == "held:0"


def test_layers_of_what_is_known_beside_the_bits(browser: Any, tmp_path: Path) -> None:
    cells = torch.ones(4, 4, dtype=torch.float64)
    bits = flat_bits(64.0, beside={"expected": {"y": 32 * cells}, "estimated": {"y": 80 * cells}})
    bitrate_ext.write_page(bits, tmp_path / "page.html")
    for layer, name, place in (("beside:expected", COLOURS, 128), ("gap", DIFFERENCES, 96)):
        with opened(browser, tmp_path / "page.html", f"#base=none&view=16,16,30&limit=1&layer={layer}") as page:
            page.usable().page.wait_for_timeout(100)
            assert pixel(page, 0.5, 0.5) == colour_map(name)([place], bytes=True)[0, :3].tolist()


def test_regions_of_a_mask_are_outlined(browser: Any, tmp_path: Path) -> None:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8:24, 8:24] = True
    mask[12:20, 12:20] = False
    bitrate_ext.write_page(flat_bits(64.0), tmp_path / "page.html", regions=mask, names="ring")
    with opened(browser, tmp_path / "page.html", "#base=none&view=16,16,20") as page:
        page.usable().page.wait_for_timeout(100)
        width, height = (page.page.evaluate(f"document.getElementById('stage').{side}") for side in ("width", "height"))
        edge = [68, 221, 255]
        for offset in (-160, -80, 80, 160):
            assert pixel(page, (width / 2 + offset) / width, (height / 2 + 30) / height) == edge
            assert pixel(page, (width / 2 + 30) / width, (height / 2 + offset) / height) == edge
        assert pixel(page, 0.5, 0.5) != edge


def test_scale(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page(flat_bits(64.0), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#base=none&limit=0.9") as page:
        page.usable()
        assert page.page.locator("#beyond").text_content() == "Beyond the scale: 100.00 % of the pixels."
        page.page.get_by_role("slider", name="End of the scale").focus()
        for _ in range(3):
            page.page.keyboard.press("ArrowRight")
        page.page.get_by_text("Beyond the scale: 0.00 % of the pixels.").wait_for()
        page.page.get_by_label("logarithmic").check()
        page.page.get_by_text("or less").wait_for()
        bits = colour_map(COLOURS)(range(256), bytes=True)[:, :3].tolist()
        page.page.wait_for_timeout(100)
        assert pixel(page, 0.5, 0.5) == bits[int(256 + 256 / 3 * torch.log10(torch.tensor(1 / (0.9 * 1.05**3))).item())]


def test_keys_alone(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page([random_bits(1), random_bits(2)], tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.usable()
        keys = page.page.keyboard
        for _ in range(60):
            keys.press("Tab")
            if page.page.evaluate("document.activeElement.id") == "stage":
                break
        keys.press("Enter")
        place = page.page.locator("#probe .place")
        assert place.text_content().startswith("x 30, y 22;")
        keys.press("ArrowRight")
        keys.press("ArrowDown")
        assert place.text_content().startswith("x 38, y 30;")
        for _ in range(20):
            keys.press("ArrowLeft")
        assert place.text_content().startswith("x 0, y 30;")
        for key in ("+", "+", "Shift+ArrowLeft", "-", "1", "0", "b", "Escape"):
            keys.press(key)
        reached = set()
        for _ in range(60):
            keys.press("Tab")
            reached.add(
                page.page.evaluate(
                    "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
                )
            )
        assert {
            "End of the scale; arrows move it, Home resets it",
            "Draw a box",
            "A box in pixels: x, y, width, height",
            "Layer",
            "Input B",
        } <= reached


def test_the_wheel_zooms_to_single_pixels_around_the_pointer(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page(random_bits(1), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#view=30,20,8&base=none") as page:
        page.usable()
        page.page.mouse.move(*page.at(10.5, 12.5, (30, 20, 8)))
        for _ in range(20):
            page.page.mouse.wheel(0, -240)
        page.page.wait_for_timeout(100)
        assert page.page.locator("#probe .place").text_content().startswith("x 10, y 12;")
        page.page.mouse.down()
        page.page.mouse.up()
        assert page.page.locator("#probe .place").text_content().startswith("x 10, y 12;")
        page.page.wait_for_timeout(400)
        assert page.page.evaluate("location.hash").endswith("%2C128")  # pixels of the screen each


def test_touch_pinches(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page(random_bits(1), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#view=30,20,8", has_touch=True) as page:
        page.usable()
        (left, top), client = page.at(30, 20, (30, 20, 8)), page.page.context.new_cdp_session(page.page)
        for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 80), ("touchEnd", 0)):
            points = [{"x": left - apart, "y": top, "id": 0}, {"x": left + apart, "y": top, "id": 1}] if apart else []
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.page.wait_for_timeout(400)
        scale = float(page.page.evaluate("new URLSearchParams(location.hash.slice(1)).get('view')").split(",")[2])
        assert scale == pytest.approx(16, rel=0.05)


def test_a_link_carries_what_is_looked_at(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page([random_bits(1), random_bits(2)], tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.usable()
        page.page.get_by_label("Layer", exact=True).select_option("latent:1")
        page.page.get_by_label("Opacity of the layer").fill("0.35")
        page.page.get_by_label("How A and B are shown").select_option("side")
        page.page.get_by_label("cells").check()
        page.page.fill("#regions input[type=text][placeholder]", "1 2 30 20")
        page.page.keyboard.press("Enter")
        page.page.get_by_label("Label of the region").fill("<b>&=#%+ sky")
        page.page.keyboard.press("Tab")
        page.page.wait_for_timeout(500)
        link = page.page.evaluate("location.hash")
        rows = page.rows("#regions tbody")
    with opened(browser, tmp_path / "page.html", link) as page:
        page.usable().page.wait_for_selector("#regions table")
        assert page.page.get_by_label("Layer", exact=True).input_value() == "latent:1"
        assert page.page.get_by_label("How A and B are shown").input_value() == "side"
        assert page.page.get_by_label("Opacity of the layer").input_value() == "0.35"
        assert page.page.get_by_label("Label of the region").input_value() == "<b>&=#%+ sky"
        assert page.rows("#regions tbody") == rows


@pytest.mark.parametrize(
    "fragment", ["#a=9&b=-1&layer=x&view=1&region=box&pin=z", "#region=%ff&mode=%00", "#limit=0&split=7"]
)
def test_links_that_make_no_sense(browser: Any, tmp_path: Path, fragment: str) -> None:
    bitrate_ext.write_page([random_bits(1), random_bits(2)], tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", fragment) as page:
        page.usable()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "size",
    [(1300, 900), (390, 800), *(pytest.param(one, marks=pytest.mark.slow) for one in ((650, 450), (2600, 1800)))],
)
def test_colours_and_sizes(browser: Any, tmp_path: Path, scheme: str, size: tuple[int, int]) -> None:
    bitrate_ext.write_page([random_bits(1), random_bits(2)], tmp_path / "page.html")
    options = {"color_scheme": scheme, "viewport": {"width": size[0], "height": size[1]}}
    with opened(browser, tmp_path / "page.html", "#region=box%20r%201%201%209%209", **options) as page:
        page.usable()
        paper = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme]
        assert page.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.page.locator("#stage").bounding_box()["height"] >= 200


def test_hostile_names(browser: Any, tmp_path: Path) -> None:
    assert len(set(HOSTILE)) == 200
    base = random_bits(1)
    parts = [HOSTILE[start::8] for start in range(8)]
    grids = dict.fromkeys(parts[0], base.grids["z"])
    bits = replace(
        base,
        name=parts[1][0],
        grids=grids,
        elsewhere=dict.fromkeys(parts[2], 1.0),
        warnings=tuple(parts[3] + parts[1]),
        channel_bits={},
        symbol_bits={},
        beside={what: dict.fromkeys(parts[0], base.grids["z"].bits) for what in ("expected", parts[1][1])},
    )
    mask = torch.zeros(base.size, dtype=torch.int64)
    mask[0, :50] = torch.arange(50)
    labels = dict(enumerate([*parts[4], *parts[5][:24]], 1))
    facts = dict(zip(parts[6], parts[7], strict=True)) | {"more": parts[5][24]}
    bitrate_ext.write_page(
        [bits, bits], tmp_path / "page.html", title=HOSTILE[1], regions=mask, names=labels, facts=facts
    )
    with opened(browser, tmp_path / "page.html") as page:
        page.usable().page.wait_for_selector("#regions table")
        page.page.get_by_text("How it came to be").click()
        told = page.page.evaluate(
            "() => [document.title, ...[...document.querySelectorAll('bdi, option')].map(one => one.textContent), "
            "...[...document.querySelectorAll('#regions input')].map(one => one.value)]"
        )
        whole = "\n".join(told)
        missing = [one for one in HOSTILE if one not in whole and one.replace("\u0000", "\ufffd") not in whole]
        assert missing == []
        assert (
            page.page.evaluate("document.querySelectorAll('#page script, img, iframe, base, #page style').length") == 0
        )
        for name in ("CSV", "LaTeX", "JSON"):
            page.page.get_by_role("button", name=name, exact=True).click()
        page.page.get_by_role("button", name="CSV", exact=True).click()
        lines = page.page.locator("#regions textarea").input_value()
        assert not any(line.startswith(('"=', '"+', '"@', '"-')) for line in lines.split("\r\n"))
        page.page.mouse.move(*page.at(0, 0, (0, 0, 1)))


@pytest.mark.parametrize("kind", ["folder", "video"])
def test_hostile_names_of_many(browser: Any, tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        rows = [
            {"image": one, "bpp": i, "page": f"{one}.html", **({one: "text"} if i % 9 == 0 else {})}
            for i, one in enumerate(HOSTILE)
        ]
        options: dict[str, Any] = {"title": HOSTILE[5], "picture": lambda _: torch.rand(1, 3, 4, 4), "by": "bpp"}
        bitrate_ext.write_folder_page(rows, tmp_path / "page.html", **options)
        seen = [*HOSTILE[:20], *HOSTILE[-6:], *HOSTILE[::9]]
    else:
        seen = HOSTILE[:40]
        frames = [flat_bits(9.0, name=one, warnings=(one,)) for one in seen]
        bitrate_ext.write_video_page(frames, tmp_path / "page.html", title=HOSTILE[5], kinds=seen)
    with opened(browser, tmp_path / "page.html") as page:
        page.usable()
        whole = page.page.locator("body").text_content() if kind == "folder" else ""
        for number in range(len(seen) if kind == "video" else 0):
            page.page.get_by_label("Frame", exact=True).fill(str(number))
            page.page.get_by_role("heading", name=f"frame {number}", exact=True).wait_for()
            whole += page.page.locator(".frames").text_content() + page.page.locator(".warnings").text_content()
        assert [one for one in seen if one not in whole and one.replace("\u0000", "\ufffd") not in whole] == []
        assert page.page.evaluate("document.querySelectorAll('#page script, iframe, base, #page style').length") == 0


@pytest.mark.parametrize("kept", [0.3, pytest.param(0.6, marks=pytest.mark.slow), 0.9, 0.9999])
def test_a_file_that_is_cut_short_says_so(browser: Any, tmp_path: Path, kept: float) -> None:
    bitrate_ext.write_page(random_bits(1), tmp_path / "page.html")
    content = (tmp_path / "page.html").read_bytes()
    (tmp_path / "page.html").write_bytes(content[: int(kept * len(content)) - 20])
    with opened(browser, tmp_path / "page.html") as page:
        page.page.wait_for_timeout(200)
        assert "cut short" in page.page.locator("#status").text_content()


def test_a_damaged_part_is_told_of_when_it_is_asked_for(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page(random_bits(1), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    place = json.loads(text.split('id="data">')[1].split("</script>")[0])["inputs"][0]["reconstruction"]
    before, after = text.split(f'id="blob-{place}">')
    (tmp_path / "page.html").write_text(f'{before}id="blob-{place}">{after[:40]}{"A" * 400}{after[440:]}')
    with opened(browser, tmp_path / "page.html", "#view=30,20,8") as page:
        page.usable()
        page.page.mouse.move(*page.at(10, 10, (30, 20, 8)))
        page.page.get_by_text("The file may be damaged; write it anew.").wait_for()
        assert page.page.locator("#stage").is_visible()


def test_browsers_that_lack_something_are_told(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page(random_bits(1), tmp_path / "page.html")
    lacking = {
        "delete window.DecompressionStream": "DecompressionStream",
        "HTMLCanvasElement.prototype.getContext = () => null": "canvas",
    }
    for init, word in lacking.items():
        with opened(browser, tmp_path / "page.html", init=init) as page:
            page.page.wait_for_timeout(200)
            assert word in page.page.locator("#status").text_content()


def test_saved_files(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_page(random_bits(1), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", accept_downloads=True) as page:
        page.usable()
        for button, start in (("the view, PNG", b"\x89PNG"), ("the numbers, JSON", b"{")):
            with page.page.expect_download() as download:
                page.page.get_by_role("button", name=button).click()
            assert Path(download.value.path()).read_bytes().startswith(start)
        page.page.get_by_text("Charts").click()
        with page.page.expect_download() as download:
            page.page.get_by_role("button", name="SVG").first.click()
        assert b'xmlns="http://www.w3.org/2000/svg"' in Path(download.value.path()).read_bytes()
