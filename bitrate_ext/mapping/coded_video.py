"""Maps of what a video model writes, frame by frame and branch by branch."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checks import check_whole_number
from ..choices import PADDING_SIDES, PADDINGS
from ..coding.coder import CodedLatent, Coder, noise
from ..coding.rans import CodingError
from ..coding.symbol_layout import INSTEAD
from ..models.adapter import ModelAdapter, check_eval_mode, check_images, device_of
from ..models.padding import Crop
from ..ops.projection import choose_projections
from .coded import in_dtype, lay_out_coded
from .frames import Frame, FrameResult, check_like, checked_frame, floating
from .guides import make_guides
from .layout import BitrateResult
from .mapper import AnyProjection
from .sequential import INTER, KEYFRAME, kind_of_frame

PROBE = 128  # pixels, each way, of the two frames that a model is probed with: what ssf2020 pads to


def coded_video(
    model: Any,
    frames: Sequence[Tensor],
    *,
    projection: AnyProjection = "bilinear",
    padding: str = PADDINGS[0],
    padding_side: str = PADDING_SIDES[0],
) -> list[BitrateResult]:
    """Map the bits that a video model's own ``compress`` writes, frame by frame.

    The first is coded as a key frame, each later one from the one
    before it as the decoder has it, without the clamping to [0, 1] that CompressAI's evaluation does in between.

    Args:
        model: CompressAI's ``ssf2020``, or a model with its ways: ``forward`` and ``compress`` take a list of frames,
            and ``compress`` returns the strings of each.
        frames: tensors ``[N, 3, H, W]`` of one size, in [0, 1]; N videos side by side.
        projection: as for ``bitrate_map``; a dict names all latents, as ``"keyframe.y"``, ``"motion.z"``.
        padding, padding_side: as for ``BitrateMapper``.

    Returns:
        For each frame its maps, its ledger and what the tables expect, see ``BitrateResult``. ``maps`` has the latents
        of each branch: ``keyframe.y`` and ``keyframe.z`` of the first frame, ``motion`` and ``residual`` of others.

    Raises:
        TypeError: ``frames`` is no list of tensors, or ``model`` no video model.
        ValueError: frames differ in shape or are no images in [0, 1]; the model is in train mode or has no tables;
            unknown ``padding`` or ``padding_side``.
        CodingError: the model's coder cannot be recorded.

    Example:
        >>> first, second = bitrate_ext.coded_video(video_model, [x, x])
        >>> sorted(first.maps), sorted(second.maps)
        (['keyframe.y', 'keyframe.z'], ['motion.y', 'motion.z', 'residual.y', 'residual.z'])
    """
    coder = Coder(model)
    check_eval_mode(model)
    if isinstance(frames, Tensor) or not isinstance(frames, Sequence) or not frames:
        raise TypeError(f"frames must be a list of tensors [N, C, H, W], at least one, got {type(frames).__name__}")
    for number, frame in enumerate(frames):
        check_images(model, frame, f"frames[{number}]")
        if frame.shape != frames[0].shape:
            raise ValueError(
                f"frames must have one shape, {list(frames[0].shape)} as the first, got {list(frame.shape)} for frame "
                f"{number}"
            )
    _, adapter = _learn(coder, frames[0], padding, padding_side)
    size, crop = adapter.canvas(*frames[0].shape[2:])
    with torch.no_grad():
        padded = [adapter.pad(frame)[0] for frame in frames]
        coded = coder.code(padded, adapter.grids(size), len(frames[0]), {})
        return [_lay_out(coder, one, projection, size, crop, x) for one, x in zip(coded, padded, strict=True)]


class CodedFrameMapper:
    """Map the bits that a video model's own coder writes, frame after frame: one is in memory at a time.

    A frame is coded from the one before as ``compress`` does it: with ``group=None`` results are those of
    ``coded_video``, and of a group of frames those of its frames alone. ``x_hat`` is None: nothing is decoded.

    Args:
        model: as for ``coded_video``, whose ``compress`` consists of ``encode_keyframe(x)`` and
            ``encode_inter(x, state)``: each returns the state that the next frame is coded from, and its strings.
        group: frames from one keyframe to the next; None: only the first frame is one.
        projection, padding, padding_side: as for ``coded_video``.

    Raises:
        TypeError: ``model`` has no such methods.
        ValueError: it is in train mode; a group of no frames.

    Example:
        >>> from bitrate_ext.mapping.coded_video import CodedFrameMapper
        >>> [(frame.kind, bool(frame.ledger.closes)) for frame in CodedFrameMapper(video_model)([x[0], x[0]])]
        [('keyframe', True), ('inter', True)]
    """

    def __init__(
        self,
        model: Any,
        *,
        group: int | None = None,
        projection: AnyProjection = "bilinear",
        padding: str = PADDINGS[0],
        padding_side: str = PADDING_SIDES[0],
    ) -> None:
        self._coder = Coder(model)
        check_eval_mode(model)
        for kind in _METHODS:
            if not callable(getattr(model, _METHODS[kind], None)):
                raise TypeError(
                    f"bits='coded' of video needs a model with a method {_METHODS[kind]}(), as CompressAI's ssf2020 "
                    f"has, got {type(model).__name__}; {INSTEAD}"
                )
        if group is not None:
            check_whole_number("group", group, 1)
        self.model, self.group = model, group
        self._projection, self._padding = projection, (padding, padding_side)
        self._adapter: ModelAdapter | None = None

    def __call__(self, frames: Iterable[Frame]) -> Generator[FrameResult, None, None]:
        """Map frames one after the other.

        Args:
            frames: uint8 ``[H, W, C]`` or floating ``[C, H, W]`` in [0, 1], all of one size; they may be made as they
                are asked for.

        Raises:
            TypeError, ValueError: a frame is of another kind or size than expected, named by its index; the model is no
                video model or has no tables.
            CodingError: its coder cannot be recorded, or what it writes of frame after frame is not what ``compress``
                writes.
        """
        device, first, state = device_of(self.model), None, None
        for index, given in enumerate(frames):
            frame = checked_frame(given, index).to(device)
            first = frame if first is None else first
            check_like(frame, first, index)
            kind = kind_of_frame(index, self.group)
            result, state = self._code(frame, f"frame {index}", kind, state)
            yield FrameResult(**vars(result), index=index, kind=kind, frame=frame)

    @torch.no_grad()
    def _code(self, frame: Tensor, name: str, kind: str, state: Any) -> tuple[BitrateResult, Any]:
        x = floating(frame, next((one.dtype for one in self.model.parameters()), torch.float32))[None]
        check_images(self.model, x, name)
        adapter = self._adapter = self._adapter or self._learned(x)
        size, crop = adapter.canvas(*x.shape[2:])
        padded = adapter.pad(x)[0]
        latents, state = self._step(kind, padded, state, adapter.grids(size))
        return _lay_out(self._coder, latents, self._projection, size, crop, padded), state

    def _step(self, kind: str, x: Tensor, state: Any, grids: Grids) -> tuple[dict[str, CodedLatent], Any]:
        return self._coder.code_frame(_METHODS[kind], [x] if kind == KEYFRAME else [x, state], grids)

    def _learned(self, x: Tensor) -> ModelAdapter:
        """Learn what codes what, and see that frame after frame the model writes what its ``compress`` does."""
        probes, adapter = _learn(self._coder, x, *self._padding)
        grids, state, steps = adapter.grids((PROBE, PROBE)), None, []
        for kind, probe in zip(_METHODS, probes, strict=True):
            latents, state = self._step(kind, probe, state, grids)
            steps.append(_bytes(latents))
        for kind, step, whole in zip(_METHODS, steps, self._coder.code(probes, grids, 1, {}), strict=True):
            if step != _bytes(whole):
                raise CodingError(
                    f"{_METHODS[kind]}() writes {step} bytes, and compress() {_bytes(whole)} of the same frame; "
                    f"{INSTEAD}"
                )
        return adapter


Grids = Mapping[str, tuple[int, int]]
_METHODS = {KEYFRAME: "encode_keyframe", INTER: "encode_inter"}


def _learn(coder: Coder, like: Tensor, padding: str, padding_side: str) -> tuple[list[Tensor], ModelAdapter]:
    """Learn from two frames of noise which entropy model codes what; return them, and the model with its strides."""
    probes = [noise((1, like.shape[1], PROBE, PROBE), like, seed) for seed in (0, 1)]
    strides = {name: (PROBE // h, PROBE // w) for name, (h, w) in coder.learn(probes, {}).items()}
    return probes, ModelAdapter(coder.model, strides, padding=padding, padding_side=padding_side)


def _lay_out(
    coder: Coder,
    latents: Mapping[str, CodedLatent],
    projection: AnyProjection,
    size: tuple[int, int],
    crop: Crop,
    padded: Tensor,
) -> BitrateResult:
    projections, told = choose_projections(projection, latents), list(coder.warnings)
    guides = make_guides(projections, None, padded, told)
    result = lay_out_coded(latents, projections, size, crop, padded, guides)
    return in_dtype(replace(result, warnings=tuple(told)), padded.dtype)


def _bytes(latents: Mapping[str, CodedLatent]) -> dict[str, int]:
    """Return the bytes of each latent's strings."""
    return {name: int(one.ledger.string_bytes[0]) for name, one in latents.items()}
