"""Codecs that are compared: each is a function from a picture and a quality to the picture's bits."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..cells.picture import PictureBits
from ..checks import as_given
from ..choices import CODED, DEMO_QUALITIES, ESTIMATED, MEASURED, PADDINGS, PROJECTIONS, PUBLISHED
from ..mapping.mapper import BitrateMapper
from ..memory import is_out_of_memory
from ..models import zoo
from ..models.adapter import ModelAdapter
from ..models.own import import_named, load_named
from .spec import DEFAULT_PROJECTION, DEMO, LEVELS, Spec

CodecFunction = Callable[[Tensor, float | None], PictureBits]
Loader = Callable[..., tuple[nn.Module, str]]
KEPT = 8  # models, as many as one search takes
UNREADABLE = (*zoo.MISFIT, OSError, AttributeError)  # what loading a model raises


class ModelCodec:
    """A model as a codec function.

    Args:
        load: gives the model at a quality, or a mapper of it, and its name; is asked once for each.
        bits, padding, projection: as for ``BitrateMapper``.
        qualities: where it spends the fewest bytes, and where the most; None where it has one rate.
        whole: only whole numbers are among them.
        levels: the model is one of variable rate, whose level the quality is.
    """

    def __init__(
        self,
        load: Callable[[float | None], tuple[Any, str]],
        *,
        bits: str = ESTIMATED,
        padding: str = PADDINGS[0],
        projection: str = DEFAULT_PROJECTION,
        qualities: tuple[float, float] | None = None,
        whole: bool = False,
        levels: bool = False,
    ) -> None:
        self._load = load
        self._options: dict[str, Any] = {"bits": bits, "padding": padding, "projection": projection}
        self._qualities, self.whole, self._levels = qualities, whole, levels
        self._mappers: dict[float | None, tuple[BitrateMapper, str]] = {}

    @property
    def qualities(self) -> tuple[float, float] | None:
        """Where it spends the fewest bytes, and where the most."""
        return (0.0, len(self.mapper(None)[0].model.Gain) - 1.0) if self._levels else self._qualities  # type: ignore[attr-defined]

    @cached_property
    def draft(self) -> ModelCodec:
        """The codec with a projection that needs no measuring, which gives the same bits; itself where it has one."""
        if self._options["projection"] not in MEASURED:
            return self
        options = {**self._options, "projection": DEFAULT_PROJECTION}
        return ModelCodec(self._load, qualities=self._qualities, whole=self.whole, levels=self._levels, **options)

    def mapper(self, quality: float | None) -> tuple[BitrateMapper, str]:
        """Return the mapper of a quality, loaded where it is not there yet, and the model's name."""
        quality = None if self._levels else quality
        if quality not in self._mappers:
            while len(self._mappers) >= KEPT:
                del self._mappers[next(iter(self._mappers))]
            model, name = self._load(quality)
            if not isinstance(model, BitrateMapper):
                model = BitrateMapper(model, gap=self._options["bits"] == CODED, **self._options)
            self._mappers[quality] = model, name
        return self._mappers[quality]

    def __call__(self, image: Tensor, quality: float | None) -> PictureBits:
        """Return the bits of an image ``[1, C, H, W]`` in [0, 1] at a quality.

        Raises:
            ValueError: the model has one rate, or no such one.
        """
        quality = float(zoo.FIRST_LEVEL) if self._levels and quality is None else quality
        self._check(quality)
        mapper, name = self.mapper(quality)
        model: Any = mapper.model
        defaults = {"padding": PADDINGS[0], "projection": DEFAULT_PROJECTION}
        name = ", ".join([name, *(self._options[one] for one in defaults if self._options[one] != defaults[one])])
        forward: dict[str, Any] = {}
        if self._levels and quality is not None:
            forward, name = zoo.level_arguments(model, quality), f"{name}, level {quality:.4g}"
            if self._options["bits"] == CODED:
                zoo.set_level(model, quality)
        weights: Any = model.state_dict().values() if isinstance(model, nn.Module) else ()
        place: torch.device = next(iter(weights), image).device
        with as_given(image, "image"):
            result = mapper(image.to(place), **forward)
        return result.image(0, name=name, picture=image)

    def _check(self, quality: float | None) -> None:
        if quality is None:
            return
        if self.qualities is None:
            raise ValueError(f"quality={quality:g} is not for a model of one rate; leave it out")
        low, high = sorted(self.qualities)
        if not low <= quality <= high or (self.whole and quality != int(quality)):
            what = "a whole number" if self.whole else "a number"
            raise ValueError(f"quality must be {what} from {low:g} to {high:g}, got {quality:g}")

    @property
    def models(self) -> list[Any]:
        """Those that are loaded."""
        return [mapper.model for mapper, _ in self._mappers.values()]


class Contender:
    """One of the codecs of a comparison, with the rate at which it takes part.

    Args:
        codec: a codec function; of one whose rate is searched, with an attribute ``qualities``.
        spec: how it takes part.
    """

    def __init__(self, codec: CodecFunction, spec: Spec) -> None:
        self.codec, self.spec = codec, spec

    def encode(self, image: Tensor, quality: float | None, *, draft: bool = False) -> PictureBits:
        """Return the bits of an image ``[1, C, H, W]`` at a quality.

        Args:
            image: in [0, 1].
            quality: as the codec takes it.
            draft: bits alone are wanted, wherever they lie.

        Raises:
            ValueError: a codec function failed; says how and where.
            TypeError: it gave no ``PictureBits``.
        """
        if isinstance(self.codec, ModelCodec):
            return self._named((self.codec.draft if draft else self.codec)(image, quality))
        try:
            made = self.codec(image, quality)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            hint = (
                ""
                if _takes_image(self.codec)
                else ("; it must take an image and a quality, and what makes a model is given as model=module:name")
            )
            raise ValueError(f"the codec function {called(self.codec)} {_trouble(error)}{hint}") from error
        if not isinstance(made, PictureBits):
            raise TypeError(
                f"the codec function {called(self.codec)} must return a PictureBits, got {type(made).__name__}"
                f"{'; what makes a model is given as model=module:name' if isinstance(made, nn.Module) else ''}"
            )
        if made.picture is None and made.size == tuple(image.shape[2:]):
            made = replace(made, picture=image)
        made = self._named(made)
        told = self.spec.name is not None or quality is None or "quality" in made.name
        return made if told else replace(made, name=f"{made.name}, quality {quality:.4g}")

    def _named(self, made: PictureBits) -> PictureBits:
        name = self.spec.name or made.name or called(self.codec)
        return made if name == made.name else replace(made, name=name)

    @property
    def has_draft(self) -> bool:
        """Whether drafts are others than what is encoded in the end."""
        return isinstance(self.codec, ModelCodec) and self.codec.draft is not self.codec

    def prepare(self) -> None:
        """Load what is needed in any case.

        Raises:
            ValueError: it cannot be loaded, or its rate cannot be searched.
        """
        if self.spec.same_bytes is not None and self.qualities is None:
            raise ValueError(
                f"bytes={self.spec.same_bytes} needs a codec whose quality can be searched; give {called(self.codec)} "
                "the attribute qualities = (FEWEST_BYTES, MOST_BYTES), or a quality"
            )
        if self.spec.same_bytes is None and isinstance(self.codec, ModelCodec):
            self.codec.mapper(self.spec.quality)

    @property
    def qualities(self) -> tuple[float, float] | None:
        """Where it spends the fewest bytes, and where the most; None where it has one rate.

        Raises:
            ValueError: they are no two numbers.
        """
        found: Any = getattr(self.codec, "qualities", None)
        if found is None:
            return None
        try:
            first, last = map(float, found)
        except (TypeError, ValueError):
            first = last = 0.0
        if first == last:
            raise ValueError(
                f"qualities of {called(self.codec)} must be two numbers, those of the fewest and of the most bytes, "
                f"such as (1, 95), got {found!r}"
            )
        return first, last

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are among its qualities."""
        return bool(getattr(self.codec, "whole", False))


def keep_loaded() -> Loader:
    """Return ``load_named`` for one comparison, which loads each model once."""
    return cast(Loader, lru_cache(maxsize=KEPT)(load_named))


def contender_of(spec: Spec, device: torch.device, load: Loader) -> Contender:
    """Return the codec that a SPEC names; models are loaded when they are first needed.

    Raises:
        ValueError: there is no such codec function.
    """
    if spec.function is not None:
        return Contender(import_named(spec.function, "a function that codes"), spec)
    name = None if spec.model == DEMO else spec.model
    forward_only = spec.bits == ESTIMATED and spec.projection in PROJECTIONS

    def load_at(quality: float | None) -> tuple[nn.Module, str]:
        try:
            model, called = load(name, quality, spec.metric, spec.checkpoint, spec.key, forward_only=forward_only)
            return model.to(device), called
        except UNREADABLE as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"the model cannot be loaded: {' '.join(str(error).split()) or type(error).__name__}"
            ) from error

    published = PUBLISHED.get(name or "", {}).get(spec.metric, ())
    qualities = DEMO_QUALITIES if spec.model == DEMO else () if spec.checkpoint is not None else published
    levels = (name or "").endswith(LEVELS)
    codec = ModelCodec(
        load_at,
        bits=spec.bits,
        padding=spec.padding,
        projection=spec.projection,
        qualities=(float(qualities[0]), float(qualities[-1])) if qualities else None,
        whole=spec.model != DEMO and not levels,
        levels=levels,
    )
    return Contender(codec, spec)


def contender_from(codec: Any, spec: Spec) -> Contender:
    """Return a codec that is given in Python: a model, an adapter, a mapper, or a codec function.

    Raises:
        TypeError: it is none of them.
    """
    if is_model(codec):
        model = getattr(codec, "model", codec) if isinstance(codec, (BitrateMapper, ModelAdapter)) else codec
        name = type(model).__name__
        options: dict[str, Any] = {"bits": spec.bits, "padding": spec.padding, "projection": spec.projection}
        return Contender(ModelCodec(lambda _: (codec, name), **options), spec)
    if not callable(codec) or isinstance(codec, type):
        what = f"the class {codec.__name__}" if isinstance(codec, type) else type(codec).__name__
        raise TypeError(f"a codec must be a SPEC, a model, a BitrateMapper or a codec function, got {what}")
    return Contender(codec, spec)


def is_model(codec: Any) -> bool:
    """Return whether a codec is a model or a mapper, and no codec function."""
    return isinstance(codec, (nn.Module, ModelAdapter, BitrateMapper))


def called(codec: Any) -> str:
    """Return what to call a codec that says nothing of it."""
    return str(getattr(codec, "__name__", None) or type(codec).__name__)


def _takes_image(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # it tells nothing
        pass
    return True


def _trouble(error: Exception) -> str:
    """Say in one line what a function raised, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())
    return f"raised {type(error).__name__}: {words[:300]} ({Path(place.filename).name}, line {place.lineno})"
