"""Pictures in windows: what ``load_image`` gives for the whole file, in any format; hostile files end in one line."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bitrate_ext import memory
from bitrate_ext.io.images import ImageError, load_image
from bitrate_ext.io.windowed import DecodedPicture, Picture, TensorPicture, TiffPicture, declared_size, open_picture

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

MIB = 1 << 20
HEIGHT, WIDTH = 70, 53


def colours(channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, channels), dtype=dtype)


def windows(picture: Picture) -> Iterator[tuple[tuple[int, int, int, int], Tensor]]:
    rng = np.random.default_rng(1)
    whole = (0, 0, picture.height, picture.width)
    places = [whole, (picture.height - 1, picture.width - 1, 1, 1)]
    for _ in range(12):
        top, left = int(rng.integers(0, picture.height)), int(rng.integers(0, picture.width))
        places.append(
            (top, left, 1 + int(rng.integers(0, picture.height - top)), 1 + int(rng.integers(0, picture.width - left)))
        )
    for place in places:
        yield place, picture.window(*place)


def assert_as_loaded(path: Path, kind: type | None = None) -> None:
    expected = load_image(path)
    with open_picture(path, 64 * MIB) as picture:
        assert kind is None or isinstance(picture, kind)
        assert (picture.height, picture.width) == tuple(expected.shape[2:])
        assert declared_size(path)[:2] in ((picture.height, picture.width), (picture.width, picture.height))
        for (top, left, height, width), window in windows(picture):
            assert window.dtype == torch.float32
            assert torch.equal(window, expected[:, :, top : top + height, left : left + width])


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
    assert_as_loaded(path, TiffPicture)


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
    assert_as_loaded(tmp_path / "a", DecodedPicture)


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
        assert_as_loaded(path, DecodedPicture)


def test_tensors() -> None:
    pixels = torch.from_numpy(colours()).permute(2, 0, 1)
    assert torch.equal(TensorPicture(pixels).window(3, 5, 7, 11)[0], pixels[:, 3:10, 5:16].float() / 255)
    values = torch.rand(1, 1, 4, 5, dtype=torch.float64)
    assert torch.equal(TensorPicture(values).window(0, 1, 4, 2), values[..., 1:3])
    with pytest.raises(
        ValueError, match=r"picture must be a tensor \[1, C, H, W\] or \[C, H, W\], got shape \[2, 3, 4, 4\]"
    ):
        TensorPicture(torch.rand(2, 3, 4, 4))
    with pytest.raises(TypeError, match=r"picture must be floating point in \[0, 1\] or uint8, got torch.int32"):
        TensorPicture(torch.ones(3, 4, 4, dtype=torch.int32))


def test_pages_after_the_first_are_told_of(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for _ in range(3):
            tiff.write(colours(), photometric="rgb")
    with pytest.warns(UserWarning, match="frames or pages; only the first is read"), open_picture(tmp_path / "a.tif"):
        pass


# Bombs: little files that declare a lot.


def declared_png(width: int, height: int) -> bytes:
    """One row of a picture that claims to be larger."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 46_341, 65_535])
def test_bombs_are_refused_before_anything_is_decoded(tmp_path: Path, side: int) -> None:
    """Without a limit by Pillow's, with one by what the header declares; the limit that admits them admits them."""
    path = tmp_path / "bomb.png"
    path.write_bytes(declared_png(side, side))
    for most, words in ((None, "is larger than"), (256 * MIB, "the memory limit leaves 256 MiB")):

        def refused(most: int | None = most, words: str = words) -> None:
            with pytest.raises(ImageError, match=words), open_picture(path, most):
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
    with pytest.raises(ImageError, match="is larger than"), open_picture(path):
        pass
    with pytest.raises(ImageError, match="10,240 x 10,240 pixels take 12 MiB to decode"), open_picture(path, MIB):
        pass
    with open_picture(path, 64 * MIB) as picture:
        assert picture.window(10000, 10000, 240, 240).sum() == 0
        assert picture.buffered(256) < 200 * MIB


def test_parts_that_inflate_to_more_than_they_should(tmp_path: Path) -> None:
    """A strip of 64 kB that inflates to 64 MB: its first bytes are taken, and no more are made."""
    import zlib

    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        packer = zlib.compressobj()
        huge = b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()
        tiff.write(
            iter([huge]), shape=(64, 64), dtype=np.uint8, compression="zlib", rowsperstrip=64, photometric="minisblack"
        )
    with open_picture(path, 64 * MIB) as picture:
        assert isinstance(picture, TiffPicture)
        assert memory.peak_increase(torch.device("cpu"), lambda: picture.window(0, 0, 64, 64)) < 8 * MIB


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tile_that_claims_to_be_huge(tmp_path: Path, compression: str | None) -> None:
    """A million pixels a side, of a picture of 16: no room is made for it, with a limit or without."""
    path = tmp_path / "a.tif"
    pixels = colours()[:16, :16]
    tifffile.imwrite(path, pixels, tile=(16, 16), compression=compression, photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("TileWidth", "TileLength"):
            tiff.pages[0].tags[tag].overwrite(1 << 20)
    with pytest.raises(ImageError, match=r"take .* GiB to decode"), open_picture(path, 64 * MIB):
        pass
    with open_picture(path) as picture, pytest.raises(ImageError, match="damaged or cut short"):
        picture.window(0, 0, 16, 16)


# Damage.


def survives(path: Path) -> bool:
    """True if the file gives a picture, False if it gives an error that names it; anything else is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(path, 16 * MIB) as picture:
                window = picture.window(0, 0, picture.height, picture.width)
    except ImageError as error:
        told = str(error)
    else:
        assert window.isfinite().all()
        assert 0 <= window.min() <= window.max() <= 1
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
    """500 lengths and 150 damaged copies of each: a picture or an error that names the file, in little memory."""
    whole, path = saved(form), tmp_path / "a"
    path.write_bytes(whole)
    assert survives(path)

    def try_all() -> None:
        read = 0
        for length in np.unique(np.linspace(0, len(whole) - 1, 500).astype(int)):
            path.write_bytes(whole[:length])
            read += survives(path)
        assert read < 25, f"{read} truncated files gave a picture"
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
        ("f.png", declared_png(0, 5)),
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
