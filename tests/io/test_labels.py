"""Masks and label images: what of a file is a label, what is a mask, and what is neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pngs import png

from bitrate_ext.io.images import ImageError
from bitrate_ext.io.labels import load_labels

Image = pytest.importorskip("PIL.Image")
LABELS = np.array([[0, 1, 2], [7, 7, 0]], dtype=np.uint8)
INSIDE = np.array([[0, 255, 255], [0, 255, 0]], dtype=np.uint8)


def palette(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9] * 8)
    return image


@pytest.mark.parametrize("kind", ["grey", "palette", "palette of few", "sixteen", "colour that is grey", "tiff", "bmp"])
def test_labels(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.tiff" if kind == "tiff" else "a.bmp" if kind == "bmp" else "a.png")
    expected = LABELS.astype(np.int64) * (1000 if kind == "sixteen" else 1)
    image = Image.fromarray(LABELS)
    if kind.startswith("palette"):
        image = palette(LABELS)
    elif kind == "sixteen":
        image = Image.fromarray(LABELS.astype(np.uint16) * 1000)
    elif kind == "colour that is grey":
        image = image.convert("RGB")
    image.save(path, **({"bits": 4} if kind == "palette of few" else {}))
    found = load_labels(path)
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("depth", [2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path: Path, depth: int) -> None:
    rows = b"\0\x1b" if depth == 2 else b"\0\x01\x23"
    (tmp_path / "a.png").write_bytes(png(4, 1, rows, depth=depth, colour_type=0))
    assert load_labels(tmp_path / "a.png").tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "I;16", "pbm"])
def test_masks(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.pgm" if mode == "pbm" else "a.png")
    image = Image.fromarray(INSIDE)
    if mode == "1":
        image = image.convert("1")
    elif mode in ("LA", "RGBA"):
        image = Image.new(mode, (3, 2))
        image.putalpha(Image.fromarray(INSIDE // 255 * 128))  # half opaque is inside
    elif mode == "I;16":
        image = Image.fromarray(INSIDE.astype(np.uint16) * 257)
    image.save(path)
    found = load_labels(path)
    assert found.dtype == np.bool_
    assert np.array_equal(found, INSIDE > 0)


def test_a_turn_that_exif_states_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(LABELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_labels(tmp_path / "a.png"), np.rot90(LABELS, -1))


def test_what_is_no_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    colours.save(tmp_path / "colours.png")
    colours.convert("RGBA").save(tmp_path / "opaque.png")
    Image.fromarray(LABELS).save(tmp_path / "labels.jpg")
    (tmp_path / "text.png").write_text("text")
    for name, reason in {
        "colours.png": "colours are no labels; save labels in grey or with a palette",
        "opaque.png": "is opaque everywhere and so no mask; save labels",
        "labels.jpg": "JPEG does not keep labels; save them as PNG",
        "text.png": "not a PNG",
        "absent.png": "no such file",
    }.items():
        with pytest.raises(ImageError, match=f"{name}: {reason}"):
            load_labels(tmp_path / name)
