"""Code with a model's own ``compress`` and say what each symbol cost.

``Coder`` records what the model codes (``recorder.py``), locates each symbol (``symbol_layout.py``) and keeps the
ledger (``ledger.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.copies import copy_model
from ..models.observe import leave_as_found
from ..ops.functional import named_likelihoods
from . import tables
from .ledger import LedgerBuilder
from .rans import CodingError
from .recorder import EncodedString, EncodeRecorder, EntropyModels, record_encoding
from .symbol_layout import INSTEAD, Blocks, SymbolLocator, find_blocks, find_checkerboards, record_likelihoods


@dataclass(eq=False)
class CodedLatent:
    """What N images cost in one latent."""

    bits: Tensor  # float64 [N, C, h, w], of each symbol
    expected: Tensor  # float64 [N, C, h, w], what its table expects
    ledger: LedgerBuilder
    positions: bool  # coded one position at a time, from those before it


class Coder:
    """Codes with a model's own ``compress`` and says what each symbol cost.

    Args:
        model: an image or a video model of CompressAI's, or one built on its entropy models.

    Raises:
        TypeError: it has no ``compress``.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, nn.Module) or not callable(getattr(model, "compress", None)):
            raise TypeError(
                f"bits='coded' needs an nn.Module with a method compress(), as CompressAI's models have, got "
                f"{type(model).__name__}; {INSTEAD}"
            )
        self.model: Any = model
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
            CodingError: a latent's likelihoods come from no entropy model of CompressAI's.
        """
        try:
            tried = copy_model(self.model, parameters=False)
        except ValueError:  # nothing is known of its having a state to keep
            tried = self.model
        names, calls, likelihoods = self._recorded_forward(tried, sample, forward_kwargs)
        if not calls and tried is not self.model:  # a forward put on the model from outside runs the model's own parts
            names, calls, likelihoods = self._recorded_forward(self.model, sample, forward_kwargs)
        frames = likelihoods if isinstance(likelihoods, list) else [likelihoods]
        frames = [{"y": frame} if isinstance(frame, Tensor) else frame for frame in frames]
        latents = {name: p for frame in frames for name, p in named_likelihoods(frame).items()}
        own = {name: part for part, name in self.entropy_models.names.items()}
        self.blocks = {own[names[part]]: found for part, found in find_blocks(names, calls, latents).items()}
        return {name: (p.shape[2], p.shape[3]) for name, p in latents.items()}

    def _recorded_forward(
        self, tried: Any, sample: Any, forward_kwargs: Mapping[str, Any]
    ) -> tuple[dict[nn.Module, str], list[tuple[nn.Module, Tensor]], Any]:
        """Return the names of entropy models, what they returned while ``forward`` ran, and its likelihoods."""
        names = EntropyModels(tried).names
        try:
            with leave_as_found(tried), record_likelihoods(names) as calls:
                return names, calls, tried(sample, **forward_kwargs)["likelihoods"]
        except (TypeError, AttributeError, KeyError, RuntimeError) as error:
            if not isinstance(sample, list):
                raise
            raise TypeError(
                f"model must be a video model, which takes a list of frames and returns their likelihoods, got "
                f"{type(self.model).__name__} ({error})"
            ) from error

    @torch.no_grad()
    def code(
        self, images: Any, grids: Mapping[str, tuple[int, int]], batch: int, kwargs: Mapping[str, Any]
    ) -> list[dict[str, CodedLatent]]:
        """Code images, or a list of frames.

        Args:
            images: what ``compress`` takes, padded.
            grids: ``(h, w)`` of each latent.
            batch: number of images, or of videos.
            kwargs: for ``compress``.

        Returns:
            The latents by name, of each frame; one entry for images.

        Raises:
            CodingError: the coder cannot be recorded, or a symbol's place cannot be told.
            ValueError: the model has no tables.
        """
        self.tables.check(self.blocks)
        with leave_as_found(self.model), record_encoding(self.entropy_models) as recorder:
            output = self.model.compress(images, **kwargs)
        self.warnings = self.tables.warnings(recorder)
        frames = _frames_of(output, len(images)) if isinstance(images, list) else [_strings_of(output)]
        return [self._frame(recorder, frame, grids, batch) for frame in frames]

    def _frame(
        self, recorder: EncodeRecorder, strings: Any, grids: Mapping[str, tuple[int, int]], batch: int
    ) -> dict[str, CodedLatent]:
        locator = SymbolLocator(self.entropy_models.names, self.checkerboards, self.blocks, grids)
        channels: dict[str, int] = {}
        for blocks in self.blocks.values():
            for block in blocks:
                channels[block.latent] = max(channels.get(block.latent, 0), block.first + block.channels)
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
                shape = (batch, channels[name], *grids[name])
                latents[name] = CodedLatent(
                    torch.zeros(shape, dtype=torch.float64),
                    torch.zeros(shape, dtype=torch.float64),
                    LedgerBuilder(batch),
                    False,
                )
            latent = latents[name]
            if image >= batch:
                raise CodingError(
                    f"latent {name!r} has strings for more than the {batch} images of the batch; {INSTEAD}"
                )
            for one in located:
                for target, values in ((latent.bits, one.bits), (latent.expected, one.expected)):
                    one.add(values, target.numpy()[image])
                latent.positions |= one.positions
            costs = [run.costs for run in coded.runs]
            latent.ledger.enter(
                image,
                len(coded.string),
                math.fsum(float(one.bits.sum()) for one in costs),
                sum(one.escapes for one in costs),
                sum(one.steps for one in costs),
            )
        return latents


def noise(shape: tuple[int, ...], like: Tensor, seed: int = 0) -> Tensor:
    """Return uniform noise in [0, 1), of the dtype and device of ``like``; PyTorch's own random state stays."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(like)


def _strings_of(output: Any) -> Any:
    if not isinstance(output, Mapping) or "strings" not in output:
        found = ", ".join(map(repr, output)) if isinstance(output, Mapping) else type(output).__name__
        raise CodingError(f"compress() must return a mapping with the key 'strings', got {found}; {INSTEAD}")
    return output["strings"]


def _frames_of(output: Any, count: int) -> Any:
    if not isinstance(output, tuple) or not isinstance(output[0], Sequence) or len(output[0]) != count:
        raise CodingError(
            f"compress() must return the strings of each of {count} frames, and shapes, got {type(output).__name__}; "
            f"{INSTEAD}"
        )
    return output[0]


def _flattened(strings: Any) -> Iterator[bytes]:
    if isinstance(strings, bytes):
        yield strings
    elif isinstance(strings, Mapping):
        for one in strings.values():
            yield from _flattened(one)
    elif isinstance(strings, Sequence) and not isinstance(strings, str):
        for one in strings:
            yield from _flattened(one)


def _returned(recorder: EncodeRecorder, strings: Any) -> list[EncodedString]:
    """Return what was recorded of the strings that ``compress`` returned, in the order of coding; no others count."""
    order = {id(coded.string): number for number, coded in enumerate(recorder.strings)}
    found = []
    for string in _flattened(strings):
        if id(string) not in order:
            raise CodingError(
                f"compress() returned a string of {len(string)} bytes that CompressAI's range coder did not write as "
                f"it is: its coder cannot be recorded; {INSTEAD}"
            )
        found.append(order[id(string)])
    if not found:
        raise CodingError(f"compress() returned no strings; {INSTEAD}")
    return [recorder.strings[number] for number in sorted(found)]
