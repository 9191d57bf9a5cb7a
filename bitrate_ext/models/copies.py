"""Copies of models, of foreign ones too: what cannot be copied is shared with the copy."""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..memory import is_out_of_memory

Module = TypeVar("Module", bound=nn.Module)
ATOMIC = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
CONTAINERS = (Mapping, list, tuple, set, frozenset, types.MethodType, nn.Module)  # copied if their parts can be


@torch.inference_mode(False)  # or else a copy's buffers could not be written to outside of it
def copy_model(model: Module, *, parameters: bool = True) -> Module:
    """Copy a model, whose state then is its own.

    Where ``copy.deepcopy`` fails, tensors with a history, as PyTorch's older ``weight_norm`` keeps, are copied without
    it, and objects that cannot be copied, such as the C++ encoder in an entropy model of an older CompressAI, are
    shared with the copy.

    Args:
        model: any module.
        parameters: copy them as well; otherwise they are shared, which takes no memory.

    Raises:
        ValueError: it cannot be copied even so.
    """
    memo: dict[int, Any] = {} if parameters else {id(one): one for one in model.parameters()}
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception as error:  # of whatever is in the model
        if is_out_of_memory(error):
            raise
    try:
        _enter(model, memo)
        return copy.deepcopy(model, memo)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"model must be one that copy.deepcopy can copy, and of {type(model).__name__} it says: {error}; give the "
            "module that it fails on a method __deepcopy__"
        ) from error


def _enter(model: nn.Module, memo: dict[int, Any]) -> None:
    """Enter into the memo of ``copy.deepcopy`` what is to stand for the parts of a model that it cannot copy."""
    seen: dict[int, Any] = {}  # values that stay alive, so that no other gets their id
    waiting, whole, composed = [model], list[Any](), list[Any]()
    while waiting:
        value: Any = waiting.pop()
        if id(value) in memo or id(value) in seen or isinstance(value, ATOMIC):
            continue
        seen[id(value)] = value
        if isinstance(value, torch.Generator):
            memo[id(value)] = value.clone_state()
        elif isinstance(value, Tensor):
            if not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        else:
            parts = _parts(value)
            waiting += parts
            if not isinstance(value, CONTAINERS):
                (composed if parts else whole).append(value)
    for value in (*whole, *composed):
        try:
            copy.deepcopy(value, dict(memo))
        except Exception as error:  # of whatever it is
            if is_out_of_memory(error):
                raise
            memo[id(value)] = value


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    return list(getattr(value, "__dict__", {}).values())
