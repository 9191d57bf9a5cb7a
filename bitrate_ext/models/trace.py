"""The part of a model that turns a latent into pixels: found by watching the model run, then probed.

A synthesis transform is the outermost module that is given a tensor on a latent's grid and returns one of the image's
size; a hyper-synthesis returns one on the grid of another latent. Nothing is assumed of names or of kinds of layers. A
decoder that is no module, or works on something else than a grid, is given as a callable.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..memory import is_out_of_memory
from ..ops.functional import latent_bits
from ..ops.projection import Reach
from ..ops.rate import cells as rate_cells
from ..ops.rate.packed import parts_of
from ..ops.sources import Source
from ..ops.units import LIKELIHOOD
from .adapter import ModelAdapter
from .observe import unwatched, watch_calls, watch_method
from .padding import Crop

Synthesis = str | Callable[..., Any] | None  # a module's name, a callable that takes the latent, or one to be found
dual: Any = forward_ad  # which PyTorch has left untyped
SAME, EQUAL, UNLIKE = range(3)  # as what a module was given is to a latent
PROBE_CELLS = (16, 32, 64)  # sides of the grids on which reach is measured, cells
NOT_LOCAL = (
    'a static kernel cannot stand for it; bitrate_ext.attribute(model, x, method="jacobian") follows each image instead'
)


class SmallGridError(ValueError):
    """A transform reaches across the grid that it had, and runs on no other: a larger picture may tell."""


@dataclass(frozen=True, eq=False)
class SynthesisTransform:
    """A transform of the decoder and what it was given in one run of the model."""

    name: str  # of the module, as in ``model.named_modules()``, or of the callable
    transform: Callable[[Tensor], Tensor]
    inputs: Tensor  # [N, C', h, w]
    channels: slice  # those of the inputs that are the latent

    @property
    def latent(self) -> Tensor:
        """``[N, C, h, w]``, as the decoder reads it."""
        return self.inputs[:, self.channels]

    def energy(self, tangent: Tensor) -> Tensor:
        """Return the squared response to a small change of the latent, summed over output channels.

        One pass in forward mode (``torch.autograd.forward_ad``); where an operation has none, reverse mode twice: what
        a pass in reverse mode returns is linear in what it starts from, and its own transpose pushes forward.

        Args:
            tangent: ``[N, C, h, w]``, the direction of the change.

        Returns:
            ``[N, H, W]``.

        Raises:
            ValueError: the transform has no derivatives.
        """
        whole = torch.zeros_like(self.inputs)
        whole[:, self.channels] = tangent
        try:
            with torch.no_grad(), dual.dual_level():
                # A clone: the first layer may work in place.
                response = dual.unpack_dual(self.transform(dual.make_dual(self.inputs.clone(), whole)))
                pushed: Tensor = torch.zeros_like(response.primal) if response.tangent is None else response.tangent
                return pushed.square().sum(dim=1)
        except RuntimeError as error:  # of a custom autograd.Function without jvp, for one
            if is_out_of_memory(error):
                raise
        with self._differentiated() as (inputs, response):
            start = torch.zeros_like(response, requires_grad=True)
            (pulled,) = torch.autograd.grad(response, inputs, start, create_graph=True)
            (pushed,) = torch.autograd.grad(pulled, start, whole)
        return pushed.square().sum(dim=1)

    def symbol_energy(
        self, passes: int, generator: torch.Generator, on_pass: Callable[[], object] = lambda: None
    ) -> Tensor:
        """Estimate the energy ``[N, C, h, w]`` of each symbol's impulse response, its squares summed over all outputs.

        Unbiased: the squares of ``J' s`` averaged over ``passes`` random signs ``s``, each one pass in reverse mode
        (Hutchinson's estimator of the diagonal of ``J' J``). Its relative standard deviation is ``sqrt(2 / passes)``.
        ``on_pass`` is called after each.

        Raises:
            ValueError: the transform has no derivatives.
        """
        total = torch.zeros_like(self.latent)
        for _ in range(passes):
            with self._differentiated() as (inputs, response):
                (pulled,) = torch.autograd.grad(response, inputs, random_signs(response, generator))
            total += pulled[:, self.channels].square()
            on_pass()
        return total / passes

    @contextlib.contextmanager
    def _differentiated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give inputs of a run that is recorded, and its response, to a block that differentiates it."""
        try:
            with torch.enable_grad():
                inputs = self.inputs.detach().clone().requires_grad_()
                yield inputs, self.transform(inputs.clone())
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{self.name} must be differentiable, since its bits are followed by its derivatives: {error}; let it "
                "run without no_grad, and its own autograd.Functions have a backward that can be differentiated, or jvp"
            ) from error

    def reach(self) -> tuple[Reach, tuple[int, int]]:
        """Measure what one cell can touch, relative to ``stride * i``, and the stride, in outputs per cell.

        A cell that is not a number makes everything that is computed from it not a number, whatever the weights are and
        whichever activations happen to be cut off: one run shows the exact support. Four adjacent cells are tried, in
        case the decoder treats them differently. Of small grids of its own, where the transform runs on them; else, as
        where it is given a quality map or a size besides, of the grid that it had.

        Raises:
            SmallGridError: it runs on no other grid than this one, and reaches across it.
            ValueError: it reaches across the largest grid tried, or serves no grid but the image's.
        """
        shape, stride = self.inputs.shape, (0, 0)
        for cells in PROBE_CELLS:
            try:
                found, stride = self._touched(torch.Size((4, shape[1], cells, cells)))
            except Exception as error:  # of whatever it is given besides
                if is_out_of_memory(error):
                    raise
                found, stride = self._touched(shape) if min(shape[2:]) > 2 else (None, stride)
                if found is None:
                    raise SmallGridError(
                        f"the reach of {self.name} cannot be measured, since it does not run on {cells} x {cells} "
                        f"cells ({error}), and spreads one cell over all of {shape[2]} x {shape[3]}: {NOT_LOCAL}"
                    ) from error
            if found is not None:
                return found, stride
        raise ValueError(
            f"{self.name} spreads one cell over all of {cells} x {cells} cells (its reach is global, as with attention "
            f"over the whole picture or statistics of it): {NOT_LOCAL}"
        )

    def _touched(self, shape: torch.Size) -> tuple[Reach | None, tuple[int, int]]:
        """Return what the middle cells of inputs of a shape touch, None where that is cut off; and the stride.

        Each cell has an image of its own, in one run or, where the batch is smaller, one after the other.
        """
        n, _, rows, columns = shape
        cells = [(rows // 2 + one, columns // 2 + other) for one in (0, 1) for other in (0, 1)]
        extents = []
        for first in range(0, len(cells), n):
            inputs = self.inputs.new_zeros(shape)
            for one, (row, column) in zip(inputs, cells[first:], strict=False):
                one[self.channels, row, column] = torch.nan
            with torch.no_grad():
                touched = self.transform(inputs).isnan().any(dim=1)  # [N, H, W]
            stride = (touched.shape[1] // rows, touched.shape[2] // columns)
            extents += [_extents(*pair, stride) for pair in zip(touched, cells[first:], strict=False)]
        if not all(inside for _, inside in extents):
            return None, stride
        axes = [(min(r[axis][0] for r, _ in extents), max(r[axis][1] for r, _ in extents)) for axis in (0, 1)]
        return (axes[0], axes[1]), stride


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return +1 or -1 at random, in the shape and dtype of ``like``; the same on every device."""
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(like)


def symbol_bits(values: Tensor | Source, unit: str = LIKELIHOOD) -> Tensor:
    """Return the bits of each symbol ``[N, C, h, w]`` of likelihoods or costs of that shape; of a source in float64."""
    if isinstance(values, Source):
        return torch.cat([rate_cells.symbol_bits(part.flat()) for part in parts_of(values)], dim=1)
    n, c, h, w = values.shape
    return latent_bits(values.reshape(n * c, 1, h, w), unit=unit).reshape(n, c, h, w)


def _extents(touched: Tensor, cell: tuple[int, int], stride: tuple[int, int]) -> tuple[Reach, bool]:
    """Return where ``touched [H, W]`` is true, relative to the cell, and whether that ends before the border does."""
    axes, inside = [], True
    for axis in (0, 1):
        where = touched.any(dim=1 - axis).nonzero().flatten()
        if not where.numel():
            raise ValueError("the transform does not depend on its input")
        first, last = int(where[0]), int(where[-1])
        inside = inside and first > 0 and last < touched.shape[axis] - 1
        axes.append((first - stride[axis] * cell[axis], last - stride[axis] * cell[axis]))
    return (axes[0], axes[1]), inside


@dataclass(frozen=True, eq=False)
class _Call:
    """One module, or watched method, given a tensor on some latent's grid."""

    name: str
    transform: Callable[[Tensor], Tensor]
    given: Tensor  # [N, C', h, w], the very object
    inputs: Tensor  # its values; the module may have worked in place
    size: tuple[int, ...]  # rows and columns of what it returned


class ModelTrace:
    """One run of a model on padded images: its likelihoods, and the modules that its latents went through.

    Args:
        adapter: has the model; pads and checks as for a map.
        x: ``[N, C, H, W]``, as for the mapper.
        forward_kwargs: for the model's ``forward``.
        synthesis: the synthesis transform: a module's name, or a callable that takes a latent ``[N, C, h, w]`` to an
            image. Calls of an object's method are watched as those of modules are, with all that it is given beside;
            another callable is given the values that an entropy model returns beside the latent's likelihoods.
        fused: let likelihoods have a source of bits, see ``ModelAdapter.run``.

    Raises:
        TypeError, ValueError: as the mapper does; also where the model is no ``nn.Module``.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        x: Tensor,
        forward_kwargs: dict[str, Any],
        synthesis: Synthesis = None,
        *,
        fused: bool = False,
    ) -> None:
        self._model = adapter.module
        self._synthesis = checked_synthesis(self._model, synthesis)
        self.adapter, self._is_fused = adapter, fused
        with torch.no_grad():  # not inference mode: what it makes cannot be differentiated
            adapter.prepare(x, forward_kwargs)
            adapter.on_canvas(x, forward_kwargs, self._watch)

    @property
    def size(self) -> tuple[int, int]:
        """Return the size of the padded images, pixels."""
        return _grid(self.padded)

    def grid(self, latent: str) -> tuple[int, int]:
        """Return the cells ``(h, w)`` of a latent on the padded images."""
        return self.adapter.grids(self.size)[latent]

    def _watch(self, padded: Tensor, crop: Crop, forward_kwargs: dict[str, Any]) -> None:
        """Run the model on padded images."""
        self.padded, self.crop, self.forward_kwargs = padded, crop, forward_kwargs
        self._calls: list[_Call] = []
        self._method_calls: list[_Call] = []
        self._values: list[tuple[Tensor, Tensor, list[Tensor]]] = []  # see _place
        self._means = False
        grids = set(self.adapter.grids(self.size).values())
        entered: dict[Any, tuple[Tensor, Tensor]] = {}

        def before(module: Any, args: Any) -> None:
            if args and isinstance(args[0], Tensor) and _grid(args[0]) in grids:
                entered[module] = (args[0], args[0].detach().clone())

        def after(name: str, module: Any, args: Any, kwargs: Any, output: Any) -> None:
            self._means = self._means or _is_given_means(module, args, kwargs)
            before_and_values = entered.pop(module, None)
            if isinstance(output, tuple) and output and isinstance(output[0], Tensor) and _grid(output[0]) in grids:
                self._values.append((output[0], output[0].detach().clone(), _tensors(output[1:])))
            if before_and_values and isinstance(output, Tensor) and _grid(output) in {*grids, self.size}:
                rest = args[1:]
                call = _Call(name, lambda t: module(t, *rest, **kwargs), *before_and_values, _grid(output))
                (self._calls if isinstance(module, nn.Module) else self._method_calls).append(call)

        parts = [(name, module) for name, module in self._model.named_modules() if name]
        given = self._synthesis
        method = watch_method(given, after, before) if _can_be_watched(given) else contextlib.nullcontext()
        with watch_calls(parts, after, before), method:
            self.output, self.likelihoods = self.adapter.run(padded, forward_kwargs, fused=self._is_fused)
        for latent, values in self.likelihoods.items():
            if values.dim() != 4:
                raise ValueError(
                    f"latent {latent!r} must have a cost for each symbol, [N, C, h, w], which a decoder is followed "
                    f"with, got one for each cell, {list(values.shape)}"
                )

    def synthesis(self, latent: str, named: str | None = None) -> SynthesisTransform:
        """Find the transform from a latent to the image: the one given, or the module of that name, or any.

        Raises:
            ValueError: unknown latent; no such transform, or none of that name.
        """
        if callable(self._synthesis):
            return self._given(latent, self._synthesis)
        named = named or self._synthesis
        found = self._outermost(latent, self.size, named)
        if found is None:
            (h, w), (rows, columns) = self.grid(latent), self.size
            looked = "a module" if named is None else f"a module {named!r}"
            raise ValueError(
                f"no synthesis transform found for latent {latent!r}: looked for {looked} of the model that is given a "
                f"tensor [N, {self.likelihoods[latent].shape[1]}, {h}, {w}] and returns one [N, C, {rows}, {columns}]; "
                "give the decoder as `synthesis` to calibrate or attribute: its name where it is a module of the "
                "model, or a callable that takes such a tensor"
            )
        return found

    def _given(self, latent: str, transform: Callable[..., Any]) -> SynthesisTransform:
        """Return the callable that was given, with what it was or would be given in this run."""
        found = self._outermost(latent, self.size, calls=self._method_calls)
        if found is not None:
            return found
        name = str(getattr(transform, "__qualname__", type(transform).__name__))
        likelihoods = self.likelihoods[latent]
        for *_, values, beside in self._values:
            if values.shape != likelihoods.shape or not any(one is likelihoods for one in beside):
                continue
            try:
                with torch.no_grad():
                    returned = transform(values.clone())
            except (RuntimeError, TypeError, ValueError) as error:
                if is_out_of_memory(error):
                    raise
                raise ValueError(f"synthesis, {name}, does not take latent {latent!r}: {error}") from error
            if not isinstance(returned, Tensor) or _grid(returned) != self.size:
                got = list(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
                rows, columns = self.size
                raise ValueError(
                    f"synthesis, {name}, must take latent {latent!r}, {list(values.shape)}, to a tensor "
                    f"[N, C, {rows}, {columns}], got {got}"
                )
            return SynthesisTransform(name, transform, values, slice(0, values.shape[1]))
        raise ValueError(
            f"synthesis, {name}, is not called with latent {latent!r}, {list(likelihoods.shape)}, in a run of the "
            "model, and no module returns the latent's values beside its likelihoods; give a method of the model, as "
            "model.decode, that forward() calls with the latent first"
        )

    def hyper_synthesis(self, latent: str) -> tuple[SynthesisTransform, str] | None:
        """Find the transform from a latent to another one's grid, and that one's name; None where there is none."""
        self._check_latent(latent)
        branch = latent.rpartition(".")[0]
        for other in self.likelihoods:
            larger = all(a > b for a, b in zip(self.grid(other), self.grid(latent), strict=True))
            if other.rpartition(".")[0] == branch and larger:
                found = self._outermost(latent, self.grid(other))
                if found is not None:
                    return found, other
        return None

    def reaches_image(self, hyper: SynthesisTransform, onto: str) -> bool:
        """Return whether what a hyper-synthesis returns moves pixels, and does not only say how to code symbols.

        It does where a Gaussian conditional is given means, which a decoder adds to the symbols: CompressAI's
        autoregressive models do not show that in what ``forward`` reconstructs. Otherwise, where a value that is not a
        number spreads from it to what the synthesis transform of ``onto`` reads.
        """
        if self._means:
            return True
        name = self.synthesis(onto).name
        hyper_module = [(hyper.name, self._model.get_submodule(hyper.name))]
        with watch_calls(hyper_module, lambda *call: torch.full_like(call[-1], torch.nan)):
            again = ModelTrace(self.adapter, self.padded, self.forward_kwargs, self._synthesis)
        return bool(again.synthesis(onto, name).inputs.isnan().any())

    def _check_latent(self, latent: str) -> None:
        if latent not in self.likelihoods:
            known = ", ".join(map(repr, self.likelihoods))
            raise ValueError(f"latent must be one of the model's, {known}, got {latent!r}")

    def _outermost(
        self, latent: str, size: tuple[int, ...], named: str | None = None, calls: list[_Call] | None = None
    ) -> SynthesisTransform | None:
        """Find the module that takes the latent's grid to ``size``: the first in the order of ``named_modules``.

        One that was given what the entropy model returned comes before one that was given other values, and one that
        was given nothing else before one that was given more channels.
        """
        self._check_latent(latent)
        channels = self.likelihoods[latent].shape[1]
        order = {name: position for position, (name, _) in enumerate(self._model.named_modules())}
        ranked = []
        for call in self._calls if calls is None else calls:
            if _grid(call.inputs) != self.grid(latent) or call.size != size or named not in (None, call.name):
                continue
            likeness, start = self._place(latent, call)
            whole = call.inputs.shape[1] == channels
            if likeness == UNLIKE and not whole:
                continue  # something else on the same grid
            rank = (likeness, not whole, order.get(call.name, 0))
            ranked.append((rank, call, slice(start, start + channels)))
        if not ranked:
            return None
        _, call, part = min(ranked, key=lambda one: one[0])
        return SynthesisTransform(call.name, call.transform, call.inputs, part)

    def _place(self, latent: str, call: _Call) -> tuple[int, int]:
        """Say how surely a module was given the latent, and the channel at which it begins.

        Entropy models return a latent beside its likelihoods. The module was given that tensor itself, or one with its
        values in it (which other latents of an untrained model may have, too), or something else.
        """
        likelihoods = self.likelihoods[latent]
        channels = likelihoods.shape[1]
        returned = [pair for *pair, beside in self._values if any(one is likelihoods for one in beside)]
        if any(call.given is tensor for tensor, _ in returned):
            return SAME, 0
        for start in range(0, call.inputs.shape[1] - channels + 1, channels):
            part = call.inputs[:, start : start + channels]
            if any(torch.equal(part, values) for _, values in returned):
                return EQUAL, start
        return UNLIKE, 0


def checked_synthesis(model: nn.Module, synthesis: Any) -> Synthesis:
    """Return a synthesis transform as it was given; of a module of the model its name.

    Raises:
        TypeError: it is neither a name nor a callable.
    """
    if isinstance(synthesis, nn.Module):
        name = next((name for name, module in model.named_modules() if module is synthesis), None)
        return name or synthesis
    if synthesis is not None and not isinstance(synthesis, str) and not callable(synthesis):
        raise TypeError(
            "synthesis must be the name of a module, or a callable that takes a latent [N, C, h, w] to an image, got "
            f"{type(synthesis).__name__}"
        )
    return unwatched(synthesis)  # type: ignore[no-any-return]


def _can_be_watched(synthesis: Any) -> TypeGuard[types.MethodType]:
    """Return whether it is an object's method, found on the object by its name."""
    if not isinstance(synthesis, types.MethodType) or isinstance(synthesis.__self__, type):
        return False
    owner, name = synthesis.__self__, synthesis.__name__
    return hasattr(owner, "__dict__") and unwatched(getattr(owner, name, None)) == synthesis


def _grid(tensor: Tensor) -> tuple[int, int]:
    """Return rows and columns of ``[N, C, h, w]``; (0, 0) of other shapes."""
    return (tensor.shape[2], tensor.shape[3]) if tensor.dim() == 4 else (0, 0)


def _tensors(value: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _is_given_means(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether that is a call of CompressAI's ``GaussianConditional(inputs, scales, means)`` with means."""
    if not any(kind.__name__ == "GaussianConditional" for kind in type(module).__mro__):
        return False
    return kwargs.get("means") is not None or (len(args) > 2 and args[2] is not None)
