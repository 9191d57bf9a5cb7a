"""Make a user's own model: import it, call it, put weights into it. Its code is run, as that of any import is."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import nn

from ..checkpoints.safety import check_weights
from ..checkpoints.weights import Weights, choose_weights, prefixes_off
from ..io.files import shown
from .zoo import is_table, make_ready, read_checkpoint

SHOWN = 3  # names of weights in a message, of each kind
CLOSE = 0.5  # how alike a name must be that is proposed


def load_own_model(
    name: str, arguments: Mapping[str, Any] | None = None, checkpoint: str | Path | None = None, key: str | None = None
) -> nn.Module:
    """Make a model of one's own by name, in eval mode, with weights from a file and coder tables built.

    Args:
        name: ``"package.module:Class"``, or a function in the place of the class. The current folder is searched, too.
        arguments: keywords for it.
        checkpoint: its weights, as for ``load_checkpoint``; default: those that it is made with.
        key: where they are in the file; default: found.

    Raises:
        ValueError: there is no such module, class or function; it fails, or makes no ``nn.Module``; the weights do not
            fit.
        FileNotFoundError: no such checkpoint.
    """
    arguments = dict(arguments or {})
    called = f"{name.partition(':')[2]}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    maker = import_named(name, "a class or a function that makes a model")
    try:
        model = maker(**arguments)
    except Exception as error:
        raise ValueError(f"{called} raised {_words(error)}") from error
    if not isinstance(model, nn.Module):
        hint = "; call it, or name what it makes" if callable(model) else ""
        raise ValueError(f"{called} must make a torch.nn.Module, got {type(model).__name__}{hint}")
    if checkpoint is not None:
        _put_weights(model, Path(checkpoint), key, called)
    try:
        return make_ready(model)
    except ValueError:
        raise
    except Exception as error:  # of its own update
        raise ValueError(f"coder tables of {called} cannot be built: {_words(error)}") from error


def import_named(name: str, what: str) -> Callable[..., Any]:
    """Import a class or a function.

    Args:
        name: ``"package.module:Class"``, looked for in the current folder, too, or ``"folder/file.py:function"``.
        what: it is to be, for messages.

    Raises:
        ValueError: there is none of that name; or it fails while it is imported.
    """
    home, _, last = name.rpartition(":")
    file = Path(home) if home.endswith(".py") else None
    folder = os.getcwd() if file is None else os.path.abspath(file.parent)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    if file is not None and not file.is_file():
        raise ValueError(f"there is no file {shown(file)}")
    try:
        found: Any = importlib.import_module(home) if file is None else _run_file(file)
    except ModuleNotFoundError as error:
        if file is None and error.name is not None and f"{home}.".startswith(f"{error.name}."):
            raise ValueError(
                f"there is no module {error.name!r}, neither in {os.getcwd()} nor among what is installed"
            ) from error
        raise ValueError(f"module {home!r} cannot be imported: {_words(error)}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"module {home!r} cannot be imported: {_words(error)}") from error
    for part in last.split("."):
        if not hasattr(found, part):
            public = {one: value for one, value in vars(found).items() if not one.startswith("_")}
            models = [one for one, value in public.items() if isinstance(value, type) and issubclass(value, nn.Module)]
            close = difflib.get_close_matches(part, public, cutoff=CLOSE) or models
            hint = f"; it has {', '.join(close[:5])}" if close else ""
            origin = f" ({found.__file__})" if getattr(found, "__file__", None) else ""
            raise ValueError(f"{getattr(found, '__name__', home)!r}{origin} has no {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} must be {what}, got {type(found).__name__}")
    return cast(Callable[..., Any], found)


def _run_file(file: Path) -> ModuleType:
    """Run a file of Python as a module that is called as the file is, which takes no other module's place."""
    spec = importlib.util.spec_from_file_location(file.name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _put_weights(model: nn.Module, path: Path, key: str | None, called: str) -> None:
    own = model.state_dict()
    needed = {name: value.shape for name, value in own.items() if not is_table(name)}

    def fits(weights: Weights) -> bool:
        return all(name in weights and weights[name].shape == shape for name, shape in needed.items())

    weights = choose_weights(path, read_checkpoint(path)[0], key, fits)
    check_weights(path, weights)
    weights = max(prefixes_off(weights), key=lambda one: len(needed.keys() & one.keys()))
    weights = {name: weight for name, weight in weights.items() if not is_table(name)}
    unlike = [name for name, shape in needed.items() if name in weights and weights[name].shape != shape]
    if unlike:
        first = unlike[0]
        raise ValueError(
            f"the weights in {shown(path)} do not fit {called}: {len(unlike)} of {len(needed)} have another shape, as "
            f"{first}"
            f": {list(weights[first].shape)} in the file, {list(needed[first])} in the model; give the arguments that "
            "it was trained with (--model-args)"
        )
    try:
        # Coder tables follow from the weights, and in a file may have any size: the model keeps its own until then.
        result = model.load_state_dict({**{name: own[name] for name in own if is_table(name)}, **weights}, strict=False)
    except Exception as error:
        raise ValueError(f"the weights in {shown(path)} do not fit {called}: {_words(error)}") from error
    missing = [name for name in getattr(result, "missing_keys", ()) if not is_table(name)]
    unexpected = list(getattr(result, "unexpected_keys", ()))
    if missing or unexpected:
        raise ValueError(
            f"the weights in {shown(path)} do not fit {called}: of the model's {len(needed)}, "
            f"{_some(missing, 'missing')}; of the file's {len(weights)}, {_some(unexpected, 'unexpected')}. Give the "
            "class and the arguments that it was trained with (--model, --model-args), or say where its weights are in "
            "the file (--key)"
        )


def _some(names: list[str], what: str) -> str:
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} {'is' if len(names) == 1 else 'are'} {what}" + (f" ({shown})" if names else "")


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
