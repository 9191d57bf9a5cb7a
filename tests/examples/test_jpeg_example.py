"""The JPEG example: exact to the bit on files of every kind that it reads; others refused for the true reason."""

from __future__ import annotations

import importlib.util
import itertools
import re
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_files import END, SCAN, by_pillow, draw, pixels, segment

from bitrate_ext import PictureBits

Image = pytest.importorskip("PIL.Image")
ImageCms = pytest.importorskip("PIL.ImageCms")

SIZES = ((1, 1), (7, 9), (8, 8), (16, 16), (17, 33), (40, 1), (3, 100), (101, 67))  # height, width
TABLES, STUFFING, PADDING = "markers, tables, metadata", "stuffing", "padding of last bytes"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("jpeg_example", Path(__file__).parents[2] / "examples/jpeg.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


JPEG = load()


def check(data: bytes) -> PictureBits:
    """Everything adds up: the cells and the rest to the file, the map and the padding to the cells."""
    bits = JPEG.read_jpeg(data)
    assert bits.closes is True
    assert bits.total_bits == 8 * len(data)
    assert bits.file_bytes == len(data)
    assert float(bits.map().sum()) + bits.padding_bits == pytest.approx(sum(bits.latent_bits.values()), rel=1e-12)
    return bits


def test_it_is_short() -> None:
    assert len(Path(JPEG.__file__).read_text().splitlines()) <= 120


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("optimize", [False, True])
def test_colour_by_pillow(subsampling: str, optimize: bool) -> None:
    across, down = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}[subsampling]
    for (height, width), quality in itertools.product(SIZES, (5, 60, 100)):
        bits = check(by_pillow(height, width, subsampling=subsampling, optimize=optimize, quality=quality))
        assert bits.size == (height, width)
        assert bits.canvas == (-(-height // (8 * down)) * 8 * down, -(-width // (8 * across)) * 8 * across)
        shapes = {name: tuple(grid.bits.shape) for name, grid in bits.grids.items()}
        rows, columns = bits.canvas[0] // 8, bits.canvas[1] // 8
        assert shapes == {"Y": (rows, columns), **dict.fromkeys(("Cb", "Cr"), (rows // down, columns // across))}
        assert all(float(grid.bits.min()) >= 2 for grid in bits.grids.values())  # a difference and an end of block


@pytest.mark.parametrize("size", SIZES)
def test_grey_by_pillow(size: tuple[int, int]) -> None:
    bits = check(by_pillow(*size, mode="L", optimize=True))
    assert list(bits.grids) == ["Y"]
    assert bits.canvas == tuple(8 * -(-side // 8) for side in size)


@pytest.mark.parametrize(
    "options", [{"restart_marker_blocks": blocks} for blocks in (1, 2, 7, 1000)] + [{"restart_marker_rows": 1}], ids=str
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_restarts_by_pillow(options: dict[str, int], mode: str) -> None:
    data = by_pillow(101, 67, mode=mode, **options)  # type: ignore[arg-type]
    bits, plain = check(data), check(by_pillow(101, 67, mode=mode))
    restarts = sum(data.count(bytes([0xFF, marker])) for marker in range(0xD0, 0xD8))
    assert (restarts == 0) == (options == {"restart_marker_blocks": 1000})
    assert bits.elsewhere[TABLES] == plain.elsewhere[TABLES] + 16 * restarts + 8 * 6  # and the interval's own segment
    for name, grid in bits.grids.items():  # after a restart differences alone are others: those of DC
        same = (grid.bits == plain.grids[name].bits).float().mean()
        assert float(same) == 1 or restarts


def test_metadata_by_pillow() -> None:
    exif = Image.Exif()
    exif[0x010E] = "text \xff".encode("latin1").decode("latin1")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = check(by_pillow())
    comment = {"comment": b"\xff\xda\xff\xd9" * 9}
    for options in (comment, {"exif": exif}, {"icc_profile": profile * 200}, {"dpi": (3, 4)}):
        data = by_pillow(**options)  # type: ignore[arg-type]
        bits = check(data)
        more = 8 * (len(data) - plain.file_bytes)  # type: ignore[operator]
        assert bits.elsewhere[TABLES] == plain.elsewhere[TABLES] + more
        assert all(torch.equal(bits.grids[name].bits, plain.grids[name].bits) for name in plain.grids)


def test_components_that_are_red_green_and_blue() -> None:
    assert list(check(by_pillow(keep_rgb=True)).grids) == ["R", "G", "B"]
    adobe = segment(0xEE, *b"Adobe", 0, 100, 0, 0, 0, 0, 0)
    data = by_pillow()
    assert list(check(data[:2] + adobe + data[2:]).grids) == ["R", "G", "B"]
    assert list(check(data[:2] + adobe[:-1] + b"\1" + data[2:]).grids) == ["Y", "Cb", "Cr"]


SAMPLINGS = {
    "grey": [(1, 1)],
    "grey of 4:2:0": [(2, 2)],
    "4:4:4": [(1, 1)] * 3,
    "4:2:2": [(1, 2), (1, 1), (1, 1)],
    "4:4:0": [(2, 1), (1, 1), (1, 1)],
    "4:2:0": [(2, 2), (1, 1), (1, 1)],
    "4:1:1": [(1, 4), (1, 1), (1, 1)],
    "4:1:0": [(2, 4), (1, 1), (1, 1)],
    "odd": [(2, 1), (1, 2), (1, 1)],
    "coarse luma": [(1, 1), (2, 2), (2, 2)],
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("interval", [0, 1, 3])
def test_every_block_of_drawn_files(sampling: str, apart: bool, interval: int) -> None:
    for size in ((1, 1), (8, 8), (9, 33), (35, 50)):
        drawn = draw(size, SAMPLINGS[sampling], apart=apart, interval=interval, seed=size[1])
        bits = check(drawn.data)
        for grid, expected in zip(bits.grids.values(), drawn.bits, strict=True):
            assert grid.bits.tolist() == expected.tolist()
        assert (bits.elsewhere[STUFFING], bits.elsewhere[PADDING]) == (drawn.stuffing, drawn.padding)


def test_fill_bytes_and_what_follows_the_end() -> None:
    drawn = draw((20, 20), SAMPLINGS["4:2:0"], interval=1)
    plain = check(drawn.data)
    filled = drawn.head.replace(b"\xff\xc0", b"\xff\xff\xff\xc0") + drawn.scans[0] + b"\xff\xff"
    bits = check(filled.replace(b"\xff\xd0", b"\xff\xff\xd0") + END + b"later")
    assert bits.elsewhere["after the end"] == 40
    restarts = drawn.scans[0].count(b"\xff\xd0")
    assert restarts
    assert bits.elsewhere[TABLES] == plain.elsewhere[TABLES] + 8 * (4 + restarts)
    assert bits.latent_bits == plain.latent_bits


def with_frame(data: bytes, marker: int, precision: int = 8) -> bytes:
    at = data.index(b"\xff\xc0")
    return data[:at] + bytes([0xFF, marker]) + data[at + 2 : at + 4] + bytes([precision]) + data[at + 5 :]


def with_size(data: bytes, height: int, width: int) -> bytes:
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 9 :]


def png() -> bytes:
    file = BytesIO()
    Image.new("L", (3, 3)).save(file, "PNG")
    return file.getvalue()


DRAWN = draw((20, 20), SAMPLINGS["4:2:0"], apart=True)
ONE = draw((20, 20), SAMPLINGS["grey"], interval=2)
REFUSED = {
    "nothing": (b"", "no JPEG file: it begins with nothing"),
    "PNG": (png(), "no JPEG file: it begins with 89 50"),
    "progressive": (by_pillow(progressive=True), "progressive JPEG of 8 bits"),
    "12 bits": (with_frame(by_pillow(), 0xC1, 12), "extended JPEG of 12 bits"),
    "12 bits in a baseline frame": (with_frame(by_pillow(), 0xC0, 12), "JPEG of 12 bits"),
    "lossless": (with_frame(by_pillow(), 0xC3, 16), "lossless JPEG of 16 bits"),
    "JPEG-LS": (with_frame(by_pillow(), 0xF7), "lossless JPEG"),
    "hierarchical": (with_frame(by_pillow(), 0xDE), "hierarchical JPEG"),
    "arithmetic": (with_frame(by_pillow(), 0xC9), "arithmetic JPEG"),
    "progressive arithmetic": (with_frame(by_pillow(), 0xCA), "arithmetic JPEG"),
    "CMYK": (by_pillow(mode="CMYK"), r"JPEG of 4 components \(CMYK has 4\)"),
    "two components": (draw((8, 8), [(1, 1)] * 2).data, "JPEG of 2 components"),
    "late height": (with_size(by_pillow(), 0, 56), r"56 x 0 pixels: a later height \(DNL\)"),
    "a size of more than there is": (with_size(by_pillow(), 65535, 65535), "cut short: its blocks need more bytes"),
    "no end": (by_pillow()[:-2], "cut short: a scan has no end"),
    "half": (by_pillow()[:900], "cut short"),
    "ends within a segment": (by_pillow()[:100], "cut short: a segment goes on to byte"),
    "no scan": (DRAWN.head + END, "damaged"),
    "no frame": (b"\xff\xd8" + END, "damaged"),
    "a scan too few": (DRAWN.head + DRAWN.scans[0] + DRAWN.scans[1] + END, "damaged"),
    "a scan twice": (DRAWN.head + b"".join(DRAWN.scans) + DRAWN.scans[0] + END, "damaged"),
    "a scan of nothing": (DRAWN.head + b"".join(DRAWN.scans) + segment(0xDA, 0, 0, 63, 0) + END, "damaged"),
    "two frames": (DRAWN.head + DRAWN.head[2:] + b"".join(DRAWN.scans) + END, "damaged"),
    "a scan of an unknown component": (DRAWN.data.replace(SCAN + b"\0\x08\1\1", SCAN + b"\0\x08\1\7"), "damaged"),
    "a scan of unknown tables": (DRAWN.data.replace(b"\1\1\x12\0\x3f", b"\1\1\x13\0\x3f"), "damaged"),
    "a lost restart": (ONE.data.replace(b"\xff\xd0", b"\xfe\xd0"), "damaged"),
    "no marker": (DRAWN.head + b"\0\0" + DRAWN.scans[0] + END, f"damaged in the segment .* byte {len(DRAWN.head)}"),
    "a factor of none": (DRAWN.data.replace(b"\3\1\x22", b"\3\1\x20"), "damaged"),
    "too many codes": (by_pillow()[:2] + segment(0xC4, 0, 3, *[0] * 15, 1, 2, 3) + by_pillow()[2:], "damaged"),
    "fewer codes than said": (by_pillow()[:2] + segment(0xC4, 0, 2, *[0] * 15, 1) + by_pillow()[2:], "damaged"),
    "bytes after the last block": (ONE.head + ONE.scans[0] + b"\0\0" + END, "damaged"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_for_the_true_reason(kind: str) -> None:
    data, reason = REFUSED[kind]
    with pytest.raises(ValueError, match=reason):
        JPEG.read_jpeg(data)


@pytest.mark.parametrize("first", [0xF0, 0xD0])
def test_no_such_code(first: int) -> None:
    """Of four bits 12 values are codes of a first coefficient: others are damage, and not codes of no bits."""
    head = ONE.head + ONE.scans[0][: ONE.scans[0].index(b"\0\x3f\0") + 3]
    with pytest.raises(ValueError, match="damaged"):
        JPEG.read_jpeg(head + bytes([first]) * 8 + END)


@pytest.mark.medium
def test_every_beginning_of_a_file_is_cut_short() -> None:
    data = by_pillow(20, 20, restart_marker_blocks=1)
    for length in (*range(2, len(data), 11), len(data) - 2, len(data) - 1):
        with pytest.raises(ValueError, match="cut short"):
            JPEG.read_jpeg(data[:length])


def closes_or_is_refused(data: bytes) -> None:
    """No error but ValueError, with a reason of the example's own."""
    try:
        bits = JPEG.read_jpeg(data)
    except ValueError as refused:
        reason = str(refused)
    else:
        reason = f"JPEG, closes: {bits.closes}"
    assert re.match(r"no JPEG file|the file is|.*JPEG of|JPEG, closes: True", reason)


@pytest.mark.medium
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    closes_or_is_refused(data)
    closes_or_is_refused(b"\xff\xd8" + data)
    closes_or_is_refused(DRAWN.head + data + END)


WHOLE = {"drawn": draw((20, 20), SAMPLINGS["4:2:0"], interval=1).data, "Pillow": by_pillow(24, 24, optimize=True)}


@pytest.mark.medium
@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_damaged_files(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE[kind])
    for place, byte in changes:
        data[place % len(data)] = byte
    closes_or_is_refused(bytes(data))


@pytest.mark.medium
def test_hostile_runs_end_soon() -> None:
    for data in (b"\xff" * 10**6, b"\xff" * 10**6 + b"\0", segment(0xFE) * 10**5 + b"\0"):
        closes_or_is_refused(b"\xff\xd8" + data)
        closes_or_is_refused(DRAWN.head + DRAWN.scans[0] + data)


def photograph() -> torch.Tensor:
    shown = torch.from_numpy(pixels(96, 128)).permute(2, 0, 1)[None].float() / 255
    return torch.nn.functional.avg_pool2d(shown, 3, 1, 1)


def as_pillow_does(image: torch.Tensor, quality: int) -> bytes:
    file = BytesIO()
    shown = (255 * image[0]).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(shown).save(file, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_at_whole_qualities_is_pillows(channels: int) -> None:
    image = photograph()[:, :channels]
    for quality in (1, 7, 33, 49, 50, 51, 75, 98, 100):
        bits, data = JPEG.encode(image, quality), as_pillow_does(image, quality)
        assert bits.file_bytes == len(data)
        expected = check(data)
        assert all(torch.equal(grid.bits, expected.grids[name].bits) for name, grid in bits.grids.items())
        decoded = np.array(Image.open(BytesIO(data))).reshape(96, 128, channels)
        assert bits.reconstruction is not None
        assert torch.equal(bits.reconstruction, torch.from_numpy(decoded).permute(2, 0, 1)[None].float() / 255)
        assert bits.picture is image


def test_encode_reaches_any_size_between_whole_qualities() -> None:
    image, (low, high) = photograph(), JPEG.encode.qualities
    for target in (as_pillow_does(image, 30), as_pillow_does(image, 80)):
        aim, at_most, at_least = 1.03 * len(target), high, low
        for _ in range(15):
            quality = (at_least + at_most) / 2
            size = JPEG.encode(image, quality).file_bytes
            if abs(size - aim) <= 0.01 * aim:
                break
            at_least, at_most = (quality, at_most) if size < aim else (at_least, quality)
        assert abs(size - aim) <= 0.01 * aim


@pytest.mark.parametrize(
    ("shape", "quality"),
    [((1, 3, 8, 8), quality) for quality in (0, 100.5, -3, float("nan"))] + [((2, 3, 8, 8), 50), ((1, 2, 8, 8), 50)],
)
def test_what_cannot_be_encoded(shape: tuple[int, ...], quality: float) -> None:
    with pytest.raises(ValueError, match=r"image must be \[1, 1 or 3, H, W\] and quality 1 to 100, got \["):
        JPEG.encode(torch.zeros(shape), quality)
