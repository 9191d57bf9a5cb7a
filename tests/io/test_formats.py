"""Kinds of picture files beside those that every viewer has long read: what is read of each, and what is told."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pngs import chunk, png

from bitrate_ext import optional
from bitrate_ext.io import headers
from bitrate_ext.io.images import ImageError, load_image, load_picture

Image = pytest.importorskip("PIL.Image")
ImageCms = pytest.importorskip("PIL.ImageCms")
features = pytest.importorskip("PIL.features")


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 ``[H, W, 3]``, which lossy formats keep."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * rows, 2 * columns, rows + columns], axis=2).astype(np.uint8)


def as_loaded(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def loaded(path: Path) -> np.ndarray:
    return load_picture(path).pixels[0].numpy()


# PBM, PGM and PPM.


def netpbm(kind: int, values: np.ndarray, largest: int, comment: bytes = b"") -> bytes:
    """A file of ``[H, W, C]``; kinds 1 to 3 are written in digits."""
    height, width = values.shape[:2]
    head = b"P%d\n%s%d %d\n" % (kind, comment, width, height) + (b"" if kind in (1, 4) else b"%d\n" % largest)
    if kind in (1, 4):
        values = largest - values
    if kind < 4:
        return head + b"\n".join(b" ".join(b"%d" % one for one in row.ravel()) for row in values)
    if kind == 4:
        return head + np.packbits(values[:, :, 0].astype(np.uint8), axis=1).tobytes()
    return head + values.astype(np.uint8 if largest < 256 else ">u2").tobytes()


@pytest.mark.parametrize("largest", [1, 7, 255, 256, 1023, 65535])
@pytest.mark.parametrize("kind", range(1, 7))
def test_netpbm_files_are_exact(tmp_path: Path, kind: int, largest: int, rng: np.random.Generator) -> None:
    largest = 1 if kind in (1, 4) else largest
    values = rng.integers(0, largest + 1, (5, 11, 3 if kind in (3, 6) else 1))
    path = tmp_path / "a.pnm"
    for comment in (b"", b"# made by hand\n#\n"):
        path.write_bytes(netpbm(kind, values, largest, comment))
        picture = load_picture(path)
        expected = np.broadcast_to(values.astype(np.float32) / np.float32(largest), (5, 11, 3))
        assert np.array_equal(picture.pixels[0].permute(1, 2, 0).numpy(), expected)
        assert picture.facts.bits == picture.facts.bits_read == largest.bit_length()
        assert picture.facts.warnings == []
    if largest in (1, 255):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), np.rint(255 * expected))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P6 4 4 255\n" + b"\0" * 47, "it holds 3 of 4 rows"),
        (b"P4 9 2\n\0\0\0", "it holds 1 of 2 rows"),
        (b"P5 4 4 65536\n", "4 x 4 pixels up to a value of 65536"),
        (b"P5 4 0 255\n", "4 x 0 pixels"),
        (b"P5 4 4 100\n" + b"e" * 16, "a value of 101 where 100 is the largest"),
        (b"P5 4\n", "no height in its header"),
        (b"P2 2 2 9\n1 2 3 x", "3 of 4 values can be read"),
        (b"P2 2 2 9\n1 2 3 10", "4 of 4 values can be read, up to 9 being the largest"),
        (b"P1 2 2\n0120", "up to 1 being the largest"),
        (b"P3 9 9 9\n1 2 3", "it is too short for 243 values"),
    ],
)
def test_damaged_netpbm_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a: the image is damaged or cut short \((?:.*)(?:{reason})"):
        load_image(tmp_path / "a")


def test_netpbm_files_that_go_on(tmp_path: Path) -> None:
    content = netpbm(6, np.full((2, 2, 3), 9), 255)
    (tmp_path / "a.ppm").write_bytes(2 * content)
    assert load_picture(tmp_path / "a.ppm").facts.warnings == ["has more than one frame; only the first is read"]


# GIF and APNG, AVIF, JPEG 2000.


def test_gif_stills_are_the_first_frame(tmp_path: Path) -> None:
    first, second = (Image.fromarray(one).quantize(16) for one in (smooth(), 255 - smooth()))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second, first])
    picture = load_picture(tmp_path / "a.gif")
    assert np.array_equal(picture.pixels[0].numpy(), as_loaded(np.asarray(first.convert("RGB"))))
    assert picture.facts.warnings == ["has 3 frames or pages; only the first is read"]
    whole = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(whole[:-99])  # damaged behind the first
    assert np.array_equal(loaded(tmp_path / "a.gif"), picture.pixels[0].numpy())


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(smooth()).save(tmp_path / "a.avif", quality=100, subsampling="4:4:4", exif=exif)
    picture = load_picture(tmp_path / "a.avif")
    assert np.abs(picture.pixels[0].numpy() - as_loaded(np.rot90(smooth()))).max() < 4 / 255
    assert (picture.facts.format, picture.facts.orientation, picture.facts.warnings) == ("AVIF", 8, [])


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without OpenJPEG")
@pytest.mark.parametrize("ending", ["jp2", "j2k"])
def test_jpeg_2000(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(smooth()).save(path)
    assert np.array_equal(loaded(path), as_loaded(smooth()))
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64, 1) * 21
    Image.fromarray(deep[:, :, 0]).save(path)
    picture = load_picture(path)
    assert np.array_equal(picture.pixels[0, 1].numpy(), as_loaded(deep)[0])
    assert (picture.facts.bits, picture.facts.bits_read) == (16, 16)


# HEIC and JPEG XL, by plug-ins.


def test_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    image = heif.from_pillow(Image.fromarray(smooth()))
    image.save(tmp_path / "a.heic", quality=-1, chroma=444)
    picture = load_picture(tmp_path / "a.heic")
    assert np.abs(picture.pixels[0].numpy() - as_loaded(smooth())).max() < 8 / 255
    assert (picture.facts.format, picture.facts.bits, picture.facts.warnings) == ("HEIF", 8, [])
    deep = heif.from_bytes("RGB;16", (64, 48), (smooth().astype("<u2") * 257).tobytes())
    deep.save(tmp_path / "deep.heic", quality=-1)
    assert load_picture(tmp_path / "deep.heic").facts.warnings == ["has 10 bits a channel, of which 8 are read"]
    whole = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "a.heic").write_bytes(whole[:-500])
    with pytest.raises(ImageError, match="damaged or cut short"):
        load_image(tmp_path / "a.heic")


def jpeg_xl(pixels: np.ndarray) -> bytes:
    pytest.importorskip("pillow_jxl")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JXL", lossless=True)
    return file.getvalue()


@pytest.mark.parametrize("size", [(48, 64), (8, 8), (300, 451), (1, 1100), (60, 60)])
def test_jpeg_xl(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    (tmp_path / "a.jxl").write_bytes(jpeg_xl(pixels))
    assert np.array_equal(loaded(tmp_path / "a.jxl"), as_loaded(pixels))
    assert headers.stated("JXL", jpeg_xl(pixels)).size == size[::-1]


def test_jpeg_xl_of_sixteen_bits(tmp_path: Path) -> None:
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64, 1) * 21
    (tmp_path / "a.jxl").write_bytes(jpeg_xl(deep[:, :, 0]))
    picture = load_picture(tmp_path / "a.jxl")
    assert np.array_equal(picture.pixels[0, 2].numpy(), as_loaded(deep)[0])
    assert picture.facts.bits == 16


def packed(*fields: tuple[int, int]) -> bytes:
    """A codestream of JPEG XL that begins with these numbers, each with its bits."""
    value = place = 0
    for number, bits in fields:
        value, place = value | number << place, place + bits
    return b"\xff\x0a" + value.to_bytes(64, "little")


def test_headers_of_jpeg_xl() -> None:
    size = [(0, 1), (3, 2), ((1 << 30) - 1, 30), (7, 3)]  # the largest height, and twice that in width
    huge = headers.stated("JXL", packed(*size, (1, 1)))
    assert (huge.size, huge.bits) == ((1 << 31, 1 << 30), 8)
    small = [(1, 1), (5, 5), (0, 3), (1, 5)]
    preview = [(1, 1), (1, 1), (2, 2), (3, 5), (1, 3)]
    animation = [(1, 1), (0, 2), (1, 2), (2, 2), (9, 16), (1, 1)]
    more = [(0, 1), (1, 1), (4, 3), (1, 1), *small, *preview, *animation]
    told = headers.stated("JXL", packed(*small, *more, (0, 1), (3, 2), (13, 6)))
    assert (told.size, told.bits, told.animated) == ((16, 48), 14, True)
    boxed = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x0cjxlp\0\0\0\0" + packed(*small, (1, 1))
    assert headers.stated("JXL", boxed).size == (16, 48)
    with pytest.raises(ValueError, match="it ends in its header"):
        headers.stated("JXL", packed(*size)[:6])


def test_the_size_of_a_jpeg_xl_file_is_looked_at_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_jxl")
    monkeypatch.setattr("pillow_jxl.JpegXLImagePlugin.JXLImageFile._open", lambda *_: pytest.fail("decoded"))
    (tmp_path / "a.jxl").write_bytes(packed((0, 1), (3, 2), ((1 << 30) - 1, 30), (7, 3), (1, 1)))
    with pytest.raises(ImageError, match=r"a\.jxl: the image is larger than"):
        load_image(tmp_path / "a.jxl")


BOXES = {"heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "avif": b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif"}


@pytest.mark.parametrize(
    ("kind", "content", "module"),
    [
        ("HEIC", BOXES["heic"], "pillow_heif"),
        ("JPEG XL", b"\xff\x0a", "pillow_jxl"),
        ("AVIF", BOXES["avif"], "PIL"),
        ("JPEG 2000", b"\xff\x4f\xff\x51", "PIL"),
    ],
)
def test_kinds_that_need_something_else_say_what(
    tmp_path: Path, kind: str, content: bytes, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    monkeypatch.setattr(features, "check", lambda _: False)
    (tmp_path / "a").write_bytes(content + bytes(64))
    with pytest.raises(ImageError, match=f"a: is a sound {kind} file as far as can be told; ") as raised:
        load_image(tmp_path / "a")
    assert f"install it with {optional.install_command(module)}" in str(raised.value).replace("another", "it")


def test_depth_and_colours_that_headers_state() -> None:
    depth, colour = b"\0\0\0\x10pixi\0\0\0\0\3\x0a\x0a\x0a", b"\0\0\0\x13colrnclx\0\x09\0\x10\0\x09\x80"
    for kind in ("AVIF", "HEIF"):
        assert headers.stated(kind, BOXES["avif"] + depth + colour) == headers.Stated(10, 9, 16)
    for flags, bits in ((0x00, 8), (0x40, 10), (0x60, 12)):
        assert headers.stated("AVIF", BOXES["avif"] + b"\0\0\0\x0cav1C\x81\0" + bytes([flags, 0])).bits == bits
    sizes = b"\xff\x4f\xff\x51" + bytes(36) + b"\0\3" + b"\x0b\1\1\x8f\1\1\x07\1\1" + b"\xff" * 9
    assert headers.stated("JPEG2000", sizes).bits == 16


# JPEG files that are cut short.


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 60, (128, 96, 3), dtype=np.uint8)
    Image.fromarray(smooth(128, 96) // 2 + noise).convert(mode).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_is_cut_short_is_read_as_far_as_it_goes(tmp_path: Path, mode: str, progressive: bool) -> None:
    data, path = jpeg(mode, progressive=progressive), tmp_path / "a.jpg"
    path.write_bytes(data)
    whole = load_picture(path)
    assert whole.facts.warnings == []
    path.write_bytes(data[:-2])
    assert np.array_equal(loaded(path), whole.pixels[0].numpy())
    assert load_picture(path).facts.rows_missing == 0
    with pytest.warns(UserWarning, match=r"a\.jpg: is cut short: the end of its last row or its finest detail may"):
        load_image(path)
    body = data.index(b"\xff\xda")
    for kept in (0.8, 0.45):
        path.write_bytes(data[: body + int(kept * (len(data) - body))])
        picture = load_picture(path)
        missing = picture.facts.rows_missing
        assert missing is not None
        if not progressive:
            assert 0 < missing < 128
            assert f"is cut short: the last {missing} rows are missing, and grey" in picture.facts.warnings
            there = 128 - missing - 24  # the last row of blocks may be there in part, and blend into the grey
            assert np.array_equal(picture.pixels[0, :, :there].numpy(), whole.pixels[0, :, :there].numpy())
    first_row = [] if progressive else [body + 2 + int.from_bytes(data[body + 2 : body + 4], "big"), body + 99]
    for length in (body, *first_row):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match="damaged or cut short"):
            load_image(path)


def test_pillow_s_setting_for_files_cut_short_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    class Watched:
        def __bool__(self) -> bool:
            return False

    flag = Watched()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", flag)
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    load_picture(tmp_path / "a.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is flag


# What departs from what a viewer shows.


def profile(name: str) -> bytes:
    """An RGB profile with Adobe RGB's or sRGB's primaries."""
    if name == "sRGB":
        return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = bytearray(profile("sRGB"))
    at = data.index(b"rXYZ", 128)
    offset = int.from_bytes(data[at + 4 : at + 8], "big")
    data[offset + 8 : offset + 20] = struct.pack(">3i", *(round(65536 * one) for one in (0.6097, 0.3111, 0.0195)))
    return bytes(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_colour_profiles_are_told_and_not_applied(tmp_path: Path, form: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    path, image = tmp_path / "a", Image.fromarray(smooth())
    image.save(path, form)
    plain = load_picture(path)
    assert plain.facts.profile is None
    image.save(path, form, icc_profile=profile("sRGB"))
    usual = load_picture(path)
    assert (usual.facts.profile_shift, usual.facts.warnings) == (0, [])
    image.save(path, form, icc_profile=profile("wide"))
    wide = load_picture(path)
    assert wide.pixels.equal(plain.pixels)
    assert wide.facts.profile_shift > 20
    assert wide.facts.warnings == [
        f"its colour profile ({wide.facts.profile}) is not applied: a viewer shows other colours, by up to "
        f"{wide.facts.profile_shift} of 255 levels"
    ]


def test_profiles_that_cannot_be_read(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=b"no profile")
    (words,) = load_picture(tmp_path / "a.png").facts.warnings
    assert words == "its colour profile (unnamed) is not applied: a viewer may show other colours"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (chunk(b"gAMA", struct.pack(">I", 45455)), None),
        (chunk(b"gAMA", struct.pack(">I", 100000)), "its gamma of 1.0 is not applied: a viewer shows other lightness"),
        (chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 100000)), None),
        (chunk(b"cICP", b"\x01\x0d\0\x01"), None),
        (chunk(b"cICP", b"\x09\x10\0\x01"), "HDR (PQ) is not tone-mapped: a viewer shows more contrast"),
        (chunk(b"cICP", b"\x0c\x0d\0\x01"), "colours of Display P3 are not converted: a viewer shows them more"),
    ],
    ids=["usual gamma", "gamma", "sRGB", "sRGB by cICP", "PQ", "P3"],
)
def test_chunks_of_colour(tmp_path: Path, extra: bytes, words: str | None) -> None:
    (tmp_path / "a.png").write_bytes(png(1, 1, b"\0abc", extra=extra))
    told = load_picture(tmp_path / "a.png").facts.warnings
    assert told == [] if words is None else told[0].startswith(words)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "GIF", "LA", "P", "P bytes"])
def test_transparent_parts_are_told(tmp_path: Path, form: str) -> None:
    """Of what has opacity, only where it is used, as far as that can be seen without reading the pixels twice."""
    for opacity, told in ((255, []), (0, ["transparent parts are laid on white: a viewer may show another ground"])):
        pixels = np.concatenate([smooth(), np.full((48, 64, 1), 255, np.uint8)], axis=2)
        pixels[:9, :9, 3] = opacity
        image, options, kind = Image.fromarray(pixels), {}, form
        if form in ("LA", "P", "P bytes"):
            image, kind = image.convert("LA"), "PNG"
        if form.startswith("P "):
            image = Image.fromarray(np.where(pixels[:, :, 3] > 0, 7, 9).astype(np.uint8)).convert("P")
            options = {"transparency": bytes([255] * 9 + [0]) if form.endswith("bytes") else 9}
        if form == "TIFF":
            options = {"compression": "tiff_lzw"}  # which is not read in parts
        image.save(tmp_path / "a", kind, **options)
        if form == "GIF" and opacity == 255:
            continue  # Pillow gives it a transparent entry all the same
        assert load_picture(tmp_path / "a").facts.warnings == told, (form, opacity)


def test_sixteen_bit_tiffs_in_colour_are_exact(tmp_path: Path, rng: np.random.Generator) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = rng.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    for compression, order in itertools.product((None, "zlib"), "<>"):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression=compression, byteorder=order)
        assert np.array_equal(loaded(tmp_path / "a.tif"), as_loaded(values))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate")
    with pytest.raises(ImageError, match="has 16 bits a channel; convert it to 8 bits a channel, or to PNG, of which"):
        load_image(tmp_path / "a.tif")
