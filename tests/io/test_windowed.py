"""Images in crops: what ``load_image`` gives for the whole file, in any format; hostile files end in one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pngs import png
from torch import Tensor

from bitrate_ext import memory
from bitrate_ext.io.images import ImageError, load_image
from bitrate_ext.io.windowed import DecodedImage, ImageSource, TensorImage, TiffImage, declared_size, open_image

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

MIB = 1 << 20
HEIGHT, WIDTH = 70, 53


def colours(channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, channels), dtype=dtype)


def crops(image: ImageSource) -> Iterator[tuple[tuple[int, int, int, int], Tensor]]:
    rng = np.random.default_rng(1)
    whole = (0, 0, image.height, image.width)
    places = [whole, (image.height - 1, image.width - 1, 1, 1)]
    for _ in range(12):
        top, left = int(rng.integers(0, image.height)), int(rng.integers(0, image.width))
        places.append(
            (top, left, 1 + int(rng.integers(0, image.height - top)), 1 + int(rng.integers(0, image.width - left)))
        )
    for place in places:
        yield place, image.crop(*place)


def assert_as_loaded(path: Path, kind: type | None = None) -> None:
    expected = load_image(path)
    with open_image(path, 64 * MIB) as image:
        assert kind is None or isinstance(image, kind)
        assert (image.height, image.width) == tuple(expected.shape[2:])
        assert declared_size(path)[:2] in ((image.height, image.width), (image.width, image.height))
        for (top, left, height, width), crop in crops(image):
            assert crop.dtype == torch.float32
            assert torch.equal(crop, expected[:, :, top : top + height, left : left + width])


TIFFS = {
    "strips": {"rowsperstrip": 7},
    "one strip": {},
    "deflated": {"rowsperstrip": 9, "compression": "zlib"},
    "deflated differences": {"rowsperstrip": 16, "compression": "zlib", "predictor": 2},
    "tiles": {"tile": (16, 32)},
    "deflated tiles": {"tile": (32, 16), "compression": "zlib", "predictor": 2},
    "big": {"bigtiff": True, "rowsperstrip": 5},
    "from the big end": {"byteorder": ">", "rowsperstrip": 5, "compression": "zlib", "predictor": 2},
}


@pytest.mark.parametrize("kind", ["colour", "grey", "grey of 16 bits", "opacity"])
@pytest.mark.parametrize("layout", TIFFS)
def test_tiff_files_in_parts(tmp_path: Path, layout: str, kind: str) -> None:
    options = dict(TIFFS[layout])
    pixels = {
        "colour": colours(),
        "grey": colours(1)[:, :, 0],
        "grey of 16 bits": colours(1, np.uint16)[:, :, 0],
        "opacity": colours(4),
    }[kind]
    path = tmp_path / "a.tif"
    made = {key: options.pop(key) for key in ("bigtiff", "byteorder") if key in options}
    with tifffile.TiffWriter(path, **made) as tiff:
        photometric = "rgb" if pixels.ndim == 3 else "minisblack"
        extra = {"extrasamples": ["unassalpha"]} if kind == "opacity" else {}
        tiff.write(pixels, photometric=photometric, metadata=None, **extra, **options)
    assert_as_loaded(path, TiffImage)


@pytest.mark.parametrize(
    "name", ["png", "jpeg", "webp", "bmp", "tiff-lzw", "tiff-palette", "tiff-cmyk", "png-1", "png-16"]
)
def test_other_files_are_decoded_by_pillow(tmp_path: Path, name: str) -> None:
    form, _, variant = name.partition("-")
    image, options = Image.fromarray(colours()), {}
    if variant == "lzw":
        options["compression"] = "tiff_lzw"
    elif variant == "palette":
        image = image.quantize(16)
    elif variant == "cmyk":
        image = image.convert("CMYK")
    elif variant == "1":
        image = image.convert("1")
    elif variant == "16":
        image = Image.fromarray(colours(1, np.uint16)[:, :, 0])
    image.save(tmp_path / "a", format=form.upper(), **options)
    assert_as_loaded(tmp_path / "a", DecodedImage)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_rotated_files(tmp_path: Path, form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colours()).save(tmp_path / "a", format=form, exif=exif)
    assert_as_loaded(tmp_path / "a")


def test_transparent_files(tmp_path: Path) -> None:
    Image.fromarray(colours(4)).save(tmp_path / "rgba.png")
    Image.fromarray(colours(2), "LA").save(tmp_path / "la.png")
    Image.fromarray(colours(1)[:, :, 0]).save(tmp_path / "level.png", transparency=9)
    Image.fromarray(colours()).quantize(16).save(tmp_path / "palette.png", transparency=3)
    Image.fromarray(colours(4)).save(tmp_path / "rgba.webp", lossless=True)
    for path in sorted(tmp_path.iterdir()):
        assert_as_loaded(path, DecodedImage)


def test_tensors() -> None:
    pixels = torch.from_numpy(colours()).permute(2, 0, 1)
    assert torch.equal(TensorImage(pixels).crop(3, 5, 7, 11)[0], pixels[:, 3:10, 5:16].float() / 255)
    values = torch.rand(1, 1, 4, 5, dtype=torch.float64)
    assert torch.equal(TensorImage(values).crop(0, 1, 4, 2), values[..., 1:3])
    expected = r"picture must be a tensor \[1, C, H, W\] or \[C, H, W\], floating point in \[0, 1\] or uint8, got "
    with pytest.raises(ValueError, match=expected + r"torch.float32 of shape \[2, 3, 4, 4\]"):
        TensorImage(torch.rand(2, 3, 4, 4))
    with pytest.raises(TypeError, match=expected + r"torch.int32 of .*; give picture\[None\]\.float\(\)\.div\(255\)"):
        TensorImage(torch.ones(3, 4, 4, dtype=torch.int32))


def test_a_predictor_is_for_compressed_files(tmp_path: Path) -> None:
    tag, predictor = (struct.pack("<HHI", number, 3, 1) for number in (65000, 317))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, colours(), tile=(16, 32), photometric="rgb", extratags=[(65000, "H", 1, 2, True)])
    path.write_bytes(path.read_bytes().replace(tag, predictor))
    assert_as_loaded(path, TiffImage)


def test_pages_after_the_first_are_told_of(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for _ in range(3):
            tiff.write(colours(), photometric="rgb")
    with open_image(tmp_path / "a.tif") as image:
        assert image.facts.frames == 3


# Bombs: little files that declare a lot.


@pytest.mark.parametrize("side", [20_000, *(pytest.param(side, marks=pytest.mark.medium) for side in (46_341, 65_535))])
def test_bombs_are_refused_before_anything_is_decoded(tmp_path: Path, side: int) -> None:
    """Without a limit by Pillow's, with one by what the header declares; the limit that admits them admits them."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, b"\0" * 100))
    for most, words in ((None, "is larger than"), (256 * MIB, "the memory limit leaves 256 MiB")):

        def refused(most: int | None = most, words: str = words) -> None:
            with pytest.raises(ImageError, match=words), open_image(path, most):
                pass

        assert memory.peak_increase(torch.device("cpu"), refused) < 16 * MIB
    with pytest.raises(ImageError, match="is larger than"):
        load_image(path)


@pytest.mark.medium
def test_a_deflated_tiff_is_a_bomb_without_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    with tifffile.TiffWriter(path) as tiff:
        zeros = (np.zeros((2048, 2048, 3), np.uint8) for _ in range(25))
        tiff.write(
            zeros, shape=(10240, 10240, 3), dtype=np.uint8, tile=(2048, 2048), compression="zlib", photometric="rgb"
        )
    with pytest.raises(ImageError, match="is larger than"), open_image(path):
        pass
    with pytest.raises(ImageError, match="10,240 x 10,240 pixels take 12 MiB to decode"), open_image(path, MIB):
        pass
    with open_image(path, 64 * MIB) as image:
        assert image.crop(10000, 10000, 240, 240).sum() == 0
        assert image.buffered(256) < 200 * MIB


@pytest.mark.medium
def test_parts_that_inflate_to_more_than_they_should(tmp_path: Path) -> None:
    """A strip of 64 kB that inflates to 64 MB: its first bytes are taken, and no more are made."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        packer = zlib.compressobj()
        huge = b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()
        tiff.write(
            iter([huge]), shape=(64, 64), dtype=np.uint8, compression="zlib", rowsperstrip=64, photometric="minisblack"
        )
    with open_image(path, 64 * MIB) as image:
        assert isinstance(image, TiffImage)
        assert memory.peak_increase(torch.device("cpu"), lambda: image.crop(0, 0, 64, 64)) < 8 * MIB


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tile_that_claims_to_be_huge(tmp_path: Path, compression: str | None) -> None:
    """A million pixels a side, of an image of 16: no room is made for it, with a limit or without."""
    path = tmp_path / "a.tif"
    pixels = colours()[:16, :16]
    tifffile.imwrite(path, pixels, tile=(16, 16), compression=compression, photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("TileWidth", "TileLength"):
            tiff.pages[0].tags[tag].overwrite(1 << 20)
    with pytest.raises(ImageError, match=r"take .* GiB to decode"), open_image(path, 64 * MIB):
        pass
    with open_image(path) as image, pytest.raises(ImageError, match="damaged or cut short"):
        image.crop(0, 0, 16, 16)


# Damage.


def survives(path: Path) -> bool:
    """True if the file gives an image, False if it gives an error that names it; anything else is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(path, 16 * MIB) as image:
                crop = image.crop(0, 0, image.height, image.width)
    except ImageError as error:
        told = str(error)
    else:
        assert crop.isfinite().all()
        assert 0 <= crop.min() <= crop.max() <= 1
        return True
    assert told.startswith(str(path))
    assert "\n" not in told
    return False


def saved(form: str) -> bytes:
    file = io.BytesIO()
    if form.startswith("TIFF"):
        options = (
            {"compression": "zlib", "predictor": 2, "tile": (16, 16)} if form == "TIFF tiles" else {"rowsperstrip": 8}
        )
        with tifffile.TiffWriter(file) as tiff:
            tiff.write(colours(), photometric="rgb", metadata=None, **options)
    else:
        Image.fromarray(colours()).save(file, format=form)
    return file.getvalue()


@pytest.mark.medium
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "TIFF tiles"])
def test_truncated_and_damaged_files(tmp_path: Path, form: str, rng: np.random.Generator) -> None:
    """500 lengths and 150 damaged copies of each: an image or an error that names the file, in little memory."""
    whole, path = saved(form), tmp_path / "a"
    path.write_bytes(whole)
    assert survives(path)

    def try_all() -> None:
        read = 0
        for length in np.unique(np.linspace(0, len(whole) - 1, 500).astype(int)):
            path.write_bytes(whole[:length])
            read += survives(path)
        # What is missing of a JPEG is grey; of others an image is only whole.
        assert read < 25 or form == "JPEG", f"{read} truncated files gave an image"
        for _ in range(150):
            damaged = bytearray(whole)
            near = int(rng.integers(0, len(whole) if rng.integers(2) else min(512, len(whole))))
            damaged[near : near + 4] = rng.bytes(int(rng.integers(1, 5)))
            path.write_bytes(damaged)
            survives(path)

    assert memory.peak_increase(torch.device("cpu"), try_all) < 48 * MIB


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"),
        ("b.png", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"),
        ("c.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'),
        ("d.png", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"),
        ("e.png", b""),
        ("j.png", b"P6 1 1 255\n\0\0"),
        ("k.png", b"P6 1 0 255\n"),
        ("l.png", b"P5 99999999 99999999 255\n\0"),
        ("m.png", b"P2 99999999 99999999 255\n0"),
        ("n.png", b"Pf 1 1 -1.0\n\0\0\0\0"),
        ("f.png", png(0, 5, b"\0" * 100)),
        ("g.tif", b"II*\0\x08\0\0\0\0\0"),
        ("h.tif", b"II*\0\xff\xff\xff\xff"),
        ("i.tif", b"II+\0\x08\0\0\0" + b"\xff" * 64),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert not survives(path)
    with pytest.raises(ImageError):
        load_image(path)


def test_endings_do_not_matter(tmp_path: Path) -> None:
    for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        for ending in ("png", "jpg", "webp", "bmp", "tif"):
            path = tmp_path / f"{form}.{ending}"
            path.write_bytes(saved(form))
            assert_as_loaded(path)
