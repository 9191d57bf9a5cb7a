"""Reading masks and label images: which region each pixel is of, as stored, without colours."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .decoding import ImageError, open_checked
from .files import shown
from .headers import NAMES
from .pixels import Samples

if TYPE_CHECKING:
    from PIL import Image

_LOSSY = "JPEG"
_INSTEAD = "save labels in grey or with a palette"


def load_labels(path: str | PathLike[str]) -> NDArray[Any]:
    """Read a mask or labels from a picture file, turned as its EXIF data say.

    Grey levels and numbers of a palette's entries are labels. What has only black and white is a mask, white inside;
    and so is the opacity of a picture that has some: inside is what is at least half opaque.

    Returns:
        bool ``[H, W]`` of a mask, int64 ``[H, W]`` of labels.

    Raises:
        ImageError: as ``load_image``; also of JPEG, which does not keep labels, of colours, and of a picture that is
            opaque everywhere.
    """
    path = Path(path)
    with open_checked(path) as picture:
        if picture.kind == _LOSSY:
            raise ImageError(f"{shown(path)}: {NAMES[_LOSSY]} does not keep labels; save them as PNG")
        decoded, facts = picture.decode()
        samples, largest = _samples(decoded)
        depth = _png_depth(path) if picture.kind == "PNG" and facts.mode == "L" else 8
        if depth in (2, 4):  # which Pillow stretches to eight bits
            largest = 2**depth - 1
            samples = samples // (255 // largest)
    if samples.shape[2] in (2, 4):
        inside: NDArray[Any] = 2 * samples[:, :, -1].astype(np.int64) > (largest or 0)
        if inside.all():
            raise ImageError(f"{shown(path)}: is opaque everywhere and so no mask; {_INSTEAD}")
        return inside
    labels = samples[:, :, 0]
    if (samples != samples[:, :, :1]).any():
        raise ImageError(f"{shown(path)}: colours are no labels; {_INSTEAD}")
    white = largest is not None and bool(((labels == 0) | (labels == largest)).all())
    return labels == largest if white else labels.astype(np.int64)


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _samples(decoded: Image.Image | Samples) -> tuple[NDArray[Any], int | None]:
    """Return whole numbers ``[H, W, C]`` and what white is; None of a palette's numbers."""
    if isinstance(decoded, Samples):
        return decoded.values, decoded.largest
    if decoded.mode in ("PA", "La", "RGBa"):
        decoded = decoded.convert("RGBA")
    values = np.asarray(decoded)
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    largest = {"P": None, "1": 1}.get(decoded.mode, 65535 if decoded.mode.startswith("I") else 255)
    return values if values.ndim == 3 else values[:, :, None], largest
