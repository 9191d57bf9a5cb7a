"""The estimator that users call: a picture in, the bits of its blocks, their map and their total out; no codec runs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..atomic import open_all_or_none
from ..checks import channels_error
from ..choices import PADDING_SIDES, PADDINGS, check_choice
from ..io.files import shown
from ..mapping.layout import lay_out
from ..models.adapter import check_images
from ..models.demo_codec import DATA
from ..models.padding import Padding
from ..ops.projection import get_projection
from ..optional import require
from .network import BLOCK, RateNetwork

FORMAT = 1
ABOUT = "estimator"  # the key of a file's metadata
DEMO = DATA / "demo_estimator.safetensors"
PROJECTION = "nearest"  # of the blocks: their bits are those within them
MOST_SIDE, MOST_OUTPUTS = 1 << 16, 64
MALFORMED = OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError  # of files that are something else
Region = Sequence[int] | Tensor


@dataclass(frozen=True)
class EstimatorError:
    """How far an estimator was off on photographs that it was not trained on."""

    total: float  # mean absolute error of a photograph's total bits, as a fraction of them
    correlation: float  # of the bits of its 16 x 16 blocks with the codec's, mean over the photographs
    photographs: int


@dataclass(frozen=True)
class About:
    """What an estimator is of, how images are padded for it, and how it was made; kept with its weights."""

    model: str  # what to call it
    qualities: tuple[int, ...]  # that can be asked for; none where the model has one rate
    errors: tuple[EstimatorError, ...]  # of each output
    multiple: tuple[int, int]  # of which the sides of padded images are, pixels
    channels: int = 3
    padding: str = PADDINGS[0]
    padding_side: str = PADDING_SIDES[0]
    weights: str = ""  # fingerprint of the models' parameters
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """Return how many numbers the network has for each block."""
        return max(len(self.qualities), 1)

    @classmethod
    def of(cls, text: str) -> About:
        """Read what ``asdict`` gave, as JSON; raises one of ``MALFORMED`` of other text."""
        given = json.loads(text)
        if given.pop("format") != FORMAT:
            raise ValueError(f"of another format than {FORMAT}")
        given["errors"] = tuple(
            EstimatorError(float(one["total"]), float(one["correlation"]), int(one["photographs"]))
            for one in given["errors"]
        )
        given["qualities"] = tuple(int(one) for one in given["qualities"])
        rows, columns = (int(one) for one in given["multiple"])
        about = cls(**{**given, "multiple": (rows, columns)})
        check_choice("padding", about.padding, PADDINGS)
        check_choice("padding_side", about.padding_side, PADDING_SIDES)
        sizes = (rows, MOST_SIDE), (columns, MOST_SIDE), (about.channels, MOST_OUTPUTS), (about.outputs, MOST_OUTPUTS)
        if len(about.errors) != about.outputs or not all(1 <= one <= most for one, most in sizes):
            raise ValueError("its sizes make no sense")
        return about


@dataclass(frozen=True, eq=False)
class RateEstimate:
    """What a codec would spend on a batch of N images of H x W pixels, by an estimator.

    The map's float64 sum plus ``padding_bits`` is ``total_bits``, to 6e-8 of it.

    Example:
        >>> estimate = bitrate_ext.RateEstimator.demo()(x, quality=3)
        >>> estimate.map.shape, bool(0 < estimate.share((0, 0, 32, 32)) < 1)
        (torch.Size([1, 1, 64, 64]), True)
    """

    map: Tensor  # float32 [N, 1, H, W], bits per pixel
    block_bits: Tensor  # float32 [N, h, w], bits of blocks of 16 x 16 pixels of the padded images
    total_bits: Tensor  # float64 [N]
    padding_bits: Tensor  # float64 [N], the part of it that falls outside the image
    bpp: Tensor  # float64 [N], total_bits / (H * W)
    error: EstimatorError  # on photographs that the estimator was not trained on

    def region_bits(self, region: Region) -> Tensor:
        """Return the bits of a region of the image, float64 ``[N]``: the sum of the map there.

        Args:
            region: ``(top, left, height, width)``, pixels, inside the image; or a boolean mask ``[H, W]``.

        Raises:
            TypeError, ValueError: it is neither, empty, or not inside.
        """
        height, width = self.map.shape[2:]
        if isinstance(region, Tensor):
            if region.dtype != torch.bool or region.shape != (height, width):
                raise ValueError(
                    f"region must be a boolean mask of shape {[height, width]}, or (top, left, height, width), got a "
                    f"tensor {list(region.shape)} of {region.dtype}"
                )
            return torch.where(region.to(self.map.device), self.map.double(), 0).sum(dim=(1, 2, 3))
        box = tuple(region) if isinstance(region, Sequence) and not isinstance(region, str) else ()
        if len(box) != 4 or not all(isinstance(one, int) and not isinstance(one, bool) for one in box):
            raise TypeError(
                f"region must be (top, left, height, width) in whole pixels, or a boolean mask {[height, width]}, got "
                f"{region!r:.80}"
            )
        top, left, rows, columns = box
        if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
            raise ValueError(
                f"region (top, left, height, width) must lie inside the image of {height} x {width} pixels and have at "
                f"least one, got {box}"
            )
        return self.map[..., top : top + rows, left : left + columns].double().sum(dim=(1, 2, 3))

    def share(self, region: Region) -> Tensor:
        """Return the part of the total bits that a region takes, float64 ``[N]``, from 0 to 1.

        Args:
            region: as for ``region_bits``.

        Raises:
            TypeError, ValueError: as ``region_bits``.
        """
        return self.region_bits(region) / self.total_bits


class RateEstimator(nn.Module):
    """Foretell how many bits a codec spends where, from the picture alone: ``estimator(x, quality) -> RateEstimate``.

    ``train_estimator`` makes one for a model, or for several of its qualities at once; ``RateEstimator.demo()`` is that
    of the bundled codec. ``about`` says what it is of, and ``about.errors`` how far it is off.

    Args:
        network: gives the bits of blocks.
        about: it.

    Example:
        >>> estimator = bitrate_ext.RateEstimator.demo()
        >>> estimator.qualities, estimator(x, quality=3).bpp.shape
        ((1, 2, 3, 4, 5, 6, 7, 8), torch.Size([1]))
    """

    def __init__(self, network: RateNetwork, about: About) -> None:
        super().__init__()
        self.network, self.about = network, about
        self.eval()

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, quality: int | None = None) -> RateEstimate: ...

    @property
    def qualities(self) -> tuple[int, ...]:
        """Return the qualities that can be asked for; none where the model has one rate."""
        return self.about.qualities

    def output_of(self, quality: int | None) -> int:
        """Return which of the network's outputs is of a quality.

        Raises:
            ValueError: it has no such quality, or one has to be named.
        """
        known = self.qualities
        if not known and quality is not None:
            raise ValueError(f"quality must be None: this estimator is of {self.about.model} alone, got {quality!r}")
        if len(known) > 1 or quality is not None:
            check_choice("quality", quality, known)
            return known.index(cast(int, quality))
        return 0

    def forward(self, x: Tensor, quality: int | None = None) -> RateEstimate:
        """Estimate the bits of images.

        Args:
            x: ``[N, C, H, W]``, floating, in [0, 1], any H and W, on the estimator's device. Where it asks for
                gradients, the result has them.
            quality: one of ``qualities``; may be left out where there is no choice.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came.
        """
        check_images(self, x, channels=self.about.channels)
        if x.shape[1] != self.about.channels:
            raise channels_error(x, "x", self.about.channels)
        output = self.output_of(quality)
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            size, padding = (x.shape[2], x.shape[3]), Padding(self.about.padding, self.about.padding_side)
            rows, columns = (-(-side // step) * step for side, step in zip(size, self.about.multiple, strict=True))
            crop = padding.crop(size, (rows, columns))
            padded = whole_blocks(padding.pad(x.float(), (rows, columns), crop))
            bits = self.network(padded)[:, output]
            canvas = (padded.shape[2], padded.shape[3])
            made = lay_out({"blocks": bits.double()}, {"blocks": get_projection(PROJECTION)}, canvas, crop, each=False)
        return RateEstimate(made.map, bits, made.total_bits, made.padding_bits, made.bpp, self.about.errors[output])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the estimator as a safetensors file, weights in float16, whole or not at all.

        Raises:
            OSError: it cannot be written.
            ImportError: safetensors is not installed.
        """
        weights = {name: one.detach().cpu().half().contiguous() for name, one in self.network.state_dict().items()}
        text = json.dumps({"format": FORMAT, **asdict(self.about)}, allow_nan=False)
        written = require("safetensors.torch").save(weights, {"format": "pt", ABOUT: text})
        with open_all_or_none([Path(path)]) as (file,):
            file.write(written)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RateEstimator:
        """Read what ``save`` wrote, in float32, eval mode. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged, or another kind of file.
            ImportError: safetensors is not installed.
        """
        safetensors = require("safetensors")
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no estimator file {shown(path)}")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                about = About.of((file.metadata() or {})[ABOUT])
                weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, not a dict
            network = RateNetwork(about.channels, about.outputs)
            network.load_state_dict(weights)
            if not all(weight.isfinite().all() for weight in weights.values()):
                raise ValueError("weights that are no finite numbers")
        except (safetensors.SafetensorError, *MALFORMED) as error:
            raise ValueError(
                f"{shown(path)} is no saved estimator, as bitrate-ext train-estimator writes them, or is damaged"
            ) from error
        return cls(network, about)

    @classmethod
    def demo(cls) -> RateEstimator:
        """Load the estimator of the bundled codec, of its qualities 1 to 8; ``data/demo_estimator.md`` is its card.

        Raises:
            ImportError: safetensors is not installed.
        """
        return cls.load(DEMO)


def whole_blocks(x: Tensor) -> Tensor:
    """Continue ``[..., H, W]`` with zeros at the right and at the bottom, to sides that are multiples of 16."""
    return F.pad(x, (0, -x.shape[-1] % BLOCK, 0, -x.shape[-2] % BLOCK))
