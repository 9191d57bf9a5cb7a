"""Maps of what a video model writes, frame by frame and branch by branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..choices import PADDING_SIDES, PADDINGS
from ..coding.coder import Coder, noise
from ..models.adapter import ModelAdapter, check_eval_mode, check_images
from ..ops.projection import choose_projections
from .coded import in_dtype, lay_out_coded
from .guides import make_guides
from .layout import BitrateResult
from .mapper import AnyProjection

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
    first = frames[0]
    probes = [noise((1, first.shape[1], PROBE, PROBE), first, seed) for seed in (0, 1)]
    grids = coder.learn(probes, {})
    strides = {name: (PROBE // h, PROBE // w) for name, (h, w) in grids.items()}
    adapter = ModelAdapter(model, strides, padding=padding, padding_side=padding_side)
    size, crop = adapter.canvas(first.shape[2], first.shape[3])
    with torch.no_grad():
        padded = [adapter.pad(frame)[0] for frame in frames]
        coded = coder.code(padded, adapter.grids(size), first.shape[0], {})
        warnings = tuple(coder.warnings)
        results = []
        for latents, frame in zip(coded, padded, strict=True):
            projections, told = choose_projections(projection, latents), list(warnings)
            guides = make_guides(projections, None, frame, told)
            result = lay_out_coded(latents, projections, size, crop, frame, guides)
            results.append(in_dtype(replace(result, warnings=tuple(told)), first.dtype))
    return results
