"""Sources of bits: latents beside the distributions that code them, given where likelihoods are.

A symbol ``v`` costs ``-log2(CDF(v + 1/2) - CDF(v - 1/2))`` bits. A source names the distribution; no tensor of
likelihoods is ever made. What a source means is in ``rate/reference.py``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from itertools import chain, pairwise, zip_longest
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .torch_internals import are_eager

SCALE_BOUND = 0.11  # CompressAI's: smaller scales count as this
GAUSSIAN, LAPLACE, LOGISTIC, MIXTURE, FACTORIZED = range(5)  # csrc/core/tensors.h has the same order
OFF_ONE = 0.02  # of a sum of weights: rounding in the narrowest dtype
FILTERS = (3, 3, 3, 3)  # of CompressAI's factorised prior, for which there are kernels
NETWORK = ("matrices", "biases", "factors")  # its parameters, a list of each
Shape = Sequence[int]


class Flat(NamedTuple):
    """A source as the operators take it; tensors are ``[N, C, h, w]``, those of a mixture ``[N, K * C, h, w]``."""

    family: int
    tensors: list[Tensor]  # values, scales, means, weights; of a factorised prior: values, parameters [C, P]
    bound: float  # of the scales; -inf: none
    floor: float  # of the likelihood; 0: none
    filters: tuple[int, ...] = ()  # of a factorised prior's network


class Source:
    """What all sources share: they have the shape, the dtype and the device of their values."""

    values: Tensor
    floor: float | None
    family: ClassVar[int]

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def layout(self) -> torch.layout:
        return self.values.layout

    def dim(self) -> int:
        """Return the number of dimensions, as a tensor does."""
        return self.values.dim()

    def flat(self) -> Flat:
        """Return what the operators take."""
        raise NotImplementedError

    def check_values(self, what: str) -> None:
        """Refuse distributions that are none: a look at all their parameters, which waits for the device.

        Raises:
            ValueError: naming the part, what was expected and what came.
        """
        for name, part in self._parts():
            if not bool(torch.isfinite(part).all()):
                raise ValueError(
                    f"{what}.{name} must be finite, got NaN or infinity among them; look where they come from"
                )

    def _parts(self) -> list[tuple[str, Tensor]]:
        named = [
            (name, getattr(self, name)) for name in ("values", "scales", "means", "weights") if hasattr(self, name)
        ]
        return [(name, part) for name, part in named if part is not None]

    def _check(self, copies: bool = False) -> None:
        """Check kinds alone: nothing waits for the device."""
        kind, values = type(self).__name__, self.values
        if not isinstance(values, Tensor):
            raise TypeError(f"{kind}'s values must be a tensor, got {type(values).__name__}")
        for name, part in self._parts():
            what = f"{kind}'s {name}"
            if not isinstance(part, Tensor):
                raise TypeError(f"{what} must be a tensor, got {type(part).__name__}")
            if not part.is_floating_point() or part.layout != torch.strided:
                raise TypeError(f"{what} must be strided floating-point, got {part.dtype}, layout {part.layout}")
            if part.dim() != 4:
                raise ValueError(f"{what} must be [N, C, h, w], got shape {list(part.shape)}")
            if part is values:
                continue
            if part.dtype != values.dtype:
                raise TypeError(
                    f"{what} must be {values.dtype} like the values, got {part.dtype}; convert with .to(values.dtype)"
                )
            if part.device != values.device:
                raise ValueError(f"{what} must be on {values.device} like the values, got {part.device}")
        if self.floor is not None and not (isinstance(self.floor, Real) and 0 < self.floor < 1):
            raise ValueError(f"{kind}'s floor must be None or a likelihood between 0 and 1, got {self.floor!r}")


def _same(what: str, shape: Shape, expected: Shape, like: str) -> None:
    if tuple(shape) != tuple(expected):
        raise ValueError(f"{what} must have the shape of the {like}, {list(expected)}, got {list(shape)}")


@dataclass(frozen=True, eq=False, repr=False)
class _Located(Source):
    """Values, each with a distribution of its own scale and mean.

    Args:
        values: the latent, ``[N, C, h, w]``: whole numbers from the means, or noisy ones, as in training.
        scales: of the same shape, dtype and device.
        means: likewise; None: zero.
        scale_bound: smaller scales count as this, with the gradient of CompressAI's ``LowerBound``; None: no bound, and
            scales that are not positive give NaN.
        floor: least likelihood that counts, with the same gradient; 1e-9 is CompressAI's. None: the true value.

    Raises:
        TypeError, ValueError: naming the part, what was expected and what came.
    """

    values: Tensor
    scales: Tensor
    means: Tensor | None = None
    _: KW_ONLY
    scale_bound: float | None = SCALE_BOUND
    floor: float | None = None

    def __post_init__(self) -> None:
        self._check()
        bound = self.scale_bound
        if bound is not None and not (isinstance(bound, Real) and 0 < bound < math.inf):
            raise ValueError(f"scale_bound must be None or positive and finite, got {self.scale_bound!r}")
        kind = type(self).__name__
        for name, part in self._parts()[1:]:
            self._check_shape(f"{kind}'s {name}", part)

    def _check_shape(self, what: str, part: Tensor) -> None:
        _same(what, part.shape, self.values.shape, "values")

    def check_values(self, what: str) -> None:
        super().check_values(what)
        low = float(self.scales.detach().amin()) if self.scales.numel() else 1.0
        if self.scale_bound is None and low <= 0:
            raise ValueError(
                f"{what}.scales must be positive, got {low:.8g}; give scale_bound=, below which none counts"
            )

    def flat(self) -> Flat:
        means = self.values.new_zeros(()).expand(self.values.shape) if self.means is None else self.means
        bound = -math.inf if self.scale_bound is None else self.scale_bound
        return Flat(self.family, [self.values, self.scales, means], bound, self.floor or 0.0)


class Gaussian(_Located):
    """Code each value by a normal distribution; ``scales`` are standard deviations.

    Example:
        >>> y = torch.zeros(1, 3, 4, 4)
        >>> source = bitrate_ext.Gaussian(y, scales=torch.full_like(y, 2.0), means=y)
        >>> bitrate_ext.bitrate_map({"y": source}, size=(64, 64)).shape
        torch.Size([1, 1, 64, 64])
    """

    __doc__ += "\n" + (_Located.__doc__ or "").split("\n", 1)[1]
    family = GAUSSIAN


class Laplace(_Located):
    """Code each value by a Laplace distribution, ``CDF(x) = exp(x / scale) / 2`` below its mean.

    Example:
        >>> y = torch.zeros(1, 3, 4, 4)
        >>> source = bitrate_ext.Laplace(y, scales=torch.full_like(y, 2.0), means=y)
        >>> bitrate_ext.bitrate_map({"y": source}, size=(64, 64)).shape
        torch.Size([1, 1, 64, 64])
    """

    __doc__ += "\n" + (_Located.__doc__ or "").split("\n", 1)[1]
    family = LAPLACE


class Logistic(_Located):
    """Code each value by a logistic distribution, ``CDF(x) = 1 / (1 + exp(-x / scale))``.

    Example:
        >>> y = torch.zeros(1, 3, 4, 4)
        >>> source = bitrate_ext.Logistic(y, scales=torch.full_like(y, 2.0), means=y)
        >>> bitrate_ext.bitrate_map({"y": source}, size=(64, 64)).shape
        torch.Size([1, 1, 64, 64])
    """

    __doc__ += "\n" + (_Located.__doc__ or "").split("\n", 1)[1]
    family = LOGISTIC


@dataclass(frozen=True, eq=False, repr=False)
class GaussianMixture(_Located):
    """Code each value by a weighted sum of K normal distributions, laid out as CompressAI's are.

    Args:
        values: the latent, ``[N, C, h, w]``.
        scales, means, weights: ``[N, K * C, h, w]``, the C channels of the first distribution first. The weights of a
            value should add up to one.
        scale_bound, floor: as for ``Gaussian``; the floor is that of the sum.

    Raises:
        TypeError, ValueError: naming the part, what was expected and what came.

    Example:
        >>> y, two = torch.zeros(1, 3, 4, 4), torch.ones(1, 6, 4, 4)  # two Gaussians a symbol
        >>> source = bitrate_ext.GaussianMixture(y, scales=two, means=two, weights=two / 2)
        >>> bitrate_ext.latent_bits(source).shape
        torch.Size([1, 4, 4])
    """

    weights: Tensor | None = None
    family = MIXTURE

    def __post_init__(self) -> None:
        for name in ("means", "weights"):
            if getattr(self, name) is None:
                raise TypeError(f"GaussianMixture's {name} must be a tensor, got None")
        super().__post_init__()
        _same("GaussianMixture's means", self._of("means").shape, self.scales.shape, "scales")
        _same("GaussianMixture's weights", self._of("weights").shape, self.scales.shape, "scales")

    def _of(self, name: str) -> Tensor:
        part: Tensor = getattr(self, name)
        return part

    def _check_shape(self, what: str, part: Tensor) -> None:
        batch, channels, *grid = self.values.shape
        got = part.shape[1]
        count = got // channels if channels and got % channels == 0 else 0
        if count == 0 and (channels or got):
            raise ValueError(f"{what} must have a multiple of the values' {channels} channels, got {got}")
        _same(what, part.shape, (batch, got, *grid), "values but for the channels")

    def check_values(self, what: str) -> None:
        super().check_values(what)
        low = float(self._of("weights").detach().amin()) if self.scales.numel() else 0.0
        if low < 0:
            raise ValueError(f"{what}.weights must be at least 0, got {low:.8g}; take a softmax over the K")
        batch, channels, *grid = self.values.shape
        sums = self._of("weights").detach().float().reshape(batch, -1, channels, *grid).sum(1) if channels else None
        if sums is not None and bool(((sums - 1).abs() > OFF_ONE).any()):
            raise ValueError(
                f"{what}.weights must add up to 1 for each value, got {float(sums.amin()):.4g} to "
                f"{float(sums.amax()):.4g}; take a softmax over the K"
            )

    def flat(self) -> Flat:
        inner = super().flat()
        return inner._replace(tensors=[*inner.tensors, self._of("weights")])


@dataclass(frozen=True, eq=False, repr=False)
class Factorized(Source):
    """Code each value by its channel's learned distribution: a factorised prior, CompressAI's ``EntropyBottleneck``.

    Args:
        entropy_bottleneck: the module; its ``matrices``, ``biases``, ``factors`` and ``filters`` are read.
        values: the latent, ``[N, C, h, w]``, of the module's channels, dtype and device.
        floor: as for ``Gaussian``.
        table: ask for a table of symbols: values should be whole, or as far from it as their channel's median. Others
            are computed, as exactly, and a ``UserWarning`` tells how many; the look at them waits for the device.
            False: whatever is whole is looked up where that is faster, and nothing is told. Bits are the same.

    Raises:
        TypeError, ValueError: naming the part, what was expected and what came.

    Example:
        >>> z = torch.zeros(1, model.entropy_bottleneck.channels, 2, 2)
        >>> bitrate_ext.rate(bitrate_ext.Factorized(model.entropy_bottleneck, z)).shape
        torch.Size([1])
    """

    entropy_bottleneck: Any
    values: Tensor
    _: KW_ONLY
    floor: float | None = None
    table: bool = False
    family = FACTORIZED

    def __post_init__(self) -> None:
        lacking = [name for name in (*NETWORK, "filters") if not hasattr(self.entropy_bottleneck, name)]
        if lacking:
            raise TypeError(
                "Factorized's entropy_bottleneck must be like CompressAI's EntropyBottleneck, got "
                f"{type(self.entropy_bottleneck).__name__} without {', '.join(lacking)}"
            )
        self._check()
        self._check_network()
        if self.table:
            self._tell_of_others()

    def _check_network(self) -> None:
        """Check the parameters against each other, and the values against them."""
        module, what = self.entropy_bottleneck, "Factorized's entropy_bottleneck"
        filters = tuple(module.filters)
        if not all(isinstance(width, int) and width > 0 for width in filters):
            raise TypeError(f"{what} must have positive whole numbers as filters, got {module.filters!r}")
        layers, counts = len(filters) + 1, [len(getattr(module, name)) for name in NETWORK]
        if counts != [layers, layers, layers - 1]:
            raise ValueError(
                f"{what} must have {layers} matrices, {layers} biases and {layers - 1} factors for its filters "
                f"{filters}, got {', '.join(map(str, counts))}"
            )
        channels = len(module.matrices[0]) if isinstance(module.matrices[0], Tensor) else self.values.shape[1]
        named: dict[str, tuple[Any, Shape]] = {}
        if getattr(module, "quantiles", None) is not None:
            named["quantiles"] = module.quantiles, (channels, 1, 3)
        for layer, (before, after) in enumerate(pairwise((1, *filters, 1))):
            for name, side in zip(NETWORK, (before, 1, 1), strict=True):
                if name != "factors" or layer < len(filters):
                    named[f"{name}[{layer}]"] = getattr(module, name)[layer], (channels, after, side)
        for name, (one, shape) in named.items():
            if not isinstance(one, Tensor) or tuple(one.shape) != shape:
                got = list(one.shape) if isinstance(one, Tensor) else type(one).__name__
                raise ValueError(f"{what}.{name} must be a tensor {list(shape)}, got {got}")
        if self.values.shape[1] != channels:
            raise ValueError(
                f"Factorized's values must have the {channels} channels of its entropy_bottleneck, got "
                f"{self.values.shape[1]}"
            )
        for name, (one, _) in named.items():
            if (one.dtype, one.device) != (self.values.dtype, self.values.device):
                raise ValueError(
                    f"Factorized's values must be {one.dtype} on {one.device} like its entropy_bottleneck's {name}, "
                    f"got {self.values.dtype} on {self.values.device}"
                )

    def _tell_of_others(self) -> None:
        values = self.values.detach()
        apart = values - self._origin().reshape(-1, 1, 1)
        others = int(((values != values.round()) & (apart != apart.round())).sum())
        if others:
            warnings.warn(
                "Factorized's values must be whole, or as far from it as their channel's median, where table=True asks "
                f"for a table, got {others:,} of {values.numel():,} that are neither; these are computed, as exactly "
                "and more slowly: round them, or leave table= out for noisy values",
                stacklevel=4,
            )

    def _origin(self) -> Tensor:
        """Return where each channel's symbols lie between whole numbers, ``[C, 1]``."""
        quantiles = getattr(self.entropy_bottleneck, "quantiles", None)
        matrix: Tensor = self.entropy_bottleneck.matrices[0]
        return matrix.new_zeros((matrix.shape[0], 1)) if quantiles is None else quantiles[:, 0, 1:2].detach()

    def check_values(self, what: str) -> None:
        super().check_values(what)
        if not bool(torch.isfinite(self.flat().tensors[1]).all()):
            raise ValueError(f"{what}.entropy_bottleneck must have finite parameters, got NaN or infinity among them")

    def flat(self) -> Flat:
        return self._flat(None)

    def _flat(self, step: Any) -> Flat:
        """Return what the operators take of symbols that are ``step`` apart, in units of it."""
        module, values = self.entropy_bottleneck, self.values
        filters = tuple(int(width) for width in module.filters)
        lists = (module.matrices, module.biases, module.factors)
        wide = torch.promote_types(values.dtype, torch.float32)  # for autocast joins no halves of two kinds
        own = [one.flatten(1).to(wide) for layer in zip_longest(*lists) for one in layer if one is not None]
        raw = torch.cat(own, 1).double()
        kinds = _parameter_kinds(filters, raw.device)  # positive weights, biases and gates, in the order of their use
        weights = torch.where(kinds == 0, F.softplus(raw), torch.where(kinds == 2, torch.tanh(raw), raw))
        origin = self._origin()
        if step is not None:
            first, rest = weights[:, : filters[0]], weights[:, filters[0] :]
            weights, origin, values = torch.cat([first * step, rest], 1), origin / step, values / step
        # Then where whole symbols lie, between whole numbers, and what float32 weights are rounded by.
        if values.dtype == torch.float64:
            parts = [weights, origin.double(), torch.zeros_like(weights)]
        else:
            rounded = weights.float()
            parts = [rounded, origin.float(), (weights.detach() - rounded.detach()).float()]
        return Flat(self.family, [values.contiguous(), torch.cat(parts, 1)], -math.inf, self.floor or 0.0, filters)


@lru_cache(maxsize=64)
def _parameter_kinds(filters: tuple[int, ...], device: torch.device) -> Tensor:
    """Return which of a network's parameters are weights (0), biases (1) and gates (2)."""
    widths = (1, *filters, 1)
    layers = [[0] * before * after + [1] * after + [2] * after for before, after in pairwise(widths)]
    return torch.tensor(list(chain(*layers))[: -widths[-1]], device=device)  # the last layer has no gates


def is_eager(latents: Iterable[Tensor | Source]) -> bool:
    """Tell whether all are of plain tensors, outside of any compiler, mode and transform."""
    parts = [[latent] if isinstance(latent, Tensor) else [part for _, part in latent._parts()] for latent in latents]
    return are_eager([tensor for some in parts for tensor in some])
