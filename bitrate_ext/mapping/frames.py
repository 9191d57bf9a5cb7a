"""Maps of many frames: buffers that are used again, a source that runs ahead, state from frame to frame.

Image codecs see each frame by itself, some at a time if asked. Video codecs that code a frame from the one before, as
CompressAI's ``ScaleSpaceFlow`` (ssf2020; Agustsson et al. 2020), are run in a closed loop as a decoder runs: on the
state that they hand on, or on the reconstruction cut to [0, 1], which ``ScaleSpaceFlow.forward`` leaves out. What runs
is a copy of the model, and what is tried, before and after, is tried on another.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checks import as_given, check_range, check_whole_number, described, remedy
from ..choices import PADDING_SIDES, PADDINGS
from ..memory import is_out_of_memory
from ..models.accelerate import accelerate, compile_parts, skip_synthesis
from ..models.adapter import ModelAdapter, check_eval_mode, crop_canvas, crop_reconstruction, device_of
from ..models.copies import copy_model
from ..models.fuse import why_unseen
from ..models.padding import Crop, Padding
from ..ops.units import LIKELIHOOD
from ..threads import Stopwatch, prefetch
from .guides import are_guided, make_guides
from .layout import BitrateResult, lay_out, map_dtype, sum_cells, true_values, value_warnings
from .mapper import AnyProjection, BitrateMapper
from .sequential import HANDED_OVER, INTER, KEYFRAME, Memory, SequentialPart, is_sequential, kind_of_frame

Frame = NDArray[Any] | Tensor
Upload = Callable[[Tensor], Tensor]
PROBE = 256  # side of the part of the first frame that the model is tried on, pixels
IMAGE = "image"  # kind of a frame that an image codec sees
ROUNDING = 1e-3  # by which bits of the same frame may differ where convolutions need not round alike, relative


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameResult(BitrateResult):
    """Where a model spends its bits on one frame, ``N = 1``. ``maps`` is empty unless it was asked for.

    Example:
        >>> for frame in bitrate_ext.FrameMapper(model)([x[0], x[0]]):
        ...     print(frame.index, frame.kind, tuple(frame.map.shape))
        0 image (1, 1, 64, 64)
        1 image (1, 1, 64, 64)
    """

    index: int  # of the frame, from 0
    kind: str  # "image"; of a video codec "keyframe" or "inter"
    frame: Tensor  # uint8 [H, W, C] or floating [C, H, W] as it was given, on the model's device


@dataclass(eq=False)
class _Loop(Memory):
    """What one run over frames carries from one to the next, of a video model."""

    coded: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)  # kind, padded, bits: of the first two


class FrameMapper:
    """Maps the bits of frame after frame, in flat memory.

    Iterate over ``mapper(frames)``; each result is ready while the next frames are read, in a thread. Its ``map`` lies
    in one of ``buffers`` buffers that take turns: it is overwritten when ``buffers - 1`` more batches have been mapped.
    Keep it longer with ``clone()``.

    Args:
        model: an image model as for ``BitrateMapper``; or a video model with ``forward_keyframe(x)`` and
            ``forward_inter(x, state)``, each returning a reconstruction, likelihoods, and the state that the next frame
            is coded from: any nest of tensors, handed on as it is. One that returns no state is given the
            reconstruction cut to [0, 1]. One that keeps state in itself is served as long as ``forward_keyframe`` sets
            it anew. An ``nn.Module`` in eval mode; it is copied, not changed.
        projection: as for ``BitrateMapper``; of video models a name, ``"receptive-field"`` or ``"guided"``.
        batch: frames that an image model sees at once. 1 for video models.
        group: frames from one keyframe of a video model to the next; None: only the first frame is one.
        reconstruction: give ``x_hat``. Without it an image model's synthesis transform is not run, which takes half of
            the time, after a first frame has shown that its likelihoods do not depend on it. Guides need it, too.
        each_latent: give ``maps``, one for each latent.
        channels_last, dtype: how the network runs, see ``bitrate_ext.models.accelerate``. ``dtype`` bfloat16 or
            float16 is for the network alone: likelihoods are float32 in any case.
        compile: the parts without an entropy model by ``torch.compile``, which takes up to minutes at the first frame.
        forward_kwargs: for an image model's ``forward``, such as the level ``s`` of CompressAI's variable-rate models.
        unit, padding, padding_side, multiple: as for ``BitrateMapper``; ``model`` may be a ``ModelAdapter`` with them.
        buffers: at least 1.
        prefetch: frames read ahead; 0: no thread.
        watch: adds up where the time goes: "source" (waiting for frames), "network", "map".

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> mapper = bitrate_ext.FrameMapper(model)
        >>> frame = (255 * x[0]).byte().permute(1, 2, 0)  # uint8 [H, W, C], as decoders give it
        >>> [float(result.bpp) > 0 for result in mapper([frame, frame])]
        [True, True]
    """

    def __init__(
        self,
        model: nn.Module | ModelAdapter,
        *,
        projection: AnyProjection = "bilinear",
        batch: int = 1,
        group: int | None = None,
        reconstruction: bool = False,
        each_latent: bool = False,
        channels_last: bool = True,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        forward_kwargs: Mapping[str, Any] | None = None,
        unit: str = LIKELIHOOD,
        padding: str = PADDINGS[0],
        padding_side: str = PADDING_SIDES[0],
        multiple: int | Sequence[int] | None = None,
        buffers: int = 4,
        prefetch: int = 2,
        watch: Stopwatch | None = None,
    ) -> None:
        if not isinstance(model, (nn.Module, ModelAdapter)):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        adapter = ModelAdapter.of(model, unit=unit, padding=padding, padding_side=padding_side, multiple=multiple)
        model = adapter.module
        check_eval_mode(model)
        for name, value, least in (("batch", batch, 1), ("buffers", buffers, 1), ("prefetch", prefetch, 0)):
            check_whole_number(name, value, least)
        if group is not None:
            check_whole_number("group", group, 1)
        self.sequential = is_sequential(model)
        if self.sequential and batch != 1:
            raise ValueError(f"batch must be 1 for a video model, whose frames depend on one another, got {batch}")
        if not self.sequential and group is not None:
            raise ValueError(f"group is for video models, and {type(model).__name__} codes each frame by itself")
        if self.sequential and forward_kwargs:
            raise ValueError("forward_kwargs are for image models; a video model is not run by its forward")
        self._forward_kwargs = dict(forward_kwargs or {})
        self.batch, self.group, self.dtype = batch, group, dtype
        self.reconstruction, self.each_latent = reconstruction, each_latent
        self.prefetch = prefetch
        self.watch = watch or Stopwatch()
        self.device = device_of(model)
        tensors = (*model.parameters(), *model.buffers())
        self._dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
        self._channels_last = channels_last
        self._compile = compile
        self._warnings: tuple[str, ...] = ()
        self._network = self._accelerated(model)
        tried = self._network if self._network is model else copy_model(self._network, parameters=False)
        kinds = (KEYFRAME, INTER) if self.sequential else (IMAGE,)
        parts = {kind: adapter.with_model(_part(tried, kind)) for kind in kinds}
        self._mappers = {kind: BitrateMapper(part, projection=projection) for kind, part in parts.items()}
        self._adapters: dict[str, ModelAdapter] = {}  # of what runs: maybe without what bits do not depend on
        self._replayed = False
        # A tensor: by a number, CUDA multiplies with its inverse, which rounds otherwise.
        self._white = torch.tensor(255, dtype=self._dtype, device=self.device)
        self._ring: list[Tensor] = [torch.empty(0)] * buffers
        self._turn = 0
        self._padded = torch.empty(0)

    def __call__(self, frames: Iterable[Frame]) -> Generator[FrameResult, None, None]:
        """Map frames one after the other.

        Args:
            frames: uint8 ``[H, W, C]`` as decoders give them, arrays or tensors; or floating tensors ``[C, H, W]`` in
                [0, 1]. All of one size. They may be made as they are asked for, by a thread.

        Raises:
            TypeError, ValueError: a frame is of another kind or size than expected; named by its index. Results of the
                frames before it have been given.
            ValueError: a video model gives other bits when a copy of it codes the first two frames again.
        """
        upload = _uploader(self.device) if self.device.type == "cuda" else None
        source = prefetch(_on_device(frames, self.device, upload), self.prefetch)
        try:
            index, first, loop = 0, None, _Loop()
            while True:
                with self.watch("source"):
                    chunk = list(islice(source, self.batch))
                if not chunk:
                    return
                first = chunk[0] if first is None else first
                for offset, frame in enumerate(chunk):
                    check_like(frame, first, index + offset)
                yield from self._mapped(chunk, index, loop)
                index += len(chunk)
        finally:
            source.close()

    @torch.no_grad()
    def _mapped(self, chunk: list[Tensor], index: int, loop: _Loop) -> list[FrameResult]:
        kind = kind_of_frame(index, self.group) if self.sequential else IMAGE
        with as_given(chunk[0], f"frame {index}", batch=False):
            adapter = self._resolved(kind, chunk[0])
        projections = self._mappers[kind].projections
        height, width = _picture_size(chunk[0])
        size, crop = adapter.canvas(height, width)
        with self.watch("network"):
            padded, warnings = self._filled(chunk, size, crop, adapter.padding), list(self._warnings)
            arguments = adapter.window_arguments(self._forward_kwargs, (0, 0), size, crop)
            output, likelihoods = self._run(adapter, padded, arguments, loop, warnings)
            values, sources = true_values(likelihoods)
            unseen = why_unseen(adapter.model, likelihoods, sources) if adapter.unit == LIKELIHOOD else {}
        with self.watch("map"):
            dtype = map_dtype(likelihoods.values())
            whole, cells = self._buffer((len(chunk), 1, height, width), dtype), sum_cells(values, adapter.unit)
            warnings += value_warnings(values, cells, adapter.unit)
            guides = make_guides(projections, output.get("x_hat"), padded, warnings)
            result = lay_out(cells, projections, size, crop, dtype, guides=guides, out=whole, each=self.each_latent)
        if self.sequential and not self._replayed:
            with self.watch("network"):
                self._check_replay(loop, kind, padded, _totals(cells))
        x_hat = crop_reconstruction(output.get("x_hat"), size, crop) if self.reconstruction else None
        if x_hat is not None and x_hat.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr():
            x_hat = x_hat.clone()  # of a model that gives back what it was given, which the next frame overwrites
        return [
            FrameResult(
                map=whole[k : k + 1],
                maps={name: one[k : k + 1] for name, one in result.maps.items()},
                latent_bits={name: one[k : k + 1] for name, one in result.latent_bits.items()},
                total_bits=result.total_bits[k : k + 1],
                padding_bits=result.padding_bits[k : k + 1],
                bpp=result.bpp[k : k + 1],
                x_hat=None if x_hat is None else x_hat[k : k + 1],
                warnings=tuple(warnings),
                sources=tuple(sources),
                unseen=unseen,
                index=index + k,
                rim=result.rim,
                grids={name: grid.of_images(k, k + 1) for name, grid in result.grids.items()},
                canvas=size,
                crop=crop,
                kind=kind,
                frame=frame,
            )
            for k, frame in enumerate(chunk)
        ]

    def placed(self, kind: str) -> BitrateMapper:
        """Return the mapper of frames of a kind: its ``adapter`` and ``projections`` say where their cells lie."""
        return self._mappers[kind]

    def _resolved(self, kind: str, frame: Tensor) -> ModelAdapter:
        """Who runs frames of a kind; at the first, what the model needs, and what may be left out of it."""
        if kind in self._adapters:
            return self._adapters[kind]
        mapper = self._mappers[kind]
        with torch.inference_mode(False):
            part = floating(frame, self._dtype)[None, :, :PROBE, :PROBE].clone()
            whole = _picture_size(frame)
            mapper.resolve(part, self._forward_kwargs, whole)
            self._fit(kind, part, whole)
            running = _part(self._network, kind)
            # Of video its bare method: an adapter would put back memory that a module has given its buffers.
            adapter = mapper.adapter.with_model(running.forward if self.sequential else running)
            if kind == IMAGE and not (self.reconstruction or are_guided(mapper.projections)):
                adapter = skip_synthesis(adapter, part, self._forward_kwargs)
            if self._compile and kind != INTER:  # which has the keyframes' network
                compile_parts(adapter.module if kind == IMAGE else self._network)
        self._adapters[kind] = adapter
        return adapter

    def _fit(self, kind: str, part: Tensor, size: tuple[int, int]) -> None:
        """Find padding with which the model takes such frames; of video at the first keyframe, for both kinds."""
        if kind == INTER:
            return
        adapter = widest = self._mappers[kind].adapter
        if not self.sequential:
            adapter.fit(part, self._forward_kwargs, size)
            return
        if self.group != 1:
            kind = INTER  # which codes a keyframe as well where a model of images is probed
            self._mappers[kind].resolve(part, self._forward_kwargs, size)
            widest = self._mappers[kind].adapter
            widest.pad_for(adapter)
        # What a model keeps, the first frame may want to find as it was: on a copy.
        tried = widest.with_model(_part(copy_model(self._network, parameters=False), kind))
        tried.fit(part, self._forward_kwargs, size)
        for one in (adapter, widest):
            one.adopt_sizes(tried)

    def _accelerated(self, model: nn.Module) -> nn.Module:
        """Return a copy that runs faster; the model itself where it cannot be copied and nothing else depends on it."""
        try:
            return accelerate(model, channels_last=self._channels_last, dtype=self.dtype)
        except ValueError as error:
            if self.sequential or self.dtype is not None or self._compile:
                raise
            self._warnings = (f"the network runs as it is, slower than it could: {error}",)
            return model

    def _run(
        self,
        adapter: ModelAdapter,
        padded: Tensor,
        forward_kwargs: dict[str, Any],
        memory: Memory,
        warnings: list[str],
    ) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
        if self.sequential:
            padded, forward_kwargs = padded.clone(), {"memory": memory}  # which may have the frame in it
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            output, likelihoods = adapter.run(padded, forward_kwargs, warnings, fused=True)
        warnings += memory.warnings
        return output, likelihoods

    def _check_replay(self, loop: _Loop, kind: str, padded: Tensor, bits: Tensor) -> None:
        """Check once that the first two frames cost the same when the copy that was tried, too, codes them.

        Raises:
            ValueError: they do not; what else that copy has seen makes a difference, or chance does.
        """
        loop.coded.append((kind, padded.clone(), bits))
        if len(loop.coded) < 2:
            return
        tolerance = 0.0 if self.device.type == "cpu" and not self._compile else ROUNDING
        memory = Memory()
        for index, (coded_as, frame, found) in enumerate(loop.coded):
            tried = self._mappers[coded_as].adapter
            try:
                _, likelihoods = self._run(tried.with_model(tried.module.forward), frame, {}, memory, [])
                again = _totals(sum_cells(true_values(likelihoods)[0], tried.unit))
            except Exception as error:  # of whatever the model has kept
                if is_out_of_memory(error):
                    raise
                raise ValueError(f"{_KEEPS_STATE}frame {index} fails then ({error}); {HANDED_OVER}") from error
            if not torch.isclose(found, again, rtol=tolerance, atol=0, equal_nan=True).all():
                costs = f"frame {index} costs {found.sum():,.2f} bits, then {again.sum():,.2f}"
                raise ValueError(f"{_KEEPS_STATE}{costs}; {HANDED_OVER}")
        self._replayed = True
        loop.coded.clear()

    def _filled(self, chunk: list[Tensor], size: tuple[int, int], crop: Crop, padding: Padding) -> Tensor:
        """Write frames in [0, 1] onto the padded canvas ``[N, C, H, W]``, a buffer that is used again."""
        channels = floating(chunk[0], self._dtype, convert=False).shape[0]
        shape = (len(chunk), channels, *size)
        if self._padded.shape != shape:
            layout = torch.channels_last if self._channels_last else torch.contiguous_format
            self._padded = torch.zeros(shape, dtype=self._dtype, device=self.device).to(memory_format=layout)
        for target, frame in zip(crop_canvas(self._padded, crop), chunk, strict=True):
            source = floating(frame, self._dtype, convert=False)
            if frame.dtype == torch.uint8:
                torch.div(source, self._white, out=target)
            else:
                target.copy_(source)
        if padding.mode != "zeros":
            self._padded.copy_(padding.pad(crop_canvas(self._padded, crop), size, crop))
        return self._padded

    def _buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self._turn = (self._turn + 1) % len(self._ring)
        held = self._ring[self._turn]
        if held.shape[1:] != shape[1:] or len(held) < shape[0] or held.dtype != dtype:
            with torch.inference_mode(False):
                held = self._ring[self._turn] = torch.empty(shape, dtype=dtype, device=self.device)
        return held[: shape[0]]


_KEEPS_STATE = (
    "model must give the same bits when its first two frames are coded again, and keeps state that forward_keyframe "
    "does not set anew, or computes at random: "
)


def _part(network: nn.Module, kind: str) -> nn.Module:
    return network if kind == IMAGE else SequentialPart(network, kind)


def _totals(cells: Mapping[str, Tensor]) -> Tensor:
    """Return the bits of each latent, float64 ``[latents]``."""
    return torch.stack([one.double().sum() for one in cells.values()])


def _on_device(frames: Iterable[Frame], device: torch.device, upload: Upload | None) -> Iterator[Tensor]:
    for index, frame in enumerate(frames):
        tensor = checked_frame(frame, index)
        yield upload(tensor) if upload is not None and tensor.device.type == "cpu" else tensor.to(device)


def _uploader(device: torch.device) -> Upload:
    """Return an upload through pinned memory, on a stream of its own, beside what the caller's stream computes.

    The caching allocators keep the pinned pages and the device's memory until their streams are done with them.
    """
    consumer, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]

    def upload(frame: Tensor) -> Tensor:
        with torch.cuda.stream(stream):
            there = frame.pin_memory().to(device, non_blocking=True)
            copied = stream.record_event()
        there.record_stream(consumer)
        consumer.wait_event(copied)
        return there

    return upload


def checked_frame(frame: Any, index: int) -> Tensor:
    """Return a frame as a tensor, uint8 ``[H, W, C]`` or floating ``[C, H, W]`` in [0, 1].

    Raises:
        TypeError, ValueError: it is neither.
    """
    name = f"frame {index}"
    if isinstance(frame, np.ndarray):  # read-only, or turned from BGR to RGB: what no tensor shares
        frame = torch.from_numpy(frame if frame.flags.writeable and min(frame.strides) >= 0 else frame.copy())
    known = isinstance(frame, Tensor) and (frame.dtype == torch.uint8 or frame.is_floating_point())
    if not known or frame.dim() != 3 or 0 in frame.shape:
        raise (ValueError if known else TypeError)(
            f"{name} must be uint8 [H, W, C] or a floating-point tensor [C, H, W], with at least one pixel, got "
            f"{described(frame)}{remedy(frame, name, batch=False)}"
        )
    if frame.is_floating_point():
        check_range(frame, name, batch=False)
    return cast(Tensor, frame)


def check_like(frame: Tensor, first: Tensor, index: int) -> None:
    """Raise ``ValueError`` of a frame that is not of the first one's size and type."""
    if frame.shape != first.shape or frame.dtype != first.dtype:
        raise ValueError(
            f"frame {index} must be like the first, {first.dtype} {list(first.shape)}, "
            f"got {frame.dtype} {list(frame.shape)}"
        )


def floating(frame: Tensor, dtype: torch.dtype, convert: bool = True) -> Tensor:
    """Return a frame as ``[C, H, W]``, in [0, 1] if converted."""
    if frame.dtype != torch.uint8:
        return frame.to(dtype) if convert else frame
    turned = frame.permute(2, 0, 1)
    return turned.to(dtype) / 255 if convert else turned


def _picture_size(frame: Tensor) -> tuple[int, int]:
    shape = frame.shape
    return (shape[0], shape[1]) if frame.dtype == torch.uint8 else (shape[1], shape[2])
