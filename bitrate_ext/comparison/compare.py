"""Compare codecs on pictures: the call that users make."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, overload

import torch
from torch import Tensor

from ..cells.picture import PictureBits
from ..checks import check_layout
from ..io.images import load_image
from .contender import Contender, contender_from, contender_of, is_model, keep_loaded
from .rate import TOLERANCE, Found, bytes_of, find_quality
from .result import Comparison, make_comparison, share_scale
from .spec import DEFAULTS, LETTERS, Spec, check_references, parse_options, parse_spec

Image = Tensor | str | PathLike[str]


class Comparer:
    """Codecs that are ready to be compared on any number of pictures; each model is loaded once.

    Args:
        codecs: at least two, by their letters: SPECs as text or read, models, mappers, codec functions, or pairs of one
            of them and a quality or options as text.
        device: that models named by SPECs are run on.

    Raises:
        ValueError, TypeError: one is none, or cannot be loaded; its letter comes first.
    """

    def __init__(self, codecs: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        load, place = keep_loaded(), torch.device(device)

        def contender(codec: Any) -> Contender:
            if isinstance(codec, str):
                codec = parse_spec(codec)
            if isinstance(codec, Spec):
                return contender_of(codec, place, load)
            codec, how = codec if isinstance(codec, tuple) and len(codec) == 2 else (codec, None)
            if isinstance(how, str):
                return contender_from(codec, parse_options(how, function=not is_model(codec)))
            return contender_from(codec, Spec(quality=None if how is None else float(how)))

        self.contenders: dict[str, Contender] = {}
        for letter, codec in codecs.items():
            with _named(letter):
                self.contenders[letter] = contender(codec)
        self._order = check_references({letter: one.spec for letter, one in self.contenders.items()})
        for letter in self._order:
            with _named(letter):
                self.contenders[letter].prepare()

    @property
    def models(self) -> Iterator[Any]:
        """Those that are loaded."""
        for one in self.contenders.values():
            yield from getattr(one.codec, "models", ())

    def __call__(self, image: Tensor, limit: float | None = None) -> Comparison:
        """Compare on one image.

        Args:
            image: ``[1, C, H, W]`` in [0, 1].
            limit: where the scale of the maps ends, bits per pixel. Default: by this image.

        Raises:
            ValueError, TypeError: a codec cannot code it, or what they made cannot be compared.
        """
        check_layout(image, "image")
        if image.shape[0] != 1:
            raise ValueError(f"image must be [1, C, H, W], got {list(image.shape)}; give several as a list")
        made: dict[str, PictureBits] = {}
        found: dict[str, Found] = {}
        for letter in self._order:
            one, same = self.contenders[letter], self.contenders[letter].spec.same_bytes
            with _named(letter):
                if same is None:
                    made[letter] = one.encode(image, one.spec.quality)
                else:
                    found[letter] = _search(one, image, bytes_of(made[same]) if isinstance(same, str) else same)
                    made[letter] = found[letter].bits
        asked = {letter: one.spec.quality for letter, one in self.contenders.items()}
        return make_comparison({letter: made[letter] for letter in self.contenders}, found, asked, limit)


@overload
def compare(image: Image, a: Any = ..., b: Any = ..., **more: Any) -> Comparison: ...
@overload
def compare(image: Sequence[Image], a: Any = ..., b: Any = ..., **more: Any) -> list[Comparison]: ...


def compare(
    image: Image | Sequence[Image],
    a: Any = DEFAULTS["a"],
    b: Any = DEFAULTS["b"],
    *,
    limit: float | None = None,
    device: torch.device | str = "cpu",
    **more: Any,
) -> Comparison | list[Comparison]:
    """Lay the bits of two codecs or more on one picture beside each other, in one scale.

    Args:
        image: ``[1, C, H, W]`` in [0, 1], or a file of one; or several of them, which share the scale.
        a, b: the codecs: a SPEC as text, such as ``"demo:3"``, ``"mbt2018-mean:4,bits=coded"``, ``"demo,bytes=a"`` (see
            docs/compare.md); a model, which is mapped as ``BitrateMapper`` does; a ``BitrateMapper``; or a codec
            function ``f(image, quality)`` that returns a ``PictureBits``. All but a SPEC may be the first of a pair,
            with a quality or with options as text: ``(jpeg, 75)``, ``(jpeg, "bytes=a")``. Default: the demo codec at
            quality 3 and 6.
        limit: where the scale of the maps ends, bits per pixel. Default: that of the costliest map.
        device: that models named by SPECs are run on; others stay where they are.
        **more: further codecs, ``c=...`` to ``h=...``.

    Returns:
        A ``Comparison``; of several images a list of them.

    Raises:
        ValueError, TypeError: a codec is none, cannot be loaded or cannot code the image; or what they made cannot be
            compared, being of other sizes or colour channels. The message begins with its letter.

    Example:
        >>> both = bitrate_ext.compare(x, (model, None), "demo:1")
        >>> float(both.difference("a", "b").mean()) > 0  # the first spends more
        True
    """
    for letter in more:
        if letter not in tuple(LETTERS):
            raise TypeError(f"codecs are called {', '.join(LETTERS)}, got {letter!r}")
    comparer = Comparer({"a": a, "b": b, **dict(sorted(more.items()))}, device)
    several = isinstance(image, Sequence) and not isinstance(image, str)
    images: Sequence[Any] = image if several else [image]  # type: ignore[assignment]
    made = [comparer(load_image(one) if isinstance(one, (str, PathLike)) else one, limit) for one in images]
    if not several:
        return made[0]
    return share_scale(made) if limit is None else made


def _search(one: Contender, image: Tensor, target: float) -> Found:
    qualities = one.qualities
    assert qualities is not None
    found = find_quality(lambda quality: one.encode(image, quality, draft=True), target, qualities, whole=one.whole)
    bits = one.encode(image, found.quality) if one.has_draft else found.bits
    if abs(found.off) > TOLERANCE:
        step = "whole number" if one.whole else "quality"
        told = (
            f"bytes={one.spec.same_bytes} is not reached: the nearest {step} from {qualities[0]:g} to {qualities[1]:g} "
            f"is {found.quality:.4g}, with {bytes_of(bits):,.0f} bytes for {target:,.0f}, {100 * found.off:+.1f} %"
        )
        bits = replace(bits, warnings=(*bits.warnings, told))
    return replace(found, bits=bits)


@contextlib.contextmanager
def _named(letter: str) -> Iterator[None]:
    """Put the codec's letter before what the block says where it fails."""
    try:
        yield
    except (ValueError, TypeError) as error:
        error.args = (f"{letter}: {error}",) if len(error.args) == 1 else error.args
        raise
