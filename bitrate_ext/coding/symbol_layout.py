"""Locate each coded symbol: in which latent, image, channel, row and column it sits.

These are the known ways; ``value_layout.py`` finds others. Two sources. ``find_blocks`` sees from one run of
``forward`` which likelihoods of which entropy model make up which latent: the whole of it, some of its channels
(channel groups), or one position at a time. ``SymbolLocator`` then lays what ``compress`` has coded into these blocks.
Only one order has a rule of its own here, that of CompressAI's ``CheckerboardLatentCodec``, which is asked how it packs
a grid.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.observe import watch_calls
from ..models.output import OutputReader
from ..ops.functional import named_likelihoods
from .rans import CodingError
from .recorder import EncodedString, Shape, SymbolRun

INSTEAD = "bits='estimated' maps this model without its coder"
ALL = slice(None)


class UnknownPlaceError(CodingError):
    """The place of symbols cannot be told by this way of telling it."""


@dataclass(frozen=True)
class ChannelBlock:
    """Channels of a latent that an entropy model codes."""

    latent: str
    first: int
    channels: int
    positions: bool  # forward() gives them one position at a time, as compress() of such a model does


Forward = Callable[[Any, Any, Mapping[str, Any]], dict[str, Tensor]]  # of a model, a sample, and arguments
Blocks = dict[nn.Module, list[ChannelBlock]]


def run_forward(model: Any, sample: Any, forward_kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the likelihoods that a model's ``forward`` returns by name; where it takes a list of frames, of all."""
    output = model(sample, **forward_kwargs)
    if not isinstance(sample, list):
        return OutputReader().read(output, sample)[1]
    frames = [{"y": frame} if isinstance(frame, Tensor) else frame for frame in output["likelihoods"]]
    return {name: p for frame in frames for name, p in named_likelihoods(frame).items()}


def find_blocks(
    names: Mapping[nn.Module, str], calls: Sequence[tuple[nn.Module, Tensor]], latents: Mapping[str, Tensor]
) -> Blocks:
    """Find which entropy model codes what.

    Args:
        names: of the entropy models.
        calls: likelihoods that entropy models returned while ``forward`` ran, in order.
        latents: the likelihoods that ``forward`` returned, by name, ``[N, C, h, w]``.

    Raises:
        UnknownPlaceError: a latent's likelihoods are no such block of what an entropy model returned.
    """
    blocks: Blocks = {}
    for name, whole in latents.items():
        found = _blocks_of(name, whole, calls)
        if not found:
            raise UnknownPlaceError(
                f"the likelihoods of latent {name!r} are of none of the model's entropy models, "
                f"{', '.join(map(repr, names.values())) or 'of which it has none'}: what its coder writes "
                f"cannot be told from other latents; {INSTEAD}"
            )
        for module, block in found:
            blocks.setdefault(module, []).append(block)
    return blocks


def _blocks_of(
    name: str, whole: Tensor, calls: Sequence[tuple[nn.Module, Tensor]]
) -> list[tuple[nn.Module, ChannelBlock]] | None:
    # Of several with equal values, as where all latents are zero, it is the one that forward() has handed on.
    for module, p in sorted(calls, key=lambda call: call[1].data_ptr() != whole.data_ptr()):
        if p.shape == whole.shape and _same(p, whole):
            return [(module, ChannelBlock(name, 0, whole.shape[1], False))]
    n, channels, h, w = whole.shape
    # Channel groups, one after the other.
    found, first = [], 0
    for module, p in calls:
        end = first + (p.shape[1] if p.dim() == 4 else 0)
        if p.shape == (n, end - first, h, w) and end <= channels and _same(p, whole[:, first:end]):
            found.append((module, ChannelBlock(name, first, end - first, False)))
            first = end
    if first == channels:
        return found
    # Positions, in raster order.
    for module in dict.fromkeys(module for module, p in calls if p.shape == (n, channels, 1, 1)):
        single = [p for other, p in calls if other is module and p.shape == (n, channels, 1, 1)]
        if len(single) == h * w and _same(torch.cat(single, dim=2).reshape(n, channels, h, w), whole):
            return [(module, ChannelBlock(name, 0, channels, True))]
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, with what is not a number in the same places."""
    return torch.equal(one.nan_to_num(nan=-1.0), other.nan_to_num(nan=-1.0))


@contextlib.contextmanager
def record_likelihoods(names: Mapping[nn.Module, str]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Record what entropy models return while ``forward`` runs in the block, in order."""
    calls: list[tuple[nn.Module, Tensor]] = []

    def after(_name: str, module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Tensor):
            calls.append((module, output[1]))

    with watch_calls(((name, module) for module, name in names.items()), after):
        yield calls


def find_checkerboards(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Return the ``CheckerboardLatentCodec`` that each of a model's parts is in."""
    return {
        part: codec
        for codec in model.modules()
        if hasattr(codec, "unembed") and hasattr(codec, "anchor_parity")
        for part in codec.modules()
    }


@dataclass(frozen=True, eq=False)
class LocatedSymbols:
    """Symbols of one latent of one image, from one string."""

    latent: str
    image: int
    channels: slice | list[int]
    rows: NDArray[np.int64] | slice  # of each position, or the whole grid
    columns: NDArray[np.int64] | slice
    costs: NDArray[np.float64]  # bits, expected bits, escapes: [3, channels, positions] or [3, channels, h, w]
    positions: bool  # coded one position at a time, all channels of it together

    def add_to(self, target: NDArray[np.float64]) -> None:
        """Add them to those of an image, ``[3, C, h, w]``."""
        if isinstance(self.channels, list):
            target[:, self.channels] += self.costs
        else:
            target[:, self.channels][..., self.rows, self.columns] += self.costs


class SymbolLocator:
    """Lay coded symbols into latents, string after string, in the order in which they were coded.

    Args:
        names: of the entropy models.
        checkerboards: of ``find_checkerboards``.
        blocks: of ``find_blocks``.
        grids: ``(h, w)`` of each latent of the padded image.
    """

    def __init__(
        self,
        names: Mapping[nn.Module, str],
        checkerboards: Mapping[nn.Module, nn.Module],
        blocks: Blocks,
        grids: Mapping[str, tuple[int, int]],
    ) -> None:
        self.names, self.checkerboards, self.blocks, self.grids = names, checkerboards, blocks, grids
        self.images: dict[nn.Module, int] = {}  # strings of each module that collects symbols itself

    def locate(self, coded: EncodedString) -> list[LocatedSymbols]:
        """Locate the symbols of a string.

        Raises:
            UnknownPlaceError: that cannot be told.
            CodingError: a string holds several images.
        """
        return [one for run in coded.runs for one in (self._called(run) if run.call else self._collected(run))]

    def _called(self, run: SymbolRun) -> list[LocatedSymbols]:
        """Locate symbols of one image that an entropy model's own ``compress`` has coded: a tensor in raster order."""
        assert run.call is not None
        call, costs = run.call, run.costs
        blocks, shape = self._blocks(call.module), call.shape[1:]
        block = blocks[call.number % len(blocks)]
        grid = self.grids[block.latent]
        codec = self.checkerboards.get(call.module)
        if len(shape) != 3 or shape[0] != block.channels:
            raise self._unknown(
                call.module, f"coded a tensor {list(call.shape)}, {block.channels} channels were expected"
            )
        channels: Any = slice(block.first, block.first + block.channels)
        rows: Any = ALL
        columns: Any = ALL
        size: tuple[int, ...] = shape[1:]
        if codec is not None and size == (grid[0], grid[1] // 2):
            rows, columns = _checkerboard(codec, grid)[call.number % 2]
            size = rows.shape
        elif size != grid:
            raise self._unknown(call.module, f"coded a grid {list(size)} of a latent of {list(grid)} cells")
        if call.coded_channels is not None:
            channels = [block.first + one for one in call.coded_channels]
        size = (len(channels) if isinstance(channels, list) else block.channels, *size)
        if len(costs.bits) != math.prod(size):
            raise self._unknown(call.module, f"handed {len(costs.bits)} symbols over for {math.prod(size)} places")
        return [
            LocatedSymbols(
                block.latent,
                run.image,
                channels,
                rows,
                columns,
                costs.each.reshape(3, *size),
                False,
            )
        ]

    def _collected(self, run: SymbolRun) -> list[LocatedSymbols]:
        """Locate symbols that a model has collected itself, in the order of the index tensors made for them."""
        count = sum(math.prod(shape) for _, shape in run.indexed)
        if count != len(run.costs.bits) or not count:
            raise UnknownPlaceError(
                f"{len(run.costs.bits)} symbols went to the coder, but the model's entropy models have made indexes "
                f"for {count}: where the symbols sit cannot be told; {INSTEAD}"
            )
        if not run.in_order:
            raise self._unknown(run.indexed[0][0], "made indexes in another order than that of the symbols")
        located: list[LocatedSymbols] = []
        first = 0
        groups, costs = _by_module(run.indexed), run.costs.each
        for module, shapes in groups:
            count = sum(math.prod(shape) for shape in shapes)
            span = slice(first, first + count)
            located += self._group(module, shapes, costs[:, span])
            first += count
        for module in dict.fromkeys(module for module, _ in groups):
            self.images[module] = self.images.get(module, 0) + 1
        return located

    def _group(self, module: nn.Module, shapes: list[Shape], costs: NDArray[np.float64]) -> list[LocatedSymbols]:
        """Locate consecutive index tensors of one module: position after position, or block after block."""
        blocks, image = self._blocks(module), self.images.get(module, 0)
        h, w = self.grids[blocks[0].latent]
        channels = blocks[0].channels
        if len(blocks) == 1 and len(shapes) == h * w and all(math.prod(shape) == channels for shape in shapes):
            span = slice(blocks[0].first, blocks[0].first + channels)
            turned = costs.reshape(3, h, w, channels).transpose(0, 3, 1, 2)
            return [LocatedSymbols(blocks[0].latent, image, span, ALL, ALL, turned, positions=h * w > 1)]
        wanted = [(1, block.channels, *self.grids[block.latent]) for block in blocks]
        if shapes != wanted:
            many = len(shapes) == len(wanted) and all(
                shape[1:] == want[1:] for shape, want in zip(shapes, wanted, strict=True)
            )
            if many and shapes[0][0] > 1:
                raise several_images(shapes[0][0])
            raise self._unknown(module, f"made indexes of the shapes {shapes[:3]} ... for blocks {wanted[:3]} ...")
        located, first = [], 0
        for block, shape in zip(blocks, shapes, strict=True):
            count = math.prod(shape)
            span = slice(block.first, block.first + block.channels)
            part = costs[:, first : first + count].reshape(3, *shape[1:])
            located.append(LocatedSymbols(block.latent, image, span, ALL, ALL, part, positions=False))
            first += count
        return located

    def _blocks(self, module: nn.Module) -> list[ChannelBlock]:
        if module not in self.blocks:
            raise self._unknown(module, "took no part in forward()")
        return self.blocks[module]

    def _unknown(self, module: nn.Module, what: str) -> UnknownPlaceError:
        name = self.names.get(module, type(module).__name__)
        return UnknownPlaceError(f"where the symbols of model.{name} sit cannot be told: it {what}; {INSTEAD}")


def several_images(count: int) -> CodingError:
    """Return the error of strings that several images share."""
    return CodingError(f"one string holds {count} images; code them one at a time; {INSTEAD}")


def _by_module(indexed: Sequence[tuple[nn.Module, Shape]]) -> list[tuple[nn.Module, list[Shape]]]:
    """Group consecutive index tensors of one module."""
    groups = groupby(indexed, key=lambda one: id(one[0]))
    return [(group[0][0], [shape for _, shape in group]) for group in (list(each) for _, each in groups)]


def _checkerboard(codec: Any, grid: tuple[int, int]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return rows and columns of the positions of both halves, in the order in which the codec packs them."""
    h, w = grid
    packed = codec.unembed(torch.arange(h * w).reshape(1, 1, h, w)).reshape(2, -1).numpy()
    return [(half // w, half % w) for half in packed]
