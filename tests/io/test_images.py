"""Reading images: what is read, how, and what is refused in which words."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pngs import chunk, png

from bitrate_ext.io.images import ImageError, load_image, load_picture
from bitrate_ext.io.pixels import Samples, turned

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of each colour type


def colours(height: int = 6, width: int = 9) -> np.ndarray:
    """uint8 ``[H, W, 3]``, every pixel its own."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


def write_png16(path: Path, values: np.ndarray, colour_type: int, extra: bytes = b"") -> None:
    """A 16-bit PNG of ``[H, W, C]``."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    height, width = values.shape[:2]
    path.write_bytes(png(width, height, rows, depth=16, colour_type=colour_type, extra=extra))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "A.PNG", "no_ending"])
def test_lossless_formats_are_read_exactly(tmp_path: Path, name: str) -> None:
    pixels, path = colours(), tmp_path / name
    form = {"a.bmp": "BMP", "a.tiff": "TIFF", "a.webp": "WEBP"}.get(name, "PNG")
    options = {"lossless": True} if form == "WEBP" else {}
    Image.fromarray(pixels).save(path, format=form, **options)
    x = load_image(path)
    assert (x.shape, x.dtype) == ((1, 3, 6, 9), torch.float32)
    assert x.is_contiguous()
    assert torch.equal(x, as_tensor(pixels))


def test_jpeg_and_str_paths(tmp_path: Path) -> None:
    path = str(tmp_path / "a.jpg")
    Image.fromarray(np.full((16, 24, 3), 128, np.uint8)).save(path)
    torch.testing.assert_close(load_image(path), torch.full((1, 3, 16, 24), 128 / 255), atol=2 / 255, rtol=0)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = colours()[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert torch.equal(load_image(tmp_path / "a.png"), as_tensor(np.repeat(grey[:, :, None], 3, axis=2)))


def test_one_bit_images(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[0, 0].tolist() == [[1.0, 0.0]]


def test_palettes(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_transparent_parts_are_laid_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    expected = torch.tensor([[1, 0, 0], [1, 1, 1], [0.8, 0.8, 0.8]])
    torch.testing.assert_close(load_image(tmp_path / "rgba.png")[0, :, 0].T, expected, atol=1e-6, rtol=0)
    Image.fromarray(np.array([[[7, 255], [7, 0]]], dtype=np.uint8), "LA").save(tmp_path / "la.png")
    assert load_image(tmp_path / "la.png")[0, 0, 0].tolist() == [np.float32(7 / 255), 1.0]
    Image.fromarray(np.array([[5, 9]], dtype=np.uint8)).save(tmp_path / "level.png", transparency=9)
    assert load_image(tmp_path / "level.png")[0, 0, 0].tolist() == [np.float32(5 / 255), 1.0]
    Image.fromarray(np.array([[5, 9]], dtype=np.uint8)).convert("P").save(tmp_path / "palette.png", transparency=9)
    assert load_image(tmp_path / "palette.png")[0, 0, 0].tolist() == [np.float32(5 / 255), 1.0]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tiff")
    assert load_image(tmp_path / "a.tiff")[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    pixels, exif = colours(4, 6), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(load_image(tmp_path / "a.png"), as_tensor(np.rot90(pixels, -1).copy()))


def test_sixteen_bit_grey_keeps_its_precision(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255, 256, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tiff", values)
    for name in ("a.png", "a.tiff"):
        x = load_image(tmp_path / name)
        assert x.shape == (1, 3, 1, 6)
        for channel in range(3):
            np.testing.assert_array_equal(x[0, channel].numpy(), values.astype(np.float32) / 65535)


def test_sixteen_bit_grey_with_a_transparent_level(tmp_path: Path) -> None:
    write_png16(tmp_path / "a.png", np.array([[[500], [501]]]), 0, chunk(b"tRNS", struct.pack(">H", 500)))
    assert load_image(tmp_path / "a.png")[0, 0, 0].tolist() == [1.0, np.float32(501) / np.float32(65535)]


@pytest.mark.parametrize("colour_type", [2, 4, 6], ids=["rgb", "grey and alpha", "rgba"])
def test_sixteen_bit_colour_png_keeps_its_precision(tmp_path: Path, colour_type: int, rng: np.random.Generator) -> None:
    channels = PNG_CHANNELS[colour_type]
    values = rng.integers(0, 65536, (3, 4, channels))
    write_png16(tmp_path / "a.png", values, colour_type)
    picture = load_picture(tmp_path / "a.png")
    shares = values / 65535
    if channels in (2, 4):
        shares = shares[:, :, :-1] * shares[:, :, -1:] + (1 - shares[:, :, -1:])
    expected = np.broadcast_to(shares, (3, 4, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(picture.pixels[0].numpy(), expected, atol=2e-7, rtol=0)
    assert (picture.facts.bits, picture.facts.bits_read, picture.facts.transparent) == (16, 16, channels in (2, 4))


def test_sixteen_bit_colour_with_a_transparent_colour_and_a_turn(tmp_path: Path) -> None:
    values = np.arange(18).reshape(2, 3, 3) * 3000
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = chunk(b"tRNS", struct.pack(">3H", *values[0, 1])) + chunk(b"eXIf", exif.tobytes()[6:])
    write_png16(tmp_path / "a.png", values, 2, extra)
    values[0, 1] = 65535
    expected = np.rot90(values, -1).astype(np.float32) / np.float32(65535)
    assert np.array_equal(load_picture(tmp_path / "a.png").pixels[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("turn", range(2, 9))
def test_samples_turn_as_pillow_s_images_do(turn: int) -> None:
    values = colours(3, 5)
    expected = np.asarray(turned(Image.fromarray(values), turn))
    found = turned(Samples(values, 255, values[:, :, 0] > 99), turn)
    assert isinstance(found, Samples)
    assert np.array_equal(found.values, expected)
    assert np.array_equal(found.hidden, expected[:, :, 0] > 99)


TIFFS = {
    "16-bit grey, white is zero": (np.zeros((3, 4), np.uint16), "miniswhite", "has 16 bits a channel; convert"),
    "32-bit grey": (np.zeros((3, 4), np.uint32), "minisblack", "has 32 bits a channel; convert"),
    "signed": (np.zeros((3, 4), np.int16), "minisblack", "has floating-point or signed samples; convert"),
    "floating": (np.zeros((3, 4), np.float32), "minisblack", "has floating-point or signed samples; convert"),
    "floating rgb": (np.zeros((3, 4, 3), np.float32), "rgb", "has floating-point or signed samples; convert"),
    "32-bit rgb": (np.zeros((3, 4, 3), np.uint32), "rgb", "has 32 bits a channel; convert"),
    "ten samples": (np.zeros((3, 4, 10), np.uint8), "minisblack", "is of a kind that is not read here"),
}


@pytest.mark.parametrize("case", TIFFS)
def test_other_deep_tiffs_are_refused(tmp_path: Path, case: str) -> None:
    values, photometric, message = TIFFS[case]
    together = "contig" if values.ndim == 3 else None
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, planarconfig=together, metadata=None)
    with pytest.raises(ImageError, match=message):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
@pytest.mark.parametrize(
    ("number", "name"), [(34712, "JPEG 2000"), (50002, "JPEG XL"), (50001, "WebP"), (34887, "LERC"), (12345, "other")]
)
def test_compressions_that_are_not_read_are_not_called_damage(
    tmp_path: Path, number: int, name: str, big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", colours(), photometric="rgb", metadata=None, bigtiff=big)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(number)

    def save(*_: object, **__: object) -> None:  # a Pillow without the codec
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(ImageError, match=rf"is a TIFF file of {name} compression \({number}\), which is not read here"):
        load_image(tmp_path / "a.tif")


def bits_changed(path: Path, form: str, at: int, value: bytes) -> None:
    Image.fromarray(colours(32, 32)).save(path, form)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0") + 4 if form == "JPEG" else at
    data[at : at + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("form", "at", "value", "reason"),
    [
        ("BMP", 28, b"\x20\0\x03\0\0\0", "Unsupported BMP bitfields layout"),
        ("BMP", 28, b"\x02\0", "Unsupported BMP pixel depth"),
        ("BMP", 30, b"\x04", "Unsupported BMP compression"),
        ("JPEG", 0, b"\x0c", "cannot handle 12-bit layers"),
    ],
)
def test_other_kinds_that_are_not_read(tmp_path: Path, form: str, at: int, value: bytes, reason: str) -> None:
    bits_changed(tmp_path / "a", form, at, value)
    with pytest.raises(ImageError, match=rf"a: is of a kind that is not read here \({reason}.*\); convert it, to PNG"):
        load_image(tmp_path / "a")


def test_trouble_of_the_disk_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")

    def load(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read \(Input/output error\)"):
        load_image(tmp_path / "a.png")


def test_names_are_quoted_where_they_cannot_be_printed(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b.png").write_text("hello")
    with pytest.raises(ImageError, match=r"^'.*a\\n\\x1b\.png': not a PNG"):
        load_image(tmp_path / "a\n\x1b.png")


@pytest.mark.parametrize("name", ["a.tiff", "a.webp", "a.png"])
def test_of_several_frames_the_first_is_read_with_a_warning(tmp_path: Path, name: str) -> None:
    pixels = colours()
    options = {"lossless": True} if name == "a.webp" else {}
    first, second = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    with pytest.warns(UserWarning, match="has 2 frames or pages; only the first is read"):
        x = load_image(tmp_path / name)
    assert torch.equal(x, as_tensor(pixels))


def test_one_frame_is_read_without_a_warning(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(tmp_path / "a.png")


def test_files_that_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in {
        "absent.png": "no such file",
        "empty.png": "the file is empty",
        "text.png": "not a PNG, JPEG, WebP, .* PBM, PGM or PPM image",
        "folder.png": "is a folder, not an image file",
        "pipe.png": "is not a regular file",
        "text.png/x.png": "cannot be read",
        "n" * 300: "cannot be read",
        "nul\0l.png": "null character",
    }.items():
        with pytest.raises(ImageError, match=message) as raised:
            load_image(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_image_error_is_a_value_error() -> None:
    assert issubclass(ImageError, ValueError)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(ImageError, match="no permission to read the file"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("kept", [0.97, 0.6, 0.2])
def test_cut_files_are_refused(tmp_path: Path, form: str, kept: float) -> None:
    Image.fromarray(colours(64, 64)).save(tmp_path / "a", format=form)
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ImageError, match=r"damaged or cut short|not a PNG"):
        load_image(tmp_path / "a")


@pytest.mark.parametrize("limit", [30, 60], ids=["error", "warning"])
def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Pillow raises from twice its limit on, and only warns before."""
    Image.fromarray(colours(8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=f"the image is larger than {limit} pixels"):
        load_image(tmp_path / "a.png")
