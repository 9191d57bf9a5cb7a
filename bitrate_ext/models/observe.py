"""Watch a model run and leave it as it was found: hooks always go, and tensors are what and where they were."""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Before = Callable[[Any, tuple[Any, ...]], None]
After = Callable[[str, Any, tuple[Any, ...], dict[str, Any], Any], Any]

PLAIN = {bool, int, float, str}
WATCHES = "_watches"  # attribute of a watcher: the method that it stands for


@contextlib.contextmanager
def watch_calls(modules: Iterable[tuple[str, nn.Module]], after: After, before: Before | None = None) -> Iterator[None]:
    """Watch the calls of modules while the block runs.

    Args:
        modules: and their names, as ``named_modules`` gives them.
        after: called as ``after(name, module, args, kwargs, output)``; what it returns replaces the output, unless it
            is None.
        before: called as ``before(module, args)``.
    """
    with contextlib.ExitStack() as stack:
        for name, module in modules:
            if before is not None:
                stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(partial(after, name), with_kwargs=True).remove)
        yield


def unwatched(function: Any) -> Any:
    """Return the method that a watcher stands for, which another thread may have put in its place."""
    return getattr(function, WATCHES, function)


@contextlib.contextmanager
def watch_method(method: types.MethodType, after: After, before: Before) -> Iterator[None]:
    """Watch the calls of an object's method while the block runs, by those who look it up on the object.

    Args:
        method: bound to the object, under its own name.
        after: called as ``after(name, method, args, kwargs, output)``, with its qualified name.
        before: called as ``before(method, args)``.
    """

    def watched(*args: Any, **kwargs: Any) -> Any:
        before(method, args)
        output = method(*args, **kwargs)
        after(method.__qualname__, method, args, kwargs, output)
        return output

    vars(watched)[WATCHES] = method
    attributes, name = vars(method.__self__), method.__name__
    with _watching:
        own = attributes.get(name, watched)
        attributes[name] = watched
        try:
            yield
        finally:
            if own is watched:
                del attributes[name]
            else:
                attributes[name] = own


@contextlib.contextmanager
def leave_as_found(model: object) -> Iterator[None]:
    """Run a model in the block, and put back what its own code has done to its parameters and buffers.

    A forward pass may set weights anew, as CompressAI's masked convolutions do (``weight.data = weight.data * mask``).
    In inference mode the weight would be an inference tensor from then on, which no later call with gradients could
    use: the block is outside of that mode, gradients are recorded or not as before it. At its end every tensor has the
    memory that it had, and wants gradients or not as it did. Values that are written in place stay: they could only be
    put back from a copy of the whole model. So do those of a model that notes in an attribute what it has done, and
    would not do it again, such as fold its branches into one weight at the first call: into the memory that was there.

    Blocks may be nested, and several threads may run one model: the last to leave puts back what the first has found.

    Args:
        model: others than modules are only kept out of inference mode.
    """
    recorded = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(recorded):
        if not isinstance(model, nn.Module):
            yield
            return
        with _lock:
            found = _found.get(model) or _found.setdefault(model, _Found.of(model))
            found.blocks += 1
        try:
            yield
        finally:
            with _lock:
                found.blocks -= 1
                if not found.blocks:
                    del _found[model]
                    found.put_back(model)


@dataclass(eq=False)
class _Found:
    """The tensors of a model, with an alias of the memory of each and whether it wants gradients; and its notes."""

    tensors: list[tuple[Tensor, Tensor, bool]]
    notes: list[dict[str, Any]]
    blocks: int = 0  # that have not ended

    @classmethod
    def of(cls, model: nn.Module) -> _Found:
        own = [one for one in (*model.parameters(), *model.buffers()) if _has_memory(one)]
        return cls([(one, one.detach(), one.requires_grad) for one in own], _notes(model))

    def put_back(self, model: nn.Module) -> None:
        moved = [(tensor, alias) for tensor, alias, _ in self.tensors if not tensor.is_set_to(alias)]
        if moved and _notes(model) != self.notes:
            kept = [(one, alias) for one, alias in moved if (one.shape, one.dtype) == (alias.shape, alias.dtype)]
            moved = [(tensor, alias.copy_(tensor.detach())) for tensor, alias in kept]
        for tensor, alias in moved:
            tensor.data = alias
        for tensor, _, wants_gradients in self.tensors:
            if tensor.requires_grad != wants_gradients:
                tensor.requires_grad_(wants_gradients)


def _notes(model: nn.Module) -> list[dict[str, Any]]:
    """Return the plain attributes of a model's modules, but for PyTorch's own, whose code notes nothing."""
    theirs = [module for module in model.modules() if not type(module).__module__.startswith("torch.nn.")]
    return [{key: value for key, value in vars(module).items() if type(value) in PLAIN} for module in theirs]


def _has_memory(tensor: Tensor) -> bool:
    """Return whether a tensor has memory that PyTorch can compare: sparse, quantised, nested and lazy ones have not."""
    plain = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)
    return plain and not nn.parameter.is_lazy(tensor)


_watching = threading.RLock()  # methods that are watched: one thread at a time
_lock = threading.Lock()
_found: dict[nn.Module, _Found] = {}
