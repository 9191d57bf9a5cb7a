"""Load a model by what commands and SPECs call it: the demo codec, one of the zoo, a checkpoint, one of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from . import demo_codec, own, zoo


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
        return own.load_own_model(name, arguments, checkpoint, key), f"{name.partition(':')[2]}{file}"
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
