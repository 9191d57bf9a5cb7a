"""Make a model by what commands and SPECs call it; a user's own by importing it, calling it and giving it weights.

Its code is run, as that of any import is.
"""

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
from . import demo_codec, zoo
from .zoo import is_table, make_ready, read_checkpoint

SHOWN = 3  # names of weights in a message, of each kind
CLOSE = 0.5  # how alike a name must be that is proposed


def load_named(
    name: str | None = None,
    quality: float | None = None,
    metric: str = "mse",
    checkpoint: str | None = None,
    key: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    forward_only: bool = False,
) -> tuple[nn.Module, str]:
    """Load a model, and say what to call it.

    Args:
        name: of CompressAI's, or ``"package.module:Class"`` of one's own. None: the demo codec, or the architecture
            that the checkpoint fits.
        quality: of published weights; of the demo codec any number between its first and its last, too.
        metric: that published weights were trained for.
        checkpoint: a file of weights.
        key: where they are in it.
        arguments: of the maker of one's own model.
        forward_only: of the demo codec the forward pass is enough, without parts that can be watched.

    Raises:
        ValueError, OSError, RuntimeError, ImportError: as ``load_own_model``, ``load_checkpoint``, ``load_zoo_model``,
            ``load_demo_codec``.
    """
    if name is not None and ":" in name:
        file = "" if checkpoint is None else f", {Path(checkpoint).name}"
        return load_own_model(name, arguments, checkpoint, key), f"{name.partition(':')[2]}{file}"
    if checkpoint is not None:
        model = zoo.load_checkpoint(checkpoint, name, key)
        return model, f"{Path(checkpoint).name} ({name or type(model).__name__})"
    if name is not None:
        whole = None if quality is None else int(quality)
        about = "" if whole is None else f", quality {whole}"
        return zoo.load_zoo_model(name, whole, metric), f"{name}{about}, {metric}"
    assert quality is not None
    if quality != int(quality):
        return demo_codec.load_between(quality, forward_only=forward_only), f"demo codec, quality {quality:.4g}"
    load = demo_codec.load_demo_forward if forward_only else demo_codec.load_demo_codec
    return load(int(quality)), f"demo codec, quality {quality:.0f}"


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
