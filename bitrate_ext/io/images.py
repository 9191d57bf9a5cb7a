"""Reading images: a file in, ``[1, 3, H, W]`` in [0, 1] out, or an error that says what is wrong with the file.

A codec should see what a viewer shows: EXIF rotation is applied, transparent parts are laid on white, palettes and CMYK
become RGB, grey becomes three equal channels. Values are taken as stored: embedded colour profiles are not applied.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..byte_sizes import format_bytes
from .files import shown, unusable

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_TIFF_BITS_PER_SAMPLE, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 259, 262, 339
_ORIENTATION = 274
_PNG_GREY, _TIFF_WHITE_IS_ZERO, _TIFF_UNSIGNED = 0, 0, 1
_ADVICE = "convert it to 8 bits a channel (16-bit grey is read as it is)"
_OTHERWISE = "convert it, to PNG for instance"
_COMPRESSIONS = {34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}
_OPTIONAL_CODECS = ("lzma", "zstd", "webp")  # of libtiff; Pillow's names
_UNSUPPORTED = re.compile(  # in what Pillow says of files that are not damaged
    "unsupported|not supported|cannot handle|unknown (pixel mode|data organi)|value for samples", re.IGNORECASE
)


class ImageError(ValueError):
    """A file that cannot be read as an image; the message is one line and names the file."""


def load_image(path: str | PathLike[str]) -> Tensor:
    """Read a PNG, JPEG, WebP, TIFF or BMP file as a viewer shows it.

    Eight bits a channel, or 16-bit grey at full precision. Of several frames or pages the first is read, with a
    ``UserWarning``.

    Returns:
        float32 ``[1, 3, H, W]``, red, green and blue in [0, 1].

    Raises:
        ImageError: missing, not a regular file, not an image, damaged, too large, sound but compressed or laid out in
            a way that Pillow does not read, or of a depth that it would cut to eight bits without a word (16-bit
            colour, 32-bit and floating-point files).
    """
    path = Path(path)
    with open_checked(path) as image:
        frames = getattr(image, "n_frames", 1)
        x = to_tensor(decode_upright(path, image))
    warn_of_frames(path, frames, stacklevel=3)
    return x


def warn_of_frames(path: Path, frames: int, stacklevel: int) -> None:
    """Warn where a file has more frames or pages than the first."""
    if frames > 1:
        warnings.warn(
            f"{shown(path)}: has {frames} frames or pages; only the first is read", UserWarning, stacklevel=stacklevel
        )


@contextlib.contextmanager
def open_checked(path: Path, most_bytes: int | None = None) -> Iterator[Image.Image]:
    """Open a file's first frame by Pillow, checked but not decoded; trouble in the block becomes an ``ImageError``.

    Args:
        path: of the file.
        most_bytes: that decoding may take, checked against the declared size before. Default: Pillow's limit of pixels.
    """
    from PIL import Image, UnidentifiedImageError

    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on damaged metadata, which the pixels do not need
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            lifted = contextlib.nullcontext() if most_bytes is None else lift_pixel_limit()
            with lifted, Image.open(path, formats=FORMATS) as image:
                _check_depth(path, image)
                image.seek(0)
                if most_bytes is not None:
                    check_declared(path, image.size, decoding_bytes(image), most_bytes)
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{shown(path)}: {_why_unidentified(path)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except MemoryError:
        raise ImageError(f"{shown(path)}: not enough memory to read the image") from None
    except Exception as error:  # decoders fed with damaged bytes raise anything, from SyntaxError to struct.error
        raise ImageError(f"{shown(path)}: {why_unread(error)}") from error


def why_unread(error: Exception) -> str:
    """Say what kind of trouble an error of Pillow's is: with the system, with what Pillow can do, or with the file."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    reason = " ".join(str(error).split()) or type(error).__name__
    if _UNSUPPORTED.search(reason):
        return f"is of a kind that is not read here ({reason}); {_OTHERWISE}"
    return f"the image is damaged or cut short ({reason})"


def _why_unidentified(path: Path) -> str:
    """Say why Pillow opens no file of that content: it swallows what the format's own reader raises."""
    from PIL import Image

    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = file.read(16)
        for form in FORMATS:
            reader, accept = Image.OPEN[form]
            if accept is None or accept(start) is not True:
                continue
            try:
                file.seek(0)
                reader(file, str(path))
            except Exception as error:
                return (form == "TIFF" and _tiff_unread(_tiff_tags(path))) or why_unread(error)
    return "not a PNG, JPEG, WebP, TIFF or BMP image that can be read"


@contextlib.contextmanager
def lift_pixel_limit() -> Iterator[None]:
    """Lift Pillow's limit of pixels, which is global, where another one is checked."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse what Pillow would take for a bomb."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(path)


def _too_large(path: Path) -> ImageError:
    from PIL import Image

    limit = f"{Image.MAX_IMAGE_PIXELS:,}" if Image.MAX_IMAGE_PIXELS else "the limit of"
    return ImageError(
        f"{shown(path)}: the image is larger than {limit} pixels; crop it, cut it into tiles, or give a memory limit "
        "that admits it (--max-memory)"
    )


def check_declared(path: Path, size: tuple[int, int], needed: int, most_bytes: int) -> None:
    """Refuse an image whose header promises more than there is room for."""
    if needed > most_bytes:
        raise ImageError(
            f"{shown(path)}: {size[0]:,} x {size[1]:,} pixels take {format_bytes(needed)} to decode, and the memory "
            f"limit leaves {format_bytes(most_bytes)}; a TIFF file, uncompressed or deflated in tiles, can be read in "
            "parts"
        )


def decoding_bytes(image: Image.Image) -> int:
    """Return the most bytes that Pillow takes to decode an image, from its header."""
    # WebP comes as a whole before it is copied; a progressive JPEG keeps 16-bit coefficients of all its samples.
    whole = 12 if image.format == "WEBP" else 0
    if image.format == "JPEG" and image.info.get("progressive"):
        whole = 2 * len(image.getbands())
    return int(image.width * image.height) * (_pixel_bytes(image) + whole)


def _pixel_bytes(image: Image.Image) -> int:
    """Return the bytes of a decoded pixel, as Pillow keeps it."""
    return 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4


def check_file(path: Path) -> None:
    """Refuse what is no regular file before anything is opened: opening a pipe would wait for its other end."""
    reason = unusable(path, "an image")
    if reason is not None:
        raise ImageError(f"{shown(path)}: {reason}")


def _check_depth(path: Path, image: Image.Image) -> None:
    """Refuse what Pillow would read wrongly or cut to eight bits, from the file's own header."""
    if image.format == "PNG":
        with path.open("rb") as file:
            depth, colour = file.read(26)[24:26]  # of the IHDR chunk, which always comes first
        if depth == 16 and colour != _PNG_GREY:
            raise ImageError(f"{shown(path)}: has 16 bits a channel; {_ADVICE}")
    if image.format == "TIFF":
        plain_grey = image.mode.startswith("I;16") and image.tag_v2.get(_TIFF_PHOTOMETRIC) != _TIFF_WHITE_IS_ZERO
        reason = _tiff_unread(image.tag_v2, plain_grey)
        if reason is not None:
            raise ImageError(f"{shown(path)}: {reason}")


def _tiff_unread(tags: Mapping[int, Any], plain_grey: bool = False) -> str | None:
    """Say what a sound TIFF file has that is not read; None where nothing of it is known to be."""
    compression = tags.get(_TIFF_COMPRESSION, 1)
    if not _decompresses(compression):
        kind = _COMPRESSIONS.get(compression, "other")
        return f"is a TIFF file of {kind} compression ({compression}), which is not read here; {_OTHERWISE}"
    depths = set(tags.get(_TIFF_BITS_PER_SAMPLE, (1,)))
    if set(tags.get(_TIFF_SAMPLE_FORMAT, (_TIFF_UNSIGNED,))) != {_TIFF_UNSIGNED}:
        return "has floating-point or signed samples; convert it to 8 bits a channel"
    if max(depths) > 8 and not (depths == {16} and plain_grey):
        return f"has {' and '.join(map(str, sorted(depths)))} bits a channel; {_ADVICE}"
    return None


def _decompresses(compression: int) -> bool:
    """Tell whether Pillow has a decoder for TIFF's number of a compression."""
    from PIL import Image
    from PIL.TiffImagePlugin import COMPRESSION_INFO

    codec = COMPRESSION_INFO.get(compression)
    if codec not in _OPTIONAL_CODECS:
        return codec is not None
    try:  # what it can write it can read
        Image.new("RGB", (16, 16)).save(io.BytesIO(), "TIFF", compression=codec)
    except Exception:
        return False
    return True


def _tiff_tags(path: Path) -> Mapping[int, Any]:
    """Return the tags of a TIFF file's first page; none where they are damaged."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        with path.open("rb") as file:
            header = file.read(8)
            tags = ImageFileDirectory_v2(header + (file.read(8) if b"+" in header[2:4] else b""))
            file.seek(tags.next)
            tags.load(file)
            return dict(tags)
    except Exception:
        return {}


def decode_upright(path: Path, image: Image.Image, most_bytes: int | None = None) -> Image.Image:
    """Decode the frame that the file stands at, and turn it as its EXIF data say."""
    from PIL import ImageOps

    image.load()  # EXIF data may come after the pixels
    if most_bytes is not None and image.getexif().get(_ORIENTATION, 1) != 1:
        check_declared(path, image.size, 2 * image.width * image.height * _pixel_bytes(image), most_bytes)
    ImageOps.exif_transpose(image, in_place=True)  # otherwise it copies those that are upright, too
    return image


def to_tensor(upright: Image.Image) -> Tensor:
    """Return an upright frame, or a part of one, as float32 ``[1, 3, H, W]`` in [0, 1]."""
    return torch.from_numpy(_to_rgb(upright)).permute(2, 0, 1).unsqueeze(0).contiguous()


def _to_rgb(upright: Image.Image) -> NDArray[np.float32]:
    """Return float32 ``[H, W, 3]`` in [0, 1]."""
    from PIL import Image

    transparent = upright.info.get("transparency")
    if upright.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):  # 16-bit grey; "I" in Pillow before 11
        grey = np.asarray(upright).astype(np.float32) / 65535
        if isinstance(transparent, int):  # PNG's one transparent level
            grey[np.asarray(upright) == transparent] = 1.0
        return np.repeat(grey[:, :, None], 3, axis=2)
    if transparent is not None or upright.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB")).astype(np.float32) / 255
