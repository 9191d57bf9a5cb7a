"""Listening to a model's own ``compress``: what it hands to CompressAI's range coder, and who handed it over.

For the time of the call the encoders of ``compressai.ans`` and the entropy models of the model are wrapped. So
autoregressive models, checkerboards, channel groups and models of users' own are heard as they are: nothing of their
code is repeated here. The encoders are wrapped for the whole process, and pass other threads' calls through unseen.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..optional import require
from .rans import CdfTables, CodingError, SymbolCosts

CODER = "ans"  # the one whose costs are known
TABLES = ("_quantized_cdf", "_cdf_length", "_offset")
Shape = tuple[int, ...]


def has_own_tables(module: Any) -> bool:
    """Whether a module makes tables for each image, as ``GaussianMixtureConditional`` does, and its own are idle."""
    return hasattr(module, "_build_cdf")


@dataclass(eq=False)
class EncodeCall:
    """One call of an entropy model's ``compress``."""

    module: nn.Module
    number: int  # of the module's calls, from 0
    shape: Shape  # of what it codes, [N, C, ...]
    step: Any = None  # size of the quantisation step, where the model gives one
    strings: int = 0  # coded so far
    coded_channels: list[int] | None = None  # where the module leaves channels out; known once it has returned


@dataclass(eq=False)
class SymbolRun:
    """Symbols that went to a coder in one call, in their order, and where they come from.

    Either the call of an entropy model, of which they are one image; or, where a model has collected the symbols
    itself, the shapes of the index tensors that entropy models made for them, in order.
    """

    costs: SymbolCosts
    call: EncodeCall | None
    image: int
    indexed: list[tuple[nn.Module, Shape]]


@dataclass(eq=False)
class EncodedString:
    """A string that a coder has made."""

    string: bytes
    parts: list[SymbolRun]


class EntropyModels:
    """The entropy models of a model, and costs of their tables from earlier calls."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {
            part: name for name, part in model.named_modules() if all(hasattr(part, table) for table in TABLES)
        }
        self._costs: dict[nn.Module, tuple[Any, int | None, CdfTables]] = {}

    def of(self, module: Any, tables: tuple[Any, ...]) -> CdfTables:
        """Costs of tables that a module has handed over: its own, as ``EntropyModel.compress`` does, or made anew."""
        if has_own_tables(module) or len(module._quantized_cdf) != len(tables[0]):
            return CdfTables(*tables)
        if not self.costs_are_known(module):
            own = module._quantized_cdf
            self._costs[module] = own, None if own.is_inference() else own._version, CdfTables(*tables)
        return self._costs[module][2]

    def costs_are_known(self, module: Any) -> bool:
        """Whether costs are at hand and a module's tables are those that they are of."""
        own, version, _ = self._costs.get(module, (None, None, None))
        return own is module._quantized_cdf and version is not None and version == own._version


@dataclass(eq=False)
class EncodeRecorder:
    """What is heard of one call of ``compress``."""

    memory: EntropyModels
    strings: list[EncodedString] = field(default_factory=list)
    calls: dict[nn.Module, int] = field(default_factory=dict)
    within: list[EncodeCall] = field(default_factory=list)  # calls of entropy models that have not returned
    indexed: list[tuple[nn.Module, Shape]] = field(default_factory=list)  # index tensors whose symbols are still due
    buffers: dict[int, list[SymbolRun]] = field(default_factory=dict)  # of encoders that are not flushed yet

    def part(self, symbols: Sequence[int], indexes: Sequence[int], *tables: Any) -> SymbolRun:
        """Before the coder runs: its arguments may be such that it would never end."""
        if self.within:
            call = self.within[-1]
            call.strings += 1
            return SymbolRun(self.memory.of(call.module, tables).costs(symbols, indexes), call, call.strings - 1, [])
        indexed, self.indexed = self.indexed, []
        return SymbolRun(CdfTables(*tables).costs(symbols, indexes), None, -1, indexed)


@contextlib.contextmanager
def record_encoding(memory: EntropyModels) -> Iterator[EncodeRecorder]:
    """For the time of the block, hear what a model codes on this thread.

    Raises:
        CodingError: it uses another coder than CompressAI's rANS.
    """
    for module, name in memory.names.items():
        coder = getattr(getattr(module, "entropy_coder", None), "name", CODER)
        if coder != CODER:
            raise CodingError(
                f"model.{name} codes with {coder!r}, whose costs are not known; {CODER!r} is. "
                "bits='estimated' needs no coder"
            )
    listener = EncodeRecorder(memory)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_wrapped_coders())
        for module in memory.names:
            stack.enter_context(_wrapped(module, "compress", _heard_compress(listener, module)))
            if hasattr(module, "build_indexes"):
                stack.enter_context(_wrapped(module, "build_indexes", _heard_indexes(listener, module)))
        before = getattr(_here, "listener", None)
        _here.listener = listener
        try:
            yield listener
        finally:
            _here.listener = before


def _heard_compress(listener: EncodeRecorder, module: nn.Module) -> Callable[[Any], Any]:
    def wrap(original: Any) -> Any:
        def compress(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            number = listener.calls.get(module, 0)
            listener.calls[module] = number + 1
            listener.indexed = [(other, shape) for other, shape in listener.indexed if other is not module]
            call = EncodeCall(module, number, tuple(inputs.shape), kwargs.get("qs"))
            listener.within.append(call)
            try:
                output = original(inputs, *args, **kwargs)
            finally:
                listener.within.pop()
            call.coded_channels = _coded_channels(output)
            return output

        return compress

    return wrap


def _coded_channels(output: Any) -> list[int] | None:
    """Of ``GaussianMixtureConditional``, which says in a bitmap beside the string which channels it has coded."""
    if isinstance(output, tuple) and isinstance(output[0], tuple) and len(output[0]) == 3:
        return output[0][2].nonzero().flatten().tolist()
    return None


def _heard_indexes(listener: EncodeRecorder, module: nn.Module) -> Callable[[Any], Any]:
    def wrap(original: Any) -> Any:
        def build_indexes(*args: Any, **kwargs: Any) -> Any:
            indexes = original(*args, **kwargs)
            listener.indexed.append((module, tuple(indexes.shape)))
            return indexes

        return build_indexes

    return wrap


@contextlib.contextmanager
def _wrapped(module: nn.Module, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """The instance's own attribute for the time of the block."""
    own = module.__dict__.get(name)
    module.__dict__[name] = wrap(getattr(module, name))
    try:
        yield
    finally:
        if own is None:
            del module.__dict__[name]
        else:
            module.__dict__[name] = own


_here = threading.local()  # .listener: who listens on this thread
_lock = threading.Lock()
_listening = 0  # blocks, on all threads
_originals: list[tuple[Any, str, Any]] = []


def _heard_encode(original: Any, buffered: bool) -> Any:
    def encode_with_indexes(encoder: Any, *arguments: Any, **named: Any) -> Any:
        listener: EncodeRecorder | None = getattr(_here, "listener", None)
        if listener is None:
            return original(encoder, *arguments, **named)
        part = listener.part(*arguments, *named.values())
        coded = original(encoder, *arguments, **named)
        if buffered:
            listener.buffers.setdefault(id(encoder), []).append(part)
        else:
            listener.strings.append(EncodedString(coded, [part]))
        return coded

    return encode_with_indexes


def _heard_flush(original: Any) -> Any:
    def flush(encoder: Any) -> Any:
        string = original(encoder)
        listener: EncodeRecorder | None = getattr(_here, "listener", None)
        if listener is not None:
            listener.strings.append(EncodedString(string, listener.buffers.pop(id(encoder), [])))
        return string

    return flush


@contextlib.contextmanager
def _wrapped_coders() -> Iterator[None]:
    """Once for the process, however many listen at a time."""
    global _listening
    ans = require("compressai.ans")
    with _lock:
        if _listening == 0:
            plain, buffered = ans.RansEncoder, ans.BufferedRansEncoder
            for owner, name, wrapper in (
                (plain, "encode_with_indexes", _heard_encode(plain.encode_with_indexes, buffered=False)),
                (buffered, "encode_with_indexes", _heard_encode(buffered.encode_with_indexes, buffered=True)),
                (buffered, "flush", _heard_flush(buffered.flush)),
            ):
                _originals.append((owner, name, getattr(owner, name)))
                setattr(owner, name, wrapper)
        _listening += 1
    try:
        yield
    finally:
        with _lock:
            _listening -= 1
            if _listening == 0:
                while _originals:
                    setattr(*_originals.pop())
