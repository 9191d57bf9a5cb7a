"""Map where a model spends its bits on an image: the call that users make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..choices import CODED, ESTIMATED, GUIDED, MEASURED, PADDING_SIDES, PADDINGS
from ..coding.coder import Coder
from ..models.adapter import ModelAdapter
from ..models.trace import Synthesis
from ..ops.projection import Projection, choose_projections, get_projection
from ..ops.units import LIKELIHOOD
from ..receptive_field.calibration import receptive_fields
from .coded import map_coded
from .layout import BitrateResult, estimate

AnyProjection = str | Projection | Mapping[str, str | Projection]


class BitrateMapper:
    """Map the bits of any CompressAI-style image model.

    Args:
        model: a module in eval mode, or any callable, that takes ``[N, C, H, W]`` in [0, 1] and returns a mapping
            whose ``"likelihoods"`` is a tensor ``[N, C, h, w]`` (which is called ``"y"``) or nested dicts and lists of
            them; models of another shape with ``call``, ``likelihoods`` and ``unit``. Or a ``ModelAdapter``.
        projection: as for ``bitrate_map``, or ``"receptive-field"``: kernels measured on the model's own decoder, see
            ``calibrate``; or ``"guided"``: within their reach, bits follow edges and texture of the reconstruction, as
            the decoder's symbols do. Where they are not in the cache, the first call takes up to minutes longer.
        bits: ``"estimated"``, from the likelihoods that the model's ``forward`` returns; or ``"coded"``, what the range
            coder spends on each symbol while the model's own ``compress`` runs, escapes included. Coded bits come with
            a ``ledger``, which adds up to the strings, and with ``entropy``; without ``x_hat``: nothing is decoded.
        gap: of coded bits: run ``forward`` as well, for ``result.gap``, the estimate in the ledger, and ``x_hat``.
        channels: give ``result.channel_map``, which keeps the value of each symbol; and of estimated bits
            ``result.channel_bits``, with which coded bits come anyway.
        sources: of estimated bits: take true values from the entropy models' distributions, where these can be seen;
            ``result.sources`` names their latents, ``result.unseen`` the others and why. False: likelihoods as
            ``forward`` returns them, floor included, as the gap takes them.
        beliefs: of estimated bits: give ``result.belief_map``, scales and means of the entropy models' distributions,
            and the bits that these expect of each cell, ``result.beside["expected"]``.
        compress_kwargs: of coded bits: for the model's ``compress``, besides those of ``forward`` that it takes.
        call, likelihoods, unit: how the model is run and read, see ``ModelAdapter``.
        padding, padding_side, multiple: how images are padded, see ``ModelAdapter``.
        synthesis: for ``"receptive-field"`` and ``"guided"``: the synthesis transform, see ``calibrate``.

    The size that the model needs is found by running it once on a black image, at the first call; ``strides`` then
    holds pixels per latent cell, ``{"y": (16, 16), ...}``, and ``projections`` how each latent is laid over the image.
    A model changed after that needs a new mapper.

    Images are padded with zeros, centred, as CompressAI's own evaluation does, unless ``padding`` says otherwise. Bits
    spent there are bits of the image, so they are counted in ``total_bits`` and in ``bpp``, and ``padding_bits`` says
    how many they are.

    Raises:
        TypeError: ``model`` is no callable, is a model of point clouds, or has no ``compress`` for coded bits.
        ValueError, TypeError: unknown ``projection`` or ``bits``, ``gap`` without coded bits; as ``ModelAdapter``.

    Example:
        >>> result = bitrate_ext.BitrateMapper(model)(x)
        >>> result.map.shape, sorted(result.maps)
        (torch.Size([1, 1, 64, 64]), ['y', 'z'])
    """

    def __init__(
        self,
        model: Callable[..., Any] | ModelAdapter,
        *,
        projection: AnyProjection = "bilinear",
        bits: str = ESTIMATED,
        gap: bool = False,
        channels: bool = False,
        sources: bool = True,
        beliefs: bool = False,
        compress_kwargs: Mapping[str, Any] | None = None,
        call: Callable[..., Any] | None = None,
        likelihoods: Callable[[Any], Any] | None = None,
        unit: str = LIKELIHOOD,
        padding: str = PADDINGS[0],
        padding_side: str = PADDING_SIDES[0],
        synthesis: Synthesis = None,
        multiple: int | Sequence[int] | None = None,
    ) -> None:
        self.adapter = ModelAdapter.of(
            model,
            call=call,
            likelihoods=likelihoods,
            unit=unit,
            padding=padding,
            padding_side=padding_side,
            multiple=multiple,
        )
        if bits not in (ESTIMATED, CODED):
            raise ValueError(f"bits must be {ESTIMATED!r} or {CODED!r}, got {bits!r}")
        if gap and bits != CODED:
            raise ValueError(f"gap is that of coded bits to the estimate; it needs bits={CODED!r}, got {bits!r}")
        if beliefs and (bits != ESTIMATED or not sources):
            raise ValueError(
                f"beliefs are those of estimated bits with sources; they need bits={ESTIMATED!r}, sources=True"
            )
        self.bits, self._has_gradients = bits, bits == ESTIMATED
        self._source = (
            partial(estimate, channels=channels, sources=sources, beliefs=beliefs)
            if bits == ESTIMATED
            else partial(map_coded, self._coder(compress_kwargs), gap=gap, channels=channels)
        )
        self._asked, self._synthesis, self.sources = projection, synthesis, sources
        if isinstance(projection, Mapping):
            for one in projection.values():
                get_projection(one)
        elif projection not in MEASURED:
            get_projection(projection)
        self.projections: dict[str, Projection] = {}

    def _coder(self, compress_kwargs: Mapping[str, Any] | None) -> Coder:
        def forward(model: Any, x: Tensor, forward_kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
            return self.adapter.with_model(model).read(x, forward_kwargs)[1]

        return Coder(self.model, compress_kwargs, forward=forward)

    @property
    def model(self) -> Callable[..., Any]:
        """The model itself."""
        return self.adapter.model

    @property
    def strides(self) -> dict[str, tuple[int, int]]:
        """Pixels per cell of each latent, (vertical, horizontal); empty before the first call."""
        return self.adapter.strides

    def __call__(self, x: Tensor, *, gradients: bool | None = None, **forward_kwargs: Any) -> BitrateResult:
        """Run the model on ``x`` and say where its bits go.

        Args:
            x: ``[N, C, H, W]``, floating, in [0, 1], any H and W, on the model's device.
            gradients: keep the graph, of the parameters too. Default: where ``x.requires_grad``. Otherwise everything
                runs without, and leaves the model as it was: its tensors have the memory and the values that they had.
            **forward_kwargs: for the model's ``forward``, such as the level ``s`` of CompressAI's variable-rate models.

        The likelihoods are those of the rounded latents that a coder would write, and CompressAI rounds without a
        gradient in eval mode: with most of its models only parameters get gradients other than zero. To train, apply
        ``bitrate_map`` to the likelihoods that ``forward`` returns in train mode.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came; also where part of the model
                is in train mode, where no image size suits it, and where its output has no image's likelihoods.
        """
        if not self._has_gradients:
            if gradients:
                raise ValueError(
                    "coded bits are whole decisions of a coder and have no gradients; gradients must be False"
                )
            gradients = False
        self.resolve(x, forward_kwargs)
        if gradients is None:
            gradients = x.requires_grad and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            run = partial(self._source, self.adapter, self.projections)
            return self.adapter.on_canvas(x, forward_kwargs, run)

    def resolve(
        self, x: Tensor, forward_kwargs: dict[str, Any], size: tuple[int, int] | None = None, name: str = "x"
    ) -> None:
        """Check the model and the images; at the first call find the strides, and a projection for each latent.

        ``size`` is that of the whole images, where ``x`` is a part of them; ``name`` what users call it.
        """
        self.adapter.prepare(x, forward_kwargs, size, name)
        if self.projections.keys() == self.strides.keys():
            return
        if self._asked in MEASURED:
            guide = self._asked == GUIDED
            self.projections = receptive_fields(self.adapter, x, forward_kwargs, synthesis=self._synthesis, guide=guide)
        else:
            self.projections = choose_projections(self._asked, self.strides)
