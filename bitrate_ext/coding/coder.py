"""Code with a model's own ``compress`` and say what each symbol cost.

``Coder`` records what the model codes (``recorder.py``), locates each symbol (``symbol_layout.py``, or by its value,
``value_layout.py``) and keeps the ledger (``ledger.py``).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.copies import copy_model
from ..models.observe import leave_as_found
from . import tables
from .ledger import LedgerBuilder
from .rans import CodingError
from .recorder import EncodedString, EncodeRecorder, EntropyModels, record_encoding
from .symbol_layout import (
    INSTEAD,
    Blocks,
    Forward,
    SymbolLocator,
    UnknownPlaceError,
    find_blocks,
    find_checkerboards,
    record_likelihoods,
    run_forward,
)
from .value_layout import ValueLayout, ValueLocator, find_value_layout

LAYOUTS = 4  # sizes of images whose layouts are kept, where they are found by value


@dataclass(eq=False)
class CodedLatent:
    """What N images cost in one latent."""

    costs: Tensor  # float64 [N, 3, C, h, w], of each symbol: bits, those that its table expects, escapes
    ledger: LedgerBuilder
    positions: bool  # coded one position at a time, or in another context than forward() has: see LocatedSymbols

    @property
    def bits(self) -> Tensor:
        """Bits of each symbol, float64 ``[N, C, h, w]``."""
        return self.costs[:, 0]


class Coder:
    """Codes with a model's own ``compress`` and says what each symbol cost.

    Args:
        model: an image or a video model of CompressAI's, or one built on its entropy models.
        compress_kwargs: for ``compress``, besides those of ``forward``'s that it takes as well.
        forward: runs the model, or a copy of it, and returns its likelihoods by name.

    Raises:
        TypeError: it has no ``compress``, or one that does not take these.
    """

    def __init__(
        self, model: Any, compress_kwargs: Mapping[str, Any] | None = None, *, forward: Forward = run_forward
    ) -> None:
        if not isinstance(model, nn.Module) or not callable(getattr(model, "compress", None)):
            raise TypeError(
                f"bits='coded' needs an nn.Module with a method compress(), as CompressAI's models have, got "
                f"{type(model).__name__}; {INSTEAD}"
            )
        self.model: Any = model
        self._forward = forward
        self.compress_kwargs = dict(compress_kwargs or {})
        for name in self.compress_kwargs:
            if not _takes(model.compress, name):
                raise TypeError(
                    f"compress_kwargs must name arguments that {_shown(model)} takes, got {name!r}; leave it out"
                )
        self.channels: dict[str, int] = {}  # of each latent
        self.modules: list[nn.Module] = []  # entropy models that take part in forward()
        self.unknown: UnknownPlaceError | None = None  # why the known ways do not tell where symbols sit
        self.layouts: dict[tuple[tuple[int, int], ...], ValueLayout] = {}  # by the grids of an image
        self.blocks: Blocks = {}
        self.entropy_models = EntropyModels(model)
        self.checkerboards = find_checkerboards(model)
        self.tables = tables.TableChecks(self.entropy_models)
        self.warnings: list[str] = []  # of the tables that the last call has used

    @torch.no_grad()
    def learn(self, sample: Any, forward_kwargs: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """Learn from one run of ``forward``, of a copy of the model, which entropy model codes what.

        Args:
            sample: what ``forward`` takes, of noise, so that no two parts of a latent are equal. A list is a video.
            forward_kwargs: for ``forward``.

        Returns:
            The grids ``(h, w)`` of the latents, by name.

        Raises:
            TypeError: the sample is a list, and the model takes none.
            CodingError: it is one, and likelihoods come from no entropy model of CompressAI's.
        """
        try:
            tried = copy_model(self.model, parameters=False)
        except ValueError:  # nothing is known of its having a state to keep
            tried = self.model
        names, calls, latents = self._recorded_forward(tried, sample, forward_kwargs)
        if not calls and tried is not self.model:  # a forward put on the model from outside runs the model's own parts
            names, calls, latents = self._recorded_forward(self.model, sample, forward_kwargs)
        own = {name: part for part, name in self.entropy_models.names.items()}
        self.modules = list(dict.fromkeys(own[names[part]] for part, _ in calls))
        try:
            self.blocks = {own[names[part]]: found for part, found in find_blocks(names, calls, latents).items()}
        except UnknownPlaceError as error:
            if isinstance(sample, list):
                raise
            self.unknown = error
        self.channels = {name: p.shape[1] for name, p in latents.items()}
        return {name: (p.shape[2], p.shape[3]) for name, p in latents.items()}

    def _recorded_forward(
        self, tried: Any, sample: Any, forward_kwargs: Mapping[str, Any]
    ) -> tuple[dict[nn.Module, str], list[tuple[nn.Module, Tensor]], dict[str, Tensor]]:
        """Return the names of entropy models, what they returned while ``forward`` ran, and its likelihoods."""
        names = EntropyModels(tried).names
        try:
            with leave_as_found(tried), record_likelihoods(names) as calls:
                return names, calls, self._forward(tried, sample, forward_kwargs)
        except (TypeError, AttributeError, KeyError, RuntimeError) as error:
            if not isinstance(sample, list):
                raise
            raise TypeError(
                f"model must be a video model, which takes a list of frames and returns their likelihoods, got "
                f"{type(self.model).__name__} ({error})"
            ) from error

    @torch.no_grad()
    def code(
        self, images: Any, grids: Mapping[str, tuple[int, int]], batch: int, forward_kwargs: Mapping[str, Any]
    ) -> list[dict[str, CodedLatent]]:
        """Code images, or a list of frames.

        Args:
            images: what ``compress`` takes, padded.
            grids: ``(h, w)`` of each latent.
            batch: number of images, or of videos.
            forward_kwargs: for ``forward``; ``compress`` gets those that it takes.

        Returns:
            The latents by name, of each frame; one entry for images.

        Raises:
            CodingError: the coder cannot be recorded, or a symbol's place cannot be told.
            TypeError: ``compress`` wants other arguments.
            ValueError: the model has no tables.
        """
        self.tables.check(dict.fromkeys([*self.blocks, *self.modules]))
        compress = self.model.compress
        kwargs = {name: one for name, one in forward_kwargs.items() if _takes(compress, name)} | self.compress_kwargs
        try:
            inspect.signature(compress).bind(images, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{_shown(self.model)} wants other arguments than the images and {kwargs or 'no others'} ({error}); "
                "give them as compress_kwargs"
            ) from error
        recorder, output = self._record("compress", [images], kwargs)
        self.warnings = self.tables.warnings(recorder)
        if isinstance(images, list):
            frames = _frames_of(output, len(images))
            return [self._frame(recorder, frame, self._known(grids), grids, batch) for frame in frames]
        strings = _strings_of(output)
        if self.unknown is None:
            try:
                return [self._frame(recorder, strings, self._known(grids), grids, batch)]
            except UnknownPlaceError as error:
                self.unknown = error
        _returned(recorder, strings)
        try:
            locator = self._layout(images, grids, forward_kwargs, kwargs).locator(recorder, batch)
        except UnknownPlaceError as error:
            known = str(self.unknown).removesuffix(f"; {INSTEAD}")
            raise CodingError(f"{known}; nor do values tell: {error}; {INSTEAD}") from error
        return [self._frame(recorder, strings, locator, grids, batch)]

    @torch.no_grad()
    def code_frame(
        self, method: str, inputs: Sequence[Any], grids: Mapping[str, tuple[int, int]]
    ) -> tuple[dict[str, CodedLatent], Any]:
        """Code one frame of a video by a method of the model's, and return its latents and the state after it.

        Args:
            method: its name; it returns the state and the strings.
            inputs: the frame ``[1, C, H, W]``, padded, and what else it takes.
            grids: ``(h, w)`` of each latent.

        Raises:
            CodingError, TypeError, ValueError: as ``code``.
        """
        self.tables.check(self.blocks)
        recorder, output = self._record(method, inputs, {})
        self.warnings = self.tables.warnings(recorder)
        if not isinstance(output, (tuple, list)) or len(output) != 2:
            raise CodingError(f"{method}() must return a state and strings, got {type(output).__name__}; {INSTEAD}")
        state, coded = output
        return self._frame(recorder, _strings_of(coded), self._known(grids), grids, 1), state

    def _record(
        self, method: str, inputs: Sequence[Any], kwargs: Mapping[str, Any], **flags: bool
    ) -> tuple[EncodeRecorder, Any]:
        with leave_as_found(self.model), record_encoding(self.entropy_models, **flags) as recorder:
            output = getattr(self.model, method)(*inputs, **kwargs)
        return recorder, output

    def _known(self, grids: Mapping[str, tuple[int, int]]) -> SymbolLocator:
        return SymbolLocator(self.entropy_models.names, self.checkerboards, self.blocks, grids)

    def _layout(
        self,
        images: Tensor,
        grids: Mapping[str, tuple[int, int]],
        forward_kwargs: Mapping[str, Any],
        kwargs: Mapping[str, Any],
    ) -> ValueLayout:
        """Return the layout for images of a size, found by value when there is none yet."""
        size = tuple(grids.values())
        if size not in self.layouts:
            samples = [*(noise((1, *images.shape[1:]), images, seed) for seed in (0, 1)), images[:1]]
            self.layouts[size] = find_value_layout(
                self.model,
                self.entropy_models.names,
                samples,
                lambda x, **flags: self._record("compress", [x], kwargs, **flags)[0],
                lambda x: self._forward(self.model, x, forward_kwargs),
            )
            if len(self.layouts) > LAYOUTS:
                del self.layouts[next(iter(self.layouts))]
        return self.layouts[size]

    def _frame(
        self,
        recorder: EncodeRecorder,
        strings: Any,
        locator: SymbolLocator | ValueLocator,
        grids: Mapping[str, tuple[int, int]],
        batch: int,
    ) -> dict[str, CodedLatent]:
        latents: dict[str, CodedLatent] = {}
        for coded in _returned(recorder, strings):
            located = locator.locate(coded)
            owners = {(one.latent, one.image) for one in located}
            if len(owners) != 1:
                raise CodingError(
                    f"a string holds symbols of several latents or images, {sorted(owners)}: the coder's overhead "
                    f"belongs to none of them; {INSTEAD}"
                )
            ((name, image),) = owners
            if name not in latents:
                shape = (batch, 3, self.channels[name], *grids[name])
                latents[name] = CodedLatent(torch.zeros(shape, dtype=torch.float64), LedgerBuilder(batch), False)
            latent = latents[name]
            if image >= batch:
                raise CodingError(
                    f"latent {name!r} has strings for more than the {batch} images of the batch; {INSTEAD}"
                )
            for one in located:
                one.add_to(latent.costs.numpy()[image])
                latent.positions |= one.positions
            costs = [run.costs for run in coded.runs]
            latent.ledger.enter(
                image,
                len(coded.string),
                math.fsum(float(one.bits.sum()) for one in costs),
                sum(one.escapes for one in costs),
                sum(one.steps for one in costs),
            )
        return {name: latents[name] for name in self.channels if name in latents}  # as forward() has them


def _takes(function: Any, name: str) -> bool:
    """Return whether a function takes an argument of that name."""
    parameters = inspect.signature(function).parameters.values()
    named = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return name in named or any(one.kind is one.VAR_KEYWORD for one in parameters)


def _shown(model: Any) -> str:
    return f"{type(model).__name__}.compress({', '.join(inspect.signature(model.compress).parameters)})"


def noise(shape: tuple[int, ...], like: Tensor, seed: int = 0) -> Tensor:
    """Return uniform noise in [0, 1), of the dtype and device of ``like``; PyTorch's own random state stays."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(like)


def _frames_of(output: Any, count: int) -> Any:
    if not isinstance(output, tuple) or not isinstance(output[0], Sequence) or len(output[0]) != count:
        raise CodingError(
            f"compress() must return the strings of each of {count} frames, and shapes, got {type(output).__name__}; "
            f"{INSTEAD}"
        )
    return output[0]


def _strings_of(output: Any) -> Any:
    return output["strings"] if isinstance(output, Mapping) and "strings" in output else output


def _flattened(strings: Any) -> Iterator[bytes]:
    """Yield the bytes in a nest of mappings, sequences and dataclasses, in order; what else is in it is none."""
    if isinstance(strings, bytes):
        yield strings
        return
    if isinstance(strings, Mapping) or is_dataclass(strings):
        strings = list((strings if isinstance(strings, Mapping) else vars(strings)).values())
    if isinstance(strings, Sequence) and not isinstance(strings, str):
        for one in strings:
            yield from _flattened(one)


def _returned(recorder: EncodeRecorder, strings: Any) -> list[EncodedString]:
    """Return what was recorded of the strings that ``compress`` returned, in the order of coding; no others count.

    Args:
        recorder: of that call.
        strings: what it returned under "strings", or all of it, where there is no such key.
    """
    order = {id(coded.string): number for number, coded in enumerate(recorder.strings)}
    found = []
    for string in filter(None, _flattened(strings)):  # an empty one stands for a pass that codes nothing
        if id(string) not in order:
            raise CodingError(
                f"compress() returned a string of {len(string)} bytes that CompressAI's range coder did not write as "
                f"it is: its coder cannot be recorded; {INSTEAD}"
            )
        found.append(order[id(string)])
    if not found:
        raise CodingError(f"compress() returned no strings, but a {type(strings).__name__} without any; {INSTEAD}")
    return [recorder.strings[number] for number in sorted(set(found))]
