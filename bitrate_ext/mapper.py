"""Bitrate maps of whole models: pad the image as the model needs, run it, project its likelihoods, crop.

Padding follows CompressAI's ``examples/codec.py`` and ``compressai.utils.eval_model``: zeros, centred, the odd pixel on
the right and at the bottom. Bits spent there are bits of the image, so they are counted in ``total_bits`` and in
``bpp``, and ``padding_bits`` says how many they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import bitrate_map, latent_bits, named_likelihoods
from .projection import Axis, Projection, get_projection, outside_share
from .receptive_field import ReceptiveField
from .traps import corrected, likelihood_notes

if TYPE_CHECKING:
    from .coded import Coder
    from .ledger import Ledger

AnyProjection = str | Projection | Mapping[str, str | Projection]
Crop = tuple[int, int, int, int]  # top, left, height, width, pixels

# Sides of the square images that a model is probed with, pixels. 960 is there for strides with factors 3 and 5.
PROBE_SIZES = (128, 256, 512, 960, 1024, 2048)
RECEPTIVE_FIELD = ReceptiveField.name
ESTIMATED, CODED = "estimated", "coded"  # sources of bits: likelihoods, or the range coder
POINT_CLOUDS = "compressai.models.pointcloud"
TOLERANCE = 1e-6  # by which resampled images may leave [0, 1]


@dataclass(frozen=True, eq=False)
class BitrateResult:
    """Where a model spends its bits on a batch of N images of H x W pixels.

    ``map`` and ``maps`` are float32, float64 where the model computes in float64. A map's float64 sum plus
    ``padding_bits`` is ``total_bits``, to 6e-8 of it for float32 maps.
    """

    map: Tensor  # [N, 1, H, W], bits per pixel, all latents together
    maps: dict[str, Tensor]  # the same for each latent; nested names are joined with dots
    latent_bits: dict[str, Tensor]  # [N, h, w], bits per cell on the grid of the padded image
    total_bits: Tensor  # float64 [N], everything the model spends
    padding_bits: Tensor  # float64 [N], the part of it that falls outside the image
    bpp: Tensor  # float64 [N], total_bits / (H * W)
    x_hat: Tensor | None  # [N, C, H, W], not clamped; None where the model returns no image of the padded size
    channel_bits: dict[str, Tensor] = field(default_factory=dict)  # float64 [N, C], bits of each channel of each latent
    warnings: tuple[str, ...] = ()  # what is to be known of these numbers, a line each
    bits: str = ESTIMATED  # where they come from: "estimated" or "coded"
    ledger: Ledger | None = None  # of coded bits: every bit of the strings
    entropy: Tensor | None = None  # of coded bits: [N, 1, H, W], bits per pixel that the coder's tables expect
    gap: Tensor | None = None  # on request: [N, 1, H, W], coded minus estimated, bits per pixel


class BitrateMapper:
    """Maps the bits of any CompressAI-style image model.

    Args:
        model: a module in eval mode, or any callable, that takes ``[N, C, H, W]`` in [0, 1] and returns a mapping
            whose ``"likelihoods"`` is a tensor ``[N, C, h, w]`` (which is called ``"y"``) or nested dicts of them.
        projection: as for ``bitrate_map``, or ``"receptive-field"``: kernels measured on the model's own decoder, see
            ``calibrate``. Where they are not in the cache, the first call takes up to a minute longer.

        bits: ``"estimated"``, from the likelihoods that the model's ``forward`` returns; or ``"coded"``, what the range
            coder spends on each symbol while the model's own ``compress`` runs, escapes included. Coded bits come with
            a ``ledger``, which adds up to the strings, and with ``entropy``; without ``x_hat``: nothing is decoded.
        gap: of coded bits: run ``forward`` as well, for ``result.gap``, the estimate in the ledger, and ``x_hat``.

    The size that the model needs is found by running it once on a black image, at the first call; ``strides`` then
    holds pixels per latent cell, ``{"y": (16, 16), ...}``, and ``projections`` how each latent is laid over the image.
    A model changed after that needs a new mapper.

    Raises:
        TypeError: ``model`` is no callable, is a model of point clouds, or has no ``compress`` for coded bits.
        ValueError, TypeError: unknown ``projection`` or ``bits``, ``gap`` without coded bits.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        projection: AnyProjection = "bilinear",
        bits: str = ESTIMATED,
        gap: bool = False,
    ) -> None:
        if isinstance(model, type) or not callable(model):
            what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
            raise TypeError(f"model must be an nn.Module or another callable object, got {what}")
        if type(model).__module__.startswith(POINT_CLOUDS):
            raise TypeError(
                f"model must be an image model, got {type(model).__name__}: point clouds have no image to map onto"
            )
        if bits not in (ESTIMATED, CODED):
            raise ValueError(f"bits must be {ESTIMATED!r} or {CODED!r}, got {bits!r}")
        if gap and bits != CODED:
            raise ValueError(f"gap is that of coded bits to the estimate; it needs bits={CODED!r}, got {bits!r}")
        self.bits, self.gap = bits, gap
        self._coder: Coder | None = None
        if bits == CODED:
            from .coded import Coder

            self._coder = Coder(model)
        self.model = model
        self._asked = projection
        if isinstance(projection, Mapping):
            for one in projection.values():
                get_projection(one)
        elif projection != RECEPTIVE_FIELD:
            get_projection(projection)
        self.strides: dict[str, tuple[int, int]] = {}
        self.projections: dict[str, Projection] = {}

    def __call__(self, x: Tensor, *, gradients: bool | None = None, **forward_kwargs: Any) -> BitrateResult:
        """Run the model on ``x`` and say where its bits go.

        Args:
            x: ``[N, C, H, W]``, floating, in [0, 1], any H and W, on the model's device.
            gradients: keep the graph, of the parameters too. Default: where ``x.requires_grad``. Otherwise everything
                runs under ``torch.inference_mode``.
            **forward_kwargs: for the model's ``forward``, such as the level ``s`` of CompressAI's variable-rate models.

        The likelihoods are those of the rounded latents that a coder would write, and CompressAI rounds without a
        gradient in eval mode: with most of its models only parameters get gradients other than zero. To train, apply
        ``bitrate_map`` to the likelihoods that ``forward`` returns in train mode.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came; also where part of the model
                is in train mode, where no image size suits it, and where its output has no image's likelihoods.
        """
        if self._coder is not None:
            if gradients:
                raise ValueError(
                    "coded bits are whole decisions of a coder and have no gradients; gradients must be False"
                )
            gradients = False
        self.resolve(x, forward_kwargs)
        if gradients is None:
            gradients = x.requires_grad and torch.is_grad_enabled()
        with torch.inference_mode(not gradients), torch.set_grad_enabled(gradients):
            return self._map(x, forward_kwargs)

    def _map(self, x: Tensor, forward_kwargs: dict[str, Any]) -> BitrateResult:
        padded, crop = self.pad(x)
        if self._coder is not None:
            from .coded import map_coded

            return map_coded(self, self._coder, padded, crop, forward_kwargs)
        return self.estimate(padded, crop, forward_kwargs)

    def estimate(
        self, padded: Tensor, crop: Crop, forward_kwargs: dict[str, Any], dtype: torch.dtype | None = None
    ) -> BitrateResult:
        """Maps of the likelihoods of padded images, in a dtype of one's choice."""
        notes: list[str] = []
        output, likelihoods = self.run(padded, forward_kwargs, notes)
        size = (padded.shape[2], padded.shape[3])
        result = lay_out(likelihoods, self.projections, size, crop, dtype)
        notes += likelihood_notes(likelihoods)
        channels = {name: _channel_bits(p.detach()) for name, p in likelihoods.items()}
        x_hat = cropped_image(output.get("x_hat"), size, crop)
        return replace(result, x_hat=x_hat, channel_bits=channels, warnings=tuple(notes))

    def prepare(self, x: Tensor, forward_kwargs: dict[str, Any]) -> None:
        """Check the model and the images, and find the strides where they are not known yet."""
        check_eval_mode(self.model)
        check_images(self.model, x)
        if not self.strides:
            self.strides = self._find_strides(x, forward_kwargs)

    def pad(self, x: Tensor) -> tuple[Tensor, Crop]:
        """Images as the model needs them, and where the picture lies on them: ``(top, left, height, width)``."""
        height, width = x.shape[-2:]
        size, crop = self.canvas(height, width)
        top, left = crop[:2]
        return F.pad(x, (left, size[1] - width - left, top, size[0] - height - top)), crop

    @property
    def multiple(self) -> tuple[int, int]:
        """Of which the sides of padded images are: the least common multiples of the strides, pixels."""
        rows, columns = (math.lcm(*axis) for axis in zip(*self.strides.values(), strict=True))
        return rows, columns

    def canvas(self, height: int, width: int) -> tuple[tuple[int, int], Crop]:
        """The size of a padded image, and where the picture lies on it: ``(top, left, height, width)``."""
        rows, columns = self.multiple
        size = (-(-height // rows) * rows, -(-width // columns) * columns)
        return size, ((size[0] - height) // 2, (size[1] - width) // 2, height, width)

    def run(
        self, padded: Tensor, forward_kwargs: dict[str, Any], notes: list[str] | None = None
    ) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
        """The model's output for images of a size that suits it, and its likelihoods by name, checked.

        What had to be corrected in them is noted.
        """
        with corrected(self.model) as corrections:
            output = self.model(padded, **forward_kwargs)
        if notes is not None:
            notes += corrections
        likelihoods = _image_likelihoods(output)
        self._check_grids(likelihoods, padded.shape[0], (padded.shape[2], padded.shape[3]))
        return output, likelihoods

    def resolve(self, x: Tensor, forward_kwargs: dict[str, Any]) -> None:
        """Checks; and at the first call the strides, and a projection for each latent."""
        self.prepare(x, forward_kwargs)
        if self.projections.keys() == self.strides.keys():
            return
        if isinstance(self._asked, Mapping):
            missing = [name for name in self.strides if name not in self._asked]
            if missing:
                raise ValueError(
                    f"projection must name each latent of the model, {', '.join(map(repr, self.strides))}; "
                    f"{missing[0]!r} is missing"
                )
            self.projections = {name: get_projection(self._asked[name]) for name in self.strides}
        elif self._asked == RECEPTIVE_FIELD:
            from .calibration import receptive_fields

            self.projections = receptive_fields(self, x, forward_kwargs)
        else:
            self.projections = dict.fromkeys(self.strides, get_projection(self._asked))

    @torch.no_grad()
    def _find_strides(self, x: Tensor, forward_kwargs: dict[str, Any]) -> dict[str, tuple[int, int]]:
        """Pixels per cell of each latent, from the first black image that suits the model.

        An image of one cell would not tell a stride from rounding up, hence at least two.
        """
        trouble, cause = "", None
        for size in PROBE_SIZES:
            try:
                output = self.model(x.new_zeros(1, x.shape[1], size, size), **forward_kwargs)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, AssertionError) as error:
                trouble, cause = f"{type(error).__name__}: {error}", error
                continue
            grids = {name: tuple(p.shape[-2:]) for name, p in _image_likelihoods(output).items()}
            if all(cells >= 2 and size % cells == 0 for grid in grids.values() for cells in grid):
                return {name: (size // h, size // w) for name, (h, w) in grids.items()}
            shown = ", ".join(f"{name} {h} x {w}" for name, (h, w) in grids.items())
            trouble = f"latent grids {shown} for {size} x {size} pixels; whole strides and 2 cells each way are needed"
        raise ValueError(
            f"model suits no square image of {', '.join(map(str, PROBE_SIZES))} pixels with {x.shape[1]} channels; "
            f"the last trouble was: {trouble}"
        ) from cause

    def _check_grids(self, likelihoods: Mapping[str, Tensor], batch: int, size: Sequence[int]) -> None:
        if likelihoods.keys() != self.strides.keys():
            raise ValueError(
                f"model returned the latents {sorted(likelihoods)}, but {sorted(self.strides)} when it was probed; "
                "make a new BitrateMapper for another set of forward arguments"
            )
        for name, p in likelihoods.items():
            stride = self.strides[name]
            expected = [size[0] // stride[0], size[1] // stride[1]]
            if list(p.shape[-2:]) != expected:
                raise ValueError(
                    f"model returned a grid of {list(p.shape[-2:])} cells for latent {name!r} of a padded image of "
                    f"{list(size)} pixels; its stride of {list(stride)}, found by probing, promised {expected}"
                )
            if p.shape[0] != batch:
                raise ValueError(f"model returned {p.shape[0]} images' likelihoods for latent {name!r}, x has {batch}")


def lay_out(
    likelihoods: Mapping[str, Tensor],
    projections: Mapping[str, Projection],
    canvas: tuple[int, int],
    crop: Crop,
    dtype: torch.dtype | None = None,
    *,
    out: Tensor | None = None,
    each: bool = True,
) -> BitrateResult:
    """Maps and books of likelihoods ``[N, C, h, w]`` on a canvas, of which the crop is the image.

    ``out`` is a tensor for the map of all latents. Without ``each`` there are no maps of single ones.
    """
    total_map = bitrate_map(likelihoods, canvas, crop=crop, projection=projections, dtype=dtype, out=out)
    maps = {}
    if each and len(likelihoods) == 1:
        maps = {next(iter(likelihoods)): total_map}
    elif each:
        maps = {
            name: bitrate_map(p, canvas, crop=crop, projection=projections[name], dtype=dtype)
            for name, p in likelihoods.items()
        }
    bits = {name: latent_bits(p, dtype=torch.float64) for name, p in likelihoods.items()}
    total_bits = torch.stack([b.sum(dim=(1, 2)) for b in bits.values()]).sum(dim=0)
    outside = [outside_bits(b, projections[name], canvas, crop) for name, b in bits.items()]
    return BitrateResult(
        map=total_map,
        maps=maps,
        latent_bits={name: b.to(total_map.dtype) for name, b in bits.items()},
        total_bits=total_bits,
        padding_bits=torch.stack(outside).sum(dim=0),
        bpp=total_bits / (crop[2] * crop[3]),
        x_hat=None,
    )


def _channel_bits(p: Tensor) -> Tensor:
    """Bits of each channel, float64 ``[N, C]``: cells and channels change places for the kernel that sums cells."""
    return latent_bits(p.flatten(2).transpose(1, 2).unsqueeze(3), dtype=torch.float64).squeeze(2)


def outside_bits(bits: Tensor, projection: Projection, size: Sequence[int], crop: Crop) -> Tensor:
    """Bits, float64 ``[N]``, of the cells ``[N, h, w]`` that the projection puts outside the crop.

    From each cell's own shares and not from the map, so the two check each other. A cell leaves the image across
    its rows, its columns or both.
    """
    share = _outside_shares(projection, (bits.shape[-2], bits.shape[-1]), (size[0], size[1]), crop).to(bits.device)
    return torch.where(share > 0, share * bits, 0).sum(dim=(1, 2))  # where: a cell of infinite bits may be inside


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for calls that record gradients, too
def _outside_shares(projection: Projection, grid: tuple[int, int], size: tuple[int, int], crop: Crop) -> Tensor:
    """The part of each cell's bits that falls outside the crop, float64 ``[h, w]``."""
    (top, left, height, width), (h, w) = crop, grid
    share = torch.zeros(h, w, dtype=torch.float64)
    for term in projection.terms:
        rows = outside_share(term.along(0), Axis(h, size[0], top, height))[:, None]
        columns = outside_share(term.along(1), Axis(w, size[1], left, width))
        share += rows + (term.along(0).share - rows) * columns
    return share


def cropped_image(x_hat: Any, size: tuple[int, int], crop: Crop) -> Tensor | None:
    """The picture's part of a reconstruction; None of what is no image of the padded size."""
    if not isinstance(x_hat, Tensor) or tuple(x_hat.shape[-2:]) != size:
        return None
    top, left, height, width = crop
    return x_hat[..., top : top + height, left : left + width]


def check_eval_mode(model: Callable[..., Any]) -> None:
    """Raises ``ValueError`` where a part of the model is in train mode."""
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if module.training:
                what = f"model.{name}" if name else "model"
                raise ValueError(
                    f"{what} ({type(module).__name__}) is in train mode, where likelihoods are those of latents with "
                    "random noise; call model.eval() first"
                )


def check_images(model: Callable[..., Any], x: Any) -> None:
    """Raises ``TypeError`` or ``ValueError`` where ``x`` is not a batch of images in [0, 1] on the model's device."""
    _check_image(x)
    _check_device(model, x)
    check_range(x)


def _check_image(x: Any) -> None:
    expected = "x must be a floating-point tensor [N, C, H, W]"
    if not isinstance(x, Tensor):
        raise TypeError(f"{expected}, got {type(x).__name__}")
    if not x.is_floating_point():
        hint = "; divide by 255 first, x.float() / 255" if x.dtype == torch.uint8 else ""
        raise TypeError(f"{expected}, got {x.dtype}{hint}")
    if x.dim() != 4:
        hint = "; add the batch dimension with x[None]" if x.dim() == 3 else ""
        raise ValueError(f"{expected}, got shape {list(x.shape)}{hint}")
    if 0 in x.shape[1:]:
        raise ValueError(f"{expected}, with at least one channel and pixel, got shape {list(x.shape)}")


def device_of(model: Callable[..., Any], otherwise: torch.device = torch.device("cpu")) -> torch.device:  # noqa: B008
    """Of a model's parameters or buffers; ``otherwise`` where it has none."""
    if not isinstance(model, nn.Module):
        return otherwise
    return next((t.device for tensors in (model.parameters(), model.buffers()) for t in tensors), otherwise)


def _check_device(model: Callable[..., Any], x: Tensor) -> None:
    own = device_of(model, x.device)
    if own != x.device:
        raise ValueError(f"x must be on the model's device {own}, got {x.device}")


def check_range(x: Tensor) -> None:
    if x.numel() == 0:
        return
    low, high = (bound.item() for bound in torch.aminmax(x.detach()))
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also where a bound is NaN
        raise ValueError(f"x must have values in [0, 1], got values from {low:g} to {high:g}")


def _image_likelihoods(output: Any) -> dict[str, Tensor]:
    """The named likelihoods ``[N, C, h, w]`` in an image model's output."""
    if not isinstance(output, Mapping):
        raise TypeError(f"model must return a mapping with the key 'likelihoods', got {type(output).__name__}")
    if "likelihoods" not in output:
        keys = ", ".join(repr(key) for key in output) or "none"
        raise ValueError(f"model must return a mapping with the key 'likelihoods', got the keys {keys}")
    likelihoods = output["likelihoods"]
    if isinstance(likelihoods, (list, tuple)):
        raise TypeError(
            f"model returned a {type(likelihoods).__name__} of likelihoods, one entry a frame, as video models do; "
            "BitrateMapper takes image models; bitrate_map takes such lists, and coded_video codes frames"
        )
    named = {"y": likelihoods} if isinstance(likelihoods, Tensor) else named_likelihoods(likelihoods)
    if not named:
        raise ValueError("model returned no likelihoods: the mapping under 'likelihoods' is empty")
    for name, p in named.items():
        if p.dim() != 4:
            raise ValueError(
                f"likelihoods of latent {name!r} must be [N, C, h, w], got shape {list(p.shape)}; models of point "
                "clouds and of vectors have no image to map onto"
            )
    return named
