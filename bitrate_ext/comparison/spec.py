"""SPECs: the text that names a codec to compare, and how it is run. Read before PyTorch is imported.

    CODEC[:QUALITY][,OPTION=VALUE]...

``docs/compare.md`` has the table of codecs and options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .. import choices

LETTERS = "abcdefgh"  # of codecs in one comparison
DEMO, DEFAULT_PROJECTION = "demo", "bilinear"
DEFAULTS = {"a": f"{DEMO}:3", "b": f"{DEMO}:6"}
LEVELS = "-vbr"  # how CompressAI's models of variable rate end
RUN = ("quality", "bytes", "name")  # options of any codec
MAPPED = ("bits", "padding", "projection")  # of models
NAMED = ("model", "checkpoint", "key", "metric")  # of models that are named in text
VALUES = {
    "bits": (choices.ESTIMATED, choices.CODED),
    "padding": choices.PADDINGS,
    "projection": (*choices.PROJECTIONS, *choices.MEASURED),
    "metric": choices.METRICS,
}
FUNCTION = re.compile(r"(.+\.py|[^\W\d]\w*(\.[^\W\d]\w*)*):[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Spec:
    """Which codec, and how it is run.

    Args:
        model: ``"demo"``, a model of CompressAI's zoo, or ``"package.module:Class"`` of one's own; of a checkpoint its
            architecture, or None.
        function: ``"package.module:function"`` or ``"file.py:function"`` that codes, in the place of a model.
        quality: of the codec; None: its own default, or searched.
        same_bytes: the letter of the codec whose bytes are searched for, or a number of them.
        name: for titles; None: what the codec is called.
    """

    model: str | None = None
    function: str | None = None
    quality: float | None = None
    same_bytes: str | float | None = None
    name: str | None = None
    checkpoint: str | None = None
    key: str | None = None
    metric: str = choices.METRICS[0]
    bits: str = choices.ESTIMATED
    padding: str = choices.PADDINGS[0]
    projection: str = DEFAULT_PROJECTION


def parse_spec(text: str) -> Spec:
    """Read a SPEC.

    Raises:
        ValueError: it is none; says in one line what was expected, what came, and what would do.
    """
    first, *rest = _parts(text)
    if re.match(r"[A-Za-z_-]+=", first):
        spec = _with_options(Spec(), [first, *rest], (*RUN, *MAPPED, *NAMED))
        if spec.model is None and spec.checkpoint is None:
            raise ValueError(
                f"a SPEC names a codec first, or checkpoint=FILE, got {text!r}; the demo codec is {DEMO},{text}"
            )
        return _checked(spec)
    models = (DEMO, *choices.PUBLISHED)
    codec, sign, quality = first.rpartition(":")
    if sign and (codec in models or _is_number(quality)):
        rest = [f"quality={quality}", *rest]
    else:
        codec = first
    if codec in models:
        return _checked(_with_options(Spec(model=codec), rest, (*RUN, *MAPPED, *NAMED[1:])))
    if FUNCTION.fullmatch(codec):
        return _with_options(Spec(function=codec), rest, RUN, " of a codec function")
    if codec.endswith((".pth", ".pt", ".tar", ".safetensors", ".ckpt")):
        raise ValueError(f"{codec!r} is no codec's name; weights are given as checkpoint={codec}")
    raise ValueError(
        f"a codec is {DEMO}, a model of CompressAI's zoo ({', '.join(choices.PUBLISHED)}), module:function, "
        f"file.py:function, model=module:Class or checkpoint=FILE, got {codec!r}"
    )


def parse_options(text: str, *, function: bool) -> Spec:
    """Read the options of a codec that is given in Python: of a model, or of a codec function.

    Raises:
        ValueError: as ``parse_spec``.
    """
    return _with_options(Spec(), _parts(text), RUN if function else (*RUN, *MAPPED))


def check_references(specs: dict[str, Spec]) -> list[str]:
    """Return letters in the order in which codecs can run: one that takes another's bytes after it.

    Raises:
        ValueError: there is no such other, or they wait for each other; fewer than two.
    """
    if len(specs) < 2:
        raise ValueError(f"two codecs are compared at least, got {len(specs)}")
    order: list[str] = []
    waiting = dict(specs)
    while waiting:
        ready = [one for one, spec in waiting.items() if _waits_for(spec) is None or spec.same_bytes in order]
        for letter, spec in waiting.items():
            other = _waits_for(spec)
            if other is not None and (other not in specs or other == letter):
                others = ", ".join(f"bytes={one}" for one in specs if one != letter)
                raise ValueError(f"{letter}: bytes={other} names no other codec of this comparison; there is {others}")
        if not ready:
            raise ValueError(f"{' and '.join(waiting)} wait for each other's bytes; one of them needs a quality")
        order += ready
        waiting = {one: spec for one, spec in waiting.items() if one not in ready}
    return order


def _waits_for(spec: Spec) -> str | None:
    return spec.same_bytes if isinstance(spec.same_bytes, str) else None


def _parts(text: str) -> list[str]:
    """Split at commas that an option follows, so that names of files may have others."""
    if not text.strip():
        raise ValueError(f"a SPEC is {DEMO}:3, mbt2018-mean:4, checkpoint=FILE or module:function, got nothing")
    return re.split(r",(?=[A-Za-z_-]+=|$)", text)


def _with_options(spec: Spec, parts: Iterable[str], known: tuple[str, ...], of: str = "") -> Spec:
    found: dict[str, str] = {}
    for part in parts:
        option, sign, value = part.partition("=")
        if not sign or option not in known:
            raise ValueError(f"{part!r} is none of the options{of}: {', '.join(f'{one}=' for one in known)}")
        if option in found:
            raise ValueError(f"{option}= is given twice, {found[option]!r} and {value!r}")
        if not value:
            raise ValueError(f"{option}= has no value")
        if option in VALUES:
            choices.check_choice(option, value, VALUES[option])
        found[option] = value
    if "quality" in found and "bytes" in found:
        raise ValueError(f"quality={found['quality']} and bytes={found['bytes']} exclude each other: one sets the rate")
    read: dict[str, str | float] = dict(found)
    if "quality" in found:
        if not _is_number(found["quality"]):
            raise ValueError(f"quality must be a number, got {found['quality']!r}")
        read["quality"] = float(found["quality"])
    if "bytes" in found:
        read["same_bytes"] = _same_bytes(str(read.pop("bytes")))
    return replace(spec, **read)  # type: ignore[arg-type]


def _same_bytes(value: str) -> str | float:
    if value in tuple(LETTERS):
        return value
    if _is_number(value) and float(value) > 0:
        return float(value)
    raise ValueError(f"bytes must be the letter of another codec, such as a, or a number of bytes, got {value!r}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and text == text.strip()
    except ValueError:
        return False


def _checked(spec: Spec) -> Spec:
    """Check that a model's options go together, and that there is such a quality."""
    searched, levels = spec.same_bytes is not None, (spec.model or "").endswith(LEVELS)
    own = ":" in (spec.model or "")
    if spec.key is not None and spec.checkpoint is None:
        raise ValueError(f"key={spec.key} needs checkpoint=FILE")
    if (spec.checkpoint is not None or own) and not levels:
        for option, given in (("quality", spec.quality), ("bytes", spec.same_bytes)):
            if given is not None:
                what = "a checkpoint" if spec.checkpoint is not None else "a model of one's own"
                raise ValueError(f"{option}={given} is not for {what}, which has one rate; leave it out")
    elif spec.checkpoint is None and spec.model == DEMO:
        low, high = choices.DEMO_QUALITIES[0], choices.DEMO_QUALITIES[-1]
        if spec.quality is not None and not low <= spec.quality <= high:
            raise ValueError(f"quality of the demo codec must be from {low} to {high}, got {spec.quality:g}")
        if spec.quality is None and not searched:
            return replace(spec, quality=float(choices.DEMO_QUALITY))
    elif spec.checkpoint is None and spec.model is not None:
        qualities = choices.PUBLISHED.get(spec.model, {}).get(spec.metric, ())
        quality = None if levels else qualities[0] if searched and qualities else spec.quality
        choices.check_published(spec.model, quality, spec.metric)  # type: ignore[arg-type]
    return spec
