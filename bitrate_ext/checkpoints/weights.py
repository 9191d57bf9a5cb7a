"""Find the weights in what a checkpoint holds: wherever they are nested, whatever prefix wrappers gave their names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..io.files import shown

Weights = dict[str, Tensor]

DEEPEST = 8  # mappings within one another
SHOWN = 8  # keys in a message
AVERAGED = re.compile(r"(^|[._])ema([._]|$)", re.IGNORECASE)  # of a mapping whose weights are a mean over training


def find_weights(content: Any) -> dict[str, Weights]:
    """Find all mappings of names to tensors, by where they are: keys that are joined by dots.

    The state of an optimizer is none, nor are figures of training: names of weights are text, all the way to them, and
    some weight has a dimension. Nothing is looked for in a mapping that has weights among other things.
    """
    found: dict[str, Weights] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for path, mapping in waiting:
        if not isinstance(mapping, dict) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        entries = dict.items(mapping)  # of a file's own methods none is called: it may have set some
        tensors = [(name, value) for name, value in entries if isinstance(value, Tensor)]
        if len(tensors) == len(entries) and any(value.dim() for _, value in tensors):
            found[".".join(path)] = dict(tensors)
        elif len(path) < DEEPEST and not any(isinstance(name, str) and "." in name for name, _ in tensors):
            waiting += [((*path, name), value) for name, value in entries if isinstance(name, str)]
    return found


def choose_weights(
    path: Path, content: Any, key: str | None = None, fits: Callable[[Weights], bool] = lambda _: True
) -> Weights:
    """Choose the weights in a checkpoint.

    Args:
        path: of the file, for messages.
        content: of it.
        key: where they are, as ``find_weights`` says it, and further the start of their names if need be. Default: the
            only ones that fit, or of equal ones the only ones called ``ema``, which a warning then says.
        fits: whether weights may be those of the model.

    Raises:
        ValueError: there are none, none with that key, or several; says which there are.
    """
    found = find_weights(content)
    if not found:
        got = f"the keys {_listed(dict.keys(content))}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{shown(path)} must hold a state dict, at the top or under a key such as 'state_dict', got {got}"
        )
    if key is not None:
        return _with_key(path, found, key)
    if len(found) == 1:
        (only,) = found.values()
        return only
    fitting = {where: weights for where, weights in found.items() if any(map(fits, prefixes_off(weights)))} or found
    averaged = [where for where in fitting if AVERAGED.search(where)]
    shapes = [{name: weight.shape for name, weight in weights.items()} for weights in fitting.values()]
    if len(fitting) > 1 and len(averaged) == 1 and all(one == shapes[0] for one in shapes):
        others = ", ".join(where for where in fitting if where not in averaged)
        warnings.warn(
            f"{path.name} holds weights and their average; {averaged[0]} is used, and key={others} (--key {others}) "
            "asks for the other",
            stacklevel=3,
        )
        return fitting[averaged[0]]
    if len(fitting) > 1:
        raise ValueError(
            f"{shown(path)} holds {len(fitting)} state dicts, under {_listed(fitting)}; choose one with key (--key "
            f"{next(iter(fitting)) or next(reversed(fitting))})"
        )
    (only,) = fitting.values()
    return only


def prefixes_off(weights: Mapping[str, Tensor]) -> Iterator[Weights]:
    """Yield weights as they are, and without each prefix that all names have, such as ``module.`` or ``_orig_mod.``.

    Counters beside such names, as the ``n_averaged`` of PyTorch's own averages, are left out with the prefix.
    """
    current = dict(weights)
    yield current
    while all(isinstance(name, str) for name in current):
        parts = {name: name.partition(".") for name, weight in current.items() if "." in name or weight.dim()}
        if len({head for head, _, _ in parts.values()}) != 1 or not all(rest for _, _, rest in parts.values()):
            return
        current = {rest: current[name] for name, (_, _, rest) in parts.items()}
        yield current


def _with_key(path: Path, found: Mapping[str, Weights], key: str) -> Weights:
    if key in found:
        return found[key]
    for where, weights in found.items():
        start = f"{key}."[len(where) + 1 :] if where else f"{key}."
        if where and not key.startswith(f"{where}."):
            continue
        below = {name[len(start) :]: weight for name, weight in weights.items() if str(name).startswith(start)}
        if below:
            return below
    raise ValueError(f"{shown(path)} holds no state dict under the key {key!r}; it has some under {_listed(found)}")


def _listed(keys: Any) -> str:
    shown = [repr(key) if key != "" else "'' (the top)" for key in list(keys)[:SHOWN]]
    return ", ".join(shown) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
