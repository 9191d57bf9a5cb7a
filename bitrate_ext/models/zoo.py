"""Load CompressAI's models safely: its published weights, and checkpoints of one's own.

Files are read as data only (``checkpoints``, or safetensors), so no code in them ever runs. CompressAI's own
``pretrained=True`` unpickles what it downloads. ``compressai`` is imported when a model is asked for, not before.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import safety
from ..checkpoints.inert import check_no_whole_model, read_inert
from ..checkpoints.safety import check_weights
from ..checkpoints.weights import Weights, choose_weights, find_weights, prefixes_off
from ..choices import check_choice, check_published
from ..io.files import shown
from ..optional import require
from .fuse import TABLES

FIRST_LEVEL = 1  # of variable-rate models, where none is asked for
MISFIT = (RuntimeError, KeyError, ValueError, TypeError, IndexError, AssertionError)  # of weights and architecture


def _architectures() -> dict[str, type[nn.Module]]:
    """Return those of images and of video: all but point clouds."""
    require("compressai.models")
    others = require("compressai.zoo").pointcloud_models
    registry = require("compressai.registry").MODELS
    return {name: architecture for name, architecture in registry.items() if name not in others}


def load_zoo_model(name: str, quality: int | None = None, metric: str = "mse") -> nn.Module:
    """Load a model of CompressAI's zoo with its published weights, in eval mode, coder tables built.

    The weights are downloaded once, into ``torch.hub``'s cache.

    Args:
        name: such as ``"mbt2018-mean"``, or ``"ssf2020"``, the video model.
        quality: 1 (fewest bits) to 6, 8 or 9. None for the variable-rate models (``"...-vbr"``): they have one
            checkpoint, and their rate is chosen at each call, ``mapper(x, s=level)``.
        metric: the distortion that it was trained for, ``"mse"`` or ``"ms-ssim"``.

    Raises:
        ValueError: there are no such weights; says which there are.
        RuntimeError: they could not be downloaded or read.
        ImportError: CompressAI is not installed.

    Example:
        >>> model = bitrate_ext.models.load_zoo_model("mbt2018-mean", quality=3)  # doctest: +SKIP
        >>> try:
        ...     bitrate_ext.models.load_zoo_model("mbt2018-mean", quality=9)
        ... except ValueError as error:
        ...     print("there are 8 qualities")
        there are 8 qualities
    """
    check_published(name, quality, metric)
    homes = [require(f"compressai.zoo.{home}") for home in ("image", "image_vbr", "video")]
    home = next(home for home in homes if name in home.model_urls)
    url = home.model_urls[name][metric]
    if not isinstance(url, str):  # by quality
        url = url[quality]
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub announces the download on stdout
            weights = torch.hub.load_state_dict_from_url(
                url,
                model_dir=str(torch_folder() / "checkpoints"),
                map_location="cpu",
                check_hash=True,
                weights_only=True,
            )
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise RuntimeError(f"the weights of {name!r} could not be loaded from {url}: {_first_line(error)}") from error
    return make_ready(build(home.model_architectures[name], _prepared(weights)))


def torch_folder() -> Path:
    """Return PyTorch's folder for downloads; PyTorch takes a variable that is set but empty for the current folder."""
    empty = {name: "" for name in ("TORCH_HOME", "XDG_CACHE_HOME") if os.environ.get(name) == ""}
    for name in empty:
        del os.environ[name]
    try:
        return Path(torch.hub.get_dir())
    finally:
        os.environ.update(empty)


def load_checkpoint(path: str | Path, name: str | None = None, key: str | None = None) -> nn.Module:
    """Load a CompressAI image or video model from a file of weights, in eval mode, coder tables built.

    Args:
        path: a ``.safetensors`` file, or what ``torch.save`` wrote: a state dict, or a training checkpoint that holds
            one, however deep, among other things, of which nothing is run. A safetensors file of parameters alone needs
            the constructor's ``N`` and ``M`` in its metadata.
        name: the architecture's registry name, such as ``"mbt2018-mean"``. Default: the only one that the weights fit.
        key: where the weights are in the file, keys joined by dots. Default: found.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, holds a whole pickled model or code, no weights or several, or they do not fit.
        ImportError: CompressAI is not installed.

    Example:
        >>> torch.save(compressai.models.FactorizedPrior(8, 12).state_dict(), folder / "weights.pth")
        >>> model = bitrate_ext.models.load_checkpoint(folder / "weights.pth", "bmshj2018-factorized")
        >>> model.training
        False
    """
    path = Path(path)
    architectures = _architectures()
    if name is not None:
        check_choice("name", name, sorted(architectures))
    content, sizes = read_checkpoint(path)
    weights = choose_weights(path, content, key, _is_codec)
    check_weights(path, weights)
    *_, weights = prefixes_off(weights)  # every codec has several parts, so that none of them is a prefix
    weights = _prepared(weights)
    if name is None:
        name = _only_fit(path, architectures, weights, sizes)
    try:
        safety.rehearse(build, architectures[name], weights, sizes)
        return make_ready(build(architectures[name], weights, sizes))
    except MISFIT as error:
        raise ValueError(f"the weights in {shown(path)} do not fit {name!r}: {_reason(error)}") from error


def read_checkpoint(path: Path) -> tuple[Any, tuple[int, ...]]:
    """Return what a file holds, and the constructor's arguments where its metadata has them; nothing of it is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds code or whole pickled models.
        ImportError: safetensors is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {shown(path)}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content, objects = read_inert(path)
    if not find_weights(content):
        check_no_whole_model(path, content, objects)
    return content, ()


def _is_codec(weights: Weights) -> bool:
    return any(str(name).endswith("quantiles") for name in weights)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _reason(error: BaseException) -> str:
    """Say why weights do not fit, in one line; PyTorch lists every key."""
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r} in it"
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return the tensors of a file, and the constructor's arguments where its metadata has them.

    Raises:
        ValueError: it is damaged.
        ImportError: safetensors is not installed.
    """
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dict
            sizes = tuple(int(metadata[key]) for key in ("N", "M") if key in metadata)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{shown(path)} is not a readable safetensors file: {_first_line(error)}") from error
    return weights, sizes


def is_table(name: str) -> bool:
    """Return whether a name is that of a coder's table, which follows from the weights."""
    return name.rpartition(".")[2] in (*TABLES, "scale_table")


def _prepared(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename keys to those of the installed CompressAI (from older versions' and ``DataParallel``'s), and empty tables.

    Tables are rebuilt from the weights in any case, and CompressAI refuses those of its own variable-rate models.
    """
    renamed = require("compressai.zoo.pretrained").load_pretrained(weights)
    return {key: value.new_empty(0) if key.endswith(TABLES) else value for key, value in renamed.items()}


def build(architecture: Any, weights: Mapping[str, Tensor], sizes: tuple[int, ...] = ()) -> nn.Module:
    """Build a model with these weights.

    Coder tables may be missing from the weights; with ``sizes``, the constructor's arguments, other buffers, too.

    Raises:
        MISFIT: they do not fit.
    """
    if sizes:
        model: nn.Module = architecture(*sizes)
        missing = [key for key, _ in model.named_parameters() if key not in weights]
        if missing:
            raise KeyError(missing[0])
        model.load_state_dict({**model.state_dict(), **weights})
        return model
    # Variable-rate models have an optional part, which from_state_dict cannot tell from the weights.
    optional = {"vr_entbttlnck": True} if any(key.startswith("gayn2zqstep.") for key in weights) else {}

    class Completed(architecture):  # type: ignore[misc]
        """The architecture, whose own tables, empty, stand in for those that are missing."""

        def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
            tables = {key: table for key, table in self.state_dict().items() if is_table(key)}
            return super().load_state_dict({**tables, **state_dict}, *args, **kwargs)

    Completed.__name__ = architecture.__name__  # in messages
    completed: nn.Module = Completed.from_state_dict(dict(weights), **optional)
    completed.__class__ = architecture
    return completed


def _only_fit(
    path: Path, architectures: Mapping[str, Any], weights: Mapping[str, Tensor], sizes: tuple[int, ...]
) -> str:
    """Find the one architecture that takes these weights, by trying each.

    Raises:
        ValueError: none does, or several.
    """
    fitting = []
    for name, architecture in architectures.items():
        with contextlib.suppress(*MISFIT):
            if not safety.rehearse(build, architecture, weights, sizes):
                build(architecture, weights, sizes)
            fitting.append(name)
    if len(fitting) != 1:
        found = f"fit {' and '.join(map(repr, fitting))}" if fitting else "fit no known architecture"
        known = ", ".join(map(repr, sorted(architectures)))
        raise ValueError(f"the weights in {shown(path)} {found}; name the architecture, one of {known}")
    return fitting[0]


def set_level(model: nn.Module, level: Any) -> None:
    """Make the coder tables of a variable-rate model those of one of its levels; of other models nothing is changed.

    Args:
        model: CompressAI's, or one built like them, with its gains in ``Gain``.
        level: what its ``forward`` calls ``s``, or a number between two; one that it does not have is left for it to
            refuse.
    """
    update: Any = getattr(model, "update", None)
    known = isinstance(level, (int, float)) and 0 <= level <= len(getattr(model, "Gain", ())) - 1
    if known and callable(update) and "scale" in inspect.signature(update).parameters:
        update(force=True, scale=_gain_at(model, level))


def level_arguments(model: nn.Module, level: float) -> dict[str, Any]:
    """Return what a variable-rate model's ``forward`` and ``compress`` get for one of its levels, or between two."""
    return {"s": int(level)} if level == int(level) else {"inputscale": _gain_at(model, level)}


def _gain_at(model: Any, level: float) -> Tensor:
    lower, part = math.floor(level), level - math.floor(level)
    gains: Tensor = model.Gain.detach()
    return gains[lower] if not part else gains[lower] ** (1 - part) * gains[lower + 1] ** part


def make_ready(model: nn.Module) -> nn.Module:
    """Set eval mode, and make coder tables of the weights: tables in a checkpoint may be older than them.

    Models that have no ``update`` with ``force``, as CompressAI's have, have no such tables.

    Raises:
        ValueError: the weights ask for tables of a senseless length.
    """
    model.eval()
    safety.check_quantiles(model)
    update: Any = getattr(model, "update", None)
    if callable(update) and "force" in inspect.signature(update).parameters:
        update(force=True)
    return model
