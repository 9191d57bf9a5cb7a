"""Measuring receptive fields: where a model's decoder paints with the bits of one latent cell.

The effective receptive field of Luo et al. (arXiv 1701.04128) is the mean gradient of a unit over its inputs. Here it
runs forwards, from a latent symbol to the pixels (as the impulse responses of arXiv 2202.13209), and each symbol
counts with its bits: the kernel is the mean, over the symbols of real images, of the energy ``J^2`` of their impulse
responses, each divided by its own sum, weighted by what the symbol costs.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checks import ChannelsError, check_layout, check_range, check_whole_number
from ..choices import FEWEST_SAMPLES, SAMPLES
from ..io.images import load_image
from ..models.adapter import ModelAdapter, check_eval_mode, device_of
from ..models.demo_codec import demo_photograph, more_photographs
from ..models.observe import leave_as_found
from ..models.trace import (
    PROBE_CELLS,
    ModelTrace,
    SmallGridError,
    Synthesis,
    SynthesisTransform,
    checked_synthesis,
    random_signs,
    symbol_bits,
)
from ..ops.functional import latent_bits
from ..ops.projection import Projection, Reach, get_projection
from ..ops.units import LIKELIHOOD
from .energy import spread_by_energy
from .field import ReceptiveField, follow_kernel
from .fingerprint import fingerprint
from .guide import Example, fit_guide
from .kept import KeptFields
from .separable import separable_terms

GUIDE_METHOD = 2  # of fitting: a guide of another one is not taken from the cache
EXAMPLE_PASSES, EXAMPLE_SIDE, MOST_EXAMPLES = 64, 256, 8  # of the Jacobian maps that a guide is fitted to
NORM_PASSES = 16  # passes in reverse mode for each image; their noise averages out over the symbols
SPARE_CELLS = (8, 3)  # by which the bundled photograph is made larger than the reach, of y and of z


@torch.inference_mode(False)
def calibrate(
    model: nn.Module | ModelAdapter,
    latent: str | None = None,
    images: Tensor | Sequence[Tensor] | None = None,
    samples: int = SAMPLES,
    *,
    synthesis: Synthesis = None,
    guide: bool = False,
    cache: bool | Path = True,
    notice: Callable[[str], object] | None = None,
    unit: str = LIKELIHOOD,
    multiple: int | Sequence[int] | None = None,
    progress: Callable[[int, int], object] | None = None,
    **forward_kwargs: Any,
) -> ReceptiveField:
    """Measure where a decoder spends the bits of a latent.

    Args:
        model: as for ``BitrateMapper``; a video model of CompressAI's kind too, which takes a list of frames.
        latent: its name, such as ``"y"``, ``"z"`` or ``"motion.y"``. Default: the finest. One that only a
            hyper-synthesis transform reads, such as ``z``, is followed through it onto the latent that it describes,
            and on with that one's kernel.
        images: ``[N, C, H, W]`` in [0, 1], or a sequence of them of any sizes. Default: the bundled photograph,
            mirrored at its edges where it is too small.
        samples: passes in forward mode, each of which probes cells a reach apart all over an image.
        synthesis: the synthesis transform. Default: found by running. Or the name of one of ``model.named_modules()``;
            or a callable that takes the latent ``[N, C, h, w]`` to an image: a method that the model's ``forward``
            calls, as ``model.decode``, or any function, as ``lambda y: model.decoder(y.flatten(2).mT)`` for tokens.
            A function is given what an entropy model returns beside the latent's likelihoods; its result is not kept.
        guide: also fit the guide of ``projection="guided"`` to Jacobian maps of the images, of which at most
            8 are taken, and their middles; by default of five photographs that are bundled. Kept as ``field.guide``.
            None where it would not help. A latent that is followed through another has that one's; see ``Guide``.
        cache: keep the result, and look for it, in PyTorch's folder for downloads (``torch.hub.get_dir()``), or in the
            folder given. It is found again by the weights and all arguments. Those of the bundled codec are shipped.
        notice: called with the latent's name where it has to be measured, which may take a minute.
        progress: called with the passes done and their number, for each transform that is followed.
        unit, multiple: as for ``BitrateMapper``; ``model`` may be a ``ModelAdapter`` with them.
        **forward_kwargs: for the model's ``forward``.

    Returns:
        A projection with ``stride``, ``center``, ``reach`` (exact support: what the transform can touch, whatever its
        weights are, in pixels relative to ``stride * i``), ``centroid``, ``spread``, ``kernel`` and

        - ``fit["separable_error"]``: the share of a cell's bits that the sum of separable terms puts elsewhere than the
          kernel itself (half the L1 distance of the two, less what is noise);
        - ``fit["sampling_error"]``: the same between the measured kernel and what infinitely many samples would give,
          estimated from the distance of two halves of the samples;
        - ``fit["locations"]``: how many cells were probed;
        - of a guide: ``fit["unguided_distance"]`` and ``fit["guided_distance"]``, the L1 distance of maps to Jacobian
          maps of images that were not in the fit, in per cent of the bits, without and with a guide.

    Raises:
        ValueError: no such latent; no synthesis transform found, or one that spreads each cell over the whole picture;
            images smaller than its reach.
        TypeError: ``model`` is no ``nn.Module``; and as ``BitrateMapper`` for models and images.

    Example:
        >>> field = bitrate_ext.calibrate(model, "y", samples=2, cache=False)
        >>> field.stride, field.latent
        ((16, 16), 'y')
    """
    check_whole_number("samples", samples, FEWEST_SAMPLES)
    adapter = ModelAdapter.of(model, unit=unit, multiple=multiple)
    model = adapter.module
    check_eval_mode(model)
    given = _checked_images(images)
    name = _name(model, checked_synthesis(model, synthesis))
    key = field_key(adapter, latent, given, samples, name, guide, forward_kwargs)
    nameless = (synthesis is not None and name is None) or adapter.has_functions  # nothing tells functions apart
    kept = KeptFields(False if nameless else cache)
    known = kept.find(key)
    if known is not None:
        return known
    if latent is None:
        with leave_as_found(model):
            strides = _image_adapter(adapter, (given or _bundled(model)[0])[0], forward_kwargs, not given).strides
        latent = min(strides, key=lambda one: strides[one][0] * strides[one][1])
    if notice is not None:
        notice(latent)

    def painted(onto: str) -> ReceptiveField:
        return calibrate(
            adapter,
            onto,
            images,
            samples,
            synthesis=synthesis,
            guide=guide,
            cache=cache,
            notice=notice,
            progress=progress,
            **forward_kwargs,
        )

    transform = dict(model.named_modules()).get(synthesis, synthesis) if isinstance(synthesis, str) else synthesis
    with leave_as_found(model):
        field = _Calibration(adapter, given, samples, transform, forward_kwargs, painted, progress).measure(
            latent, guide
        )
    kept.keep(key, field)
    return field


def field_key(
    adapter: ModelAdapter,
    latent: str | None,
    images: Sequence[Tensor] = (),
    samples: int = SAMPLES,
    synthesis: str | None = None,
    guide: bool = False,
    forward_kwargs: dict[str, Any] | None = None,
) -> str:
    """Return the word under which a field is kept: it changes with all that the measurement depends on."""
    options = adapter.unit, adapter.given_multiple, *(["guide", GUIDE_METHOD] if guide else [])
    return fingerprint(adapter.module, (latent, samples, synthesis, *options), images, forward_kwargs or {})


@torch.inference_mode(False)
def receptive_fields(
    adapter: ModelAdapter,
    x: Tensor,
    forward_kwargs: dict[str, Any],
    notice: Callable[[str], object] | None = None,
    synthesis: Synthesis = None,
    guide: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Projection]:
    """Choose a projection for each latent of a model; ``synthesis`` and ``guide`` are those of ``calibrate``.

    - A latent that a synthesis transform reads: its kernel.
    - One that a hyper-synthesis transform reads: through it onto the latent that it describes, and on with that one's
      kernel; but where it never touches the picture given the symbols, as in a scale-only hyperprior, its bits are
      spread evenly over its own cell.
    - Any other: over its own cell.

    Raises:
        ValueError: no latent has a synthesis transform; and as ``calibrate``.
    """
    x = x.clone()  # an inference tensor cannot be differentiated
    images = None if x.shape[1] == 3 else x
    adapter.fit(x[:1], forward_kwargs)
    run = ModelTrace(adapter, _fitted(x[:1], adapter.multiple, (1, 1)), forward_kwargs, synthesis)
    chosen: dict[str, Projection] = {}
    trouble: ValueError | None = None
    for latent in run.likelihoods:
        hyper = run.hyper_synthesis(latent)
        paints = hyper is None or run.reaches_image(*hyper)
        if hyper is None:
            try:
                run.synthesis(latent)
            except ValueError as error:
                paints, trouble = False, trouble or error
        if paints:
            chosen[latent] = calibrate(
                adapter,
                latent,
                images,
                synthesis=synthesis,
                guide=guide,
                notice=notice,
                progress=progress,
                **forward_kwargs,
            )
        else:
            chosen[latent] = get_projection("nearest")
    if trouble is not None and not any(isinstance(one, ReceptiveField) for one in chosen.values()):
        raise trouble
    return chosen


class _Calibration:
    """One model, measured on the same images for each latent that is asked for."""

    def __init__(
        self,
        adapter: ModelAdapter,
        given: list[Tensor],
        samples: int,
        synthesis: Synthesis,
        forward_kwargs: dict[str, Any],
        painted: Callable[[str], ReceptiveField],
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self.images, self.more = (given, []) if given else _bundled(adapter.module)  # more: for a guide
        self.mirrored = not given  # the bundled photograph may be enlarged; the user's are taken as they are
        self.samples, self.synthesis, self.forward_kwargs = samples, synthesis, forward_kwargs
        self.painted, self.progress = painted, progress
        self.adapter = _image_adapter(adapter, self.images[0], forward_kwargs, not given)

    def measure(self, latent: str, guide: bool) -> ReceptiveField:
        run = self._run(self.images[0], (1, 1))
        hyper = run.hyper_synthesis(latent)
        if hyper is None:
            field = self._kernel(latent, None, run.synthesis(latent), (1, 1))
            if guide:
                field.guide, found = fit_guide(field, field.stride, self._examples(latent))
                field.fit.update(found)
            return field
        painted = self.painted(hyper[1])
        return follow_kernel(self._kernel(latent, painted.latent, hyper[0], painted.stride), painted)

    def _run(self, image: Tensor, needed: tuple[int, int], mirrored: bool = False) -> ModelTrace:
        fitted = _fitted(image, self.adapter.multiple, needed if self.mirrored or mirrored else (1, 1))
        return ModelTrace(self.adapter, fitted, self.forward_kwargs, self.synthesis)

    def _transform(self, run: ModelTrace, latent: str, onto: str | None, name: str) -> SynthesisTransform:
        hyper = run.hyper_synthesis(latent)
        return run.synthesis(latent, name) if onto is None or hyper is None else hyper[0]

    def _reach(self, latent: str, onto: str | None, probe: SynthesisTransform) -> tuple[Reach, tuple[int, int]]:
        """Measure the reach of a transform, where it only runs in a run of the model on ever larger pictures."""
        for cells in (one for one in PROBE_CELLS if one > min(probe.inputs.shape[2:])):
            with contextlib.suppress(SmallGridError):
                return probe.reach()
            rows, columns = (cells * step for step in self.adapter.strides[latent])
            probe = self._transform(self._run(self.images[0], (rows, columns), True), latent, onto, probe.name)
        return probe.reach()

    def _examples(self, latent: str) -> list[Example]:
        """Return Jacobian maps of some of the images, or of their middles, for a guide to be fitted to."""
        examples, generator = [], torch.Generator().manual_seed(0)
        for image in [*self.images, *self.more][:MOST_EXAMPLES]:
            top, left = (max(0, length - EXAMPLE_SIDE) // 2 for length in image.shape[-2:])
            run = self._run(image[..., top : top + EXAMPLE_SIDE, left : left + EXAMPLE_SIDE], (1, 1))
            bits = symbol_bits(run.likelihoods[latent], run.adapter.unit)
            with torch.no_grad():
                spread, _ = spread_by_energy(run.synthesis(latent), bits, EXAMPLE_PASSES, generator)
            x_hat = run.output.get("x_hat")
            picture = x_hat if isinstance(x_hat, Tensor) and x_hat.shape == run.padded.shape else run.padded
            cells = latent_bits(run.likelihoods[latent], dtype=torch.float64, unit=run.adapter.unit)
            examples.append(Example(cells.detach().cpu(), picture.detach().cpu(), spread.detach().cpu()))
        return examples

    def _kernel(
        self, latent: str, onto: str | None, probe: SynthesisTransform, pixels: tuple[int, int]
    ) -> ReceptiveField:
        """Measure the kernel of one transform, over its outputs, each of which is ``pixels`` wide."""
        reach, stride = self._reach(latent, onto, probe)
        axes = tuple(zip(reach, stride, pixels, strict=True))
        rows, columns = (
            (step * -(-max(-first, 0) // step) + max(last, 0) + 1) * wide for (first, last), step, wide in axes
        )
        spare_rows, spare_columns = (SPARE_CELLS[onto is not None] * step * wide for _, step, wide in axes)
        generator = torch.Generator().manual_seed(0)
        halves = np.zeros((2, *(last - first + 1 for first, last in reach)))
        locations = taken = 0
        done, of_all = itertools.count(1), self.samples + NORM_PASSES * min(self.samples, len(self.images))

        def on_pass() -> None:
            if self.progress is not None:
                self.progress(next(done), of_all)

        for index, image in enumerate(self.images):
            passes = self.samples // len(self.images) + (index < self.samples % len(self.images))
            if not passes:
                continue
            run = self._run(image, (rows + spare_rows, columns + spare_columns))
            height, width = image.shape[-2:]
            too_small = not self.mirrored and (height < rows or width < columns)
            if too_small or run.size[0] < rows or run.size[1] < columns:
                raise ValueError(
                    f"images must have at least {rows} x {columns} pixels, what a cell of latent {latent!r} can touch; "
                    f"images[{index}] has {height} x {width}, of which the model takes {run.size[0]} x {run.size[1]}"
                )
            transform = self._transform(run, latent, onto, probe.name)
            bits = symbol_bits(run.likelihoods[latent], run.adapter.unit)
            amplitude = _amplitude(transform, bits, generator, on_pass)
            for _ in range(passes):
                energy, count = _probed(transform, amplitude, reach, stride, generator)
                on_pass()
                halves[taken % 2] += energy
                locations, taken = locations + count, taken + 1
        total = halves.sum(axis=0)
        if not (total.sum() > 0 and np.isfinite(total).all()):
            raise ValueError(
                f"no kernel for latent {latent!r}: on these images its symbols change nothing, or no finite amount, of "
                f"what {probe.name} returns"
            )
        first, second = halves / np.maximum(halves.sum(axis=(1, 2), keepdims=True), np.finfo(np.float64).tiny)
        sampling_error = float(np.abs(first - second).sum() / 4)
        kernel, separable_error = separable_terms(total / total.sum(), sampling_error)
        return ReceptiveField(
            stride,
            reach,
            kernel,
            latent=latent,
            fit={
                "separable_error": separable_error,
                "sampling_error": sampling_error,
                "locations": float(locations),
            },
            origin=f"{probe.name}, {self.samples} samples, {len(self.images)} images",
        )


def _amplitude(
    transform: SynthesisTransform, bits: Tensor, generator: torch.Generator, on_pass: Callable[[], object]
) -> Tensor:
    """Return ``sqrt(bits / energy)`` of each symbol ``[N, C, h, w]``: so driven, it responds with its bits as energy.

    Where nothing costs bits, as in a model that was never trained, every symbol counts the same.
    """
    bits = torch.where(bits.isfinite(), bits, 0).clamp_min(0)
    if not bits.any():
        bits = torch.ones_like(bits)
    energy = transform.symbol_energy(NORM_PASSES, generator, on_pass)
    return torch.where(energy > 0, bits / energy, 0).sqrt()


def _probed(
    transform: SynthesisTransform, amplitude: Tensor, reach: Reach, stride: tuple[int, int], generator: torch.Generator
) -> tuple[NDArray[np.float64], int]:
    """Sum the energy around cells so far apart that their reaches do not overlap; return how many there were, too.

    Only cells whose reach lies inside the image. Random signs make the channels' products average out.
    """
    tangent = random_signs(amplitude, generator) * amplitude
    chosen = torch.zeros(amplitude.shape[2:], dtype=torch.bool)
    starts, spacings, counts = [], [], []
    picked = []
    for (first, last), step, cells in zip(reach, stride, amplitude.shape[2:], strict=True):
        apart = -(-(last - first + 1) // step)
        inside = [i for i in range(cells) if step * i + first >= 0 and step * i + last < step * cells]
        phase = int(torch.randint(min(apart, len(inside)), (), generator=generator))
        cell = inside[phase::apart]
        picked.append(torch.tensor(cell))
        starts.append(step * cell[0] + first)
        spacings.append(step * apart)
        counts.append(len(cell))
    chosen[picked[0][:, None], picked[1][None, :]] = True
    energy = transform.energy(tangent * chosen.to(tangent)).double()
    total = np.zeros([last - first + 1 for first, last in reach])
    lengths = total.shape
    windows = energy[:, starts[0] :, starts[1] :].unfold(1, lengths[0], spacings[0]).unfold(2, lengths[1], spacings[1])
    total += windows[:, : counts[0], : counts[1]].sum(dim=(0, 1, 2)).cpu().numpy()
    return total, counts[0] * counts[1]


class _LastFrame(nn.Module):
    """A video model as a model of images: the picture, preceded by the same picture moved by two pixels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # train() would set it in each of the model's parts

    def forward(self, x: Tensor, **forward_kwargs: Any) -> dict[str, Any]:
        output = self.model([x.roll((2, 2), dims=(2, 3)), x], **forward_kwargs)
        merged: dict[str, Any] = {}
        for frame in output["likelihoods"]:
            merged.update(frame)
        return {"x_hat": output["x_hat"][-1], "likelihoods": merged}


def _image_adapter(adapter: ModelAdapter, image: Tensor, forward_kwargs: dict[str, Any], bundled: bool) -> ModelAdapter:
    """Return an adapter that knows what the model takes; of frames where the model takes no image."""
    try:
        adapter.prepare(image, forward_kwargs, name="images[0]")
    except (TypeError, ValueError) as error:
        frames = adapter.with_model(_LastFrame(adapter.module))
        try:
            frames.prepare(image, forward_kwargs)
        except (TypeError, ValueError, KeyError, AttributeError):
            if isinstance(error, ChannelsError) and bundled:
                text = f"images must be given, with {error.channels} channels: the bundled photograph has 3"
                raise ValueError(text) from error
            raise error from error.__cause__
        adapter = frames
    adapter.fit(image, forward_kwargs)
    return adapter


def _fitted(image: Tensor, multiple: tuple[int, int], needed: tuple[int, int]) -> Tensor:
    """Cut the middle of the image at the largest size that suits the model, mirrored up to what is needed.

    Nothing is padded with zeros, where a codec behaves unlike anywhere else.
    """
    for axis, (step, least) in enumerate(zip(multiple, needed, strict=True), start=2):
        have = image.shape[axis]
        want = max(have // step, -(-least // step), 1) * step
        index = torch.arange(want) + (have - want) // 2
        index = (index % (2 * have)).minimum(2 * have - 1 - index % (2 * have))
        image = image.index_select(axis, index.to(image.device))
    return image


def _checked_images(images: Any) -> list[Tensor]:
    if images is None:
        return []
    several = isinstance(images, Sequence) and not isinstance(images, str)
    if several and not images:
        raise TypeError(f"images must be a tensor [N, C, H, W] or a sequence of them, got {images!r}")
    images = images if several else [images]
    for index, image in enumerate(images):
        name = f"images[{index}]" if several else "images"
        check_layout(image, name)
        check_range(image, name)
    return [one for image in images for one in image.clone().split(1)]  # clones: inference tensors have no gradients


def _bundled(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the photograph that kernels are measured on, and those that guides are fitted to besides."""
    tensors = (*model.parameters(), *model.buffers())
    dtype = next((one.dtype for one in tensors if one.is_floating_point()), torch.float32)
    first, more = (load_image(one).to(device_of(model), dtype) for one in (demo_photograph(), more_photographs()))
    return [first], list(more.unfold(3, more.shape[2], more.shape[2]).unbind(3))


def _name(model: nn.Module, synthesis: Synthesis) -> str | None:
    """Name a synthesis transform that the model's class and weights say all about; None of another, or none."""
    if synthesis is None or isinstance(synthesis, str):
        return synthesis
    owner = getattr(synthesis, "__self__", None)
    named = {id(module): name for name, module in model.named_modules()}
    return f"{named[id(owner)]}.{getattr(synthesis, '__name__', '')}()" if id(owner) in named else None
