"""What a measurement depends on, as one word: the weights, the images and every argument."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .field import FORMAT

METHOD = 1  # of measuring: what is in the cache of another one is not used


def fingerprint(
    model: nn.Module,
    arguments: tuple[Any, ...],
    images: Iterable[Tensor],
    forward_kwargs: dict[str, Any],
) -> str:
    """Hash all that a measurement depends on."""
    digest = hashlib.sha256()
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    digest.update(repr((FORMAT, METHOD, kind, str(model), *arguments)).encode())
    for name, value in [*model.state_dict().items(), *enumerate(images), *sorted(forward_kwargs.items())]:
        digest.update(repr(name).encode())
        _enter(digest, value)
    return digest.hexdigest()[:32]


def weights_fingerprint(models: Iterable[nn.Module]) -> str:
    """Hash the parameters of models, in order."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in model.named_parameters():
            digest.update(repr(name).encode())
            _enter(digest, value)
    return digest.hexdigest()[:32]


def _bytes_of(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's values, in order, whatever its layout."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    flat = tensor.resolve_conj().resolve_neg().reshape(-1).clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes()


def _enter(digest: hashlib._Hash, value: Any) -> None:
    """Hash a value with all that is in it: tensors of any layout, dtype and shape by their bytes."""
    if isinstance(value, Tensor) and value.is_nested:
        _enter(digest, value.unbind())
    elif isinstance(value, Tensor):
        digest.update(repr((value.dtype, tuple(value.shape))).encode())
        if not value.is_meta:  # which has no values
            digest.update(_bytes_of(value.detach().cpu()))
    elif isinstance(value, (Mapping, list, tuple)):
        digest.update(f"{type(value).__name__} of {len(value)}".encode())
        for part in value.items() if isinstance(value, Mapping) else value:
            _enter(digest, part)
    else:
        digest.update(repr(value).encode())
