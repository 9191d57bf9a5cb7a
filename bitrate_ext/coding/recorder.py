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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.fuse import entropy_models
from ..optional import require
from .rans import CdfTables, CodingError, SymbolCosts

CODER = "ans"  # the one whose costs are known
Shape = tuple[int, ...]
FIRST_TAG = 2**20  # more than a symbol or an index of an image is; up to 2^24 float32 keeps tags, too


def has_own_tables(module: Any) -> bool:
    """Return whether a module makes tables for each image, as ``GaussianMixtureConditional`` does, and its own idle."""
    return hasattr(module, "_build_cdf")


@dataclass(eq=False)
class Handed:
    """A tensor that an entropy model was handed: by its own forward or compress, for quantize, or for build_indexes."""

    module: nn.Module
    shape: Shape
    values: dict[str, Tensor]  # "inputs" and "residuals" (less their means), "scales"; none unless they are asked for

    @classmethod
    def of(cls, module: nn.Module, like: Tensor, inputs: Any = None, means: Any = None, scales: Any = None) -> Handed:
        """Note values before anything is done to them, as far as they are of the shape of what they are made to."""
        values = {"inputs": inputs, "residuals": inputs, "scales": scales}
        if isinstance(inputs, Tensor) and isinstance(means, Tensor):
            try:
                values["residuals"] = inputs - means
            except RuntimeError:  # means of several components
                del values["residuals"]
        kept = {k: v.detach().clone() for k, v in values.items() if isinstance(v, Tensor) and v.shape == like.shape}
        return cls(module, tuple(like.shape), kept)


@dataclass(eq=False)
class EncodeCall:
    """One call of an entropy model's ``compress``."""

    module: nn.Module
    number: int  # of the module's calls, from 0
    shape: Shape  # of what it codes, [N, C, ...]
    step: Any = None  # size of the quantisation step, where the model gives one
    strings: int = 0  # coded so far
    handed: int = 0  # its place in the recorder's list
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
    in_order: bool = True  # they are those of the index tensors, one after the other
    tags: NDArray[np.int64] | None = None  # of the elements handed over that the symbols are made of, if tagged


@dataclass(eq=False)
class EncodedString:
    """A string that a coder has made."""

    string: bytes
    runs: list[SymbolRun]


class EntropyModels:
    """The entropy models of a model, and costs of their tables from earlier calls."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {part: name for name, part in entropy_models(model)}
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
    """What one call of ``compress`` has handed to the coder.

    ``values`` keeps what entropy models were handed. ``tags`` follows symbols to the coder in whatever order a model
    packs them: what ``quantize`` and ``build_indexes`` return are the numbers of the elements, from ``FIRST_TAG``, and
    the coder is given zeros instead. Strings and contexts are of no use then.
    """

    entropy_models: EntropyModels
    values: bool = False
    tags: bool = False
    handed: list[Handed] = field(default_factory=list)
    elements: int = 0  # handed so far
    strings: list[EncodedString] = field(default_factory=list)
    calls: dict[nn.Module, int] = field(default_factory=dict)
    within: list[EncodeCall] = field(default_factory=list)  # calls of entropy models that have not returned
    indexed: list[tuple[nn.Module, Tensor]] = field(default_factory=list)  # index tensors whose symbols are still due
    buffers: dict[int, list[SymbolRun]] = field(default_factory=dict)  # of encoders that are not flushed yet

    def hand(self, module: nn.Module, output: Tensor, **values: Any) -> Tensor:
        """Note what a module makes symbols or indexes of, and return these, or tags instead."""
        self.handed.append(Handed.of(module, output, **values if self.values else {}))
        first, self.elements = self.elements, self.elements + output.numel()
        if not self.tags or self.within:
            return output
        numbers = torch.arange(first, self.elements, dtype=torch.int32, device=output.device)
        return (FIRST_TAG + numbers).reshape(output.shape)

    def run_of(self, symbols: Sequence[int], indexes: Sequence[int], *tables: Any) -> SymbolRun:
        """Cost symbols before the coder runs, whose arguments may be such that it would never end."""
        if self.within:
            call = self.within[-1]
            call.strings += 1
            costs = self.entropy_models.tables_of(call.module, tables).costs(symbols, indexes)
            return SymbolRun(costs, call, call.strings - 1, [])
        indexed, self.indexed = self.indexed, []
        costs = CdfTables(*tables).costs(symbols, indexes)
        made = [one.flatten().cpu().numpy() for _, one in indexed]
        in_order = np.array_equal(np.concatenate(made), costs.table) if made else False
        return SymbolRun(costs, None, -1, [(module, tuple(one.shape)) for module, one in indexed], in_order)


@contextlib.contextmanager
def record_encoding(
    entropy_models: EntropyModels, *, values: bool = False, tags: bool = False
) -> Iterator[EncodeRecorder]:
    """Record what a model codes on this thread in the block.

    Args:
        entropy_models: of the model.
        values, tags: see ``EncodeRecorder``.

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
    recorder = EncodeRecorder(entropy_models, values, tags)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_wrapped(plain, "encode_with_indexes", partial(_recorded_encode, False)))
        stack.enter_context(_wrapped(buffered, "encode_with_indexes", partial(_recorded_encode, True)))
        stack.enter_context(_wrapped(buffered, "flush", _recorded_flush))
        for name in ("decode_with_indexes", "decode_stream"):
            stack.enter_context(_wrapped(ans.RansDecoder, name, _recorded_decode))
        wraps = {"compress": _recorded_compress, "quantize": _recorded_quantize, "build_indexes": _recorded_indexes}
        for module in entropy_models.names:
            for name, wrap in wraps.items():
                if hasattr(module, name):
                    stack.enter_context(_wrapped(module, name, partial(wrap, module)))
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
        recorder.indexed = [one for one in recorder.indexed if one[0] is not module]
        call = EncodeCall(module, number, tuple(inputs.shape), kwargs.get("qs"), handed=len(recorder.handed))
        recorder.within.append(call)
        recorder.hand(module, inputs, inputs=inputs, means=kwargs.get("means", args[1] if len(args) > 1 else None))
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


def _recorded_quantize(module: nn.Module, original: Any) -> Any:
    def quantize(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        symbols = original(inputs, *args, **kwargs)
        recorder = _recorder(module)
        if recorder is None or recorder.within or "symbols" not in (*args[:1], kwargs.get("mode")):
            return symbols
        return recorder.hand(
            module, symbols, inputs=inputs, means=kwargs.get("means", args[1] if len(args) > 1 else None)
        )

    return quantize


def _recorded_indexes(module: nn.Module, original: Any) -> Any:
    def build_indexes(*args: Any, **kwargs: Any) -> Any:
        indexes = original(*args, **kwargs)
        recorder = _recorder(module)
        if recorder is not None:
            recorder.indexed.append((module, indexes))
            return recorder.hand(module, indexes, scales=kwargs.get("scales", args[0] if args else None))
        return indexes

    return build_indexes


def _recorded_encode(buffered: bool, original: Any) -> Any:
    def encode_with_indexes(encoder: Any, *arguments: Any, **named: Any) -> Any:
        recorder = _recorder()
        if recorder is None:
            return original(encoder, *arguments, **named)
        symbols, indexes, *tables = *arguments, *named.values()
        tags = None
        if recorder.tags:
            tagged = [np.array(one, np.int64) - FIRST_TAG for one in (symbols, indexes)]
            tags = next((one for one in tagged if (one >= 0).all()), None)
            if any((one >= 0).any() for one in tagged):
                symbols = indexes = [0] * len(symbols)
        run = recorder.run_of(symbols, indexes, *tables)
        run.tags = tags
        coded = original(encoder, symbols, indexes, *tables)
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


def _recorded_decode(original: Any) -> Any:
    def decode(decoder: Any, *arguments: Any, **named: Any) -> Any:
        recorder = _recorder()
        if recorder is not None and recorder.tags:
            indexes = next(one for one in (*arguments, *named.values()) if not isinstance(one, bytes))
            if max(indexes, default=0) >= FIRST_TAG:
                return [0] * len(indexes)
        return original(decoder, *arguments, **named)

    return decode
