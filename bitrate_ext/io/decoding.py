"""Opening and decoding picture files: checked by their headers first, then by Pillow, its plug-ins, or here.

Trouble of whatever kind becomes an ``ImageError``, one line that names the file and the cause.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..byte_sizes import format_bytes
from ..optional import install_command, installed_version, require
from .facts import GAMMA, HDR, WIDE, PictureFacts, profile_of
from .files import shown, unusable
from .headers import NAMES, SNIFFED, Stated, kind_of, stated
from .netpbm import NetpbmFile
from .pixels import TURNS, Samples, has_transparent, to_tensor, turned
from .tiff_tags import BITS_PER_SAMPLE, OTHERWISE, PHOTOMETRIC, WHITE_IS_ZERO, hushed, tags_of, why_unread_tiff

if TYPE_CHECKING:
    from PIL import Image

PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}
_FEATURES = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # of Pillow, which may be built without
_WHOLE = {
    "TIFF": 4,
    "WEBP": 12,
    "AVIF": 12,
    "HEIF": 12,
    "JXL": 32,
    "JPEG2000": 24,
}  # bytes a pixel, beside those that Pillow keeps
_COUNTED_APART = ("GIF", "TIFF")  # counting frames goes through the file, which may be damaged behind the first
_SHIFTED_UP = ("JPEG2000", "HEIF")  # what has less than 16 bits, in those of 16
_ORIENTATION = 274
_ASIDE = (5, 6, 7, 8)  # orientations that swap width and height
_DEEP = {  # colour types of a 16-bit PNG: what Pillow is to make of it, and of which bytes, so that none is lost
    2: ("RGB", ("RGB;16B", "RGB;16L")),
    4: ("RGBA", ("RGBA",)),  # two bytes of grey, two of opacity
    6: ("RGBA", ("RGBA;16B", "RGBA;16L")),
}
_END_OF_JPEG = b"\xff\xd9"
_BLOCK_ROW = 16  # rows of pixels that a JPEG's blocks take at most
_UNSUPPORTED = re.compile(  # in what Pillow and its plug-ins say of files that are not damaged
    "unsupported|not supported|cannot handle|unknown (raw mode|pixel mode|data organi)|value for samples", re.IGNORECASE
)

_SAID = {  # what tells a user nothing, or something wrong
    "not identified by this driver": "no size or kind of pixels in its header",
    "Please build `libjxl`": "its decoder gives no reason",
    "Missing dimensions": "no size in its header",
}


class ImageError(ValueError):
    """A file that cannot be read as an image; the message is one line and names the file.

    Example:
        >>> try:
        ...     bitrate_ext.map_picture(model, "missing.png", folder / "bits.npz")
        ... except bitrate_ext.ImageError as error:
        ...     print("missing.png" in str(error))
        True
    """


class ImageMemoryError(ImageError, MemoryError):
    """A file that takes more memory than there is."""


class PictureFile:
    """A picture whose header has been read, and whose pixels have not.

    Args:
        path: of the file.
        kind: of ``headers.NAMES``.
        start: the file's first bytes.
    """

    def __init__(self, path: Path, kind: str, start: bytes) -> None:
        self._path, self.kind = path, kind
        self._stated = Stated() if kind == "PNM" else stated(kind, start)
        self._colour = start[25] if kind == "PNG" and len(start) > 25 else None  # PNG's colour type
        self._netpbm = NetpbmFile(path) if kind == "PNM" else None
        # The plug-in of JPEG XL decodes as it opens.
        self._image = None if kind in ("PNM", "JXL") else self._open()
        size: tuple[int, int] = self._stated.size or (self._netpbm or self._image).size  # type: ignore[union-attr]
        self.width, self.height = size

    def close(self) -> None:
        """Close the file; what was decoded of it stays."""
        if self._image is not None:
            self._image.__exit__()

    @property
    def upright(self) -> tuple[int, int]:
        """Return width and height as EXIF data turn them; of JPEG XL, as they are stored."""
        turned_aside = self._image is not None and self._turn(self._image) in _ASIDE
        return (self.height, self.width) if turned_aside else (self.width, self.height)

    @property
    def decoding_bytes(self) -> int:
        """Return the most bytes that decoding takes, from the header."""
        if self._netpbm is not None:
            return self._netpbm.decoding_bytes
        each = _WHOLE.get(self.kind, 0) + (4 if self._image is None else _pixel_bytes(self._image))
        if self._is_deep_png:
            each = 32
        if self.kind == "JPEG" and self._image is not None and self._image.info.get("progressive"):
            each += 2 * len(self._image.getbands())  # 16-bit coefficients of all its samples
        return int(self.width * self.height) * each

    @property
    def _is_deep_png(self) -> bool:
        return self._stated.bits == 16 and self._colour in _DEEP

    def _open(self) -> Image.Image:
        from PIL import Image

        if self.kind == "HEIF":
            heif: Image.Image = import_module(PLUGINS["HEIF"]).HeifImageFile(self._path)
            return heif
        image = Image.open(self._path, formats=(self.kind,))
        if self.kind == "TIFF":
            plain_grey = image.mode.startswith("I;16") and image.tag_v2.get(PHOTOMETRIC) != WHITE_IS_ZERO
            reason = why_unread_tiff(image.tag_v2, plain_grey)
            if reason is not None:
                image.close()
                raise ImageError(f"{shown(self._path)}: {reason}")
        return image

    def decode(self, most_bytes: int | None = None) -> tuple[Image.Image | Samples, PictureFacts]:
        """Decode the first frame, and turn it as its EXIF data say.

        Args:
            most_bytes: that turning it may take. Default: any.
        """
        if self._netpbm is not None:
            samples, more = self._netpbm.read()
            mode = "RGB" if samples.values.shape[2] == 3 else "L"
            bits = self._netpbm.bits
            return samples, PictureFacts(self.kind, mode, bits, bits, frames=None if more else 1)
        image = self._image = self._image or self._open()
        frames = self._frames(image)
        missing = _load(image, ended=self.kind == "JPEG")
        decoded: Image.Image | Samples = self._deep_png(image) if self._is_deep_png else image
        turn = self._turn(image)
        if turn != 1:
            if most_bytes is not None:
                check_declared(self._path, image.size, 2 * image.width * image.height * _pixel_bytes(image), most_bytes)
            decoded = turned(decoded, turn)
        bits = self._bits(image)
        if self.kind in _SHIFTED_UP and image.mode == "I;16" and bits < 16:
            decoded = Samples(np.asarray(decoded)[:, :, None] >> (16 - bits), (1 << bits) - 1)
        if image.mode == "F":
            raise ImageError(f"{shown(self._path)}: has floating-point samples; {OTHERWISE}")
        to_tensor(decoded.crop((0, 0, 1, 1)))  # that it can be made RGB is seen here
        return decoded, self._facts(image, decoded, frames, turn, missing)

    def _frames(self, image: Image.Image) -> int | None:
        if self.kind not in _COUNTED_APART:
            return None if self._stated.animated else int(getattr(image, "n_frames", 1))
        with contextlib.suppress(Exception), self._open() as counted:  # damaged behind the first
            return int(getattr(counted, "n_frames", 1))
        return None

    def _turn(self, image: Image.Image) -> int:
        """Return EXIF's number of the turn that is to be applied; JPEG XL's decoder has turned what is not a JPEG."""
        if self.kind == "JXL" and not getattr(image, "jpeg", False):
            return 1
        with contextlib.suppress(Exception):  # of damaged EXIF data anything
            turn = image.getexif().get(_ORIENTATION, 1)
            return turn if turn in TURNS else 1
        return 1

    def _deep_png(self, image: Image.Image) -> Samples:
        """Read both bytes of 16-bit samples in colour, of which Pillow gives the first ones or the second ones."""
        from PIL import Image

        assert self._colour is not None
        mode, byte_orders = _DEEP[self._colour]
        parts = []
        for order in byte_orders:
            with Image.open(self._path, formats=("PNG",)) as part:
                part._mode = mode
                part.tile = [(*part.tile[0][:3], order)]
                part.load()
                parts.append(np.asarray(part).astype(np.uint16))
        high, low = parts if len(parts) == 2 else (parts[0][:, :, ::2], parts[0][:, :, 1::2])
        values = high << 8 | low
        hidden = image.info.get("transparency")
        return Samples(values, 65535, None if hidden is None else (values == np.array(hidden)).all(axis=2))

    def _bits(self, image: Image.Image) -> int:
        if self.kind == "TIFF":
            return int(max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))))
        return int(image.info.get("bit_depth", self._stated.bits))  # which HEIF's plug-in tells

    def _facts(
        self,
        image: Image.Image,
        decoded: Image.Image | Samples,
        frames: int | None,
        turn: int,
        missing: int | None,
    ) -> PictureFacts:
        bits = self._bits(image)
        deep = isinstance(decoded, Samples) or decoded.mode.startswith("I")
        name, shift = profile_of(image.info.get("icc_profile"), image.mode)
        gamma = image.info.get("gamma")
        plain = name is not None or "srgb" in image.info or self._stated.primaries is not None
        if plain or not isinstance(gamma, float) or abs(gamma / GAMMA - 1) < 0.02:
            gamma = None
        return PictureFacts(
            image.format or self.kind,
            image.mode,
            bits,
            min(bits, 16 if deep else 8),
            frames=frames,
            orientation=turn,
            transparent=decoded.has_transparent if isinstance(decoded, Samples) else has_transparent(decoded),
            profile=name,
            profile_shift=shift,
            gamma=gamma,
            primaries=None if name is not None else WIDE.get(self._stated.primaries or 0),
            hdr=HDR.get(self._stated.transfer or 0),
            rows_missing=missing,
        )


def _load(image: Image.Image, ended: bool) -> int | None:
    """Decode a frame; of a JPEG that lacks its end, as far as it goes, and return how many rows are missing.

    The end mark is put where the file ends, and the library leaves grey what it has nothing of.

    Raises:
        OSError: no whole row of blocks of it can be decoded.
    """
    added = False

    def read(count: int) -> bytes:
        nonlocal added
        data: bytes = image.fp.read(count)
        if data or added:
            return data
        added = True
        return _END_OF_JPEG

    if ended:
        image.load_read = read
    image.load()
    if not added:
        return None
    missing = 0
    grey = (127, 128)  # the second of inks, which Pillow turns round
    for top in reversed(range(image.height)):
        row = np.asarray(image.crop((0, top, image.width, top + 1)))
        if not any((row == level).all() for level in grey):
            break
        missing += 1
    if missing >= max(1, image.height - _BLOCK_ROW):
        raise OSError("it ends in its first row of blocks")
    return missing


@contextlib.contextmanager
def open_checked(path: Path, most_bytes: int | None = None) -> Iterator[PictureFile]:
    """Open a file, checked but not decoded; trouble in the block becomes an ``ImageError``.

    Args:
        path: of the file.
        most_bytes: that decoding may take, checked against the declared size before. Default: Pillow's limit of pixels.
    """
    from PIL import Image

    check_file(path)
    kind = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on damaged metadata, which the pixels do not need
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file:
                start = file.read(SNIFFED)
            kind = kind_of(start)
            if kind is None:
                raise ImageError(f"{shown(path)}: not a {', '.join(list(NAMES.values())[:-1])}, {NAMES['PNM']} image")
            _check_reader(path, kind)
            lifted = contextlib.nullcontext() if most_bytes is None else lift_pixel_limit()
            quiet = hushed() if kind == "TIFF" else contextlib.nullcontext()
            with lifted, quiet, contextlib.closing(PictureFile(path, kind, start)) as picture:
                if most_bytes is None:
                    check_pixels(path, picture.width, picture.height)
                else:
                    check_declared(path, (picture.width, picture.height), picture.decoding_bytes, most_bytes)
                yield picture
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except MemoryError:
        raise ImageMemoryError(f"{shown(path)}: not enough memory to read the image") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{shown(path)}: {_why_unidentified(path, str(kind))}") from None
    except Exception as error:  # decoders fed with damaged bytes raise anything, from SyntaxError to struct.error
        raise ImageError(f"{shown(path)}: {why_unread(error)}") from error


def _check_reader(path: Path, kind: str) -> None:
    """Refuse a kind of picture that nothing here reads, and say what would."""
    from PIL import features

    try:
        if kind in PLUGINS:
            require(PLUGINS[kind])
        elif kind in _FEATURES and not features.check(_FEATURES[kind]):
            version = installed_version("pillow")
            raise ImportError(f"Pillow {version} here is without it; install another with {install_command('PIL')}")
    except ImportError as error:
        raise ImageError(f"{shown(path)}: is a sound {NAMES[kind]} file as far as can be told; {error}") from error


def why_unread(error: Exception) -> str:
    """Say what kind of trouble an error of Pillow's is: with the system, with what Pillow can do, or with the file."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = next((words for said, words in _SAID.items() if said in reason), reason)
    if _UNSUPPORTED.search(reason):
        return f"is of a kind that is not read here ({reason}); {OTHERWISE}"
    return f"the image is damaged or cut short ({reason})"


def _why_unidentified(path: Path, kind: str) -> str:
    """Say why Pillow opens no file of that content: it swallows what the format's own reader raises."""
    from PIL import Image

    with path.open("rb") as file, warnings.catch_warnings(), hushed():
        warnings.simplefilter("ignore")
        try:
            Image.OPEN[kind][0](file, str(path)).close()
        except Exception as error:
            return (kind == "TIFF" and why_unread_tiff(tags_of(path))) or why_unread(error)
    return "the image is damaged or cut short"


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


def _pixel_bytes(image: Image.Image) -> int:
    """Return the bytes of a decoded pixel, as Pillow keeps it."""
    return 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4


def check_file(path: Path) -> None:
    """Refuse what is no regular file before anything is opened: opening a pipe would wait for its other end."""
    reason = unusable(path, "an image")
    if reason is not None:
        raise ImageError(f"{shown(path)}: {reason}")
