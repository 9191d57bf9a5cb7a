"""Record what a model's own ``compress`` hands to CompressAI's range coder, and which entropy model hands it over.

For the time of the call the encoders of ``compressai.ans`` and the entropy models of the model are wrapped. So
autoregressive models, checkerboards, channel groups and models of users' own are recorded as they are: nothing of their
code is repeated here. The wrappers are there for the whole process, and pass other threads' calls on unrecorded.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..optional import require
from .rans import CdfTables, CodingError, SymbolCosts

CODER = "ans"  # the one whose costs are known
TABLES = ("_quantized_cdf", "_cdf_length", "_offset")
Shape = tuple[int, ...]


def has_own_tables(module: Any) -> bool:
    """Return whether a module makes tables for each image, as ``GaussianMixtureConditional`` does, and its own idle."""
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
    runs: list[SymbolRun]


class EntropyModels:
    """The entropy models of a model, and costs of their tables from earlier calls."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {
            part: name for name, part in model.named_modules() if all(hasattr(part, table) for table in TABLES)
        }
        self._costs: dict[nn.Module, tuple[Any, int | None, CdfTables]] = {}

    def tables_of(self, module: Any, tables: tuple[Any, ...]) -> CdfTables:
        """Return costs of tables that a module has handed over: its own, as ``EntropyModel.compress`` does, or new."""
        if has_own_tables(module) or len(module._quantized_cdf) != len(tables[0]):
            return CdfTables(*tables)
        if not self.costs_are_known(module):
            own = module._quantized_cdf
            self._costs[module] = own, None if own.is_inference() else own._version, CdfTables(*tables)
        return self._costs[module][2]

    def costs_are_known(self, module: Any) -> bool:
        """Return whether costs are at hand and a module's tables are those that they are of."""
        own, version, _ = self._costs.get(module, (None, None, None))
        return own is module._quantized_cdf and version is not None and version == own._version


@dataclass(eq=False)
class EncodeRecorder:
    """What one call of ``compress`` has handed to the coder."""

    entropy_models: EntropyModels
    strings: list[EncodedString] = field(default_factory=list)
    calls: dict[nn.Module, int] = field(default_factory=dict)
    within: list[EncodeCall] = field(default_factory=list)  # calls of entropy models that have not returned
    indexed: list[tuple[nn.Module, Shape]] = field(default_factory=list)  # index tensors whose symbols are still due
    buffers: dict[int, list[SymbolRun]] = field(default_factory=dict)  # of encoders that are not flushed yet

    def run_of(self, symbols: Sequence[int], indexes: Sequence[int], *tables: Any) -> SymbolRun:
        """Cost symbols before the coder runs, whose arguments may be such that it would never end."""
        if self.within:
            call = self.within[-1]
            call.strings += 1
            costs = self.entropy_models.tables_of(call.module, tables).costs(symbols, indexes)
            return SymbolRun(costs, call, call.strings - 1, [])
        indexed, self.indexed = self.indexed, []
        return SymbolRun(CdfTables(*tables).costs(symbols, indexes), None, -1, indexed)


@contextlib.contextmanager
def record_encoding(entropy_models: EntropyModels) -> Iterator[EncodeRecorder]:
    """Record what a model codes on this thread in the block.

    Raises:
        CodingError: it uses another coder than CompressAI's rANS.
    """
    for module, name in entropy_models.names.items():
        coder = getattr(getattr(module, "entropy_coder", None), "name", CODER)
        if coder != CODER:
            raise CodingError(
                f"model.{name} codes with {coder!r}, whose costs are not known; {CODER!r} is. "
                "bits='estimated' needs no coder"
            )
    ans = require("compressai.ans")
    plain, buffered = ans.RansEncoder, ans.BufferedRansEncoder
    recorder = EncodeRecorder(entropy_models)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_wrapped(plain, "encode_with_indexes", partial(_recorded_encode, False)))
        stack.enter_context(_wrapped(buffered, "encode_with_indexes", partial(_recorded_encode, True)))
        stack.enter_context(_wrapped(buffered, "flush", _recorded_flush))
        for module in entropy_models.names:
            stack.enter_context(_wrapped(module, "compress", partial(_recorded_compress, module)))
            if hasattr(module, "build_indexes"):
                stack.enter_context(_wrapped(module, "build_indexes", partial(_recorded_indexes, module)))
        before, _here.recorder = _recorder(), recorder
        try:
            yield recorder
        finally:
            _here.recorder = before


_here = threading.local()  # .recorder: of this thread
_lock = threading.Lock()
_wraps: dict[tuple[Any, str], list[Any]] = {}  # of an object's method: blocks on all threads, its own attribute
_ABSENT = object()


def _recorder(module: nn.Module | None = None) -> EncodeRecorder | None:
    """Return what records on this thread; None where it does not record that entropy model."""
    recorder: EncodeRecorder | None = getattr(_here, "recorder", None)
    return recorder if recorder is None or module is None or module in recorder.entropy_models.names else None


@contextlib.contextmanager
def _wrapped(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Wrap a method of a class or of one object, once however many threads record, until the last is done."""
    with _lock:
        if (owner, name) not in _wraps:
            _wraps[owner, name] = [0, vars(owner).get(name, _ABSENT)]
            setattr(owner, name, wrap(getattr(owner, name)))
        _wraps[owner, name][0] += 1
    try:
        yield
    finally:
        with _lock:
            _wraps[owner, name][0] -= 1
            if not _wraps[owner, name][0]:
                _, own = _wraps.pop((owner, name))
                if own is _ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, own)


def _recorded_compress(module: nn.Module, original: Any) -> Any:
    def compress(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = _recorder(module)
        if recorder is None:
            return original(inputs, *args, **kwargs)
        number = recorder.calls.get(module, 0)
        recorder.calls[module] = number + 1
        recorder.indexed = [(other, shape) for other, shape in recorder.indexed if other is not module]
        call = EncodeCall(module, number, tuple(inputs.shape), kwargs.get("qs"))
        recorder.within.append(call)
        try:
            output = original(inputs, *args, **kwargs)
        finally:
            recorder.within.pop()
        call.coded_channels = _coded_channels(output)
        return output

    return compress


def _coded_channels(output: Any) -> list[int] | None:
    """Return the channels that ``GaussianMixtureConditional`` has coded, by its bitmap beside the string; else None."""
    beside = output[0] if isinstance(output, tuple) and output else None
    if isinstance(beside, tuple) and len(beside) == 3 and isinstance(beside[2], Tensor):
        channels: list[int] = beside[2].nonzero().flatten().tolist()
        return channels
    return None


def _recorded_indexes(module: nn.Module, original: Any) -> Any:
    def build_indexes(*args: Any, **kwargs: Any) -> Any:
        indexes = original(*args, **kwargs)
        recorder = _recorder(module)
        if recorder is not None:
            recorder.indexed.append((module, tuple(indexes.shape)))
        return indexes

    return build_indexes


def _recorded_encode(buffered: bool, original: Any) -> Any:
    def encode_with_indexes(encoder: Any, *arguments: Any, **named: Any) -> Any:
        recorder = _recorder()
        if recorder is None:
            return original(encoder, *arguments, **named)
        run = recorder.run_of(*arguments, *named.values())
        coded = original(encoder, *arguments, **named)
        if buffered:
            recorder.buffers.setdefault(id(encoder), []).append(run)
        else:
            recorder.strings.append(EncodedString(coded, [run]))
        return coded

    return encode_with_indexes


def _recorded_flush(original: Any) -> Any:
    def flush(encoder: Any) -> Any:
        string = original(encoder)
        recorder = _recorder()
        if recorder is not None:
            recorder.strings.append(EncodedString(string, recorder.buffers.pop(id(encoder), [])))
        return string

    return flush
