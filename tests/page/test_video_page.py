"""The page of a video: bits over time, and the map of the frame that is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import opened, shown
from pages import flat_bits, random_bits

import bitrate_ext
from bitrate_ext.page.document import page_psnr

pytestmark = pytest.mark.medium
FRAMES = [random_bits(seed) for seed in range(12)]
TOTALS = [frame.total_bits for frame in FRAMES]


def test_frames_are_chosen(browser: Any, tmp_path: Path) -> None:
    kinds = ["key", *["inter"] * 5] * 2
    bitrate_ext.write_video_page(iter(FRAMES), tmp_path / "video.html", rate=4, kinds=kinds, title="<i>clip")
    with opened(browser, tmp_path / "video.html", "#frame=2") as page:
        page.usable()
        words = page.page.locator(".frames [role=status]")
        assert words.text_content() == f"Frame 2 of 12, 0.500 s, inter: {shown(TOTALS[2], 2)} bits"
        note = page.page.locator("header .note").first.text_content()
        mean, peak = sum(TOTALS) / 12, TOTALS.index(max(TOTALS))
        assert note == (
            f"Mean {shown(mean, 2)} bits a frame, {shown(mean * 4 / 1000, 2)} kbit/s; "
            f"peak factor {shown(TOTALS[peak] / mean, 2)}, frame {peak}."
        )
        page.page.get_by_label("Layer", exact=True).select_option("latent:1")
        page.page.get_by_role("button", name="The next frame").click()
        page.page.get_by_text(f"Frame 3 of 12, 0.750 s, inter: {shown(TOTALS[3], 2)} bits").wait_for()
        head = page.page.locator("#inputs tbody td")
        head.nth(1).filter(has_text=shown(TOTALS[3], 2)).wait_for()
        assert page.page.get_by_label("Layer", exact=True).input_value() == "latent:1"
        page.page.locator("header figure svg").first.click()  # its middle: frame 5
        head.nth(1).filter(has_text=shown(TOTALS[5], 2)).wait_for()
        page.page.get_by_label("Frame", exact=True).focus()
        page.page.keyboard.press("End")
        head.nth(1).filter(has_text=shown(TOTALS[11], 2)).wait_for()
        page.page.wait_for_timeout(400)
        assert "frame=11" in page.page.evaluate("location.hash")
        assert page.page.locator("header figcaption").all_text_contents() == [
            "Bits of each frame SVG",
            "PSNR of each frame SVG",
        ]


def test_pictures_with_losses(browser: Any, tmp_path: Path) -> None:
    bitrate_ext.write_video_page(FRAMES[:2], tmp_path / "exact.html")
    bitrate_ext.write_video_page(FRAMES[:2], tmp_path / "small.html", quality=50)
    assert (tmp_path / "small.html").stat().st_size < (tmp_path / "exact.html").stat().st_size - 30_000
    with opened(browser, tmp_path / "small.html", "#frame=1") as page:
        page.usable()
        assert "photograph, a copy with losses, R G B" in page.page.locator("#probe").text_content()
        assert page.page.locator("#inputs tbody td").nth(3).text_content() == shown(page_psnr(FRAMES[1]) or 0.0, 2)
        assert "squared error" not in page.page.get_by_label("Layer", exact=True).text_content()


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "frames must be at least one"),
        ([random_bits(1), flat_bits(1.0)], {}, "frames must be of one size, 62 x 45 pixels; frame 1 has 32 x 32"),
        ([flat_bits(1.0)], {"rate": 0}, "rate must be frames a second"),
        ([flat_bits(1.0)], {"kinds": ["key", "key"]}, "kinds must be one for each of 1 frames, got 2"),
    ],
)
def test_what_is_no_video(tmp_path: Path, frames: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bitrate_ext.write_video_page(frames, tmp_path / "video.html", **options)
    assert not list(tmp_path.iterdir())
